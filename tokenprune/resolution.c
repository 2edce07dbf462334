/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * resolution: the trivial saver. The picture is made smaller before it is encoded, to the largest square grid
 * of which no more tokens come than the budget allows; nothing is dropped or merged afterwards. It saves in
 * the encoder as much as in the decoder, so every reducer is measured against it, at equal measured cost.
 * Nothing published: where a family makes views smaller, this is how its own code would do it.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): above `uniform` at the same time
 * of a frame down to a quarter of the tokens, since most of that time is the encoder's; so a budget alone
 * means this one.
 */
#include "tokenprune/reducer.h"

static const struct vl_param_desc params[] = {{NULL, NULL, 0, 0, 0}};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    (void)s;
    return 1;
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    (void)state;
    (void)p;
    (void)s;
    (void)err;
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every frame is made as small as every other */
}

static int view(void *state, uint32_t shuffle, uint32_t budget, uint32_t *inout_grid)
{
    (void)state;
    if (shuffle == 0 || *inout_grid < shuffle || budget == 0)
        return -EINVAL;
    uint32_t side = *inout_grid / shuffle;
    while (side > 1 && side * side > budget)
        side--;
    *inout_grid = side * shuffle;
    return 0;
}

extern const struct vl_reducer_ops vl_reducer_resolution;
const struct vl_reducer_ops vl_reducer_resolution = {
    .name = "resolution",
    .paper = "the baseline of a smaller picture",
    .params = params,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .view = view,
};
