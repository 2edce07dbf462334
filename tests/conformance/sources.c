/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The contract of pipelines/source.h, for every source that is registered: it opens, asks before each
 * picture, gives rising times, ends once, stops without a late callback, and refuses what it cannot read with
 * words. */
#include "base/clock.h"
#include "pipelines/source.h"
#include "tests/harness.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

struct watcher {
    atomic_uint n_want, n_frame, n_end;
    atomic_int end_code, inside, refuse;
    unsigned stop_after; /* pictures; 0: never */
    bool asked;
    int64_t last_pts;
    uint32_t width, height;
};

/* Callbacks come one at a time, or this is found out here. */
static void enter(struct watcher *w)
{
    assert_int_equal(atomic_fetch_add(&w->inside, 1), 0);
}

static void leave(struct watcher *w)
{
    (void)atomic_fetch_sub(&w->inside, 1);
}

static int on_want(void *user, int64_t pts_ns)
{
    struct watcher *w = user;
    enter(w);
    assert_true(pts_ns > w->last_pts);
    w->last_pts = pts_ns;
    unsigned n = atomic_fetch_add(&w->n_want, 1);
    w->asked = n % 3 == 0; /* leave some out */
    int r = w->stop_after && n >= w->stop_after ? -ECANCELED : w->asked;
    leave(w);
    return r;
}

static void on_frame(void *user, struct vl_frame *f)
{
    struct watcher *w = user;
    enter(w);
    assert_true(w->asked);
    w->asked = false;
    assert_true(f->width > 0 && f->height > 0 && f->plane[0] && f->format < VL_PIXFMT_COUNT);
    assert_true(f->stride[0] >= f->width);
    volatile uint8_t last = f->plane[0][(size_t)f->stride[0] * (f->height - 1) + f->width - 1];
    (void)last;
    w->width = f->width;
    w->height = f->height;
    (void)atomic_fetch_add(&w->n_frame, 1);
    leave(w);
}

static void on_end(void *user, int r, const struct vl_error *err)
{
    struct watcher *w = user;
    enter(w);
    assert_true(r <= 0);
    assert_true(r == 0 || err->msg[0]);
    atomic_store(&w->end_code, r);
    (void)atomic_fetch_add(&w->n_end, 1);
    leave(w);
}

static void nap(int ms)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = ms * VL_NSEC_PER_MSEC}, NULL);
}

/* Waits until the source has ended, or n pictures were offered. */
static void wait_for(struct watcher *w, unsigned n)
{
    int64_t end = vl_clock_monotonic_ns() + 60 * VL_NSEC_PER_SEC;
    while (!atomic_load(&w->n_end) && atomic_load(&w->n_want) < n) {
        if (vl_clock_monotonic_ns() > end)
            fail_msg("nothing in 60 s: %u pictures, %u ends", atomic_load(&w->n_want),
                     atomic_load(&w->n_end));
        nap(2);
    }
}

/* What each source of the registry can be opened with: a URI, or the descriptor of a clip. 80 pictures of
 * 64x48. */
struct example {
    const char *scheme, *uri, *clip;
};
static const struct example examples[] = {
    {"test", "test:?seconds=8&size=64x48", NULL},
    {"file", NULL,
     "env -u GST_REGISTRY_DISABLE timeout 60 gst-launch-1.0 -q videotestsrc num-buffers=80 ! "
     "video/x-raw,format=I420,width=64,height=48 "
     "! "
     "vp8enc deadline=1 ! webmmux ! filesink location=%s >/dev/null 2>&1"},
};
static const struct vl_source_limits limits = {.max_side = 1024, .max_pixels = 1024 * 1024};

/* The clip, made once, as a memfd; -1: no encoder here. */
static int clip_of(const struct example *e)
{
    static int made = -2;
    char path[] = "/tmp/vlmd-clip-XXXXXX", command[512];
    if (!e->clip)
        return -1;
    if (made == -2) {
        vl_autofd file = mkstemp(path);
        assert_true(file >= 0);
        (void)snprintf(command, sizeof(command), e->clip, path);
        made = system(command) == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        (void)unlink(path);
    }
    return made < 0 ? -1 : fcntl(made, F_DUPFD_CLOEXEC, 0);
}

static const struct example *example_of(const struct vl_source_ops *ops)
{
    for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++)
        if (!strcmp(examples[i].scheme, ops->scheme))
            return &examples[i];
    fail_msg("source %s is registered and has no line in the examples of tests/conformance/sources.c",
             ops->scheme);
    return NULL;
}

static struct vl_source_out out_of(struct watcher *w)
{
    memset(w, 0, sizeof(*w));
    w->last_pts = -1;
    return (struct vl_source_out){.user = w, .want = on_want, .frame = on_frame, .end = on_end};
}

