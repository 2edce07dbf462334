/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * diverse: a few tokens that matter, then those least like what is chosen.
 *
 * Published (EfficientVLA): the K tokens that the task's words attend to most, K of 4 to 8; the rest of the
 * budget is a mix of further ones of high attention and of those at the greatest cosine distance from the
 * chosen. DivPrune: no attention at all; the first is the token whose nearest neighbour is furthest, and each
 * further one is that whose nearest chosen one is furthest.
 *
 * Ours runs when nobody has asked, so the attention is the encoder's own (saliency), and the distance is
 * DivPrune's nearest chosen one. Where the encoder gives no saliency there are no critical and no salient
 * tokens, and what is left is DivPrune. Distance knows no importance and spends the budget on texture, so
 * `uniform` may set a share aside for an even spread.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): of equally many tokens far above
 * `uniform` and `resolution`; at the same time of a frame below `resolution`, which saves in the encoder,
 * too. It does not beat both, and is no default.
 */
#include "tokenprune/choice.h"
#include "tokenprune/similarity.h"

struct diverse {
    uint32_t critical;
    double salient, uniform;
    struct vl_choice c; /* score: the cosine with the nearest chosen one, less is more diverse */
    struct vl_similarity sim;
};

static const struct vl_param_desc params[] = {
    {"critical", "tokens of the highest saliency that are kept first", 4, 0, 4096},
    {"salient", "share of the rest that goes to the next by saliency", 0.25, 0, 1},
    {"uniform", "share of the budget that is spread evenly over the grid", 0, 0, 1},
    {NULL, NULL, 0, 0, 0},
};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct diverse) + vl_similarity_size(s, true) + vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct diverse *d = state;
    double critical = params[0].def, salient = params[1].def, uniform = params[2].def;
    if (vl_params_f64(p, params[0].key, &critical) < 0 || vl_params_f64(p, params[1].key, &salient) < 0 ||
        vl_params_f64(p, params[2].key, &uniform) < 0)
        return vl_error_set(err, -EINVAL, "diverse: its options are numbers");
    d->critical = (uint32_t)critical;
    d->salient = salient;
    d->uniform = uniform;
    vl_similarity_init(&d->sim, d + 1, s, true);
    vl_choice_init(&d->c, (char *)(d + 1) + vl_similarity_size(s, true), s);
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is answered on its own */
}

static uint32_t n_kept(const struct diverse *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->sim.n; i++)
        n += d->c.keep[i];
    return n;
}

/* Keeps what does not depend on distance. */
static int keep_salient(struct diverse *d, struct vl_exec *x, const struct vl_visual_tokens *tok,
                        uint32_t budget)
{
    bool there;
    vl_choice_keep_spread(&d->c, tok, (uint32_t)(budget * d->uniform));
    int r = vl_choice_saliency(&d->c, x, tok, &there);
    if (r < 0 || !there)
        return r;
    vl_choice_rank(d->c.order, d->c.saliency, tok->n);
    uint32_t n = n_kept(d), critical = budget - n < d->critical ? budget - n : d->critical;
    uint32_t salient = (uint32_t)((budget - n - critical) * d->salient);
    vl_choice_fill(&d->c, tok->n, n + critical + salient);
    return 0;
}

static void nearest(void *user, uint32_t row, const float *cosine)
{
    struct diverse *d = user;
    float max = -2;
    for (uint32_t i = 0; i < d->sim.n; i++)
        if (i != row && cosine[i] > max)
            max = cosine[i];
    d->c.score[row] = max;
}

static uint32_t furthest(const struct diverse *d)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < d->sim.n; i++)
        if (!d->c.keep[i] && (best == UINT32_MAX || d->c.score[i] < d->c.score[best]))
            best = i;
    return best;
}

/* One more is chosen: whom is it nearer to than the others are? */
static int draw_near(struct diverse *d, struct vl_exec *x, uint32_t chosen)
{
    int r = vl_similarity_rows(&d->sim, x, chosen, 1);
    for (uint32_t i = 0; r == 0 && i < d->sim.n; i++)
        if (d->sim.block[i] > d->c.score[i])
            d->c.score[i] = d->sim.block[i];
    return r;
}

static int keep_diverse(struct diverse *d, struct vl_exec *x, uint32_t budget)
{
    uint32_t n = n_kept(d);
    int r = 0;
    if (n == 0) {
        if ((r = vl_similarity_walk(&d->sim, x, nearest, d)) < 0)
            return r;
        uint32_t first = furthest(d);
        d->c.keep[first] = true;
        n = 1;
    }
    size_t mark = vl_arena_mark(x->scratch);
    r = vl_similarity_pack(&d->sim, x);
    for (uint32_t i = 0; i < d->sim.n; i++)
        d->c.score[i] = -2;
    for (uint32_t i = 0; r == 0 && n < budget && i < d->sim.n; i++)
        if (d->c.keep[i])
            r = draw_near(d, x, i);
    for (; r == 0 && n < budget; n++) {
        uint32_t next = furthest(d);
        d->c.keep[next] = true;
        r = draw_near(d, x, next);
    }
    vl_arena_reset(x->scratch, mark);
    return r;
}

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct diverse *d = state;
    budget = budget < tok->n ? budget : tok->n;
    int r = vl_choice_begin(&d->c, tok, budget);
    if (r == 0)
        r = vl_similarity_read(&d->sim, x, tok);
    if (r == 0)
        r = keep_salient(d, x, tok, budget);
    if (r == 0)
        r = keep_diverse(d, x, budget);
    return r < 0 ? r : vl_choice_answer(&d->c, x, tok->n, ret);
}

extern const struct vl_reducer_ops vl_reducer_diverse;
const struct vl_reducer_ops vl_reducer_diverse = {
    .name = "diverse",
    .paper = "EfficientVLA's selection; DivPrune",
    .params = params,
    .wants_saliency = true,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .after_projector = after_projector,
};
