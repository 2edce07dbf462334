/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Q4_K and Q5_K as ggml stores them: 256 elements in 8 groups of 32. f16 d and dmin, 12 bytes that hold a
 * 6-bit scale and a 6-bit minimum for each group, in Q5_K 32 bytes of fifth bits (bit g of byte l is element
 * l of group g), then 128 bytes: those from 32 i on hold group 2 i in their low halves and 2 i + 1 in their
 * high ones. An element is q (d scale) - dmin min. ggml's encoders search; ours rounds to nearest. */
#include "kernels/quant/quant.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { LEN = 256, GROUP = 32, GROUPS = 8, SCALES = 4, SCALES_BYTES = 12, HIGH = SCALES + SCALES_BYTES };
enum { Q4_K_BYTES = HIGH + LEN / 2, Q5_K_BYTES = HIGH + GROUP + LEN / 2 };

/* The first four groups take the low 6 bits of bytes 0..3 and 4..7; of the others, the low 4 bits stand in
 * bytes 8..11 and the upper two on top of the bytes before them. */
static void split_scales(struct vl_block *b, const uint8_t *s)
{
    for (int g = 0; g < 4; g++) {
        b->scale[g] = (int8_t)(s[g] & 63);
        b->min[g] = (int8_t)(s[g + 4] & 63);
        b->scale[g + 4] = (int8_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        b->min[g + 4] = (int8_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

/* The minimum is subtracted: its scale changes its sign, which loses nothing. */
static void split(struct vl_block *b, const uint8_t *in, const uint8_t *high, const uint8_t *low)
{
    vl_block_init(b, LEN, vl_block_get16(in), vl_block_get16(in + 2) ^ 0x8000);
    b->len = GROUP;
    split_scales(b, in + SCALES);
    for (int g = 0; g < GROUPS; g++) {
        const uint8_t *four = low + g / 2 * GROUP;
        for (int l = 0; l < GROUP; l++) {
            int fifth = high ? high[l] >> g & 1 : 0;
            b->q[g * GROUP + l] = (int8_t)((four[l] >> g % 2 * 4 & 15) | fifth << 4);
        }
    }
}

void vl_q4_k_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    split(ret, in, NULL, in + HIGH);
}

void vl_q5_k_split(struct vl_block *ret, const void *block)
{
    const uint8_t *in = block;
    split(ret, in, in + HIGH, in + HIGH + GROUP);
}

void vl_q4_k_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_q4_k_split, Q4_K_BYTES);
}

void vl_q5_k_unpack(float *dst, const void *src, size_t n)
{
    vl_blocks_unpack(dst, src, n, vl_q5_k_split, Q5_K_BYTES);
}

static int nearest(float v, int top)
{
    return (int)fminf((float)top, fmaxf(0, roundf(v)));
}

/* v[g] >= 0 in 6-bit steps of a common f16 scale, which is returned. */
static uint16_t pack_scales(int *ret, const float *v)
{
    float top = 0;
    for (int g = 0; g < GROUPS; g++)
        top = fmaxf(top, v[g]);
    uint16_t h = vl_f16_from_f32(top / 63);
    float d = vl_f16_to_f32(h);
    for (int g = 0; g < GROUPS; g++)
        ret[g] = d > 0 ? nearest(v[g] / d, 63) : 0;
    return h;
}

/* The head of a block: d, dmin and the groups' scales and minima, so that 0 to `top` covers each group. */
static void pack_head(uint8_t *out, const float *x, int top)
{
    float scale[GROUPS], min[GROUPS];
    int s[GROUPS], m[GROUPS];
    for (int g = 0; g < GROUPS; g++) {
        float low = 0, high = 0;
        for (int i = g * GROUP; i < (g + 1) * GROUP; i++) {
            low = fminf(low, x[i]);
            high = fmaxf(high, x[i]);
        }
        scale[g] = (high - low) / (float)top;
        min[g] = -low;
    }
    vl_block_put16(out, pack_scales(s, scale));
    vl_block_put16(out + 2, pack_scales(m, min));
    for (int g = 0; g < 4; g++) {
        out[SCALES + g] = (uint8_t)(s[g] | s[g + 4] >> 4 << 6);
        out[SCALES + 4 + g] = (uint8_t)(m[g] | m[g + 4] >> 4 << 6);
        out[SCALES + 8 + g] = (uint8_t)((s[g + 4] & 15) | (m[g + 4] & 15) << 4);
    }
}

static void pack_block(uint8_t *out, const float *x, bool fifth)
{
    int top = fifth ? 31 : 15;
    uint8_t *high = out + HIGH, *low = fifth ? high + GROUP : high;
    struct vl_block b;
    memset(out, 0, fifth ? Q5_K_BYTES : Q4_K_BYTES);
    pack_head(out, x, top);
    split(&b, out, NULL, low); /* the scales as a reader gets them */
    float d = vl_f16_to_f32(b.d), m = vl_f16_to_f32(b.m);
    for (int i = 0; i < LEN; i++) {
        int g = i / GROUP, l = i % GROUP;
        float step = d * (float)b.scale[g];
        int q = step > 0 ? nearest((x[i] - m * (float)b.min[g]) / step, top) : 0;
        low[g / 2 * GROUP + l] |= (uint8_t)((q & 15) << g % 2 * 4);
        if (fifth)
            high[l] |= (uint8_t)(q >> 4 << g);
    }
}

void vl_q4_k_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += Q4_K_BYTES)
        pack_block(out, src, false);
}

void vl_q5_k_pack(void *dst, const float *src, size_t n)
{
    uint8_t *out = dst;
    for (const float *end = src + n; src < end; src += LEN, out += Q5_K_BYTES)
        pack_block(out, src, true);
}
