/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Colour conversion and the order of the passes. Rows are independent of each other in every pass, so workers
 * share them by row and the result does not depend on how many there are. */
#include "vision/preprocess.h"
#include "base/workers.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MAX_SIDE = 16384, GRAIN = 16 /* rows to a chunk */, BAND = 64 /* rows of the result */ };

int vl_preprocess_init(struct vl_preprocess *p, enum vl_filter filter, uint32_t max_side, uint32_t max_out)
{
    *p = (struct vl_preprocess){.filter = filter, .max_side = max_side, .max_out = max_out};
    if (max_side < 1 || max_out < 1 || max_side > MAX_SIDE || max_out > MAX_SIDE)
        return -EINVAL;
    int r = 0;
    for (int i = 0; r == 0 && i < 4; i++)
        r = vl_resize_axis_init(&p->axis[i], i < 2 ? max_side : max_out, max_out);
    const size_t square = 3 * (size_t)max_out * max_out;
    p->rows_size = vl_resize_band(max_side, max_out);
    p->rows = malloc(p->rows_size);
    p->mid = malloc(square);
    p->out = malloc(square);
    return r ? r : p->rows && p->mid && p->out ? 0 : -ENOMEM;
}

void vl_preprocess_done(struct vl_preprocess *p)
{
    for (int i = 0; i < 4; i++)
        vl_resize_axis_done(&p->axis[i]);
    free(p->rows);
    free(p->mid);
    free(p->out);
    *p = (struct vl_preprocess){0};
}

void vl_view_squash(struct vl_view *ret, uint32_t w, uint32_t h, uint32_t edge)
{
    /* As Python computes it: the aspect is a double, and the product is cut off. */
    const double aspect = (double)w / h;
    uint32_t mid_w = edge, mid_h = edge;
    if (w >= h) {
        mid_h = (uint32_t)(edge / aspect);
        mid_h += mid_h & 1;
    } else {
        mid_w = (uint32_t)(edge * aspect);
        mid_w += mid_w & 1;
    }
    *ret = (struct vl_view){
        .src_w = w,
        .src_h = h,
        .mid_w = mid_w ? mid_w : 1,
        .mid_h = mid_h ? mid_h : 1,
        .out_w = edge,
        .out_h = edge,
    };
}

/* ---- YUV to RGB ---- */

/* R = (y * (Y - y0) + rv * V') >> 16 and so on, U' and V' around 0. */
struct colour {
    int32_t y0, y, rv, gu, gv, bu;
};

static struct colour colour_of(const struct vl_frame *f)
{
    double kr = 0.299, kb = 0.114;
    int matrix = f->matrix;
    if (matrix == VL_MATRIX_UNKNOWN || matrix == VL_MATRIX_RGB)
        matrix = f->height >= 720 ? VL_MATRIX_BT709 : VL_MATRIX_BT601;
    if (matrix == VL_MATRIX_BT709) {
        kr = 0.2126;
        kb = 0.0722;
    } else if (matrix == VL_MATRIX_BT2020) {
        kr = 0.2627;
        kb = 0.0593;
    }
    const double kg = 1 - kr - kb;
    const bool full = f->range == VL_RANGE_FULL;
    const double one = 65536, y = full ? one : one * 255 / 219, c = full ? one : one * 255 / 224;
    return (struct colour){
        .y0 = full ? 0 : 16,
        .y = (int32_t)lrint(y),
        .rv = (int32_t)lrint(c * 2 * (1 - kr)),
        .gu = (int32_t)lrint(-c * 2 * (1 - kb) * kb / kg),
        .gv = (int32_t)lrint(-c * 2 * (1 - kr) * kr / kg),
        .bu = (int32_t)lrint(c * 2 * (1 - kb)),
    };
}

static uint8_t clip(int32_t v)
{
    v >>= 16;
    return v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
}

static void put(const struct colour *c, uint8_t luma, int32_t u, int32_t v, uint8_t *dst)
{
    int32_t y = c->y * (luma - c->y0) + (1 << 15);
    dst[0] = clip(y + c->rv * v);
    dst[1] = clip(y + c->gu * u + c->gv * v);
    dst[2] = clip(y + c->bu * u);
}

static const uint8_t *row_of(const struct vl_frame *f, int plane, uint32_t y)
{
    return f->plane[plane] + (size_t)y * f->stride[plane];
}

void vl_frame_row_rgb(const struct vl_frame *f, uint32_t y, uint32_t x, uint32_t n, uint8_t *dst)
{
    const uint8_t *luma = row_of(f, 0, y);
    const struct colour c = colour_of(f);
    switch (f->format) {
    case VL_PIXFMT_RGB24:
        for (uint32_t i = 0; i < 3 * n; i++)
            dst[i] = luma[3 * x + i];
        return;
    case VL_PIXFMT_GRAY8:
        for (uint32_t i = 0; i < n; i++)
            put(&c, luma[x + i], 0, 0, dst + 3 * i);
        return;
    case VL_PIXFMT_NV12: {
        const uint8_t *uv = row_of(f, 1, y / 2);
        for (uint32_t i = 0; i < n; i++)
            put(&c, luma[x + i], uv[(x + i) / 2 * 2] - 128, uv[(x + i) / 2 * 2 + 1] - 128, dst + 3 * i);
        return;
    }
    case VL_PIXFMT_I420: {
        const uint8_t *u = row_of(f, 1, y / 2), *v = row_of(f, 2, y / 2);
        for (uint32_t i = 0; i < n; i++)
            put(&c, luma[x + i], u[(x + i) / 2] - 128, v[(x + i) / 2] - 128, dst + 3 * i);
        return;
    }
    case VL_PIXFMT_COUNT:
        break;
    }
    assert(!"frame formats are checked where frames come in");
}

