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
 * rows then use (gemm); an element of a block format rounds once, as kernels/layout.h says. The gemm keeps 6
 * rows x 16 outputs in 12 accumulators (Goto and van de Geijn 2008, with the panel packed beforehand).
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

/* What the elements of one scale share: 16 outputs. Layouts leave out what they do not have. */
struct scale {
    __m256 d[2], m[2];
};

/* Each layout says how to find element i0 of a panel, where a scale begins, and the scale:
 *   const char *open_<layout>(const char *panel, size_t i0, struct scale *ret)
 * and how 8 outputs' weights, the lower or the upper ones of a panel, become f32 for one k or for a pair:
 *   void wide_<layout>(__m256 *ret, const char *row, int half, const struct scale *s) */
#define OPEN_FLOATS(layout, size)                                                                            \
    static inline const char *open_##layout(const char *panel, size_t i0, struct scale *ret)                 \
    {                                                                                                        \
        (void)ret;                                                                                           \
        return panel + i0 * VL_PANEL * size;                                                                 \
    }
OPEN_FLOATS(f32, 4)
OPEN_FLOATS(f16, 2)
OPEN_FLOATS(bf16, 2)

static inline void wide_f32(__m256 *ret, const char *row, int half, const struct scale *s)
{
    (void)s;
    ret[0] = _mm256_loadu_ps((const float *)row + 8 * half);
}

static inline void wide_f16(__m256 *ret, const char *row, int half, const struct scale *s)
{
    (void)s;
    ret[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)row + half));
}

static inline void wide_bf16(__m256 *ret, const char *row, int half, const struct scale *s)
{
    (void)s;
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)row + half));
    ret[0] = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

/* 16 f16, 16 int8. */
static inline void load_f16(__m256 *ret, const char *at)
{
    ret[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
    ret[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at + 1));
}

static inline __m256i bytes8(const char *at)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at));
}

static inline void times_i8(__m256 *inout, const char *at)
{
    for (int h = 0; h < 2; h++)
        inout[h] = _mm256_mul_ps(inout[h], _mm256_cvtepi32_ps(bytes8(at + 8 * h)));
}

/* Bytes of f16 and of int8 for each output, of the elements of one scale, and of whole blocks. */
enum {
    HALVES = 2 * VL_PANEL,
    BYTES = VL_PANEL,
    LEN = 32,
    LEN_I8S = 16,
    SUPER = 256,
    CODES_8 = LEN * VL_PANEL,
    CODES_4 = CODES_8 / 2,
    CODES_I8S = LEN_I8S * VL_PANEL,
    SUPER_8M = 2 * HALVES + SUPER / LEN * (2 * BYTES + CODES_8),
    SUPER_4M = 2 * HALVES + SUPER / LEN * (2 * BYTES + CODES_4),
    SUPER_8 = HALVES + SUPER / LEN_I8S * (BYTES + CODES_I8S)
};

static inline const char *open_i8(const char *panel, size_t i0, struct scale *ret)
{
    const char *block = panel + i0 / LEN * (HALVES + CODES_8);
    load_f16(ret->d, block);
    return block + HALVES;
}

/* (q - 8) d as q d + m: exact in f32, as the sum is a number that f32 has. Only of an infinite d it makes NaN
 * where infinity would do. */
static inline const char *open_i4(const char *panel, size_t i0, struct scale *ret)
{
    const char *block = panel + i0 / LEN * (HALVES + CODES_4);
    load_f16(ret->d, block);
    for (int h = 0; h < 2; h++)
        ret->m[h] = _mm256_mul_ps(ret->d[h], _mm256_set1_ps(-VL_I4_ZERO));
    return block + HALVES;
}

static inline const char *open_with_min(const char *panel, size_t i0, struct scale *ret, size_t codes)
{
    const char *block = panel + i0 / LEN * (2 * HALVES + codes);
    load_f16(ret->d, block);
    load_f16(ret->m, block + HALVES);
    return block + 2 * HALVES;
}

static inline const char *open_i8m(const char *panel, size_t i0, struct scale *ret)
{
    return open_with_min(panel, i0, ret, CODES_8);
}

static inline const char *open_i4m(const char *panel, size_t i0, struct scale *ret)
{
    return open_with_min(panel, i0, ret, CODES_4);
}

static inline const char *open_i8s(const char *panel, size_t i0, struct scale *ret)
{
    const char *block = panel + i0 / SUPER * SUPER_8;
    const char *group = block + HALVES + i0 % SUPER / LEN_I8S * (BYTES + CODES_I8S);
    load_f16(ret->d, block);
    times_i8(ret->d, group);
    return group + BYTES;
}

