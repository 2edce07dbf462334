/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_LAYOUT_H
#define VL_KERNELS_LAYOUT_H
#include "kernels/tensor.h"

#include <stdbool.h>

/* How the weights [n_out, k] of a matmul lie once packed, the same for every instruction set. A panel is 16
 * neighbouring outputs, the last one filled up with zeros; what one k needs lies together, so that a kernel
 * keeps outputs in its lanes and walks k. [n_panels] of
 *   F32, F16, BF16  [k][16]
 *   I8_BLOCK        [k / 32] of { f16 d[16]; int8 q[32][16]; }                    q d
 *   I4_BLOCK        [k / 32] of { f16 d[16]; pair q[16][16]; }                    (q - 8) d
 *   I8M_BLOCK       [k / 32] of { f16 d[16], m[16]; int8 q[32][16]; }             q d + m
 *   I4M_BLOCK       [k / 32] of { f16 d[16], m[16]; pair q[16][16]; }             q d + m
 *   I8_SUPER        [k / 256] of { f16 d[16];
 *                     [16] of { int8 s[16]; int8 q[16][16]; } }                   q (d s)
 *   I8M_SUPER       [k / 256] of { f16 d[16], m[16];
 *                     [8] of { int8 s[16], t[16]; int8 q[32][16]; } }             q (d s) + m t
 *   I4M_SUPER       the same with pair q[16][16]
 * A pair is a byte: of two neighbouring k the first one in the low four bits. The right column is the element
 * that is meant; its products are exact in f32 and its sum rounds once, as quant/quant.h says, so that every
 * format finds a layout that loses nothing. Pure; any thread. */
enum { VL_PANEL = 16, VL_I4_ZERO = 8 };

/* One row per layout but VL_LAYOUT_ROWS. */
struct vl_layout_info {
    const char *name;
    uint8_t bits;     /* of an element's code */
    uint8_t zero;     /* what is added to an element's code to store it */
    uint8_t n_scales; /* in a block; 0: no blocks */
    uint8_t len;      /* elements to a scale */
    bool has_min;
};
const struct vl_layout_info *vl_layout_info(enum vl_layout layout);

/* k must be whole blocks. */
size_t vl_layout_panel_bytes(enum vl_layout layout, size_t k);
/* Of the whole packed tensor. -EINVAL: this format or shape is never packed; -ENOMEM: the size overflows. */
int vl_layout_size(const struct vl_tensor *stored, size_t *ret);
/* The tensor that describes stored once it is packed at data. */
struct vl_tensor vl_layout_tensor(const struct vl_tensor *stored, void *data);
/* Packs panels [first, last) of stored to dst, which is the start of the packed tensor. */
void vl_layout_pack(void *dst, const struct vl_tensor *stored, size_t first, size_t last);
/* Elements [first, first + n) of a panel's output j < 16 as f32; first and n are whole scales' lengths. */
void vl_layout_unpack(float *dst, enum vl_layout layout, const void *panel, size_t j, size_t first, size_t n);
/* Row `row` of packed tensor w as f32; dst [k]. */
void vl_layout_unpack_row(float *dst, const struct vl_tensor *w, size_t row);
#endif
