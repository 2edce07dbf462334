/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_STILL_H
#define VL_DAEMON_STILL_H
#include "base/cleanup.h"
#include "base/error.h"
#include "base/frame.h"
#include "daemon/child.h"

/* One encoded picture (JPEG, PNG, WebP) becomes a frame: a short-lived `vlmd-ingest --still` reads it, so
 * that no byte of it is parsed here. One owner; main thread. */
/* The encoders look at no more than this on the longest side, so a reader that can shrink for nothing may.
 * One number for all who show pictures to a model: it must not matter by which way they come. */
enum { VL_STILL_MODEL_SIDE = 2048 };
struct vl_still_opts {
    const char *program; /* path of vlmd-ingest; borrowed for the call */
    int fd;              /* regular file, memfd or pipe; borrowed for the call */
    uint32_t want_side;  /* the reader may shrink while it decodes, down to this longest side; 0: whole */
};
struct vl_still;
/* done is called once, from the event loop and never from inside new: with a frame whose reference the callee
 * takes over, or with NULL and why. Its err.code: -EBADMSG broken, -EMSGSIZE too large, -ENOTSUP no picture
 * that we read, -ETIMEDOUT, and what starting a process may answer. The callee may unref the still inside
 * done. */
int vl_still_new(struct vl_still **ret, sd_event *event, struct vl_children *children,
                 const struct vl_still_opts *o,
                 void (*done)(void *user, struct vl_frame *f, const struct vl_error *err), void *user);
struct vl_still *vl_still_unref(struct vl_still *s); /* before done: ends its child, and done is not called */
VL_DEFINE_AUTO(vl_still)
#endif
