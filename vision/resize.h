/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Pillow's resampler (12.x) for 8-bit RGB, byte for byte: weights in double, rounded to 22 bits, applied
 * along one axis at a time with 8 bits between the passes. One axis is a table, made once for a geometry.
 */
#ifndef VL_VISION_RESIZE_H
#define VL_VISION_RESIZE_H
#include <stddef.h>
#include <stdint.h>

enum vl_filter { VL_FILTER_BILINEAR, VL_FILTER_BICUBIC, VL_FILTER_LANCZOS };

/* Output i is the sum over k < count[i] of in[first[i] + k] * weight[i * stride + k], plus 2^21, shifted
 * right by 22 and clipped to 0..255. Plain data over one block of host memory. */
struct vl_resize_axis {
    uint32_t n_in, n_out, stride, max_in, max_out;
    uint32_t *first, *count; /* [max_out] */
    int32_t *weight;         /* [6 * max_in + 7 * max_out] */
    void *memory;
};
/* For up to max_in samples to up to max_out, 1 .. 65536 each. -EINVAL, -ENOMEM. */
int vl_resize_axis_init(struct vl_resize_axis *a, uint32_t max_in, uint32_t max_out);
void vl_resize_axis_done(struct vl_resize_axis *a); /* accepts a zeroed one */
/* Makes the table, unless it is that one already; never allocates. n_in 1 .. max_in, n_out 1 .. max_out, of a
 * filter that is always the same for this axis. */
void vl_resize_axis_set(struct vl_resize_axis *a, enum vl_filter filter, uint32_t n_in, uint32_t n_out);

/* One row: src [n_in, 3] to dst [n_out, 3]. */
void vl_resize_row(const struct vl_resize_axis *a, uint8_t *dst, const uint8_t *src);
/* Which input rows output row i of the vertical pass reads: [*ret_first, end), both rising with i. */
uint32_t vl_resize_needs(const struct vl_resize_axis *a, uint32_t i, uint32_t *ret_first);
/* Output row i of the vertical pass over src [.., width, 3], whose first row is input row src_row; dst
 * [width, 3]. */
void vl_resize_column(const struct vl_resize_axis *a, uint32_t i, uint8_t *dst, const uint8_t *src,
                      uint32_t src_row, uint32_t width);
#endif
