/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * hired: the tokens that the encoder itself looked at, and of a cut picture more from where it looked most.
 *
 * Published (HiRED): a picture is cut into tiles and seen once more as a whole. Of the budget the overview
 * gets half; each tile gets by how many of the overview's strongest tokens, by an early layer's class token,
 * lie in its part of the picture; within each the strongest stay, by a late layer's. Survivors are packed
 * together. Its code counts horizontal strips of the overview instead of the tiles' rectangles.
 *
 * Ours has no class token: both are the attention received in the encoder's last layer (saliency). A tile's
 * part is a rectangle of the overview and counts by the sum of its saliency, shared out unit by unit
 * (Webster), never more than a tile has and never nothing while there is enough; positions stay. A frame of a
 * video is one view and keeps its strongest. Where the encoder gives no saliency all that is left is an even
 * spread.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): above `uniform` at the same time
 * of a frame with a quarter of the tokens or more, and below `resolution`. It does not beat both, and is no
 * default.
 */
#include "tokenprune/choice.h"

enum { MAX_VIEWS = 64 };

struct hired {
    double overview;
    struct vl_choice c;
};

static const struct vl_param_desc params[] = {
    {"overview", "share of a cut picture's budget that goes to the view of the whole", 0.5, 0, 1},
    {NULL, NULL, 0, 0, 0},
};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct hired) + vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct hired *h = state;
    h->overview = params[0].def;
    if (vl_params_f64(p, params[0].key, &h->overview) < 0)
        return vl_error_set(err, -EINVAL, "hired: '%s' is a number", params[0].key);
    vl_choice_init(&h->c, h + 1, s);
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is answered on its own */
}

/* ---- what each view gets ---- */

struct shares {
    uint32_t n_views, size; /* tokens of a view */
    double mass[MAX_VIEWS];
    uint32_t n[MAX_VIEWS];
};

/* The overview's saliency in each tile's part of it. */
static void weigh_tiles(const struct hired *h, const struct vl_visual_tokens *tok, struct shares *s)
{
    uint32_t n_tiles = s->n_views - 1, cols = tok->tile_cols, rows = n_tiles / cols;
    for (uint32_t v = 0; v < n_tiles; v++)
        s->mass[v] = 1e-9; /* so that those at which nothing looked share evenly what is over */
    const float *whole = h->c.saliency + (size_t)n_tiles * s->size;
    for (uint32_t y = 0; y < tok->grid_h; y++)
        for (uint32_t x = 0; x < tok->grid_w; x++)
            s->mass[y * rows / tok->grid_h * cols + x * cols / tok->grid_w] +=
                (double)whole[y * tok->grid_w + x];
}

/* One after the other goes to the view that has the least of its due, of equals to the first. */
static void share_out(struct shares *s, uint32_t first, uint32_t last, uint32_t n)
{
    for (; n > 0; n--) {
        uint32_t best = last;
        for (uint32_t v = first; v < last; v++)
            if (s->n[v] < s->size &&
                (best == last || s->mass[v] / (2 * s->n[v] + 1) > s->mass[best] / (2 * s->n[best] + 1)))
                best = v;
        if (best == last)
            return;
        s->n[best]++;
    }
}

static void share_views(const struct hired *h, const struct vl_visual_tokens *tok, uint32_t budget,
                        struct shares *s)
{
    uint32_t n_tiles = s->n_views - 1, whole = (uint32_t)(budget * h->overview);
    if (s->n_views == 1 || tok->tile_cols == 0 || n_tiles % tok->tile_cols != 0) {
        for (uint32_t v = 0; v < s->n_views; v++)
            s->mass[v] = 1;
        share_out(s, 0, s->n_views, budget);
        return;
    }
    weigh_tiles(h, tok, s);
    whole = whole < s->size ? whole : s->size;
    if (budget > n_tiles) {
        whole = budget - whole < n_tiles ? budget - n_tiles : whole;
        for (uint32_t v = 0; v < n_tiles; v++)
            s->n[v] = 1;
    }
    share_out(s, 0, n_tiles, budget - whole - (budget > n_tiles ? n_tiles : 0));
    uint32_t left = budget;
    for (uint32_t v = 0; v < n_tiles; v++)
        left -= s->n[v];
    s->n[n_tiles] = left < s->size ? left : s->size;
}

/* ---- the answer ---- */

/* The strongest n of tokens [first, first + size). */
static void keep_strongest(struct hired *h, uint32_t first, uint32_t size, uint32_t n)
{
    vl_choice_rank(h->c.order, h->c.saliency + first, size);
    for (uint32_t i = 0; i < n; i++)
        h->c.keep[first + h->c.order[i]] = true;
}

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct hired *h = state;
    struct shares s = {.n_views = 1, .size = tok->n};
    uint64_t view = (uint64_t)tok->grid_w * tok->grid_h;
    bool there;
    budget = budget < tok->n ? budget : tok->n;
    int r = vl_choice_begin(&h->c, tok, budget);
    if (r < 0 || (r = vl_choice_saliency(&h->c, x, tok, &there)) < 0)
        return r;
    if (view > 0 && tok->n % view == 0 && tok->n / view <= MAX_VIEWS) {
        s.n_views = (uint32_t)(tok->n / view);
        s.size = (uint32_t)view;
    }
    if (!there) {
        vl_choice_keep_spread(&h->c, tok, budget);
        return vl_choice_answer(&h->c, x, tok->n, ret);
    }
    share_views(h, tok, budget, &s);
    for (uint32_t v = 0; v < s.n_views; v++)
        keep_strongest(h, v * s.size, s.size, s.n[v]);
    return vl_choice_answer(&h->c, x, tok->n, ret);
}

extern const struct vl_reducer_ops vl_reducer_hired;
const struct vl_reducer_ops vl_reducer_hired = {
    .name = "hired",
    .paper = "HiRED",
    .params = params,
    .wants_saliency = true,
    .whole_picture = true,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .after_projector = after_projector,
};
