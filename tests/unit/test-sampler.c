/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Sampling by presentation time, and the change gate: vectors of stamps as real sources make them. */
#include "base/clock.h"
#include "pipelines/gate.h"
#include "pipelines/sampler.h"
#include "tests/harness.h"

#include <string.h>

#define SEC VL_NSEC_PER_SEC

/* Pushes n stamps that are step apart and checks that what is taken rises strictly; returns how many were
 * taken. */
static unsigned push_steady(struct vl_pts_sampler *s, int64_t first, int64_t step, unsigned n)
{
    int64_t last = -1, media;
    unsigned taken = 0;
    bool gap;
    for (unsigned i = 0; i < n; i++) {
        if (vl_pts_sampler_push(s, first + (int64_t)i * step, &media, &gap) != VL_SAMPLE_TAKE)
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
            struct vl_pts_sampler s;
            vl_pts_sampler_init(&s, intervals[i], true, 0);
            unsigned taken = push_steady(&s, 7 * SEC, SEC / fps[f], (unsigned)fps[f] * 60);
            unsigned most = (unsigned)(60 * SEC / intervals[i]);
            unsigned wanted = most < (unsigned)fps[f] * 60 ? most : (unsigned)fps[f] * 60;
            assert_in_range(taken, wanted - 1, wanted);
        }
    struct vl_pts_sampler every;
    vl_pts_sampler_init(&every, 0, true, 0);
    assert_int_equal(push_steady(&every, 0, SEC / 25, 100), 100);
}

static void test_variable_rate_does_not_drift(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("sampler");
    struct vl_pts_sampler s;
    vl_pts_sampler_init(&s, SEC, true, 0);
    int64_t pts = 0, media = 0;
    bool gap;
    unsigned taken = 0;
    for (unsigned i = 0; i < 100000; i++) {
        pts += (int64_t)(1 + test_randn(&rng, 80)) * VL_NSEC_PER_MSEC;
        taken += vl_pts_sampler_push(&s, pts, &media, &gap) == VL_SAMPLE_TAKE;
    }
    assert_in_range(taken, (uint64_t)(pts / SEC) - 2, (uint64_t)(pts / SEC) + 2);
}

static void test_repeats_and_backward(void **state)
{
    (void)state;
    struct vl_pts_sampler s;
    int64_t media;
    bool gap;
    vl_pts_sampler_init(&s, 0, true, 0);
    assert_int_equal(vl_pts_sampler_push(&s, 10 * SEC, &media, &gap), VL_SAMPLE_TAKE);
    assert_int_equal(vl_pts_sampler_push(&s, 10 * SEC, &media, &gap), VL_SAMPLE_SKIP);
    assert_int_equal(vl_pts_sampler_push(&s, 9 * SEC, &media, &gap), VL_SAMPLE_SKIP);
    assert_int_equal(vl_pts_sampler_push(&s, 11 * SEC, &media, &gap), VL_SAMPLE_TAKE);
    assert_int_equal(media, SEC);
    assert_int_equal(s.n_stray, 2);
}

static void test_single_spikes_and_a_lasting_step(void **state)
{
    (void)state;
    static const int64_t spikes[] = {-9800 * SEC, 37600 * SEC, 3600 * SEC, -3600 * SEC, INT64_MAX / 2};
    for (size_t k = 0; k < sizeof(spikes) / sizeof(spikes[0]); k++) {
        struct vl_pts_sampler s;
        int64_t media = 0;
        bool gap = false;
        vl_pts_sampler_init(&s, 0, true, 0);
        const int64_t base = 20000 * SEC;
        for (int i = 0; i < 50; i++) {
            int64_t pts = base + i * SEC / 25;
            bool spike = i % 10 == 5;
            int r = vl_pts_sampler_push(&s, spike ? pts + spikes[k] : pts, &media, &gap);
            assert_int_equal(r, spike ? VL_SAMPLE_SKIP : VL_SAMPLE_TAKE);
            assert_false(gap);
            assert_true(media <= 2 * SEC);
        }
        /* From here on every stamp is off: after three the new line is the truth, and says that there is a
         * gap. */
        int n_gaps = 0, n_taken = 0;
        int64_t before = media;
        for (int i = 50; i < 100; i++) {
            if (vl_pts_sampler_push(&s, base + spikes[k] + i * SEC / 25, &media, &gap) == VL_SAMPLE_TAKE) {
                n_taken++;
                n_gaps += gap;
                assert_true(media > before);
                before = media;
            }
        }
        assert_int_equal(n_gaps, 1);
        assert_int_equal(n_taken, 48);
        assert_true(media < 4 * SEC);
    }
}

