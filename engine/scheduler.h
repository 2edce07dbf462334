/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_SCHEDULER_H
#define VL_ENGINE_SCHEDULER_H
#include "base/queue.h"
#include "engine/engine.h"
#include "engine/machine.h"
#include "engine/outbox.h"
#include "engine/session.h"
#include "engine/turn.h"

#include <pthread.h>

/*
 * Where the main thread and the engine thread meet. Sessions and turns live in fixed tables of slots. The
 * main thread takes a free slot, fills it and posts a command; from then on the engine thread owns what is
 * inside until it lets go (a session is DEAD, a turn's outbox holds its end). Only the main thread frees a
 * slot, so an end can be neither lost nor told twice.
 */
enum vl_slot_state { VL_SLOT_FREE, VL_SLOT_LIVE, VL_SLOT_DEAD };
struct vl_session_slot {
    atomic_int state; /* LIVE -> DEAD by the engine thread, the other moves by the main thread */
    uint64_t id;      /* main thread */
    bool closing;     /* main thread: events are no longer delivered */
    struct vl_outbox out;
    struct vl_session session; /* engine thread */
};
struct vl_turn_slot {
    uint64_t id; /* main thread; 0: free */
    atomic_bool cancelled;
    struct vl_outbox out;
    struct vl_turn turn; /* engine thread */
};

enum vl_command_type {
    VL_COMMAND_OPEN,
    VL_COMMAND_CONFIGURE,
    VL_COMMAND_WATCH,
    VL_COMMAND_CLOSE,
    VL_COMMAND_ASK
};
/* Pointers are handed over with the command. */
struct vl_command {
    enum vl_command_type type;
    uint32_t session, turn;       /* slots; ASK without a stream: VL_NO_SESSION */
    uint64_t id;                  /* OPEN, ASK */
    struct vl_session_plan *plan; /* OPEN, CONFIGURE */
    struct vl_mailbox *mailbox;   /* WATCH */
    struct vl_question *question; /* ASK */
};
#define VL_NO_SESSION UINT32_MAX
enum { VL_PROGRESS_ONE = 1 << 16 };
enum { VL_MAX_COMMANDS = 256 }; /* besides those that close a session, for which there is always room */

struct vl_engine {
    struct vl_engine_opts opts; /* strings are ours; defaults are filled in */
    char *backend, *model, *mmproj;
    pthread_t thread;
    bool has_thread;
    int event_fd, wake_fd;
    struct vl_queue *commands;
    atomic_bool stop, idle, signalled;
    atomic_uint_least64_t heartbeat, kv_used;
    atomic_uint_least32_t progress; /* of the load, of VL_PROGRESS_ONE */
    atomic_bool has_info;           /* info may be read: it is not written any more */
    struct vl_engine_info info;
    char info_text[4][256]; /* its strings: they outlive a model that fails */
    struct vl_outbox own;   /* LOADING, READY, FAILED */
    struct vl_session_slot *session;
    struct vl_turn_slot *turn;

    /* main thread */
    uint64_t last_session, last_turn;
    uint32_t cursor; /* the outbox looked at last */
    char *text;      /* [VL_OUTBOX_TEXT + 1] of the last event */

    /* engine thread */
    struct vl_machine machine;
    struct vl_error failed; /* code < 0: there is no machine, and why */
    bool dirty;             /* an outbox was written in this tick */
    uint32_t ring[3];       /* by kind of quantum: whose turn it is */
    uint32_t n_passed_over[3];
};

void vl_engine_wake(struct vl_engine *e);     /* any thread: the engine thread has something to look at */
void vl_engine_announce(struct vl_engine *e); /* engine thread: an outbox has something */
void *vl_scheduler_main(void *engine);        /* the engine thread */
#endif
