/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Q8_0 as ggml stores it: blocks of 32 elements, f16 scale d, then 32 int8. d = amax / 127, q = round(x / d)
 * with halves away from zero; the trap: q is formed with the f32 scale, before d is rounded to f16. */
#include "kernels/quant/quant.h"

#include <math.h>
#include <string.h>

static void pack_block(uint8_t *dst, const float *src)
{
    float amax = 0;
    for (int i = 0; i < VL_Q8_0_LEN; i++)
        amax = fmaxf(amax, fabsf(src[i]));
    float d = amax / 127, inv = d > 0 ? 1 / d : 0;
    uint16_t h = vl_f16_from_f32(d);
    memcpy(dst, &h, 2);
    for (int i = 0; i < VL_Q8_0_LEN; i++)
        dst[2 + i] = (uint8_t)(int8_t)fmaxf(-127, fminf(127, roundf(src[i] * inv)));
}

void vl_q8_0_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (size_t i = 0; i < n; i += VL_Q8_0_LEN, out += VL_Q8_0_BYTES)
        pack_block(out, src + i);
}

void vl_q8_0_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    vl_block_init(ret, VL_Q8_0_LEN, vl_block_get16(in), VL_F16_MINUS_ZERO);
    memcpy(ret->q, in + 2, VL_Q8_0_LEN);
}

/* Pages of a cache are read with this: without the way over a block taken apart. */
void vl_q8_0_unpack(float *dst, const void *src, size_t n)
{
    const uint8_t *in = src;
    for (size_t i = 0; i < n; i += VL_Q8_0_LEN, in += VL_Q8_0_BYTES) {
        uint16_t h;
        memcpy(&h, in, 2);
        float d = vl_f16_to_f32(h);
        for (int j = 0; j < VL_Q8_0_LEN; j++)
            dst[i + (size_t)j] = (float)(int8_t)in[2 + j] * d;
    }
}
