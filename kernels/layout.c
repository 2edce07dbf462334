/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Packed weights: sizes, packing and reading one row back. Bits are moved, never rounded: packs_to of a
 * format is a layout that loses nothing. */
#include "kernels/layout.h"
#include "kernels/quant/quant.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const struct vl_layout_info layouts[VL_LAYOUT_COUNT] = {
    [VL_LAYOUT_F32] = {"f32", 32, 0, 0, 1, false},
    [VL_LAYOUT_F16] = {"f16", 16, 0, 0, 1, false},
    [VL_LAYOUT_BF16] = {"bf16", 16, 0, 0, 1, false},
    [VL_LAYOUT_I8_BLOCK] = {"i8", 8, 0, 1, 32, false},
    [VL_LAYOUT_I4_BLOCK] = {"i4", 4, VL_I4_ZERO, 1, 32, false},
    [VL_LAYOUT_I8M_BLOCK] = {"i8m", 8, 0, 1, 32, true},
    [VL_LAYOUT_I4M_BLOCK] = {"i4m", 4, 0, 1, 32, true},
    [VL_LAYOUT_I8_SUPER] = {"i8s", 8, 0, 16, 16, false},
    [VL_LAYOUT_I8M_SUPER] = {"i8ms", 8, 0, 8, 32, true},
    [VL_LAYOUT_I4M_SUPER] = {"i4ms", 4, 0, 8, 32, true},
};

const struct vl_layout_info *vl_layout_info(enum vl_layout layout)
{
    return &layouts[layout];
}

/* The bytes of n elements of 16 outputs, of what stands ahead of a block, and of what stands ahead of the
 * elements of each of its scales. */
static size_t code_bytes(const struct vl_layout_info *f, size_t n)
{
    return n * VL_PANEL * f->bits / 8;
}

static size_t head_bytes(const struct vl_layout_info *f)
{
    return f->n_scales == 0 ? 0 : f->has_min ? 4 * VL_PANEL : 2 * VL_PANEL;
}

static size_t group_head_bytes(const struct vl_layout_info *f)
{
    return f->n_scales <= 1 ? 0 : f->has_min ? 2 * VL_PANEL : VL_PANEL;
}

size_t vl_layout_panel_bytes(enum vl_layout layout, size_t k)
{
    const struct vl_layout_info *f = &layouts[layout];
    if (f->n_scales == 0)
        return code_bytes(f, k);
    size_t len = (size_t)f->len * f->n_scales;
    return k / len * (head_bytes(f) + f->n_scales * group_head_bytes(f) + code_bytes(f, len));
}

int vl_layout_size(const struct vl_tensor *stored, size_t *ret)
{
    const struct vl_dtype_info *f = vl_dtype_info(stored->dtype);
    size_t k = stored->dim[1], n_panels = ((size_t)stored->dim[0] + VL_PANEL - 1) / VL_PANEL;
    if (stored->layout != VL_LAYOUT_ROWS || stored->n_dims != 2 || stored->stride[1] != f->block_bytes ||
        f->packs_to == VL_LAYOUT_ROWS || k == 0 || n_panels == 0 || k % f->block_len)
        return -EINVAL;
    if (__builtin_mul_overflow(n_panels, vl_layout_panel_bytes(f->packs_to, k), ret))
        return -ENOMEM;
    return 0;
}

struct vl_tensor vl_layout_tensor(const struct vl_tensor *stored, void *data)
{
    struct vl_tensor t = *stored;
    t.data = data;
    t.layout = (uint8_t)vl_dtype_info(stored->dtype)->packs_to;
    t.stride[0] = t.stride[1] = 0; /* rows are not apart in memory */
    return t;
}

/* n rows (up to 16) of k elements; the missing ones become zero. */
static inline void pack_elements(char *dst, const char *const *row, size_t n, size_t k, size_t size)
{
    if (n < VL_PANEL)
        memset(dst, 0, k * VL_PANEL * size);
    for (size_t i = 0; i < k; i++, dst += VL_PANEL * size)
        for (size_t j = 0; j < n; j++)
            memcpy(dst + j * size, row[j] + i * size, size);
}

static void put_codes(char *dst, const int8_t *q, size_t j, const struct vl_layout_info *f)
{
    if (f->bits == 8)
        for (size_t i = 0; i < f->len; i++)
            dst[i * VL_PANEL + j] = (char)q[i];
    else
        for (size_t i = 0; i < f->len; i += 2)
            dst[i / 2 * VL_PANEL + j] = (char)((q[i] + f->zero) | (q[i + 1] + f->zero) << 4);
}

