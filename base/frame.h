/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_FRAME_H
#define VL_BASE_FRAME_H
#include "base/cleanup.h"

#include <stdatomic.h>
#include <stdint.h>

enum vl_pixfmt { VL_PIXFMT_RGB24, VL_PIXFMT_NV12, VL_PIXFMT_I420, VL_PIXFMT_GRAY8, VL_PIXFMT_COUNT };

/* ITU-T H.273: MatrixCoefficients, and our code for the sample range. */
enum {
    VL_MATRIX_RGB = 0,
    VL_MATRIX_BT709 = 1,
    VL_MATRIX_UNKNOWN = 2,
    VL_MATRIX_BT470BG = 5,
    VL_MATRIX_BT601 = 6,
    VL_MATRIX_BT2020 = 9
};
enum { VL_RANGE_LIMITED = 0, VL_RANGE_FULL = 1 };

/* Flags of a frame; the same bits travel in a frame packet. */
enum {
    VL_FRAME_GAP = 1u << 0,     /* something between the frame before and this one is missing */
    VL_FRAME_CORRUPT = 1u << 1, /* the decoder said so */
    VL_FRAME_END = 1u << 2,     /* last of its stream */
};

/* No time of a medium is later, 36 years, so that sums of a few do not overflow. */
#define VL_FRAME_MAX_PTS_NS (INT64_MAX / 8)

/* One picture. Immutable from the moment a source publishes it. One producer, any number of readers; the last
 * unref calls release, from any thread, so release must only hand memory back (munmap, pool push, a credit).
 */
struct vl_frame {
    const uint8_t *plane[3];
    uint32_t stride[3], width, height;
    enum vl_pixfmt format;
    uint8_t matrix, range; /* VL_MATRIX_*, VL_RANGE_* */
    uint32_t flags;        /* VL_FRAME_* */
    int64_t pts_ns;        /* media time */
    int64_t wall_ns;       /* CLOCK_REALTIME when it was seen; a label, never a timer */
    uint64_t seq;
    atomic_int refs;
    void (*release)(struct vl_frame *f);
    void *owner;
};
struct vl_frame *vl_frame_ref(struct vl_frame *f);
struct vl_frame *vl_frame_unref(struct vl_frame *f); /* accepts NULL, returns NULL */
VL_DEFINE_AUTO(vl_frame)
#endif
