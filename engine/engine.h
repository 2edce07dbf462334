/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_ENGINE_H
#define VL_ENGINE_ENGINE_H
#include "base/budget.h"
#include "base/error.h"
#include "base/mailbox.h"
#include "base/params.h"
#include "base/sampling.h"

#include <stdbool.h>

/* All that daemon/ sees of the machine below: no tensor, no model. Every call posts to the engine thread and
 * never blocks (unref joins it); all calls on one thread, the daemon's main thread. The model loads on the
 * engine thread: READY or FAILED (session 0, turn 0) tells the outcome; calls before it are accepted and
 * wait. After FAILED every session fails and every turn ends as FAILED with the same error.
 *
 * A consumer that is slow loses nothing: text of a turn is joined into larger pieces, and a session or turn
 * whose outbox is full is not scheduled until the outbox is read, while all others go on. */
struct vl_engine;
enum {
    VL_ENGINE_MAX_SESSIONS = 64,
    VL_ENGINE_MAX_QUEUE = 256,
    VL_ENGINE_MAX_WORKERS = 256,
    VL_ENGINE_MAX_TOKENS = 4096,    /* of one answer */
    VL_ENGINE_MAX_CAPTION = 256,    /* tokens of one caption */
    VL_ENGINE_MAX_QUESTION = 16384, /* bytes */
    VL_ENGINE_MAX_IMAGES = 8        /* of one question */
};
struct vl_engine_opts {
    const char *backend;        /* "cpu" or "cpu:isa=avx2"; NULL: the best there is */
    const char *model, *mmproj; /* mmproj NULL: text alone, no stream and no picture */
    size_t max_bytes; /* weights, scratch and pages together; over it the load fails with -EDQUOT before a
                       * weight is read, and the message says how many bytes are missing. 0: no limit */
    struct vl_budget *budget; /* shared with other engines, outlives this one; as max_bytes, of what the
                               * others leave of it. NULL: none */
    size_t kv_bytes; /* page pool; 0: the default window of max_sessions, and the reserve for max_forks */
    uint32_t context_tokens; /* of one sequence, at most the model's own; 0: the model's own */
    uint32_t max_sessions;   /* 0: 4 */
    uint32_t max_queue;      /* turns accepted whose end has not been fetched, running ones included; 0: 64 */
    uint32_t max_forks;      /* turns that run at once; 0: 4 */
    uint32_t n_workers;      /* threads that compute, the engine's own included; 0: one per CPU we may use */
};

/* What is asked of the watch over one stream. Strings and params are copied. */
struct vl_session_opts {
    uint32_t max_caption_tokens; /* 0: 32 */
    uint32_t visual_budget;      /* tokens a frame may keep; 0: all. Without a reducer: "resolution" */
    bool captions;               /* false: frames are remembered and nothing is said about them */
    const char *reducer, *policy, *instruction; /* NULL: none, "sink_window", the family's own */
    const struct vl_params *reducer_params, *policy_params;
    struct vl_sampling sampling; /* of captions; temperature 0: greedy */
};

struct vl_ask {
    uint64_t session;              /* 0: none, the pictures (or the text alone) are all there is */
    struct vl_frame *const *image; /* [n_images] references are taken; with session 0 only */
    uint32_t n_images;
    uint32_t max_tokens;    /* 0 or more than VL_ENGINE_MAX_TOKENS: that many */
    uint32_t visual_budget; /* tokens of each frame that this question looks at; 0: all, or the reducer's own
                             * measure */
    const char *reducer;    /* one that needs a question (one of arrival: with pictures); NULL: none, but
                             * "resolution" where pictures have a budget. A stream's budget wants one */
    const struct vl_params *reducer_params; /* copied */
    const char *text;                       /* copied; UTF-8, special tokens in it are plain text */
    /* Wall clock, 0: open. When no frame that is still in the visual window lies in [since, until]:
     * VL_TURN_NOTHING_SEEN. The answer itself is given in view of all that is remembered. */
    int64_t since_ns, until_ns;
    int64_t deadline_ns; /* CLOCK_MONOTONIC, 0: none */
    int priority;        /* of two that wait the higher goes first, of equals the older */
    struct vl_sampling sampling;
};

enum vl_turn_status { VL_TURN_OK, VL_TURN_CANCELLED, VL_TURN_DEADLINE, VL_TURN_NOTHING_SEEN, VL_TURN_FAILED };
struct vl_turn_stats {
    uint32_t n_prompt, n_output;
    uint32_t n_pruned;                           /* visual tokens left out for this question alone */
    int64_t queued_ns, first_token_ns, total_ns; /* since the ask was accepted; first_token_ns 0: none */
};

/* Running account of one session; in every FRAME_SEEN. Sums count since it was opened. */
struct vl_session_stats {
    uint64_t n_frames;         /* seen: in the window, or once in it */
    uint64_t n_skipped;        /* taken from the mailbox and not seen: numeric trouble, no room */
    uint64_t n_dropped_tokens; /* reduced on arrival or evicted since */
    uint64_t n_visual_tokens, n_text_tokens; /* that entered the window */
    uint64_t n_captions, n_gaps;
    uint32_t window_tokens, window_frames;    /* held now; window_frames counts those still visible */
    uint32_t window_limit;                    /* frames of which the policy keeps anything; 0: it does not
                                               * count them */
    uint64_t kv_bytes;                        /* pages it holds now */
    int64_t oldest_wall_ns, newest_wall_ns;   /* frames still visible; 0: none */
    int64_t encode_ns, prefill_ns, decode_ns; /* work on the last frame */
    int64_t lag_ns;                           /* of the last frame: from its wall clock to seen */
};

