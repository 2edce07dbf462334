/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A still picture as Idefics3 and SmolVLM look at it (arXiv 2408.12637, 2504.05299): enlarged or reduced
 * until its longest edge is `longest`, stretched to whole tiles, cut, and seen once more as a whole in one
 * tile. Every step is Pillow's Lanczos, in the order of the reference, so the bytes are its bytes.
 */
#ifndef VL_VISION_TILES_H
#define VL_VISION_TILES_H
#include "kernels/tensor.h"
#include "vision/preprocess.h"

#include <stdbool.h>

/* The sizes that a picture goes through. */
struct vl_tile_plan {
    uint32_t big_w, big_h; /* its longest edge is `longest` */
    uint32_t cut_w, cut_h; /* whole tiles */
    uint32_t rows, cols;   /* of tiles; 0: one view is all */
    uint32_t n_views;      /* rows * cols + 1: the overview comes last */
};
/* w, h >= 1; 1 <= tile <= longest. */
void vl_tile_plan_init(struct vl_tile_plan *ret, uint32_t w, uint32_t h, uint32_t longest, uint32_t tile);
/* The most views and the most tiles on a side that any picture gets. */
uint32_t vl_tile_max_views(uint32_t longest, uint32_t tile, uint32_t *ret_side);

/* One picture's pixels on their way. Host memory of the encode that owns it, reserved at init and touched as
 * far as pictures need it: two pictures of 3 * longest^2 bytes and a band. One thread at a time; nothing is
 * allocated after init. */
struct vl_tiles {
    uint32_t max_side, longest, tile;
    struct vl_tile_plan plan;
    struct vl_resize_axis axis[6]; /* to big, to cut, to the overview: horizontal, vertical */
    uint8_t *rows, *big, *cut, *overview;
    size_t rows_size;
    bool no_pixels; /* were taken: nothing is made of them */
};
enum { VL_TILES_MAX_LONGEST = 4096 };
/* Pictures of up to max_side. -EINVAL: longest beyond VL_TILES_MAX_LONGEST, or less than a tile; -ENOMEM. */
int vl_tiles_init(struct vl_tiles *t, uint32_t max_side, uint32_t longest, uint32_t tile);
void vl_tiles_done(struct vl_tiles *t); /* accepts a zeroed or half-made one */

/* Takes the frame's pixels: the frame may go. One without planes, as a dry run has it, leaves views of the
 * right sizes and makes no pixel. -EINVAL: longer than max_side. */
int vl_tiles_take(struct vl_tiles *t, struct vl_workers *workers, const struct vl_frame *f);
/* Makes the views of what was taken. */
int vl_tiles_cut(struct vl_tiles *t, struct vl_workers *workers);
/* View i < plan.n_views: [tile, tile, 3] u8 in t's memory, rows strided, until the next take. */
struct vl_tensor vl_tiles_view(const struct vl_tiles *t, uint32_t i);
#endif
