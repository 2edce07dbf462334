/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Reducers on a question's fork, through the decoder of the embedded model with frames of random rows: logits
 * are those of attention that masks what was dropped, layer by layer; settings that keep all change no bit;
 * the parent never notices. And the choices themselves against naive ones, with ties.
 */
#include "decoder/prune.h"
#include "model/model.h"
#include "tests/exec.h"

#include <math.h>
#include <string.h>

enum { FRAMES = 3, FRAME_TEXT = 4, QUESTION = 23, MAX_IDS = 600, MAX_VOCAB = 4096, MAX_LAYERS = 32 };

static const char *text_path, *mmproj_path;

struct fixture {
    struct test_exec e;
    struct vl_model *m;
    const struct vl_model_desc *d;
    const struct vl_arch *arch;
    struct vl_kv_pool *pool;
    struct vl_kv *kv;
    uint32_t grid;
    float *rows; /* [frame_tokens, d_model] */
};

/* Appends n tokens and runs them; prune and ret (logits of the last one) may be NULL. */
static void feed(struct fixture *f, struct vl_exec *x, struct vl_kv *kv, const int32_t *id, uint32_t n,
                 struct vl_prune *prune, float *ret)
{
    int64_t rel[MAX_IDS][3];
    const struct vl_tensor row = vl_tensor_2d(f->rows, VL_F32, f->d->frame_tokens, f->d->d_model);
    struct vl_kv_segment s = {.n = n, .extent = n, .unit = 1, .kind = id[0] < 0 ? VL_KV_VISUAL : VL_KV_TEXT};
    for (uint32_t i = 0; i < n; i++)
        rel[i][0] = rel[i][1] = rel[i][2] = i;
    s.rel = id[0] < 0 ? (const int64_t(*)[3])rel : NULL;
    struct vl_span span = {.kv = kv, .n = n, .n_logits = ret ? 1 : 0};
    const struct vl_batch b = {
        .id = id, .row = id[0] < 0 ? &row : NULL, .span = &span, .n_spans = 1, .n = n, .prune = prune};
    struct vl_tensor logits;
    assert_int_equal(vl_kv_append(kv, x, &s, &span.slot), 0);
    assert_int_equal(f->arch->run(f->m, x, &b, &logits), 0);
    if (ret)
        memcpy(ret, logits.data, f->d->n_vocab * sizeof(*ret));
    vl_arena_reset(x->scratch, 0);
}

static void open_fixture(struct fixture *f)
{
    struct vl_error err = {0, ""};
    struct test_rng rng = test_rng_new("prune");
    *f = (struct fixture){.m = NULL};
    test_exec_open(&f->e, "cpu", 32 << 20);
    if (vl_model_new(&f->m, text_path, mmproj_path, &f->e.x, &err) < 0)
        fail_msg("%s", err.msg);
    f->d = vl_model_get_desc(f->m);
    f->arch = vl_model_arch(f->m);
    struct vl_kv_geometry g = f->d->kv;
    const struct vl_kv_reserve forks = {3, 200, FRAMES * f->d->frame_tokens};
    g.k_dtype = g.v_dtype = VL_F32;
    g.page_slots = 16;
    assert_true(f->d->n_vocab <= MAX_VOCAB && g.n_layers <= MAX_LAYERS && f->d->frame_tokens <= MAX_IDS);
    assert_int_equal(vl_kv_pool_new(&f->pool, &f->e.x, &g, 64 << 20, &forks, &err), 0);
    assert_int_equal(vl_kv_new(&f->kv, f->pool, NULL, NULL, 2 * MAX_IDS, &err), 0);
    f->grid = (uint32_t)lround(sqrt(f->d->frame_tokens));
    f->rows = calloc((size_t)f->d->frame_tokens * f->d->d_model, sizeof(*f->rows));
    assert_non_null(f->rows);
    int32_t id[MAX_IDS];
    for (int frame = 0; frame < FRAMES; frame++) {
        for (int i = 0; i < FRAME_TEXT; i++)
            id[i] = (int32_t)test_randn(&rng, f->d->n_vocab);
        feed(f, &f->e.x, f->kv, id, FRAME_TEXT, NULL, NULL);
        for (uint32_t i = 0; i < f->d->frame_tokens; i++)
            id[i] = -1;
        for (uint32_t i = 0; i < f->d->frame_tokens * f->d->d_model; i++)
            f->rows[i] = 2 * test_randf(&rng);
        feed(f, &f->e.x, f->kv, id, f->d->frame_tokens, NULL, NULL);
    }
    vl_kv_commit(f->kv);
}

