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
    uint32_t max_tokens, d_model, n_layers; /* of one view's tokens, and the decoder */
    uint32_t max_patches, d_vision;         /* of one view in the encoder; 0: nobody encodes */
    uint32_t window_frames;                 /* that stay in view, of a stream; 0: as many as one likes */
};

/* What the scores of a decoder layer are made of. */
struct vl_reducer_probe {
    uint32_t n_queries; /* the last so many rows of the question, at most all of them */
    bool undo_rope;     /* compared without rotary positions */
    bool among_visual;  /* the probabilities are those of the visual tokens alone, text apart */
    bool this_layer;    /* the answer is for this layer's own attention, and for no other */
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
    bool wants_saliency;        /* after_projector reads tok->saliency: the encoder is asked for it */
    bool own_measure;           /* keeps fewer by itself, when there is no budget */
    bool whole_picture;         /* shares a cut picture's budget out among its views: is given all at once */

    /* Stages in the order in which a token meets them, each optional, at least one present. */

    /* Before encoding: patches on a side of a smaller view. *inout_grid comes as the whole grid and stays a
     * multiple of `shuffle`, so that (grid / shuffle)^2 tokens are made of it; >= shuffle. */
    int (*view)(void *state, uint32_t shuffle, uint32_t budget, uint32_t *inout_grid);
    /* Between attention and feed-forward of encoder layer `layer`: patches that go on as one. tok: what is
     * left of one view, feat the residual stream, weight the sizes, pos the patches; key [n, n_heads,
     * head_dim] f32. ret->n == tok->n: nothing is merged here, and the tensors are not looked at. Else always
     * with a merge map: each patch's row is copied back before the projector, so the grid is whole again
     * behind the encoder. x->scratch has room for the answer, and no more. */
    int (*in_encoder)(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                      const struct vl_tensor *key, struct vl_kept *ret);
    /* budget >= 1 and < tok->n; equal to it when own_measure is to decide alone. */
    int (*after_projector)(void *state, struct vl_exec *x, const struct vl_visual_tokens *tok,
                           uint32_t budget, struct vl_kept *ret);
    /* On a question's fork, in the decoder: which of the visual tokens in view go on from this layer.
     * Only
     * with needs_question. probe: whether this layer's scores are wanted, and which. tok: feat NULL, pos.t
     * the frame, ascending. score [n_kv_heads, tok->n] f32, what vl_backend_ops.probe answers. budget: of all
     * tok->n, 0: the policy's own measure. No merge map. */
    bool (*probe)(const void *state, unsigned layer, unsigned n_layers, struct vl_reducer_probe *ret);
    int (*in_decoder)(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                      const struct vl_tensor *score, uint32_t budget, struct vl_kept *ret);
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
/* Bytes of x->scratch that vl_reducer_run takes at most, of any reducer and backend, beside the tokens. */
size_t vl_reducer_scratch(const struct vl_reducer_shape *s);

/* The stage after the projector: asks the policy and applies the answer. With tok->n <= budget, r NULL, a
 * policy without this stage, or no budget (0) and no measure of the policy's own, the tokens stay untouched,
 * bit for bit. Waits for the device, since positions are compacted on the host. */
int vl_reducer_run(const struct vl_reducer *r, struct vl_exec *x, struct vl_visual_tokens *tok,
                   uint32_t budget);

/* Replaces tok's rows by the kept ones: feat is gathered into new scratch, pos and weight are compacted in
 * place, saliency is gathered when it is there. With a merge map each row of feat is the mean of what was
 * merged into it, each token counted by its weight (ToMe, proportional), and the weights are summed. host:
 * [VL_REDUCER_HOST * tok->n] host memory to work in; after a merge, the new row of each row that came stands
 * at host[n_in ..]. -EINVAL: an answer that breaks the contract. */
enum { VL_REDUCER_HOST = 6 };
int vl_visual_tokens_apply(struct vl_exec *x, struct vl_visual_tokens *tok, const struct vl_kept *kept,
                           int32_t *host);
#endif
