/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Matrix products over packed weights, AVX2 + FMA + F16C. Outputs stand in the lanes and k is walked, so that
 * nothing is summed across lanes:
 *
 *   for each block of 256 k:  acc = 0;  acc = fma(a[r, i], w[i, 0..15], acc) for i in the block;  y += acc
 *
 * Every function here does exactly this for a row, whatever the other rows: that is what makes results the
 * same bit for bit. Weights are widened to f32 in registers (gemv) or once for a tile of 256 x 16 that all
 * rows then use (gemm); q * d of a block format is exact in f32. The gemm keeps 6 rows x 16 outputs in 12
 * accumulators (Goto and van de Geijn 2008, with the panel packed beforehand).
 */
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/math_avx2.h"
#include "kernels/layout.h"

enum { KC = 256, MR = 6 };

/* y[0..n) = (first block of k ? 0 : y) + sum, n outputs of a panel. */
static inline void put(float *y, __m256 low, __m256 high, size_t n, int first)
{
    if (!first) {
        low = _mm256_add_ps(load_some(y, n), low);
        if (n > 8)
            high = _mm256_add_ps(load_some(y + 8, n - 8), high);
    }
    store_some(y, low, n);
    if (n > 8)
        store_some(y + 8, high, n - 8);
}

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How 8 neighbouring weights of row i become f32; d is the block's scales and unused without blocks. */
static inline __m256 wide_f32(const char *w, __m256 d)
{
    (void)d;
    return _mm256_loadu_ps((const float *)w);
}

static inline __m256 wide_f16(const char *w, __m256 d)
{
    (void)d;
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)w));
}

static inline __m256 wide_bf16(const char *w, __m256 d)
{
    (void)d;
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)w));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

static inline __m256 wide_i8(const char *w, __m256 d)
{
    __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)w));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(q), d);
}

static inline __m256 scales(const char *block, int half)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(block + 16 * half)));
}

/* What is spelled out once for each (panel, row of activations): an accumulator in an array would not surely
 * stay in a register. */
#define EACH_4_1(X)     X(0, 0) X(1, 0) X(2, 0) X(3, 0)
#define EACH_2_2(X)     X(0, 0) X(0, 1) X(1, 0) X(1, 1)
#define EACH_1_4(X)     X(0, 0) X(0, 1) X(0, 2) X(0, 3)
#define EACH_1_2(X)     X(0, 0) X(0, 1)
#define EACH_1_1(X)     X(0, 0)
#define GEMV_ZERO(p, c) __m256 low##p##c = _mm256_setzero_ps(), high##p##c = low##p##c;
#define GEMV_STEP(p, c)                                                                                      \
    v = _mm256_broadcast_ss(a + c * lda + i0 + i);                                                           \
    low##p##c = _mm256_fmadd_ps(v, wide(row + p * panel_bytes, d[p][0]), low##p##c);                         \
    high##p##c = _mm256_fmadd_ps(v, wide(row + p * panel_bytes + 8 * size, d[p][1]), high##p##c);
