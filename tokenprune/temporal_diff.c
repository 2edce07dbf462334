/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * temporal_diff: of each frame the tokens that differ from what was last shown of their place.
 *
 * Published (TimeChat-Online's differential token drop): a token stays when its cosine with the token of the
 * same place in the frame before is at most 0.5; the first frame is whole; positions are kept.
 *
 * Ours compares with the token of the place that was last *kept*, since against the frame before a slow drift
 * is never seen; and a place that was not kept for `refresh` frames counts as changed, because what it showed
 * leaves with its window: a shorter window is the default of `refresh`. Within a budget the most changed come
 * first, where a place gains as much by being one whole `refresh` late as by a feature at a right angle, so
 * that neither starves the other. The first frame, when it must be cut, is spread evenly. Fewer changed than
 * the budget are fewer tokens; one at least. Without a budget the threshold alone decides.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): at the same time of a frame level
 * with `uniform` and below `resolution`, and it speaks falsely where others are silent. It does not beat
 * both, and is no default.
 */
#include "tokenprune/choice.h"
#include "tokenprune/similarity.h"

#include <string.h>

struct temporal_diff {
    float threshold;
    uint32_t refresh;
    double uniform;
    struct vl_choice c;
    struct vl_similarity sim;
    uint32_t n, grid_w, grid_h; /* of the frames that are remembered; n 0: none */
    float *shown;               /* [n, d_model] of length one: what was last kept of each place */
    uint32_t *age;              /* [n] frames since then */
    bool *known;                /* [n] there was such a frame */
};

static const struct vl_param_desc params[] = {
    {"threshold", "a token is dropped when its cosine with what its place last showed is greater", 0.9, 0, 1},
    {"refresh", "frames after which a place is shown again though it did not change; at most the window", 8,
     1, 1 << 20},
    {"uniform", "share of the budget that is spread evenly over the grid, whatever changed", 0, 0, 1},
    {NULL, NULL, 0, 0, 0},
};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct temporal_diff) + vl_similarity_size(s, false) +
           s->max_tokens * (s->d_model * sizeof(float) + sizeof(uint32_t) + sizeof(bool)) + vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct temporal_diff *t = state;
    double threshold = params[0].def, refresh = params[1].def, uniform = params[2].def;
    if (s->window_frames > 0 && s->window_frames < refresh)
        refresh = s->window_frames;
    if (vl_params_f64(p, params[0].key, &threshold) < 0 || vl_params_f64(p, params[1].key, &refresh) < 0 ||
        vl_params_f64(p, params[2].key, &uniform) < 0)
        return vl_error_set(err, -EINVAL, "temporal_diff: its options are numbers");
    t->threshold = (float)threshold;
    t->refresh = (uint32_t)refresh;
    t->uniform = uniform;
    vl_similarity_init(&t->sim, t + 1, s, false);
    t->shown = (float *)((char *)(t + 1) + vl_similarity_size(s, false));
    t->age = (uint32_t *)(t->shown + (size_t)s->max_tokens * s->d_model);
    vl_choice_init(&t->c, t->age + s->max_tokens, s);
    t->known = (bool *)(t->age + s->max_tokens) + vl_choice_size(s);
    return 0;
}

static void reset(void *state)
{
    ((struct temporal_diff *)state)->n = 0;
}

static bool remembers(const struct temporal_diff *t, const struct vl_visual_tokens *tok)
{
    return t->n == tok->n && t->grid_w == tok->grid_w && t->grid_h == tok->grid_h;
}

/* Places instead of frames: every one is as good as due. */
static void forget(struct temporal_diff *t, const struct vl_visual_tokens *tok)
{
    t->n = tok->n;
    t->grid_w = tok->grid_w;
    t->grid_h = tok->grid_h;
    memset(t->known, 0, t->n * sizeof(*t->known));
    for (uint32_t i = 0; i < t->n; i++)
        t->age[i] = t->refresh - 1;
}

static const float *row_of(const struct temporal_diff *t, const float *rows, uint32_t i)
{
    return rows + (size_t)i * t->sim.d_model;
}

/* How urgent each place is. What need not be shown is below all others, so that the first of the order are
 * those that must. Returns how many must. */
static uint32_t score(struct temporal_diff *t)
{
    uint32_t n_changed = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        float cosine =
            t->known[i] ? vl_similarity_dot(row_of(t, t->sim.unit, i), row_of(t, t->shown, i), t->sim.d_model)
                        : 0;
        cosine = cosine > 1 ? 1 : cosine; /* rounding makes no threshold of 1 drop anything */
        t->age[i] += t->age[i] < UINT32_MAX;
        bool due = t->age[i] >= t->refresh;
        float late = due ? (float)(t->age[i] - t->refresh) / (float)t->refresh : 0;
        bool changed = due || !(cosine > t->threshold); /* no number is a change */
        n_changed += changed;
        t->c.score[i] = 1 - cosine + late - (changed ? 0 : 4);
    }
    return n_changed;
}

static void remember(struct temporal_diff *t)
{
    const size_t row = t->sim.d_model * sizeof(float);
    for (uint32_t i = 0; i < t->n; i++) {
        if (!t->c.keep[i])
            continue;
        memcpy(t->shown + (size_t)i * t->sim.d_model, row_of(t, t->sim.unit, i), row);
        t->age[i] = 0;
        t->known[i] = true;
    }
}

/* The changed ones, and the even share beside them. */
static uint32_t n_wanted(const struct temporal_diff *t, uint32_t n_changed, uint32_t budget)
{
    uint32_t n = n_changed;
    for (uint32_t i = n_changed; i < t->n; i++)
        n += t->c.keep[t->c.order[i]];
    return n < 1 ? 1 : n < budget ? n : budget;
}

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct temporal_diff *t = state;
    int r = vl_choice_begin(&t->c, tok, budget);
    if (r < 0 || (r = vl_similarity_read(&t->sim, x, tok)) < 0)
        return r;
    bool first = !remembers(t, tok);
    if (first)
        forget(t, tok);
    budget = budget < tok->n ? budget : tok->n;
    vl_choice_keep_spread(&t->c, tok, first ? budget : (uint32_t)(budget * t->uniform));
    uint32_t n_changed = score(t);
    vl_choice_rank(t->c.order, t->c.score, t->n);
    vl_choice_fill(&t->c, t->n, n_wanted(t, n_changed, budget));
    if ((r = vl_choice_answer(&t->c, x, t->n, ret)) == 0)
        remember(t);
    return r;
}

extern const struct vl_reducer_ops vl_reducer_temporal_diff;
const struct vl_reducer_ops vl_reducer_temporal_diff = {
    .name = "temporal_diff",
    .paper = "TimeChat-Online, against what was last kept",
    .params = params,
    .own_measure = true,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .after_projector = after_projector,
};