static void test_extremes(void **state)
{
    (void)state;
    struct vl_pts_sampler s;
    int64_t media;
    bool gap;
    vl_pts_sampler_init(&s, SEC, false, 0);
    assert_int_equal(push_steady(&s, INT64_MAX - 100 * SEC, SEC / 25, 1000), 40);
    vl_pts_sampler_init(&s, SEC, false, 0);
    for (int i = 0; i < 50; i++) /* without stamps: 25 a second until told otherwise */
        (void)vl_pts_sampler_push(&s, -1, &media, &gap);
    assert_int_equal(media, SEC);
    vl_pts_sampler_init(&s, SEC, false, 0); /* a slide show: ten seconds a picture */
    assert_int_equal(push_steady(&s, 0, 10 * SEC, 6), 6);
}

static void test_restart_and_start(void **state)
{
    (void)state;
    struct vl_pts_sampler s;
    int64_t media = 0;
    bool gap = false;
    vl_pts_sampler_init(&s, SEC, false, 100 * SEC);
    assert_int_equal(vl_pts_sampler_push(&s, 5 * SEC, &media, &gap), VL_SAMPLE_TAKE);
    assert_int_equal(media, 100 * SEC);
    assert_int_equal(push_steady(&s, 5 * SEC + SEC / 25, SEC / 25, 49), 1);
    vl_pts_sampler_restart(&s, false);
    assert_int_equal(vl_pts_sampler_push(&s, 0, &media, &gap), VL_SAMPLE_TAKE);
    assert_int_equal(media, 102 * SEC);
    assert_false(gap);
    vl_pts_sampler_restart(&s, true);
    assert_int_equal(push_steady(&s, 0, SEC / 25, 26), 1);
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
    paint(&rng, 12);
    struct vl_frame f = grey(t);
    assert_true(vl_change_gate_pass(&g, &f));
    unsigned passed = 0;
    for (int i = 0; i < 16; i++) { /* noise alone: only the refresh each 8 s */
        paint(&rng, 12);
        f = grey(t += SEC);
        passed += vl_change_gate_pass(&g, &f);
    }
    assert_int_equal(passed, 2);
    paint(&rng, 12);
    for (int y = 40; y < 64; y++) /* a small object */
        memset(&pixels[y][300], 220, 24);
    f = grey(t += SEC);
    assert_true(vl_change_gate_pass(&g, &f));
    f = grey(t += SEC);
    assert_false(vl_change_gate_pass(&g, &f));
    vl_change_gate_reset(&g);
    assert_true(vl_change_gate_pass(&g, &f));
    /* Slow drift: one level a second is no change from one picture to the next, and is seen all the same. */
    passed = 0;
    for (int i = 0; i < 6; i++) {
        memset(pixels, 100 + i, sizeof(pixels));
        f = grey(t += SEC);
        passed += vl_change_gate_pass(&g, &f);
    }
    assert_in_range(passed, 2, 3);
    static uint8_t dot[3] = {1, 2, 3}; /* one pixel, RGB */
    struct vl_frame tiny = {
        .plane = {dot}, .stride = {3}, .width = 1, .height = 1, .format = VL_PIXFMT_RGB24};
    vl_change_gate_reset(&g);
    assert_true(vl_change_gate_pass(&g, &tiny));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_variable_rate_does_not_drift),
        cmocka_unit_test(test_repeats_and_backward),
        cmocka_unit_test(test_single_spikes_and_a_lasting_step),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_restart_and_start),
        cmocka_unit_test(test_gate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
