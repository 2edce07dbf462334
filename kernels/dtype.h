/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_DTYPE_H
#define VL_KERNELS_DTYPE_H
#include <stddef.h>
#include <stdint.h>
/* Stored formats are generated from quant/formats.def (X-macro); written out here for reading. */
enum vl_dtype { VL_F32, VL_F16, VL_BF16, VL_I32, VL_I64, VL_U8, VL_Q8_0, VL_Q4_0, VL_Q4_K, VL_DTYPE_COUNT };
/* How a packed weight lies for the kernels. Stored formats are many, layouts are few; only a backend reads a
 * packed tensor. */
enum vl_layout {
    VL_LAYOUT_ROWS /* as the dtype says: activations; never a matmul's weight */,
    VL_LAYOUT_F32,
    VL_LAYOUT_F16,
    VL_LAYOUT_BF16,
    VL_LAYOUT_I8_BLOCK,
    VL_LAYOUT_I4_BLOCK,
    VL_LAYOUT_I8_ROW,
    VL_LAYOUT_COUNT
};
/* One row per stored format, from quant/formats.def. max_nmse is the format's own promise: the conformance
 * test reads it. */
struct vl_dtype_info {
    const char *name;
    uint32_t gguf_id; /* id in weight files, UINT32_MAX when never stored */
    uint32_t block_len, block_bytes;
    enum vl_layout packs_to; /* the cheapest layout that loses nothing, else I8_BLOCK or F16 */
    double max_nmse;
    void (*pack_row)(void *dst, const float *src, size_t n); /* NULL: read only */
    void (*unpack_row)(float *dst, const void *src, size_t n);
};
const struct vl_dtype_info *vl_dtype_info(enum vl_dtype t);
#endif
