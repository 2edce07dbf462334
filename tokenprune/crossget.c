/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * crossget: tokens join their likes, whichever these are among all others.
 *
 * Published (CrossGET's complete-graph soft matching): the tokens are ordered by their greatest cosine with
 * any other, and each may only join one later in that order, which breaks cycles. The r tokens with the least
 * (importance - greatest cosine allowed) join the most similar of those that do not; a mean weighted by
 * importance and size takes the place of both. Importance comes from learned cross tokens that look at the
 * text; a few tokens go in each layer.
 *
 * Ours runs once, behind the projector, down to the budget, and before there is a text: importance is the
 * encoder's own attention, weighted by `importance`, and the same for all where the encoder gives none. What
 * joins is weighted by size alone, as by every reducer here. A token none of whose likes later in the order
 * stays joins the most similar of all that stay.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): of equally many tokens far above
 * `uniform` and `resolution`; at the same time of a frame below `resolution`, which saves in the encoder,
 * too. It does not beat both, and is no default.
 */
#include "tokenprune/choice.h"
#include "tokenprune/similarity.h"

#include <float.h>

struct crossget {
    float importance;
    struct vl_choice c; /* order: by greatest cosine; keep: who stays */
    struct vl_similarity sim;
    uint32_t *place; /* [n] in the order */
};

static const struct vl_param_desc params[] = {
    {"importance", "weight of the encoder's attention, in means, against the cosine", 0.1, 0, 100},
    {NULL, NULL, 0, 0, 0},
};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct crossget) + vl_similarity_size(s, true) + s->max_tokens * sizeof(uint32_t) +
           vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct crossget *g = state;
    double importance = params[0].def;
    if (vl_params_f64(p, params[0].key, &importance) < 0)
        return vl_error_set(err, -EINVAL, "crossget: '%s' is a number", params[0].key);
    g->importance = (float)importance;
    vl_similarity_init(&g->sim, g + 1, s, true);
    g->place = (uint32_t *)((char *)(g + 1) + vl_similarity_size(s, true));
    vl_choice_init(&g->c, g->place + s->max_tokens, s);
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is answered on its own */
}

/* ---- three walks over all pairs ---- */

static void see_greatest(void *user, uint32_t row, const float *cosine)
{
    struct crossget *g = user;
    float max = -FLT_MAX;
    for (uint32_t i = 0; i < g->sim.n; i++)
        if (i != row && cosine[i] > max)
            max = cosine[i];
    g->c.score[row] = max;
}

/* The last in the order may join nobody, so that one always stays. */
static void see_allowed(void *user, uint32_t row, const float *cosine)
{
    struct crossget *g = user;
    float max = -FLT_MAX;
    for (uint32_t i = 0; i < g->sim.n; i++)
        if (g->place[i] > g->place[row] && cosine[i] > max)
            max = cosine[i];
    bool last = g->place[row] + 1 == g->sim.n;
    g->c.score[row] = last ? FLT_MAX : g->importance * g->c.saliency[row] - max;
}

static void see_staying(void *user, uint32_t row, const float *cosine)
{
    struct crossget *g = user;
    int64_t best = -1;
    if (g->c.keep[row])
        return;
    for (int allowed = 1; allowed >= 0 && best < 0; allowed--)
        for (uint32_t i = 0; i < g->sim.n; i++)
            if (g->c.keep[i] && (!allowed || g->place[i] > g->place[row]) &&
                (best < 0 || cosine[i] > cosine[best]))
                best = i;
    g->c.into[row] = (int32_t)best;
}

/* ---- the answer ---- */

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct crossget *g = state;
    bool there;
    budget = budget < tok->n ? budget : tok->n;
    int r = vl_choice_begin(&g->c, tok, budget);
    if (r < 0 || (r = vl_similarity_read(&g->sim, x, tok)) < 0 ||
        (r = vl_choice_saliency(&g->c, x, tok, &there)) < 0 ||
        (r = vl_similarity_walk(&g->sim, x, see_greatest, g)) < 0)
        return r;
    vl_choice_rank(g->c.order, g->c.score, tok->n);
    for (uint32_t i = 0; i < tok->n; i++)
        g->place[g->c.order[i]] = i;
    if ((r = vl_similarity_walk(&g->sim, x, see_allowed, g)) < 0)
        return r;
    vl_choice_rank(g->c.order, g->c.score, tok->n);
    vl_choice_fill(&g->c, tok->n, budget);
    if ((r = vl_similarity_walk(&g->sim, x, see_staying, g)) < 0)
        return r;
    return vl_choice_answer_merged(&g->c, x, tok->n, ret);
}

extern const struct vl_reducer_ops vl_reducer_crossget;
const struct vl_reducer_ops vl_reducer_crossget = {
    .name = "crossget",
    .paper = "CrossGET's complete-graph soft matching",
    .params = params,
    .wants_saliency = true,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .after_projector = after_projector,
};
