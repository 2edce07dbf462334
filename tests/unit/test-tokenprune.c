/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Applying a reducer's answer, and what `uniform` keeps. The contract of all reducers is in
 * tests/conformance. */
#include "tests/exec.h"
#include "tokenprune/reducer.h"

#include <math.h>
#include <string.h>

enum { N = 60, WIDTH = 96, SCRATCH = 1 << 20 };

struct tokens {
    struct vl_visual_tokens tok;
    float feat[N][WIDTH], weight[N], saliency[N];
    struct vl_grid_pos pos[N];
};

static void draw(struct tokens *t, uint32_t w, uint32_t n, struct test_rng *rng)
{
    for (uint32_t i = 0; i < n; i++) {
        for (int k = 0; k < WIDTH; k++)
            t->feat[i][k] = test_randf(rng);
        t->weight[i] = (float)(1 + test_randn(rng, 4));
        t->saliency[i] = test_randf(rng);
        t->pos[i] = (struct vl_grid_pos){0, (uint16_t)(i / w), (uint16_t)(i % w)};
    }
    t->tok = (struct vl_visual_tokens){.feat = vl_tensor_2d(t->feat, VL_F32, n, WIDTH),
                                       .pos = t->pos,
                                       .weight = t->weight,
                                       .saliency = vl_tensor_1d(t->saliency, VL_F32, n),
                                       .n = n,
                                       .grid_w = w,
                                       .grid_h = n / w};
}

static int apply(struct test_exec *e, struct vl_visual_tokens *tok, int32_t *index, uint32_t n, int32_t *into)
{
    static int32_t host[VL_REDUCER_HOST * N];
    struct vl_kept kept = {.n = n, .index = vl_tensor_1d(index, VL_I32, n)};
    if (into)
        kept.merge_into = vl_tensor_1d(into, VL_I32, tok->n);
    return vl_visual_tokens_apply(&e->x, tok, &kept, host);
}

static void test_drop(void **state)
{
    (void)state;
    static struct tokens t, was;
    struct test_exec e;
    struct test_rng rng = test_rng_new("tokenprune drop");
    test_exec_open(&e, "cpu", SCRATCH);
    draw(&t, 10, N, &rng);
    was = t;
    int32_t index[] = {0, 3, 4, 17, 59};
    assert_int_equal(apply(&e, &t.tok, index, 5, NULL), 0);
    assert_int_equal(t.tok.n, 5);
    assert_int_equal(t.tok.grid_w, 10);
    for (int j = 0; j < 5; j++) {
        assert_memory_equal((float *)t.tok.feat.data + j * WIDTH, was.feat[index[j]], sizeof(was.feat[0]));
        assert_memory_equal(&t.pos[j], &was.pos[index[j]], sizeof(was.pos[0]));
        assert_true(t.weight[j] == was.weight[index[j]]);
        assert_true(((float *)t.tok.saliency.data)[j] == was.saliency[index[j]]);
    }
    vl_arena_reset(&e.arena, 0);
    test_exec_close(&e);
}

/* Weighted means against sums in double; the weights are summed, none is lost. */
static void test_merge(void **state)
{
    (void)state;
    static struct tokens t, was;
    struct test_exec e;
    struct test_rng rng = test_rng_new("tokenprune merge");
    test_exec_open(&e, "cpu", SCRATCH);
    for (int round = 0; round < 200; round++) {
        int32_t index[N], into[N];
        uint32_t n = 0;
        draw(&t, 10, N, &rng);
        was = t;
        for (int32_t i = 0; i < N; i++)
            if (test_randn(&rng, 3) == 0 || (n == 0 && i == N - 1))
                index[n++] = i;
        for (int32_t i = 0; i < N; i++)
            into[i] = index[test_randn(&rng, n)];
        for (uint32_t j = 0; j < n; j++)
            into[index[j]] = index[j];
        assert_int_equal(apply(&e, &t.tok, index, n, into), 0);
        for (uint32_t j = 0; j < n; j++) {
            double sum[WIDTH] = {0}, weight = 0;
            for (int i = 0; i < N; i++) {
                if (into[i] != index[j])
                    continue;
                for (int k = 0; k < WIDTH; k++)
                    sum[k] += (double)was.weight[i] * (double)was.feat[i][k];
                weight += (double)was.weight[i];
            }
            assert_true((double)t.weight[j] == weight);
            for (int k = 0; k < WIDTH; k++)
                assert_true(fabs(sum[k] / weight -
                                 (double)((float *)t.tok.feat.data)[j * WIDTH + (uint32_t)k]) < 1e-5);
        }
        vl_arena_reset(&e.arena, 0);
    }
    test_exec_close(&e);
}

