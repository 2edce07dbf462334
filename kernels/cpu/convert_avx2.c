/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Conversions between f32 and the 16-bit floats, AVX2 and F16C; the same bits as the C reference. */
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/math_avx2.h"

#include <string.h>

/* Tails go through a full vector on the stack. */
static void widen_f16_avx2(float *dst, const void *src, size_t n)
{
    const uint16_t *in = src;
    for (; n >= 8; n -= 8, in += 8, dst += 8)
        _mm256_storeu_ps(dst, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)in)));
    if (n) {
        uint16_t tail[8] = {0};
        memcpy(tail, in, n * 2);
        store_some(dst, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)tail)), n);
    }
}

static void narrow_f16_avx2(void *dst, const float *src, size_t n)
{
    uint16_t *out = dst;
    for (; n >= 8; n -= 8, out += 8, src += 8)
        _mm_storeu_si128((__m128i *)out, _mm256_cvtps_ph(_mm256_loadu_ps(src), _MM_FROUND_TO_NEAREST_INT));
    if (n) {
        uint16_t tail[8];
        _mm_storeu_si128((__m128i *)tail, _mm256_cvtps_ph(load_some(src, n), _MM_FROUND_TO_NEAREST_INT));
        memcpy(out, tail, n * 2);
    }
}

static inline __m256 widen_bf16_8(const uint16_t *in)
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)in));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

static void widen_bf16_avx2(float *dst, const void *src, size_t n)
{
    const uint16_t *in = src;
    for (; n >= 8; n -= 8, in += 8, dst += 8)
        _mm256_storeu_ps(dst, widen_bf16_8(in));
    if (n) {
        uint16_t tail[8] = {0};
        memcpy(tail, in, n * 2);
        store_some(dst, widen_bf16_8(tail), n);
    }
}

/* (bits + 0x7FFF + odd) >> 16, and for NaN bits >> 16 | 64. */
static inline __m128i narrow_bf16_8(__m256 v)
{
    __m256i u = _mm256_castps_si256(v), top = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    r = _mm256_blendv_epi8(r, _mm256_or_si256(top, _mm256_set1_epi32(64)), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

static void narrow_bf16_avx2(void *dst, const float *src, size_t n)
{
    uint16_t *out = dst;
    for (; n >= 8; n -= 8, out += 8, src += 8)
        _mm_storeu_si128((__m128i *)out, narrow_bf16_8(_mm256_loadu_ps(src)));
    if (n) {
        uint16_t tail[8];
        _mm_storeu_si128((__m128i *)tail, narrow_bf16_8(load_some(src, n)));
        memcpy(out, tail, n * 2);
    }
}

void vl_convert_ukernels_init_avx2(struct vl_convert_ukernels *k)
{
    *k = (struct vl_convert_ukernels){widen_f16_avx2, widen_bf16_avx2, narrow_f16_avx2, narrow_bf16_avx2,
                                      "avx2"};
}
