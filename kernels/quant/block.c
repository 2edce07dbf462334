/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What all block formats share: a block taken apart has one meaning, whatever bits it was stored in. */
#include "kernels/quant/quant.h"

#include <string.h>

uint16_t vl_block_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

void vl_block_put16(uint8_t *p, uint16_t h)
{
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

void vl_block_init(struct vl_block *b, uint32_t n, uint16_t d, uint16_t m)
{
    b->n = b->len = n;
    b->d = d;
    b->m = m;
    b->scale[0] = b->min[0] = 1;
}

void vl_blocks_unpack(float *dst, const void *src, size_t n, vl_block_split_fn split, size_t block_bytes)
{
    struct vl_block b;
    const char *in = src;
    for (const float *end = dst + n; dst < end; dst += b.n, in += block_bytes) {
        split(&b, in);
        float d = vl_f16_to_f32(b.d), m = vl_f16_to_f32(b.m);
        for (uint32_t i = 0; i < b.n; i++) {
            uint32_t s = i / b.len;
            dst[i] = (float)b.q[i] * (d * (float)b.scale[s]) + m * (float)b.min[s];
        }
    }
}
