/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The vision encoder of SigLIP (arXiv 2303.15343): a pre-norm ViT with learned positions, biases everywhere,
 * tanh GELU, attention within one view, no class token and no pooling head. Weights have process lifetime. A
 * pass is resumable between layers, so that a question may come first; its state lies in the arena of the
 * encoder's own exec.
 */
#ifndef VL_VISION_VIT_H
#define VL_VISION_VIT_H
#include "kernels/backend.h"
#include "tokenprune/reducer.h"
#include "weights/bind.h"

struct vl_vit_layer {
    struct vl_tensor ln1, ln1_b, q, q_b, k, k_b, v, v_b, o,
        o_b;                                             /* norms and biases [d]; weights packed [d, d] */
    struct vl_tensor ln2, ln2_b, up, up_b, down, down_b; /* [d_ff, d], [d, d_ff] */
};
struct vl_vit {
    uint32_t n_layers, d_model, n_heads, d_ff, patch, image_size;
    uint32_t grid; /* patches on a side: image_size / patch, the rest of the picture is dropped */
    float eps;
    float mean[3], std[3];                /* of pixels in 0..1 */
    bool swapped_ffn;                     /* the file calls up down and down up, as converters once did */
    bool sees_change;                     /* the file has delta, and a pass takes a change */
    struct vl_tensor patch_embd, patch_b; /* packed [d, 3 * patch * patch]; [d] */
    struct vl_tensor delta;               /* packed as patch_embd */
    struct vl_tensor pos;                 /* [grid * grid, d] f32 */
    struct vl_tensor post, post_b;        /* [d] */
    struct vl_vit_layer *layer;           /* [n_layers], owned */
};

/* Reads and checks the parameters of a projector file (general.architecture "clip"). Depth and feed-forward
 * width are taken from the tensors, because files lie about them. -EINVAL names the key or tensor. Ends with
 * vl_vit_done, also after a failure. */
int vl_vit_init(struct vl_vit *v, const struct vl_weights *w, struct vl_error *err);
int vl_vit_bind(struct vl_vit *v, struct vl_bind *b, struct vl_error *err);
void vl_vit_done(struct vl_vit *v);

/* What a pass keeps on the host, [grid * grid] each: made once for the whole grid, nothing is allocated
 * later. What pass and device read of it stays as it is until the next sync. */
struct vl_vit_host {
    struct vl_grid_pos *pos; /* of each row that is left: the patch that survives in it */
    float *weight, *bias;    /* patches that a row stands for, and the log of it */
    int32_t *row;            /* the row in which each patch is found */
    int32_t *place;          /* of each patch in the table of positions */
    int32_t *work;           /* [VL_REDUCER_HOST * grid * grid] */
    float *by_head;          /* [n_heads, grid * grid] */
    float *saliency;         /* attention that each patch received */
};
int vl_vit_host_init(struct vl_vit_host *host, const struct vl_vit *v); /* -ENOMEM */
void vl_vit_host_done(struct vl_vit_host *host); /* a zeroed or half-made one is fine */

/* One pass over one view, which may have fewer patches on a side than the encoder was made for. A reducer is
 * asked between attention and feed-forward of each layer which patches go on as one; later layers count a
 * merged key by its patches (ToMe's proportional attention). */
struct vl_vit_pass {
    const struct vl_vit *vit;
    struct vl_vit_host *host;         /* borrowed, as is the reducer, until the pass is over */
    const struct vl_reducer *reducer; /* or NULL */
    struct vl_tensor h; /* [rows that are left, d_model] in x->scratch, until the caller resets it */
    uint32_t grid, next_layer;
};
enum { VL_VIT_MORE = 1 };
/* patches: [grid * grid, 3 * patch * patch] f32, 1 <= grid <= vit->grid. change: the patches of the look
 * before minus these, or NULL when there was none; -EINVAL for an encoder that does not see it. Taps:
 * vit.embed */
int vl_vit_begin(struct vl_vit_pass *p, const struct vl_vit *v, struct vl_exec *x,
                 const struct vl_tensor *patches, const struct vl_tensor *change, uint32_t grid,
                 struct vl_vit_host *host, const struct vl_reducer *reducer);
/* Up to n_layers further blocks; 0: all are done and the last norm is in h. VL_VIT_MORE: go on. Taps: vit.N,
 * vit.post. When the reducer wants saliency, host->saliency then has the attention that each patch received
 * in the last layer, the sum over all its queries and the mean over heads; merged patches share theirs
 * evenly. */
int vl_vit_step(struct vl_vit_pass *p, struct vl_exec *x, unsigned n_layers);
#endif
