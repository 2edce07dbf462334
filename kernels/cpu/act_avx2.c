/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Activations and addition, AVX2. gelu's tanh form is x / (1 + exp(-2 u)), which keeps its relative precision
 * where 1 + tanh cancels. */
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/math_avx2.h"

static inline __m256 gelu8(__m256 x)
{
    const __m256 a = _mm256_set1_ps(-2 * 0.79788456080286535588f); /* -2 sqrt(2 / pi) */
    __m256 cubic = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715f), _mm256_set1_ps(1));
    __m256 e = exp8(_mm256_mul_ps(a, _mm256_mul_ps(x, cubic)));
    return _mm256_div_ps(x, _mm256_add_ps(e, _mm256_set1_ps(1)));
}

static inline __m256 silu8(__m256 x)
{
    __m256 e = exp8(_mm256_sub_ps(_mm256_setzero_ps(), x));
    return _mm256_div_ps(x, _mm256_add_ps(e, _mm256_set1_ps(1)));
}

static void gelu_avx2(float *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        store_some(dst + i, gelu8(load_some(src + i, n - i)), n - i);
}

static void silu_mul_avx2(float *dst, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(silu8(load_some(gate + i, n - i)), load_some(up + i, n - i));
        store_some(dst + i, v, n - i);
    }
}

static void add_avx2(float *dst, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        store_some(dst + i, _mm256_add_ps(load_some(a + i, n - i), load_some(b + i, n - i)), n - i);
}

void vl_act_ukernels_init_avx2(struct vl_act_ukernels *k)
{
    *k = (struct vl_act_ukernels){gelu_avx2, silu_mul_avx2, add_avx2, "avx2"};
}
