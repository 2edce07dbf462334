/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_DTYPE_H
#define VL_KERNELS_DTYPE_H
#include <stddef.h>
#include <stdint.h>

/* Stored formats, VL_F32, VL_F16, ...: one line each in quant/formats.def. */
enum vl_dtype {
#define VL_FORMAT(id, ...) VL_##id,
#include "kernels/quant/formats.def"
    VL_DTYPE_COUNT
};

/* How a tensor lies. Stored formats are many, packed layouts few; only a backend reads a packed tensor. The
 * block layouts are a family: 8 or 4 bits for an element; one f16 scale for 32 elements, or small whole
 * scales for 32 or 16 elements times one f16 for 256 (SUPER); with a minimum (M) or without. kernels/layout.h
 * has the bytes. */
enum vl_layout {
    VL_LAYOUT_ROWS, /* as the dtype says: activations and stored tensors; never a matmul's weight */
    VL_LAYOUT_F32,
    VL_LAYOUT_F16,
    VL_LAYOUT_BF16,
    VL_LAYOUT_I8_BLOCK,
    VL_LAYOUT_I4_BLOCK,
    VL_LAYOUT_I8M_BLOCK,
    VL_LAYOUT_I4M_BLOCK,
    VL_LAYOUT_I8_SUPER,
    VL_LAYOUT_I8M_SUPER,
    VL_LAYOUT_I4M_SUPER,
    VL_LAYOUT_COUNT
};

struct vl_block;

/* One row per stored format. max_nmse is the format's own promise: the conformance test reads it. */
struct vl_dtype_info {
    const char *name;
    uint32_t gguf_id; /* id in weight files, UINT32_MAX when never stored */
    uint32_t block_len, block_bytes;
    enum vl_layout packs_to; /* a layout that loses nothing; VL_LAYOUT_ROWS: is never a weight */
    double max_nmse;         /* mean squared error over mean square, one round trip */
    void (*pack_row)(void *dst, const float *src, size_t n); /* NULL: read only */
    void (*unpack_row)(float *dst, const void *src, size_t n);
    void (*split)(struct vl_block *ret, const void *block); /* quant/quant.h; NULL: no blocks */
};
/* t < VL_DTYPE_COUNT; static memory. */
const struct vl_dtype_info *vl_dtype_info(enum vl_dtype t);
/* The bytes of n elements; n must be a multiple of the block. */
size_t vl_dtype_row_bytes(enum vl_dtype dtype, size_t n);
#endif
