/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Connections that hold something. The uid comes from the bus, never from arguments. A short list: it has one
 * entry a connection with running questions or streams of its own, and those are capped (limits.c).
 */
#include "daemon/client.h"

#include <errno.h>
#include <string.h>

struct vl_clients {
    sd_bus *bus;
    bool system;
    struct vl_client *first;
    void (*gone)(void *user, struct vl_client *c);
    void *user;
};

int vl_clients_new(struct vl_clients **ret, sd_bus *bus, bool system,
                   void (*gone)(void *user, struct vl_client *c), void *user)
{
    struct vl_clients *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    *c = (struct vl_clients){.bus = bus, .system = system, .gone = gone, .user = user};
    *ret = c;
    return 0;
}

struct vl_clients *vl_clients_unref(struct vl_clients *c)
{
    free(c);
    return NULL;
}

/* On the system bus this asks the bus daemon and waits for it: a local round trip, well under the 10 ms that
 * the main thread may block. */
int vl_client_uid(const struct vl_clients *all, sd_bus_message *m, uid_t *ret)
{
    if (!all->system) {
        *ret = getuid();
        return 0;
    }
    sd_bus_creds *creds = NULL;
    int r = sd_bus_query_sender_creds(m, SD_BUS_CREDS_EUID, &creds);
    if (r >= 0)
        r = sd_bus_creds_get_euid(creds, ret);
    (void)sd_bus_creds_unref(creds);
    return r;
}

static int on_gone(sd_bus_track *track, void *user)
{
    struct vl_client *c = vl_client_ref(user);
    (void)track;
    c->gone = true;
    c->all->gone(c->all->user, c);
    (void)vl_client_unref(c);
    return 0;
}

int vl_client_of(struct vl_clients *all, sd_bus_message *m, struct vl_client **ret)
{
    const char *sender = sd_bus_message_get_sender(m);
    if (!sender)
        return -ENXIO;
    for (struct vl_client *c = all->first; c; c = c->next)
        if (!c->gone && !strcmp(c->name, sender)) {
            *ret = vl_client_ref(c);
            return 0;
        }
    struct vl_client *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    *c = (struct vl_client){.all = all, .next = all->first, .refs = 1, .name = strdup(sender)};
    all->first = c;
    int r = c->name ? vl_client_uid(all, m, &c->uid) : -ENOMEM;
    if (r >= 0)
        r = sd_bus_track_new(all->bus, &c->track, on_gone, c);
    if (r >= 0)
        r = sd_bus_track_add_name(c->track, sender);
    if (r < 0) {
        (void)vl_client_unref(c);
        return r;
    }
    *ret = c;
    return 0;
}

struct vl_client *vl_client_ref(struct vl_client *c)
{
    c->refs++;
    return c;
}

struct vl_client *vl_client_unref(struct vl_client *c)
{
    if (!c || --c->refs > 0)
        return NULL;
    struct vl_client **at = &c->all->first;
    while (*at && *at != c)
        at = &(*at)->next;
    if (*at)
        *at = c->next;
    (void)sd_bus_track_unref(c->track);
    free(c->name);
    free(c);
    return NULL;
}
