/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* IQ4_NL as ggml stores it: 32 elements, f16 scale d and nibbles in the order of Q4_0, which are places in a
 * table of 16 values that lie closer together near zero. The table is part of the format. Packing rounds to
 * the nearest value, with the largest magnitude at the table's far end. */
#include "kernels/quant/quant.h"

#include <math.h>

enum { LEN = 32, BYTES = 18 };

static const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void vl_iq4_nl_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    vl_block_init(ret, LEN, vl_block_get16(in), VL_F16_MINUS_ZERO);
    for (int j = 0; j < LEN / 2; j++) {
        ret->q[j] = table[in[2 + j] & 15];
        ret->q[j + LEN / 2] = table[in[2 + j] >> 4];
    }
}

void vl_iq4_nl_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_iq4_nl_split, BYTES);
}

static uint8_t nearest(float v)
{
    uint8_t q = 0;
    while (q < 15 && v > 0.5f * (float)(table[q] + table[q + 1]))
        q++;
    return q;
}

void vl_iq4_nl_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += BYTES) {
        float top = 0;
        for (int i = 0; i < LEN; i++)
            top = fabsf(src[i]) > fabsf(top) ? src[i] : top;
        float d = top / (float)table[0], inv = d != 0 ? 1 / d : 0;
        vl_block_put16(out, vl_f16_from_f32(d));
        for (int j = 0; j < LEN / 2; j++)
            out[2 + j] = (uint8_t)(nearest(src[j] * inv) | nearest(src[j + LEN / 2] * inv) << 4);
    }
}