/* What the engine is made of; text members are owned by the engine. Valid from LOADING on. */
struct vl_engine_info {
    const char *model_name, *arch, *quantization, *kernels;
    uint32_t context_tokens, tokens_per_frame, default_window_frames;
    uint32_t max_image_tokens; /* visual tokens of the costliest still picture; 0: the model has no eyes */
    uint64_t weight_bytes, scratch_bytes, kv_pool_bytes, kv_used_bytes;
};

enum vl_event_type {
    VL_EVENT_LOADING, /* the files are checked and the memory is granted: weights are being read. The *_bytes
                       * of get_info are valid from here on */
    VL_EVENT_READY,
    /* A piece of an answer, or of a caption when turn is 0; whole code points, no controls but tab and line
     * feed. */
    VL_EVENT_TEXT,
    VL_EVENT_CAPTION_DONE, /* text: the whole caption on one line, "" when the model chose silence */
    VL_EVENT_FRAME_SEEN,   /* once a frame, after its caption: questions from now on see it */
    VL_EVENT_TURN_DONE,
    VL_EVENT_ENDED,  /* the session's mailbox ended; error.code 0 or why. What it saw can still be asked about
                      */
    VL_EVENT_FAILED, /* the model (session 0) or this session cannot go on */
    VL_EVENT_STOPPED /* after vl_engine_stop, the last: all memory is given back */
};
struct vl_event {
    enum vl_event_type type;
    enum vl_turn_status status;
    uint64_t session, turn;  /* turn 0: the commentary */
    int64_t pts_ns, wall_ns; /* of the frame that the caption is about */
    int64_t pts_end_ns;      /* when the next frame is due, judging by the last two */
    const char *text;        /* ends with NUL; valid until the next call of vl_engine_next_event */
    size_t len;
    union {
        struct vl_turn_stats turn_stats; /* TURN_DONE */
        struct vl_session_stats
            session_stats; /* FRAME_SEEN, CAPTION_DONE, ENDED; TURN_DONE of NOTHING_SEEN */
    };
    struct vl_error error; /* READY and OK: code 0 */
};

enum { VL_ENGINE_EMPTY = 1, VL_ENGINE_BUSY = 2 };
/* Returns before the model is loaded. -EINVAL: unknown backend, a limit above VL_ENGINE_MAX_*. */
int vl_engine_new(struct vl_engine **ret, const struct vl_engine_opts *o, struct vl_error *err);
/* -ENOSPC: max_sessions. -EINVAL: unknown policy or reducer, or an option of theirs; err names it and the
 * nearest. -EAGAIN: the engine has not yet read the last 256 commands. */
int vl_engine_open_session(struct vl_engine *e, const struct vl_session_opts *o, uint64_t *ret_id,
                           struct vl_error *err);
/* Takes the place of all options of open. Another instruction, policy or reducer starts a new window. */
int vl_engine_configure(struct vl_engine *e, uint64_t session, const struct vl_session_opts *o,
                        struct vl_error *err);
/* Takes a reference, and the mailbox's wake. In place of the one watched before, if any: a source that came
 * back. NULL: none. -ENOENT: no such session. */
int vl_engine_watch(struct vl_engine *e, uint64_t session, struct vl_mailbox *frames);
int vl_engine_close_session(struct vl_engine *e,
                            uint64_t session); /* its turns end as CANCELLED; no more events */
/* 0: exactly one TURN_DONE will follow. VL_ENGINE_BUSY: max_queue. -ENOENT: no such session. -EINVAL: empty
 * or too long. */
int vl_engine_ask(struct vl_engine *e, const struct vl_ask *q, uint64_t *ret_turn, struct vl_error *err);
int vl_engine_cancel(struct vl_engine *e, uint64_t turn); /* idempotent; too late is no error */
int vl_engine_event_fd(const struct vl_engine *e);        /* readable when an event waits; borrowed */
int vl_engine_next_event(struct vl_engine *e, struct vl_event *ret); /* 0, or VL_ENGINE_EMPTY */
int vl_engine_get_info(const struct vl_engine *e,
                       struct vl_engine_info *ret); /* -EAGAIN before LOADING, or failed */
/* 0 to 1, by bytes of weights read and packed; 1 once the model is warm. Any thread. */
double vl_engine_load_progress(const struct vl_engine *e);
/* For the watchdog: a counter that moves with every quantum, and whether there is nothing to do. Any thread.
 */
void vl_engine_heartbeat(const struct vl_engine *e, uint64_t *ret_count, bool *ret_idle);
/* Gives all memory back and does not keep the caller waiting: unref does not wait either once STOPPED was
 * read. Of what sessions and turns would still have said some is lost. After it only event_fd, next_event and
 * unref may be called. */
void vl_engine_stop(struct vl_engine *e);
/* Ends all turns without further events and joins the thread; a load under way ends with the tensor that is
 * being read. */
struct vl_engine *vl_engine_unref(struct vl_engine *e);
VL_DEFINE_AUTO(vl_engine)
#endif
