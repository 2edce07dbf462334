/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* C reference of the rotation (RoFormer, Su et al. 2021); the backend forms the angles. */
#include "kernels/cpu/avx2.h"

static void rotate_c(float *x, const float *cosine, const float *sine, size_t n_pairs)
{
    for (size_t i = 0; i < n_pairs; i++) {
        double a = x[i], b = x[i + n_pairs];
        x[i] = (float)(a * cosine[i] - b * sine[i]);
        x[i + n_pairs] = (float)(a * sine[i] + b * cosine[i]);
    }
}

void vl_rope_ukernels_init(struct vl_rope_ukernels *k, unsigned isa)
{
    *k = (struct vl_rope_ukernels){rotate_c, "c"};
#ifdef VL_HAVE_AVX2
    if (isa & VL_ISA_AVX2)
        vl_rope_ukernels_init_avx2(k);
#endif
    (void)isa; /* where only C is built */
}
