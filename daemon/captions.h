/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_CAPTIONS_H
#define VL_DAEMON_CAPTIONS_H
#include "base/error.h"
#include "daemon/limits.h"

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

/* One thing said about a stream. Times in microseconds: start and end since the epoch, pts of the media. */
struct vl_caption {
    uint64_t id; /* 1, 2, ...: never used twice while the stream lives */
    int64_t start_usec, end_usec, pts_usec;
    const char *text;
};

/* What a stream said lately, and who reads it. One owner, the stream; main thread. */
struct vl_captions;
int vl_captions_new(struct vl_captions **ret, sd_event *event, struct vl_limits *limits /* borrowed */);
/* Remembers a copy (its id is given here) and writes it to the readers who follow. -ENOMEM. */
int vl_captions_add(struct vl_captions *c, const struct vl_caption *caption);
/* A reader: first what is remembered from since on (0: all), then, with follow, what comes. The caller owns
 * *ret_fd. format: text jsonl vtt srt, else -EINVAL. VL_LIMITS_OVER, -EMFILE, -ENOMEM. */
int vl_captions_open(struct vl_captions *c, const char *format, int64_t since_usec, bool follow, uid_t uid,
                     int *ret_fd, struct vl_error *err);
/* Walks what is remembered, oldest first: *inout_id is 0 at first. Text is valid until the next add. False:
 * the end. */
bool vl_captions_next(const struct vl_captions *c, uint64_t *inout_id, struct vl_caption *ret);
/* No more will come: a last record with that one word (ended, failed, removed) to the readers, whose pipes
 * close when they have read all. A stream that goes on later may add again. */
void vl_captions_end(struct vl_captions *c, const char *status);
struct vl_captions *vl_captions_unref(struct vl_captions *c); /* cuts its readers off */
VL_DEFINE_AUTO(vl_captions)
#endif
