/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The one parser of frames from outside. A packet is copied before it is checked, and a file is mapped only
 * with seals that make its size and bytes final, so nothing that was checked can change afterwards. Credits:
 * the peer may send as many frames as were granted and not one more; the count is atomic because a grant can
 * come from the thread that lets go of a frame. The socket lives until its owner and all frames have let go
 * of it.
 */
#include "base/frame_socket.h"

#include "base/clock.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define STATUS_MAGIC UINT32_C(0x53464c56) /* "VLFS" */
#define CREDIT_MAGIC UINT32_C(0x43464c56) /* "VLFC" */
enum {
    MAX_IN_FLIGHT = 64,
    MAX_FDS = 253, /* SCM_MAX_FD: the kernel passes no more at once, so none is ever cut off unseen */
    MAX_STATUS_PER_SECOND = 200,
};

struct status_packet {
    uint32_t magic, version;
    struct vl_frame_status status;
};

struct credit_packet {
    uint32_t magic, version;
    struct vl_frame_credit credit;
};

/* Both sides must agree on these whatever compiled them. */
_Static_assert(sizeof(struct vl_frame_packet) == 104, "frame packet has padding");
_Static_assert(sizeof(struct status_packet) == 200, "status packet has padding");
_Static_assert(sizeof(struct credit_packet) == 24, "credit packet has padding");

struct slot {
    struct vl_frame frame;
    void *map;
    size_t map_size;
    atomic_int busy;
};

/* What came in one recvmsg; the descriptors are ours to close. */
struct message {
    union {
        uint32_t magic;
        struct vl_frame_packet frame;
        struct status_packet status;
        struct credit_packet credit;
        char bytes[256];
    };
    ssize_t len;
    int flags;
    int n_fds, fd[MAX_FDS];
};

/* At most `rate` events in any second, with a whole second's worth at once. */
struct bucket {
    double left;
    int64_t last_ns;
};

struct vl_frame_socket {
    int fd;
    atomic_int refs;
    struct vl_frame_limits max;
    /* receiver */
    atomic_uint granted; /* and not yet used by the peer */
    atomic_uint owed;    /* granted, but the socket was full */
    atomic_int on_release;
    struct vl_frame_credit wish; /* gate and interval that the socket was too full for; the owner's thread */
    struct bucket frames, statuses;
    int64_t last_pts_ns;
    uint32_t carried_flags; /* of a dropped frame */
    uint64_t n_dropped;
    /* sender */
    uint64_t credit;
    struct slot slot[]; /* [max.max_in_flight] */
};

const struct vl_frame_limits vl_frame_limits_default = {
    .max_side = 8192,
    .max_in_flight = 4,
    .max_per_second = 1000,
    .max_pixels = UINT64_C(33177600), /* 7680 x 4320 */
    .max_bytes = UINT64_C(128) << 20,
};

/* ------------------------------------------------------------------------------------------- both sides */

int vl_frame_socket_new(struct vl_frame_socket **ret, int fd, const struct vl_frame_limits *max)
{
    int type = 0, domain = 0;
    socklen_t len = sizeof(type);
    if (!max->max_side || !max->max_in_flight || max->max_in_flight > MAX_IN_FLIGHT || !max->max_per_second ||
        !max->max_pixels || !max->max_bytes)
        return -EINVAL;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return -errno;
    len = sizeof(domain);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
        return -errno;
    if (type != SOCK_SEQPACKET || domain != AF_UNIX)
        return -EPROTOTYPE;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    struct vl_frame_socket *s = calloc(1, sizeof(*s) + max->max_in_flight * sizeof(s->slot[0]));
    if (!s)
        return -ENOMEM;
    s->fd = fd;
    s->max = *max;
    s->last_pts_ns = -1;
    s->frames.left = max->max_per_second;
    s->statuses.left = MAX_STATUS_PER_SECOND;
    atomic_init(&s->refs, 1);
    *ret = s;
    return 0;
}

int vl_frame_socket_fd(const struct vl_frame_socket *s)
{
    return s->fd;
}

static void socket_put(struct vl_frame_socket *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    vl_closep(&s->fd);
    free(s);
}

struct vl_frame_socket *vl_frame_socket_unref(struct vl_frame_socket *s)
{
    if (!s)
        return NULL;
    /* Frames may hold the descriptor open for a while yet; the peer shall know now. */
    (void)shutdown(s->fd, SHUT_RDWR); /* fails when the peer has gone, which is as good */
    socket_put(s);
    return NULL;
}

