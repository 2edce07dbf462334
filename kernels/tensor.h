/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_TENSOR_H
#define VL_KERNELS_TENSOR_H
#include "kernels/dtype.h"

/* A view; owns nothing. Shapes are written outermost first, [n_tokens, d_model]; the GGUF reader turns its
 * order round. stride is in bytes; the innermost dimension is always contiguous, so stride[n_dims - 1] is the
 * size of one element (of one block for quantised rows) and stride[n_dims - 2] that of one row. Unused dims
 * are 1. */
struct vl_tensor {
    void *data;
    enum vl_dtype dtype;
    uint8_t layout; /* enum vl_layout; anything but VL_LAYOUT_ROWS is read by a backend only */
    uint8_t n_dims;
    uint32_t dim[4];
    size_t stride[4];
};

/* A contiguous view of the given shape over data (NULL is allowed: shape only). n_dims 1..4. */
struct vl_tensor vl_tensor_of(void *data, enum vl_dtype dtype, uint8_t n_dims, const uint32_t *dim);
struct vl_tensor vl_tensor_1d(void *data, enum vl_dtype dtype, uint32_t d0);
struct vl_tensor vl_tensor_2d(void *data, enum vl_dtype dtype, uint32_t d0, uint32_t d1);
struct vl_tensor vl_tensor_3d(void *data, enum vl_dtype dtype, uint32_t d0, uint32_t d1, uint32_t d2);
/* Rows [first, first + n) of t's outermost dimension. */
struct vl_tensor vl_tensor_rows(const struct vl_tensor *t, uint32_t first, uint32_t n);
size_t vl_tensor_bytes(const struct vl_tensor *t); /* of a contiguous tensor of this shape */
/* Rows are what is left when the innermost dimension is taken away, counted outermost first. */
size_t vl_tensor_n_rows(const struct vl_tensor *t);
void *vl_tensor_row(const struct vl_tensor *t, size_t row);
#endif