static void test_refuses(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct test_rng rng = test_rng_new("tokenprune refuses");
    test_exec_open(&e, "cpu", SCRATCH);
    draw(&t, 10, N, &rng);
    int32_t twice[] = {3, 3}, down[] = {4, 3}, far[] = {3, N}, negative[] = {-1, 3}, good[] = {3, 4}, into[N];
    assert_int_equal(apply(&e, &t.tok, twice, 2, NULL), -EINVAL);
    assert_int_equal(apply(&e, &t.tok, down, 2, NULL), -EINVAL);
    assert_int_equal(apply(&e, &t.tok, far, 2, NULL), -EINVAL);
    assert_int_equal(apply(&e, &t.tok, negative, 2, NULL), -EINVAL);
    for (int i = 0; i < N; i++)
        into[i] = 3;
    assert_int_equal(apply(&e, &t.tok, good, 2, into), -EINVAL); /* 4 survives and is merged */
    into[4] = 4;
    into[9] = 8;
    assert_int_equal(apply(&e, &t.tok, good, 2, into), -EINVAL); /* 8 does not survive */
    assert_int_equal(t.tok.n, N);
    test_exec_close(&e);
}

/* L1.5: nothing to reduce is bit for bit nothing done. */
static void test_identity(void **state)
{
    (void)state;
    static struct tokens t, was;
    struct test_exec e;
    struct test_rng rng = test_rng_new("tokenprune identity");
    struct vl_reducer r = {.ops = NULL};
    const struct vl_reducer_shape shape = {.max_tokens = N, .d_model = WIDTH, .n_layers = 1};
    test_exec_open(&e, "cpu", SCRATCH);
    draw(&t, 10, N, &rng);
    was = t;
    assert_int_equal(vl_reducer_init(&r, vl_reducers[0], NULL, &shape, NULL), 0);
    assert_int_equal(vl_reducer_run(&r, &e.x, &t.tok, N), 0);
    assert_int_equal(vl_reducer_run(NULL, &e.x, &t.tok, 1), 0);
    assert_int_equal(vl_reducer_run(&r, &e.x, &t.tok, 0), 0);
    assert_memory_equal(&t, &was, sizeof(t));
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* Exactly the budget, and both ways of the grid alike: 16 of 7 x 8 are 4 x 4, no stripes. */
static void test_uniform(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct test_rng rng = test_rng_new("uniform");
    const struct vl_reducer_ops *ops = NULL;
    struct vl_reducer r = {.ops = NULL};
    const struct vl_reducer_shape shape = {.max_tokens = N, .d_model = WIDTH, .n_layers = 1};
    test_exec_open(&e, "cpu", SCRATCH);
    assert_int_equal(vl_reducer_find(&ops, "uniform", NULL), 0);
    assert_int_equal(vl_reducer_init(&r, ops, NULL, &shape, NULL), 0);
    static const uint32_t grids[][2] = {{10, 60}, {8, 56}, {1, 17},
                                        {17, 17}, {7, 35}, {10, 57 /* no full grid */}};
    for (size_t g = 0; g < sizeof(grids) / sizeof(grids[0]); g++)
        for (uint32_t budget = 1; budget <= grids[g][1] + 3; budget++) {
            uint32_t w = grids[g][0], n = grids[g][1], per_col[64] = {0};
            draw(&t, w, n, &rng);
            assert_int_equal(vl_reducer_run(&r, &e.x, &t.tok, budget), 0);
            assert_int_equal(t.tok.n, budget < n ? budget : n);
            for (uint32_t i = 0; i < t.tok.n; i++)
                per_col[t.pos[i].x]++;
            for (uint32_t c = 0; w == 8 && budget == 16 && c < 8; c++)
                assert_true(per_col[c] == 0 || per_col[c] == 4);
            vl_arena_reset(&e.arena, 0);
        }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drop),     cmocka_unit_test(test_merge),   cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_identity), cmocka_unit_test(test_uniform),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
