/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * tome_merge: token merging, after ToMe (arXiv 2210.09461). Published: in every block of the encoder, between
 * attention and feed-forward, the tokens are split by turns into two sets; each of the first finds the one of
 * the second with the most similar key (cosine, keys averaged over heads), and the r best pairs become their
 * mean, counted by how many patches each stands for. Later attention adds the log of that count to the
 * logits (proportional attention), so that a merged token weighs what its patches did.
 *
 * What ours changes: (a) there is no class token to protect; (b) order is kept, and before the pixel shuffle
 * every patch gets its row back, so that merging in the encoder saves time there and no visual token; (c) it
 * is off unless `r` is given, and `from`, `to` bound the layers; (d) the budget of visual tokens is met by
 * the same step behind the projector, on the tokens themselves instead of keys, and as many times as it
 * takes, since one round merges half at most.
 *
 * Measured in an encoder of SmolVLM-256M's shape, q8_0, one thread: 20, 40 and 64 pairs a layer leave 784,
 * 544 and 256 of 1024 patches and take 0.95, 0.80 and 0.61 of its time. A view of a quarter of the patches,
 * `resolution`, takes 0.21: merging in the encoder does not beat that saver in time.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): at half of the tokens far above
 * `uniform` and, for answers, level with `resolution` at the same time of a frame; below `resolution` with
 * fewer. It does not beat both, and is no default.
 */
#include "tokenprune/matching.h"
#include "tokenprune/reducer.h"
#include "tokenprune/similarity.h"

#include <string.h>

struct tome {
    uint32_t max_tokens, d_model, max_patches, d_vision;
    uint32_t r, from, to;
    float *value;          /* [max_tokens, d_model] or [max_patches, d_vision]: means, or keys of all heads */
    float *unit, *work;    /* as many: one long; [vl_match_work]: the odd ones turned over */
    float *weight;         /* [max_tokens] */
    struct vl_match *pair; /* [most / 2 + 1] */
    int32_t *into, *index; /* [most] of one round */
    int32_t *row, *target; /* [most] the token that each row of a round is; where each token went */
};

enum { NO_LAYER = 1023 };
static const struct vl_param_desc params[] = {
    {"r", "pairs of patches merged in each layer of the encoder; 0: merge after the projector only", 0, 0,
     8192},
    {"from", "first layer of the encoder that merges", 0, 0, NO_LAYER},
    {"to", "last layer of the encoder that merges", NO_LAYER, 0, NO_LAYER},
    {NULL, NULL, 0, 0, 0},
};

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t number(const struct vl_params *p, const char *key, uint32_t def)
{
    double v = def;
    (void)vl_params_f64(p, key, &v); /* of the right kind: the options were checked */
    return (uint32_t)v;
}

/* Memory handed out piece by piece; base NULL: only counted. */
struct pieces {
    char *base;
    size_t size;
};

static void *piece(struct pieces *p, size_t size)
{
    void *at = p->base ? p->base + p->size : NULL;
    p->size += size;
    return at;
}

/* The arrays behind the head of the state, in `base`, or NULL to count. */
static size_t lay_out(struct tome *t, void *base)
{
    const uint32_t most = larger(t->max_tokens, t->max_patches);
    const size_t wide = (size_t)t->max_tokens * t->d_model, keys = (size_t)t->max_patches * t->d_vision;
    const size_t values = (wide > keys ? wide : keys) * sizeof(float);
    const size_t odd = vl_match_work(t->max_tokens, t->d_model),
                 odd_keys = vl_match_work(t->max_patches, t->d_vision);
    struct pieces p = {base, 0};
    t->value = piece(&p, values);
    t->unit = piece(&p, values);
    t->work = piece(&p, (odd > odd_keys ? odd : odd_keys) * sizeof(*t->work));
    t->weight = piece(&p, t->max_tokens * sizeof(*t->weight));
    t->pair = piece(&p, (most / 2 + 1) * sizeof(*t->pair));
    t->into = piece(&p, most * sizeof(*t->into));
    t->index = piece(&p, most * sizeof(*t->index));
    t->row = piece(&p, t->max_tokens * sizeof(*t->row));
    t->target = piece(&p, t->max_tokens * sizeof(*t->target));
    return p.size;
}

static struct tome head(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    struct tome t = {
        .max_tokens = s->max_tokens,
        .d_model = s->d_model,
        .r = number(p, "r", 0),
        .from = number(p, "from", 0),
        .to = number(p, "to", NO_LAYER),
    };
    if (t.r) {
        t.max_patches = s->max_patches;
        t.d_vision = s->d_vision;
    }
    return t;
}

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    struct tome t = head(p, s);
    return sizeof(t) + lay_out(&t, NULL);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct tome *t = state;
    *t = head(p, s);
    (void)lay_out(t, t + 1);
    if (t->from > t->to)
        return vl_error_set(err, -EINVAL, "tome_merge: from=%u comes behind to=%u", t->from, t->to);
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is answered on its own */
}