#define GEMV_PUT(p, c)                                                                                       \
    put(y + c * ldy + p * VL_PANEL, low##p##c, high##p##c, smaller(n_out - p * VL_PANEL, VL_PANEL), kb == 0);

/* C rows of activations against P panels, the last of which may be cut. LEN: k's that one step walks, a block
 * or without blocks KC; HEAD: bytes ahead of them; SIZE: bytes of an element. */
#define GEMV_BODY(name, WIDE, C, P, LEN, HEAD, SIZE)                                                         \
    static inline void name(float *y, size_t ldy, const char *w, size_t panel_bytes, const float *a,         \
                            size_t lda, size_t k, size_t n_out)                                              \
    {                                                                                                        \
        const size_t size = SIZE;                                                                            \
        __m256 (*const wide)(const char *, __m256) = WIDE;                                                   \
        for (size_t kb = 0; kb < k; kb += KC) {                                                              \
            size_t end = smaller(k, kb + KC);                                                                \
            EACH_##P##_##C(GEMV_ZERO) for (size_t i0 = kb; i0 < end; i0 += LEN)                              \
            {                                                                                                \
                size_t n = smaller(LEN, end - i0);                                                           \
                const char *row = w + i0 / LEN * (HEAD) + i0 * VL_PANEL * size;                              \
                __m256 d[P][2], v;                                                                           \
                for (int p = 0; p < P; p++)                                                                  \
                    for (int h = 0; h < 2; h++)                                                              \
                        d[p][h] = HEAD ? scales(row + p * panel_bytes, h) : _mm256_setzero_ps();             \
                row += HEAD;                                                                                 \
                for (size_t i = 0; i < n; i++, row += VL_PANEL * size) {                                     \
                    EACH_##P##_##C(GEMV_STEP)                                                                \
                }                                                                                            \
            }                                                                                                \
            EACH_##P##_##C(GEMV_PUT)                                                                         \
        }                                                                                                    \
    }

/* P panels at a time while there are as many, then one by one. */
#define GEMV(layout, id, wide, C, P, LEN, HEAD, SIZE)                                                        \
    GEMV_BODY(gemv##C##_##layout##_many, wide, C, P, LEN, HEAD, SIZE)                                        \
    GEMV_BODY(gemv##C##_##layout##_one, wide, C, 1, LEN, HEAD, SIZE)                                         \
    static void gemv##C##_##layout##_avx2(float *y, size_t ldy, const void *w, const float *a, size_t lda,   \
                                          size_t k, size_t n_out)                                            \
    {                                                                                                        \
        const char *panel = w;                                                                               \
        size_t bytes = vl_layout_panel_bytes(id, k), j = 0;                                                  \
        for (; j + (P - 1) * VL_PANEL < n_out; j += P * VL_PANEL, panel += P * bytes)                        \
            gemv##C##_##layout##_many(y + j, ldy, panel, bytes, a, lda, k, n_out - j);                       \
        for (; j < n_out; j += VL_PANEL, panel += bytes)                                                     \
            gemv##C##_##layout##_one(y + j, ldy, panel, bytes, a, lda, k, n_out - j);                        \
    }

#define ROWS_1(X)    X(0)
#define ROWS_2(X)    ROWS_1(X) X(1)
#define ROWS_3(X)    ROWS_2(X) X(2)
#define ROWS_4(X)    ROWS_3(X) X(3)
#define ROWS_5(X)    ROWS_4(X) X(4)
#define ROWS_6(X)    ROWS_5(X) X(5)
#define TILE_ZERO(r) __m256 low##r = _mm256_setzero_ps(), high##r = low##r;
#define TILE_STEP(r)                                                                                         \
    v = _mm256_broadcast_ss(a + r * lda + i);                                                                \
    low##r = _mm256_fmadd_ps(v, b0, low##r);                                                                 \
    high##r = _mm256_fmadd_ps(v, b1, high##r);
#define TILE_PUT(r) put(y + r * ldy, low##r, high##r, n_out, first);

/* R rows x 16 outputs over n k's; b [n, 16]. */
#define TILE(R)                                                                                              \
    static inline void tile##R(float *y, size_t ldy, const float *b, const float *a, size_t lda, size_t n,   \
                               size_t n_out, int first)                                                      \
    {                                                                                                        \
        ROWS_##R(TILE_ZERO) for (size_t i = 0; i < n; i++, b += VL_PANEL)                                    \
        {                                                                                                    \
            __m256 v, b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);                                  \
            ROWS_##R(TILE_STEP)                                                                              \
        }                                                                                                    \
        ROWS_##R(TILE_PUT)                                                                                   \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)

static void tile_rows(float *y, size_t ldy, const float *b, const float *a, size_t lda, size_t n_rows,
                      size_t n, size_t n_out, int first)
{
    for (; n_rows >= MR; n_rows -= MR, y += MR * ldy, a += MR * lda)
        tile6(y, ldy, b, a, lda, n, n_out, first);
    switch (n_rows) {
    case 5:
        tile5(y, ldy, b, a, lda, n, n_out, first);
        break;
    case 4:
        tile4(y, ldy, b, a, lda, n, n_out, first);
        break;
    case 3:
        tile3(y, ldy, b, a, lda, n, n_out, first);
        break;
    case 2:
        tile2(y, ldy, b, a, lda, n, n_out, first);
        break;
    case 1:
        tile1(y, ldy, b, a, lda, n, n_out, first);
        break;
    default:
        break;
    }
}

/* k's [kb, end) of a panel as f32, in `room` unless they lie so already. */
#define WIDE_TILE(layout, wide, LEN, HEAD, SIZE)                                                             \
    static inline const float *wide_tile_##layout(float *room, const char *panel, size_t kb, size_t end)     \
    {                                                                                                        \
        float *out = room;                                                                                   \
        for (size_t i0 = kb; i0 < end; i0 += LEN) {                                                          \
            size_t n = smaller(LEN, end - i0);                                                               \
            const char *at = panel + i0 / LEN * (HEAD) + i0 * VL_PANEL * SIZE;                               \
            __m256 d0 = HEAD ? scales(at, 0) : _mm256_setzero_ps();                                          \
            __m256 d1 = HEAD ? scales(at, 1) : _mm256_setzero_ps();                                          \
            for (size_t i = 0; i < n; i++, out += VL_PANEL) {                                                \
                const char *row = at + HEAD + i * VL_PANEL * SIZE;                                           \
                _mm256_store_ps(out, wide(row, d0));                                                         \
                _mm256_store_ps(out + 8, wide(row + 8 * SIZE, d1));                                          \
            }                                                                                                \
        }                                                                                                    \
        return room;                                                                                         \
    }
static inline const float *wide_tile_f32(float *room, const char *panel, size_t kb, size_t end)
{
    (void)room;
    (void)end;
    return (const float *)panel + kb * VL_PANEL;
}
WIDE_TILE(f16, wide_f16, KC, 0, 2)
WIDE_TILE(bf16, wide_bf16, KC, 0, 2)
WIDE_TILE(i8, wide_i8, VL_I8_LEN, 2 * VL_PANEL, 1)

#define GEMM(layout, id)                                                                                     \
    static void gemm_##layout##_avx2(float *y, size_t ldy, const void *w, const float *a, size_t lda,        \
                                     size_t n, size_t k, size_t n_out)                                       \
    {                                                                                                        \
        float room[KC * VL_PANEL] __attribute__((aligned(32)));                                              \
        size_t bytes = vl_layout_panel_bytes(id, k);                                                         \
        for (size_t kb = 0; kb < k; kb += KC) {                                                              \
            size_t end = smaller(k, kb + KC);                                                                \
            const char *panel = w;                                                                           \
            for (size_t j = 0; j < n_out; j += VL_PANEL, panel += bytes) {                                   \
                const float *b = wide_tile_##layout(room, panel, kb, end);                                   \
                tile_rows(y + j, ldy, b, a + kb, lda, n, end - kb, smaller(VL_PANEL, n_out - j), kb == 0);   \
            }                                                                                                \
        }                                                                                                    \
    }

