/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_ENGINE_H
#define VL_ENGINE_ENGINE_H
#include "base/error.h"
#include "base/mailbox.h"
#include "base/params.h"
#include "base/sampling.h"

#include <stdbool.h>

/* All that daemon/ sees of the machine below: no tensor, no model. Every call posts to the engine thread and
 * never blocks; all calls on one thread (the daemon's main thread). The model loads on the engine thread:
 * READY or FAILED (session 0, turn 0) tells the outcome; calls before it are accepted and wait. */
struct vl_engine;
struct vl_engine_opts {
    const char *backend; /* "cpu" or "cpu:isa=avx2"; NULL: the best there is */
    const char *model, *mmproj;
    size_t kv_bytes; /* page pool; 0: enough for the default window of four streams */
    uint32_t max_sessions, max_forks, max_queue, n_workers;
};

/* What is asked of the watch over one stream. Strings and params are copied. */
struct vl_session_opts {
    uint32_t max_caption_tokens, visual_budget; /* tokens a frame may keep; 0: all */
    bool captions;
    const char *reducer, *policy, *instruction; /* NULL: none, "sink_window", the family's own */
    const struct vl_params *reducer_params, *policy_params;
    struct vl_sampling sampling;
};

struct vl_ask {
    uint64_t session;              /* 0: none, the images are all there is */
    struct vl_frame *const *image; /* references are taken */
    uint32_t n_images, max_tokens;
    const char *text;
    int64_t since_ns,
        until_ns;        /* wall clock, 0: open; nothing remembered in that range: VL_TURN_NOTHING_SEEN */
    int64_t deadline_ns; /* CLOCK_MONOTONIC, 0: none */
    int priority;
    struct vl_sampling sampling;
};

enum vl_turn_status { VL_TURN_OK, VL_TURN_CANCELLED, VL_TURN_DEADLINE, VL_TURN_NOTHING_SEEN, VL_TURN_FAILED };
struct vl_turn_stats {
    uint32_t n_prompt, n_output, n_pruned;
    int64_t queued_ns, first_token_ns, total_ns; /* since the ask was accepted */
};

/* Running account of one session; in every FRAME_SEEN. */
struct vl_session_stats {
    uint64_t n_frames, n_dropped_tokens, n_visual_tokens, n_text_tokens, n_captions; /* since it was opened */
    uint32_t window_tokens, window_frames;                                           /* held now */
    uint64_t kv_bytes;                                                               /* pages it holds now */
    int64_t oldest_wall_ns, newest_wall_ns; /* frames it still remembers; 0: none */
    int64_t encode_ns, prefill_ns, decode_ns,
        lag_ns; /* the last frame: work, and wall clock from seen to done */
};

/* What the engine is made of; text members are owned by the engine. Valid after READY. */
struct vl_engine_info {
    const char *model_name, *arch, *quantization, *kernels;
    uint32_t context_tokens, tokens_per_frame, default_window_frames;
    uint64_t weight_bytes, scratch_bytes, kv_pool_bytes, kv_used_bytes;
};

enum vl_event_type {
    VL_EVENT_READY,
    VL_EVENT_TEXT,         /* a piece of an answer, or of a caption when turn is 0; whole code points */
    VL_EVENT_CAPTION_DONE, /* text: the whole caption, "" when the model chose silence */
    VL_EVENT_FRAME_SEEN,
    VL_EVENT_TURN_DONE,
    VL_EVENT_ENDED,  /* the session's mailbox ended; error.code 0 or why */
    VL_EVENT_FAILED, /* the model (session 0) or this session cannot go on */
};
struct vl_event {
    enum vl_event_type type;
    enum vl_turn_status status;
    uint64_t session, turn;              /* turn 0: the commentary */
    int64_t pts_ns, pts_end_ns, wall_ns; /* of the frame that the caption is about */
    const char *text;                    /* valid until the next call of vl_engine_next_event */
    size_t len;
    union {
        struct vl_turn_stats turn_stats; /* TURN_DONE */
        struct vl_session_stats
            session_stats; /* FRAME_SEEN, CAPTION_DONE, ENDED; TURN_DONE with NOTHING_SEEN */
    };
    struct vl_error error;
};

enum { VL_ENGINE_EMPTY = 1, VL_ENGINE_BUSY = 2 };
int vl_engine_new(struct vl_engine **ret, const struct vl_engine_opts *o, struct vl_error *err);
/* -ENOSPC: max_sessions. -EINVAL: unknown policy or reducer, or an option of theirs; err names it and the
 * nearest. */
int vl_engine_open_session(struct vl_engine *e, const struct vl_session_opts *o, uint64_t *ret_id,
                           struct vl_error *err);
int vl_engine_configure(struct vl_engine *e, uint64_t session, const struct vl_session_opts *o,
                        struct vl_error *err);
int vl_engine_watch(struct vl_engine *e, uint64_t session, struct vl_mailbox *frames); /* takes a reference */
int vl_engine_close_session(struct vl_engine *e, uint64_t session); /* its turns end as CANCELLED */
/* 0: exactly one TURN_DONE will follow. VL_ENGINE_BUSY: queue or forks are full. */
int vl_engine_ask(struct vl_engine *e, const struct vl_ask *q, uint64_t *ret_turn, struct vl_error *err);
int vl_engine_cancel(struct vl_engine *e, uint64_t turn); /* idempotent; too late is no error */
int vl_engine_event_fd(const struct vl_engine *e);        /* readable when an event waits; borrowed */
int vl_engine_next_event(struct vl_engine *e, struct vl_event *ret);           /* 0, or VL_ENGINE_EMPTY */
int vl_engine_get_info(const struct vl_engine *e, struct vl_engine_info *ret); /* -EAGAIN before READY */
/* For the watchdog: a counter that moves with every quantum, and whether there is nothing to do. Any thread.
 */
void vl_engine_heartbeat(const struct vl_engine *e, uint64_t *ret_count, bool *ret_idle);
struct vl_engine *vl_engine_unref(struct vl_engine *e); /* cancels all turns, joins the thread */
VL_DEFINE_AUTO(vl_engine)
#endif
