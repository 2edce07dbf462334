/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* decoder/sampler: greedy, broken numbers, the penalty, what each filter keeps, and that draws follow the
 * distribution. */
#include "decoder/sampler.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>

enum { N = 12, MAX_VOCAB = 50000 };

struct bench {
    struct vl_exec x;
    struct vl_arena arena;
    char mem[1 << 20];
};
static struct bench bench;

static int setup(void **state)
{
    (void)state;
    struct vl_error err;
    vl_arena_init(&bench.arena, bench.mem, sizeof(bench.mem));
    bench.x = (struct vl_exec){.ops = vl_backend_find("cpu"), .scratch = &bench.arena};
    return bench.x.ops->open(&bench.x.device, NULL, &err);
}

static int teardown(void **state)
{
    (void)state;
    bench.x.ops->close(bench.x.device);
    return 0;
}

static const float logits[N] = {1.0f, -2.0f, 3.0f,  0.5f, 3.0f, -INFINITY,
                                2.0f, 0.0f,  -1.0f, 2.5f, 1.5f, -0.5f};

static int pick_from(struct vl_sampler *s, const float *l, uint32_t n, const int32_t *recent,
                     uint32_t n_recent, const uint32_t *allowed, int32_t *ret)
{
    static float copy[MAX_VOCAB];
    memcpy(copy, l, n * sizeof(*l));
    struct vl_tensor t = vl_tensor_2d(copy, VL_F32, 1, n);
    int r = vl_sampler_pick(s, &bench.x, &t, recent, n_recent, allowed, ret);
    assert_int_equal(bench.arena.used, 0);
    assert_memory_equal(copy, l, n * sizeof(*l));
    return r;
}

static struct vl_sampler sampler(float temperature, uint32_t top_k, float top_p, float min_p)
{
    const struct vl_sampling how = {.temperature = temperature,
                                    .top_k = top_k,
                                    .top_p = top_p,
                                    .min_p = min_p,
                                    .repeat_penalty = 1,
                                    .repeat_window = 64,
                                    .seed = 42};
    struct vl_sampler s;
    vl_sampler_init(&s, &how);
    return s;
}

static void test_greedy(void **state)
{
    (void)state;
    struct vl_sampler s = sampler(0, 0, 1, 0);
    int32_t id = -1;
    assert_int_equal(pick_from(&s, logits, N, NULL, 0, NULL, &id), 0);
    assert_int_equal(id, 2); /* 4 is as large */
    const uint32_t allowed[1] = {1u << 4 | 1u << 6 | 1u << 5};
    assert_int_equal(pick_from(&s, logits, N, NULL, 0, allowed, &id), 0);
    assert_int_equal(id, 4);
}

static void test_broken_numbers(void **state)
{
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY};
    float l[N];
    int32_t id = -7;
    struct vl_sampler s = sampler(0.7f, 5, 0.9f, 0.05f);
    uint64_t rng = s.rng;
    for (size_t b = 0; b < sizeof(bad) / sizeof(*bad); b++)
        for (int i = 0; i < N; i++) {
            memcpy(l, logits, sizeof(l));
            l[i] = bad[b];
            assert_int_equal(pick_from(&s, l, N, NULL, 0, NULL, &id), -EDOM);
        }
    for (int i = 0; i < N; i++)
        l[i] = -INFINITY;
    assert_int_equal(pick_from(&s, l, N, NULL, 0, NULL, &id), -EDOM);
    const uint32_t nothing[1] = {0}, hidden[1] = {1u << 5};
    assert_int_equal(pick_from(&s, logits, N, NULL, 0, nothing, &id), -EINVAL);
    assert_int_equal(pick_from(&s, logits, N, NULL, 0, hidden, &id), -EDOM);
    assert_int_equal(id, -7);
    assert_true(s.rng == rng);
    struct vl_tensor two = vl_tensor_2d(l, VL_F32, 2, N / 2), half = vl_tensor_1d(l, VL_F16, N);
    assert_int_equal(vl_sampler_pick(&s, &bench.x, &two, NULL, 0, NULL, &id), -EINVAL);
    assert_int_equal(vl_sampler_pick(&s, &bench.x, &half, NULL, 0, NULL, &id), -EINVAL);
    size_t cap = bench.arena.cap;
    bench.arena.cap = 64;
    assert_int_equal(pick_from(&s, logits, N, NULL, 0, NULL, &id), -ENOMEM);
    bench.arena.cap = cap;
}

static void test_penalty(void **state)
{
    (void)state;
    struct vl_sampler s = sampler(0, 0, 1, 0);
    int32_t id = -1;
    s.how.repeat_penalty = 1.3f;
    /* 3.0 / 1.3 = 2.31 for both of the largest, once each however often they came: 2.5 wins */
    const int32_t twice[] = {2, 2, 4, 4, 4, -1, N, INT32_MAX};
    assert_int_equal(pick_from(&s, logits, N, twice, 8, NULL, &id), 0);
    assert_int_equal(id, 9);
    /* out of the window they count no more */
    s.how.repeat_window = 2;
    const int32_t past[] = {2, 4, 0, 1};
    assert_int_equal(pick_from(&s, logits, N, past, 4, NULL, &id), 0);
    assert_int_equal(id, 2);
    s.how.repeat_window = 0;
    assert_int_equal(pick_from(&s, logits, N, twice, 4, NULL, &id), 0);
    assert_int_equal(id, 2);
    /* negative logits are multiplied: of -1 and -1.2 the first becomes -1.3 */
    s.how.repeat_window = 64;
    const float l[2] = {-1.0f, -1.2f};
    const int32_t first[] = {0};
    assert_int_equal(pick_from(&s, l, 2, first, 1, NULL, &id), 0);
    assert_int_equal(id, 1);
}

