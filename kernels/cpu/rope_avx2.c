/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The rotation, AVX2. */
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/math_avx2.h"

static void rotate_avx2(float *x, const float *cosine, const float *sine, size_t n_pairs)
{
    for (size_t i = 0; i < n_pairs; i += 8) {
        size_t n = n_pairs - i;
        __m256 a = load_some(x + i, n), b = load_some(x + i + n_pairs, n);
        __m256 c = load_some(cosine + i, n), s = load_some(sine + i, n);
        store_some(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)), n);
        store_some(x + i + n_pairs, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)), n);
    }
}

void vl_rope_ukernels_init_avx2(struct vl_rope_ukernels *k)
{
    *k = (struct vl_rope_ukernels){rotate_avx2, "avx2"};
}
