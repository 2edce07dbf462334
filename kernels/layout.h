/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_LAYOUT_H
#define VL_KERNELS_LAYOUT_H
#include "kernels/tensor.h"

/* How the weights [n_out, k] of a matmul lie once packed, the same for every instruction set. A panel is 16
 * neighbouring outputs, the last one filled up with zeros; what one k needs lies together, so that a kernel
 * keeps outputs in its lanes and walks k:
 *   F32, F16, BF16   [n_panels][k][16]
 *   I8_BLOCK         [n_panels][k / 32] blocks of { f16 scale[16]; int8 q[32][16]; }
 * Pure; any thread. */
enum { VL_PANEL = 16, VL_I8_LEN = 32, VL_I8_BYTES = 2 * VL_PANEL + VL_I8_LEN * VL_PANEL };

size_t vl_layout_panel_bytes(enum vl_layout layout, size_t k);
/* Of the whole packed tensor. -EINVAL: this format or shape is never packed; -ENOMEM: the size overflows. */
int vl_layout_size(const struct vl_tensor *stored, size_t *ret);
/* The tensor that describes stored once it is packed at data. */
struct vl_tensor vl_layout_tensor(const struct vl_tensor *stored, void *data);
/* Packs panels [first, last) of stored to dst, which is the start of the packed tensor. */
void vl_layout_pack(void *dst, const struct vl_tensor *stored, size_t first, size_t last);
/* Row `row` of packed tensor w as f32; dst [k]. */
void vl_layout_unpack_row(float *dst, const struct vl_tensor *w, size_t row);
#endif
