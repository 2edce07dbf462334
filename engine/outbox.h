/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_OUTBOX_H
#define VL_ENGINE_OUTBOX_H
#include "engine/engine.h"

#include <stdatomic.h>

/* What one session or one turn has to say: a ring of events and a ring of text, written by the engine thread
 * and read by the main thread, without a lock and without an allocation. The writer asks for room before it
 * starts what will need it; a full outbox holds up its own session or turn and nobody else.
 *
 * Text of a turn is read once, as pieces. Text of a caption is read as pieces and then once more as a whole,
 * so it stays until its CAPTION_DONE is read; pieces that were not fetched by then are not delivered. */
enum { VL_OUTBOX_EVENTS = 16, VL_OUTBOX_TEXT = 8192 };
struct vl_outbox_event {
    struct vl_event event;
    uint64_t text_from, text_to; /* bytes of the text ring since its beginning */
};
struct vl_outbox {
    uint64_t session, turn;              /* turn 0: a session's own */
    bool *dirty;                         /* borrowed from whoever holds the outbox */
    atomic_uint_least64_t n_put, n_read; /* events */
    atomic_uint_least64_t text_put, text_freed;
    atomic_bool blocked;   /* the writer waits for room */
    uint64_t text_started; /* writer: where the caption under way begins */
    uint64_t text_read;    /* reader: what was delivered as pieces */
    struct vl_outbox_event ring[VL_OUTBOX_EVENTS];
    char text[VL_OUTBOX_TEXT];
};
/* Neither side may be in it. *dirty is the writer's: set by each put. */
void vl_outbox_init(struct vl_outbox *o, uint64_t session, uint64_t turn, bool *dirty);

/* Engine thread. Room for n_events and n_bytes? If not, the reader will find `blocked` set. */
bool vl_outbox_has_room(struct vl_outbox *o, size_t n_events, size_t n_bytes);
void vl_outbox_put_text(struct vl_outbox *o, const char *text, size_t n); /* there is room */
void vl_outbox_put_event(struct vl_outbox *o, const struct vl_event *ev); /* there is room */
void vl_outbox_drop_text(struct vl_outbox *o,
                         const struct vl_event *empty_cap); /* the caption was given up */

/* Main thread. text has VL_OUTBOX_TEXT + 1 bytes; *ret_unblocked: the writer waited for this. False: empty.
 */
bool vl_outbox_read(struct vl_outbox *o, struct vl_event *ret, char *text, bool *ret_unblocked);
#endif
