/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_VISION_PREPROCESS_H
#define VL_VISION_PREPROCESS_H
#include "base/frame.h"
#include "kernels/backend.h"
/* One encoder input: where it is cut from the frame, and the grid it becomes. A unit (one frame, or a
 * two-frame slice) has 1..n views. */
struct vl_view {
    uint32_t src_x, src_y, src_w, src_h, mid_w, mid_h /* first resize, 0: none */, out_w, out_h, grid_w,
        grid_h, n_tokens;
};
struct vl_preprocess {
    uint32_t patch, frames_per_unit;
    float mean[3], std[3];
    unsigned filter;
};
/* One pass: colour conversion, resize, normalise, cut into patches. Borrows the frames for the call. */
int vl_preprocess(struct vl_exec *x, const struct vl_preprocess *how, const struct vl_view *view,
                  struct vl_frame *const *frame, uint32_t n_frames, struct vl_tensor *ret_patches);
#endif
