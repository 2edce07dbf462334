/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A reducer's stage in the decoder, on the fork of one question: behind the layers it asks for, some visual
 * tokens are no longer seen. Turn lifetime, engine thread. All host memory is taken by init.
 */
#ifndef VL_DECODER_PRUNE_H
#define VL_DECODER_PRUNE_H
#include "kvcache/kv.h"
#include "tokenprune/reducer.h"

enum { VL_PRUNE_MAX_QUERIES = 64 }; /* rows of a question that scores are made of, at most */

struct vl_prune {
    struct vl_reducer reducer;
    struct vl_kv *kv; /* the fork, borrowed */
    uint32_t n_layers, grid_w, grid_h;
    uint32_t budget;     /* tokens of all in view that a layer may go on seeing; 0: the policy's measure. With
                          * room for all nothing is left out, whatever that measure */
    uint32_t n_visual;   /* in view of the fork */
    uint32_t n_pruned;   /* out: that the layer that sees fewest no longer sees */
    uint32_t max_tokens; /* of the fork, now */
    struct vl_kv_visual *seen; /* [n_visual] of the layer at hand, as are */
    struct vl_grid_pos *pos;   /* [n_visual] */
    int64_t (*key_pos)[3];     /* [max_tokens] */
    float *bias;               /* [max_tokens] */
    int32_t *index;            /* [n_visual] what was answered */
    uint32_t *gone;            /* [n_visual] */
};

/* What a question's probes take of x->scratch at most, in a context of that many tokens. */
size_t vl_prune_scratch(uint32_t max_tokens, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim);

/* kv: a fork whose question has not been appended, n_more: tokens that will be before the question is read.
 * grid: of a whole frame. budget: tokens of each frame, or 0. -ENOMEM, or what the reducer's init says.
 * done accepts a zeroed one. */
struct vl_prune_shape {
    uint32_t n_layers, d_model, grid_w, grid_h, n_more;
};
int vl_prune_init(struct vl_prune *p, struct vl_kv *kv, const struct vl_reducer_ops *ops,
                  const struct vl_params *params, uint32_t budget, const struct vl_prune_shape *s,
                  struct vl_error *err);
void vl_prune_done(struct vl_prune *p);

/* Whether the reducer wants this layer's scores. */
bool vl_prune_asks(const struct vl_prune *p, unsigned layer, struct vl_reducer_probe *ret);
/* The layer's keys are stored. q [n, n_heads, head_dim]: the last rows of the question, rotated unless the
 * probe is to undo that; all of them see all that the layer sees. Drops what the reducer leaves out. */
int vl_prune_run(struct vl_prune *p, struct vl_exec *x, unsigned layer, const struct vl_reducer_probe *how,
                 const struct vl_tensor *q, const struct vl_rope *rope);
#endif
