/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Every registered reducer keeps the contract in tokenprune/reducer.h, on grids of many shapes with features
 * that are random, equal (ties) and alike from frame to frame. A new reducer needs no test here. */
#include "tests/exec.h"
#include "tokenprune/reducer.h"

#include <string.h>

enum { MAX_N = 400, WIDTH = 24, FRAMES = 4 };

struct frame_tokens {
    struct vl_visual_tokens tok;
    float feat[MAX_N][WIDTH], weight[MAX_N], saliency[MAX_N];
    struct vl_grid_pos pos[MAX_N];
};

static void draw(struct frame_tokens *f, const struct frame_tokens *before, uint32_t slices, uint32_t h,
                 uint32_t w, int kind, struct test_rng *rng)
{
    uint32_t n = slices * h * w;
    for (uint32_t i = 0; i < n; i++) {
        bool still = kind == 2 && before && test_randn(rng, 4) > 0;
        for (int k = 0; k < WIDTH; k++)
            f->feat[i][k] = kind == 1 ? 0.5f : still ? before->feat[i][k] : test_randf(rng);
        f->weight[i] = (float)(1 + test_randn(rng, 3));
        f->pos[i] = (struct vl_grid_pos){i / (h * w), (uint16_t)(i / w % h), (uint16_t)(i % w)};
    }
    f->tok = (struct vl_visual_tokens){.feat = vl_tensor_2d(f->feat, VL_F32, n, WIDTH),
                                       .pos = f->pos,
                                       .weight = f->weight,
                                       .n = n,
                                       .grid_w = w,
                                       .grid_h = h};
    for (uint32_t i = 0; i < n; i++)
        f->saliency[i] = kind == 1 ? 1 : (float)test_randn(rng, 8);
    if (kind != 0) /* the same contract with and without */
        f->tok.saliency = vl_tensor_1d(f->saliency, VL_F32, n);
}

static void check_kept(const struct vl_kept *kept, uint32_t n_in, uint32_t budget)
{
    const int32_t *index = kept->index.data, *into = kept->merge_into.data;
    assert_true(kept->n >= 1 && kept->n <= budget);
    assert_int_equal(kept->index.dim[0], kept->n);
    for (uint32_t i = 0; i < kept->n; i++) {
        assert_true(index[i] >= 0 && (uint32_t)index[i] < n_in);
        assert_true(i == 0 || index[i] > index[i - 1]);
        assert_true(!into || into[index[i]] == index[i]);
    }
    for (uint32_t i = 0; into && i < n_in; i++) {
        bool survives = false;
        for (uint32_t j = 0; j < kept->n; j++)
            survives = survives || index[j] == into[i];
        assert_true(survives);
    }
}

/* One answer for each frame, the contract checked; indices are appended to ret for comparing runs. */
static uint32_t answers(struct test_exec *e, const struct vl_reducer *r, const struct frame_tokens *frame,
                        uint32_t budget, int32_t *ret)
{
    uint32_t m = 0;
    for (int f = 0; f < FRAMES; f++) {
        struct vl_kept kept = {.n = 0};
        size_t mark = vl_arena_mark(&e->arena);
        assert_int_equal(r->ops->after_projector(r->state, &e->x, &frame[f].tok, budget, &kept), 0);
        check_kept(&kept, frame[f].tok.n, budget);
        ret[m++] = (int32_t)kept.n;
        memcpy(ret + m, kept.index.data, kept.n * sizeof(*ret));
        m += kept.n;
        vl_arena_reset(&e->arena, mark);
    }
    return m;
}

