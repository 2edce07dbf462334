/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Supervision of one `vlmd-ingest --still`: start, one frame, its exit, or the end of patience. What came of
 * it is decided in one place, once the child is reaped, from what is known by then: its frame, its last
 * status, why we killed it, how it died.
 */
#include "daemon/still.h"

#include "base/clock.h"
#include "base/frame_socket.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define DEADLINE_NS (10 * VL_NSEC_PER_SEC)

struct vl_still {
    struct vl_child *child;
    struct vl_frame_socket *socket;
    sd_event_source *io, *timer;
    struct vl_frame *frame;
    struct vl_frame_status status; /* the child's last */
    struct vl_error broken;        /* why we ended it; code 0: we did not */
    void (*done)(void *user, struct vl_frame *f, const struct vl_error *err);
    void *user;
};

static void end_child(struct vl_still *s, int code, const char *why)
{
    if (s->broken.code == 0)
        (void)vl_error_set(&s->broken, code, "%s", why);
    s->io = sd_event_source_disable_unref(s->io);
    if (s->child)
        vl_child_end(s->child);
}

/* One packet. False: nothing more for now. */
static bool receive(struct vl_still *s)
{
    vl_auto(vl_frame) f = NULL;
    struct vl_error err = {0};
    int r = vl_frame_socket_receive(s->socket, &f, &s->status, &err);
    if (r == 0 && !s->frame)
        s->frame = vl_steal(f);
    else if (r == 0)
        end_child(s, -EBADMSG, "its reader sent more than one picture");
    else if (r < 0)
        end_child(s, r == -EMSGSIZE || r == -ENOMEM ? r : -EBADMSG, err.msg[0] ? err.msg : strerror(-r));
    else if (r == VL_FRAME_CLOSED)
        s->io = sd_event_source_disable_unref(s->io); /* its exit follows, or the deadline */
    return r == 0 || r == VL_FRAME_STATUS;
}

static int on_socket(sd_event_source *source, int fd, uint32_t revents, void *user)
{
    struct vl_still *s = user;
    (void)source;
    (void)fd;
    (void)revents;
    while (s->broken.code == 0 && receive(s))
        ;
    return 0;
}

/* "word: sentence" without its word: the code says it already. */
static const char *sentence(const char *reason)
{
    const char *colon = strstr(reason, ": ");
    return colon ? colon + 2 : reason;
}

static void judge(const struct vl_still *s, int why, int code, struct vl_error *ret)
{
    if (s->broken.code)
        *ret = s->broken;
    else if (s->status.state == VL_INGEST_FAILED)
        (void)vl_error_set(ret, s->status.code < 0 ? s->status.code : -EBADMSG, "%s",
                           sentence(s->status.reason));
    else if (why == CLD_EXITED && code != 0) /* it did not come as far as to say why */
        (void)vl_error_set(ret, -EIO, "its reader ended with exit code %d", code);
    else if (why == CLD_EXITED)
        (void)vl_error_set(ret, -EBADMSG, "its reader sent no picture");
    else
        (void)vl_error_set(ret, -EBADMSG, "its reader died of signal %d", code);
}

static void on_reaped(void *user, int why, int code)
{
    struct vl_still *s = user;
    struct vl_error err = {0};
    s->child = NULL;
    while (s->broken.code == 0 && receive(s)) /* what it sent before it died still counts */
        ;
    s->io = sd_event_source_disable_unref(s->io);
    s->timer = sd_event_source_disable_unref(s->timer);
    bool good = s->frame && s->broken.code == 0 && s->status.state == VL_INGEST_ENDED;
    if (!good)
        judge(s, why, code, &err);
    s->done(s->user, good ? vl_steal(s->frame) : NULL, good ? NULL : &err); /* s may be gone now */
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *user)
{
    (void)source;
    (void)usec;
    end_child(user, -ETIMEDOUT, "it was not read within 10 s");
    return 0;
}

static int spawn(struct vl_still *s, sd_event *event, struct vl_children *children,
                 const struct vl_still_opts *o)
{
    const struct vl_frame_credit one = {.n = 1};
    char want[32];
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    vl_autofd ours = pair[0], theirs = pair[1];
    int r = vl_frame_socket_new(&s->socket, ours, &vl_frame_limits_default);
    if (r < 0)
        return r;
    (void)vl_steal_fd(&ours); /* the socket's now */
    if ((r = vl_frame_socket_grant(s->socket, &one)) < 0)
        return r;
    r = sd_event_add_io(event, &s->io, vl_frame_socket_fd(s->socket), EPOLLIN, on_socket, s);
    if (r >= 0)
        r = sd_event_add_time_relative(event, &s->timer, CLOCK_MONOTONIC,
                                       (uint64_t)(DEADLINE_NS / VL_NSEC_PER_USEC), 10000, on_deadline, s);
    if (r < 0)
        return r;
    (void)snprintf(want, sizeof(want), "--want-side=%u", o->want_side);
    const char *argv[] = {o->program, "--fd=3", "--input-fd=4", "--still", want, NULL};
    const int fd[VL_CHILD_MAX_FDS] = {theirs, o->fd};
    return vl_child_spawn(&s->child, children, (char *const *)(uintptr_t)argv, fd, 2, on_reaped, s);
}

int vl_still_new(struct vl_still **ret, sd_event *event, struct vl_children *children,
                 const struct vl_still_opts *o,
                 void (*done)(void *user, struct vl_frame *f, const struct vl_error *err), void *user)
{
    vl_auto(vl_still) s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->done = done;
    s->user = user;
    int r = spawn(s, event, children, o);
    if (r < 0)
        return r;
    *ret = vl_steal(s);
    return 0;
}

struct vl_still *vl_still_unref(struct vl_still *s)
{
    if (!s)
        return NULL;
    s->child = vl_child_disown(s->child);
    (void)sd_event_source_disable_unref(s->io);
    (void)sd_event_source_disable_unref(s->timer);
    (void)vl_frame_unref(s->frame);
    (void)vl_frame_socket_unref(s->socket);
    free(s);
    return NULL;
}
