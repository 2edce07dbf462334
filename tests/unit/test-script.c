/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Scripted worlds: the same options are the same bytes, the truth of each second is what its script promises,
 * and the test source shows the picture that a URI names. */
#include "base/clock.h"
#include "pipelines/script.h"
#include "pipelines/source.h"
#include "tests/harness.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { W = 64, H = 36, SIZE = W * H * 3 };

static struct vl_script *new_script(const char *name, int32_t order)
{
    struct vl_script_options o = vl_script_default_options(7, W, H);
    struct vl_script *s = NULL;
    struct vl_error err = {0};
    o.name = name;
    o.order = order;
    o.every = 5;
    if (vl_script_new(&o, &s, &err) < 0)
        fail_msg("%s: %s", name, err.msg);
    return s;
}

static void draw(struct vl_script *s, double second, uint8_t *ret)
{
    assert_int_equal(vl_script_draw(s, (int64_t)(second * 1e9), W, H, (size_t)W * 3, ret), 0);
}

static void test_same_options_same_bytes(void **state)
{
    (void)state;
    static uint8_t a[SIZE], b[SIZE];
    for (size_t i = 0; vl_script_name(i); i++)
        for (int32_t order = VL_SCRIPT_FORWARD; order <= VL_SCRIPT_SHUFFLED; order++) {
            struct vl_script *one = new_script(vl_script_name(i), order),
                             *two = new_script(vl_script_name(i), order);
            for (double t = 0; t < 40; t += 1.25)
                draw(one, t, a);
            draw(two, 38.75, b); /* a stream that goes on there */
            if (memcmp(a, b, SIZE) != 0)
                fail_msg("%s, order %d: second 38.75 is not the same picture", vl_script_name(i), order);
            one = vl_script_unref(one);
            two = vl_script_unref(two);
        }
    assert_null(vl_script_name(99));
}

/* How many seconds of each kind of event there are in the first n. */
static void count_events(const char *name, int32_t order, int64_t n, unsigned ret[VL_WORLD_MOVES + 1])
{
    struct vl_script *s = new_script(name, order);
    memset(ret, 0, (VL_WORLD_MOVES + 1) * sizeof(*ret));
    for (int64_t t = 0; t < n; t++) {
        vl_script_seek(s, t);
        const struct vl_world_truth *truth = vl_script_truth(s);
        assert_int_equal(truth->second, t);
        assert_in_range(truth->n_objects, 0, VL_WORLD_MAX_OBJECTS);
        assert_in_range(truth->event.kind, VL_WORLD_QUIET, VL_WORLD_MOVES);
        ret[truth->event.kind]++;
    }
    s = vl_script_unref(s);
}

static void test_events(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        unsigned appeared, gone, moves; /* in 64 s */
    } script[] = {{"grid", 0, 0, 0},  {"count", 0, 0, 0}, {"blink", 11, 11, 0},
                  {"drift", 0, 0, 0}, {"fade", 0, 0, 0},  {"still", 0, 0, 0},
                  {"empty", 0, 0, 0}, {"order", 8, 8, 0}, {"motion", 7, 8, 8}};
    unsigned n[VL_WORLD_MOVES + 1];
    for (size_t i = 0; i < sizeof(script) / sizeof(*script); i++) {
        assert_string_equal(script[i].name, vl_script_name(i + 1));
        count_events(script[i].name, VL_SCRIPT_FORWARD, 64, n);
        if (n[VL_WORLD_APPEARED] != script[i].appeared || n[VL_WORLD_GONE] != script[i].gone ||
            n[VL_WORLD_MOVES] != script[i].moves || n[VL_WORLD_TURNED])
            fail_msg("%s: %u appeared, %u gone, %u move", script[i].name, n[VL_WORLD_APPEARED],
                     n[VL_WORLD_GONE], n[VL_WORLD_MOVES]);
    }
    /* Backwards each round begins with what forwards was absent at its end. */
    count_events("motion", VL_SCRIPT_BACKWARD, 64, n);
    assert_int_equal(n[VL_WORLD_MOVES], 8);
    assert_int_equal(n[VL_WORLD_APPEARED], 8);
}

/* Which way the subject goes in each round, or -1. */
static int direction_of(int32_t order, int64_t round)
{
    struct vl_script *s = new_script("motion", order);
    int found = -1;
    for (int64_t t = round * 8; t < round * 8 + 8; t++) {
        vl_script_seek(s, t);
        const struct vl_world_object *o = vl_script_subject(s);
        if (o && o->direction != VL_WORLD_STILL)
            found = o->direction;
    }
    s = vl_script_unref(s);
    return found;
}

static void test_backwards_is_the_other_way(void **state)
{
    (void)state;
    static const int other[] = {VL_WORLD_RIGHTWARD, VL_WORLD_LEFTWARD, VL_WORLD_DOWNWARD, VL_WORLD_UPWARD};
    for (int64_t round = 0; round < 8; round++) {
        assert_int_equal(direction_of(VL_SCRIPT_FORWARD, round), round % 4);
        assert_int_equal(direction_of(VL_SCRIPT_BACKWARD, round), other[round % 4]);
    }
}

