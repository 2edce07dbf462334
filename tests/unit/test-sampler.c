/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Sampling by presentation time, and the change gate: vectors of stamps as real sources make them. */
#include "base/clock.h"
#include "pipelines/gate.h"
#include "pipelines/sampler.h"
#include "pipelines/source.h"
#include "pipelines/world.h"
#include "tests/harness.h"

#include <stdbool.h>
#include <string.h>

#define SEC       VL_NSEC_PER_SEC
#define CAMERA    (5 * SEC)
#define RECORDING (600 * SEC)

/* Pushes n stamps that are step apart and checks that what is taken rises, an interval at a time but for one
 * step; returns how many were taken. */
static unsigned push_steady(struct vl_sampler *s, int64_t first, int64_t step, unsigned n)
{
    int64_t last = -1, media;
    unsigned taken = 0;
    uint32_t flags;
    for (unsigned i = 0; i < n; i++) {
        if (vl_sampler_offer(s, first + (int64_t)i * step, &media, &flags) != 0)
            continue;
        assert_true(media > last);
        if (taken && s->interval_ns >= step)
            assert_in_range(media - last, s->interval_ns - step, s->interval_ns + step);
        last = media;
        taken++;
    }
    return taken;
}

static void test_rates(void **state)
{
    (void)state;
    static const int fps[] = {1, 5, 24, 25, 30, 50, 60, 120};
    static const int64_t intervals[] = {SEC / 2, SEC, 2 * SEC, 3 * SEC};
    for (size_t f = 0; f < sizeof(fps) / sizeof(fps[0]); f++)
        for (size_t i = 0; i < sizeof(intervals) / sizeof(intervals[0]); i++) {
            struct vl_sampler s;
            vl_sampler_init(&s, intervals[i], CAMERA, 0);
            unsigned taken = push_steady(&s, 7 * SEC, SEC / fps[f], (unsigned)fps[f] * 60);
            unsigned most = (unsigned)(60 * SEC / intervals[i]);
            unsigned wanted = most < (unsigned)fps[f] * 60 ? most : (unsigned)fps[f] * 60;
            assert_in_range(taken, wanted - 1, wanted);
        }
    struct vl_sampler every;
    vl_sampler_init(&every, 0, CAMERA, 0);
    assert_int_equal(push_steady(&every, 0, SEC / 25, 100), 100);
}

static void test_variable_rate_does_not_drift(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("sampler");
    struct vl_sampler s;
    vl_sampler_init(&s, SEC, CAMERA, 0);
    int64_t pts = 0, media = 0;
    uint32_t flags;
    unsigned taken = 0;
    for (unsigned i = 0; i < 100000; i++) {
        pts += (int64_t)(1 + test_randn(&rng, 80)) * VL_NSEC_PER_MSEC;
        taken += vl_sampler_offer(&s, pts, &media, &flags) == 0;
    }
    assert_in_range(taken, (uint64_t)(pts / SEC) * 99 / 100, (uint64_t)(pts / SEC) + 2);
}

/* A camera of one picture a second that is never quite on time, asked for one a second: all of them. */
static void test_slow_and_jittery(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("jitter");
    struct vl_sampler s;
    vl_sampler_init(&s, SEC, CAMERA, 0);
    int64_t media;
    uint32_t flags;
    unsigned taken = 0;
    for (int i = 0; i < 1000; i++)
        taken +=
            vl_sampler_offer(&s, i * SEC + (int64_t)(test_randf(&rng) * 100e6f) + SEC, &media, &flags) == 0;
    assert_int_equal(taken, 1000);
}

static void test_repeats_and_backward(void **state)
{
    (void)state;
    struct vl_sampler s;
    int64_t media;
    uint32_t flags;
    vl_sampler_init(&s, 0, CAMERA, 0);
    assert_int_equal(vl_sampler_offer(&s, 10 * SEC, &media, &flags), 0);
    assert_int_equal(vl_sampler_offer(&s, 10 * SEC, &media, &flags), VL_SAMPLE_DUPLICATE);
    assert_int_equal(vl_sampler_offer(&s, 9 * SEC, &media, &flags), VL_SAMPLE_DUPLICATE);
    assert_int_equal(vl_sampler_offer(&s, 11 * SEC, &media, &flags), 0);
    assert_int_equal(media, SEC);
    assert_int_equal(s.n_duplicate, 2);
    for (int i = 0; i < 1000; i++) /* frozen */
        assert_int_equal(vl_sampler_offer(&s, 11 * SEC, &media, &flags), VL_SAMPLE_DUPLICATE);
}

