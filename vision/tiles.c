/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Tiles of still pictures. The trap: sizes are computed as Python does it, quotients in double and products
 * cut off, and the overview is made of the stretched picture, not of the original. */
#include "vision/tiles.h"

#include <errno.h>
#include <stdlib.h>

static uint32_t whole_tiles(uint32_t n, uint32_t tile)
{
    return (n + tile - 1) / tile * tile;
}

static uint32_t at_least_one(uint32_t n)
{
    return n ? n : 1;
}

void vl_tile_plan_init(struct vl_tile_plan *ret, uint32_t w, uint32_t h, uint32_t longest, uint32_t tile)
{
    double aspect = (double)w / h;
    struct vl_tile_plan p = {.big_w = longest, .big_h = longest};
    if (w >= h) {
        p.big_h = (uint32_t)(longest / aspect);
        p.big_h = at_least_one(p.big_h + (p.big_h & 1));
    } else {
        p.big_w = (uint32_t)(longest * aspect);
        p.big_w = at_least_one(p.big_w + (p.big_w & 1));
    }
    aspect = (double)p.big_w / p.big_h;
    if (p.big_w >= p.big_h) {
        p.cut_w = whole_tiles(p.big_w, tile);
        p.cut_h = whole_tiles(at_least_one((uint32_t)(p.cut_w / aspect)), tile);
    } else {
        p.cut_h = whole_tiles(p.big_h, tile);
        p.cut_w = whole_tiles(at_least_one((uint32_t)(p.cut_h * aspect)), tile);
    }
    p.n_views = 1;
    if (p.cut_w > tile || p.cut_h > tile) {
        p.rows = p.cut_h / tile;
        p.cols = p.cut_w / tile;
        p.n_views += p.rows * p.cols;
    }
    *ret = p;
}

/* An edge that is odd may become one pixel longer than `longest`. */
static uint32_t max_edge(uint32_t longest)
{
    return longest + (longest & 1);
}

uint32_t vl_tile_max_views(uint32_t longest, uint32_t tile, uint32_t *ret_side)
{
    const uint32_t side = whole_tiles(max_edge(longest), tile) / tile;
    *ret_side = side;
    return side > 1 ? side * side + 1 : 1;
}

int vl_tiles_init(struct vl_tiles *t, uint32_t max_side, uint32_t longest, uint32_t tile)
{
    *t = (struct vl_tiles){.max_side = max_side, .longest = longest, .tile = tile};
    if (tile < 1 || longest < tile || longest > VL_TILES_MAX_LONGEST || max_side < 1 || max_side > 16384)
        return -EINVAL;
    const uint32_t big = max_edge(longest), cut = whole_tiles(big, tile), in[] = {max_side, big, cut},
                   out[] = {big, cut, tile};
    int r = 0;
    for (int i = 0; r == 0 && i < 6; i++)
        r = vl_resize_axis_init(&t->axis[i], in[i / 2], out[i / 2]);
    const size_t take = vl_resize_band(max_side, big), stretch = vl_resize_band(big, cut),
                 shrink = vl_resize_band(cut, tile);
    t->rows_size = take > stretch ? take : stretch;
    t->rows_size = t->rows_size > shrink ? t->rows_size : shrink;
    t->rows = malloc(t->rows_size);
    t->big = malloc(3 * (size_t)big * big);
    t->cut = malloc(3 * (size_t)cut * cut);
    t->overview = malloc(3 * (size_t)tile * tile);
    return r ? r : t->rows && t->big && t->cut && t->overview ? 0 : -ENOMEM;
}

void vl_tiles_done(struct vl_tiles *t)
{
    for (int i = 0; i < 6; i++)
        vl_resize_axis_done(&t->axis[i]);
    free(t->rows);
    free(t->big);
    free(t->cut);
    free(t->overview);
    *t = (struct vl_tiles){0};
}

static int run(struct vl_tiles *t, struct vl_workers *workers, int step, struct vl_resize *r,
               const uint32_t size[4])
{
    struct vl_resize_axis *a = &t->axis[2 * step];
    vl_resize_axis_set(&a[0], VL_FILTER_LANCZOS, size[0], size[2]);
    vl_resize_axis_set(&a[1], VL_FILTER_LANCZOS, size[1], size[3]);
    r->across = &a[0];
    r->down = &a[1];
    r->rows = t->rows;
    r->rows_size = t->rows_size;
    return vl_resize_run(r, workers);
}

int vl_tiles_take(struct vl_tiles *t, struct vl_workers *workers, const struct vl_frame *f)
{
    if (f->format >= VL_PIXFMT_COUNT || f->width < 1 || f->height < 1 || f->width > t->max_side ||
        f->height > t->max_side)
        return -EINVAL;
    struct vl_tile_plan *p = &t->plan;
    vl_tile_plan_init(p, f->width, f->height, t->longest, t->tile);
    t->no_pixels = !f->plane[0];
    if (t->no_pixels)
        return 0;
    const struct vl_view all = {.src_w = f->width, .src_h = f->height};
    struct vl_resize r = {.frame = f, .view = &all, .dst = t->big};
    return run(t, workers, 0, &r, (const uint32_t[]){f->width, f->height, p->big_w, p->big_h});
}

int vl_tiles_cut(struct vl_tiles *t, struct vl_workers *workers)
{
    const struct vl_tile_plan *p = &t->plan;
    struct vl_resize stretch = {.src = t->big, .dst = t->cut}, shrink = {.src = t->cut, .dst = t->overview};
    if (t->no_pixels)
        return 0;
    int r = run(t, workers, 1, &stretch, (const uint32_t[]){p->big_w, p->big_h, p->cut_w, p->cut_h});
    return r < 0 ? r : run(t, workers, 2, &shrink, (const uint32_t[]){p->cut_w, p->cut_h, t->tile, t->tile});
}

struct vl_tensor vl_tiles_view(const struct vl_tiles *t, uint32_t i)
{
    const struct vl_tile_plan *p = &t->plan;
    const uint32_t n = t->tile;
    if (i == p->rows * p->cols)
        return vl_tensor_3d(t->overview, VL_U8, n, n, 3);
    struct vl_tensor v =
        vl_tensor_3d(t->cut + 3 * ((size_t)i / p->cols * n * p->cut_w + i % p->cols * n), VL_U8, n, n, 3);
    v.stride[0] = 3 * (size_t)p->cut_w;
    return v;
}
