/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The frame socket: what an honest sender gets, and every way a hostile one is refused. */
#include "base/frame_socket.h"
#include "tests/harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/clock.h"

enum { ALL_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

struct pair {
    struct vl_frame_socket *rx, *tx; /* receiver, sender */
    int raw;                         /* the sender's descriptor, borrowed from tx */
};

static const struct vl_frame_limits small = {.max_side = 256,
                                             .max_in_flight = 4,
                                             .max_per_second = 1000,
                                             .max_pixels = 128 * 128,
                                             .max_bytes = 1 << 20};

static void pair_open(struct pair *p, const struct vl_frame_limits *max)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd), 0);
    assert_int_equal(vl_frame_socket_new(&p->rx, fd[0], max), 0);
    assert_int_equal(vl_frame_socket_new(&p->tx, fd[1], max), 0);
    p->raw = fd[1];
}

static void pair_close(struct pair *p)
{
    p->tx = vl_frame_socket_unref(p->tx);
    p->rx = vl_frame_socket_unref(p->rx);
}

static int n_open_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    (void)closedir(d);
    return n;
}

static int memfd(size_t size, int seals, uint8_t fill)
{
    int fd = memfd_create("frame", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    uint8_t *bytes = malloc(size ? size : 1);
    assert_non_null(bytes);
    memset(bytes, fill, size);
    assert_int_equal(write(fd, bytes, size), size);
    free(bytes);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static struct vl_frame_packet rgb_packet(uint32_t w, uint32_t h, int64_t pts)
{
    return (struct vl_frame_packet){.magic = VL_FRAME_PACKET_MAGIC,
                                    .version = VL_FRAME_PACKET_VERSION,
                                    .format = VL_PIXFMT_RGB24,
                                    .width = w,
                                    .height = h,
                                    .stride = {3 * w},
                                    .size = (uint64_t)3 * w * h,
                                    .pts_ns = pts,
                                    .wall_ns = vl_clock_wall_ns()};
}

/* Sends bytes with fds as a peer who does as he likes. */
static void send_raw(int sock, const void *bytes, size_t len, const int *fd, size_t n_fds)
{
    char control[CMSG_SPACE(253 * sizeof(int))];
    memset(control, 0, sizeof(control));
    struct iovec iov = {(void *)(uintptr_t)bytes, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n_fds) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fd, n_fds * sizeof(int));
    }
    assert_int_equal(sendmsg(sock, &msg, MSG_NOSIGNAL), len);
}

static int receive(struct pair *p, struct vl_frame **f, struct vl_error *err)
{
    struct vl_frame_status st;
    return vl_frame_socket_receive(p->rx, f, &st, err);
}

static void grant(struct pair *p, uint32_t n)
{
    assert_int_equal(vl_frame_socket_grant(p->rx, &(struct vl_frame_credit){.n = n}), 0);
}

/* A well-formed frame but for what `spoil` did to it must give `want`, and leave no descriptor behind. */
static void refused(int want, struct vl_frame_packet p, int seals, size_t file_size)
{
    int before = n_open_fds();
    struct pair pair;
    pair_open(&pair, &small);
    grant(&pair, 1);
    int fd = memfd(file_size, seals, 1);
    send_raw(pair.raw, &p, sizeof(p), &fd, 1);
    vl_closep(&fd);
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    int r = receive(&pair, &f, &err);
    if (r != want)
        fail_msg("refused with %d (%s), want %d", r, err.msg, want);
    assert_null(f);
    assert_true(strlen(err.msg) > 0);
    pair_close(&pair);
    assert_int_equal(n_open_fds(), before);
}

