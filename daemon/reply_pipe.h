/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_REPLY_PIPE_H
#define VL_DAEMON_REPLY_PIPE_H
#include "base/cleanup.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <systemd/sd-event.h>

/* The write end of a pipe whose read end a client got: text of an answer, or captions. Never blocks: what the
 * kernel does not take waits here, up to a cap. One owner, main thread. */
struct vl_reply_pipe;
enum { VL_REPLY_PIPE_FULL = 1 };

/* gone is called from the event loop, once, when the reader closed its end (which is how it cancels), or when
 * all was written after finish; the owner then unrefs the pipe, inside gone if it likes. The caller owns
 * *ret_read_fd. -EMFILE, -ENFILE, -ENOMEM. */
int vl_reply_pipe_new(struct vl_reply_pipe **ret, sd_event *event, size_t cap, void (*gone)(void *user),
                      void *user, int *ret_read_fd);
/* All of it or nothing. VL_REPLY_PIPE_FULL: the reader is cap bytes behind; last pieces (a status line) are
 * taken even then. -EPIPE: the reader has gone or finish was called. -ENOMEM. */
int vl_reply_pipe_write(struct vl_reply_pipe *p, const char *data, size_t len, bool last);
/* No more will be written: closes when the rest is out. True: it is out already, and gone is not called. */
bool vl_reply_pipe_finish(struct vl_reply_pipe *p);
struct vl_reply_pipe *vl_reply_pipe_unref(struct vl_reply_pipe *p); /* closes; what waits is lost */
VL_DEFINE_AUTO(vl_reply_pipe)
#endif
