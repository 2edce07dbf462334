/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * uniform: keeps exactly `budget` tokens at an even stride over the grid and drops the rest. It looks at no
 * feature, so it is the baseline that every other reducer must beat at an equal budget. A stride over the
 * row-major index would keep stripes; rows and columns are spread each on their own instead. Tokens that are
 * no full grid, since another reducer was there before, are strided by index.
 */
#include "tokenprune/reducer.h"

#include <math.h>

struct uniform {
    uint32_t max_tokens;
    int32_t index[]; /* [max_tokens] */
};

static const struct vl_param_desc params[] = {{NULL, NULL, 0, 0, 0}};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct uniform) + s->max_tokens * sizeof(int32_t);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    (void)p;
    (void)err;
    ((struct uniform *)state)->max_tokens = s->max_tokens;
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is answered on its own */
}

/* The i-th of n even places in [0, size), n <= size: the middles of n equal parts. */
static uint32_t place(uint32_t i, uint32_t n, uint32_t size)
{
    return (uint32_t)((2 * (uint64_t)i + 1) * size / (2 * (uint64_t)n));
}

/* The i-th of n even shares of `total`; they add up to it. */
static uint32_t share(uint32_t i, uint32_t n, uint32_t total)
{
    return (uint32_t)(((uint64_t)i + 1) * total / n - (uint64_t)i * total / n);
}

/* `budget` of a slice's h * w tokens, from its first token on: as many rows as make the spacing alike both
 * ways. */
static uint32_t pick_slice(int32_t *index, uint32_t first, uint32_t h, uint32_t w, uint32_t budget)
{
    if (budget == 0)
        return 0;
    uint32_t least = (budget + w - 1) / w, most = budget < h ? budget : h, n = 0;
    uint32_t rows = (uint32_t)lround(sqrt((double)budget * h / w));
    rows = rows < least ? least : rows > most ? most : rows;
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t y = place(r, rows, h), cols = share(r, rows, budget);
        for (uint32_t c = 0; c < cols; c++)
            index[n++] = (int32_t)(first + y * w + place(c, cols, w));
    }
    return n;
}

static void pick(int32_t *index, const struct vl_visual_tokens *tok, uint32_t budget)
{
    uint64_t slice = (uint64_t)tok->grid_w * tok->grid_h;
    if (slice == 0 || tok->n % slice != 0) {
        for (uint32_t i = 0; i < budget; i++)
            index[i] = (int32_t)place(i, budget, tok->n);
        return;
    }
    uint32_t n_slices = (uint32_t)(tok->n / slice), n = 0;
    for (uint32_t t = 0; t < n_slices; t++)
        n += pick_slice(index + n, (uint32_t)(t * slice), tok->grid_h, tok->grid_w,
                        share(t, n_slices, budget));
}

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct uniform *u = state;
    uint32_t n = budget < tok->n ? budget : tok->n;
    struct vl_kept kept = {.n = n};
    if (n == 0 || n > u->max_tokens)
        return -EINVAL;
    int r = vl_scratch_1d(x, &kept.index, VL_I32, n);
    if (r < 0)
        return r;
    pick(u->index, tok, n);
    const struct vl_tensor host = vl_tensor_1d(u->index, VL_I32, n);
    r = x->ops->copy(x, &kept.index, &host);
    if (r < 0)
        return r;
    *ret = kept;
    return 0;
}

extern const struct vl_reducer_ops vl_reducer_uniform;
const struct vl_reducer_ops vl_reducer_uniform = {
    .name = "uniform",
    .paper = "the baseline at equal budget",
    .params = params,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .after_projector = after_projector,
};
