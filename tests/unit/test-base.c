/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* base/: arena, params, queue, mailbox, workers. Every random choice is seeded and printed. */
#include "base/arena.h"
#include "base/budget.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mailbox.h"
#include "base/params.h"
#include "base/queue.h"
#include "base/text.h"
#include "base/workers.h"
#include "tests/harness.h"

#include <pthread.h>
#include <string.h>

static void test_arena(void **state)
{
    (void)state;
    static char mem[1024];
    struct vl_arena a;
    void *p;
    vl_arena_init(&a, mem + 1, 512);
    assert_int_equal(vl_arena_alloc(&a, 10, 64, &p), 0);
    assert_int_equal((uintptr_t)p % 64, 0);
    size_t mark = vl_arena_mark(&a);
    assert_int_equal(vl_arena_alloc(&a, 100, 8, &p), 0);
    assert_int_equal(vl_arena_alloc(&a, SIZE_MAX, 8, &p), -ENOMEM);
    assert_int_equal(vl_arena_alloc(&a, 512, 1, &p), -ENOMEM);
    assert_int_equal(vl_arena_alloc(&a, 1, 3, &p), -EINVAL);
    size_t peak = a.peak;
    vl_arena_reset(&a, mark);
    assert_int_equal(a.used, mark);
    assert_int_equal(a.peak, peak);
}

static void test_error(void **state)
{
    (void)state;
    struct vl_error e;
    assert_int_equal(vl_error_set(&e, -EINVAL, "tensor '%s' is small", "x"), -EINVAL);
    assert_int_equal(vl_error_prefix(&e, -EINVAL, "file %d", 3), -EINVAL);
    assert_string_equal(e.msg, "file 3: tensor 'x' is small");
    assert_int_equal(vl_error_set(NULL, -EIO, "nobody reads it"), -EIO);
}

/* What strangers wrote into a message, and where it was cut. */
static void test_text(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"", ""},
        {"plain, häuser € 😀", "plain, häuser € 😀"},
        {"two\nlines\t\x7f", "two?lines??"},
        {"\x1b[2J\xc2\x9b", "?[2J?"},
        {"\xe2\x80\xae\xe2\x81\xa6x\xe2\x80\x94", "??x\xe2\x80\x94"},
        {"cut \xc3", "cut ?"},
        {"cut \xf0\x9f\x98", "cut ???"},
        {"\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xff", "??????????"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char s[64];
        (void)snprintf(s, sizeof(s), "%s", rows[i][0]);
        vl_text_clean(s);
        assert_string_equal(s, rows[i][1]);
    }
    struct vl_error err;
    assert_int_equal(vl_error_set(&err, -EINVAL, "%0239d\xc3\xa4", 0), -EINVAL);
    assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
    (void)vl_error_set(&err, -EINVAL, "%0238d\xc3\xa4", 0);
    assert_string_equal(err.msg + 238, "?");
}

static void test_params(void **state)
{
    (void)state;
    static const struct vl_param_desc desc[] = {
        {"window", "frames", 8, 1, 100}, {"mode", "word", 0, 1, 0}, {NULL, NULL, 0, 0, 0}};
    vl_auto(vl_params) p = NULL;
    vl_auto(vl_params) c = NULL;
    struct vl_error err;
    double v = 8;
    const char *s = NULL;
    assert_int_equal(vl_params_new(&p), 0);
    assert_int_equal(vl_params_set_f64(p, "window", 4), 0);
    assert_int_equal(vl_params_set_str(p, "mode", "fast"), 0);
    assert_int_equal(vl_params_check(p, desc, &err), 0);
    assert_int_equal(vl_params_copy(&c, p), 0);
    assert_int_equal(vl_params_f64(c, "window", &v), 0);
    assert_true(v == 4);
    assert_int_equal(vl_params_str(c, "mode", &s), 0);
    assert_string_equal(s, "fast");
    assert_int_equal(vl_params_f64(c, "mode", &v), -EINVAL);
    assert_int_equal(vl_params_set_f64(c, "windwo", 4), 0);
    assert_int_equal(vl_params_check(c, desc, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "did you mean 'window'"));
    assert_int_equal(vl_params_set_f64(p, "window", 400), 0);
    assert_int_equal(vl_params_check(p, desc, &err), -EINVAL);
}