static int answer(struct vl_exec *x, struct vl_kept *ret, int32_t *index, uint32_t n, int32_t *into,
                  uint32_t n_in)
{
    struct vl_kept kept = {.n = n};
    const struct vl_tensor host = vl_tensor_1d(index, VL_I32, n), map = vl_tensor_1d(into, VL_I32, n_in);
    int r;
    if ((r = vl_scratch_1d(x, &kept.index, VL_I32, n)) < 0 ||
        (r = vl_scratch_1d(x, &kept.merge_into, VL_I32, n_in)) < 0 ||
        (r = x->ops->copy(x, &kept.index, &host)) < 0 || (r = x->ops->copy(x, &kept.merge_into, &map)) < 0)
        return r;
    *ret = kept;
    return 0;
}

static void normalize(float *rows, uint32_t n, uint32_t d)
{
    for (uint32_t i = 0; i < n; i++)
        vl_similarity_unit(rows + (size_t)i * d, d);
}

/* ---- in the encoder ---- */

/* unit [n, head_dim]: the direction of the mean of a patch's keys, which is that of their sum. */
static void mean_keys(struct tome *t, uint32_t n, uint32_t n_heads, uint32_t head_dim)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *key = t->value + (size_t)i * n_heads * head_dim;
        float *mean = t->unit + (size_t)i * head_dim;
        memset(mean, 0, head_dim * sizeof(*mean));
        for (uint32_t h = 0; h < n_heads; h++, key += head_dim)
            for (uint32_t k = 0; k < head_dim; k++)
                mean[k] += key[k];
    }
    normalize(t->unit, n, head_dim);
}

static int in_encoder(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                      const struct vl_tensor *key, struct vl_kept *ret)
{
    struct tome *t = state;
    const uint32_t n = tok->n, r = t->r < n / 2 ? t->r : n / 2, n_heads = key->dim[1], d = key->dim[2];
    *ret = (struct vl_kept){.n = n};
    if (r == 0 || layer < t->from || layer > t->to)
        return 0;
    if (n > t->max_patches || (uint64_t)n_heads * d > t->d_vision)
        return -EINVAL;
    struct vl_tensor host = vl_tensor_3d(t->value, VL_F32, n, n_heads, d);
    int e;
    if ((e = x->ops->copy(x, &host, key)) < 0 || (e = x->ops->sync(x)) < 0)
        return e;
    mean_keys(t, n, n_heads, d);
    vl_match_best(x->workers, t->unit, n, d, t->work, t->pair);
    vl_match_rank(t->pair, (n + 1) / 2, r);
    uint32_t left = vl_match_merge(t->pair, r, n, t->into, t->index);
    return answer(x, ret, t->index, left, t->into, n);
}

/* ---- behind the projector ---- */

/* The r best pairs of the m tokens that are left become one. */
static uint32_t merge_round(struct tome *t, struct vl_workers *w, uint32_t m, uint32_t r)
{
    const uint32_t d = t->d_model;
    memcpy(t->unit, t->value, (size_t)m * d * sizeof(*t->unit));
    normalize(t->unit, m, d);
    vl_match_best(w, t->unit, m, d, t->work, t->pair);
    vl_match_rank(t->pair, (m + 1) / 2, r);
    const uint32_t left = vl_match_merge(t->pair, r, m, t->into, t->index);
    for (uint32_t i = 0; i < m; i++) {
        const uint32_t to = (uint32_t)t->into[i];
        if (to == i)
            continue;
        const float sum = t->weight[i] + t->weight[to];
        const float *from = t->value + (size_t)i * d;
        float *mean = t->value + (size_t)to * d;
        for (uint32_t k = 0; k < d; k++)
            mean[k] = (t->weight[to] * mean[k] + t->weight[i] * from[k]) / sum;
        t->weight[to] = sum;
        t->target[t->row[i]] = t->row[to];
    }
    for (uint32_t j = 0; j < left; j++) {
        const uint32_t from = (uint32_t)t->index[j];
        memmove(t->value + (size_t)j * d, t->value + (size_t)from * d, d * sizeof(*t->value));
        t->weight[j] = t->weight[from];
        t->row[j] = t->row[from];
    }
    return left;
}

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct tome *t = state;
    const uint32_t n = tok->n;
    if (budget == 0 || n > t->max_tokens || tok->feat.dim[1] < t->d_model)
        return -EINVAL;
    struct vl_tensor feat = tok->feat;
    feat.dim[1] = t->d_model; /* what a deeper injection adds is not compared */
    struct vl_tensor host = vl_tensor_2d(t->value, VL_F32, n, t->d_model);
    int r;
    if ((r = x->ops->copy(x, &host, &feat)) < 0 || (r = x->ops->sync(x)) < 0)
        return r;
    for (uint32_t i = 0; i < n; i++) {
        t->row[i] = t->target[i] = (int32_t)i;
        t->weight[i] = tok->weight[i];
    }
    uint32_t m = n;
    while (m > budget)
        m = merge_round(t, x->workers, m, m / 2 < m - budget ? m / 2 : m - budget);
    for (uint32_t i = 0; i < n; i++)
        while (t->target[i] != t->target[t->target[i]])
            t->target[i] = t->target[t->target[i]];
    return answer(x, ret, t->row, m, t->target, n);
}

extern const struct vl_reducer_ops vl_reducer_tome_merge;
const struct vl_reducer_ops vl_reducer_tome_merge = {
    .name = "tome_merge",
    .paper = "ToMe, arXiv 2210.09461",
    .params = params,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .in_encoder = in_encoder,
    .after_projector = after_projector,
};