/* Opened with its example, or NULL when that cannot be had. */
static void *open_example(const struct vl_source_ops *ops)
{
    const struct example *e = example_of(ops);
    int fd = clip_of(e);
    if (e->clip && fd < 0) {
        (void)printf("SKIPPED: %s; gst-launch-1.0 cannot make its clip\n", ops->scheme);
        return NULL;
    }
    void *state = calloc(1, ops->state_size);
    assert_non_null(state);
    struct vl_error err = {0};
    int r = ops->open(state, e->uri, fd, &limits, &err);
    if (r < 0)
        fail_msg("%s: %s", ops->scheme, err.msg);
    return state;
}

static void runs_to_its_end(const struct vl_source_ops *ops)
{
    struct watcher w;
    struct vl_source_out out = out_of(&w);
    void *state = open_example(ops);
    if (!state)
        return;
    assert_int_equal(ops->start(state, &out), 0);
    wait_for(&w, UINT32_MAX);
    nap(20);
    assert_int_equal(atomic_load(&w.n_end), 1);
    assert_int_equal(atomic_load(&w.end_code), 0);
    assert_int_equal(atomic_load(&w.n_want), 80);
    assert_int_equal(atomic_load(&w.n_frame), 27);
    assert_int_equal(w.width, 64);
    assert_int_equal(w.height, 48);
    ops->stop(state);
    ops->close(state);
    free(state);
}

static void stops_without_a_late_callback(const struct vl_source_ops *ops)
{
    for (unsigned n = 0; n < 6; n++) {
        struct watcher w;
        struct vl_source_out out = out_of(&w);
        void *state = open_example(ops);
        if (!state)
            return;
        assert_int_equal(ops->start(state, &out), 0);
        wait_for(&w, n * 13);
        ops->stop(state);
        unsigned seen = atomic_load(&w.n_want) + atomic_load(&w.n_frame) + atomic_load(&w.n_end);
        nap(10);
        assert_int_equal(atomic_load(&w.n_want) + atomic_load(&w.n_frame) + atomic_load(&w.n_end), seen);
        ops->stop(state); /* again: no effect */
        ops->close(state);
        free(state);
    }
}

/* want says that everything stops: no frame, no end. */
static void leaves_when_told(const struct vl_source_ops *ops)
{
    struct watcher w;
    struct vl_source_out out = out_of(&w);
    void *state = open_example(ops);
    if (!state)
        return;
    w.stop_after = 10;
    assert_int_equal(ops->start(state, &out), 0);
    wait_for(&w, 11);
    unsigned frames = atomic_load(&w.n_frame);
    nap(20);
    assert_int_equal(atomic_load(&w.n_frame), frames);
    assert_int_equal(atomic_load(&w.n_end), 0);
    ops->stop(state);
    ops->close(state);
    free(state);
}

static void survives_bad_input(const struct vl_source_ops *ops)
{
    static const char *const bad[] = {"nonsense:", "/etc/passwd", "test:?nonsense=1", "file:///etc/passwd",
                                      ""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        void *state = calloc(1, ops->state_size);
        assert_non_null(state);
        struct vl_error err = {0};
        int r = ops->open(state, bad[i], -1, &limits, &err);
        if (r >= 0 || !err.msg[0])
            fail_msg("%s takes '%s': %d %s", ops->scheme, bad[i], r, err.msg);
        ops->close(state);
        free(state);
    }
}

static void respects_limits(const struct vl_source_ops *ops)
{
    const struct example *e = example_of(ops);
    const struct vl_source_limits tight = {.max_side = 63, .max_pixels = 1 << 20};
    int fd = clip_of(e);
    if (e->clip && fd < 0)
        return;
    struct watcher w;
    struct vl_source_out out = out_of(&w);
    struct vl_error err = {0};
    void *state = calloc(1, ops->state_size);
    assert_non_null(state);
    int r = ops->open(state, e->uri, fd, &tight, &err);
    if (r == 0) {
        assert_int_equal(ops->start(state, &out), 0);
        wait_for(&w, UINT32_MAX);
        r = atomic_load(&w.end_code);
        ops->stop(state);
    }
    assert_int_equal(r, -EMSGSIZE);
    assert_int_equal(atomic_load(&w.n_frame), 0);
    ops->close(state);
    free(state);
}

static void test_every_source(void **state)
{
    (void)state;
    unsigned n = 0;
    for (const struct vl_source_ops *const *s = vl_sources; *s; s++, n++) {
        const struct vl_source_ops *ops = *s;
        (void)printf("source %s\n", ops->scheme);
        assert_ptr_equal(vl_source_find(ops->scheme), ops);
        assert_non_null(ops->help);
        assert_non_null(ops->params);
        assert_true(ops->state_size > 0 && ops->max_step_ns > 0);
        struct vl_error err = {0};
        if (ops->prepare && ops->prepare(&err) < 0)
            fail_msg("%s: %s", ops->scheme, err.msg);
        survives_bad_input(ops);
        runs_to_its_end(ops);
        stops_without_a_late_callback(ops);
        leaves_when_told(ops);
        respects_limits(ops);
    }
    assert_true(n > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_source)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