/* Output j of the block at dst. */
static void put_block(char *dst, const struct vl_block *b, size_t j, const struct vl_layout_info *f)
{
    memcpy(dst + 2 * j, &b->d, 2);
    if (f->has_min)
        memcpy(dst + 2 * VL_PANEL + 2 * j, &b->m, 2);
    dst += head_bytes(f);
    for (size_t s = 0; s < f->n_scales; s++) {
        if (f->n_scales > 1) {
            dst[j] = (char)b->scale[s];
            if (f->has_min)
                dst[VL_PANEL + j] = (char)b->min[s];
        }
        dst += group_head_bytes(f);
        put_codes(dst, b->q + s * f->len, j, f);
        dst += code_bytes(f, f->len);
    }
}

static void pack_blocks(char *dst, const char *const *row, size_t n, size_t k, const struct vl_dtype_info *t)
{
    const struct vl_layout_info *f = &layouts[t->packs_to];
    size_t bytes = vl_layout_panel_bytes(t->packs_to, t->block_len);
    struct vl_block b;
    for (size_t at = 0; at < k / t->block_len; at++, dst += bytes) {
        if (n < VL_PANEL)
            memset(dst, 0, bytes);
        for (size_t j = 0; j < n; j++) {
            t->split(&b, row[j] + at * t->block_bytes);
            assert(b.n == (uint32_t)f->len * f->n_scales && b.len == f->len);
            put_block(dst, &b, j, f);
        }
    }
}

void vl_layout_pack(void *dst, const struct vl_tensor *stored, size_t first, size_t last)
{
    const struct vl_dtype_info *f = vl_dtype_info(stored->dtype);
    size_t k = stored->dim[1], bytes = vl_layout_panel_bytes(f->packs_to, k);
    for (size_t p = first; p < last; p++) {
        const char *row[VL_PANEL];
        char *panel = (char *)dst + p * bytes;
        size_t n = stored->dim[0] - p * VL_PANEL;
        n = n < VL_PANEL ? n : VL_PANEL;
        for (size_t j = 0; j < n; j++)
            row[j] = (const char *)stored->data + (p * VL_PANEL + j) * stored->stride[0];
        if (f->split)
            pack_blocks(panel, row, n, k, f);
        else if (f->block_bytes == 2)
            pack_elements(panel, row, n, k, 2);
        else
            pack_elements(panel, row, n, k, 4);
    }
}

/* Elements that are stored as they are. */
static void unpack_elements(float *dst, enum vl_layout layout, const char *p, size_t n)
{
    if (layout == VL_LAYOUT_F32) {
        for (size_t i = 0; i < n; i++)
            memcpy(dst + i, p + i * VL_PANEL * 4, 4);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + i * VL_PANEL * 2, 2);
        dst[i] = layout == VL_LAYOUT_F16 ? vl_f16_to_f32(h) : vl_bf16_to_f32(h);
    }
}

static int code_at(const char *codes, size_t i, size_t j, const struct vl_layout_info *f)
{
    if (f->bits == 8)
        return (int8_t)codes[i * VL_PANEL + j];
    int pair = (uint8_t)codes[i / 2 * VL_PANEL + j];
    return (i % 2 ? pair >> 4 : pair & 15) - f->zero;
}

/* The elements of one scale: number s of the block. */
static void unpack_group(float *dst, const char *block, size_t s, size_t j, const struct vl_layout_info *f)
{
    const char *group = block + head_bytes(f) + s * (group_head_bytes(f) + code_bytes(f, f->len));
    uint16_t d16, m16 = VL_F16_MINUS_ZERO;
    memcpy(&d16, block + 2 * j, 2);
    if (f->has_min)
        memcpy(&m16, block + 2 * VL_PANEL + 2 * j, 2);
    float d = vl_f16_to_f32(d16), m = vl_f16_to_f32(m16);
    if (f->n_scales > 1) {
        d *= (float)(int8_t)group[j];
        if (f->has_min)
            m *= (float)(int8_t)group[VL_PANEL + j];
        group += group_head_bytes(f);
    }
    for (size_t i = 0; i < f->len; i++)
        dst[i] = (float)code_at(group, i, j, f) * d + m;
}

void vl_layout_unpack(float *dst, enum vl_layout layout, const void *panel, size_t j, size_t first, size_t n)
{
    const struct vl_layout_info *f = &layouts[layout];
    const char *from = panel;
    if (f->n_scales == 0) {
        unpack_elements(dst, layout, from + code_bytes(f, first) + j * f->bits / 8, n);
        return;
    }
    size_t bytes = vl_layout_panel_bytes(layout, (size_t)f->len * f->n_scales);
    for (size_t g = first / f->len; n >= f->len; g++, n -= f->len, dst += f->len)
        unpack_group(dst, from + g / f->n_scales * bytes, g % f->n_scales, j, f);
}

void vl_layout_unpack_row(float *dst, const struct vl_tensor *w, size_t row)
{
    enum vl_layout layout = (enum vl_layout)w->layout;
    const char *panel = (const char *)w->data + row / VL_PANEL * vl_layout_panel_bytes(layout, w->dim[1]);
    vl_layout_unpack(dst, layout, panel, row % VL_PANEL, 0, w->dim[1]);
}