static void close_fixture(struct fixture *f)
{
    f->kv = vl_kv_unref(f->kv);
    f->pool = vl_kv_pool_unref(f->pool);
    f->m = vl_model_unref(f->m);
    free(f->rows);
    test_exec_close(&f->e);
}

static void open_prune(struct fixture *f, struct vl_prune *p, struct vl_kv *fork, const char *name,
                       const char *key, double value, uint32_t budget)
{
    struct vl_error err = {0, ""};
    const struct vl_reducer_ops *ops;
    vl_auto(vl_params) params = NULL;
    const struct vl_prune_shape s = {f->d->kv.n_layers, f->d->d_model, f->grid, f->grid, 2 * QUESTION};
    assert_int_equal(vl_reducer_find(&ops, name, &err), 0);
    assert_int_equal(vl_params_new(&params), 0);
    if (key)
        assert_int_equal(vl_params_set_f64(params, key, value), 0);
    if (vl_prune_init(p, fork, ops, params, budget, &s, &err) < 0)
        fail_msg("%s", err.msg);
}

/* The question in two pieces, of which the last one decides, and two tokens of a reply: ret [2] logits. */
static void ask(struct fixture *f, struct vl_exec *x, struct vl_kv *fork, struct vl_prune *prune,
                float (*ret)[MAX_VOCAB])
{
    int32_t id[QUESTION];
    for (int i = 0; i < QUESTION; i++)
        id[i] = (7 * i + 3) % (int32_t)f->d->n_vocab;
    feed(f, x, fork, id, 10, NULL, NULL);
    feed(f, x, fork, id + 10, QUESTION - 10, prune, ret[0]);
    feed(f, x, fork, id, 1, NULL, ret[1]);
}

/* Attention of a backend that masks, layer after layer, what the pruned fork does not see. */
static struct {
    const struct vl_backend_ops *ops;
    const struct vl_kv *pruned;
    unsigned layer, n_layers;
    uint32_t from; /* tokens from which on rows look through the mask */
    float bias[4 * MAX_IDS];
} mask;

static int masked_attention(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *q,
                            const struct vl_attn_seq *seq, uint32_t n_seqs, const struct vl_attn_params *p)
{
    struct vl_attn_params with = *p;
    const uint32_t n = seq->kv->n_tokens;
    const struct vl_tensor bias = vl_tensor_1d(mask.bias, VL_F32, n);
    for (uint32_t i = 0; i < n; i++)
        mask.bias[i] = vl_kv_sees(mask.pruned, mask.layer, i) ? 0 : -INFINITY;
    mask.layer = (mask.layer + 1) % mask.n_layers;
    with.key_bias = n > mask.from ? &bias : NULL;
    return mask.ops->attention(x, y, q, seq, n_seqs, &with);
}

static double worst(const float *a, const float *b, uint32_t n)
{
    double most = 0, size = 0;
    for (uint32_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - b[i]));
        size = fmax(size, fabs((double)b[i]));
    }
    return most / size;
}

static void check_masked(struct fixture *f, const char *name, uint32_t budget)
{
    static float got[2][MAX_VOCAB], want[2][MAX_VOCAB];
    struct vl_prune p;
    vl_auto(vl_kv) fork = NULL;
    vl_auto(vl_kv) whole = NULL;
    assert_int_equal(vl_kv_fork(&fork, f->kv, 2 * QUESTION), 0);
    assert_int_equal(vl_kv_fork(&whole, f->kv, 2 * QUESTION), 0);
    open_prune(f, &p, fork, name, NULL, 0, budget);
    ask(f, &f->e.x, fork, &p, got);
    assert_true(p.n_pruned > 0 && p.n_pruned < p.n_visual);
    if (budget)
        assert_true(p.n_visual - p.n_pruned <= FRAMES * budget);
    struct vl_backend_ops ops = *f->e.x.ops;
    struct vl_exec x = f->e.x;
    ops.attention = masked_attention;
    x.ops = &ops;
    mask.ops = f->e.x.ops;
    mask.pruned = fork;
    mask.layer = 0;
    mask.n_layers = f->d->kv.n_layers;
    mask.from = vl_kv_n_tokens(f->kv) + 10;
    ask(f, &x, whole, NULL, want);
    for (int i = 0; i < 2; i++) {
        double e = worst(got[i], want[i], f->d->n_vocab);
        (void)printf("  %s budget %u: %u of %u left out, logits differ by %.1e\n", name, budget, p.n_pruned,
                     p.n_visual, e);
        assert_true(e < 1e-5);
    }
    vl_prune_done(&p);
}