static void test_delivers(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    struct vl_frame_packet k = rgb_packet(16, 8, 0);
    k.flags = VL_FRAME_GAP;
    k.seq = 7;
    k.matrix = VL_MATRIX_BT709;
    int fd = memfd(k.size, ALL_SEALS, 42);
    assert_int_equal(vl_frame_socket_send(p.tx, &k, fd), VL_FRAME_NO_CREDIT);
    assert_int_equal(vl_frame_socket_grant(
                         p.rx, &(struct vl_frame_credit){.n = 1, .gate = VL_GATE_CHANGE, .interval_ns = 5}),
                     0);
    struct vl_frame_credit c = {0};
    assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), 0);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.gate, VL_GATE_CHANGE);
    assert_int_equal(c.interval_ns, 5);
    assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), VL_FRAME_EMPTY);
    assert_int_equal(vl_frame_socket_send(p.tx, &k, fd), 0);
    assert_int_equal(vl_frame_socket_send(p.tx, &k, fd), VL_FRAME_NO_CREDIT);
    vl_closep(&fd);
    vl_auto(vl_frame) f = NULL;
    struct vl_error err = {0};
    assert_int_equal(receive(&p, &f, &err), 0);
    assert_int_equal(f->width, 16);
    assert_int_equal(f->height, 8);
    assert_int_equal(f->seq, 7);
    assert_int_equal(f->flags, VL_FRAME_GAP);
    assert_int_equal(f->matrix, VL_MATRIX_BT709);
    assert_int_equal(f->plane[0][f->stride[0] * 7 + 47], 42);
    assert_null(f->plane[1]);
    assert_int_equal(receive(&p, &f, &err), VL_FRAME_EMPTY);
    p.tx = vl_frame_socket_unref(p.tx);
    assert_int_equal(receive(&p, &f, &err), VL_FRAME_CLOSED);
    pair_close(&p);
    assert_int_equal(f->plane[0][0], 42); /* outlives its socket */
}

static void test_yuv_planes(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    grant(&p, 2);
    struct vl_frame_credit c;
    assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), 0);
    /* 5x3: chroma is 3x2. The last row of the last plane may end with its bytes, not with its stride. */
    struct vl_frame_packet k = {.format = VL_PIXFMT_NV12,
                                .width = 5,
                                .height = 3,
                                .stride = {8, 8},
                                .offset = {0, 24},
                                .size = 24 + 8 + 6,
                                .pts_ns = 1};
    int fd = memfd(k.size, ALL_SEALS, 3);
    assert_int_equal(vl_frame_socket_send(p.tx, &k, fd), 0);
    vl_closep(&fd);
    k = (struct vl_frame_packet){.format = VL_PIXFMT_I420,
                                 .width = 5,
                                 .height = 3,
                                 .stride = {5, 3, 3},
                                 .offset = {0, 15, 21},
                                 .size = 27,
                                 .pts_ns = 2};
    fd = memfd(k.size, ALL_SEALS, 4);
    assert_int_equal(vl_frame_socket_send(p.tx, &k, fd), 0);
    vl_closep(&fd);
    vl_auto(vl_frame) a = NULL, *b = NULL;
    struct vl_error err = {0};
    assert_int_equal(receive(&p, &a, &err), 0);
    assert_int_equal(receive(&p, &b, &err), 0);
    assert_int_equal(a->plane[1][8 + 5], 3);
    assert_null(a->plane[2]);
    assert_int_equal(b->plane[2][5], 4);
    b = vl_frame_unref(b);
    pair_close(&p);
}

static void test_refuses_files(void **state)
{
    (void)state;
    struct vl_frame_packet k = rgb_packet(16, 16, 0);
    refused(-EPERM, k, 0, k.size);
    refused(-EPERM, k, F_SEAL_SHRINK | F_SEAL_GROW, k.size);
    refused(-EPERM, k, F_SEAL_WRITE | F_SEAL_GROW, k.size);
    refused(-EPERM, k, F_SEAL_WRITE | F_SEAL_SHRINK, k.size);
    refused(-EPERM, k, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE, k.size);
    refused(-EPROTO, k, ALL_SEALS, k.size - 1);
    refused(-EPROTO, k, ALL_SEALS, 0);
    refused(-EMSGSIZE, k, ALL_SEALS, (1 << 20) + 1);
}

