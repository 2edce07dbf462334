/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Which visual tokens go on. A reducer answers with indices, never positions and never data: gathering,
 * merging and positions are done once, by vl_visual_tokens_apply and the cache's segments, for all of them. A
 * new one is one file and one line in registry.c; tests/conformance/reducers.c holds every registered one to
 * the contract below. No reducer at all is a NULL reducer. Engine thread.
 */
#ifndef VL_TOKENPRUNE_REDUCER_H
#define VL_TOKENPRUNE_REDUCER_H
#include "base/error.h"
#include "base/params.h"
#include "kernels/backend.h"
#include "tokenprune/visual_tokens.h"

/* A reducer's answer. Both tensors are i32 in backend memory (x->scratch). */
struct vl_kept {
    uint32_t n;
    struct vl_tensor index;      /* [n] ascending rows of the tokens that stay */
    struct vl_tensor merge_into; /* [n_in] the row each token is merged into, its own if it stays; data NULL:
                                  * what is not kept is dropped */
};

struct vl_reducer_shape {
    uint32_t max_tokens, d_model, n_layers;
};

/* One policy. State lives per stream, in session memory on the host.
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
    /* budget >= 1 and < tok->n. */
    int (*after_projector)(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret);
};

struct vl_reducer { /* one per stream, session lifetime */
    const struct vl_reducer_ops *ops;
    struct vl_reducer_shape shape;
    void *state;
    int32_t *host; /* [VL_REDUCER_HOST * max_tokens], where vl_reducer_run reads answers */
};

extern const struct vl_reducer_ops *const vl_reducers[]; /* registry.c, NULL-terminated */
/* -EINVAL names the nearest known reducer. */
int vl_reducer_find(const struct vl_reducer_ops **ret, const char *name, struct vl_error *err);

/* p is checked against ops->params. done accepts a zeroed reducer. */
int vl_reducer_init(struct vl_reducer *r, const struct vl_reducer_ops *ops, const struct vl_params *p,
                    const struct vl_reducer_shape *shape, struct vl_error *err);
void vl_reducer_done(struct vl_reducer *r);

/* The stage after the projector: asks the policy and applies the answer. With tok->n <= budget, or r NULL,
 * the tokens stay untouched, bit for bit. Waits for the device, since positions are compacted on the host. */
int vl_reducer_run(const struct vl_reducer *r, struct vl_exec *x, struct vl_visual_tokens *tok,
                   uint32_t budget);

/* Replaces tok's rows by the kept ones: feat is gathered into new scratch, pos and weight are compacted in
 * place, saliency is gathered when it is there. With a merge map each row of feat is the mean of what was
 * merged into it, each token counted by its weight (ToMe, proportional), and the weights are summed. host:
 * [VL_REDUCER_HOST * tok->n] host memory to work in. -EINVAL: an answer that breaks the contract. */
enum { VL_REDUCER_HOST = 6 };
int vl_visual_tokens_apply(struct vl_exec *x, struct vl_visual_tokens *tok, const struct vl_kept *kept,
                           int32_t *host);
#endif
