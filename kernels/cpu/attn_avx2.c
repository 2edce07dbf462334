/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Attention over one tile of keys, AVX2: six rows at a time, s = q kt (keys in the lanes), the softmax step
 * of ukernels.h on 64 lanes of s, then o = o alpha + p v (elements of the head in the lanes). A key that a
 * row does not see has p = 0 and adds nothing, so a row's bits depend on nothing but what it sees.
 */
#include "kernels/cpu/avx2.h"
#include "kernels/cpu/math_avx2.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { MR = 6, KEYS = VL_ATTN_KEYS };

/* What is spelled out once for each row: an accumulator in an array would not surely stay in a register. */
#define ROWS_1(X) X(0)
#define ROWS_2(X) ROWS_1(X) X(1)
#define ROWS_3(X) ROWS_2(X) X(2)
#define ROWS_4(X) ROWS_3(X) X(3)
#define ROWS_5(X) ROWS_4(X) X(4)
#define ROWS_6(X) ROWS_5(X) X(5)
#define ZERO(r)   __m256 low##r = _mm256_setzero_ps(), high##r = low##r;
#define STEP(r)                                                                                              \
    v = _mm256_broadcast_ss(a + r * lda + i);                                                                \
    low##r = _mm256_fmadd_ps(v, b0, low##r);                                                                 \
    high##r = _mm256_fmadd_ps(v, b1, high##r);
#define PUT(r) put(dst + r * ldd, low##r, high##r, n, alpha ? alpha + r : NULL);

/* dst[0..n) = sum + (alpha ? dst * alpha : 0), n <= 16 */
static inline void put(float *dst, __m256 low, __m256 high, size_t n, const float *alpha)
{
    if (alpha) {
        low = _mm256_fmadd_ps(load_some(dst, n), _mm256_set1_ps(*alpha), low);
        if (n > 8)
            high = _mm256_fmadd_ps(load_some(dst + 8, n - 8), _mm256_set1_ps(*alpha), high);
    }
    store_some(dst, low, n);
    if (n > 8)
        store_some(dst + 8, high, n - 8);
}

/* For R rows: put the sum over i < k of a[r * lda + i] * b[i * ldb + 0..n) to dst + r * ldd. */
#define TILE(R)                                                                                              \
    static inline void tile##R(float *dst, size_t ldd, const float *a, size_t lda, const float *b,           \
                               size_t ldb, size_t k, size_t n, const float *alpha)                           \
    {                                                                                                        \
        ROWS_##R(ZERO) if (n == 16)                                                                          \
        {                                                                                                    \
            for (size_t i = 0; i < k; i++, b += ldb) {                                                       \
                __m256 v, b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);                              \
                ROWS_##R(STEP)                                                                               \
            }                                                                                                \
        }                                                                                                    \
        else                                                                                                 \
        {                                                                                                    \
            const __m256i m0 = lanes(n), m1 = lanes(n > 8 ? n - 8 : 0);                                      \
            for (size_t i = 0; i < k; i++, b += ldb) {                                                       \
                __m256 v, b0 = _mm256_maskload_ps(b, m0);                                                    \
                __m256 b1 = n > 8 ? _mm256_maskload_ps(b + 8, m1) : _mm256_setzero_ps();                     \
                ROWS_##R(STEP)                                                                               \
            }                                                                                                \
        }                                                                                                    \
        ROWS_##R(PUT)                                                                                        \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)

static inline void tile(size_t n_rows, float *dst, size_t ldd, const float *a, size_t lda, const float *b,
                        size_t ldb, size_t k, size_t n, const float *alpha)
{
    switch (n_rows) {
    case 6:
        tile6(dst, ldd, a, lda, b, ldb, k, n, alpha);
        break;
    case 5:
        tile5(dst, ldd, a, lda, b, ldb, k, n, alpha);
        break;
    case 4:
        tile4(dst, ldd, a, lda, b, ldb, k, n, alpha);
        break;
    case 3:
        tile3(dst, ldd, a, lda, b, ldb, k, n, alpha);
        break;
    case 2:
        tile2(dst, ldd, a, lda, b, ldb, k, n, alpha);
        break;
    default:
        tile1(dst, ldd, a, lda, b, ldb, k, n, alpha);
        break;
    }
}

