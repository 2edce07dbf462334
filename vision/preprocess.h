/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * From a frame's pixels to the square that the encoder cuts into patches. Frames in YUV become RGB row by row
 * on the way, chroma repeated, never as a whole picture; resize.h does the rest. The work is the CPU's,
 * shared by the caller's workers; the square goes to the device as bytes.
 */
#ifndef VL_VISION_PREPROCESS_H
#define VL_VISION_PREPROCESS_H
#include "base/frame.h"
#include "kernels/tensor.h"
#include "vision/resize.h"

struct vl_workers;

/* One encoder input: where it is cut from the frame, and what it becomes. */
struct vl_view {
    uint32_t src_x, src_y, src_w, src_h;
    uint32_t mid_w, mid_h; /* first resize, 0: none */
    uint32_t out_w, out_h;
    uint32_t grid_w, grid_h; /* visual tokens of the whole grid, on which places are counted */
    uint32_t n_tokens;       /* that come of it: fewer when a reducer wants a smaller view */
};

/* Turns frames into views; tables are those of the last geometry. Host memory of the encode that owns it.
 * Nothing is allocated after init. One thread at a time. */
struct vl_preprocess {
    enum vl_filter filter;
    uint32_t max_side, max_out;
    struct vl_resize_axis axis[4]; /* first resize: horizontal, vertical; second likewise */
    uint8_t *rows;                 /* [rows_size] a band after a horizontal pass */
    size_t rows_size;
    uint8_t *mid, *out; /* [max_out, max_out, 3] */
};
/* Frames of up to max_side to views of up to max_out, each 1 .. 16384. -EINVAL, -ENOMEM. */
int vl_preprocess_init(struct vl_preprocess *p, enum vl_filter filter, uint32_t max_side, uint32_t max_out);
void vl_preprocess_done(struct vl_preprocess *p); /* accepts a zeroed or half-made one */

/* *ret [out_h, out_w, 3] u8 in p's memory, good until the next call. The frame is borrowed for the call;
 * workers NULL: this thread alone. A frame without planes, as a dry run has it, is checked and no pixel is
 * made. -EINVAL: a view that does not lie in the frame, or is too large. */
int vl_preprocess_run(struct vl_preprocess *p, struct vl_workers *workers, const struct vl_frame *f,
                      const struct vl_view *view, struct vl_tensor *ret);

/* One resize of a whole picture: of a frame's view, or of packed RGB when frame is NULL. The axes' tables are
 * set; dst has room for [down->n_out, across->n_out, 3]. It is done band by band, so that what lies between
 * the two passes is never the whole picture: rows holds a band of it. */
struct vl_resize {
    const struct vl_resize_axis *across, *down;
    const struct vl_frame *frame;
    const struct vl_view *view; /* of the frame: where it is cut */
    const uint8_t *src;         /* [down->n_in, across->n_in, 3] */
    uint8_t *rows, *dst;
    size_t rows_size;
};
/* -EINVAL: rows does not hold what one row of the result needs. */
int vl_resize_run(const struct vl_resize *r, struct vl_workers *workers);
/* A good size of rows, for up to max_side samples made to up to max_out, each by about the same factor. */
size_t vl_resize_band(uint32_t max_side, uint32_t max_out);

/* Columns [x, x + n) of row y as RGB, dst [n, 3]. A matrix that is unknown is taken for BT.709 from 720 lines
 * on and for BT.601 below, as players do. */
void vl_frame_row_rgb(const struct vl_frame *f, uint32_t y, uint32_t x, uint32_t n, uint8_t *dst);

/* SmolVLM's rule for a frame of w x h, both >= 1: the longest edge becomes `edge`, the other keeps the aspect
 * (rounded down, then up to even, at least 1), and the result is squashed to the square. Sets all but grid
 * and n_tokens. */
void vl_view_squash(struct vl_view *ret, uint32_t w, uint32_t h, uint32_t edge);
#endif
