/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The formats without blocks: f32, f16, bf16, i32, u8. In integer arithmetic, so that the C reference needs
 * nothing of the CPU. */
#include "kernels/quant/quant.h"

#include <string.h>

static uint32_t bits_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof(u));
    return u;
}

static float float_of(uint32_t u)
{
    float v;
    memcpy(&v, &u, sizeof(v));
    return v;
}

uint16_t vl_f16_from_f32(float v)
{
    uint32_t u = bits_of(v), sign = u >> 16 & 0x8000, mag = u & 0x7FFFFFFF;
    if (mag > 0x7F800000)
        return (uint16_t)(sign | 0x7E00 | (mag >> 13 & 0x1FF));
    if (mag >= 0x477FF000) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00);
    if (mag >= 0x38800000) { /* normal: rebias by 112, keep 10 of 23 bits */
        uint32_t odd = mag >> 13 & 1;
        return (uint16_t)(sign | ((mag - (112u << 23) + 0xFFF + odd) >> 13));
    }
    if (mag < 0x33000000) /* below half of the smallest subnormal */
        return (uint16_t)sign;
    /* Subnormal: the value in units of 2^-24, rounded to even. */
    uint32_t shift = 126 - (mag >> 23), frac = (mag & 0x7FFFFF) | 0x800000;
    uint32_t q = frac >> shift, rest = frac & ((1u << shift) - 1), half = 1u << (shift - 1);
    q += rest > half || (rest == half && (q & 1));
    return (uint16_t)(sign | q);
}

float vl_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = h & 0x7FFF;
    if (mag >= 0x7C00) /* infinity, or NaN made quiet as the hardware does */
        return float_of(sign | 0x7F800000 | (mag & 0x3FF) << 13 | (mag > 0x7C00 ? 0x400000 : 0));
    if (mag >= 0x400)
        return float_of(sign | ((mag << 13) + (112u << 23)));
    float v = (float)mag * 0x1p-24f;
    return sign ? -v : v;
}

uint16_t vl_bf16_from_f32(float v)
{
    uint32_t u = bits_of(v);
    if ((u & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(u >> 16 | 64);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

float vl_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

void vl_f32_pack(void *dst, const float *src, size_t n)
{
    memcpy(dst, src, n * sizeof(*src));
}

void vl_f32_unpack(float *dst, const void *src, size_t n)
{
    memcpy(dst, src, n * sizeof(*dst));
}

void vl_f16_pack(void *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = vl_f16_from_f32(src[i]);
        memcpy((char *)dst + 2 * i, &h, 2);
    }
}

void vl_f16_unpack(float *dst, const void *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, (const char *)src + 2 * i, 2);
        dst[i] = vl_f16_to_f32(h);
    }
}

void vl_bf16_pack(void *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = vl_bf16_from_f32(src[i]);
        memcpy((char *)dst + 2 * i, &h, 2);
    }
}

void vl_bf16_unpack(float *dst, const void *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, (const char *)src + 2 * i, 2);
        dst[i] = vl_bf16_to_f32(h);
    }
}

void vl_i32_unpack(float *dst, const void *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t v;
        memcpy(&v, (const char *)src + 4 * i, 4);
        dst[i] = (float)v;
    }
}

void vl_u8_unpack(float *dst, const void *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = ((const uint8_t *)src)[i];
}
