/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Visual tokens: what the encoder and projector make of one unit, as plain data. Step lifetime: feat and
 * saliency lie in the step's scratch, pos and weight in host memory of whoever made them. Engine thread.
 */
#ifndef VL_TOKENPRUNE_VISUAL_TOKENS_H
#define VL_TOKENPRUNE_VISUAL_TOKENS_H
#include "kernels/tensor.h"

struct vl_grid_pos {
    uint32_t t;
    uint16_t y, x;
};

struct vl_visual_tokens {
    struct vl_tensor feat;      /* [n, (1 + n_deepstack) * d_model] f32 in step scratch */
    struct vl_grid_pos *pos;    /* [n] ascending (t, y, x), host */
    float *weight;              /* [n] patches this token stands for, >= 1, host */
    struct vl_tensor saliency;  /* [n] attention received in the encoder, data NULL when not asked for */
    uint32_t n, grid_w, grid_h; /* the grid before any reduction: extents are counted on it */
    uint32_t tile_cols; /* of a cut picture: tiles in a row, the view of the whole is the last; else 0 */
    int64_t pts_ns;
};
#endif
