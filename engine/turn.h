/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_TURN_H
#define VL_ENGINE_TURN_H
#include "engine/session.h"

/* A question, checked and copied: made on the main thread, handed to the engine thread. */
struct vl_question {
    struct vl_ask ask; /* its text is ours */
    char *text;
    int64_t accepted_ns; /* CLOCK_MONOTONIC */
};
int vl_question_new(struct vl_question **ret, const struct vl_ask *q, struct vl_error *err);
struct vl_question *vl_question_unref(struct vl_question *q); /* one owner */
VL_DEFINE_AUTO(vl_question)

/* One question and its reply, on a copy-on-write fork of what its session has committed, which is thrown away
 * at the end. Engine thread; embedded in its slot. FREE -> WAITING -> RUNNING -> FREE, or WAITING -> FREE. */
enum vl_turn_state { VL_TURN_FREE, VL_TURN_WAITING, VL_TURN_RUNNING };
struct vl_turn {
    enum vl_turn_state state;
    struct vl_machine *m;       /* borrowed, engine lifetime */
    struct vl_session *session; /* borrowed; turns end before their session */
    struct vl_outbox *out;      /* of its slot */
    uint64_t id;
    struct vl_question *question;
    struct vl_kv *kv; /* the fork */
    struct vl_voice voice;
    int32_t *ids;
    struct vl_turn_stats stats;
};

/* Takes over the question. -> WAITING. */
void vl_turn_accept(struct vl_turn *t, struct vl_session *s, struct vl_outbox *out, uint64_t id,
                    struct vl_question *q);
/* Forks, renders and feeds: -> RUNNING, or at once to its end. VL_TURN_NO_FORK: it must wait for another's
 * end. */
enum { VL_TURN_NO_FORK = 1 };
int vl_turn_start(struct vl_turn *t, bool others_run);
/* Tells the end, exactly once, and lets go of everything; the slot may be reused at once. */
void vl_turn_end(struct vl_turn *t, enum vl_turn_status status, const struct vl_error *err);

bool vl_turn_wants_step(struct vl_turn *t);
bool vl_turn_wants_prefill(struct vl_turn *t);
void vl_turn_step(struct vl_turn *t);
void vl_turn_prefill(struct vl_turn *t);
#endif
