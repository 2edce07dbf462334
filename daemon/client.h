/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_CLIENT_H
#define VL_DAEMON_CLIENT_H
#include "base/cleanup.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

/* One connection on the bus that holds something here: queries, or streams that go with it. Counted: each
 * holder has a reference; the last unref stops tracking the name. Main thread. */
struct vl_clients; /* all of them; main thread, daemon lifetime */
struct vl_client {
    struct vl_clients *all; /* outlives it */
    struct vl_client *next;
    char *name; /* unique name, ":1.42" */
    uid_t uid;
    uint32_t refs, n_queries; /* n_queries: running ones, for the limit */
    bool gone;
    sd_bus_track *track;
};

/* gone is called from the event loop when a client has left the bus. system: ask the bus for uids; on a
 * session bus all callers are who we are. */
int vl_clients_new(struct vl_clients **ret, sd_bus *bus, bool system,
                   void (*gone)(void *user, struct vl_client *c), void *user);
struct vl_clients *vl_clients_unref(struct vl_clients *c); /* after all its clients */
VL_DEFINE_AUTO(vl_clients)

/* The sender of m: a reference. -ENOMEM, and what the bus says. */
int vl_client_of(struct vl_clients *all, sd_bus_message *m, struct vl_client **ret);
struct vl_client *vl_client_ref(struct vl_client *c);
struct vl_client *vl_client_unref(struct vl_client *c);
VL_DEFINE_AUTO(vl_client)
/* The sender's uid, without holding anything. */
int vl_client_uid(const struct vl_clients *all, sd_bus_message *m, uid_t *ret);
#endif