static void test_refuses_geometry(void **state)
{
    (void)state;
    struct vl_frame_packet k = rgb_packet(16, 16, 0);
    const struct vl_frame_packet good = k;
#define SPOILT(want, change)                                                                                 \
    do {                                                                                                     \
        k = good;                                                                                            \
        change;                                                                                              \
        refused(want, k, ALL_SEALS, 16 * 16 * 3);                                                            \
    } while (0)
    SPOILT(-EPROTO, k.magic++);
    SPOILT(-EPROTO, k.version = 2);
    SPOILT(-EPROTO, k.reserved = 1);
    SPOILT(-EPROTO, k.format = VL_PIXFMT_COUNT);
    SPOILT(-EPROTO, k.format = UINT32_MAX);
    SPOILT(-EPROTO, k.matrix = 15);
    SPOILT(-EPROTO, k.range = 2);
    SPOILT(-EPROTO, k.flags = 1u << 3);
    SPOILT(-EPROTO, k.width = 0);
    SPOILT(-EPROTO, k.height = 0);
    SPOILT(-EMSGSIZE, k.width = 257);
    SPOILT(-EMSGSIZE, k.height = UINT32_MAX);
    SPOILT(-EMSGSIZE, (k.width = 256, k.height = 256)); /* each side is fine, the area is not */
    SPOILT(-EPROTO, k.stride[0] = 47);
    SPOILT(-EPROTO, k.stride[0] = 0);
    SPOILT(-EPROTO, k.stride[0] = 49);
    SPOILT(-EPROTO, k.stride[0] = UINT32_MAX);
    SPOILT(-EPROTO, k.offset[0] = 1);
    SPOILT(-EPROTO, k.offset[0] = UINT64_MAX);
    SPOILT(-EPROTO, k.offset[0] = UINT64_MAX - 16 * 48 + 1); /* wraps to 0 */
    SPOILT(-EPROTO, k.stride[1] = 1);
    SPOILT(-EPROTO, k.offset[2] = 1);
    SPOILT(-EPROTO, k.size = 0);
    SPOILT(-EMSGSIZE, k.size = UINT64_MAX);
    SPOILT(-EPROTO, k.format = VL_PIXFMT_NV12); /* no second plane */
    SPOILT(-EPROTO, k.format = VL_PIXFMT_I420);
    SPOILT(-EPROTO, k.pts_ns = -1);
    SPOILT(-EPROTO, k.pts_ns = INT64_MIN);
    SPOILT(-EPROTO, k.pts_ns = VL_FRAME_MAX_PTS_NS + 1);
    SPOILT(-EPROTO, k.pts_ns = INT64_MAX);
#undef SPOILT
}

static void test_refuses_holes(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    grant(&p, 1);
    struct vl_frame_packet k = rgb_packet(64, 64, 0);
    int fd = memfd_create("hole", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, (off_t)k.size), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, ALL_SEALS), 0);
    send_raw(p.raw, &k, sizeof(k), &fd, 1);
    vl_closep(&fd);
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    assert_int_equal(receive(&p, &f, &err), -EPROTO);
    pair_close(&p);
}

static void test_refuses_descriptors(void **state)
{
    (void)state;
    struct vl_frame_packet k = rgb_packet(16, 16, 0);
    static const size_t counts[] = {0, 2, 17, 253};
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        struct pair p;
        pair_open(&p, &small);
        grant(&p, 1);
        int before = n_open_fds();
        int one = memfd(k.size, ALL_SEALS, 1), fd[253];
        for (size_t j = 0; j < counts[i]; j++)
            fd[j] = one;
        send_raw(p.raw, &k, sizeof(k), fd, counts[i]);
        vl_closep(&one);
        struct vl_frame *f = NULL;
        struct vl_error err = {0};
        assert_int_equal(receive(&p, &f, &err), -EPROTO);
        assert_int_equal(n_open_fds(), before);
        pair_close(&p);
    }
    /* Not a memfd at all. */
    struct pair p;
    pair_open(&p, &small);
    grant(&p, 1);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    send_raw(p.raw, &k, sizeof(k), &fd, 1);
    vl_closep(&fd);
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    assert_int_equal(receive(&p, &f, &err), -EPERM);
    pair_close(&p);
}