static inline const char *open_super(const char *panel, size_t i0, struct scale *ret, size_t bytes,
                                     size_t codes)
{
    const char *block = panel + i0 / SUPER * bytes;
    const char *group = block + 2 * HALVES + i0 % SUPER / LEN * (2 * BYTES + codes);
    load_f16(ret->d, block);
    load_f16(ret->m, block + HALVES);
    times_i8(ret->d, group);
    times_i8(ret->m, group + BYTES);
    return group + 2 * BYTES;
}

static inline const char *open_i8ms(const char *panel, size_t i0, struct scale *ret)
{
    return open_super(panel, i0, ret, SUPER_8M, CODES_8);
}

static inline const char *open_i4ms(const char *panel, size_t i0, struct scale *ret)
{
    return open_super(panel, i0, ret, SUPER_4M, CODES_4);
}

static inline void wide_i8(__m256 *ret, const char *row, int half, const struct scale *s)
{
    ret[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(bytes8(row + 8 * half)), s->d[half]);
}

static inline void wide_i8m(__m256 *ret, const char *row, int half, const struct scale *s)
{
    ret[0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(bytes8(row + 8 * half)), s->d[half], s->m[half]);
}

static inline void wide_i4(__m256 *ret, const char *row, int half, const struct scale *s)
{
    __m256i pair = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(row + 8 * half)));
    __m256i first = _mm256_and_si256(pair, _mm256_set1_epi32(15)), second = _mm256_srli_epi32(pair, 4);
    ret[0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(first), s->d[half], s->m[half]);
    ret[1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second), s->d[half], s->m[half]);
}

/* Relatives differ in where a scale stands, not in their elements. */
#define wide_i8s  wide_i8
#define wide_i8ms wide_i8m
#define wide_i4m  wide_i4
#define wide_i4ms wide_i4

/* What is spelled out once for each (panel, row of activations): an accumulator in an array would not surely
 * stay in a register. */
#define EACH_4_1(X)     X(0, 0) X(1, 0) X(2, 0) X(3, 0)
#define EACH_2_2(X)     X(0, 0) X(0, 1) X(1, 0) X(1, 1)
#define EACH_1_4(X)     X(0, 0) X(0, 1) X(0, 2) X(0, 3)
#define EACH_1_2(X)     X(0, 0) X(0, 1)
#define EACH_1_1(X)     X(0, 0)
#define GEMV_ZERO(p, c) __m256 low##p##c = _mm256_setzero_ps(), high##p##c = low##p##c;
#define GEMV_STEP(p, c)                                                                                      \
    wide(u, row + p * panel_bytes, 0, &s[p]);                                                                \
    wide(v, row + p * panel_bytes, 1, &s[p]);                                                                \
    for (size_t t = 0; t < step; t++) {                                                                      \
        __m256 x = _mm256_broadcast_ss(a + c * lda + i0 + i + t);                                            \
        low##p##c = _mm256_fmadd_ps(x, u[t], low##p##c);                                                     \
        high##p##c = _mm256_fmadd_ps(x, v[t], high##p##c);                                                   \
    }
