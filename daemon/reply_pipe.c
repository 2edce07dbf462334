/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Pipes that answers leave by. The read end stays blocking, so that `cat` can be the client; only the write
 * end is non-blocking. The write end is watched all the time: EPOLLERR comes when the last reader closes,
 * also while we have nothing to say. SIGPIPE is ignored by the program. Trap: gone may unref the pipe, so
 * nothing follows it.
 */
#include "daemon/reply_pipe.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>

struct vl_reply_pipe {
    int fd;
    sd_event_source *io;
    char *buf;
    size_t start, len, room, cap; /* buf[start, start + len) waits */
    bool finished, broken;
    void (*gone)(void *user);
    void *user;
};

static int flush(struct vl_reply_pipe *p)
{
    while (p->len > 0) {
        ssize_t n = write(p->fd, p->buf + p->start, p->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        p->start += (size_t)n;
        p->len -= (size_t)n;
    }
    p->start = 0;
    return 0;
}

static int watch(struct vl_reply_pipe *p)
{
    return sd_event_source_set_io_events(p->io, p->len > 0 ? EPOLLOUT : 0);
}

static void say_gone(struct vl_reply_pipe *p)
{
    p->broken = true;
    (void)sd_event_source_set_enabled(p->io, SD_EVENT_OFF); /* cannot fail for a source that exists */
    p->gone(p->user);
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *user)
{
    struct vl_reply_pipe *p = user;
    (void)s;
    (void)fd;
    if (revents & (EPOLLERR | EPOLLHUP) || flush(p) < 0 || (p->finished && p->len == 0)) {
        say_gone(p);
        return 0;
    }
    return watch(p);
}

int vl_reply_pipe_new(struct vl_reply_pipe **ret, sd_event *event, size_t cap, void (*gone)(void *user),
                      void *user, int *ret_read_fd)
{
    int end[2];
    if (pipe2(end, O_CLOEXEC) < 0)
        return -errno;
    vl_autofd reader = end[0];
    vl_auto(vl_reply_pipe) p = calloc(1, sizeof(*p));
    if (!p) {
        (void)close(end[1]); /* nothing was written */
        return -ENOMEM;
    }
    *p = (struct vl_reply_pipe){.fd = end[1], .cap = cap, .gone = gone, .user = user};
    if (fcntl(p->fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    int r = sd_event_add_io(event, &p->io, p->fd, 0, on_io, p);
    if (r < 0)
        return r;
    *ret = vl_steal(p);
    *ret_read_fd = vl_steal_fd(&reader);
    return 0;
}

static int make_room(struct vl_reply_pipe *p, size_t len)
{
    if (p->start + p->len + len <= p->room)
        return 0;
    if (p->start > 0)
        memmove(p->buf, p->buf + p->start, p->len);
    p->start = 0;
    size_t room = p->room ? p->room : 4096;
    while (room < p->len + len)
        room *= 2;
    if (room == p->room)
        return 0;
    char *buf = realloc(p->buf, room);
    if (!buf)
        return -ENOMEM;
    p->buf = buf;
    p->room = room;
    return 0;
}

int vl_reply_pipe_write(struct vl_reply_pipe *p, const char *data, size_t len, bool last)
{
    if (p->broken || p->finished)
        return -EPIPE;
    if (len == 0)
        return 0;
    if (!last && p->len + len > p->cap)
        return VL_REPLY_PIPE_FULL;
    int r = make_room(p, len);
    if (r < 0)
        return r;
    memcpy(p->buf + p->start + p->len, data, len);
    p->len += len;
    r = flush(p); /* a reader who has gone is heard of by on_io, which may unref: not from here */
    return r < 0 ? r : watch(p);
}

bool vl_reply_pipe_finish(struct vl_reply_pipe *p)
{
    p->finished = true;
    return p->broken || p->len == 0;
}

struct vl_reply_pipe *vl_reply_pipe_unref(struct vl_reply_pipe *p)
{
    if (!p)
        return NULL;
    (void)sd_event_source_disable_unref(p->io);
    (void)close(p->fd); /* non-blocking pipe: nothing to learn */
    free(p->buf);
    free(p);
    return NULL;
}
