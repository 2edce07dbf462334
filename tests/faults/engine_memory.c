/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* F55, in process: the first, the second, ... allocation fails, once alone and once with all that follow it,
 * while an engine loads the tiny pair, watches two frames, answers, is configured and ends. Nothing may
 * crash, leak or wait for ever, every question that was accepted ends once, and with memory back the same is
 * done without a fault. As many allocations as the time allows are tried, at equal distances from a beginning
 * that the seed chooses; the first argument is the seconds. */
#include "tests/harness.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "tests/failing_malloc.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>

enum { SIDE = 64, N_FRAMES = 2 };

/* ---- allocations that fail (ld --wrap) ---- */

static atomic_long left = -1; /* allocations until one fails; < 0: none does */
static atomic_bool lasting;
static atomic_ulong n_failed, n_calls;

bool test_allocation_fails(void)
{
    atomic_fetch_add(&n_calls, 1);
    if (atomic_load(&left) < 0)
        return false;
    long was = atomic_fetch_sub(&left, 1);
    if (was != 0)
        return false;
    if (atomic_load(&lasting))
        atomic_store(&left, 0);
    atomic_fetch_add(&n_failed, 1);
    return true;
}

void *__real_aligned_alloc(size_t alignment, size_t n);
int __real_posix_memalign(void **ret, size_t alignment, size_t n);
char *__real_strdup(const char *s);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t n);
char *__wrap_strdup(const char *s);

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return test_allocation_fails() ? NULL : __real_aligned_alloc(alignment, n);
}

int __wrap_posix_memalign(void **ret, size_t alignment, size_t n)
{
    return test_allocation_fails() ? ENOMEM : __real_posix_memalign(ret, alignment, n);
}

char *__wrap_strdup(const char *s)
{
    return test_allocation_fails() ? NULL : __real_strdup(s);
}

/* ---- one life of an engine ---- */

static char text_file[512], mmproj_file[512];

struct life {
    struct vl_engine *e;
    struct vl_mailbox *box;
    uint64_t session, turn;
    bool ready, failed; /* the model */
    unsigned n_frames, n_ends, n_done, n_broken;
    enum vl_turn_status status;
};

static void release_frame(struct vl_frame *f)
{
    (void)f; /* static */
}

static struct vl_frame *frame(unsigned i)
{
    static uint8_t pixels[SIDE * SIDE * 3];
    static struct vl_frame f[N_FRAMES];
    f[i] = (struct vl_frame){.plane = {pixels},
                             .stride = {SIDE * 3},
                             .width = SIDE,
                             .height = SIDE,
                             .format = VL_PIXFMT_RGB24,
                             .pts_ns = i * VL_NSEC_PER_SEC,
                             .wall_ns = (1000 + i) * VL_NSEC_PER_SEC,
                             .refs = 1,
                             .release = release_frame};
    return &f[i];
}

static void take_events(struct life *l)
{
    struct vl_event ev;
    while (vl_engine_next_event(l->e, &ev) == 0) {
        l->ready |= ev.type == VL_EVENT_READY;
        l->failed |= ev.type == VL_EVENT_FAILED && ev.session == 0;
        l->n_broken += ev.type == VL_EVENT_FAILED && ev.session != 0;
        l->n_frames += ev.type == VL_EVENT_FRAME_SEEN;
        l->n_ends += ev.type == VL_EVENT_ENDED;
        if (ev.type == VL_EVENT_FAILED)
            assert_true(ev.error.code < 0 && ev.error.msg[0]);
        if (ev.type != VL_EVENT_TURN_DONE)
            continue;
        assert_int_equal(ev.turn, l->turn);
        l->n_done++;
        l->status = ev.status;
    }
}

typedef bool (*is_fn)(const struct life *l);

static bool is_loaded(const struct life *l)
{
    return l->ready || l->failed;
}

static bool is_seen(const struct life *l)
{
    return l->n_ends || l->n_broken || l->failed;
}

static bool is_answered(const struct life *l)
{
    return l->n_done;
}

static void wait_until(struct life *l, const char *name, is_fn is)
{
    int64_t end = vl_clock_monotonic_ns() + 60 * VL_NSEC_PER_SEC;
    for (take_events(l); !is(l); take_events(l)) {
        struct pollfd p = {.fd = vl_engine_event_fd(l->e), .events = POLLIN};
        (void)poll(&p, 1, 50); /* late is as good as never here */
        if (vl_clock_monotonic_ns() > end)
            fail_msg("waited a minute for %s; VLMD_TEST_SEED and the line above say for which allocation",
                     name);
    }
}

