/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_INGEST_H
#define VL_DAEMON_INGEST_H
#include "base/error.h"
#include "base/frame_socket.h"
#include "daemon/child.h"

#include <stdbool.h>

/* Supervision of one stream's `vlmd-ingest`: start, connect deadline, stall timer, kill, back-off. One owner,
 * the stream; main thread. */
enum vl_ingest_phase {
    VL_INGEST_PHASE_CONNECTING, /* started, no frame yet */
    VL_INGEST_PHASE_RUNNING,
    VL_INGEST_PHASE_STALLED,  /* no sign of life for max(3 s, 3 intervals): being killed */
    VL_INGEST_PHASE_RETRYING, /* waits to be started again */
    VL_INGEST_PHASE_ENDED,    /* the source is at its end */
    VL_INGEST_PHASE_FAILED,   /* and will not be tried again */
    VL_INGEST_PHASE_COUNT
};

/* At the model's pace so many frames are on their way at once: a mailbox this deep never replaces one. */
enum { VL_INGEST_FILE_CREDIT = 2, VL_INGEST_MAX_URI = 1024 };
struct vl_ingest_opts {
    const char *program; /* path of vlmd-ingest; borrowed, process lifetime */
    const char *uri;     /* or NULL; borrowed, as long as the ingest */
    int fd;              /* or -1; borrowed, as long as the ingest */
    int64_t interval_ns;
    enum vl_gate gate;
    bool restart;  /* its child is started again when it dies, else that is final */
    bool realtime; /* at its own pace, newest wins: credit on arrival; else when a frame is done with */
    bool loop;
};

/* What the owner hears, always from the event loop. frame: takes over f, whose flags and pts are already in
 * order with what came before a restart. reason is one short word or "", detail a sentence or "". Neither may
 * unref the ingest. */
struct vl_ingest_events {
    void (*frame)(void *user, struct vl_frame *f);
    void (*phase)(void *user, enum vl_ingest_phase phase, const char *reason, const char *detail);
    void *user;
};
struct vl_ingest_stats {
    uint64_t n_in, n_gated, n_corrupt; /* over all its children */
    uint32_t n_restarts;
};

struct vl_ingest;
/* Starts at the next turn of the event loop: no callback comes from inside new. -ENOMEM. */
int vl_ingest_new(struct vl_ingest **ret, sd_event *event, struct vl_children *children,
                  const struct vl_ingest_opts *o, const struct vl_ingest_events *ev);
void vl_ingest_configure(struct vl_ingest *i, int64_t interval_ns, enum vl_gate gate);
void vl_ingest_get_stats(const struct vl_ingest *i, struct vl_ingest_stats *ret);
struct vl_ingest *vl_ingest_unref(struct vl_ingest *i); /* its child is ended and reaped by itself */
VL_DEFINE_AUTO(vl_ingest)
#endif
