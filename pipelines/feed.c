/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * From a source's thread to the main thread. The trap: a callback that waits holds the source's thread, so
 * every wait here also waits for stop_fd. What both threads touch is atomic, an eventfd, or in the mailbox.
 */
#include "pipelines/feed.h"

#include "base/clock.h"
#include "base/mailbox.h"
#include "pipelines/gate.h"
#include "pipelines/sampler.h"

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define LATE_NS (2 * VL_NSEC_PER_SEC) /* a machine too slow for the media plays it slower, not ever later */

struct sealed {
    struct vl_frame frame; /* without planes: they are in the memfd */
    struct vl_frame_packet packet;
    int memfd;
};

struct vl_feed {
    bool realtime;
    int stop_fd, wake_fd, room_fd; /* room_fd: a semaphore, the frames the mailbox may still take */
    struct vl_mailbox *mailbox;
    atomic_ullong n_in, n_gated, n_corrupt;
    atomic_int waiting, gate;
    _Atomic int64_t interval_ns;
    /* the source's thread */
    struct vl_sampler sampler;
    struct vl_change_gate change;
    int64_t seen_interval_ns, media_ns, epoch_ns; /* epoch: monotonic time of media time 0; 0: not yet */
    uint32_t flags; /* of the frame that want asked for, and of what was gated since */
    uint64_t seq;
    struct vl_error error; /* written before the mailbox ends, read after */
};

static void wake(void *user)
{
    struct vl_feed *f = user;
    (void)eventfd_write(f->wake_fd, 1); /* cannot overflow: read to zero at every turn */
}

int vl_feed_new(struct vl_feed **ret, const struct vl_feed_opts *o)
{
    vl_auto(vl_feed) f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->realtime = o->realtime;
    f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->room_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    if (f->stop_fd < 0 || f->wake_fd < 0 || f->room_fd < 0)
        return -errno;
    atomic_init(&f->gate, (int)o->gate);
    atomic_init(&f->interval_ns, o->interval_ns);
    f->seen_interval_ns = o->interval_ns;
    vl_sampler_init(&f->sampler, o->interval_ns, o->step_ns, o->start_ns);
    vl_change_gate_init(&f->change);
    int r = vl_mailbox_new(&f->mailbox, 1, wake, f);
    if (r < 0)
        return r;
    *ret = vl_steal(f);
    return 0;
}

struct vl_feed *vl_feed_unref(struct vl_feed *f)
{
    if (!f)
        return NULL;
    f->mailbox = vl_mailbox_unref(f->mailbox);
    vl_closep(&f->stop_fd);
    vl_closep(&f->wake_fd);
    vl_closep(&f->room_fd);
    free(f);
    return NULL;
}

/* ------------------------------------------------------------------------------------- the source's thread
 */

