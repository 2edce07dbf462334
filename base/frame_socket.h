/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_FRAME_SOCKET_H
#define VL_BASE_FRAME_SOCKET_H
#include "base/error.h"
#include "base/frame.h"

/* One parser of frames from outside: ingest children and push clients speak the same SOCK_SEQPACKET protocol,
 * one packet per frame with one memfd by SCM_RIGHTS. The receiver checks seals (SHRINK, GROW, WRITE), size,
 * geometry and rate before it maps. All calls on one thread per side (the daemon's main thread), except that
 * the last unref of a mapped frame may come from any thread. Everything is non-blocking.
 *
 * In the machine's byte order: both sides are on one machine. Planes that the format lacks have stride and
 * offset 0; reserved is 0. pts_ns is 0 .. VL_FRAME_MAX_PTS_NS and rises from packet to packet. */
enum { VL_FRAME_PACKET_VERSION = 1 };
#define VL_FRAME_PACKET_MAGIC UINT32_C(0x50464c56) /* "VLFP" */
struct vl_frame_packet {
    uint32_t magic, version, format, matrix, range, flags, width, height, stride[3], reserved;
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
/* 8,192 a side, 33.2 MP, 128 MiB, 4 in flight, 1,000 a second: on by default. */
extern const struct vl_frame_limits vl_frame_limits_default;

/* What receive checks of a packet that promises file_size bytes, without looking at seals, rate or order; a
 * pure function. -EPROTO: not a packet of ours, or it contradicts itself; -EMSGSIZE: over a limit. */
int vl_frame_packet_check(const struct vl_frame_packet *p, const struct vl_frame_limits *max,
                          uint64_t file_size, struct vl_error *err);

/* The child's own account, each second and at the end, without a memfd: how a named error travels, and how a
 * stream that is gated or waits for credit is told from one that has stalled. code: negative errno; reason:
 * one short word of interface "StateReason" (device-gone limit auth refused timeout decode end-of-file), then
 * ": " and a sentence. The receiver sees reason terminated and free of control bytes. n_in: pictures that the
 * source had, wanted or not. */
enum vl_ingest_state {
    VL_INGEST_CONNECTING = 1,
    VL_INGEST_RUNNING,
    VL_INGEST_WAITING_CREDIT, /* or for the time at which its next frame is due */
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
/* Takes over fd, on success alone. -EPROTOTYPE: not a SOCK_SEQPACKET socket of AF_UNIX. -EINVAL: limits of 0,
 * more than 64 in flight. */
int vl_frame_socket_new(struct vl_frame_socket **ret, int fd, const struct vl_frame_limits *max);
int vl_frame_socket_fd(const struct vl_frame_socket *s); /* for poll; borrowed */

/* Sender. send fills in magic and version and does not take over memfd, which is sealed. VL_FRAME_NO_CREDIT:
 * wait for credit; -EAGAIN: the socket is full, wait until it can be written; -EPIPE: the other side has
 * gone.
 */
int vl_frame_socket_send(struct vl_frame_socket *s, const struct vl_frame_packet *p, int memfd);
int vl_frame_socket_send_status(struct vl_frame_socket *s, const struct vl_frame_status *st);
/* One packet of credit: *ret, which send counts on from now. Or VL_FRAME_EMPTY, VL_FRAME_CLOSED. */
int vl_frame_socket_read_credit(struct vl_frame_socket *s, struct vl_frame_credit *ret);

/* Receiver. 0: a frame in *ret, the caller's; VL_FRAME_STATUS: *ret_status; VL_FRAME_EMPTY; VL_FRAME_CLOSED.
 * Negative: the peer broke the protocol, err names how; drop the connection. -EPROTO; -EMSGSIZE: over a
 * limit; -EPERM: not a memfd, or not sealed; -ENOMEM: it could not be mapped. What the peer sent is closed in
 * every case. A frame that finds the pool full (its readers hold max_in_flight) is dropped and its credit
 * given back; the next one carries VL_FRAME_GAP if the dropped one did. wall_ns is replaced by our clock when
 * it is more than a second ahead or a minute behind. */
int vl_frame_socket_receive(struct vl_frame_socket *s, struct vl_frame **ret,
                            struct vl_frame_status *ret_status, struct vl_error *err);
/* Never blocks: what the socket does not take now goes with the next grant, receive or release. -EINVAL: more
 * than max_in_flight would be granted and not used. A peer that has gone is no error here. */
int vl_frame_socket_grant(struct vl_frame_socket *s, const struct vl_frame_credit *c);
/* From now on every last unref of one of its frames grants one credit by itself, on the thread of that unref
 * (a file: the model's pace). */
void vl_frame_socket_grant_on_release(struct vl_frame_socket *s, int on);
uint64_t vl_frame_socket_dropped(const struct vl_frame_socket *s); /* frames that found the pool full */
/* Shuts the connection down; frames that are still held stay readable. Returns NULL. */
struct vl_frame_socket *vl_frame_socket_unref(struct vl_frame_socket *s);
VL_DEFINE_AUTO(vl_frame_socket)
#endif