static void test_refuses_packets(void **state)
{
    (void)state;
    static const uint8_t noise[300] = {1, 2, 3};
    static const size_t lens[] = {1, 3, 4, 103, 105, 255, 256, 257, 300};
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        struct pair p;
        pair_open(&p, &small);
        grant(&p, 1);
        int before = n_open_fds(), fd = memfd(1, ALL_SEALS, 1);
        send_raw(p.raw, noise, lens[i], &fd, 1);
        vl_closep(&fd);
        struct vl_frame *f = NULL;
        struct vl_error err = {0};
        assert_int_equal(receive(&p, &f, &err), -EPROTO);
        assert_int_equal(n_open_fds(), before);
        pair_close(&p);
    }
    struct pair p; /* an empty packet ends the connection, and its descriptor is closed too */
    pair_open(&p, &small);
    int before = n_open_fds(), fd = memfd(1, ALL_SEALS, 1);
    send_raw(p.raw, noise, 0, &fd, 1);
    vl_closep(&fd);
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    assert_int_equal(receive(&p, &f, &err), VL_FRAME_CLOSED);
    assert_int_equal(n_open_fds(), before);
    pair_close(&p);
}

static int send_one(struct pair *p, int64_t pts, uint32_t flags)
{
    struct vl_frame_packet k = rgb_packet(8, 8, pts);
    k.flags = flags;
    int fd = memfd(k.size, ALL_SEALS, 9);
    send_raw(p->raw, &k, sizeof(k), &fd, 1);
    vl_closep(&fd);
    return 0;
}

static void test_refuses_order(void **state)
{
    (void)state;
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    struct pair p;
    pair_open(&p, &small); /* without credit */
    (void)send_one(&p, 1, 0);
    assert_int_equal(receive(&p, &f, &err), -EPROTO);
    pair_close(&p);
    pair_open(&p, &small); /* one more than was granted */
    grant(&p, 1);
    (void)send_one(&p, 1, 0);
    (void)send_one(&p, 2, 0);
    assert_int_equal(receive(&p, &f, &err), 0);
    f = vl_frame_unref(f);
    assert_int_equal(receive(&p, &f, &err), -EPROTO);
    pair_close(&p);
    pair_open(&p, &small); /* the same moment twice */
    grant(&p, 2);
    (void)send_one(&p, 5, 0);
    (void)send_one(&p, 5, 0);
    assert_int_equal(receive(&p, &f, &err), 0);
    f = vl_frame_unref(f);
    assert_int_equal(receive(&p, &f, &err), -EPROTO);
    pair_close(&p);
}

static void test_rate(void **state)
{
    (void)state;
    struct vl_frame_limits slow = small;
    slow.max_per_second = 10;
    struct pair p;
    pair_open(&p, &slow);
    int r = 0, n = 0;
    struct vl_error err = {0};
    for (; n < 40 && r == 0; n++) {
        struct vl_frame *f = NULL;
        grant(&p, 1);
        (void)send_one(&p, n, 0);
        r = receive(&p, &f, &err);
        (void)vl_frame_unref(f);
    }
    assert_int_equal(r, -EMSGSIZE);
    assert_true(n >= 11);
    pair_close(&p);
}

