/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_QUANT_QUANT_H
#define VL_KERNELS_QUANT_QUANT_H
#include <stddef.h>
#include <stdint.h>

/* What formats.def names. Stored bytes are little endian and may lie at any address. n is a multiple of the
 * format's block length. Any thread; pure. */

/* One value: round to nearest, ties to even; NaN stays NaN; what is too large becomes infinity. */
uint16_t vl_f16_from_f32(float v);
float vl_f16_to_f32(uint16_t h);
uint16_t vl_bf16_from_f32(float v);
float vl_bf16_to_f32(uint16_t h);

void vl_f32_pack(void *dst, const float *src, size_t n);
void vl_f32_unpack(float *dst, const void *src, size_t n);
void vl_f16_pack(void *dst, const float *src, size_t n);
void vl_f16_unpack(float *dst, const void *src, size_t n);
void vl_bf16_pack(void *dst, const float *src, size_t n);
void vl_bf16_unpack(float *dst, const void *src, size_t n);
void vl_i32_unpack(float *dst, const void *src, size_t n);
void vl_u8_unpack(float *dst, const void *src, size_t n);

/* A block of any block format, taken apart. Element i is
 *   q[i] * (d * scale[i / len]) + m * min[i / len]
 * where both products are exact in f32 and only the sum rounds, so that fused or not it has the same bits.
 * Formats without a minimum have m = -0, which changes no bit of what it is added to; those with one scale a
 * block have scale and min 1. */
enum { VL_BLOCK_MAX_LEN = 256, VL_BLOCK_MAX_SCALES = 16 };
struct vl_block {
    uint16_t d, m; /* f16 */
    int8_t scale[VL_BLOCK_MAX_SCALES], min[VL_BLOCK_MAX_SCALES];
    int8_t q[VL_BLOCK_MAX_LEN];
    uint32_t n, len; /* elements of the block, and of one scale */
};
typedef void (*vl_block_split_fn)(struct vl_block *ret, const void *block);
/* n elements from blocks of block_bytes each. */
void vl_blocks_unpack(float *dst, const void *src, size_t n, vl_block_split_fn split, size_t block_bytes);
/* What the formats' files share: f16 fields and a block with one scale, or with one scale and minimum. */
uint16_t vl_block_get16(const uint8_t *p);
void vl_block_put16(uint8_t *p, uint16_t h);
void vl_block_init(struct vl_block *b, uint32_t n, uint16_t d, uint16_t m);
enum { VL_F16_MINUS_ZERO = 0x8000 };

/* Names as ggml has them: _0 is a scale, _1 a scale and a minimum, _K 256 elements with scales of scales. */
enum { VL_Q8_0_LEN = 32, VL_Q8_0_BYTES = 34 };
#define VL_BLOCK_FORMAT(name)                                                                                \
    void vl_##name##_split(struct vl_block *ret, const void *block);                                         \
    void vl_##name##_pack(void *dst, const float *src, size_t n);                                            \
    void vl_##name##_unpack(float *dst, const void *src, size_t n);
VL_BLOCK_FORMAT(q4_0)
VL_BLOCK_FORMAT(q4_1)
VL_BLOCK_FORMAT(q5_0)
VL_BLOCK_FORMAT(q5_1)
VL_BLOCK_FORMAT(q8_0)
VL_BLOCK_FORMAT(q4_k)
VL_BLOCK_FORMAT(q5_k)
VL_BLOCK_FORMAT(q6_k)
VL_BLOCK_FORMAT(iq4_nl)
#undef VL_BLOCK_FORMAT
#endif