/* ---- passes ---- */

/* Rows [from, ..) of the input and of the result. */
struct band {
    const struct vl_resize *r;
    uint32_t from, to_from;
};

static void run_rows(void *arg, size_t first, size_t last)
{
    const struct band *b = arg;
    const struct vl_resize *p = b->r;
    uint8_t rgb[3 * MAX_SIDE];
    for (size_t i = first; i < last; i++) {
        const size_t y = b->from + i;
        const uint8_t *src = rgb;
        if (!p->frame)
            src = p->src + y * 3 * p->across->n_in;
        else if (p->frame->format == VL_PIXFMT_RGB24)
            src = row_of(p->frame, 0, p->view->src_y + (uint32_t)y) + 3 * (size_t)p->view->src_x;
        else
            vl_frame_row_rgb(p->frame, p->view->src_y + (uint32_t)y, p->view->src_x, p->across->n_in, rgb);
        vl_resize_row(p->across, p->rows + i * 3 * p->across->n_out, src);
    }
}

static void run_columns(void *arg, size_t first, size_t last)
{
    const struct band *b = arg;
    const struct vl_resize *p = b->r;
    const uint32_t width = p->across->n_out;
    for (size_t i = first; i < last; i++) {
        const size_t y = b->to_from + i;
        vl_resize_column(p->down, (uint32_t)y, p->dst + y * 3 * width, p->rows, b->from, width);
    }
}

/* The end of the band that begins with row y of the result: as many rows as fit, at most BAND. */
static uint32_t band_end(const struct vl_resize *r, uint32_t y)
{
    const size_t room = r->rows_size / (3 * (size_t)r->across->n_out);
    uint32_t from, first, end = y;
    (void)vl_resize_needs(r->down, y, &from);
    while (end < r->down->n_out && end - y < BAND && vl_resize_needs(r->down, end, &first) - from <= room)
        end++;
    return end;
}

int vl_resize_run(const struct vl_resize *r, struct vl_workers *workers)
{
    for (uint32_t y = 0, end; y < r->down->n_out; y = end) {
        struct band b = {.r = r, .to_from = y};
        uint32_t first;
        end = band_end(r, y);
        if (end == y)
            return -EINVAL;
        (void)vl_resize_needs(r->down, y, &b.from);
        vl_workers_run(workers, run_rows, &b, vl_resize_needs(r->down, end - 1, &first) - b.from, GRAIN);
        vl_workers_run(workers, run_columns, &b, end - y, GRAIN);
    }
    return 0;
}

/* Twice what a band's rows and the filter's reach come from, and all where that is not much. */
size_t vl_resize_band(uint32_t max_side, uint32_t max_out)
{
    const size_t tallest = max_side > max_out ? max_side : max_out;
    const size_t band = 2 * (BAND + 8) * ((size_t)max_side / max_out + 1) + 16;
    return 3 * (size_t)max_out * (band < tallest ? band : tallest);
}

static bool fits(const struct vl_preprocess *p, const struct vl_frame *f, const struct vl_view *v)
{
    return f->format < VL_PIXFMT_COUNT && v->src_w >= 1 && v->src_h >= 1 && v->src_w <= p->max_side &&
           v->src_h <= p->max_side && v->src_x <= f->width && v->src_w <= f->width - v->src_x &&
           v->src_y <= f->height && v->src_h <= f->height - v->src_y && v->mid_w <= p->max_out &&
           v->mid_h <= p->max_out && !v->mid_w == !v->mid_h && v->out_w >= 1 && v->out_h >= 1 &&
           v->out_w <= p->max_out && v->out_h <= p->max_out;
}

static int resize_view(struct vl_preprocess *p, struct vl_workers *workers, const struct vl_frame *f,
                       const struct vl_view *v)
{
    struct vl_resize_axis *a = p->axis;
    struct vl_resize first = {.across = &a[0],
                              .down = &a[1],
                              .frame = f,
                              .view = v,
                              .rows = p->rows,
                              .rows_size = p->rows_size,
                              .dst = v->mid_w ? p->mid : p->out};
    struct vl_resize second = {.across = &a[2],
                               .down = &a[3],
                               .src = p->mid,
                               .rows = p->rows,
                               .rows_size = p->rows_size,
                               .dst = p->out};
    vl_resize_axis_set(&a[0], p->filter, v->src_w, v->mid_w ? v->mid_w : v->out_w);
    vl_resize_axis_set(&a[1], p->filter, v->src_h, v->mid_h ? v->mid_h : v->out_h);
    int r = vl_resize_run(&first, workers);
    if (r < 0 || !v->mid_w)
        return r;
    vl_resize_axis_set(&a[2], p->filter, v->mid_w, v->out_w);
    vl_resize_axis_set(&a[3], p->filter, v->mid_h, v->out_h);
    return vl_resize_run(&second, workers);
}

int vl_preprocess_run(struct vl_preprocess *p, struct vl_workers *workers, const struct vl_frame *f,
                      const struct vl_view *v, struct vl_tensor *ret)
{
    if (!fits(p, f, v))
        return -EINVAL;
    int r = f->plane[0] ? resize_view(p, workers, f, v) : 0;
    if (r == 0)
        *ret = vl_tensor_3d(p->out, VL_U8, v->out_h, v->out_w, 3);
    return r;
}
