/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Norms, AVX2. Sums stay in double: a row is short, and squares of large activations leave the range of
 * f32. */
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/math_avx2.h"

#include <math.h>

static inline __m256d low4(__m256 v)
{
    return _mm256_cvtps_pd(_mm256_castps256_ps128(v));
}

static inline __m256d high4(__m256 v)
{
    return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}

static inline double sum4(__m256d v)
{
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

static void rms_norm_avx2(float *dst, const float *src, const float *w, size_t n, float eps)
{
    __m256d s0 = _mm256_setzero_pd(), s1 = s0;
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = load_some(src + i, n - i);
        s0 = _mm256_fmadd_pd(low4(v), low4(v), s0);
        s1 = _mm256_fmadd_pd(high4(v), high4(v), s1);
    }
    __m256 scale = _mm256_set1_ps((float)(1 / sqrt(sum4(_mm256_add_pd(s0, s1)) / (double)n + (double)eps)));
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_mul_ps(load_some(src + i, n - i), scale), load_some(w + i, n - i));
        store_some(dst + i, v, n - i);
    }
}

/* Sum of (src - mean)^2; what lies past n counts as mean. */
static double square_sum(const float *src, size_t n, double mean)
{
    const __m256d m = _mm256_set1_pd(mean);
    __m256d s0 = _mm256_setzero_pd(), s1 = s0;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(src + i);
        __m256d a = _mm256_sub_pd(low4(v), m), b = _mm256_sub_pd(high4(v), m);
        s0 = _mm256_fmadd_pd(a, a, s0);
        s1 = _mm256_fmadd_pd(b, b, s1);
    }
    double sum = sum4(_mm256_add_pd(s0, s1));
    for (size_t i = n / 8 * 8; i < n; i++)
        sum += (src[i] - mean) * (src[i] - mean);
    return sum;
}

static void layer_norm_avx2(float *dst, const float *src, const float *w, const float *b, size_t n, float eps)
{
    __m256d s0 = _mm256_setzero_pd(), s1 = s0;
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = load_some(src + i, n - i);
        s0 = _mm256_add_pd(s0, low4(v));
        s1 = _mm256_add_pd(s1, high4(v));
    }
    double mean = sum4(_mm256_add_pd(s0, s1)) / (double)n;
    double scale = 1 / sqrt(square_sum(src, n, mean) / (double)n + (double)eps);
    const __m256d m = _mm256_set1_pd(mean), s = _mm256_set1_pd(scale);
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = load_some(src + i, n - i);
        __m128 low = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_sub_pd(low4(v), m), s));
        __m128 high = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_sub_pd(high4(v), m), s));
        v = _mm256_fmadd_ps(_mm256_set_m128(high, low), load_some(w + i, n - i), load_some(b + i, n - i));
        store_some(dst + i, v, n - i);
    }
}

void vl_norm_ukernels_init_avx2(struct vl_norm_ukernels *k)
{
    *k = (struct vl_norm_ukernels){rms_norm_avx2, layer_norm_avx2, "avx2"};
}