static void check_reducer(struct test_exec *e, const struct vl_reducer_ops *ops, struct test_rng *rng)
{
    static struct frame_tokens frame[FRAMES];
    static int32_t one[FRAMES * (MAX_N + 1)], two[FRAMES * (MAX_N + 1)];
    static const uint32_t grids[][3] = {{1, 8, 8}, {1, 1, 64}, {1, 64, 1}, {1, 7, 13},
                                        {2, 6, 9}, {3, 2, 2},  {1, 1, 2}};
    struct vl_error err = {0, ""};
    struct vl_reducer r = {.ops = NULL};
    const struct vl_reducer_shape shape = {.max_tokens = MAX_N, .d_model = WIDTH, .n_layers = 4};
    if (vl_reducer_init(&r, ops, NULL, &shape, &err) < 0)
        fail_msg("%s: %s", ops->name, err.msg);
    for (size_t g = 0; g < sizeof(grids) / sizeof(grids[0]); g++)
        for (int kind = 0; kind < 3; kind++)
            for (int round = 0; round < 8; round++) {
                for (int f = 0; f < FRAMES; f++)
                    draw(&frame[f], f ? &frame[f - 1] : NULL, grids[g][0], grids[g][1], grids[g][2], kind,
                         rng);
                uint32_t n = frame[0].tok.n, budget = round == 0 ? 1 : 1 + test_randn(rng, n - 1);
                r.ops->reset(r.state);
                uint32_t m = answers(e, &r, frame, budget, one);
                r.ops->reset(r.state);
                assert_int_equal(answers(e, &r, frame, budget, two), m);
                assert_memory_equal(one, two, m * sizeof(*one));
            }
    vl_reducer_done(&r);
}

static void test_contract(void **state)
{
    (void)state;
    struct test_exec e;
    struct test_rng rng = test_rng_new("reducers");
    test_exec_open(&e, "cpu", 1 << 20);
    for (int i = 0; vl_reducers[i]; i++)
        if (vl_reducers[i]->after_projector)
            check_reducer(&e, vl_reducers[i], &rng);
    test_exec_close(&e);
}

/* A question's answers, layer by layer; each layer has what the one before it left. */
static uint32_t decoder_answers(struct test_exec *e, const struct vl_reducer *r, const struct frame_tokens *f,
                                uint32_t budget, int32_t *ret)
{
    enum { LAYERS = 12 };
    static struct vl_grid_pos pos[MAX_N];
    struct vl_visual_tokens tok = f->tok;
    uint32_t m = 0;
    memcpy(pos, f->pos, sizeof(pos));
    tok.feat = (struct vl_tensor){.data = NULL};
    tok.pos = pos;
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        struct vl_reducer_probe how = {.n_queries = 0};
        struct vl_kept kept = {.n = 0};
        struct vl_tensor score;
        if (!r->ops->probe(r->state, layer, LAYERS, &how))
            continue;
        assert_true(how.n_queries > 0);
        assert_int_equal(vl_scratch_2d(&e->x, &score, VL_F32, 3, tok.n), 0);
        for (uint32_t i = 0; i < 3 * tok.n; i++) /* ties in one kind of frame */
            ((float *)score.data)[i] = f->saliency[i % tok.n] / 8;
        assert_int_equal(r->ops->in_decoder(r->state, &e->x, layer, &tok, &score, budget, &kept), 0);
        check_kept(&kept, tok.n, tok.n);
        assert_null(kept.merge_into.data);
        ret[m++] = (int32_t)kept.n;
        memcpy(ret + m, kept.index.data, kept.n * sizeof(*ret));
        for (uint32_t i = 0; i < kept.n && !how.this_layer; i++)
            pos[i] = pos[ret[m + i]];
        tok.n = how.this_layer ? tok.n : kept.n;
        m += kept.n;
        vl_arena_reset(&e->arena, 0);
    }
    return m;
}

static void test_in_decoder(void **state)
{
    (void)state;
    static struct frame_tokens frame;
    static int32_t one[12 * (MAX_N + 1)], two[12 * (MAX_N + 1)];
    struct test_exec e;
    struct test_rng rng = test_rng_new("reducers on a question");
    test_exec_open(&e, "cpu", 1 << 20);
    for (int i = 0; vl_reducers[i]; i++) {
        struct vl_error err = {0, ""};
        struct vl_reducer r = {.ops = NULL};
        const struct vl_reducer_shape shape = {.max_tokens = MAX_N, .d_model = WIDTH, .n_layers = 12};
        assert_int_equal(!vl_reducers[i]->in_decoder, !vl_reducers[i]->probe);
        assert_true(vl_reducers[i]->needs_question || !vl_reducers[i]->in_decoder);
        if (!vl_reducers[i]->in_decoder)
            continue;
        assert_int_equal(vl_reducer_init(&r, vl_reducers[i], NULL, &shape, &err), 0);
        for (int kind = 0; kind < 3; kind++)
            for (uint32_t budget = 0; budget < 100; budget += 33) {
                draw(&frame, NULL, 3, 8, 7, kind, &rng);
                r.ops->reset(r.state);
                uint32_t m = decoder_answers(&e, &r, &frame, budget, one);
                r.ops->reset(r.state);
                assert_int_equal(decoder_answers(&e, &r, &frame, budget, two), m);
                assert_memory_equal(one, two, m * sizeof(*one));
            }
        vl_reducer_done(&r);
    }
    test_exec_close(&e);
}

