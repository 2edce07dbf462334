/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_NULL_NULL_H
#define VL_KERNELS_NULL_NULL_H
#include "kernels/backend.h"

/* The backend that computes nothing: it checks shapes as every backend does (kernels/shapes.h), takes the
 * scratch that cpu would take, and counts. Memory from its alloc is reserved and never readable, so that code
 * which touches data in a dry run faults at once. Running a forward pass on it gives the peak of the scratch
 * arena, a shape check of a whole model and its cost. Owner thread only. */
struct vl_null_counts {
    uint64_t n[VL_OP_COUNT];     /* ops issued */
    uint64_t bytes[VL_OP_COUNT]; /* of operands and result, each once */
    uint64_t flops[VL_OP_COUNT]; /* of products and scores: a multiplication and an addition are 2; else 0 */
};
/* device: of this backend. Valid until it is closed; rises with every op. */
const struct vl_null_counts *vl_null_counts(void *device);

extern const struct vl_backend_ops vl_backend_null;
#endif
