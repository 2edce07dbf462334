/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_BUS_H
#define VL_DAEMON_BUS_H
#include "daemon/manager.h"
#include "daemon/model.h"
#include "daemon/query.h"
#include "daemon/stream.h"

#include <systemd/sd-bus.h>

/* One bus_<interface>.c each: handlers, then its vtable. Handlers do not ask who calls: access.c has a row
 * for each method and decided before. A slot holds the object on the bus; unref takes it off. All on the main
 * thread. */
int vl_bus_manager_add(struct vl_manager *m, sd_bus_slot **ret);
int vl_bus_stream_add(struct vl_stream *s, sd_bus_slot **ret);
int vl_bus_model_add(struct vl_daemon_model *d, sd_bus_slot **ret);
int vl_bus_captions_add(struct vl_stream *s, sd_bus_slot **ret);
int vl_bus_query_add(struct vl_manager *m,
                     sd_bus_slot **ret);            /* all queries; each visible to its caller alone */
int vl_bus_log_add(sd_bus *bus, sd_bus_slot **ret); /* org.freedesktop.LogControl1 */

/* A Configure of a stream or of its captions: its settings, with what read_changes makes of the call's
 * changes. */
typedef int (*vl_bus_read_fn)(sd_bus_message *call, struct vl_stream_spec *spec, sd_bus_error *e);
int vl_bus_configure_stream(struct vl_stream *s, sd_bus_message *call, vl_bus_read_fn read_changes,
                            sd_bus_error *e);

/* The announcements of changed properties, and the end of a query, to its caller alone. */
int vl_bus_manager_emit(struct vl_manager *m);
int vl_bus_model_emit(struct vl_daemon_model *d);
int vl_bus_stream_emit(struct vl_stream *s);
int vl_bus_captions_emit(struct vl_stream *s);
struct vl_query_end {
    const char *status;          /* ok cancelled deadline failed */
    const char *error, *message; /* NULL when ok */
    struct vl_turn_stats stats;
    bool remembers; /* NothingSeen: remembers_since_usec is said; 0 there: the stream remembers nothing */
    int64_t remembers_since_usec;
    uint32_t incomplete; /* bit i: image i + 1 broke off, and the answer is about what there was of it */
};
int vl_bus_query_emit_finished(struct vl_query *q, const struct vl_query_end *end);
int vl_bus_append_query_end(sd_bus_message *m, const struct vl_query_end *end, bool untrusted); /* an a{sv} */
#endif
