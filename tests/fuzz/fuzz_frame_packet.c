/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Packets of a hostile peer, through a real socket: any bytes, any number of descriptors, any size and any
 * seals of the file behind them. Input: who reads and how many descriptors, seals, size of the file (2
 * bytes), then a packet; of what is accepted every pixel is read, and nothing may stay open. The same bytes
 * as a header alone meet files of any 64-bit size. */
#include "base/frame_socket.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum { HEAD = 4, MAX_FDS = 17 };
static const struct vl_frame_limits limits = {.max_side = 4096,
                                              .max_in_flight = 2,
                                              .max_per_second = 100000,
                                              .max_pixels = 1 << 22,
                                              .max_bytes = 1 << 24};

static int make_file(const uint8_t *head)
{
    size_t size = (size_t)head[2] << 8 | head[3];
    static uint8_t bytes[UINT16_MAX];
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    FUZZ_CHECK(fd >= 0);
    if (head[1] & 0x80) /* with a hole */
        FUZZ_CHECK(ftruncate(fd, (off_t)size) == 0);
    else
        FUZZ_CHECK(write(fd, bytes, size) == (ssize_t)size);
    FUZZ_CHECK(fcntl(fd, F_ADD_SEALS, head[1] & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)) == 0);
    return fd;
}

static void send_packet(int sock, const uint8_t *bytes, size_t len, int fd, size_t n_fds)
{
    union {
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec iov = {(void *)(uintptr_t)bytes, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n_fds) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        for (size_t i = 0; i < n_fds; i++)
            memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
    }
    (void)sendmsg(sock, &msg, MSG_NOSIGNAL); /* too long for the socket is as good as not sent */
}

/* Bytes of one row and rows of a plane, by the words of base/frame.h. */
static void touch(const struct vl_frame *f)
{
    volatile uint8_t sum = 0;
    for (int i = 0; i < 3; i++) {
        bool chroma = i > 0, pair = f->format == VL_PIXFMT_NV12;
        if (!f->plane[i])
            continue;
        uint32_t w = chroma ? (f->width + 1) / 2 * (pair ? 2 : 1) : f->width,
                 h = chroma ? (f->height + 1) / 2 : f->height;
        w *= f->format == VL_PIXFMT_RGB24 ? 3 : 1;
        for (uint32_t y = 0; y < h; y++)
            for (uint32_t x = 0; x < w; x++)
                sum = (uint8_t)(sum + f->plane[i][(size_t)y * f->stride[i] + x]);
    }
}

static void check_header(const uint8_t *data, size_t size)
{
    struct vl_frame_packet p;
    uint64_t file_size;
    if (size < sizeof(p) + sizeof(file_size))
        return;
    memcpy(&p, data, sizeof(p));
    memcpy(&file_size, data + sizeof(p), sizeof(file_size));
    struct vl_error err = {0};
    int r = vl_frame_packet_check(&p, &limits, file_size, &err);
    FUZZ_CHECK(r == 0 || (r < 0 && err.msg[0]));
    FUZZ_CHECK(r < 0 || (p.size <= file_size && p.width <= limits.max_side));
}

static void daemon_reads(struct vl_frame_socket *s)
{
    vl_auto(vl_frame) f = NULL;
    struct vl_frame_status st = {.state = 0};
    struct vl_error err = {0};
    FUZZ_CHECK(vl_frame_socket_grant(s, &(struct vl_frame_credit){.n = 1}) == 0);
    int r = vl_frame_socket_receive(s, &f, &st, &err);
    FUZZ_CHECK(r >= 0 || err.msg[0]);
    FUZZ_CHECK((r == 0) == (f != NULL));
    FUZZ_CHECK(r != VL_FRAME_STATUS || memchr(st.reason, 0, sizeof(st.reason)));
    if (f)
        touch(f);
}

static void child_reads(struct vl_frame_socket *s)
{
    struct vl_frame_credit c;
    int r = vl_frame_socket_read_credit(s, &c);
    FUZZ_CHECK(r != 0 || (c.gate <= VL_GATE_CHANGE && c.interval_ns >= 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t counts[] = {1, 0, 2, MAX_FDS};
    if (size < HEAD)
        return 0;
    check_header(data + HEAD, size - HEAD);
    int pair[2], fd = make_file(data);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    send_packet(pair[1], data + HEAD, size - HEAD, fd, counts[data[0] % 4]);
    vl_closep(&fd);
    vl_auto(vl_frame_socket) s = NULL;
    FUZZ_CHECK(vl_frame_socket_new(&s, pair[0], &limits) == 0);
    if (data[0] & 4)
        child_reads(s);
    else
        daemon_reads(s);
    int next = dup(pair[1]); /* the lowest free number has not moved: nothing of the packet stayed open */
    FUZZ_CHECK(next == fd);
    vl_closep(&next);
    vl_closep(&pair[1]);
    return 0;
}