static inline float max8(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

static inline float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* Logits of one row: bias added, what it does not see -inf. Returns their largest. */
static float mask_row(float *s, const struct vl_attn_tile *t, size_t r)
{
    const __m256i first = _mm256_set1_epi32((int)t->seen[r][0]), last = _mm256_set1_epi32((int)t->seen[r][1]);
    const __m256 hidden = _mm256_set1_ps(-INFINITY);
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 top = hidden;
    for (size_t j = 0; j < KEYS; j += 8) {
        __m256 v = _mm256_load_ps(s + j);
        if (t->bias && j < t->n_keys)
            v = _mm256_add_ps(v, load_some(t->bias + j, t->n_keys - j));
        __m256i seen = _mm256_andnot_si256(_mm256_cmpgt_epi32(first, index), _mm256_cmpgt_epi32(last, index));
        v = _mm256_blendv_ps(hidden, v, _mm256_castsi256_ps(seen));
        _mm256_store_ps(s + j, v);
        top = _mm256_max_ps(top, v);
        index = _mm256_add_epi32(index, _mm256_set1_epi32(8));
    }
    return max8(top);
}

/* Turns the logits of row r into p and moves (m, l) on; returns what o is to be multiplied by. */
static float soften_row(float *s, const struct vl_attn_tile *t, size_t r)
{
    float top = mask_row(s, t, r), old = t->m[r];
    top = top > old ? top : old;
    if (top == -INFINITY) {
        memset(s, 0, KEYS * sizeof(*s));
        return 1;
    }
    const __m256 m = _mm256_set1_ps(top);
    __m256 sum = _mm256_setzero_ps();
    for (size_t j = 0; j < KEYS; j += 8) {
        __m256 p = exp8(_mm256_sub_ps(_mm256_load_ps(s + j), m));
        _mm256_store_ps(s + j, p);
        sum = _mm256_add_ps(sum, p);
    }
    float alpha = old == top ? 1 : _mm256_cvtss_f32(exp8(_mm256_set1_ps(old - top)));
    t->m[r] = top;
    t->l[r] = t->l[r] * alpha + sum8(sum);
    return alpha;
}

/* s [n, KEYS] = q kt of rows [r, r + n), n <= 6, for the keys that one of them sees, [*ret_from, *ret_to).
 * False: none sees any. */
static bool multiply(float *s, const struct vl_attn_tile *t, size_t r, size_t n, size_t *ret_from,
                     size_t *ret_to)
{
    size_t d = t->d, from = KEYS, to = 0;
    for (size_t i = r; i < r + n; i++) {
        if (t->seen[i][0] >= t->seen[i][1])
            continue;
        from = t->seen[i][0] < from ? t->seen[i][0] : from;
        to = t->seen[i][1] > to ? t->seen[i][1] : to;
    }
    *ret_from = from;
    *ret_to = to;
    if (from >= to)
        return false;
    memset(s, 0, n * KEYS * sizeof(*s));
    for (size_t j = from / 16 * 16; j < to; j += 16)
        tile(n, s + j, KEYS, t->q + r * d, d, t->kt + j, KEYS, d, 16, NULL);
    return true;
}

static void some_rows(const struct vl_attn_tile *t, size_t r, size_t n)
{
    float s[MR * KEYS] __attribute__((aligned(32))), alpha[MR];
    size_t d = t->d, from, to;
    if (!multiply(s, t, r, n, &from, &to))
        return;
    for (size_t i = 0; i < n; i++)
        alpha[i] = soften_row(s + i * KEYS, t, r + i);
    for (size_t j = 0; t->v && j < d; j += 16)
        tile(n, t->o + r * d + j, d, s + from, KEYS, t->v + from * d + j, d, to - from,
             d - j < 16 ? d - j : 16, alpha);
}

static void tile_avx2(const struct vl_attn_tile *t)
{
    for (size_t r = 0; r < t->n_rows; r += MR)
        some_rows(t, r, t->n_rows - r < MR ? t->n_rows - r : MR);
}

static void add_mass(float *mass, float *s, const struct vl_attn_tile *t, size_t r)
{
    const __m256 m = _mm256_set1_ps(t->m[r]), inv = _mm256_set1_ps(1 / t->l[r]);
    (void)mask_row(s, t, r); /* its largest is in the state */
    for (size_t j = 0; j < t->n_keys; j += 8) {
        __m256 p = exp8(_mm256_sub_ps(_mm256_load_ps(s + j), m));
        size_t n = t->n_keys - j;
        store_some(mass + j, _mm256_fmadd_ps(p, inv, load_some(mass + j, n)), n);
    }
}

static void mass_avx2(float *mass, const struct vl_attn_tile *t)
{
    float s[MR * KEYS] __attribute__((aligned(32)));
    for (size_t r = 0; r < t->n_rows; r += MR) {
        size_t n = t->n_rows - r < MR ? t->n_rows - r : MR, from, to;
        bool any = multiply(s, t, r, n, &from, &to);
        for (size_t i = 0; any && i < n; i++)
            if (t->l[r + i] > 0)
                add_mass(mass, s + i * KEYS, t, r + i);
    }
}

/* 8 keys x 8 elements: src rows are keys lds apart, dst rows are elements KEYS apart. */
static inline void turn8(float *dst, const float *src, size_t lds)
{
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps(src + (size_t)i * lds);
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + (size_t)i * KEYS, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (size_t)(i + 4) * KEYS, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

static void turn_avx2(float *dst, const float *src, size_t lds, size_t n_keys, size_t d)
{
    size_t keys = n_keys / 8 * 8, elements = d / 8 * 8;
    for (size_t i = 0; i < d && keys < KEYS; i++)
        memset(dst + i * KEYS + keys, 0, (KEYS - keys) * sizeof(*dst));
    for (size_t j = 0; j < keys; j += 8)
        for (size_t i = 0; i < elements; i += 8)
            turn8(dst + i * KEYS + j, src + j * lds + i, lds);
    for (size_t j = 0; j < n_keys; j++)
        for (size_t i = j < keys ? elements : 0; i < d; i++)
            dst[i * KEYS + j] = src[j * lds + i];
}

void vl_attn_ukernels_init_avx2(struct vl_attn_ukernels *k)
{
    *k = (struct vl_attn_ukernels){turn_avx2, tile_avx2, mass_avx2, "avx2"};
}
