/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_LIMITS_H
#define VL_DAEMON_LIMITS_H
#include "base/cleanup.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What a client can make us hold, each with its cap; limits.c has the table with the reasons. Process
 * lifetime, main thread. */
enum vl_limit {
    VL_LIMIT_STREAMS,
    VL_LIMIT_QUERIES,
    VL_LIMIT_CAPTION_READERS,
    VL_LIMIT_CHECKS,
    VL_LIMIT_COUNT
};
enum {
    VL_LIMIT_QUESTION_BYTES = 16 << 10, /* what the engine takes at most */
    VL_LIMIT_PIPE_BYTES = 256 << 10,    /* a reader may be this far behind, beside the kernel's own 64 KiB */
    VL_LIMIT_ANSWER_BYTES = 256 << 10,  /* of AskText, whose answer waits in our memory */
    VL_LIMIT_INSTRUCTION_BYTES = 4 << 10,  /* it is pinned in the window */
    VL_LIMIT_CAPTIONS = 512,               /* remembered of one stream */
    VL_LIMIT_QUERIES_KEPT = 256,           /* finished, not yet forgotten */
    VL_LIMIT_IMAGES = 8,                   /* of one question: what the engine takes at most */
    VL_LIMIT_IMAGE_BYTES = 64 << 20,       /* of a file; its child reads no more either */
    VL_LIMIT_IMAGE_READERS = 2,            /* children that read pictures at once */
    VL_LIMIT_IMAGE_HELD_BYTES = 256 << 20, /* of decoded pictures; over it one question after the other */
    VL_LIMIT_ALL_STREAMS = 64,             /* the most that MaxStreams= may say */
    VL_LIMIT_ALL_QUERIES = 64,             /* the most that MaxQueries= may say */
};

struct vl_limits;
enum { VL_LIMITS_OVER = 1 };
/* fair: many users share this daemon, so one uid gets a share of what is free (the system bus). -ENOMEM. */
int vl_limits_new(struct vl_limits **ret, uint32_t max_streams, uint32_t max_queries, bool fair);
/* Charges one to uid; on_connection is how many the same connection holds. VL_LIMITS_OVER: err says which
 * cap. -ENOMEM. */
int vl_limits_take(struct vl_limits *l, enum vl_limit what, uid_t uid, uint32_t on_connection,
                   struct vl_error *err);
void vl_limits_give(struct vl_limits *l, enum vl_limit what, uid_t uid);
uint32_t vl_limits_used(const struct vl_limits *l, enum vl_limit what);
uint32_t vl_limits_total(const struct vl_limits *l, enum vl_limit what);
struct vl_limits *vl_limits_unref(struct vl_limits *l); /* one owner */
VL_DEFINE_AUTO(vl_limits)
#endif