static void test_single_spikes_and_a_lasting_step(void **state)
{
    (void)state;
    static const int64_t spikes[] = {-9800 * SEC, 37600 * SEC, 3600 * SEC, -3600 * SEC, INT64_MAX / 2};
    for (size_t k = 0; k < sizeof(spikes) / sizeof(spikes[0]); k++) {
        struct vl_sampler s;
        int64_t media = 0;
        uint32_t flags = 0;
        vl_sampler_init(&s, 0, CAMERA, 0);
        const int64_t base = 20000 * SEC;
        for (int i = 0; i < 50; i++) { /* single ones are put where they belong */
            int64_t pts = base + i * SEC / 25;
            assert_int_equal(vl_sampler_offer(&s, i % 10 == 5 ? pts + spikes[k] : pts, &media, &flags), 0);
            assert_int_equal(flags, 0);
            assert_int_equal(media, i * SEC / 25);
        }
        assert_int_equal(s.n_restamped, 5);
        /* From here on every stamp is off: the third is the truth, and says that there is a gap. */
        int n_gaps = 0;
        int64_t before = media;
        for (int i = 50; i < 100; i++) {
            assert_int_equal(vl_sampler_offer(&s, base + spikes[k] + i * SEC / 25, &media, &flags), 0);
            n_gaps += flags == VL_FRAME_GAP;
            assert_int_equal(flags == VL_FRAME_GAP, i == 52);
            assert_int_equal(media - before, SEC / 25);
            before = media;
        }
        assert_int_equal(n_gaps, 1);
        assert_int_equal(s.n_restamped, 8);
    }
}

static void test_extremes(void **state)
{
    (void)state;
    struct vl_sampler s;
    int64_t media = 0;
    uint32_t flags;
    vl_sampler_init(&s, SEC, RECORDING, 0);
    assert_int_equal(push_steady(&s, INT64_MAX - 100 * SEC, SEC / 25, 1000), 40);
    vl_sampler_init(&s, SEC, RECORDING, 0);
    assert_int_equal(push_steady(&s, INT64_MIN + 1, SEC / 25, 1000), 40);
    vl_sampler_init(&s, SEC, RECORDING, 0);
    for (int i = 0; i < 50; i++) /* without stamps: 25 a second until told otherwise */
        (void)vl_sampler_offer(&s, VL_PTS_NONE, &media, &flags);
    assert_int_equal(media, SEC);
    vl_sampler_init(&s, SEC, RECORDING, 0); /* a slide show: ten seconds a picture */
    assert_int_equal(push_steady(&s, 0, 10 * SEC, 6), 6);
    static const int64_t mad[] = {0, INT64_MAX, INT64_MIN, 1, INT64_MAX - 1, INT64_MIN + 2, -1, 5 * SEC};
    vl_sampler_init(&s, 0, RECORDING, 0);
    int64_t last = -1;
    for (int i = 0; i < 800; i++)
        if (vl_sampler_offer(&s, mad[i % 8], &media, &flags) == 0) {
            assert_true(media > last);
            last = media;
        }
}