/* The dry run: a reducer touches no backend memory by itself, and still reduces. */
static void test_null_backend(void **state)
{
    (void)state;
    static struct frame_tokens frame;
    struct test_exec e;
    struct test_rng rng = test_rng_new("reducers on null");
    test_exec_open(&e, "null", 1 << 20);
    for (int i = 0; vl_reducers[i]; i++) {
        if (!vl_reducers[i]->after_projector)
            continue;
        struct vl_error err = {0, ""};
        struct vl_reducer r = {.ops = NULL};
        const struct vl_reducer_shape shape = {.max_tokens = 64, .d_model = WIDTH, .n_layers = 4};
        assert_int_equal(vl_reducer_init(&r, vl_reducers[i], NULL, &shape, &err), 0);
        draw(&frame, NULL, 1, 8, 8, 0, &rng);
        assert_int_equal(vl_scratch_2d(&e.x, &frame.tok.feat, VL_F32, 64, WIDTH), 0);
        assert_int_equal(vl_reducer_run(&r, &e.x, &frame.tok, 10), 0);
        assert_true(frame.tok.n >= 1 && frame.tok.n <= 10 && frame.tok.feat.dim[0] == frame.tok.n);
        vl_arena_reset(&e.arena, 0);
        vl_reducer_done(&r);
    }
    test_exec_close(&e);
}

/* Who sizes an arena for reducers asks vl_reducer_scratch. */
static void test_scratch(void **state)
{
    (void)state;
    static struct frame_tokens frame;
    struct test_exec e;
    struct test_rng rng = test_rng_new("scratch of reducers");
    const struct vl_reducer_shape shape = {.max_tokens = MAX_N, .d_model = WIDTH, .n_layers = 4};
    test_exec_open(&e, "cpu", 1 << 20);
    for (int i = 0; vl_reducers[i]; i++) {
        struct vl_error err = {0, ""};
        struct vl_reducer r = {.ops = NULL};
        if (!vl_reducers[i]->after_projector)
            continue;
        assert_int_equal(vl_reducer_init(&r, vl_reducers[i], NULL, &shape, &err), 0);
        for (uint32_t budget = 1; budget < MAX_N; budget += 57) {
            draw(&frame, NULL, 1, 20, 20, 2, &rng);
            e.arena.peak = 0;
            assert_int_equal(vl_reducer_run(&r, &e.x, &frame.tok, budget), 0);
            if (e.arena.peak > vl_reducer_scratch(&shape))
                fail_msg("%s takes %zu bytes of scratch, not %zu", r.ops->name, e.arena.peak,
                         vl_reducer_scratch(&shape));
            vl_arena_reset(&e.arena, 0);
        }
        vl_reducer_done(&r);
    }
    test_exec_close(&e);
}

static void test_names(void **state)
{
    (void)state;
    struct vl_error err = {0, ""};
    const struct vl_reducer_ops *found = NULL;
    for (int i = 0; vl_reducers[i]; i++) {
        assert_true(vl_reducers[i]->name && vl_reducers[i]->paper && vl_reducers[i]->params);
        assert_int_equal(vl_reducer_find(&found, vl_reducers[i]->name, &err), 0);
        assert_ptr_equal(found, vl_reducers[i]);
    }
    assert_int_equal(vl_reducer_find(&found, "unifrom", &err), -EINVAL);
    assert_non_null(strstr(err.msg, "did you mean 'uniform'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract),     cmocka_unit_test(test_in_decoder),
        cmocka_unit_test(test_null_backend), cmocka_unit_test(test_scratch),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
