/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Q5_0 and Q5_1 as ggml stores them: 32 elements, f16 scale d, in Q5_1 f16 minimum m, then 32 bits that are
 * the fifth bits of elements 0 to 31, then the lower four as in Q4_0. An element is (q - 16) d, or q d + m.
 * The trap: when packing, q is formed with the scale before that is rounded to f16. */
#include "kernels/quant/quant.h"

#include <math.h>
#include <string.h>

enum { LEN = 32, Q5_0_BYTES = 22, Q5_1_BYTES = 24 };

/* in: the fifth bits, then the nibbles. */
static void split_codes(int8_t *q, const uint8_t *in, int zero)
{
    uint32_t fifth = in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
    for (int j = 0; j < LEN / 2; j++) {
        q[j] = (int8_t)((in[4 + j] & 15) + (int)(fifth >> j & 1) * 16 - zero);
        q[j + LEN / 2] = (int8_t)((in[4 + j] >> 4) + (int)(fifth >> (j + LEN / 2) & 1) * 16 - zero);
    }
}

void vl_q5_0_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    vl_block_init(ret, LEN, vl_block_get16(in), VL_F16_MINUS_ZERO);
    split_codes(ret->q, in + 2, 16);
}

void vl_q5_1_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    vl_block_init(ret, LEN, vl_block_get16(in), vl_block_get16(in + 2));
    split_codes(ret->q, in + 4, 0);
}

void vl_q5_0_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_q5_0_split, Q5_0_BYTES);
}

void vl_q5_1_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_q5_1_split, Q5_1_BYTES);
}

/* q = (x - from) * inv + offset cut to a whole number, 0 to 31; out: the fifth bits, then the nibbles. */
static void put_codes(uint8_t *out, const float *x, float from, float inv, float offset)
{
    memset(out, 0, 4 + LEN / 2);
    for (int i = 0; i < LEN; i++) {
        int q = (int)fminf(31, fmaxf(0, (x[i] - from) * inv + offset));
        out[i / 8] = (uint8_t)(out[i / 8] | q >> 4 << i % 8);
        out[4 + i % (LEN / 2)] |= (uint8_t)((q & 15) << (i < LEN / 2 ? 0 : 4));
    }
}

void vl_q5_0_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += Q5_0_BYTES) {
        float top = 0; /* of the largest magnitude, with its sign: it becomes -16 */
        for (int i = 0; i < LEN; i++)
            top = fabsf(src[i]) > fabsf(top) ? src[i] : top;
        float d = top / -16;
        vl_block_put16(out, vl_f16_from_f32(d));
        put_codes(out + 2, src, 0, d != 0 ? 1 / d : 0, 16.5f);
    }
}

void vl_q5_1_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += Q5_1_BYTES) {
        float low = src[0], high = src[0];
        for (int i = 1; i < LEN; i++) {
            low = fminf(low, src[i]);
            high = fmaxf(high, src[i]);
        }
        float d = (high - low) / 31;
        vl_block_put16(out, vl_f16_from_f32(d));
        vl_block_put16(out + 2, vl_f16_from_f32(low));
        put_codes(out + 4, src, low, d != 0 ? 1 / d : 0, 0.5f);
    }
}
