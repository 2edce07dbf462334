/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_SOURCE_H
#define VL_PIPELINES_SOURCE_H
#include "base/error.h"
#include "base/frame.h"
#include "base/params.h"
#include <stddef.h>
/* Where a source delivers, on its own thread: sampler, gate, then the frame socket. end is called once, with
 * 0 at end of stream. */
struct vl_source_out {
    void *user;
    void (*frame)(void *user, struct vl_frame *f);
    void (*end)(void *user, int r);
};
struct vl_source_ops {
    const char *scheme, *help; /* "file", "test", "rtsp", "v4l2", "still", ... */
    const struct vl_param_desc *params;
    size_t state_size;
    int (*open)(void *state, const char *uri, int fd /* or -1 */, const struct vl_params *p,
                struct vl_error *err);
    int (*start)(void *state, const struct vl_source_out *out);
    void (*stop)(void *state);  /* returns when no callback can follow */
    void (*close)(void *state); /* accepts a half-opened state */
};
extern const struct vl_source_ops *const vl_sources[]; /* registry.c */
#endif
