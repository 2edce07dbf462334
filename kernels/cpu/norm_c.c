/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* C reference of the norms: written to be read, sums in double, the oracle of every faster one. */
#include "kernels/cpu/avx2.h"

#include <math.h>

static void rms_norm_c(float *dst, const float *src, const float *w, size_t n, float eps)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)src[i] * src[i];
    double scale = 1 / sqrt(sum / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)(src[i] * scale * w[i]);
}

static void layer_norm_c(float *dst, const float *src, const float *w, const float *b, size_t n, float eps)
{
    double mean = 0, var = 0;
    for (size_t i = 0; i < n; i++)
        mean += src[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        var += (src[i] - mean) * (src[i] - mean);
    double scale = 1 / sqrt(var / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)((src[i] - mean) * scale * w[i] + b[i]);
}

void vl_norm_ukernels_init(struct vl_norm_ukernels *k, unsigned isa)
{
    *k = (struct vl_norm_ukernels){rms_norm_c, layer_norm_c, "c"};
#ifdef VL_HAVE_AVX2
    if (isa & VL_ISA_AVX2)
        vl_norm_ukernels_init_avx2(k);
#endif
    (void)isa; /* where only C is built */
}