#define GEMV_PUT(p, c)                                                                                       \
    put(y + c * ldy + p * VL_PANEL, low##p##c, high##p##c, smaller(n_out - p * VL_PANEL, VL_PANEL), kb == 0);

/* C rows of activations against P panels, the last of which may be cut. GROUP: elements of one scale, or
 * without scales KC; STEP: k's that wide gives at a time; SIZE: bytes of 16 outputs of so many. */
#define GEMV_BODY(name, layout, C, P, GROUP, STEP, SIZE)                                                     \
    static inline void name(float *y, size_t ldy, const char *w, size_t panel_bytes, const float *a,         \
                            size_t lda, size_t k, size_t n_out)                                              \
    {                                                                                                        \
        const size_t step = STEP;                                                                            \
        void (*const wide)(__m256 *, const char *, int, const struct scale *) = wide_##layout;               \
        for (size_t kb = 0; kb < k; kb += KC) {                                                              \
            size_t end = smaller(k, kb + KC);                                                                \
            EACH_##P##_##C(GEMV_ZERO) for (size_t i0 = kb; i0 < end; i0 += GROUP)                            \
            {                                                                                                \
                size_t n = smaller(GROUP, end - i0);                                                         \
                struct scale s[P];                                                                           \
                __m256 u[STEP], v[STEP];                                                                     \
                const char *row = open_##layout(w, i0, &s[0]);                                               \
                for (size_t p = 1; p < P; p++)                                                               \
                    (void)open_##layout(w + p * panel_bytes, i0, &s[p]);                                     \
                for (size_t i = 0; i < n; i += step, row += SIZE) {                                          \
                    EACH_##P##_##C(GEMV_STEP)                                                                \
                }                                                                                            \
            }                                                                                                \
            EACH_##P##_##C(GEMV_PUT)                                                                         \
        }                                                                                                    \
    }

/* P panels at a time while there are as many, then one by one. */
#define GEMV(layout, id, C, P, GROUP, STEP, SIZE)                                                            \
    GEMV_BODY(gemv##C##_##layout##_many, layout, C, P, GROUP, STEP, SIZE)                                    \
    GEMV_BODY(gemv##C##_##layout##_one, layout, C, 1, GROUP, STEP, SIZE)                                     \
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
#define WIDE_TILE(layout, GROUP, STEP, SIZE)                                                                 \
    static inline const float *wide_tile_##layout(float *room, const char *panel, size_t kb, size_t end)     \
    {                                                                                                        \
        float *out = room;                                                                                   \
        for (size_t i0 = kb; i0 < end; i0 += GROUP) {                                                        \
            size_t n = smaller(GROUP, end - i0);                                                             \
            struct scale s;                                                                                  \
            __m256 v[STEP];                                                                                  \
            const char *row = open_##layout(panel, i0, &s);                                                  \
            for (size_t i = 0; i < n; i += STEP, row += SIZE, out += STEP * VL_PANEL)                        \
                for (int half = 0; half < 2; half++) {                                                       \
                    wide_##layout(v, row, half, &s);                                                         \
                    for (size_t t = 0; t < STEP; t++)                                                        \
                        _mm256_store_ps(out + t * VL_PANEL + 8 * half, v[t]);                                \
                }                                                                                            \
        }                                                                                                    \
        return room;                                                                                         \
    }
static inline const float *wide_tile_f32(float *room, const char *panel, size_t kb, size_t end)
{
    (void)room;
    (void)end;
    return (const float *)panel + kb * VL_PANEL;
}
WIDE_TILE(f16, KC, 1, 2 * VL_PANEL)
WIDE_TILE(bf16, KC, 1, 2 * VL_PANEL)
WIDE_TILE(i8, LEN, 1, VL_PANEL)
WIDE_TILE(i4, LEN, 2, VL_PANEL)
WIDE_TILE(i8m, LEN, 1, VL_PANEL)
WIDE_TILE(i4m, LEN, 2, VL_PANEL)
WIDE_TILE(i8s, LEN_I8S, 1, VL_PANEL)
WIDE_TILE(i8ms, LEN, 1, VL_PANEL)
WIDE_TILE(i4ms, LEN, 2, VL_PANEL)

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
#define LAYOUT(layout, id, GROUP, STEP, SIZE)                                                                \
    GEMV(layout, id, 1, 4, GROUP, STEP, SIZE)                                                                \
    GEMV(layout, id, 2, 2, GROUP, STEP, SIZE)                                                                \
    GEMV(layout, id, 4, 1, GROUP, STEP, SIZE)                                                                \
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

LAYOUT(f32, VL_LAYOUT_F32, KC, 1, 4 * VL_PANEL)
LAYOUT(f16, VL_LAYOUT_F16, KC, 1, 2 * VL_PANEL)
LAYOUT(bf16, VL_LAYOUT_BF16, KC, 1, 2 * VL_PANEL)
LAYOUT(i8, VL_LAYOUT_I8_BLOCK, LEN, 1, VL_PANEL)
LAYOUT(i4, VL_LAYOUT_I4_BLOCK, LEN, 2, VL_PANEL)
LAYOUT(i8m, VL_LAYOUT_I8M_BLOCK, LEN, 1, VL_PANEL)
LAYOUT(i4m, VL_LAYOUT_I4M_BLOCK, LEN, 2, VL_PANEL)
LAYOUT(i8s, VL_LAYOUT_I8_SUPER, LEN_I8S, 1, VL_PANEL)
LAYOUT(i8ms, VL_LAYOUT_I8M_SUPER, LEN, 1, VL_PANEL)
LAYOUT(i4ms, VL_LAYOUT_I4M_SUPER, LEN, 2, VL_PANEL)

void vl_matmul_ukernels_init_avx2(struct vl_matmul_ukernels k[VL_LAYOUT_COUNT])
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
}