static void test_full_pool_drops(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    struct vl_frame *held[4] = {NULL}, *f = NULL;
    struct vl_error err = {0};
    struct vl_frame_credit c;
    for (int i = 0; i < 4; i++) {
        grant(&p, 1);
        assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), 0);
        (void)send_one(&p, i, 0);
        assert_int_equal(receive(&p, &held[i], &err), 0);
    }
    grant(&p, 1);
    assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), 0);
    (void)send_one(&p, 10, VL_FRAME_GAP);
    assert_int_equal(receive(&p, &f, &err), VL_FRAME_EMPTY);
    assert_int_equal(vl_frame_socket_dropped(p.rx), 1);
    assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), 0); /* given back */
    assert_int_equal(c.n, 1);
    held[2] = vl_frame_unref(held[2]);
    (void)send_one(&p, 11, 0);
    assert_int_equal(receive(&p, &f, &err), 0);
    assert_int_equal(f->flags, VL_FRAME_GAP);
    f = vl_frame_unref(f);
    pair_close(&p);
    for (int i = 0; i < 4; i++)
        held[i] = vl_frame_unref(held[i]);
}

static void test_grants(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    assert_int_equal(vl_frame_socket_grant(p.rx, &(struct vl_frame_credit){.n = 5}), -EINVAL);
    grant(&p, 4);
    assert_int_equal(vl_frame_socket_grant(p.rx, &(struct vl_frame_credit){.n = 1}), -EINVAL);
    assert_int_equal(vl_frame_socket_grant(p.rx, &(struct vl_frame_credit){.n = UINT32_MAX}), -EINVAL);
    assert_int_equal(vl_frame_socket_grant(p.rx, &(struct vl_frame_credit){.gate = 3}), -EINVAL);
    assert_int_equal(vl_frame_socket_grant(p.rx, &(struct vl_frame_credit){.interval_ns = -1}), -EINVAL);
    pair_close(&p);
}

static void *let_go(void *f)
{
    (void)vl_frame_unref(f);
    return NULL;
}

static void test_grant_on_release(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    vl_frame_socket_grant_on_release(p.rx, 1);
    grant(&p, 1);
    struct vl_frame_credit c;
    assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), 0);
    for (int i = 0; i < 100; i++) {
        struct vl_frame *f = NULL;
        struct vl_error err = {0};
        (void)send_one(&p, i, 0);
        assert_int_equal(receive(&p, &f, &err), 0);
        assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), VL_FRAME_EMPTY);
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, let_go, f), 0);
        assert_int_equal(pthread_join(t, NULL), 0);
        assert_int_equal(vl_frame_socket_read_credit(p.tx, &c), 0);
        assert_int_equal(c.n, 1);
    }
    /* The last frame goes after the socket, on another thread. */
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    (void)send_one(&p, 1000, 0);
    assert_int_equal(receive(&p, &f, &err), 0);
    pair_close(&p);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, let_go, f), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
}

static void test_owed_credit(void **state)
{
    (void)state;
    /* The peer reads nothing until the socket is full; no credit is lost over it. */
    struct pair p;
    pair_open(&p, &small);
    vl_frame_socket_grant_on_release(p.rx, 1);
    grant(&p, 1);
    uint64_t granted = 1;
    for (int i = 0; i < 2000; i++) {
        struct vl_frame *f = NULL;
        struct vl_error err = {0};
        (void)send_one(&p, i, 0);
        int r = receive(&p, &f, &err);
        if (r == -EMSGSIZE)
            break; /* the rate: as fast as this machine is */
        assert_int_equal(r, 0);
        (void)vl_frame_unref(f);
        granted++;
    }
    uint64_t seen = 0;
    for (int idle = 0; idle < 2;) {
        struct vl_frame_credit c;
        struct vl_frame *f = NULL;
        struct vl_error err = {0};
        if (vl_frame_socket_read_credit(p.tx, &c) == 0)
            seen += c.n;
        else if (idle++ == 0)
            (void)receive(&p, &f, &err); /* sends what is owed */
    }
    assert_int_equal(seen, granted);
    pair_close(&p);
}

