/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DECODER_TRANSFORMER_H
#define VL_DECODER_TRANSFORMER_H
#include "kernels/backend.h"
struct vl_kv;
struct vl_decoder;
struct vl_reducer;
/* Rows of several sequences in one pass: tokens by id, or rows already embedded (visual tokens). Slots were
 * appended before. */
struct vl_span {
    struct vl_kv *kv;
    uint32_t slot, n, n_logits;
}; /* n_logits: 0 prefill, 1 step, m + 1 verification of m drafts */
struct vl_batch {
    const int32_t *id;           /* [n], -1: the next row of `row` */
    const struct vl_tensor *row; /* [n_rows, (1 + n_deepstack) * d_model], or NULL */
    const struct vl_span *span;
    uint32_t n_spans, n;
    const struct vl_reducer *red; /* or NULL */
};
int vl_decoder_run(const struct vl_decoder *d, struct vl_exec *x, const struct vl_batch *b,
                   struct vl_tensor *ret_logits);
#endif