/* Panels at a time: 8 accumulators hide the latency of one row; more rows need fewer panels. Eight rows go
 * four by four over a panel that the first four left in the cache. */
#define LAYOUT(layout, id, LEN, HEAD, SIZE)                                                                  \
    GEMV(layout, id, wide_##layout, 1, 4, LEN, HEAD, SIZE)                                                   \
    GEMV(layout, id, wide_##layout, 2, 2, LEN, HEAD, SIZE)                                                   \
    GEMV(layout, id, wide_##layout, 4, 1, LEN, HEAD, SIZE)                                                   \
    GEMM(layout, id)                                                                                         \
    static void gemv8_##layout##_avx2(float *y, size_t ldy, const void *w, const float *a, size_t lda,       \
                                      size_t k, size_t n_out)                                                \
    {                                                                                                        \
        const char *panel = w;                                                                               \
        size_t bytes = vl_layout_panel_bytes(id, k);                                                         \
        for (size_t j = 0; j < n_out; j += VL_PANEL, panel += bytes) {                                       \
            gemv4_##layout##_one(y + j, ldy, panel, bytes, a, lda, k, n_out - j);                            \
            gemv4_##layout##_one(y + j + 4 * ldy, ldy, panel, bytes, a + 4 * lda, lda, k, n_out - j);        \
        }                                                                                                    \
    }                                                                                                        \
    static const struct vl_matmul_ukernels table_##layout = {                                                \
        {gemv1_##layout##_avx2, gemv2_##layout##_avx2, gemv4_##layout##_avx2, gemv8_##layout##_avx2},        \
        gemm_##layout##_avx2,                                                                                \
        "avx2"};

LAYOUT(f32, VL_LAYOUT_F32, KC, 0, 4)
LAYOUT(f16, VL_LAYOUT_F16, KC, 0, 2)
LAYOUT(bf16, VL_LAYOUT_BF16, KC, 0, 2)
LAYOUT(i8, VL_LAYOUT_I8_BLOCK, VL_I8_LEN, 2 * VL_PANEL, 1)

void vl_matmul_ukernels_init_avx2(struct vl_matmul_ukernels k[VL_LAYOUT_COUNT])
{
    k[VL_LAYOUT_F32] = table_f32;
    k[VL_LAYOUT_F16] = table_f16;
    k[VL_LAYOUT_BF16] = table_bf16;
    k[VL_LAYOUT_I8_BLOCK] = table_i8;
}
