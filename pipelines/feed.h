/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_FEED_H
#define VL_PIPELINES_FEED_H
#include "base/frame_socket.h"
#include "pipelines/source.h"

#include <stdbool.h>

/* What stands between a source and the frame socket: sampler, pace, gate, and the copy into a sealed memfd.
 * The source's thread is in the three callbacks of vl_feed_out; the process's main thread is in everything
 * else. They meet in a mailbox of one frame: in real time the newest wins, else the source waits until the
 * frame before was sent. */
struct vl_feed_opts {
    int64_t interval_ns, step_ns, start_ns;
    enum vl_gate gate;
    bool realtime;
};
struct vl_feed;
int vl_feed_new(struct vl_feed **ret, const struct vl_feed_opts *o);
struct vl_source_out vl_feed_out(struct vl_feed *f); /* borrowed from f */
int vl_feed_fd(const struct vl_feed *f);             /* readable when next has something; borrowed */

/* The next picture, sealed: a packet for vl_frame_socket_send. memfd is the caller's. VL_FEED_ENDED: *ret_err
 * has the source's code (0: end of stream) and message, which stays. After a frame was sent, call
 * vl_feed_sent. */
enum { VL_FEED_EMPTY = 1, VL_FEED_ENDED = 2 };
int vl_feed_next(struct vl_feed *f, struct vl_frame_packet *ret, int *ret_memfd, struct vl_error *ret_err);
void vl_feed_sent(struct vl_feed *f);

void vl_feed_configure(struct vl_feed *f, enum vl_gate gate,
                       int64_t interval_ns); /* as of a credit: 0 keeps */
struct vl_feed_counts {
    uint64_t n_in, n_gated, n_corrupt;
    bool waiting; /* for the time of its next frame */
};
struct vl_feed_counts vl_feed_counts(const struct vl_feed *f);
void vl_feed_stop(struct vl_feed *f);             /* from now on the callbacks return at once */
struct vl_feed *vl_feed_unref(struct vl_feed *f); /* after the source was stopped */
VL_DEFINE_AUTO(vl_feed)
#endif
