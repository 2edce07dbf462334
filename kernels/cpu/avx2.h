/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_CPU_AVX2_H
#define VL_KERNELS_CPU_AVX2_H
#include "kernels/ukernels.h"

/* The AVX2 step of each group's staircase, defined in its own file with its own flags; replaces what it
 * implements and leaves the rest. Call only with VL_ISA_AVX2 granted. */
void vl_norm_ukernels_init_avx2(struct vl_norm_ukernels *k);
void vl_act_ukernels_init_avx2(struct vl_act_ukernels *k);
void vl_rope_ukernels_init_avx2(struct vl_rope_ukernels *k);
void vl_convert_ukernels_init_avx2(struct vl_convert_ukernels *k);
void vl_attn_ukernels_init_avx2(struct vl_attn_ukernels *k);
void vl_matmul_ukernels_init_avx2(struct vl_matmul_ukernels k[VL_LAYOUT_COUNT]);
#endif
