/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_UKERNELS_H
#define VL_KERNELS_UKERNELS_H
#include "kernels/dtype.h"
#include "kernels/isa.h"

/* Tables of leaf functions: raw pointers, no allocation, no errors, no threads; any length, any alignment.
 * Outputs are disjoint from inputs, except that dst may be src itself in the norms and the activations.
 * vl_ukernels_init is pure: a process may hold the tables of several instruction sets side by side. The C
 * ones sum in double and are the oracle of all others (tests/checkkernel). A group's variant names what was
 * chosen. */

/* dst[i] = src[i] / sqrt(mean(src^2) + eps) * w[i] (Zhang and Sennrich 2019) */
typedef void (*vl_rms_norm_fn)(float *dst, const float *src, const float *w, size_t n, float eps);
/* dst[i] = (src[i] - mean) / sqrt(variance + eps) * w[i] + b[i] (Ba et al. 2016) */
typedef void (*vl_layer_norm_fn)(float *dst, const float *src, const float *w, const float *b, size_t n,
                                 float eps);
struct vl_norm_ukernels {
    vl_rms_norm_fn rms_norm;
    vl_layer_norm_fn layer_norm;
    const char *variant;
};

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016) */
typedef void (*vl_gelu_fn)(float *dst, const float *src, size_t n);
/* gate / (1 + exp(-gate)) * up (Shazeer 2020) */
typedef void (*vl_silu_mul_fn)(float *dst, const float *gate, const float *up, size_t n);
typedef void (*vl_add_fn)(float *dst, const float *a, const float *b, size_t n);
struct vl_act_ukernels {
    vl_gelu_fn gelu;
    vl_silu_mul_fn silu_mul;
    vl_add_fn add;
    const char *variant;
};

/* One head in place: (x[i], x[i + n]) turns by the angle whose cosine and sine stand at i. */
typedef void (*vl_rotate_fn)(float *x, const float *cosine, const float *sine, size_t n_pairs);
struct vl_rope_ukernels {
    vl_rotate_fn rotate;
    const char *variant;
};

/* Between f32 and the 16-bit floats, round to nearest even. */
typedef void (*vl_widen_fn)(float *dst, const void *src, size_t n);
typedef void (*vl_narrow_fn)(void *dst, const float *src, size_t n);
struct vl_convert_ukernels {
    vl_widen_fn widen_f16, widen_bf16;
    vl_narrow_fn narrow_f16, narrow_bf16;
    const char *variant;
};

/* y[r * ldy + j] = sum over i of a[r * lda + i] * w[j, i]; w is packed (kernels/layout.h) and starts at a
 * panel. In one table a row's result is the same bit for bit whichever function computed it and however many
 * rows went with it: prefill equals steps, and no split of the work shows. */
typedef void (*vl_gemv_fn)(float *y, size_t ldy, const void *w, const float *a, size_t lda, size_t k,
                           size_t n_out);
typedef void (*vl_gemm_fn)(float *y, size_t ldy, const void *w, const float *a, size_t lda, size_t n,
                           size_t k, size_t n_out);
struct vl_matmul_ukernels {
    vl_gemv_fn gemv[4]; /* 1, 2, 4, 8 rows of activations */
    vl_gemm_fn gemm;
    const char *variant;
};

/* One tile of keys and values against some rows of queries, with the softmax streamed (Milakov and
 * Gimelshein 2018; FlashAttention, Dao et al. 2022): state (m, l, o) of a row becomes
 *   m' = max(m, max s), p = exp(s - m'), l' = l exp(m - m') + sum p, o' = o exp(m - m') + p v
 * with s = q k + bias over the keys [from, to) that the row sees. It begins as (-inf, 0, 0); a row that sees
 * only -inf keeps its state. What a row gets does not depend on the other rows, nor on keys it does not see.
 */
enum { VL_ATTN_KEYS = 64, VL_ATTN_ROWS = 96, VL_ATTN_HEAD_DIM = 256 };
struct vl_attn_tile {
    const float *q;            /* [n_rows, d], already scaled */
    const float *kt;           /* [d, VL_ATTN_KEYS], of which n_keys columns count; the rest is finite */
    const float *v;            /* [n_keys, d]; NULL, and o with it: m and l alone move on */
    const float *bias;         /* [n_keys] or NULL */
    const uint32_t (*seen)[2]; /* [n_rows] [from, to), to <= n_keys */
    float *m, *l;              /* [n_rows] */
    float *o;                  /* [n_rows, d] */
    size_t n_rows, n_keys, d;  /* up to VL_ATTN_ROWS, VL_ATTN_KEYS, VL_ATTN_HEAD_DIM */
};
typedef void (*vl_attn_tile_fn)(const struct vl_attn_tile *t);
/* mass[j] += the sum over the rows that see key j of exp(s - m) / l, with the state of a row as tile left it
 * after its last key; a row whose l is 0 adds nothing. v and o are not looked at. */
typedef void (*vl_attn_mass_fn)(float *mass, const struct vl_attn_tile *t);
/* dst [d, VL_ATTN_KEYS] from src [n_keys, d], rows lds floats apart; columns from n_keys on become zero. */
typedef void (*vl_attn_turn_fn)(float *dst, const float *src, size_t lds, size_t n_keys, size_t d);
struct vl_attn_ukernels {
    vl_attn_turn_fn turn;
    vl_attn_tile_fn tile;
    vl_attn_mass_fn mass;
    const char *variant;
};

struct vl_ukernels {
    struct vl_norm_ukernels norm;
    struct vl_act_ukernels act;
    struct vl_rope_ukernels rope;
    struct vl_convert_ukernels convert;
    struct vl_attn_ukernels attn;
    struct vl_matmul_ukernels matmul[VL_LAYOUT_COUNT]; /* none for VL_LAYOUT_ROWS */
};
void vl_norm_ukernels_init(struct vl_norm_ukernels *k, unsigned isa);
void vl_act_ukernels_init(struct vl_act_ukernels *k, unsigned isa);
void vl_rope_ukernels_init(struct vl_rope_ukernels *k, unsigned isa);
void vl_convert_ukernels_init(struct vl_convert_ukernels *k, unsigned isa);
void vl_attn_ukernels_init(struct vl_attn_ukernels *k, unsigned isa);
void vl_matmul_ukernels_init(struct vl_matmul_ukernels k[VL_LAYOUT_COUNT], unsigned isa);
void vl_ukernels_init(struct vl_ukernels *k, unsigned isa);
#endif