static void test_grid_goes_through_all_cells(void **state)
{
    (void)state;
    struct vl_script *s = new_script("grid", VL_SCRIPT_FORWARD);
    for (int64_t t = 0; t < 72; t++) {
        vl_script_seek(s, t);
        const struct vl_world_object *o = vl_script_subject(s);
        assert_non_null(o);
        assert_int_equal((int)(o->y * 6) * 6 + (int)(o->x * 6), t % 36);
        assert_int_equal(vl_script_is_cut(s, t), t > 0);
        assert_true(vl_script_truth(s)->n_objects >= 3);
    }
    s = vl_script_unref(s);
}

static double mean_light(struct vl_script *s, double second)
{
    static uint8_t rgb[SIZE];
    double sum = 0;
    draw(s, second, rgb);
    for (size_t i = 0; i < SIZE; i++)
        sum += rgb[i];
    return sum / SIZE;
}

static void test_light(void **state)
{
    (void)state;
    struct vl_script *s = new_script("fade", VL_SCRIPT_FORWARD);
    double first = mean_light(s, 0), last = mean_light(s, 120);
    assert_true(last < 0.6 * first && last > 0.3 * first);
    s = vl_script_unref(s);

    struct vl_script_options o = vl_script_default_options(7, W, H);
    struct vl_error err = {0};
    uint8_t clean[SIZE], noisy[SIZE];
    o.name = "still";
    assert_int_equal(vl_script_new(&o, &s, &err), 0);
    draw(s, 3, clean);
    s = vl_script_unref(s);
    o.sigma = 10;
    assert_int_equal(vl_script_new(&o, &s, &err), 0);
    draw(s, 3, noisy);
    s = vl_script_unref(s);
    double sum = 0, n = 0;
    for (size_t i = 0; i < SIZE; i++) {
        if (clean[i] < 50 || clean[i] > 205)
            continue; /* nothing is cut off here */
        sum += (noisy[i] - clean[i]) * (noisy[i] - clean[i]);
        n++;
    }
    assert_true(n > 500);
    (void)printf("sigma 10, observed %.2f\n", sqrt(sum / n));
    assert_true(sqrt(sum / n) > 9.5 && sqrt(sum / n) < 10.5);
}

/* ---- the source shows it ---- */

struct watcher {
    uint8_t last[SIZE];
    unsigned n, n_gaps;
    int end;
    int ended; /* eventfd */
};

static int on_want(void *user, int64_t pts_ns)
{
    (void)user;
    return pts_ns % VL_NSEC_PER_SEC == 0;
}

static void on_frame(void *user, struct vl_frame *f)
{
    struct watcher *w = user;
    assert_int_equal(f->width, W);
    memcpy(w->last, f->plane[0], SIZE);
    w->n++;
    w->n_gaps += (f->flags & VL_FRAME_GAP) != 0;
}

static void on_end(void *user, int r, const struct vl_error *err)
{
    struct watcher *w = user;
    (void)err;
    w->end = r;
    (void)eventfd_write(w->ended, 1);
}

static void play(const char *uri, int64_t start_ns, struct watcher *w)
{
    const struct vl_source_ops *ops = vl_source_find("test");
    struct vl_source_limits limits = {.max_side = 1024, .max_pixels = 1024 * 1024, .start_ns = start_ns};
    struct vl_error err = {0};
    void *source = calloc(1, ops->state_size);
    assert_non_null(source);
    memset(w, 0, sizeof(*w));
    w->ended = eventfd(0, EFD_CLOEXEC);
    assert_true(w->ended >= 0);
    if (ops->open(source, uri, -1, &limits, &err) < 0)
        fail_msg("%s: %s", uri, err.msg);
    struct vl_source_out out = {.user = w, .want = on_want, .frame = on_frame, .end = on_end};
    assert_int_equal(ops->start(source, &out), 0);
    eventfd_t n;
    while (eventfd_read(w->ended, &n) < 0)
        assert_int_equal(errno, EINTR);
    ops->stop(source);
    ops->close(source);
    free(source);
    (void)close(w->ended);
    assert_int_equal(w->end, 0);
}

static void test_source(void **state)
{
    (void)state;
    static struct watcher w, again;
    uint8_t want[SIZE];
    for (size_t i = 0; vl_script_name(i); i++) {
        char uri[128];
        struct vl_script *s = new_script(vl_script_name(i), VL_SCRIPT_BACKWARD);
        draw(s, 19, want);
        s = vl_script_unref(s);
        (void)snprintf(uri, sizeof(uri), "test:?world=%s&seed=7&size=64x36&seconds=20&every=5&order=backward",
                       vl_script_name(i));
        play(uri, 0, &w);
        assert_int_equal(w.n, 20);
        if (memcmp(w.last, want, SIZE) != 0)
            fail_msg("%s shows another picture", uri);
    }
    /* A cut leads into another world, also for a stream that began behind it, and is not announced. */
    play("test:?world=still&seed=7&size=64x36&seconds=9&fault=cut@4", 0, &w);
    play("test:?world=still&seed=7&size=64x36&seconds=9&fault=cut@4", 6 * VL_NSEC_PER_SEC, &again);
    assert_memory_equal(w.last, again.last, SIZE);
    assert_int_equal(w.n_gaps, 0);
    play("test:?world=still&seed=7&size=64x36&seconds=9", 0, &again);
    assert_true(memcmp(w.last, again.last, SIZE) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_options_same_bytes),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_backwards_is_the_other_way),
        cmocka_unit_test(test_grid_goes_through_all_cells),
        cmocka_unit_test(test_light),
        cmocka_unit_test(test_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