static void test_start_and_holes(void **state)
{
    (void)state;
    struct vl_sampler s;
    int64_t media = 0;
    uint32_t flags = 0;
    vl_sampler_init(&s, SEC, RECORDING, 100 * SEC); /* a stream that goes on */
    assert_int_equal(vl_sampler_offer(&s, 100 * SEC, &media, &flags), 0);
    assert_int_equal(media, 100 * SEC);
    assert_int_equal(flags, VL_FRAME_GAP);
    assert_int_equal(vl_sampler_offer(&s, 101 * SEC, &media, &flags), 0);
    assert_int_equal(flags, 0);
    vl_sampler_init(&s, SEC, RECORDING, 3 * SEC);
    assert_int_equal(vl_sampler_offer(&s, 4 * SEC, &media, &flags), 0);
    assert_int_equal(media, 4 * SEC);
    vl_sampler_init(&s, SEC, RECORDING, 3 * SEC); /* a source that starts its stamps again */
    assert_int_equal(vl_sampler_offer(&s, 0, &media, &flags), 0);
    assert_int_equal(media, 3 * SEC);
    vl_sampler_init(&s, SEC, RECORDING, 0); /* a recording that begins a little late keeps its own times */
    assert_int_equal(vl_sampler_offer(&s, SEC / 2, &media, &flags), 0);
    assert_int_equal(media, SEC / 2);
    /* After a hole the grid begins anew: not two frames in quick succession. */
    vl_sampler_init(&s, SEC, RECORDING, 0);
    assert_int_equal(push_steady(&s, 0, SEC / 25, 50), 2);
    assert_int_equal(vl_sampler_offer(&s, 300 * SEC + SEC * 9 / 10, &media, &flags), 0);
    assert_int_equal(media, 300 * SEC + SEC * 9 / 10);
    assert_int_equal(push_steady(&s, 300 * SEC + SEC * 94 / 100, SEC / 25, 25), 1);
    vl_sampler_set_interval(&s, 2 * SEC);
    assert_int_equal(push_steady(&s, 310 * SEC, SEC / 25, 250), 5);
}

static uint8_t pixels[360][640];

static struct vl_frame grey(int64_t pts)
{
    struct vl_frame f = {.plane = {&pixels[0][0]},
                         .stride = {640},
                         .width = 640,
                         .height = 360,
                         .format = VL_PIXFMT_GRAY8,
                         .pts_ns = pts};
    return f;
}

static void paint(struct test_rng *rng, int noise)
{
    for (int y = 0; y < 360; y++)
        for (int x = 0; x < 640; x++)
            pixels[y][x] = (uint8_t)(100 + (int)(test_randf(rng) * (float)noise));
}

static void test_gate(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("gate");
    static struct vl_change_gate g;
    int64_t t = 0;
    vl_change_gate_init(&g);
    paint(&rng, 12);
    struct vl_frame f = grey(t);
    assert_true(vl_change_gate_pass(&g, &f, t));
    unsigned passed = 0;
    for (int i = 0; i < 16; i++) { /* noise alone: only the refresh each 8 s */
        paint(&rng, 12);
        f = grey(t += SEC);
        passed += vl_change_gate_pass(&g, &f, t);
    }
    assert_int_equal(passed, 2);
    paint(&rng, 12);
    for (int y = 40; y < 64; y++) /* a small object */
        memset(&pixels[y][300], 220, 24);
    f = grey(t += SEC);
    assert_true(vl_change_gate_pass(&g, &f, t));
    f = grey(t += SEC);
    assert_false(vl_change_gate_pass(&g, &f, t));
    vl_change_gate_init(&g);
    assert_true(vl_change_gate_pass(&g, &f, t));
    /* Slow drift: three levels a second are no change from one picture to the next, and is seen all the same.
     */
    passed = 0;
    for (int i = 0; i < 6; i++) {
        memset(pixels, 100 + 3 * i, sizeof(pixels));
        f = grey(t += SEC);
        passed += vl_change_gate_pass(&g, &f, t);
    }
    assert_in_range(passed, 2, 5);
    static uint8_t dot[3] = {1, 2, 3}; /* one pixel, RGB */
    struct vl_frame tiny = {
        .plane = {dot}, .stride = {3}, .width = 1, .height = 1, .format = VL_PIXFMT_RGB24};
    vl_change_gate_init(&g);
    assert_true(vl_change_gate_pass(&g, &tiny, t));
}

/* The drawn world with noise and artefacts: every event passes, a still second does not, but for the refresh.
 */
