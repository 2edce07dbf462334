/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Packed weights: sizes, packing and reading one row back. Bits are moved, never rounded: packs_to of a
 * format is a layout that loses nothing. */
#include "kernels/layout.h"
#include "kernels/quant/quant.h"

#include <errno.h>
#include <string.h>

static size_t element_bytes(enum vl_layout layout)
{
    return layout == VL_LAYOUT_F32 ? 4 : 2;
}

size_t vl_layout_panel_bytes(enum vl_layout layout, size_t k)
{
    if (layout == VL_LAYOUT_I8_BLOCK)
        return k / VL_I8_LEN * VL_I8_BYTES;
    return k * VL_PANEL * element_bytes(layout);
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
static void pack_elements(char *dst, const char *const *row, size_t n, size_t k, size_t size)
{
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < VL_PANEL; j++, dst += size) {
            if (j < n)
                memcpy(dst, row[j] + i * size, size);
            else
                memset(dst, 0, size);
        }
}

static void pack_i8(char *dst, const char *const *row, size_t n, size_t k, const struct vl_dtype_info *f)
{
    struct vl_block b;
    memset(dst, 0, vl_layout_panel_bytes(VL_LAYOUT_I8_BLOCK, k));
    for (size_t at = 0; at < k / VL_I8_LEN; at++, dst += VL_I8_BYTES)
        for (size_t j = 0; j < n; j++) {
            f->split(&b, row[j] + at * f->block_bytes);
            memcpy(dst + 2 * j, &b.d, 2);
            for (size_t i = 0; i < VL_I8_LEN; i++)
                dst[2 * VL_PANEL + i * VL_PANEL + j] = (char)b.q[i];
        }
}

/* Formats without a layout of their own. */
static void pack_f32(char *dst, const char *const *row, size_t n, size_t k, const struct vl_dtype_info *f)
{
    float v[VL_BLOCK_MAX_LEN];
    memset(dst, 0, vl_layout_panel_bytes(VL_LAYOUT_F32, k));
    for (size_t at = 0; at < k / f->block_len; at++)
        for (size_t j = 0; j < n; j++) {
            f->unpack_row(v, row[j] + at * f->block_bytes, f->block_len);
            for (size_t i = 0; i < f->block_len; i++)
                memcpy(dst + ((at * f->block_len + i) * VL_PANEL + j) * sizeof(*v), v + i, sizeof(*v));
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
        if (f->packs_to == VL_LAYOUT_I8_BLOCK)
            pack_i8(panel, row, n, k, f);
        else if (f->split)
            pack_f32(panel, row, n, k, f);
        else
            pack_elements(panel, row, n, k, element_bytes(f->packs_to));
    }
}

void vl_layout_unpack_row(float *dst, const struct vl_tensor *w, size_t row)
{
    size_t k = w->dim[1], j = row % VL_PANEL;
    const char *panel =
        (const char *)w->data + row / VL_PANEL * vl_layout_panel_bytes((enum vl_layout)w->layout, k);
    if (w->layout == VL_LAYOUT_I8_BLOCK) {
        for (size_t i = 0; i < k; i++) {
            const char *block = panel + i / VL_I8_LEN * VL_I8_BYTES;
            uint16_t d;
            memcpy(&d, block + 2 * j, 2);
            int8_t q = (int8_t)block[2 * VL_PANEL + i % VL_I8_LEN * VL_PANEL + j];
            dst[i] = (float)q * vl_f16_to_f32(d);
        }
        return;
    }
    size_t size = element_bytes((enum vl_layout)w->layout);
    for (size_t i = 0; i < k; i++) {
        const char *p = panel + (i * VL_PANEL + j) * size;
        if (w->layout == VL_LAYOUT_F32)
            vl_f32_unpack(dst + i, p, 1);
        else if (w->layout == VL_LAYOUT_F16)
            vl_f16_unpack(dst + i, p, 1);
        else
            vl_bf16_unpack(dst + i, p, 1);
    }
}
