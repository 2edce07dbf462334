/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TOKENPRUNE_REDUCER_H
#define VL_TOKENPRUNE_REDUCER_H
#include "base/error.h"
#include "base/params.h"
#include "kernels/backend.h"
#include "tokenprune/visual_tokens.h"
/* What a policy answers: indices, never positions and never data. Gathering, merging and positions are done
 * once, by vl_visual_tokens_apply and the KV segment list, for all policies. Both tensors are i32 in backend
 * memory. */
struct vl_kept {
    uint32_t n;
    struct vl_tensor index /* [n] ascending */, merge_into /* [n_in] survivor's index; data NULL: dropped */;
};
struct vl_reducer_shape {
    uint32_t max_tokens, d_model, n_layers;
};
/* One policy. State lives per stream, in session memory.
 * Contract, checked for every registered reducer: deterministic, ties go to the lower index; 1 <= n <=
 * budget; ascending, no duplicates; merge targets survive; the same answer for the same tokens after reset.
 */
struct vl_reducer_ops {
    const char *name, *paper;
    const struct vl_param_desc *params; /* ends with key == NULL; shown by `vlmctl reducers` */
    bool needs_question;                /* never run while a frame arrives with nobody asking */
    size_t (*state_size)(const struct vl_params *p, const struct vl_reducer_shape *s);
    int (*init)(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err);
    void (*reset)(void *state); /* scene cut or seek: forget earlier frames */
    /* stages, each optional, at least one present */
    int (*in_encoder)(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                      const struct vl_tensor *key, struct vl_kept *ret);
    int (*after_projector)(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret);
    int (*in_decoder)(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                      const struct vl_tensor *score, uint32_t budget, struct vl_kept *ret);
};
struct vl_reducer {
    const struct vl_reducer_ops *ops;
    void *state;
};                                                       /* one per stream, session lifetime */
extern const struct vl_reducer_ops *const vl_reducers[]; /* registry.c, NULL-terminated */
int vl_visual_tokens_apply(struct vl_exec *x, struct vl_visual_tokens *tok, const struct vl_kept *kept);
#endif
