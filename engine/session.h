/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_SESSION_H
#define VL_ENGINE_SESSION_H
#include "engine/engine.h"
#include "engine/voice.h"
#include "kvcache/kv.h"
#include "model/model.h"
#include "tokenprune/reducer.h"

/* Options of a session, checked and copied: made on the main thread, handed to the engine thread. */
struct vl_session_plan {
    struct vl_session_opts opts; /* its pointers are those below, or NULL */
    char *instruction;
    const struct vl_kv_policy *policy;
    const struct vl_reducer_ops *reducer; /* or NULL */
    struct vl_params *policy_params, *reducer_params;
    uint32_t window_frames; /* that the policy keeps; 0: it does not count frames. Known at open */
};
/* -EINVAL names what is unknown and the nearest known. */
int vl_session_plan_new(struct vl_session_plan **ret, const struct vl_session_opts *o, struct vl_error *err);
struct vl_session_plan *vl_session_plan_unref(struct vl_session_plan *p); /* one owner */
VL_DEFINE_AUTO(vl_session_plan)

/* Where the watch over a stream is; table of allowed moves in session.c. What the sequence does meanwhile
 * (IDLE, PREFILL, STEP) is voice.state. */
enum vl_watch_phase {
    VL_WATCH_OFF,     /* not open, or failed */
    VL_WATCH_SINK,    /* the system prompt is being read */
    VL_WATCH_WAIT,    /* for a frame */
    VL_WATCH_ENCODE,  /* holds the encoder */
    VL_WATCH_FRAME,   /* holds the encoder still: its output is being read */
    VL_WATCH_CAPTION, /* speaks */
    VL_WATCH_CLOSE,   /* the end of the turn is being read */
    VL_WATCH_PHASES
};

/* The look under way and the one before it. */
enum { VL_SESSION_LOOKS = 2 };

/* When the frames of the visual window were taken, by unit number. */
enum { VL_SESSION_MOMENTS = 1024 };
struct vl_moment {
    uint64_t unit;
    int64_t wall_ns;
};

/* The timeline of one stream. Engine thread; embedded in its slot, alive from OPEN to CLOSE. */
struct vl_session {
    struct vl_machine *m;  /* borrowed, engine lifetime */
    struct vl_outbox *out; /* of its slot */
    uint64_t id;
    enum vl_watch_phase phase;
    struct vl_error failed; /* code < 0: why it is OFF */
    struct vl_session_plan *plan;
    struct vl_kv *kv;
    struct vl_reducer reducer;
    struct vl_voice voice;
    int32_t *sink, *ids; /* the system prompt; [ids_cap] the part being read */
    uint32_t n_sink, ids_cap, n_ids;

    struct vl_mailbox *mailbox; /* or NULL: nothing is watched */
    struct vl_frame *frame;     /* of the turn under way */
    uint64_t unit;              /* of the last frame taken; 0 is the sink's */
    uint32_t n_visual;          /* its tokens that were kept */
    struct vl_look look;        /* its pixels, when the encoder sees change */
    struct vl_look before;      /* of the last frame that became part of the timeline */
    uint8_t *looks;             /* what both point to, or NULL; they change places */
    uint32_t n_bad;             /* frames in a row that could not be taken in */
    bool have_clock;
    int64_t clock_ns, last_pts_ns, step_ns; /* media time since the first frame */
    int64_t pts_ns, wall_ns;                /* of the frame under way */

    struct vl_session_stats stats;
    struct vl_moment moment[VL_SESSION_MOMENTS]; /* by unit % VL_SESSION_MOMENTS */
};

/* Takes over the plan, also on failure. The sink is read by the quanta that follow. */
int vl_session_open(struct vl_session *s, struct vl_machine *m, struct vl_outbox *out, uint64_t id,
                    struct vl_session_plan *plan, struct vl_error *err);
int vl_session_configure(struct vl_session *s, struct vl_session_plan *plan, struct vl_error *err);
void vl_session_close(struct vl_session *s);
void vl_session_fail(struct vl_session *s, const struct vl_error *err); /* tells it, once */
void vl_session_move(struct vl_session *s, enum vl_watch_phase to);
/* A new view: everything after the sink is forgotten. */
int vl_session_reset(struct vl_session *s);
/* Of the frame under way. */
struct vl_event vl_session_frame_event(const struct vl_session *s, enum vl_event_type type);
/* The words that the frame under way has already said are taken back by an empty caption. */
void vl_session_take_back(struct vl_session *s);
/* The frame that comes is compared with none, nor is the one after it with the frame under way. */
void vl_session_forget_looks(struct vl_session *s);
/* Brings stats.window_* up to date. */
void vl_session_measure(struct vl_session *s);
/* Is there a visible frame in [since, until] of the wall clock (0: open)? */
bool vl_session_remembers(const struct vl_session *s, int64_t since_ns, int64_t until_ns);
#endif
