/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_WATCH_H
#define VL_ENGINE_WATCH_H
#include "engine/session.h"

/* The watch over a stream, one bounded quantum at a time: a frame is taken, encoded a layer at a time, read,
 * spoken about, and closed; then it is part of what questions see. Engine thread. Results: 0, or negative:
 * the session cannot go on. */
int vl_watch_set_mailbox(struct vl_session *s, struct vl_mailbox *frames); /* takes over the reference */

/* Is there a quantum of this kind to do? */
bool vl_watch_wants_step(struct vl_session *s);
bool vl_watch_wants_prefill(struct vl_session *s);
bool vl_watch_wants_frame(
    struct vl_session *s); /* the mailbox is to be looked at, or a layer to be computed */

int vl_watch_step(struct vl_session *s);
int vl_watch_prefill(struct vl_session *s);
/* *ret_did: false, there was no frame after all. */
int vl_watch_frame(struct vl_session *s, bool *ret_did);
#endif
