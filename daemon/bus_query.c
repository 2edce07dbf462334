/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * org.vlmd.Vision1.Query: a fallback vtable whose find callback compares the sender, and no enumerator.
 * Nobody else sees a query, in the ObjectManager or by guessing: for others its path does not exist. Main
 * thread.
 */
#include "daemon/bus.h"

#include "base/clock.h"

#include <string.h>

#define INTERFACE VL_BUS_NAME ".Query"

static int find(sd_bus *bus, const char *path, const char *interface, void *user, void **ret, sd_bus_error *e)
{
    struct vl_manager *m = user;
    sd_bus_message *call = sd_bus_get_current_message(bus);
    const char *sender = call ? sd_bus_message_get_sender(call) : NULL;
    (void)interface;
    for (struct vl_query *q = m->queries; sender && q; q = q->next)
        if (!strcmp(q->path, path) && !strcmp(q->client->name, sender)) {
            *ret = q;
            return 1;
        }
    if (!strcmp(path, VL_BUS_QUERY_PREFIX))
        return 0;
    return sd_bus_error_setf(e, SD_BUS_ERROR_UNKNOWN_OBJECT, "you have no question %.200s", path);
}

static int method_cancel(sd_bus_message *call, void *user, sd_bus_error *e)
{
    (void)e;
    vl_query_cancel(user);
    return sd_bus_reply_method_return(call, NULL);
}

static int get_state(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *user, sd_bus_error *e)
{
    static const char *const name[] = {
        [VL_QUERY_QUEUED] = "queued", [VL_QUERY_ANSWERING] = "answering", [VL_QUERY_FINISHED] = "finished"};
    const struct vl_query *q = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "s", name[q->state]);
}

static int get_position(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "u", vl_query_position(user));
}

static int get_uid(sd_bus *bus, const char *path, const char *interface, const char *property,
                   sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_query *q = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "u", (uint32_t)q->client->uid);
}

static uint64_t usec(int64_t ns)
{
    return ns > 0 ? (uint64_t)(ns / VL_NSEC_PER_USEC) : 0;
}

static int append_incomplete(sd_bus_message *m, uint32_t incomplete)
{
    uint32_t number[32], n = 0;
    for (uint32_t i = 0; i < 32; i++)
        if (incomplete >> i & 1)
            number[n++] = i + 1;
    int r = n ? sd_bus_message_open_container(m, 'e', "sv") : 0;
    if (n == 0 || r < 0 || (r = sd_bus_message_append(m, "s", "IncompleteImages")) < 0 ||
        (r = sd_bus_message_open_container(m, 'v', "au")) < 0 ||
        (r = sd_bus_message_append_array(m, 'u', number, n * sizeof(*number))) < 0 ||
        (r = sd_bus_message_close_container(m)) < 0)
        return r;
    return sd_bus_message_close_container(m);
}

int vl_bus_append_query_end(sd_bus_message *m, const struct vl_query_end *end, bool untrusted)
{
    int r = sd_bus_message_open_container(m, 'a', "{sv}");
    if (r >= 0)
        r = sd_bus_message_append(m, "{sv}{sv}{sv}{sv}{sv}", "PromptTokens", "u", end->stats.n_prompt,
                                  "OutputTokens", "u", end->stats.n_output, "PrunedTokens", "u",
                                  end->stats.n_pruned, "FirstTokenUSec", "t", usec(end->stats.first_token_ns),
                                  "TotalUSec", "t", usec(end->stats.total_ns));
    if (r >= 0 && end->error)
        r = sd_bus_message_append(m, "{sv}{sv}", "Error", "s", end->error, "Message", "s", end->message);
    if (r >= 0 && end->remembers)
        r = sd_bus_message_append(m, "{sv}", "RemembersSinceUSec", "t", (uint64_t)end->remembers_since_usec);
    if (r >= 0)
        r = append_incomplete(m, end->incomplete);
    if (r >= 0 && untrusted)
        r = sd_bus_message_append(m, "{sv}", "Untrusted", "b", 1);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

int vl_bus_query_emit_finished(struct vl_query *q, const struct vl_query_end *end)
{
    sd_bus_message *m = NULL;
    int r = sd_bus_message_new_signal(q->m->bus, &m, q->path, INTERFACE, "Finished");
    if (r >= 0)
        r = sd_bus_message_set_destination(m, q->client->name);
    if (r >= 0)
        r = sd_bus_message_append(m, "s", end->status);
    if (r >= 0)
        r = vl_bus_append_query_end(m, end, false);
    if (r >= 0)
        r = sd_bus_send(NULL, m, NULL);
    (void)sd_bus_message_unref(m);
    return r;
}

/* clang-format off */
static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Cancel", NULL, NULL, method_cancel, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_SIGNAL_WITH_ARGS("Finished", SD_BUS_ARGS("s", status, "a{sv}", stats), 0),
    SD_BUS_PROPERTY("State", "s", get_state, 0, 0),
    SD_BUS_PROPERTY("QueuePosition", "u", get_position, 0, 0),
    SD_BUS_PROPERTY("StartedByUID", "u", get_uid, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_VTABLE_END,
};
/* clang-format on */

int vl_bus_query_add(struct vl_manager *m, sd_bus_slot **ret)
{
    return sd_bus_add_fallback_vtable(m->bus, ret, VL_BUS_QUERY_PREFIX, INTERFACE, vtable, find, m);
}
