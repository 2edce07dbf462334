/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Bipartite matching and the reducers on it against what a few plain loops
 * answer, equal scores included. */
#include "base/workers.h"
#include "tests/exec.h"
#include "tokenprune/matching.h"
#include "tokenprune/reducer.h"
#include "tokenprune/similarity.h"

#include <math.h>
#include <string.h>

enum { MAX_N = 150, MAX_D = 40 };

/* Small whole numbers: sums are exact, and equal scores are frequent. */
static void draw(float *rows, uint32_t n, uint32_t d, struct test_rng *rng)
{
    for (uint32_t i = 0; i < n * d; i++)
        rows[i] = (float)test_randn(rng, 5) - 2;
}

static float product(const float *a, const float *b, uint32_t d)
{
    float sum = 0;
    for (uint32_t k = 0; k < d; k++)
        sum += a[k] * b[k];
    return sum;
}

/* Every even row with every odd one, and then r times the best that is left. */
static void plain(const float *rows, uint32_t n, uint32_t d, uint32_t r, int32_t *into)
{
    float score[MAX_N];
    int32_t to[MAX_N];
    bool taken[MAX_N] = {false};
    for (uint32_t i = 0; i < n; i++) {
        into[i] = (int32_t)i;
        score[i] = -INFINITY;
        for (uint32_t j = 1; i % 2 == 0 && j < n; j += 2) {
            float p = product(rows + (size_t)i * d, rows + (size_t)j * d, d);
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

/* ---- tome_merge ---- */

struct patches {
    struct vl_visual_tokens tok;
    struct vl_grid_pos pos[MAX_N];
    float feat[MAX_N * MAX_D], weight[MAX_N];
};

static void draw_tokens(struct patches *p, uint32_t n, uint32_t d, struct test_rng *rng)
{
    draw(p->feat, n, d, rng);
    for (uint32_t i = 0; i < n; i++) {
        p->weight[i] = (float)(1 + test_randn(rng, 3));
        p->pos[i] = (struct vl_grid_pos){0, 0, (uint16_t)i};
    }
    p->tok = (struct vl_visual_tokens){.feat = vl_tensor_2d(p->feat, VL_F32, n, d),
                                       .pos = p->pos,
                                       .weight = p->weight,
                                       .n = n,
                                       .grid_w = n,
                                       .grid_h = 1};
}

static void merger(struct vl_reducer *ret, const char *written, const struct vl_reducer_shape *shape)
{
    char name[32];
    struct vl_error err = {0, ""};
    const struct vl_reducer_ops *ops;
    vl_auto(vl_params) p = NULL;
    assert_int_equal(vl_params_parse(written, name, sizeof(name), &p, &err), 0);
    assert_int_equal(vl_reducer_find(&ops, name, &err), 0);
    if (vl_reducer_init(ret, ops, p, shape, &err) < 0)
        fail_msg("%s", err.msg);
}

static void normalize(float *rows, uint32_t n, uint32_t d)
{
    for (uint32_t i = 0; i < n; i++)
        vl_similarity_unit(rows + (size_t)i * d, d);
}

static void same_answer(const struct vl_kept *kept, const int32_t *into, uint32_t n)
{
    uint32_t left = 0;
    assert_int_equal(kept->merge_into.dim[0], n);
    assert_memory_equal(kept->merge_into.data, into, n * sizeof(*into));
    for (uint32_t i = 0; i < n; i++)
        if (into[i] == (int32_t)i)
            assert_int_equal(((const int32_t *)kept->index.data)[left++], i);
    assert_int_equal(kept->n, left);
}

/* Keys of several heads: the direction of their mean is what is compared. */
static void check_in_encoder(struct test_exec *e, struct test_rng *rng)
{
    static struct patches p;
    static float key[MAX_N * MAX_D], mean[MAX_N * MAX_D];
    enum { HEADS = 4, HEAD_DIM = 5 };
    const uint32_t n = 2 + test_randn(rng, MAX_N - 2), r = 1 + test_randn(rng, n);
    const struct vl_reducer_shape shape = {
        .max_tokens = 4, .d_model = 4, .max_patches = n, .d_vision = HEADS * HEAD_DIM};
    int32_t want[MAX_N];
    char written[32];
    struct vl_reducer red;
    struct vl_kept kept;
    draw_tokens(&p, n, 1, rng);
    draw(key, n, HEADS * HEAD_DIM, rng);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < HEAD_DIM; k++) {
            mean[i * HEAD_DIM + k] = 0;
            for (uint32_t h = 0; h < HEADS; h++)
                mean[i * HEAD_DIM + k] += key[(i * HEADS + h) * HEAD_DIM + k];
        }
    normalize(mean, n, HEAD_DIM);
    plain(mean, n, HEAD_DIM, r < n / 2 ? r : n / 2, want);
    (void)snprintf(written, sizeof(written), "tome_merge:r=%u,from=2,to=3", r);
    merger(&red, written, &shape);
    const struct vl_tensor keys = vl_tensor_3d(key, VL_F32, n, HEADS, HEAD_DIM);
    for (unsigned layer = 1; layer < 5; layer += 3) {
        assert_int_equal(red.ops->in_encoder(red.state, &e->x, layer, &p.tok, &keys, &kept), 0);
        assert_int_equal(kept.n, n);
    }
    assert_int_equal(red.ops->in_encoder(red.state, &e->x, 3, &p.tok, &keys, &kept), 0);
    same_answer(&kept, want, n);
    vl_arena_reset(&e->arena, 0);
    vl_reducer_done(&red);
}

/* Rounds of the same step over means that are formed anew each time. */
static void plain_rounds(const struct patches *p, uint32_t d, uint32_t budget, int32_t *into)
{
    static float value[MAX_N * MAX_D], unit[MAX_N * MAX_D];
    float weight[MAX_N];
    int32_t step[MAX_N], name[MAX_N];
    const uint32_t n = p->tok.n;
    memcpy(value, p->feat, (size_t)n * d * sizeof(*value));
    memcpy(weight, p->weight, n * sizeof(*weight));
    for (uint32_t i = 0; i < n; i++)
        into[i] = name[i] = (int32_t)i;
    for (uint32_t m = n, r; m > budget; m -= r) {
        uint32_t left = 0;
        r = m - budget < m / 2 ? m - budget : m / 2;
        memcpy(unit, value, (size_t)m * d * sizeof(*unit));
        normalize(unit, m, d);
        plain(unit, m, d, r, step);
        for (uint32_t i = 0; i < m; i++) {
            uint32_t to = (uint32_t)step[i];
            for (uint32_t k = 0; to != i && k < d; k++)
                value[to * d + k] = (weight[to] * value[to * d + k] + weight[i] * value[i * d + k]) /
                                    (weight[to] + weight[i]);
            weight[to] += to != i ? weight[i] : 0;
            for (uint32_t j = 0; to != i && j < n; j++)
                into[j] = into[j] == name[i] ? name[to] : into[j];
        }
        for (uint32_t i = 0; i < m; i++)
            if (step[i] == (int32_t)i) {
                memmove(value + left * d, value + i * d, d * sizeof(*value));
                weight[left] = weight[i];
                name[left++] = name[i];
            }
    }
}

static void check_after_projector(struct test_exec *e, struct test_rng *rng)
{
    static struct patches p;
    const uint32_t n = 2 + test_randn(rng, MAX_N - 2), d = 1 + test_randn(rng, MAX_D),
                   budget = 1 + test_randn(rng, n - 1);
    const struct vl_reducer_shape shape = {.max_tokens = n, .d_model = d};
    int32_t want[MAX_N];
    struct vl_reducer red;
    struct vl_kept kept;
    draw_tokens(&p, n, d, rng);
    plain_rounds(&p, d, budget, want);
    merger(&red, "tome_merge", &shape);
    assert_int_equal(red.ops->after_projector(red.state, &e->x, &p.tok, budget, &kept), 0);
    assert_int_equal(kept.n, budget);
    same_answer(&kept, want, n);
    vl_arena_reset(&e->arena, 0);
    float sum = 0, all = 0;
    for (uint32_t i = 0; i < n; i++)
        all += p.weight[i];
    assert_int_equal(vl_reducer_run(&red, &e->x, &p.tok, budget), 0);
    for (uint32_t i = 0; i < budget; i++)
        sum += p.weight[i];
    assert_true(sum == all);
    vl_arena_reset(&e->arena, 0);
    vl_reducer_done(&red);
}

static void test_tome_merge(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("tome_merge");
    struct test_exec e;
    test_exec_open(&e, "cpu", 1 << 20);
    for (int i = 0; i < 200; i++) {
        check_in_encoder(&e, &rng);
        check_after_projector(&e, &rng);
    }
    test_exec_close(&e);
}

static void test_options(void **state)
{
    (void)state;
    struct vl_reducer red;
    struct vl_error err = {0, ""};
    const struct vl_reducer_ops *ops;
    const struct vl_reducer_shape shape = {.max_tokens = 4, .d_model = 4, .max_patches = 16, .d_vision = 8};
    vl_auto(vl_params) p = NULL;
    assert_int_equal(vl_reducer_find(&ops, "tome_merge", NULL), 0);
    assert_int_equal(vl_params_new(&p), 0);
    assert_int_equal(vl_params_set_f64(p, "from", 3), 0);
    assert_int_equal(vl_params_set_f64(p, "to", 2), 0);
    assert_int_equal(vl_reducer_init(&red, ops, p, &shape, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "from=3 comes behind to=2"));
}

/* ---- resolution ---- */

static void test_resolution(void **state)
{
    (void)state;
    const struct vl_reducer_ops *ops;
    struct vl_reducer red;
    const struct vl_reducer_shape shape = {.max_tokens = 64, .d_model = 4};
    static const uint32_t cases[][4] = {/* grid, shuffle, budget, answer */
                                        {32, 4, 64, 32}, {32, 4, 63, 28}, {32, 4, 16, 16}, {32, 4, 15, 12},
                                        {32, 4, 1, 4},   {27, 3, 40, 18}, {9, 9, 1, 9}};
    assert_int_equal(vl_reducer_find(&ops, "resolution", NULL), 0);
    assert_int_equal(vl_reducer_init(&red, ops, NULL, &shape, NULL), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t grid = cases[i][0];
        assert_int_equal(ops->view(red.state, cases[i][1], cases[i][2], &grid), 0);
        assert_int_equal(grid, cases[i][3]);
    }
    uint32_t grid = 32;
    assert_int_equal(ops->view(red.state, 4, 0, &grid), -EINVAL);
    assert_int_equal(ops->view(red.state, 0, 4, &grid), -EINVAL);
    vl_reducer_done(&red);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matching),
        cmocka_unit_test(test_tome_merge),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_resolution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