static int load(struct life *l, struct vl_error *err)
{
    const struct vl_engine_opts o = {
        .backend = "cpu", .model = text_file, .mmproj = mmproj_file, .max_sessions = 1, .n_workers = 2};
    int r = vl_engine_new(&l->e, &o, err);
    if (r < 0)
        return r;
    wait_until(l, "the model", is_loaded);
    return l->ready ? 0 : vl_error_set(err, -ENOMEM, "the model did not load");
}

static int watch(struct life *l, struct vl_error *err)
{
    const struct vl_session_opts o = {.captions = true,
                                      .max_caption_tokens = 4,
                                      .reducer = "uniform",
                                      .visual_budget = 4,
                                      .instruction = "Say it."};
    int r = vl_engine_open_session(l->e, &o, &l->session, err);
    if (r < 0)
        return r;
    r = vl_mailbox_new(&l->box, N_FRAMES, NULL, NULL);
    if (r < 0 || (r = vl_engine_watch(l->e, l->session, l->box)) < 0)
        return vl_error_set(err, r, "no mailbox");
    for (unsigned i = 0; i < N_FRAMES; i++)
        assert_int_equal(vl_mailbox_put(l->box, frame(i)), 0);
    vl_mailbox_end(l->box, 0);
    wait_until(l, "the stream's end", is_seen);
    return l->n_frames == N_FRAMES ? 0 : vl_error_set(err, -ENOMEM, "%u frames were seen", l->n_frames);
}

static int ask(struct life *l, struct vl_error *err)
{
    const struct vl_ask q = {.session = l->session, .text = "What is there?", .max_tokens = 8};
    int r = vl_engine_ask(l->e, &q, &l->turn, err);
    if (r < 0)
        return r;
    assert_int_equal(r, 0); /* never busy: it is the only one */
    wait_until(l, "the answer", is_answered);
    return l->status == VL_TURN_OK ? 0 : vl_error_set(err, -ENOMEM, "the answer ended as %d", l->status);
}

static int change(struct life *l, struct vl_error *err)
{
    const struct vl_session_opts o = {.captions = false, .instruction = "Say something else."};
    int r = vl_engine_configure(l->e, l->session, &o, err);
    return r < 0 ? r : vl_engine_close_session(l->e, l->session);
}

/* 0, or the first failure, which has words; all that was made is gone again. */
static int live(void)
{
    struct life l = {0};
    struct vl_error err = {0, ""};
    int r = load(&l, &err);
    if (r == 0)
        r = watch(&l, &err);
    if (r == 0)
        r = ask(&l, &err);
    if (r == 0)
        r = change(&l, &err);
    if (l.e)
        take_events(&l);
    assert_true(l.n_done <= 1);
    l.e = vl_engine_unref(l.e);
    l.box = vl_mailbox_unref(l.box);
    if (r < 0 && !err.msg[0])
        fail_msg("a failure (%d) without words", r);
    return r;
}

/* ---- the sweep ---- */

static double seconds = 20;

static double now(void)
{
    return (double)vl_clock_monotonic_ns() / (double)VL_NSEC_PER_SEC;
}

/* A life whose n-th allocation fails; then one with memory back. */
static void try_at(unsigned long n, bool all)
{
    (void)printf("\rallocation %lu%s    ", n, all ? " and all after it" : "");
    (void)fflush(stdout);
    atomic_store(&lasting, all);
    atomic_store(&left, (long)n);
    (void)live(); /* whether it fails depends on what failed: a smaller buffer may do */
    atomic_store(&left, -1);
    if (n % 8 == 0)
        assert_int_equal(live(), 0);
}

static void test_F55_each_allocation(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("engine_memory");
    assert_int_equal(live(), 0);
    atomic_store(&n_calls, 0);
    double t0 = now();
    assert_int_equal(live(), 0);
    double each = (now() - t0) * 1.2;
    unsigned long n = atomic_load(&n_calls), tries = (unsigned long)(seconds / each / 2) + 1;
    unsigned long stride = tries >= n ? 1 : (n + tries - 1) / tries, done = 0;
    double end = now() + seconds * 1.5;
    for (unsigned long i = test_randn(&rng, (uint32_t)stride); i < n + stride && now() < end;
         i += stride, done++)
        for (int all = 0; all < 2; all++)
            try_at(i, all);
    assert_int_equal(live(), 0);
    (void)printf("\n%lu allocations, each %lu. tried, %lu places, %lu failures\n", n, stride, done,
                 atomic_load(&n_failed));
    assert_true(atomic_load(&n_failed) > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_F55_each_allocation)};
    if (argc < 3)
        return 2;
    seconds = strtod(argv[1], NULL);
    (void)snprintf(text_file, sizeof(text_file), "%s/change-f16-text.gguf", argv[2]);
    (void)snprintf(mmproj_file, sizeof(mmproj_file), "%s/change-f16-mmproj.gguf", argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
