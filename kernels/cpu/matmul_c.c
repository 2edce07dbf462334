/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* C reference of the matrix products over packed weights: y = a w^T, one output at a time, summed in double.
 */
#include "kernels/cpu/avx2.h"
#include "kernels/layout.h"
#include "kernels/quant/quant.h"

#include <string.h>

/* Element i of output j; one function per layout. */
typedef float (*element_fn)(const char *w, size_t k, size_t j, size_t i);

static const char *at(const char *w, size_t k, size_t j, size_t i, size_t size)
{
    return w + (j / VL_PANEL * VL_PANEL * k + i * VL_PANEL + j % VL_PANEL) * size;
}

static float element_f32(const char *w, size_t k, size_t j, size_t i)
{
    float v;
    memcpy(&v, at(w, k, j, i, 4), 4);
    return v;
}

static float element_f16(const char *w, size_t k, size_t j, size_t i)
{
    uint16_t h;
    memcpy(&h, at(w, k, j, i, 2), 2);
    return vl_f16_to_f32(h);
}

static float element_bf16(const char *w, size_t k, size_t j, size_t i)
{
    uint16_t h;
    memcpy(&h, at(w, k, j, i, 2), 2);
    return vl_bf16_to_f32(h);
}

static float element_i8(const char *w, size_t k, size_t j, size_t i)
{
    const char *block = w + (j / VL_PANEL * (k / VL_I8_LEN) + i / VL_I8_LEN) * VL_I8_BYTES;
    uint16_t d;
    memcpy(&d, block + 2 * (j % VL_PANEL), 2);
    return vl_f16_to_f32(d) * (float)(int8_t)block[2 * VL_PANEL + i % VL_I8_LEN * VL_PANEL + j % VL_PANEL];
}

static void product(float *y, size_t ldy, const void *w, const float *a, size_t lda, size_t n, size_t k,
                    size_t n_out, element_fn element)
{
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < n_out; j++) {
            double sum = 0;
            for (size_t i = 0; i < k; i++)
                sum += (double)a[r * lda + i] * element(w, k, j, i);
            y[r * ldy + j] = (float)sum;
        }
}

#define GEMV(layout, n)                                                                                      \
    static void gemv##n##_##layout##_c(float *y, size_t ldy, const void *w, const float *a, size_t lda,      \
                                       size_t k, size_t n_out)                                               \
    {                                                                                                        \
        product(y, ldy, w, a, lda, n, k, n_out, element_##layout);                                           \
    }
#define GEMM(layout)                                                                                         \
    static void gemm_##layout##_c(float *y, size_t ldy, const void *w, const float *a, size_t lda, size_t n, \
                                  size_t k, size_t n_out)                                                    \
    {                                                                                                        \
        product(y, ldy, w, a, lda, n, k, n_out, element_##layout);                                           \
    }                                                                                                        \
    GEMV(layout, 1)                                                                                          \
    GEMV(layout, 2)                                                                                          \
    GEMV(layout, 4)                                                                                          \
    GEMV(layout, 8)                                                                                          \
    static const struct vl_matmul_ukernels table_##layout = {                                                \
        {gemv1_##layout##_c, gemv2_##layout##_c, gemv4_##layout##_c, gemv8_##layout##_c},                    \
        gemm_##layout##_c,                                                                                   \
        "c"};

GEMM(f32)
GEMM(f16)
GEMM(bf16)
GEMM(i8)

void vl_matmul_ukernels_init(struct vl_matmul_ukernels k[VL_LAYOUT_COUNT], unsigned isa)
{
    k[VL_LAYOUT_F32] = table_f32;
    k[VL_LAYOUT_F16] = table_f16;
    k[VL_LAYOUT_BF16] = table_bf16;
    k[VL_LAYOUT_I8_BLOCK] = table_i8;
#ifdef VL_HAVE_AVX2
    if (isa & VL_ISA_AVX2)
        vl_matmul_ukernels_init_avx2(k);
#endif
    (void)isa; /* where only C is built */
}
