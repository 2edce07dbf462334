/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_STREAM_H
#define VL_DAEMON_STREAM_H
#include "base/mailbox.h"
#include "daemon/captions.h"
#include "daemon/ingest.h"
#include "daemon/manager.h"
#include "daemon/spec.h"

enum vl_stream_state {
    VL_STREAM_CONNECTING,
    VL_STREAM_RUNNING,
    VL_STREAM_STALLED,
    VL_STREAM_RETRYING,
    VL_STREAM_ENDED,
    VL_STREAM_FAILED,
    VL_STREAM_STATE_COUNT
};

/* One watched source: its ingest child, its mailbox, its engine session, what it said. Lives until it is
 * removed; main thread. */
struct vl_stream {
    struct vl_manager *m; /* borrowed, outlives it */
    struct vl_stream *next;
    struct vl_stream_spec spec;
    char *path;                    /* of its bus object */
    uid_t uid;                     /* who is charged for it */
    struct vl_client *client;      /* with whom it goes; NULL: with the daemon */
    struct vl_daemon_model *model; /* borrowed, outlives it; NULL: there is none */
    uint64_t session;              /* of the model's engine; 0: none, the model has failed or is gone */
    struct vl_mailbox *mailbox;
    struct vl_ingest *ingest;
    struct vl_captions *captions;
    enum vl_stream_state state;
    char reason[24]; /* StateReason: one short word */
    struct vl_session_stats stats;
    uint32_t width, height;
    bool changed; /* its properties are to be announced */
    sd_bus_slot *slot[2];
};

/* Takes over *spec (also when it fails: then it is done). model was wanted and sees, or NULL: the stream is
 * there, and failed. client: with whom it goes, or NULL. Errors are those of AddStream, and what a method
 * handler returns. */
int vl_stream_new(struct vl_stream **ret, struct vl_manager *m, struct vl_daemon_model *model,
                  struct vl_stream_spec *spec, uid_t uid, struct vl_client *client, sd_bus_error *e);
/* Other settings for the same source: takes over *spec when it succeeds. */
int vl_stream_configure(struct vl_stream *s, struct vl_stream_spec *spec, sd_bus_error *e);
void vl_stream_stop(struct vl_stream *s); /* ends its child, and nothing else: the daemon stops */
void vl_stream_event(struct vl_stream *s, const struct vl_event *ev); /* of its session, turn 0 */
void vl_stream_model_gone(struct vl_stream *s, const char *why); /* the engine is no more, and its session */
struct vl_stream *vl_stream_unref(struct vl_stream *s);          /* one owner; removes it from the bus */
const char *vl_stream_state_name(enum vl_stream_state s);
#endif