/* Each layer in its own way where the policy is of that kind. */
static void test_masked(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f);
    check_masked(&f, "feather", 0);
    check_masked(&f, "feather", 5);
    check_masked(&f, "zipvl", 0);
    check_masked(&f, "zipvl", 9);
    close_fixture(&f);
}

static void test_keeps_all(void **state)
{
    (void)state;
    static float dense[2][MAX_VOCAB], got[2][MAX_VOCAB];
    struct fixture f;
    open_fixture(&f);
    static const struct {
        const char *name, *key;
        double value;
        uint32_t budget;
    } all[] = {{"feather", "share", 1, 0},
               {"zipvl", "tau", 1, 0},
               {"feather", NULL, 0, MAX_IDS},
               {"zipvl", NULL, 0, MAX_IDS}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct vl_prune p;
        vl_auto(vl_kv) fork = NULL;
        vl_auto(vl_kv) whole = NULL;
        assert_int_equal(vl_kv_fork(&whole, f.kv, 2 * QUESTION), 0);
        ask(&f, &f.e.x, whole, NULL, dense);
        assert_int_equal(vl_kv_fork(&fork, f.kv, 2 * QUESTION), 0);
        open_prune(&f, &p, fork, all[i].name, all[i].key, all[i].value, all[i].budget);
        ask(&f, &f.e.x, fork, &p, got);
        assert_int_equal(p.n_pruned, 0);
        assert_memory_equal(got, dense, sizeof(got));
        vl_prune_done(&p);
    }
    close_fixture(&f);
}

/* What a question leaves out its parent sees, and so does the next question. */
static void test_isolation(void **state)
{
    (void)state;
    static float before[2][MAX_VOCAB], pruned[2][MAX_VOCAB], after[2][MAX_VOCAB];
    struct fixture f;
    struct vl_kv_pool_stats one, two;
    open_fixture(&f);
    for (int k = 0; k < 2; k++) {
        vl_auto(vl_kv) fork = NULL;
        vl_auto(vl_kv) other = NULL;
        struct vl_prune p;
        assert_int_equal(vl_kv_fork(&other, f.kv, 2 * QUESTION), 0);
        ask(&f, &f.e.x, other, NULL, k ? after : before);
        vl_kv_pool_get_stats(f.pool, &one);
        assert_int_equal(vl_kv_fork(&fork, f.kv, 2 * QUESTION), 0);
        open_prune(&f, &p, fork, "feather", NULL, 0, 0);
        ask(&f, &f.e.x, fork, &p, pruned);
        vl_prune_done(&p);
        vl_kv_pool_get_stats(f.pool, &two);
        assert_true(two.bytes_used > one.bytes_used); /* pages of the fork are counted as ever */
    }
    assert_memory_equal(before, after, sizeof(before));
    assert_memory_not_equal(before, pruned, sizeof(before));
    close_fixture(&f);
}

/* ---- choices ---- */

enum { N_HEADS = 2, SIDE = 8, N = 3 * SIDE * SIDE };

static struct {
    struct vl_grid_pos pos[N];
    float score[N_HEADS][N], mean[N];
    uint32_t from[N]; /* the former index of what is left */
    struct vl_visual_tokens tok;
} in;

static void draw(struct test_rng *rng, int kind)
{
    for (uint32_t i = 0; i < N; i++) {
        in.pos[i] =
            (struct vl_grid_pos){i / (SIDE * SIDE), (uint16_t)(i / SIDE % SIDE), (uint16_t)(i % SIDE)};
        for (int h = 0; h < N_HEADS; h++)
            in.score[h][i] = kind ? (float)test_randn(rng, 4) : fabsf(test_randf(rng));
        in.mean[i] = (in.score[0][i] / 2) + (in.score[1][i] / 2);
    }
    in.tok = (struct vl_visual_tokens){.pos = in.pos, .n = N, .grid_w = SIDE, .grid_h = SIDE};
}

/* How many come before i in a ranking. */
static uint32_t rank_of(uint32_t i)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < in.tok.n; j++)
        n += in.mean[j] > in.mean[i] || (in.mean[j] == in.mean[i] && j < i);
    return n;
}

