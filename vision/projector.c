/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Pixel shuffle as a gather: a shuffled row is s * s patch rows one after the other, so a table of patch
 * numbers and a change of shape are the whole operation. */
#include "vision/projector.h"

#include <stdlib.h>

/* Output token (Y, X), both raster; inside it (dy, dx) raster. row: as vl_projector_run's. */
static void fill_order(uint32_t grid, uint32_t scale, const int32_t *row, int32_t *order)
{
    const uint32_t side = grid / scale;
    uint32_t n = 0;
    for (uint32_t y = 0; y < side; y++)
        for (uint32_t x = 0; x < side; x++)
            for (uint32_t dy = 0; dy < scale; dy++)
                for (uint32_t dx = 0; dx < scale; dx++) {
                    const uint32_t patch = (y * scale + dy) * grid + x * scale + dx;
                    order[n++] = row ? row[patch] : (int32_t)patch;
                }
}

static int make_order(struct vl_projector *p, struct vl_exec *x)
{
    const uint32_t n = p->grid * p->grid;
    int32_t *order = calloc(n, sizeof(*order));
    int r = order ? x->ops->alloc(x->device, n * sizeof(*order), false, &p->memory) : -ENOMEM;
    if (r == 0) {
        fill_order(p->grid, p->scale, NULL, order);
        struct vl_tensor host = vl_tensor_1d(order, VL_I32, n);
        p->order = vl_tensor_1d(p->memory, VL_I32, n);
        r = x->ops->copy(x, &p->order, &host);
        if (r == 0)
            r = x->ops->sync(x);
    }
    free(order);
    return r;
}

int vl_projector_init(struct vl_projector *p, const struct vl_weights *w, struct vl_exec *x, uint32_t grid,
                      uint32_t d_in, struct vl_error *err)
{
    *p = (struct vl_projector){.grid = grid, .d_in = d_in, .scale = 2};
    int r = vl_weights_get_u32(w, "clip.vision.projector.scale_factor", &p->scale, err);
    if (r < 0)
        return r;
    const struct vl_weights_tensor *fc = vl_weights_find(w, "mm.model.fc.weight");
    if (p->scale == 0 || grid % p->scale)
        return vl_error_set(err, -EINVAL,
                            "%s: a grid of %u patches cannot be shuffled by %u "
                            "(clip.vision.projector.scale_factor)",
                            vl_weights_name(w), grid, p->scale);
    if (!fc || fc->n_dims != 2)
        return vl_error_set(err, -EINVAL, "%s has no mm.model.fc.weight; is it an idefics3 mmproj file?",
                            vl_weights_name(w));
    p->d_out = fc->dim[0];
    r = make_order(p, x);
    return r < 0 ? vl_error_set(err, r, "no memory for the order of %u patches", grid * grid) : 0;
}

int vl_projector_bind(struct vl_projector *p, struct vl_bind *b, struct vl_error *err)
{
    const struct vl_bind_row row = {"mm.model.fc.weight",
                                    VL_BIND_WEIGHT,
                                    {p->d_out, p->scale * p->scale * p->d_in},
                                    &p->fc,
                                    false,
                                    NULL,
                                    0};
    return vl_bind_add(b, &row, 1, 0, err);
}

void vl_projector_done(struct vl_projector *p, struct vl_exec *x)
{
    if (p->memory)
        x->ops->free(x->device, p->memory);
    *p = (struct vl_projector){0};
}

/* Rows of h in shuffled order, in scratch unless they are those of every whole view. */
static int order_rows(const struct vl_projector *p, struct vl_exec *x, uint32_t grid, const int32_t *row,
                      int32_t *work, struct vl_tensor *ret)
{
    if (grid == p->grid && !row) {
        *ret = p->order;
        return 0;
    }
    const struct vl_tensor host = vl_tensor_1d(work, VL_I32, grid * grid);
    fill_order(grid, p->scale, row, work);
    int r = vl_scratch_1d(x, ret, VL_I32, grid * grid);
    return r ? r : x->ops->copy(x, ret, &host);
}

int vl_projector_run(const struct vl_projector *p, struct vl_exec *x, const struct vl_tensor *h,
                     uint32_t grid, const int32_t *row, int32_t *work, struct vl_tensor *ret)
{
    const uint32_t n = grid * grid, side = grid / p->scale, wide = p->scale * p->scale * p->d_in;
    struct vl_tensor all, order, y;
    int r;
    if (grid == 0 || grid > p->grid || grid % p->scale || h->dim[1] != p->d_in || (!row && h->dim[0] != n))
        return -EINVAL;
    if ((r = vl_scratch_2d(x, &y, VL_F32, side * side, p->d_out)))
        return r;
    size_t mark = vl_arena_mark(x->scratch);
    if ((r = vl_scratch_2d(x, &all, VL_F32, n, p->d_in)) == 0 &&
        (r = order_rows(p, x, grid, row, work, &order)) == 0 &&
        (r = x->ops->gather(x, &all, h, &order)) == 0) {
        struct vl_tensor joined = vl_tensor_2d(all.data, VL_F32, side * side, wide);
        vl_tap(x, &joined, "proj.shuffle");
        r = x->ops->matmul(x, &y, &joined, &p->fc);
    }
    vl_arena_reset(x->scratch, mark);
    if (r == 0) {
        vl_tap(x, &y, "proj");
        *ret = y;
    }
    return r;
}