static void test_params_text(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ":r=1", "tome:r", "tome:=1", "tome:r=", "a-name-too-long:r=1"};
    vl_auto(vl_params) p = NULL;
    vl_auto(vl_params) none = NULL;
    struct vl_error err;
    char name[12];
    double r = 0, share = 0;
    const char *mode = NULL;
    assert_int_equal(vl_params_parse("tome:r=8,mode=fast,share=0.25", name, sizeof(name), &p, &err), 0);
    assert_string_equal(name, "tome");
    assert_int_equal(vl_params_f64(p, "r", &r), 0);
    assert_int_equal(vl_params_f64(p, "share", &share), 0);
    assert_int_equal(vl_params_str(p, "mode", &mode), 0);
    assert_true(r == 8 && share == 0.25);
    assert_string_equal(mode, "fast");
    assert_int_equal(vl_params_parse("uniform", name, sizeof(name), &none, &err), 0);
    assert_string_equal(name, "uniform");
    assert_null(none);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vl_params *made = NULL;
        assert_int_equal(vl_params_parse(bad[i], name, sizeof(name), &made, &err), -EINVAL);
        assert_null(made);
    }
}

static void count_wake(void *user)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

static void test_queue(void **state)
{
    (void)state;
    atomic_int wakes = 0;
    vl_auto(vl_queue) q = NULL;
    int v;
    assert_int_equal(vl_queue_new(&q, sizeof(int), 3, count_wake, &wakes), 0);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++)
            assert_int_equal(vl_queue_put(q, &i), 0);
        assert_int_equal(vl_queue_put(q, &v), VL_QUEUE_FULL);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(vl_queue_take(q, &v), 0);
            assert_int_equal(v, i);
        }
        assert_int_equal(vl_queue_take(q, &v), VL_QUEUE_EMPTY);
    }
    struct vl_queue_stats st;
    vl_queue_get_stats(q, &st);
    assert_int_equal(st.high_water, 3);
    assert_int_equal(st.refused, 5);
    assert_int_equal(wakes, 15);
}

struct counted_frame {
    struct vl_frame f;
    atomic_int *alive;
};

static void release_counted(struct vl_frame *f)
{
    atomic_fetch_sub(((struct counted_frame *)f)->alive, 1);
    free(f);
}

static struct vl_frame *new_frame(uint64_t seq, uint32_t flags, atomic_int *alive)
{
    struct counted_frame *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    c->f.seq = seq;
    c->f.flags = flags;
    c->f.release = release_counted;
    c->alive = alive;
    atomic_init(&c->f.refs, 1);
    atomic_fetch_add(alive, 1);
    return &c->f;
}

static void *take_and_give(void *user)
{
    struct vl_budget *b = user;
    for (int i = 0; i < 20000; i++)
        if (vl_budget_take(b, 3) == 0)
            vl_budget_give(b, 3);
    return NULL;
}

static void test_a_budget_is_never_exceeded(void **state)
{
    (void)state;
    struct vl_budget b;
    vl_budget_init(&b, 10);
    assert_int_equal(vl_budget_take(&b, 8), 0);
    assert_int_equal(vl_budget_take(&b, 5), 3);
    assert_int_equal(vl_budget_take(&b, UINT64_MAX), UINT64_MAX - 2);
    assert_int_equal(vl_budget_take(&b, 2), 0);
    assert_int_equal(vl_budget_used(&b), 10);
    vl_budget_give(&b, 10);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, take_and_give, &b), 0);
    (void)take_and_give(&b);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(vl_budget_used(&b), 0);
    vl_budget_init(&b, 0); /* no limit, but counted */
    assert_int_equal(vl_budget_take(&b, UINT64_MAX), 0);
    assert_int_equal(vl_budget_take(&b, 1), 1); /* nor wrapped around */
}