static bool stopped(const struct vl_feed *f)
{
    struct pollfd p = {.fd = f->stop_fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

/* In real time, until the moment of media_ns has come. */
static void pace(struct vl_feed *f, int64_t media_ns)
{
    int64_t now = vl_clock_monotonic_ns();
    if (f->epoch_ns == 0 || now - (f->epoch_ns + media_ns) > LATE_NS)
        f->epoch_ns = now - media_ns;
    atomic_store(&f->waiting, 1);
    for (int64_t left; (left = f->epoch_ns + media_ns - now) > 0; now = vl_clock_monotonic_ns()) {
        struct pollfd p = {.fd = f->stop_fd, .events = POLLIN};
        struct timespec ts = {.tv_sec = left / VL_NSEC_PER_SEC, .tv_nsec = left % VL_NSEC_PER_SEC};
        if (ppoll(&p, 1, &ts, NULL) > 0)
            break;
    }
    atomic_store(&f->waiting, 0);
}

static int feed_want(void *user, int64_t pts_ns)
{
    struct vl_feed *f = user;
    atomic_fetch_add(&f->n_in, 1);
    if (stopped(f))
        return -ECANCELED;
    int64_t interval = atomic_load(&f->interval_ns);
    if (interval != f->seen_interval_ns) {
        vl_sampler_set_interval(&f->sampler, interval);
        f->seen_interval_ns = interval;
    }
    uint32_t flags = 0;
    int64_t media_ns = 0;
    if (vl_sampler_offer(&f->sampler, pts_ns, &media_ns, &flags) != 0)
        return 0;
    f->media_ns = media_ns;
    f->flags |= flags;
    if (f->realtime)
        pace(f, media_ns);
    return stopped(f) ? -ECANCELED : 1;
}

static void sealed_release(struct vl_frame *frame)
{
    struct sealed *s = frame->owner;
    vl_closep(&s->memfd);
    free(s);
}

static int write_all(int fd, const uint8_t *bytes, size_t len, uint64_t at)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, bytes, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        bytes += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

/* Bytes of a plane as it lies, from its first to the last byte of its last row. */
static size_t plane_bytes(const struct vl_frame *f, int plane)
{
    uint32_t w = f->width, h = f->height;
    if (plane > 0) {
        w = f->format == VL_PIXFMT_NV12 ? 2 * ((w + 1) / 2) : (w + 1) / 2;
        h = (h + 1) / 2;
    } else if (f->format == VL_PIXFMT_RGB24) {
        w = 3 * w;
    }
    return (size_t)f->stride[plane] * (h - 1) + w;
}

static int seal(struct vl_feed *feed, const struct vl_frame *f, struct sealed **ret)
{
    struct sealed *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->frame = (struct vl_frame){.release = sealed_release, .owner = s, .flags = f->flags | feed->flags};
    atomic_init(&s->frame.refs, 1);
    vl_auto(vl_frame) own = &s->frame;
    s->memfd = memfd_create("vlmd-frame", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->memfd < 0)
        return -errno;
    s->packet = (struct vl_frame_packet){.format = (uint32_t)f->format,
                                         .matrix = f->matrix,
                                         .range = f->range,
                                         .width = f->width,
                                         .height = f->height,
                                         .seq = feed->seq++,
                                         .pts_ns = feed->media_ns,
                                         .wall_ns = vl_clock_wall_ns()};
    for (int i = 0; i < 3 && f->plane[i]; i++) {
        size_t len = plane_bytes(f, i);
        s->packet.stride[i] = f->stride[i];
        s->packet.offset[i] = s->packet.size;
        int r = write_all(s->memfd, f->plane[i], len, s->packet.size);
        if (r < 0)
            return r;
        s->packet.size += len;
    }
    if (fcntl(s->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return -errno;
    *ret = s;
    (void)vl_steal(own);
    return 0;
}

/* Until the main thread has sent the frame before. False: being stopped. */
static bool wait_for_room(struct vl_feed *f)
{
    for (;;) {
        struct pollfd p[2] = {{.fd = f->stop_fd, .events = POLLIN}, {.fd = f->room_fd, .events = POLLIN}};
        (void)poll(p, 2, -1); /* a signal only makes it turn once more */
        if (p[0].revents)
            return false;
        eventfd_t one;
        if (eventfd_read(f->room_fd, &one) == 0)
            return true;
    }
}

static void feed_frame(void *user, struct vl_frame *frame)
{
    struct vl_feed *f = user;
    if (frame->flags & VL_FRAME_CORRUPT)
        atomic_fetch_add(&f->n_corrupt, 1);
    if (atomic_load(&f->gate) == VL_GATE_CHANGE) {
        if ((frame->flags | f->flags) & VL_FRAME_GAP)
            vl_change_gate_init(&f->change); /* what comes after a gap is news */
        if (!vl_change_gate_pass(&f->change, frame, f->media_ns)) {
            atomic_fetch_add(&f->n_gated, 1);
            return; /* f->flags stay for the next */
        }
    }
    struct sealed *s = NULL;
    if (seal(f, frame, &s) < 0) { /* no memory: as good as a frame that was skipped */
        f->flags |= VL_FRAME_GAP;
        return;
    }
    f->flags = 0;
    if (!f->realtime && !wait_for_room(f)) {
        (void)vl_frame_unref(&s->frame);
        return;
    }
    (void)vl_mailbox_put(f->mailbox, &s->frame); /* replaced: newest wins, as it should */
}

static void feed_end(void *user, int r, const struct vl_error *err)
{
    struct vl_feed *f = user;
    if (err)
        f->error = *err;
    f->error.code = r;
    vl_mailbox_end(f->mailbox, r);
}

struct vl_source_out vl_feed_out(struct vl_feed *f)
{
    return (struct vl_source_out){.user = f, .want = feed_want, .frame = feed_frame, .end = feed_end};
}

/* ------------------------------------------------------------------------------------------ the main thread
 */

int vl_feed_fd(const struct vl_feed *f)
{
    return f->wake_fd;
}

int vl_feed_next(struct vl_feed *f, struct vl_frame_packet *ret, int *ret_memfd, struct vl_error *ret_err)
{
    eventfd_t n;
    vl_auto(vl_frame) frame = NULL;
    int end = 0;
    (void)eventfd_read(f->wake_fd, &n); /* before the look, so that no wake is lost */
    int r = vl_mailbox_take(f->mailbox, &frame, &end);
    if (r == VL_MAILBOX_EMPTY)
        return VL_FEED_EMPTY;
    if (r == VL_MAILBOX_ENDED) {
        *ret_err = f->error;
        return VL_FEED_ENDED;
    }
    struct sealed *s = frame->owner;
    *ret = s->packet;
    ret->flags = frame->flags; /* the mailbox may have carried a gap over to it */
    *ret_memfd = vl_steal_fd(&s->memfd);
    return 0;
}

void vl_feed_sent(struct vl_feed *f)
{
    if (!f->realtime)
        (void)eventfd_write(f->room_fd, 1); /* once for each frame taken */
}

void vl_feed_configure(struct vl_feed *f, enum vl_gate gate, int64_t interval_ns)
{
    if (gate != VL_GATE_KEEP)
        atomic_store(&f->gate, (int)gate);
    if (interval_ns > 0)
        atomic_store(&f->interval_ns, interval_ns);
}

struct vl_feed_counts vl_feed_counts(const struct vl_feed *f)
{
    return (struct vl_feed_counts){.n_in = atomic_load(&f->n_in),
                                   .n_gated = atomic_load(&f->n_gated),
                                   .n_corrupt = atomic_load(&f->n_corrupt),
                                   .waiting = atomic_load(&f->waiting) != 0};
}

void vl_feed_stop(struct vl_feed *f)
{
    (void)eventfd_write(f->stop_fd, 1); /* a counter, far from full */
}
