/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_TURN_H
#define VL_ENGINE_TURN_H
#include "decoder/prune.h"
#include "engine/session.h"

/* A question, checked and copied: made on the main thread, handed to the engine thread. */
struct vl_question {
    struct vl_ask ask; /* its text and its pictures are those below */
    char *text;
    const struct vl_reducer_ops *reducer;         /* or NULL */
    struct vl_params *params;                     /* its own */
    struct vl_frame *image[VL_ENGINE_MAX_IMAGES]; /* a reference each, until the pixels are taken */
    int64_t accepted_ns;                          /* CLOCK_MONOTONIC */
};
int vl_question_new(struct vl_question **ret, const struct vl_ask *q, struct vl_error *err);
struct vl_question *vl_question_unref(struct vl_question *q); /* one owner */
VL_DEFINE_AUTO(vl_question)

/* One question and its reply, on a copy-on-write fork of what its session has committed, or without a session
 * on a sequence of its own; thrown away at the end. Of its own, pictures are encoded and read one by one,
 * then the words. Engine thread; embedded in its slot. FREE -> WAITING -> RUNNING -> FREE, or WAITING ->
 * FREE. */
enum vl_turn_state { VL_TURN_FREE, VL_TURN_WAITING, VL_TURN_RUNNING };
struct vl_turn {
    enum vl_turn_state state;
    struct vl_machine *m;       /* borrowed, engine lifetime */
    struct vl_session *session; /* borrowed; turns end before their session. NULL: none */
    struct vl_outbox *out;      /* of its slot */
    uint64_t id;
    struct vl_question *question;
    struct vl_kv *kv; /* the fork, or the sequence of its own */
    struct vl_voice voice;
    struct vl_prune prune;     /* about a stream, when something is to be left out */
    struct vl_reducer reducer; /* of pictures, likewise */
    int32_t *ids;
    uint32_t at;       /* ids that were fed */
    uint32_t n_images; /* pictures that were read, or are being read */
    bool encoding;     /* a picture is in the machine's encode of stills */
    size_t want_bytes; /* of the pool's share for sequences of their own */
    size_t own_bytes;  /* of that, taken */
    struct vl_turn_stats stats;
};

/* Takes over the question. -> WAITING. */
void vl_turn_accept(struct vl_turn *t, struct vl_machine *m, struct vl_session *s, struct vl_outbox *out,
                    uint64_t id, struct vl_question *q);
/* Forks, renders and feeds: -> RUNNING, or at once to its end. VL_TURN_NO_ROOM: it must wait for another's
 * end. */
enum { VL_TURN_NO_ROOM = 1 };
int vl_turn_start(struct vl_turn *t, bool others_run);
/* Tells the end, exactly once, and lets go of everything; the slot may be reused at once. */
void vl_turn_end(struct vl_turn *t, enum vl_turn_status status, const struct vl_error *err);

bool vl_turn_wants_step(struct vl_turn *t);
bool vl_turn_wants_prefill(struct vl_turn *t);
bool vl_turn_wants_image(struct vl_turn *t);
void vl_turn_step(struct vl_turn *t);
void vl_turn_prefill(struct vl_turn *t);
void vl_turn_image(struct vl_turn *t);
#endif
