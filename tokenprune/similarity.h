/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Cosines between the features of tokens. Rows of length one lie on the host, in the state of the reducer
 * that compares; products of many with many are the backend's matmul, a block of rows at a time. Of up to
 * VL_SIMILARITY_WHOLE tokens all products are kept from walk to walk, of more none are, so that memory stays
 * within bounds and time pays for it. Session lifetime, engine thread.
 */
#ifndef VL_TOKENPRUNE_SIMILARITY_H
#define VL_TOKENPRUNE_SIMILARITY_H
#include "tokenprune/reducer.h"

enum { VL_SIMILARITY_BLOCK = 32, VL_SIMILARITY_WHOLE = 1024 };
struct vl_similarity {
    uint32_t max_tokens, d_model;
    uint32_t n;              /* tokens that were read */
    float *unit;             /* [n, d_model]; a row of zeros, or one that is not finite, is zeros */
    float *block;            /* [VL_SIMILARITY_BLOCK, n] what vl_similarity_rows answered last */
    float *whole;            /* [n, n] what a walk saw; NULL: max_tokens are too many */
    bool walked;             /* whole is of these tokens */
    struct vl_tensor packed; /* unit, in x->scratch */
};

/* Bytes of memory that init lays itself out in; without pairs for the rows alone. */
size_t vl_similarity_size(const struct vl_reducer_shape *s, bool pairs);
void vl_similarity_init(struct vl_similarity *s, void *memory, const struct vl_reducer_shape *shape,
                        bool pairs);
/* Reads the first d_model columns of tok's features. Waits for the device. */
int vl_similarity_read(struct vl_similarity *s, struct vl_exec *x, const struct vl_visual_tokens *tok);
/* One row to length one, in place. */
void vl_similarity_unit(float *row, uint32_t d);
float vl_similarity_dot(const float *a, const float *b, uint32_t d);

/* With pairs only. For vl_similarity_rows, until x->scratch is reset. */
int vl_similarity_pack(struct vl_similarity *s, struct vl_exec *x);
/* The cosines of the rows [first, first + n_rows), at most VL_SIMILARITY_BLOCK, with all: in s->block. Waits
 * for the device. */
int vl_similarity_rows(struct vl_similarity *s, struct vl_exec *x, uint32_t first, uint32_t n_rows);
/* Calls see with each row's cosines, in order; packs and gives scratch back. */
typedef void (*vl_similarity_fn)(void *user, uint32_t row, const float *cosine);
int vl_similarity_walk(struct vl_similarity *s, struct vl_exec *x, vl_similarity_fn see, void *user);
#endif
