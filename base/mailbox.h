/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_MAILBOX_H
#define VL_BASE_MAILBOX_H
#include "base/frame.h"

#include <stddef.h>

/* The only way a frame crosses threads: bounded, newest wins, one putter, one taker. A file's child is given
 * no more credit than the depth, so nothing of a file is ever replaced. Counted: one reference for each side.
 */
enum { VL_MAILBOX_REPLACED = 1, VL_MAILBOX_EMPTY = 2, VL_MAILBOX_ENDED = 3 };
struct vl_mailbox;
/* wake is called on the putting thread after every put and end, outside the lock; it must only signal. depth
 * >= 1. -ENOMEM, -EINVAL. */
int vl_mailbox_new(struct vl_mailbox **ret, size_t depth, void (*wake)(void *user), void *user);
/* The taker may set or replace wake once it knows whom to wake; called at once when something waits already.
 */
void vl_mailbox_set_wake(struct vl_mailbox *m, void (*wake)(void *user), void *user);
struct vl_mailbox *vl_mailbox_ref(struct vl_mailbox *m);
/* Takes over the caller's reference. VL_MAILBOX_REPLACED: the oldest frame was dropped and counted, and the
 * frame after the hole carries VL_FRAME_GAP if the dropped one did. -EPIPE after end. */
int vl_mailbox_put(struct vl_mailbox *m, struct vl_frame *f);
/* After the last frame: 0 end of stream, else why. Frames put before are still delivered. The first call
 * counts. */
void vl_mailbox_end(struct vl_mailbox *m, int r);
/* 0: the caller owns *ret. VL_MAILBOX_EMPTY; VL_MAILBOX_ENDED: *ret_end is the reason given to end. */
int vl_mailbox_take(struct vl_mailbox *m, struct vl_frame **ret, int *ret_end);
uint64_t vl_mailbox_dropped(const struct vl_mailbox *m);
struct vl_mailbox *vl_mailbox_unref(struct vl_mailbox *m);
VL_DEFINE_AUTO(vl_mailbox)
#endif
