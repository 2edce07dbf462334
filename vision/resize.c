/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Pillow's two-pass resampling. The trap: every rounding is part of the result, so nothing here may be made
 * smoother; tests/golden and test-preprocess hold the bytes. */
#include "vision/resize.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { BITS = 22 };

int vl_resize_axis_init(struct vl_resize_axis *a, uint32_t max_in, uint32_t max_out)
{
    *a = (struct vl_resize_axis){.max_in = max_in, .max_out = max_out};
    if (max_in < 1 || max_out < 1 || max_in > 65536 || max_out > 65536)
        return -EINVAL;
    size_t n = 2 * (size_t)max_out + 6 * (size_t)max_in + 7 * (size_t)max_out;
    uint32_t *memory = malloc(n * sizeof(*memory));
    if (!memory)
        return -ENOMEM;
    a->memory = memory;
    a->first = memory;
    a->count = memory + max_out;
    a->weight = (int32_t *)(memory + 2 * (size_t)max_out);
    return 0;
}

void vl_resize_axis_done(struct vl_resize_axis *a)
{
    free(a->memory);
    *a = (struct vl_resize_axis){0};
}

static double sinc(double t)
{
    return t == 0 ? 1 : sin(t * M_PI) / (t * M_PI);
}

static double bicubic(double t)
{
    const double a = -0.5;
    if (t < 1)
        return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

static double filter_at(enum vl_filter filter, double t)
{
    switch (filter) {
    case VL_FILTER_BILINEAR:
        return fabs(t) < 1 ? 1 - fabs(t) : 0;
    case VL_FILTER_BICUBIC:
        return bicubic(fabs(t));
    case VL_FILTER_LANCZOS:
        return t >= -3 && t < 3 ? sinc(t) * sinc(t / 3) : 0;
    }
    return 0;
}

static uint32_t clamp_index(double v, uint32_t max)
{
    int i = (int)v; /* towards zero */
    return i < 0 ? 0 : (uint32_t)i > max ? max : (uint32_t)i;
}

static int32_t round_weight(double w)
{
    return (int32_t)(w * (1 << BITS) + (w < 0 ? -0.5 : 0.5));
}

void vl_resize_axis_set(struct vl_resize_axis *a, enum vl_filter filter, uint32_t n_in, uint32_t n_out)
{
    static const double supports[] = {
        [VL_FILTER_BILINEAR] = 1, [VL_FILTER_BICUBIC] = 2, [VL_FILTER_LANCZOS] = 3};
    if (a->n_in == n_in && a->n_out == n_out)
        return;
    const double scale = (double)n_in / n_out, stretch = scale > 1 ? scale : 1;
    const double support = supports[filter] * stretch;
    a->n_in = n_in;
    a->n_out = n_out;
    a->stride = 2 * (uint32_t)ceil(support) + 1;
    if (a->stride > n_in)
        a->stride = n_in;
    for (uint32_t i = 0; i < n_out; i++) {
        double center = (i + 0.5) * scale, sum = 0;
        uint32_t lo = clamp_index(center - support + 0.5, n_in);
        uint32_t n = clamp_index(center + support + 0.5, n_in) - lo;
        int32_t *w = a->weight + (size_t)i * a->stride;
        for (uint32_t k = 0; k < n; k++)
            sum += filter_at(filter, (k + lo - center + 0.5) * (1 / stretch));
        for (uint32_t k = 0; k < n; k++) {
            double v = filter_at(filter, (k + lo - center + 0.5) * (1 / stretch));
            w[k] = round_weight(sum != 0 ? v / sum : v);
        }
        a->first[i] = lo;
        a->count[i] = n;
    }
}

static uint8_t clip8(int32_t v)
{
    v >>= BITS;
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

void vl_resize_row(const struct vl_resize_axis *a, uint8_t *dst, const uint8_t *src)
{
    if (a->n_in == a->n_out) {
        memcpy(dst, src, 3 * (size_t)a->n_in);
        return;
    }
    for (uint32_t i = 0; i < a->n_out; i++, dst += 3) {
        const uint8_t *s = src + 3 * (size_t)a->first[i];
        const int32_t *w = a->weight + (size_t)i * a->stride;
        int32_t sum0 = 1 << (BITS - 1), sum1 = sum0, sum2 = sum0;
        for (uint32_t k = 0; k < a->count[i]; k++, s += 3) {
            sum0 += s[0] * w[k];
            sum1 += s[1] * w[k];
            sum2 += s[2] * w[k];
        }
        dst[0] = clip8(sum0);
        dst[1] = clip8(sum1);
        dst[2] = clip8(sum2);
    }
}

uint32_t vl_resize_needs(const struct vl_resize_axis *a, uint32_t i, uint32_t *ret_first)
{
    const bool copied = a->n_in == a->n_out;
    *ret_first = copied ? i : a->first[i];
    return copied ? i + 1 : a->first[i] + a->count[i];
}

void vl_resize_column(const struct vl_resize_axis *a, uint32_t i, uint8_t *dst, const uint8_t *src,
                      uint32_t src_row, uint32_t width)
{
    enum { STRIP = 512 };
    const size_t n = 3 * (size_t)width;
    if (a->n_in == a->n_out) {
        memcpy(dst, src + (i - src_row) * n, n);
        return;
    }
    const int32_t *w = a->weight + (size_t)i * a->stride;
    src += (a->first[i] - src_row) * n;
    for (size_t at = 0; at < n; at += STRIP) {
        int32_t sum[STRIP];
        size_t len = n - at < STRIP ? n - at : STRIP;
        for (size_t j = 0; j < len; j++)
            sum[j] = 1 << (BITS - 1);
        for (uint32_t k = 0; k < a->count[i]; k++) {
            const uint8_t *s = src + k * n + at;
            for (size_t j = 0; j < len; j++)
                sum[j] += s[j] * w[k];
        }
        for (size_t j = 0; j < len; j++)
            dst[at + j] = clip8(sum[j]);
    }
}
