/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* C reference of the activations and the addition, in double. */
#include "kernels/cpu/avx2.h"

#include <math.h>

static void gelu_c(float *dst, const float *src, size_t n)
{
    const double root = 0.79788456080286535588; /* sqrt(2 / pi) */
    for (size_t i = 0; i < n; i++) {
        double x = src[i];
        dst[i] = (float)(0.5 * x * (1 + tanh(root * (x + 0.044715 * x * x * x))));
    }
}

static void silu_mul_c(float *dst, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

static void add_c(float *dst, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = a[i] + b[i];
}

void vl_act_ukernels_init(struct vl_act_ukernels *k, unsigned isa)
{
    *k = (struct vl_act_ukernels){gelu_c, silu_mul_c, add_c, "c"};
#ifdef VL_HAVE_AVX2
    if (isa & VL_ISA_AVX2)
        vl_act_ukernels_init_avx2(k);
#endif
    (void)isa; /* where only C is built */
}
