/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* C reference of the matrix products over packed weights: y = a w^T, each output summed in double. Weights
 * are unpacked a piece at a time, for some rows of activations together. */
#include "kernels/cpu/avx2.h"
#include "kernels/layout.h"

enum { PIECE = 32, ROWS = 32 }; /* a piece is a whole number of scales' lengths */

static void product(float *y, size_t ldy, const char *w, const float *a, size_t lda, size_t n, size_t k,
                    size_t n_out, enum vl_layout layout)
{
    size_t bytes = vl_layout_panel_bytes(layout, k);
    for (; n > ROWS; n -= ROWS, y += ROWS * ldy, a += ROWS * lda)
        product(y, ldy, w, a, lda, ROWS, k, n_out, layout);
    for (size_t j = 0; j < n_out; j++) {
        double sum[ROWS] = {0};
        for (size_t i = 0; i < k; i += PIECE) {
            float v[PIECE];
            size_t m = k - i < PIECE ? k - i : PIECE;
            vl_layout_unpack(v, layout, w + j / VL_PANEL * bytes, j % VL_PANEL, i, m);
            for (size_t r = 0; r < n; r++) {
                double s = sum[r];
                for (size_t l = 0; l < m; l++)
                    s += (double)a[r * lda + i + l] * v[l];
                sum[r] = s;
            }
        }
        for (size_t r = 0; r < n; r++)
            y[r * ldy + j] = (float)sum[r];
    }
}

#define GEMV(name, id, n)                                                                                    \
    static void gemv##n##_##name##_c(float *y, size_t ldy, const void *w, const float *a, size_t lda,        \
                                     size_t k, size_t n_out)                                                 \
    {                                                                                                        \
        product(y, ldy, w, a, lda, n, k, n_out, id);                                                         \
    }
#define LAYOUT(name, id)                                                                                     \
    static void gemm_##name##_c(float *y, size_t ldy, const void *w, const float *a, size_t lda, size_t n,   \
                                size_t k, size_t n_out)                                                      \
    {                                                                                                        \
        product(y, ldy, w, a, lda, n, k, n_out, id);                                                         \
    }                                                                                                        \
    GEMV(name, id, 1)                                                                                        \
    GEMV(name, id, 2)                                                                                        \
    GEMV(name, id, 4)                                                                                        \
    GEMV(name, id, 8)                                                                                        \
    static const struct vl_matmul_ukernels table_##name = {                                                  \
        {gemv1_##name##_c, gemv2_##name##_c, gemv4_##name##_c, gemv8_##name##_c}, gemm_##name##_c, "c"};

LAYOUT(f32, VL_LAYOUT_F32)
LAYOUT(f16, VL_LAYOUT_F16)
LAYOUT(bf16, VL_LAYOUT_BF16)
LAYOUT(i8, VL_LAYOUT_I8_BLOCK)
LAYOUT(i4, VL_LAYOUT_I4_BLOCK)
LAYOUT(i8m, VL_LAYOUT_I8M_BLOCK)
LAYOUT(i4m, VL_LAYOUT_I4M_BLOCK)
LAYOUT(i8s, VL_LAYOUT_I8_SUPER)
LAYOUT(i8ms, VL_LAYOUT_I8M_SUPER)
LAYOUT(i4ms, VL_LAYOUT_I4M_SUPER)

void vl_matmul_ukernels_init(struct vl_matmul_ukernels k[VL_LAYOUT_COUNT], unsigned isa)
{
    k[VL_LAYOUT_F32] = table_f32;
    k[VL_LAYOUT_F16] = table_f16;
    k[VL_LAYOUT_BF16] = table_bf16;
    k[VL_LAYOUT_I8_BLOCK] = table_i8;
    k[VL_LAYOUT_I4_BLOCK] = table_i4;
    k[VL_LAYOUT_I8M_BLOCK] = table_i8m;
    k[VL_LAYOUT_I4M_BLOCK] = table_i4m;
    k[VL_LAYOUT_I8_SUPER] = table_i8s;
    k[VL_LAYOUT_I8M_SUPER] = table_i8ms;
    k[VL_LAYOUT_I4M_SUPER] = table_i4ms;
#ifdef VL_HAVE_AVX2
    if (isa & VL_ISA_AVX2)
        vl_matmul_ukernels_init_avx2(k);
#endif
    (void)isa; /* where only C is built */
}
