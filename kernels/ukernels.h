/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_UKERNELS_H
#define VL_KERNELS_UKERNELS_H
#include "kernels/dtype.h"
#include <stddef.h>
#include <stdint.h>
/* Bundles that ship together; set only when the CPU has it and the OS grants it (AMX must be asked for). */
enum vl_isa {
    VL_ISA_AVX2 = 1u << 0,
    VL_ISA_AVX512 = 1u << 1,
    VL_ISA_AVX512_VNNI = 1u << 2,
    VL_ISA_AVX512_BF16 = 1u << 3,
    VL_ISA_AVX512_FP16 = 1u << 4,
    VL_ISA_AMX_INT8 = 1u << 5,
    VL_ISA_AMX_BF16 = 1u << 6,
    VL_ISA_NEON = 1u << 8,
    VL_ISA_DOTPROD = 1u << 9,
    VL_ISA_I8MM = 1u << 10
};
/* Leaf functions: raw pointers, no allocation, no errors, no threads; any length, any alignment, inputs and
 * outputs disjoint. */
typedef void (*vl_rms_norm_fn)(float *dst, const float *src, const float *weight, size_t n, float eps);
typedef void (*vl_gemv_fn)(float *dst, const void *w, size_t row_bytes, const void *x, size_t k,
                           size_t n_rows);
typedef void (*vl_gemm_fn)(float *dst, size_t ldd, const void *w, const void *x, size_t m, size_t n,
                           size_t k);
struct vl_norm_ukernels {
    vl_rms_norm_fn rms_norm;
    const char *variant;
};
struct vl_matmul_ukernels {
    vl_gemv_fn gemv[4]; /* by activation columns 1, 2, 4, 8 */
    vl_gemm_fn gemm;
    const char *variant;
};
struct vl_ukernels {
    struct vl_norm_ukernels norm;
    struct vl_matmul_ukernels matmul[VL_LAYOUT_COUNT];
};
void vl_norm_ukernels_init(struct vl_norm_ukernels *k, unsigned isa);
void vl_ukernels_init(struct vl_ukernels *k, unsigned isa);
#endif
