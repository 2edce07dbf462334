/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_FRAME_SOCKET_H
#define VL_BASE_FRAME_SOCKET_H
#include "base/error.h"
#include "base/frame.h"

/* One parser of frames from outside: ingest children and push clients speak the same SOCK_SEQPACKET protocol,
 * one packet per frame with one memfd by SCM_RIGHTS. The receiver checks seals (SHRINK, GROW, WRITE), size,
 * geometry and rate before it maps. All calls on one thread per side (the daemon's main thread), except that
 * the last unref of a mapped frame may come from any thread. Everything is non-blocking. */
struct vl_frame_packet {
    uint32_t magic, version, format, matrix, range, flags, width, height, stride[3];
    uint64_t offset[3], size, seq;
    int64_t pts_ns, wall_ns;
};

/* Flows back. Live: granted when a frame arrives (newest wins in the mailbox). File: when its last reference
 * goes, so the model sets the pace. interval_ns and gate let the daemon ask for fewer frames; 0 /
 * VL_GATE_KEEP: as before. */
enum vl_gate { VL_GATE_KEEP = 0, VL_GATE_NONE = 1, VL_GATE_CHANGE = 2 };
struct vl_frame_credit {
    uint32_t n, gate;
    int64_t interval_ns;
};
struct vl_frame_limits {
    uint32_t max_side, max_in_flight, max_per_second;
    uint64_t max_pixels, max_bytes;
};
/* 8,192 a side, 33.2 MP, 4 in flight: on by default. */
extern const struct vl_frame_limits vl_frame_limits_default;

/* The child's own account, each second and at the end, without a memfd: how a named error travels, and how a
 * stream that is gated or waits for credit is told from one that has stalled. code: negative errno; reason:
 * one short word of interface "StateReason" (device-gone limit auth refused timeout decode end-of-file), then
 * ": " and a sentence. */
enum vl_ingest_state {
    VL_INGEST_CONNECTING = 1,
    VL_INGEST_RUNNING,
    VL_INGEST_WAITING_CREDIT,
    VL_INGEST_ENDED,
    VL_INGEST_FAILED
};
struct vl_frame_status {
    uint32_t state;
    int32_t code;
    uint64_t n_in, n_gated, n_corrupt;
    char reason[160];
};

enum { VL_FRAME_NO_CREDIT = 1, VL_FRAME_EMPTY, VL_FRAME_CLOSED, VL_FRAME_STATUS };
struct vl_frame_socket; /* counted; each mapped frame holds one reference; frames come from its fixed pool */
int vl_frame_socket_new(struct vl_frame_socket **ret, int fd,
                        const struct vl_frame_limits *max); /* takes over fd */
int vl_frame_socket_fd(const struct vl_frame_socket *s);    /* for poll; borrowed */

/* Sender. send does not take over memfd. VL_FRAME_NO_CREDIT: wait for credit; -EPIPE: the other side has
 * gone. */
int vl_frame_socket_send(struct vl_frame_socket *s, const struct vl_frame_packet *p, int memfd);
int vl_frame_socket_send_status(struct vl_frame_socket *s, const struct vl_frame_status *st);
int vl_frame_socket_read_credit(struct vl_frame_socket *s,
                                struct vl_frame_credit *ret); /* or VL_FRAME_EMPTY, _CLOSED */

/* Receiver. 0: a frame in *ret, the caller's; VL_FRAME_STATUS: *ret_status; VL_FRAME_EMPTY; VL_FRAME_CLOSED.
 * Negative: the peer broke the protocol, err names how; drop the connection. */
int vl_frame_socket_receive(struct vl_frame_socket *s, struct vl_frame **ret,
                            struct vl_frame_status *ret_status, struct vl_error *err);
int vl_frame_socket_grant(struct vl_frame_socket *s, const struct vl_frame_credit *c);
/* From now on every last unref of one of its frames grants one credit by itself (a file: the model's pace).
 */
void vl_frame_socket_grant_on_release(struct vl_frame_socket *s, int on);
struct vl_frame_socket *vl_frame_socket_unref(struct vl_frame_socket *s);
VL_DEFINE_AUTO(vl_frame_socket)
#endif
