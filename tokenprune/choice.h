/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What reducers share when they have scores and must name tokens: room to work in, an order that is the same
 * everywhere, an even spread, the encoder's attention, and the answer itself. Session lifetime, engine
 * thread; nothing is allocated but the answer, in x->scratch.
 */
#ifndef VL_TOKENPRUNE_CHOICE_H
#define VL_TOKENPRUNE_CHOICE_H
#include "tokenprune/reducer.h"

struct vl_choice { /* all [max_tokens], host memory of a reducer's state */
    uint32_t max_tokens;
    float *score, *saliency;
    uint32_t *order;
    int32_t *index, *into; /* what was answered last; stays until it was applied */
    bool *keep;
};
/* Bytes of memory that init lays itself out in; memory is aligned as a float is, or better. */
size_t vl_choice_size(const struct vl_reducer_shape *s);
void vl_choice_init(struct vl_choice *c, void *memory, const struct vl_reducer_shape *s);
/* Nothing is kept, nothing merged. -EINVAL: more tokens than there is room for, or no budget. */
int vl_choice_begin(struct vl_choice *c, const struct vl_visual_tokens *tok, uint32_t budget);

/* order [n]: the indices of score, greatest first, equal ones by index. */
void vl_choice_rank(uint32_t *order, const float *score, uint32_t n);
/* Keeps the first of order [n] until n_keep are kept. */
void vl_choice_fill(struct vl_choice *c, uint32_t n, uint32_t n_keep);
/* ret [n_keep] ascending: n_keep <= tok->n tokens at an even stride over rows and columns of the grid, each
 * slice on its own; by index where the tokens are no full grid. */
void vl_choice_spread(int32_t *ret, const struct vl_visual_tokens *tok, uint32_t n_keep);
/* Keeps n_keep of them so. */
void vl_choice_keep_spread(struct vl_choice *c, const struct vl_visual_tokens *tok, uint32_t n_keep);

/* c->saliency [tok->n]: tok's, in multiples of their mean; what is not finite becomes 0. Waits for the
 * device. *ret_there false: the encoder gave none, and all are 1. */
int vl_choice_saliency(struct vl_choice *c, struct vl_exec *x, const struct vl_visual_tokens *tok,
                       bool *ret_there);

/* c->score [n] = a decoder layer's scores [n_kv_heads, n], averaged over heads; what is not finite counts as
 * 0. Waits for the device. */
int vl_choice_scores(struct vl_choice *c, struct vl_exec *x, const struct vl_tensor *score, uint32_t n);

/* The answer: the first n tokens as keep says. */
int vl_choice_answer(struct vl_choice *c, struct vl_exec *x, uint32_t n, struct vl_kept *ret);
/* With a merge map: those stay that are merged into themselves. */
int vl_choice_answer_merged(struct vl_choice *c, struct vl_exec *x, uint32_t n, struct vl_kept *ret);
#endif