static void test_mailbox_newest_wins(void **state)
{
    (void)state;
    atomic_int alive = 0, wakes = 0;
    struct vl_mailbox *m = NULL;
    struct vl_frame *f = NULL;
    int end = 1;
    assert_int_equal(vl_mailbox_new(&m, 1, count_wake, &wakes), 0);
    assert_int_equal(vl_mailbox_put(m, new_frame(1, VL_FRAME_GAP, &alive)), 0);
    assert_int_equal(vl_mailbox_put(m, new_frame(2, 0, &alive)), VL_MAILBOX_REPLACED);
    assert_int_equal(vl_mailbox_take(m, &f, &end), 0);
    assert_int_equal(f->seq, 2);
    assert_true(f->flags & VL_FRAME_GAP);
    f = vl_frame_unref(f);
    assert_int_equal(vl_mailbox_take(m, &f, &end), VL_MAILBOX_EMPTY);
    assert_int_equal(vl_mailbox_put(m, new_frame(3, 0, &alive)), 0);
    vl_mailbox_end(m, -EIO);
    vl_mailbox_end(m, 0);
    assert_int_equal(vl_mailbox_put(m, new_frame(4, 0, &alive)), -EPIPE);
    assert_int_equal(vl_mailbox_take(m, &f, &end), 0);
    f = vl_frame_unref(f);
    assert_int_equal(vl_mailbox_take(m, &f, &end), VL_MAILBOX_ENDED);
    assert_int_equal(end, -EIO);
    assert_int_equal(vl_mailbox_dropped(m), 1);
    m = vl_mailbox_unref(m);
    assert_int_equal(alive, 0);
}

static void *put_many(void *p)
{
    static atomic_int alive;
    struct vl_mailbox *m = p;
    for (uint64_t i = 1; i <= 20000; i++)
        (void)vl_mailbox_put(m, new_frame(i, 0, &alive));
    vl_mailbox_end(m, 0);
    (void)vl_mailbox_unref(m);
    return NULL;
}

static void test_mailbox_threads(void **state)
{
    (void)state;
    struct vl_mailbox *m = NULL;
    assert_int_equal(vl_mailbox_new(&m, 2, NULL, NULL), 0);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, put_many, vl_mailbox_ref(m)), 0);
    uint64_t last = 0, n = 0;
    for (;;) {
        struct vl_frame *f = NULL;
        int end = 1, r = vl_mailbox_take(m, &f, &end);
        if (r == VL_MAILBOX_ENDED)
            break;
        if (r == VL_MAILBOX_EMPTY)
            continue;
        assert_true(f->seq > last);
        last = f->seq;
        n++;
        f = vl_frame_unref(f);
    }
    pthread_join(t, NULL);
    assert_int_equal(last, 20000);
    assert_int_equal(n + vl_mailbox_dropped(m), 20000);
    m = vl_mailbox_unref(m);
}

struct sum_job {
    uint32_t *hits;
    size_t longest;
};

static void hit_range(void *arg, size_t first, size_t last)
{
    struct sum_job *j = arg;
    for (size_t i = first; i < last; i++)
        j->hits[i]++;
}

static void test_workers(void **state)
{
    (void)state;
    static uint32_t hits[5000];
    for (unsigned threads = 0; threads < 4; threads++) {
        vl_auto(vl_workers) w = NULL;
        assert_int_equal(vl_workers_new(&w, threads), 0);
        assert_int_equal(vl_workers_count(w), threads + 1);
        memset(hits, 0, sizeof(hits));
        struct sum_job j = {.hits = hits};
        for (size_t round = 0; round < 3000; round++)
            vl_workers_run(w, hit_range, &j, round % 5000, 1 + round % 7);
        for (size_t i = 0; i < 5000; i++)
            assert_int_equal(hits[i], i < 2999 ? 2999 - i : 0);
    }
    memset(hits, 0, sizeof(hits));
    vl_workers_run(NULL, hit_range, &(struct sum_job){.hits = hits}, 10, 3);
    assert_int_equal(hits[9], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_params),
        cmocka_unit_test(test_params_text),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_a_budget_is_never_exceeded),
        cmocka_unit_test(test_mailbox_newest_wins),
        cmocka_unit_test(test_mailbox_threads),
        cmocka_unit_test(test_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