static void close_fds(struct message *m)
{
    for (int i = 0; i < m->n_fds; i++)
        vl_closep(&m->fd[i]);
    m->n_fds = 0;
}

/* 0 with *m filled, VL_FRAME_EMPTY, VL_FRAME_CLOSED, or a negative errno. An empty packet reads like the end
 * of the connection and is taken for it. */
static int read_message(const struct vl_frame_socket *s, struct message *m)
{
    union {
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {m->bytes, sizeof(m->bytes)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    memset(m->bytes, 0, sizeof(m->bytes));
    m->n_fds = 0;
    /* ECONNRESET: the peer left without having read all of ours. It is told once, ahead of what the peer had
     * said before, its last status among it. */
    do
        m->len = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (m->len < 0 && (errno == EINTR || errno == ECONNRESET));
    if (m->len < 0)
        return errno == EAGAIN ? VL_FRAME_EMPTY : -errno;
    m->flags = msg.msg_flags;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (m->n_fds < MAX_FDS)
                m->fd[m->n_fds++] = fd;
            else
                vl_closep(&fd);
        }
    }
    if (m->len == 0) {
        close_fds(m);
        return VL_FRAME_CLOSED;
    }
    return 0;
}

static int send_bytes(const struct vl_frame_socket *s, const void *bytes, size_t len)
{
    ssize_t n;
    do
        n = send(s->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n >= 0 ? 0 : errno == ECONNRESET || errno == ENOTCONN ? -EPIPE : -errno;
}

/* ------------------------------------------------------------------------------------------- the sender */

int vl_frame_socket_send(struct vl_frame_socket *s, const struct vl_frame_packet *p, int memfd)
{
    if (s->credit == 0)
        return VL_FRAME_NO_CREDIT;
    struct vl_frame_packet packet = *p;
    packet.magic = VL_FRAME_PACKET_MAGIC;
    packet.version = VL_FRAME_PACKET_VERSION;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec iov = {&packet, sizeof(packet)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &memfd, sizeof(memfd));
    ssize_t n;
    do
        n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET || errno == ENOTCONN ? -EPIPE : -errno;
    s->credit--;
    return 0;
}

int vl_frame_socket_send_status(struct vl_frame_socket *s, const struct vl_frame_status *st)
{
    struct status_packet packet = {.magic = STATUS_MAGIC, .version = VL_FRAME_PACKET_VERSION, .status = *st};
    return send_bytes(s, &packet, sizeof(packet));
}

int vl_frame_socket_read_credit(struct vl_frame_socket *s, struct vl_frame_credit *ret)
{
    struct message m;
    int r = read_message(s, &m);
    if (r != 0)
        return r;
    bool fds = m.n_fds > 0;
    close_fds(&m);
    if (fds || m.len != sizeof(m.credit) || m.magic != CREDIT_MAGIC ||
        m.credit.version != VL_FRAME_PACKET_VERSION || m.credit.credit.gate > VL_GATE_CHANGE ||
        m.credit.credit.interval_ns < 0)
        return -EPROTO;
    s->credit += m.credit.credit.n;
    *ret = m.credit.credit;
    return 0;
}

/* ----------------------------------------------------------------------------------------- the receiver */

/* Bytes of one row and number of rows of each plane; rows 0: the format has no such plane. */
static void plane_shape(uint32_t format, uint64_t w, uint64_t h, uint64_t row[3], uint64_t rows[3])
{
    uint64_t half_w = (w + 1) / 2, half_h = (h + 1) / 2;
    memset(row, 0, 3 * sizeof(row[0]));
    memset(rows, 0, 3 * sizeof(rows[0]));
    row[0] = format == VL_PIXFMT_RGB24 ? 3 * w : w;
    rows[0] = h;
    if (format == VL_PIXFMT_NV12) {
        row[1] = 2 * half_w;
        rows[1] = half_h;
    } else if (format == VL_PIXFMT_I420) {
        row[1] = row[2] = half_w;
        rows[1] = rows[2] = half_h;
    }
}

static int check_planes(const struct vl_frame_packet *p, struct vl_error *err)
{
    uint64_t row[3], rows[3];
    plane_shape(p->format, p->width, p->height, row, rows);
    for (int i = 0; i < 3; i++) {
        uint64_t body, end;
        if (rows[i] == 0) {
            if (p->stride[i] || p->offset[i])
                return vl_error_set(err, -EPROTO, "frame packet: plane %d is described, format %u has none",
                                    i, p->format);
            continue;
        }
        if (p->stride[i] < row[i])
            return vl_error_set(err, -EPROTO, "frame packet: plane %d has stride %u, a row is %llu bytes", i,
                                p->stride[i], (unsigned long long)row[i]);
        if (__builtin_mul_overflow((uint64_t)p->stride[i], rows[i] - 1, &body) ||
            __builtin_add_overflow(body, row[i], &body) || __builtin_add_overflow(p->offset[i], body, &end) ||
            end > p->size)
            return vl_error_set(err, -EPROTO,
                                "frame packet: plane %d ends beyond the %llu bytes of the frame", i,
                                (unsigned long long)p->size);
    }
    return 0;
}

int vl_frame_packet_check(const struct vl_frame_packet *p, const struct vl_frame_limits *max,
                          uint64_t file_size, struct vl_error *err)
{
    if (p->magic != VL_FRAME_PACKET_MAGIC || p->version != VL_FRAME_PACKET_VERSION || p->reserved)
        return vl_error_set(err, -EPROTO, "frame packet: magic %08x, version %u, want %08x, %d", p->magic,
                            p->version, VL_FRAME_PACKET_MAGIC, VL_FRAME_PACKET_VERSION);
    if (p->format >= VL_PIXFMT_COUNT || p->matrix > 14 || p->range > VL_RANGE_FULL ||
        (p->flags & ~(uint32_t)(VL_FRAME_GAP | VL_FRAME_CORRUPT | VL_FRAME_END)))
        return vl_error_set(err, -EPROTO, "frame packet: unknown format %u, matrix %u, range %u or flags %x",
                            p->format, p->matrix, p->range, p->flags);
    if (p->width == 0 || p->height == 0)
        return vl_error_set(err, -EPROTO, "frame packet: picture of %ux%u", p->width, p->height);
    /* two 32-bit numbers: their product fits 64 bits */
    if (p->width > max->max_side || p->height > max->max_side ||
        (uint64_t)p->width * p->height > max->max_pixels)
        return vl_error_set(err, -EMSGSIZE, "picture of %ux%u is over the limit of %u a side, %llu pixels",
                            p->width, p->height, max->max_side, (unsigned long long)max->max_pixels);
    if (p->size > max->max_bytes || file_size > max->max_bytes)
        return vl_error_set(err, -EMSGSIZE, "frame of %llu bytes in a file of %llu is over the limit of %llu",
                            (unsigned long long)p->size, (unsigned long long)file_size,
                            (unsigned long long)max->max_bytes);
    if (p->size == 0 || p->size > file_size)
        return vl_error_set(err, -EPROTO, "frame packet: %llu bytes promised, the file has %llu",
                            (unsigned long long)p->size, (unsigned long long)file_size);
    if (p->pts_ns < 0 || p->pts_ns > VL_FRAME_MAX_PTS_NS)
        return vl_error_set(err, -EPROTO, "frame packet: a time of %lld ns", (long long)p->pts_ns);
    return check_planes(p, err);
}

/* Sealed for good, and all of it really there: a hole would be filled at our expense when it is read. */
static int check_file(int fd, const struct vl_frame_packet *p, const struct vl_frame_limits *max,
                      struct vl_error *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    int want = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    if (seals < 0 || (seals & want) != want)
        return vl_error_set(err, -EPERM, "frame: %s", seals < 0 ? "not a memfd" : "memfd is not sealed");
    struct stat st;
    if (fstat(fd, &st) < 0)
        return vl_error_set(err, -errno, "frame: fstat: %s", strerror(errno));
    int r = vl_frame_packet_check(p, max, (uint64_t)st.st_size, err);
    if (r < 0)
        return r;
    if ((uint64_t)st.st_blocks < (p->size + 511) / 512)
        return vl_error_set(err, -EPROTO, "frame: memfd has holes");
    return 0;
}

static bool bucket_take(struct bucket *b, double rate)
{
    int64_t now = vl_clock_monotonic_ns();
    if (b->last_ns)
        b->left += rate * (double)(now - b->last_ns) / 1e9;
    b->last_ns = now;
    if (b->left > rate)
        b->left = rate;
    if (b->left < 1)
        return false;
    b->left -= 1;
    return true;
}

/* Any thread. What the socket does not take stays owed. */
static int send_credit(struct vl_frame_socket *s, uint32_t gate, int64_t interval_ns)
{
    struct credit_packet packet = {.magic = CREDIT_MAGIC,
                                   .version = VL_FRAME_PACKET_VERSION,
                                   .credit = {.gate = gate, .interval_ns = interval_ns}};
    packet.credit.n = atomic_exchange(&s->owed, 0);
    if (packet.credit.n == 0 && gate == VL_GATE_KEEP && interval_ns == 0)
        return 0;
    int r = send_bytes(s, &packet, sizeof(packet));
    if (r < 0)
        atomic_fetch_add(&s->owed, packet.credit.n);
    return r;
}

/* The owner's thread: also what was wished and not yet said. */
static void send_wish(struct vl_frame_socket *s)
{
    if (send_credit(s, s->wish.gate, s->wish.interval_ns) == 0) {
        s->wish.gate = VL_GATE_KEEP;
        s->wish.interval_ns = 0;
    }
}

static void give_credit(struct vl_frame_socket *s)
{
    atomic_fetch_add(&s->granted, 1);
    atomic_fetch_add(&s->owed, 1);
    (void)send_credit(s, VL_GATE_KEEP, 0); /* if it did not go out it stays owed, or the peer has gone */
}

int vl_frame_socket_grant(struct vl_frame_socket *s, const struct vl_frame_credit *c)
{
    if (c->n > s->max.max_in_flight || c->n + atomic_load(&s->granted) > s->max.max_in_flight ||
        c->gate > VL_GATE_CHANGE || c->interval_ns < 0)
        return -EINVAL;
    atomic_fetch_add(&s->granted, c->n);
    atomic_fetch_add(&s->owed, c->n);
    if (c->gate != VL_GATE_KEEP)
        s->wish.gate = c->gate;
    if (c->interval_ns)
        s->wish.interval_ns = c->interval_ns;
    send_wish(s);
    return 0;
}

void vl_frame_socket_grant_on_release(struct vl_frame_socket *s, int on)
{
    atomic_store(&s->on_release, on != 0);
}

uint64_t vl_frame_socket_dropped(const struct vl_frame_socket *s)
{
    return s->n_dropped;
}

static void slot_release(struct vl_frame *f)
{
    struct vl_frame_socket *s = f->owner;
    struct slot *slot = (struct slot *)f; /* its first member */
    (void)munmap(slot->map, slot->map_size);
    atomic_store_explicit(&slot->busy, 0, memory_order_release);
    if (atomic_load(&s->on_release))
        give_credit(s);
    socket_put(s);
}

static struct slot *free_slot(struct vl_frame_socket *s)
{
    for (uint32_t i = 0; i < s->max.max_in_flight; i++)
        if (!atomic_load_explicit(&s->slot[i].busy, memory_order_acquire))
            return &s->slot[i];
    return NULL;
}

static int64_t plausible_wall(int64_t wall_ns)
{
    int64_t now = vl_clock_wall_ns(), ahead;
    if (__builtin_sub_overflow(wall_ns, now, &ahead) || ahead > VL_NSEC_PER_SEC ||
        ahead < -60 * VL_NSEC_PER_SEC)
        return now;
    return wall_ns;
}

static int map_frame(struct vl_frame_socket *s, struct slot *slot, const struct vl_frame_packet *p, int fd,
                     struct vl_error *err)
{
    /* Private, though nobody can write: before Linux 6.7 a shared mapping of a write-sealed file is EPERM. */
    void *map = mmap(NULL, p->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return vl_error_set(err, -ENOMEM, "frame of %llu bytes cannot be mapped: %s",
                            (unsigned long long)p->size, strerror(errno));
    (void)madvise(map, p->size, MADV_DONTDUMP); /* what a camera saw is not for core dumps; best effort */
    slot->map = map;
    slot->map_size = p->size;
    slot->frame = (struct vl_frame){
        .width = p->width,
        .height = p->height,
        .format = (enum vl_pixfmt)p->format,
        .matrix = (uint8_t)p->matrix,
        .range = (uint8_t)p->range,
        .flags = p->flags | s->carried_flags,
        .pts_ns = p->pts_ns,
        .wall_ns = plausible_wall(p->wall_ns),
        .seq = p->seq,
        .release = slot_release,
        .owner = s,
    };
    for (int i = 0; i < 3; i++) {
        slot->frame.stride[i] = p->stride[i];
        slot->frame.plane[i] = p->stride[i] ? (const uint8_t *)map + p->offset[i] : NULL;
    }
    atomic_init(&slot->frame.refs, 1);
    s->carried_flags = 0;
    return 0;
}

enum { FRAME_DROPPED = VL_FRAME_STATUS + 1 };

static int take_frame(struct vl_frame_socket *s, const struct message *m, struct vl_frame **ret,
                      struct vl_error *err)
{
    const struct vl_frame_packet *p = &m->frame;
    if (m->len != sizeof(*p) || m->n_fds != 1)
        return vl_error_set(err, -EPROTO, "frame packet of %zd bytes with %d descriptors, want %zu and 1",
                            m->len, m->n_fds, sizeof(*p));
    int r = check_file(m->fd[0], p, &s->max, err);
    if (r < 0)
        return r;
    if (p->pts_ns <= s->last_pts_ns)
        return vl_error_set(err, -EPROTO, "frame packet: time does not rise");
    /* Only this thread takes credit away, so what is there now stays there. */
    if (atomic_load(&s->granted) == 0)
        return vl_error_set(err, -EPROTO, "frame without credit");
    if (!bucket_take(&s->frames, s->max.max_per_second))
        return vl_error_set(err, -EMSGSIZE, "more than %u frames a second", s->max.max_per_second);
    struct slot *slot = free_slot(s);
    if (slot) {
        r = map_frame(s, slot, p, m->fd[0], err);
        if (r < 0)
            return r;
    }
    s->last_pts_ns = p->pts_ns;
    atomic_fetch_sub(&s->granted, 1);
    if (!slot) {
        s->n_dropped++;
        s->carried_flags |= p->flags & VL_FRAME_GAP;
        give_credit(s);
        return FRAME_DROPPED;
    }
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    atomic_store_explicit(&slot->busy, 1, memory_order_relaxed);
    *ret = &slot->frame;
    return 0;
}

static int take_status(struct vl_frame_socket *s, const struct message *m, struct vl_frame_status *ret,
                       struct vl_error *err)
{
    const struct vl_frame_status *st = &m->status.status;
    if (m->len != sizeof(m->status) || m->n_fds != 0 || m->status.version != VL_FRAME_PACKET_VERSION ||
        st->state < VL_INGEST_CONNECTING || st->state > VL_INGEST_FAILED || st->code > 0 || st->code < -4095)
        return vl_error_set(err, -EPROTO, "status packet of %zd bytes, %d descriptors, state %u, code %d",
                            m->len, m->n_fds, st->state, st->code);
    if (!bucket_take(&s->statuses, MAX_STATUS_PER_SECOND))
        return vl_error_set(err, -EMSGSIZE, "more than %d status packets a second", MAX_STATUS_PER_SECOND);
    *ret = *st;
    ret->reason[sizeof(ret->reason) - 1] = '\0';
    for (char *c = ret->reason; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?'; /* it will stand in logs and on terminals */
    return VL_FRAME_STATUS;
}

int vl_frame_socket_receive(struct vl_frame_socket *s, struct vl_frame **ret,
                            struct vl_frame_status *ret_status, struct vl_error *err)
{
    send_wish(s);
    /* A dropped frame costs the peer a credit, and every turn of the loop gives at most one back: the peer
     * would have to answer faster than we look, so the number of turns is bounded as well. */
    for (uint32_t i = 0; i <= s->max.max_in_flight; i++) {
        struct message m;
        int r = read_message(s, &m);
        if (r == -ENOTCONN || r == -EPIPE)
            return VL_FRAME_CLOSED;
        if (r != 0)
            return r < 0 ? vl_error_set(err, r, "frame socket: %s", strerror(-r)) : r;
        if (m.flags & (MSG_TRUNC | MSG_CTRUNC))
            r = vl_error_set(err, -EPROTO,
                             "packet is too long, or brings more descriptors than can be taken");
        else if (m.len < (ssize_t)sizeof(m.magic))
            r = vl_error_set(err, -EPROTO, "packet of %zd bytes", m.len);
        else if (m.magic == STATUS_MAGIC)
            r = take_status(s, &m, ret_status, err);
        else
            r = take_frame(s, &m, ret, err);
        close_fds(&m);
        if (r != FRAME_DROPPED)
            return r;
    }
    return VL_FRAME_EMPTY;
}
