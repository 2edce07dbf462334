/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Q6_K as ggml stores it: 256 elements in 16 groups. 128 bytes of low nibbles, 64 bytes of upper bit pairs,
 * 16 int8 scales, and last the f16 d. It is two halves of 128: in a half, element 32 p + l has its low bits
 * in byte 32 (p % 2) + l, in the low nibble for p < 2, and its upper ones in bits 2 p of byte l. An element
 * is (q - 32) (d scale). ggml's encoder searches; ours rounds to nearest. */
#include "kernels/quant/quant.h"

#include <math.h>
#include <string.h>

enum { LEN = 256, PART = 32, GROUP = 16, GROUPS = 16, UPPER = 128, SCALES = 192, D = 208, BYTES = 210 };

void vl_q6_k_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    vl_block_init(ret, LEN, vl_block_get16(in + D), VL_F16_MINUS_ZERO);
    ret->len = GROUP;
    memcpy(ret->scale, in + SCALES, GROUPS);
    memset(ret->min, 1, sizeof(ret->min));
    for (int i = 0; i < LEN; i += PART) {
        int p = i % 128 / PART;
        const uint8_t *low = in + i / 128 * 64 + p % 2 * PART, *upper = in + UPPER + i / 128 * PART;
        for (int l = 0; l < PART; l++)
            ret->q[i + l] = (int8_t)(((low[l] >> p / 2 * 4 & 15) | (upper[l] >> 2 * p & 3) << 4) - 32);
    }
}

void vl_q6_k_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_q6_k_split, BYTES);
}

static int nearest(float v, int low, int high)
{
    return (int)fminf((float)high, fmaxf((float)low, roundf(v)));
}

static void pack_block(uint8_t *out, const float *x)
{
    float scale[GROUPS], top = 0;
    memset(out, 0, BYTES);
    for (int g = 0; g < GROUPS; g++) {
        float far = 0; /* of the largest magnitude, with its sign: it becomes -32 */
        for (int i = g * GROUP; i < (g + 1) * GROUP; i++)
            far = fabsf(x[i]) > fabsf(far) ? x[i] : far;
        scale[g] = far / -32;
        top = fmaxf(top, fabsf(scale[g]));
    }
    uint16_t h = vl_f16_from_f32(top / 127);
    float d = vl_f16_to_f32(h);
    vl_block_put16(out + D, h);
    for (int g = 0; g < GROUPS; g++)
        out[SCALES + g] = (uint8_t)(int8_t)(d > 0 ? nearest(scale[g] / d, -127, 127) : 0);
    for (int i = 0; i < LEN; i++) {
        float step = d * (float)(int8_t)out[SCALES + i / GROUP];
        int q = 32 + (step != 0 ? nearest(x[i] / step, -32, 31) : 0);
        int half = i / 128, p = i % 128 / PART, l = i % PART;
        out[half * 64 + p % 2 * PART + l] |= (uint8_t)((q & 15) << p / 2 * 4);
        out[UPPER + half * PART + l] |= (uint8_t)(q >> 4 << 2 * p);
    }
}

void vl_q6_k_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += BYTES)
        pack_block(out, src);
}