static uint32_t answer(struct test_exec *e, const struct vl_reducer *r, unsigned layer, uint32_t budget,
                       bool *ret)
{
    struct vl_kept kept = {.n = 0};
    struct vl_tensor score = vl_tensor_2d(in.score, VL_F32, N_HEADS, in.tok.n);
    score.stride[0] = sizeof(in.score[0]);
    assert_int_equal(r->ops->in_decoder(r->state, &e->x, layer, &in.tok, &score, budget, &kept), 0);
    memset(ret, 0, N * sizeof(*ret));
    assert_true(kept.n >= 1 && kept.n <= in.tok.n && (!budget || layer < 16 || kept.n <= budget));
    for (uint32_t i = 0; i < kept.n; i++) {
        int32_t at = ((const int32_t *)kept.index.data)[i];
        assert_true(at >= 0 && (uint32_t)at < in.tok.n && !ret[at]);
        assert_true(i == 0 || at > ((const int32_t *)kept.index.data)[i - 1]);
        ret[at] = true;
    }
    vl_arena_reset(&e->arena, 0);
    return kept.n;
}

static void open_reducer(struct vl_reducer *r, const char *name)
{
    struct vl_error err = {0, ""};
    const struct vl_reducer_ops *ops;
    const struct vl_reducer_shape s = {.max_tokens = N, .n_layers = 32};
    assert_int_equal(vl_reducer_find(&ops, name, &err), 0);
    assert_int_equal(vl_reducer_init(r, ops, NULL, &s, &err), 0);
}

static void test_feather_choice(void **state)
{
    (void)state;
    struct test_exec e;
    struct vl_reducer r;
    struct vl_reducer_probe how;
    struct test_rng rng = test_rng_new("feather");
    bool first[N], second[N];
    test_exec_open(&e, "cpu", 1 << 20);
    open_reducer(&r, "feather");
    for (unsigned layer = 0; layer < 32; layer++)
        assert_int_equal(r.ops->probe(r.state, layer, 32, &how), layer == 8 || layer == 16);
    assert_true(how.n_queries == 1 && how.undo_rope && how.among_visual && !how.this_layer);
    for (int round = 0; round < 20; round++) {
        r.ops->reset(r.state);
        draw(&rng, round % 2);
        (void)answer(&e, &r, 8, 0, first);
        for (uint32_t i = 0; i < N; i++)
            assert_int_equal(first[i], rank_of(i) < 58 || /* 30 % of 192 */
                                           (in.pos[i].y % 3 == 1 && in.pos[i].x % 3 == 1));
        uint32_t n = 0;
        for (uint32_t i = 0; i < N; i++) {
            if (!first[i])
                continue;
            in.pos[n] = in.pos[i];
            in.score[0][n] = in.score[0][i];
            in.score[1][n] = in.score[1][i];
            in.mean[n++] = in.mean[i];
        }
        in.tok.n = n;
        (void)answer(&e, &r, 16, 0, second);
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(second[i], rank_of(i) < 18 || /* 9 % of 192 */
                                            (in.pos[i].y % 6 == 1 && in.pos[i].x % 6 == 1));
        draw(&rng, round % 2);
        const uint32_t budget = 1 + test_randn(&rng, N);
        r.ops->reset(r.state);
        n = answer(&e, &r, 8, budget, first);
        assert_true(n >= budget);
        assert_int_equal(answer(&e, &r, 16, budget, second), budget);
    }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

static void test_zipvl_choice(void **state)
{
    (void)state;
    struct test_exec e;
    struct vl_reducer r;
    struct vl_reducer_probe how;
    struct test_rng rng = test_rng_new("zipvl");
    bool kept[N];
    test_exec_open(&e, "cpu", 1 << 20);
    open_reducer(&r, "zipvl");
    assert_true(r.ops->probe(r.state, 5, 32, &how) && how.this_layer && !how.undo_rope);
    for (int round = 0; round < 20; round++) {
        draw(&rng, round % 2);
        double all = 0, before;
        for (uint32_t i = 0; i < N; i++)
            all += (double)in.mean[i];
        uint32_t n = answer(&e, &r, 5, 0, kept);
        for (uint32_t i = 0; i < N; i++) { /* what is left out has the mass before it already */
            before = 0;
            for (uint32_t j = 0; j < N; j++)
                before += rank_of(j) < rank_of(i) ? (double)in.mean[j] : 0;
            if (fabs(before - 0.975 * all) > 1e-4)
                assert_int_equal(kept[i], before < 0.975 * all);
        }
        assert_int_equal(answer(&e, &r, 5, n / 2, kept), n / 2);
    }
    memset(in.score, 0, sizeof(in.score));
    assert_int_equal(answer(&e, &r, 5, 0, kept), N);
    vl_reducer_done(&r);
    test_exec_close(&e);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 77;
    text_path = argv[1];
    mmproj_path = argv[2];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masked),       cmocka_unit_test(test_keeps_all),
        cmocka_unit_test(test_isolation),    cmocka_unit_test(test_feather_choice),
        cmocka_unit_test(test_zipvl_choice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
