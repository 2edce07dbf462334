/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * uniform: keeps exactly `budget` tokens at an even stride over the grid and drops the rest. It looks at no
 * feature, so it is the baseline that every other reducer must beat at an equal budget. A stride over the
 * row-major index would keep stripes; rows and columns are spread each on their own instead. Tokens that are
 * no full grid, since another reducer was there before, are strided by index.
 */
#include "tokenprune/choice.h"

static const struct vl_param_desc params[] = {{NULL, NULL, 0, 0, 0}};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct vl_choice) + vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    (void)p;
    (void)err;
    struct vl_choice *c = state;
    vl_choice_init(c, c + 1, s);
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is answered on its own */
}

static int after_projector(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret)
{
    struct vl_choice *c = state;
    int r = vl_choice_begin(c, tok, budget);
    if (r < 0)
        return r;
    vl_choice_keep_spread(c, tok, budget < tok->n ? budget : tok->n);
    return vl_choice_answer(c, x, tok->n, ret);
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
