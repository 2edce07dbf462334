/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TOKENPRUNE_VISUAL_TOKENS_H
#define VL_TOKENPRUNE_VISUAL_TOKENS_H
#include "kernels/tensor.h"
struct vl_grid_pos {
    uint32_t t;
    uint16_t y, x;
};
struct vl_visual_tokens {
    struct vl_tensor feat;     /* [n, (1 + n_deepstack) * d_model] in step scratch */
    struct vl_grid_pos *pos;   /* [n] ascending (t, y, x) */
    float *weight;             /* [n] patches this token stands for, >= 1 */
    struct vl_tensor saliency; /* [n] attention received in the encoder, data NULL when not asked for */
    uint32_t n, grid_w, grid_h;
    int64_t pts_ns;
};
#endif
