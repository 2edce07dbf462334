/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Bipartite matching against what a few plain loops answer, equal scores included. */
#include "base/workers.h"
#include "tests/exec.h"
#include "tokenprune/matching.h"

#include <math.h>
#include <string.h>

enum { MAX_N = 150, MAX_D = 40 };

/* Small whole numbers: sums are exact, and equal scores are frequent. */
static void draw(float *rows, uint32_t n, uint32_t d, struct test_rng *rng)
{
    for (uint32_t i = 0; i < n * d; i++)
        rows[i] = (float)test_randn(rng, 5) - 2;
}

static double product(const float *a, const float *b, uint32_t d)
{
    double sum = 0;
    for (uint32_t k = 0; k < d; k++)
        sum += (double)a[k] * (double)b[k];
    return sum;
}

/* Every even row with every odd one, and then r times the best that is left. */
static void plain(const float *rows, uint32_t n, uint32_t d, uint32_t r, int32_t *into)
{
    double score[MAX_N];
    int32_t to[MAX_N];
    bool taken[MAX_N] = {false};
    for (uint32_t i = 0; i < n; i++) {
        into[i] = (int32_t)i;
        score[i] = -INFINITY;
        for (uint32_t j = 1; i % 2 == 0 && j < n; j += 2) {
            double p = product(rows + (size_t)i * d, rows + (size_t)j * d, d);
            if (p > score[i]) {
                score[i] = p;
                to[i] = (int32_t)j;
            }
        }
    }
    for (uint32_t k = 0; k < r; k++) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i += 2)
            if (!taken[i] && (best == n || score[i] > score[best]))
                best = i;
        taken[best] = true;
        into[best] = to[best];
    }
}

static void check_matching(struct vl_workers *w, struct test_rng *rng)
{
    static float rows[MAX_N * MAX_D], work[MAX_N * MAX_D];
    struct vl_match pair[MAX_N / 2 + 1];
    int32_t want[MAX_N], into[MAX_N], index[MAX_N];
    const uint32_t n = 2 + test_randn(rng, MAX_N - 1), d = 1 + test_randn(rng, MAX_D),
                   r = test_randn(rng, n / 2 + 1);
    draw(rows, n, d, rng);
    plain(rows, n, d, r, want);
    assert_true(vl_match_work(n, d) <= MAX_N * MAX_D);
    vl_match_best(w, rows, n, d, work, pair);
    vl_match_rank(pair, (n + 1) / 2, r);
    assert_int_equal(vl_match_merge(pair, r, n, into, index), n - r);
    assert_memory_equal(into, want, n * sizeof(*into));
    for (uint32_t j = 0; j < n - r; j++) {
        assert_int_equal(into[index[j]], index[j]);
        assert_true(j == 0 || index[j] > index[j - 1]);
    }
}

static void test_matching(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("matching");
    vl_auto(vl_workers) w = NULL;
    assert_int_equal(vl_workers_new(&w, 2), 0);
    for (int i = 0; i < 400; i++)
        check_matching(i % 2 ? w : NULL, &rng);
}

static void test_normalize(void **state)
{
    (void)state;
    float rows[] = {3, 4, 0, 0, -5, 0};
    vl_match_normalize(rows, 3, 2);
    static const float want[] = {0.6f, 0.8f, 0, 0, -1, 0};
    for (int i = 0; i < 6; i++)
        assert_true(fabsf(rows[i] - want[i]) < 1e-7f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matching),
        cmocka_unit_test(test_normalize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