static void test_status(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    struct vl_frame_status st = {.state = VL_INGEST_FAILED, .code = -EIO, .n_in = 3}, got = {0};
    memset(st.reason, 'x', sizeof(st.reason)); /* no end, and controls */
    st.reason[1] = '\n';
    st.reason[2] = '\x1b';
    assert_int_equal(vl_frame_socket_send_status(p.tx, &st), 0);
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    assert_int_equal(vl_frame_socket_receive(p.rx, &f, &got, &err), VL_FRAME_STATUS);
    assert_int_equal(got.code, -EIO);
    assert_int_equal(got.n_in, 3);
    assert_int_equal(strlen(got.reason), sizeof(got.reason) - 1);
    assert_memory_equal(got.reason, "x??x", 4);
    st = (struct vl_frame_status){.state = VL_INGEST_FAILED + 1};
    assert_int_equal(vl_frame_socket_send_status(p.tx, &st), 0);
    assert_int_equal(vl_frame_socket_receive(p.rx, &f, &got, &err), -EPROTO);
    st = (struct vl_frame_status){.state = VL_INGEST_RUNNING, .code = 1};
    assert_int_equal(vl_frame_socket_send_status(p.tx, &st), 0);
    assert_int_equal(vl_frame_socket_receive(p.rx, &f, &got, &err), -EPROTO);
    pair_close(&p);
}

/* A child that fails at once has not read its first credit; its reason must arrive all the same. */
static void test_last_words(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    grant(&p, 1);
    struct vl_frame_status st = {.state = VL_INGEST_FAILED, .code = -EIO}, got = {0};
    assert_int_equal(vl_frame_socket_send_status(p.tx, &st), 0);
    p.tx = vl_frame_socket_unref(p.tx);
    struct vl_frame *f = NULL;
    struct vl_error err = {0};
    assert_int_equal(vl_frame_socket_receive(p.rx, &f, &got, &err), VL_FRAME_STATUS);
    assert_int_equal(got.code, -EIO);
    assert_int_equal(vl_frame_socket_receive(p.rx, &f, &got, &err), VL_FRAME_CLOSED);
    pair_close(&p);
}

static void test_wall_clock(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, &small);
    static const int64_t wall[] = {INT64_MIN, 0, INT64_MAX};
    for (int i = 0; i < 3; i++) {
        grant(&p, 1);
        struct vl_frame_packet k = rgb_packet(8, 8, i);
        k.wall_ns = wall[i];
        int fd = memfd(k.size, ALL_SEALS, 9);
        send_raw(p.raw, &k, sizeof(k), &fd, 1);
        vl_closep(&fd);
        vl_auto(vl_frame) f = NULL;
        struct vl_error err = {0};
        const int64_t before = vl_clock_wall_ns();
        assert_int_equal(receive(&p, &f, &err), 0);
        assert_true(f->wall_ns >= before && f->wall_ns <= vl_clock_wall_ns()); /* as of now */
    }
    pair_close(&p);
}

static void test_new(void **state)
{
    (void)state;
    int fd[2];
    struct vl_frame_socket *s = NULL;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    assert_int_equal(vl_frame_socket_new(&s, fd[0], &small), -EPROTOTYPE);
    vl_closep(&fd[0]);
    vl_closep(&fd[1]);
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(vl_frame_socket_new(&s, fd[0], &small), -ENOTSOCK);
    vl_closep(&fd[0]);
    vl_closep(&fd[1]);
    assert_null(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new),
        cmocka_unit_test(test_delivers),
        cmocka_unit_test(test_yuv_planes),
        cmocka_unit_test(test_refuses_files),
        cmocka_unit_test(test_refuses_geometry),
        cmocka_unit_test(test_refuses_holes),
        cmocka_unit_test(test_refuses_descriptors),
        cmocka_unit_test(test_refuses_packets),
        cmocka_unit_test(test_refuses_order),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_full_pool_drops),
        cmocka_unit_test(test_grants),
        cmocka_unit_test(test_grant_on_release),
        cmocka_unit_test(test_owed_credit),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_wall_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
