/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_SOURCE_H
#define VL_PIPELINES_SOURCE_H
#include "base/error.h"
#include "base/frame.h"
#include "base/params.h"

#include <stddef.h>

#define VL_PTS_NONE INT64_MIN /* a picture without a time */

/* Where a source delivers, on its own thread and one call at a time. want comes before the picture is made:
 * it may wait (for its time, for room), and answers 1 make it and call frame, 0 leave it out, or a negative
 * errno: it is being stopped, leave. frame borrows f for the call; its pts_ns is the source's own. end is
 * called once, after the last frame and never after want said stop: 0 at end of stream, else why, in err too;
 * -EBADMSG bad bytes, -EMSGSIZE or -ENOMEM a limit, -EIO or -ENODEV the device, all others a refusal. */
struct vl_source_out {
    void *user;
    int (*want)(void *user, int64_t pts_ns);
    void (*frame)(void *user, struct vl_frame *f);
    void (*end)(void *user, int r, const struct vl_error *err);
};

/* What every source is told, apart from its own params. */
struct vl_source_limits {
    uint32_t max_side;
    uint64_t max_pixels;
    int loop;         /* begin again at the end */
    int64_t start_ns; /* media time of the first frame; not 0: the stream goes on after a break */
};

struct vl_source_ops {
    const char *scheme, *help;          /* "file", "test", "rtsp", "v4l2", "still", ... */
    const struct vl_param_desc *params; /* of its URI; ends with key NULL */
    size_t state_size;
    /* Longest step ahead in its presentation times that is believed at once: a recording may be silent for
     * minutes, a camera may not. */
    int64_t max_step_ns;
    /* Loads what the process cannot load once it has confined itself. No byte from outside. May be NULL. */
    int (*prepare)(struct vl_error *err);
    /* state is zeroed. Takes fd over, on success or not. */
    int (*open)(void *state, const char *uri, int fd /* or -1 */, const struct vl_source_limits *limits,
                struct vl_error *err);
    int (*start)(void *state, const struct vl_source_out *out);
    /* Returns when no callback can follow. The owner has seen to it that want and frame no longer wait. */
    void (*stop)(void *state);
    void (*close)(void *state); /* after stop; accepts a half-opened state */
};
extern const struct vl_source_ops *const vl_sources[]; /* registry.c; ends with NULL */
const struct vl_source_ops *vl_source_find(const char *scheme);
#endif
