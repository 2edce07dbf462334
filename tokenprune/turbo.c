/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * turbo: tokens that repeat others and matter little join their likes.
 *
 * Published (Turbo): each token has a degree E = R - alpha * A, its redundancy R (the greatest cosine with
 * another token) against its meaning A (the class token's attention to it), or R / A; those of the highest E
 * are merged by ToMe's bipartite matching, in each layer. alpha is not given.
 *
 * Ours runs once, behind the projector, in rounds of that matching down to the budget: of the tokens that are
 * left the even ones may join odd ones, at most a quarter of all in a round, so that an even one that is like
 * no odd one is not made to. R is the cosine with the partner that a token would get. A is the encoder's own
 * attention (saliency) in multiples of its mean; where the encoder gives none it is the same for all, and
 * what is left is ToMe.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): of equally many tokens far above
 * `uniform` and `resolution`; at the same time of a frame below `resolution`, which saves in the encoder,
 * too. It does not beat both, and is no default.
 */
#include "tokenprune/choice.h"
#include "tokenprune/matching.h"
#include "tokenprune/similarity.h"

#include <string.h>

struct turbo {
    float alpha;
    uint32_t d_model;
    struct vl_choice c;        /* into: between tokens; saliency: of what was merged so far */
    float *mean, *unit, *work; /* [max_tokens, d_model]; the same, length one, those left; a matching's */
    float *size;               /* [max_tokens] */
    struct vl_match *pair;     /* [(max_tokens + 1) / 2] */
    uint32_t *left;            /* [max_tokens] tokens that are left, ascending */
    int32_t *round_into, *round_index; /* [max_tokens] a matching's answer, numbers in left */
};

static const struct vl_param_desc params[] = {
    {"alpha", "weight of the encoder's attention, in means, against the cosine", 0.1, 0, 100},
    {NULL, NULL, 0, 0, 0},
};

/* Floats and what is as wide, first to last; pairs hold three such. */
static size_t n_words(const struct vl_reducer_shape *s)
{
    size_t n = s->max_tokens;
    return 2 * n * s->d_model + vl_match_work(s->max_tokens, s->d_model) + 4 * n + 3 * ((n + 1) / 2);
}

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct turbo) + n_words(s) * sizeof(float) + vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct turbo *t = state;
    double alpha = params[0].def;
    size_t n = s->max_tokens;
    if (vl_params_f64(p, params[0].key, &alpha) < 0)
        return vl_error_set(err, -EINVAL, "turbo: '%s' is a number", params[0].key);
    _Static_assert(sizeof(struct vl_match) == 3 * sizeof(float), "n_words counts three");
    t->alpha = (float)alpha;
    t->d_model = s->d_model;
    t->mean = (float *)(t + 1);
    t->unit = t->mean + n * s->d_model;
    t->work = t->unit + n * s->d_model;
    t->size = t->work + vl_match_work(s->max_tokens, s->d_model);
    t->pair = (struct vl_match *)(t->size + n);
    t->left = (uint32_t *)(t->pair + (n + 1) / 2);
    t->round_into = (int32_t *)(t->left + n);
    t->round_index = t->round_into + n;
    vl_choice_init(&t->c, t->round_index + n, s);
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is answered on its own */
}

static float *row_of(const struct turbo *t, float *rows, uint32_t i)
{
    return rows + (size_t)i * t->d_model;
}

static int read_tokens(struct turbo *t, struct vl_exec *x, const struct vl_visual_tokens *tok)
{
    struct vl_tensor from = tok->feat, to = vl_tensor_2d(t->mean, VL_F32, tok->n, t->d_model);
    bool there;
    if (from.n_dims != 2 || from.dim[0] != tok->n || from.dim[1] < t->d_model)
        return -EINVAL;
    from.dim[1] = t->d_model;
    for (uint32_t i = 0; i < tok->n; i++) {
        t->left[i] = i;
        t->size[i] = tok->weight[i];
    }
    int r = x->ops->copy(x, &to, &from);
    if (r == 0)
        r = x->ops->sync(x);
    return r < 0 ? r : vl_choice_saliency(&t->c, x, tok, &there);
}

/* Features and attention by size, as vl_visual_tokens_apply will do it. */
static void join(struct turbo *t, uint32_t from, uint32_t to)
{
    float *a = row_of(t, t->mean, from), *b = row_of(t, t->mean, to);
    float sum = t->size[from] + t->size[to], share = t->size[from] / sum;
    for (uint32_t k = 0; k < t->d_model; k++)
        b[k] += (a[k] - b[k]) * share;
    t->c.saliency[to] += (t->c.saliency[from] - t->c.saliency[to]) * share;
    t->size[to] = sum;
    t->c.into[from] = (int32_t)to;
}

/* One matching among the n that are left; returns how many are then. */
static uint32_t merge_round(struct turbo *t, struct vl_exec *x, uint32_t n, uint32_t budget)
{
    uint32_t n_pairs = (n + 1) / 2, most = n < 4 ? 1 : n / 4, r = n - budget < most ? n - budget : most;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(row_of(t, t->unit, i), row_of(t, t->mean, t->left[i]), t->d_model * sizeof(float));
        vl_similarity_unit(row_of(t, t->unit, i), t->d_model);
    }
    vl_match_best(x->workers, t->unit, n, t->d_model, t->work, t->pair);
    for (uint32_t i = 0; i < n_pairs; i++)
        t->pair[i].score -= t->alpha * t->c.saliency[t->left[t->pair[i].from]];
    vl_match_rank(t->pair, n_pairs, r);
    uint32_t n_left = vl_match_merge(t->pair, r, n, t->round_into, t->round_index);
    for (uint32_t i = 0; i < n; i++)
        if (t->round_into[i] != (int32_t)i)
            join(t, t->left[i], t->left[t->round_into[i]]);
    for (uint32_t i = 0; i < n_left; i++)
        t->left[i] = t->left[t->round_index[i]];
    return n_left;
}

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct turbo *t = state;
    int r = vl_choice_begin(&t->c, tok, budget);
    if (r < 0 || (r = read_tokens(t, x, tok)) < 0)
        return r;
    for (uint32_t n = tok->n; n > budget && n > 1;)
        n = merge_round(t, x, n, budget);
    for (uint32_t i = 0; i < tok->n; i++)
        while (t->c.into[i] != t->c.into[t->c.into[i]])
            t->c.into[i] = t->c.into[t->c.into[i]];
    return vl_choice_answer_merged(&t->c, x, tok->n, ret);
}

extern const struct vl_reducer_ops vl_reducer_turbo;
const struct vl_reducer_ops vl_reducer_turbo = {
    .name = "turbo",
    .paper = "Turbo's information degree",
    .params = params,
    .wants_saliency = true,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .after_projector = after_projector,
};