static void test_gate_in_the_drawn_world(void **state)
{
    (void)state;
    enum { W = 320, H = 180 };
    static uint8_t rgb[H][W][3];
    static struct vl_change_gate g;
    unsigned n_events = 0, n_still = 0, n_still_passed = 0;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct vl_world_options o = vl_world_default_options(seed);
        struct vl_world *world = NULL;
        assert_int_equal(vl_world_open(&o, &world), 0);
        vl_change_gate_init(&g);
        for (int64_t s = 0; s < 24; s++) {
            struct vl_world_scene scene;
            vl_world_scene_at(world, 1.0, &scene);
            assert_int_equal(vl_world_draw(&scene, W, H, sizeof(rgb[0]), &rgb[0][0][0], NULL), 0);
            struct vl_frame f = {.plane = {&rgb[0][0][0]},
                                 .stride = {sizeof(rgb[0])},
                                 .width = W,
                                 .height = H,
                                 .format = VL_PIXFMT_RGB24};
            const struct vl_world_truth *t = vl_world_truth(world);
            bool still = t->event.kind == VL_WORLD_QUIET;
            for (int i = 0; i < t->n_objects; i++)
                still &= t->objects[i].direction == VL_WORLD_STILL;
            bool pass = vl_change_gate_pass(&g, &f, s * SEC);
            if (!still && !pass)
                fail_msg("seed %d, second %d, event %d was gated: block %.1f, mean %.1f", (int)seed, (int)s,
                         t->event.kind, (double)g.block, (double)g.mean);
            n_events += !still;
            n_still += still;
            n_still_passed += still && pass;
            vl_world_step(world);
        }
        world = vl_world_close(world);
    }
    (void)printf("gate: %u events passed, %u of %u still seconds too\n", n_events, n_still_passed, n_still);
    assert_true(n_events > 20 && n_still > 20);
    assert_true(n_still_passed * 4 <= n_still);
}

/* Something small passes wherever it lies, also where four blocks meet. */
static void test_gate_sees_small_things_anywhere(void **state)
{
    (void)state;
    enum { SIDE = 128, SMALL = 8 };
    static uint8_t y[SIDE][SIDE];
    static struct vl_change_gate g;
    struct vl_frame f = {
        .plane = {&y[0][0]}, .stride = {SIDE}, .width = SIDE, .height = SIDE, .format = VL_PIXFMT_GRAY8};
    for (int at = 0; at + SMALL <= SIDE; at += 3) {
        vl_change_gate_init(&g);
        memset(y, 100, sizeof(y));
        assert_true(vl_change_gate_pass(&g, &f, 0));
        for (int row = at; row < at + SMALL; row++)
            memset(&y[row][at], 140, SMALL);
        if (!vl_change_gate_pass(&g, &f, SEC))
            fail_msg("8 pixels at %d are not seen: block %.1f", at, (double)g.block);
    }
}

/* Another colour of the same luma is a change. */
static void test_gate_sees_colour(void **state)
{
    (void)state;
    static uint8_t y[64][64], uv[32][64];
    static struct vl_change_gate g;
    vl_change_gate_init(&g);
    memset(y, 100, sizeof(y));
    memset(uv, 128, sizeof(uv));
    struct vl_frame f = {.plane = {&y[0][0], &uv[0][0]},
                         .stride = {64, 64},
                         .width = 64,
                         .height = 64,
                         .format = VL_PIXFMT_NV12};
    assert_true(vl_change_gate_pass(&g, &f, 0));
    assert_false(vl_change_gate_pass(&g, &f, SEC));
    for (int row = 8; row < 12; row++)
        memset(&uv[row][16], 200, 8);
    assert_true(vl_change_gate_pass(&g, &f, 2 * SEC));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_variable_rate_does_not_drift),
        cmocka_unit_test(test_repeats_and_backward),
        cmocka_unit_test(test_single_spikes_and_a_lasting_step),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_slow_and_jittery),
        cmocka_unit_test(test_start_and_holes),
        cmocka_unit_test(test_gate),
        cmocka_unit_test(test_gate_in_the_drawn_world),
        cmocka_unit_test(test_gate_sees_small_things_anywhere),
        cmocka_unit_test(test_gate_sees_colour),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
