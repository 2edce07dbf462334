/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * feather: two stages on a question's fork (FEATHER, Endo et al. 2024, "Feather the Throttle"). The last word
 * of the question is compared with every visual token without rotary positions, whose decay makes scores
 * favour what stands near, that is the bottom of a picture and the newest frame; the softmax runs over visual
 * tokens alone and is averaged over heads. Behind the first stage the best `share` of them go on and an even
 * grid of every `stride`-th row and column, behind the second the best share^2 and every second point of that
 * grid. Positions stay.
 *
 * What ours changes: the stages stand at a quarter and at half of the decoder's depth, which are the paper's
 * layers 8 and 16 of 32 (7 and 15 of the 30 of SmolVLM); the second stage keeps a grid too, where the
 * released code keeps none, and its share is of all tokens in view rather than of those that are left; the
 * grid is laid over each of several frames. With a budget both stages keep the same proportion to each other,
 * the second no more than the budget; grids become coarser until they are at most a third of what is kept.
 *
 * It shortens a question only where many frames are in view: of SmolVLM 256M's shape on a CPU, the question's
 * 24 tokens take 0.93 of the time with 8 frames and 0.76 with 32, a token of the reply 0.91 and 0.80.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): with a quarter of the tokens
 * answers are as right as with all, but a question takes 1.6 times as long, since choosing costs more than so
 * short a window gives back. It does not beat `uniform` and `resolution` at the same time of a question.
 */
#include "tokenprune/choice.h"

#include <math.h>

struct state {
    double share;
    uint32_t stride, n_layers;
    uint32_t n_all, coarse; /* of the first stage: tokens in view, and its stride */
    struct vl_choice c;
};

static const struct vl_param_desc params[] = {
    {"share", "of the visual tokens that go on behind the first stage, by score; 1: all", 0.3, 0.01, 1},
    {"stride", "rows and columns between two tokens that go on whatever their score", 3, 1, 64},
    {NULL, NULL, 0, 0, 0},
};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct state) + vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct state *f = state;
    double stride = 3;
    *f = (struct state){.share = 0.3, .n_layers = s->n_layers};
    int r = vl_params_f64(p, "share", &f->share);
    if (r == 0)
        r = vl_params_f64(p, "stride", &stride);
    if (r < 0)
        return vl_error_set(err, r, "feather: share and stride are numbers");
    f->stride = (uint32_t)stride;
    vl_choice_init(&f->c, f + 1, s);
    return 0;
}

static void reset(void *state)
{
    struct state *f = state;
    f->n_all = f->coarse = 0;
}

static bool is_second(const struct state *f, unsigned layer)
{
    return layer == f->n_layers / 2 && layer > f->n_layers / 4;
}

static bool probe(const void *state, unsigned layer, unsigned n_layers, struct vl_reducer_probe *ret)
{
    (void)state;
    if (layer != n_layers / 4 && layer != n_layers / 2)
        return false;
    *ret = (struct vl_reducer_probe){.n_queries = 1, .undo_rope = true, .among_visual = true};
    return true;
}

static bool on_grid(const struct state *f, const struct vl_grid_pos *pos, uint32_t stride)
{
    const uint32_t first = f->stride / 2; /* of every coarser grid too: each lies in the finer one */
    return pos->y % stride == first && pos->x % stride == first;
}

static uint32_t count_grid(const struct state *f, const struct vl_visual_tokens *tok, uint32_t stride)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < tok->n; i++)
        n += on_grid(f, &tok->pos[i], stride);
    return n;
}

static void keep_grid(struct state *f, const struct vl_visual_tokens *tok, uint32_t stride)
{
    for (uint32_t i = 0; i < tok->n; i++)
        f->c.keep[i] = f->c.keep[i] || on_grid(f, &tok->pos[i], stride);
}

/* The part of all tokens that a stage keeps by itself: its share, and the grid where that hits others. */
static double part_of(double share, double stride)
{
    return share + (1 - share) / (stride * stride);
}

/* Exactly n tokens, a third of them at most by a grid of some multiple of `stride`; that multiple. */
static uint32_t keep_budget(struct state *f, const struct vl_visual_tokens *tok, uint32_t stride, uint32_t n)
{
    uint32_t coarse = stride;
    while (count_grid(f, tok, coarse) > n / 3 && (coarse < tok->grid_w || coarse < tok->grid_h))
        coarse += stride;
    if (count_grid(f, tok, coarse) <= n / 3)
        keep_grid(f, tok, coarse);
    vl_choice_fill(&f->c, tok->n, n);
    return coarse;
}

static int in_decoder(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                      const struct vl_tensor *score, uint32_t budget, struct vl_kept *ret)
{
    struct state *f = state;
    const bool second = is_second(f, layer);
    int r = vl_choice_begin(&f->c, tok, tok->n);
    if (r == 0)
        r = vl_choice_scores(&f->c, x, score, tok->n);
    if (r < 0)
        return r;
    if (!second || f->n_all == 0) {
        f->n_all = tok->n;
        f->coarse = f->stride;
    }
    const double share = second ? f->share * f->share : f->share;
    const uint32_t stride = second ? 2 * f->coarse : f->stride;
    double n = ceil(share * f->n_all);
    if (budget && !second)
        n = ceil(budget * part_of(f->share, f->stride) / part_of(f->share * f->share, 2.0 * f->stride));
    if (budget && second)
        n = budget;
    n = n < tok->n ? n : tok->n;
    vl_choice_rank(f->c.order, f->c.score, tok->n);
    if (budget) {
        const uint32_t coarse = keep_budget(f, tok, stride, (uint32_t)n);
        f->coarse = second ? f->coarse : coarse;
    } else {
        vl_choice_fill(&f->c, tok->n, (uint32_t)n);
        keep_grid(f, tok, stride);
    }
    return vl_choice_answer(&f->c, x, tok->n, ret);
}

extern const struct vl_reducer_ops vl_reducer_feather;
const struct vl_reducer_ops vl_reducer_feather = {
    .name = "feather",
    .paper = "FEATHER, Endo et al. 2024",
    .params = params,
    .needs_question = true,
    .own_measure = true,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .probe = probe,
    .in_decoder = in_decoder,
};