/* Draws, and compares the counts with p (0: must never come) by chi square. */
static void check_draws(struct vl_sampler s, const double *p, const char *what)
{
    enum { DRAWS = 100000 };
    uint32_t count[N] = {0};
    double chi = 0, total = 0;
    int dof = -1;
    for (int i = 0; i < N; i++)
        total += p[i];
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = -1;
        assert_int_equal(pick_from(&s, logits, N, NULL, 0, NULL, &id), 0);
        assert_in_range(id, 0, N - 1);
        count[id]++;
    }
    for (int i = 0; i < N; i++) {
        double want = p[i] / total * DRAWS;
        if (p[i] == 0 && count[i])
            fail_msg("%s: id %d came %u times, must not", what, i, count[i]);
        if (p[i] > 0) {
            chi += (count[i] - want) * (count[i] - want) / want;
            dof++;
        }
    }
    /* mean dof, variance 2 dof: five standard deviations */
    if (chi > dof + 5 * sqrt(2.0 * dof) + 5)
        fail_msg("%s: chi square is %.1f with %d degrees of freedom", what, chi, dof);
}

static void test_distribution(void **state)
{
    (void)state;
    double p[N];
    for (int i = 0; i < N; i++)
        p[i] = exp((double)logits[i]);
    check_draws(sampler(1, 0, 1, 0), p, "plain");
    for (int i = 0; i < N; i++)
        p[i] = exp((double)logits[i] / 0.5);
    check_draws(sampler(0.5f, 0, 1, 0), p, "temperature 0.5");
    for (int i = 0; i < N; i++)
        p[i] = i == 2 || i == 4 || i == 9 ? exp((double)logits[i]) : 0;
    check_draws(sampler(1, 3, 1, 0), p, "top-k 3");
    for (int i = 0; i < N; i++)
        p[i] = i == 2 ? 1 : 0;
    check_draws(sampler(1, 1, 1, 0), p, "top-k 1: of equals the lower id");
    check_draws(sampler(1, 0, 0.0f, 0), p, "top-p 0: one is always left");
    for (int i = 0; i < N; i++)
        p[i] = (double)logits[i] >= 3 + log(0.3) ? exp((double)logits[i]) : 0;
    check_draws(sampler(1, 0, 1, 0.3f), p, "min-p 0.3");
    check_draws(sampler(1, 11, 1, 0.3f), p, "min-p 0.3 after top-k 11");
}

static void test_top_p(void **state)
{
    (void)state;
    /* In order: 2 4 9 6 10 0 ...; the smallest set whose sum reaches top_p. */
    static const int order[] = {2, 4, 9, 6, 10, 0, 3, 7, 11, 8, 1};
    for (float top_p = 0.1f; top_p < 1; top_p += 0.15f) {
        double p[N] = {0}, total = 0, sum = 0;
        for (int i = 0; i < N; i++)
            total += exp((double)logits[i]);
        for (int i = 0; i < 11 && sum < (double)top_p * total; i++)
            sum += p[order[i]] = exp((double)logits[order[i]]);
        check_draws(sampler(1, 0, top_p, 0), p, "top-p");
    }
    /* After top-k the sum is that of what is left: of 3, 3, 2.5 two are .767 */
    double p[N] = {0};
    p[2] = p[4] = 1;
    check_draws(sampler(1, 3, 0.75f, 0), p, "top-p 0.75 after top-k 3");
    p[9] = exp(-0.5);
    check_draws(sampler(1, 3, 0.78f, 0), p, "top-p 0.78 after top-k 3");
}

static void test_checkpoint(void **state)
{
    (void)state;
    struct vl_sampler a = sampler(1, 0, 0.95f, 0), b;
    int32_t x = -1, y = -1;
    int differ = 0;
    for (int i = 0; i < 100; i++)
        (void)pick_from(&a, logits, N, NULL, 0, NULL, &x);
    b = a;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(pick_from(&a, logits, N, NULL, 0, NULL, &x), 0);
        assert_int_equal(pick_from(&b, logits, N, NULL, 0, NULL, &y), 0);
        assert_int_equal(x, y);
    }
    b.how.seed = b.rng = 43;
    for (int i = 0; i < 100; i++) {
        (void)pick_from(&a, logits, N, NULL, 0, NULL, &x);
        (void)pick_from(&b, logits, N, NULL, 0, NULL, &y);
        differ += x != y;
    }
    assert_true(differ > 20);
}

/* A real vocabulary: what the heap keeps is what sorting would keep. */
static void test_large(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("large");
    static float l[MAX_VOCAB];
    for (int i = 0; i < MAX_VOCAB; i++)
        l[i] = (float)(int)(10 * test_randf(&rng)); /* many ties */
    struct vl_sampler s = sampler(1, 40, 1, 0);
    int32_t last = -1, id = -1;
    int n_max = 0;
    for (int i = 0; i < MAX_VOCAB && n_max < 40; i++)
        if (l[i] == 9) {
            last = i;
            n_max++;
        }
    assert_int_equal(n_max, 40);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(pick_from(&s, l, MAX_VOCAB, NULL, 0, NULL, &id), 0);
        assert_true(l[id] == 9 && id <= last);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),  cmocka_unit_test(test_broken_numbers),
        cmocka_unit_test(test_penalty), cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_top_p),   cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
