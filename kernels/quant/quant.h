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

/* A block is an f16 scale d and 32 int8 q; an element is q * d. */
enum { VL_Q8_0_LEN = 32, VL_Q8_0_BYTES = 34 };
void vl_q8_0_pack(void *dst, const float *src, size_t n);
void vl_q8_0_unpack(float *dst, const void *src, size_t n);
#endif
