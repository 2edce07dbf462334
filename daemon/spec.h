/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_SPEC_H
#define VL_DAEMON_SPEC_H
#include "base/error.h"
#include "base/frame_socket.h"

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

/* What a stream is asked to be, wherever it was asked: AddStream's dictionary or a .stream file. Owns its
 * strings and its descriptor. */
enum vl_lifetime { VL_LIFETIME_DAEMON, VL_LIFETIME_CLIENT };
struct vl_stream_spec {
    char *name, *uri, *path, *model, *instruction, *reducer, *policy; /* NULL: not said */
    int fd;                                                           /* -1: none */
    uint64_t sample_interval_usec;
    uint64_t window_usec;      /* 0: the model's own */
    uint32_t tokens_per_frame; /* 0: all */
    enum vl_gate gate;
    bool captions, loop, realtime;
    enum vl_lifetime lifetime;
};
void vl_stream_spec_init(struct vl_stream_spec *s); /* the defaults */
void vl_stream_spec_done(struct vl_stream_spec *s);
/* A copy of all but the descriptor. -ENOMEM: *ret is inited. */
int vl_stream_spec_copy(struct vl_stream_spec *ret, const struct vl_stream_spec *s);
bool vl_stream_name_valid(const char *name);                /* [A-Za-z0-9_-]{1,64} */
int vl_gate_from_name(const char *name, enum vl_gate *ret); /* -EINVAL */
/* Frames in the window that window_usec and sample_interval_usec ask for; 0: the model's own. */
uint32_t vl_stream_spec_window_frames(const struct vl_stream_spec *s);
/* Ranges and names; the source is checked by the two below. -EINVAL, err names key and range. */
int vl_stream_spec_check(const struct vl_stream_spec *s, struct vl_error *err);

/* The dictionary of AddStream into *s, which was inited; what Stream.Configure takes; what GetConfiguration
 * gives. Negative is what a method handler returns. */
int vl_stream_spec_read(sd_bus_message *m, struct vl_stream_spec *s, sd_bus_error *e);
int vl_stream_spec_read_changes(sd_bus_message *m, struct vl_stream_spec *s, sd_bus_error *e);
int vl_stream_spec_append(sd_bus_message *m, const struct vl_stream_spec *s);
#endif
