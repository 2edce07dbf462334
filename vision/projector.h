/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The connector of Idefics3 and SmolVLM (arXiv 2408.12637, 2504.05299): pixel shuffle by s, which joins s x s
 * patch vectors in raster order, then one linear map into the decoder's width. Process lifetime.
 */
#ifndef VL_VISION_PROJECTOR_H
#define VL_VISION_PROJECTOR_H
#include "kernels/backend.h"
#include "weights/bind.h"

struct vl_projector {
    uint32_t grid, scale;   /* patches on a side, s; grid is a multiple of s */
    uint32_t d_in, d_out;   /* encoder's and decoder's width */
    struct vl_tensor fc;    /* packed [d_out, s * s * d_in] */
    struct vl_tensor order; /* [grid * grid] i32 in backend memory: patches of a whole view, shuffled */
    void *memory;           /* of order, by ops->free */
};
/* Reads scale_factor; grid and d_in are the encoder's; d_out comes from the tensor. -EINVAL names key or
 * tensor. */
int vl_projector_init(struct vl_projector *p, const struct vl_weights *w, struct vl_exec *x, uint32_t grid,
                      uint32_t d_in, struct vl_error *err);
int vl_projector_bind(struct vl_projector *p, struct vl_bind *b, struct vl_error *err);
void vl_projector_done(struct vl_projector *p, struct vl_exec *x); /* a zeroed one is fine */
static inline uint32_t vl_projector_n_tokens(const struct vl_projector *p)
{
    return p->grid / p->scale * (p->grid / p->scale);
}
/* One view of grid x grid patches, a multiple of scale and at most the encoder's. row [grid * grid]: the row
 * of h [., d_in] in which each patch is found, NULL: its own. work: [grid * grid] host memory, until the next
 * sync. *ret: [(grid / scale)^2, d_out] f32 in x->scratch. Taps: proj.shuffle, proj */
int vl_projector_run(const struct vl_projector *p, struct vl_exec *x, const struct vl_tensor *h,
                     uint32_t grid, const int32_t *row, int32_t *work, struct vl_tensor *ret);
#endif
