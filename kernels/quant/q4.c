/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Q4_0 and Q4_1 as ggml stores them: 32 elements, f16 scale d, in Q4_1 f16 minimum m, then 16 bytes: byte j
 * holds element j in its low half and j + 16 in its high one. An element is (q - 8) d, or q d + m. The trap:
 * when packing, q is formed with the scale before that is rounded to f16. */
#include "kernels/quant/quant.h"

#include <math.h>

enum { LEN = 32, Q4_0_BYTES = 18, Q4_1_BYTES = 20 };

static void split_nibbles(int8_t *q, const uint8_t *in, int zero)
{
    for (int j = 0; j < LEN / 2; j++) {
        q[j] = (int8_t)((in[j] & 15) - zero);
        q[j + LEN / 2] = (int8_t)((in[j] >> 4) - zero);
    }
}

void vl_q4_0_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    vl_block_init(ret, LEN, vl_block_get16(in), VL_F16_MINUS_ZERO);
    split_nibbles(ret->q, in + 2, 8);
}

void vl_q4_1_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    vl_block_init(ret, LEN, vl_block_get16(in), vl_block_get16(in + 2));
    split_nibbles(ret->q, in + 4, 0);
}

void vl_q4_0_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_q4_0_split, Q4_0_BYTES);
}

void vl_q4_1_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_q4_1_split, Q4_1_BYTES);
}

/* Cut to a whole number, 0 to 15. */
static uint8_t code(float v)
{
    return (uint8_t)fminf(15, fmaxf(0, v));
}

void vl_q4_0_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += Q4_0_BYTES) {
        float top = 0; /* of the largest magnitude, with its sign: it becomes -8 */
        for (int i = 0; i < LEN; i++)
            top = fabsf(src[i]) > fabsf(top) ? src[i] : top;
        float d = top / -8, inv = d != 0 ? 1 / d : 0;
        vl_block_put16(out, vl_f16_from_f32(d));
        for (int j = 0; j < LEN / 2; j++)
            out[2 + j] = (uint8_t)(code(src[j] * inv + 8.5f) | code(src[j + LEN / 2] * inv + 8.5f) << 4);
    }
}

void vl_q4_1_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += Q4_1_BYTES) {
        float low = src[0], high = src[0];
        for (int i = 1; i < LEN; i++) {
            low = fminf(low, src[i]);
            high = fmaxf(high, src[i]);
        }
        float d = (high - low) / 15, inv = d != 0 ? 1 / d : 0;
        vl_block_put16(out, vl_f16_from_f32(d));
        vl_block_put16(out + 2, vl_f16_from_f32(low));
        for (int j = 0; j < LEN / 2; j++)
            out[4 + j] = (uint8_t)(code((src[j] - low) * inv + 0.5f) |
                                   code((src[j + LEN / 2] - low) * inv + 0.5f) << 4);
    }
}
