/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The rights table and the way to a decision. A call that must wait is kept by reference; once allowed it is
 * put back on the read queue and goes its usual way from there, so nothing of a handler or its object is held
 * meanwhile: a stream that was removed is simply not found. Trap: the filter meets that message a second time
 * and knows it by its address, which the reference keeps from being used again.
 */
#include "daemon/access.h"

#include "base/log.h"
#include "daemon/bus_error.h"
#include "daemon/config.h"
#include "daemon/stream.h"

#include <grp.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ACTION_PREFIX "org.vlmd.vision1."
#define GROUP         "vlmd"
#define POLKIT        "org.freedesktop.PolicyKit1"
#define POLKIT_PATH   "/org/freedesktop/PolicyKit1/Authority"
#define BUS           "org.freedesktop.DBus"
/* Together at most 5 s until a decision without polkit; a person with a password may take longer. */
#define POLKIT_USEC      UINT64_C(4000000)
#define CREDENTIALS_USEC UINT64_C(1000000)
#define PERSON_USEC      UINT64_C(120000000)
enum { ALLOW_USER_INTERACTION = 1 }; /* a flag of CheckAuthorization */

enum action { FREE, OBSERVE, USE_MODEL, MANAGE_STREAMS, MANAGE_MODELS, ROOT };
static const struct {
    const char *id; /* NULL: polkit is not asked */
    bool group;     /* without polkit, the group may */
} actions[] = {
    [FREE] = {NULL, false},
    [OBSERVE] = {ACTION_PREFIX "observe", true},
    [USE_MODEL] = {ACTION_PREFIX "use-model", true},
    [MANAGE_STREAMS] = {ACTION_PREFIX "manage-streams", true},
    [MANAGE_MODELS] = {ACTION_PREFIX "manage-models", false},
    [ROOT] = {NULL, false},
};

/* Whose stream makes the caller its owner. */
enum owner { NOBODY, OF_PATH, OF_ARGUMENT /* the method's first: an array of paths, all of them */ };
struct rule {
    const char *interface, *method; /* NULL: each method of the interface */
    enum action action;
    enum owner owner;
};
static const struct rule rules[] = {
    /* Names, states and counters are for all. */
    {"org.freedesktop.DBus.Introspectable", NULL, FREE, NOBODY},
    {"org.freedesktop.DBus.Peer", NULL, FREE, NOBODY},
    {"org.freedesktop.DBus.ObjectManager", NULL, FREE, NOBODY},
    {"org.freedesktop.DBus.Properties", "Get", FREE, NOBODY},
    {"org.freedesktop.DBus.Properties", "GetAll", FREE, NOBODY},
    {VL_BUS_NAME ".Manager", "GetStream", FREE, NOBODY},
    /* Each finds the caller's own only. */
    {VL_BUS_NAME ".Manager", "GetQuery", FREE, NOBODY},
    {VL_BUS_NAME ".Query", NULL, FREE, NOBODY},

    {VL_BUS_NAME ".Manager", "Ask", OBSERVE, OF_ARGUMENT},
    {VL_BUS_NAME ".Manager", "AskText", OBSERVE, OF_ARGUMENT},
    {VL_BUS_NAME ".Captions", "Open", OBSERVE, OF_PATH},
    {VL_BUS_NAME ".Captions", "GetRecent", OBSERVE, OF_PATH},

    {VL_BUS_NAME ".Manager", "AddStream", MANAGE_STREAMS, NOBODY},
    {VL_BUS_NAME ".Stream", "Remove", MANAGE_STREAMS, OF_PATH},
    {VL_BUS_NAME ".Stream", "Configure", MANAGE_STREAMS, OF_PATH},
    {VL_BUS_NAME ".Stream", "GetConfiguration", MANAGE_STREAMS, OF_PATH},
    {VL_BUS_NAME ".Captions", "Configure", MANAGE_STREAMS, OF_PATH},

    {VL_BUS_NAME ".Manager", "AskImage", USE_MODEL, NOBODY},
    {VL_BUS_NAME ".Manager", "AskImageText", USE_MODEL, NOBODY},

    {VL_BUS_NAME ".Manager", "SetDefaultModel", MANAGE_MODELS, NOBODY},
    {VL_BUS_NAME ".Model", "Load", MANAGE_MODELS, NOBODY},
    {VL_BUS_NAME ".Model", "Unload", MANAGE_MODELS, NOBODY},
};

/* One call that waits. In the list from its first step until its end: refused, dropped, or met again. */
struct check {
    struct check *next;
    struct vl_access *a;
    const struct rule *rule;
    sd_bus_message *call;
    struct vl_client *client; /* charged for it */
    sd_bus_slot *slot;        /* of the answer that is to come */
    uint64_t cancel_id;       /* a person is being asked; 0: nobody is */
    bool allowed;             /* on its way back through the read queue */
};
struct vl_access {
    struct vl_manager *m;
    sd_bus_slot *filter;
    struct check *checks;
    uint64_t next_cancel_id;
    gid_t group;
    bool have_group;
    bool absent; /* polkit did not answer the last time, and the log says so */
};

static const struct rule *find_rule(sd_bus_message *call)
{
    static const struct rule unknown = {NULL, NULL, ROOT, NOBODY};
    const char *interface = sd_bus_message_get_interface(call), *method = sd_bus_message_get_member(call);
    for (size_t i = 0; interface && method && i < sizeof(rules) / sizeof(*rules); i++)
        if (!strcmp(rules[i].interface, interface) && (!rules[i].method || !strcmp(rules[i].method, method)))
            return &rules[i];
    return &unknown;
}

/* ---- owners ---- */

static bool owns(const struct vl_manager *m, const char *path, uid_t uid)
{
    const struct vl_stream *s = path ? vl_manager_stream_at(m, path) : NULL;
    return s && s->uid == uid;
}

static bool owns_arguments(const struct vl_manager *m, sd_bus_message *call, uid_t uid)
{
    const char *path;
    unsigned n = 0;
    bool all = true;
    int r = sd_bus_message_enter_container(call, 'a', "o");
    for (; r > 0 && (r = sd_bus_message_read(call, "o", &path)) > 0; n++)
        all = all && owns(m, path, uid);
    int rewound = sd_bus_message_rewind(call, 1); /* the handler reads it too */
    return r >= 0 && rewound >= 0 && n > 0 && all;
}

static bool is_owner(const struct vl_manager *m, const struct rule *rule, sd_bus_message *call, uid_t uid)
{
    switch (rule->owner) {
    case OF_PATH:
        return owns(m, sd_bus_message_get_path(call), uid);
    case OF_ARGUMENT:
        return owns_arguments(m, call, uid);
    default:
        return false;
    }
}

/* ---- a check's life ---- */

static void tell_polkit_to_stop(struct check *k)
{
    char id[32];
    (void)snprintf(id, sizeof(id), "vlmd%" PRIu64, k->cancel_id);
    (void)sd_bus_call_method_async(k->a->m->bus, NULL, POLKIT, POLKIT_PATH, POLKIT ".Authority",
                                   "CancelCheckAuthorization", NULL, NULL, "s",
                                   id); /* it would time out by itself */
}

static void drop(struct check *k)
{
    struct check **at = &k->a->checks;
    while (*at && *at != k)
        at = &(*at)->next;
    if (*at)
        *at = k->next;
    if (k->cancel_id && k->slot)
        tell_polkit_to_stop(k);
    (void)sd_bus_slot_unref(k->slot);
    vl_limits_give(k->a->m->limits, VL_LIMIT_CHECKS, k->client->uid);
    (void)vl_client_unref(k->client);
    (void)sd_bus_message_unref(k->call);
    free(k);
}

static void refuse(struct check *k, const char *name, const char *text)
{
    (void)sd_bus_reply_method_errorf(k->call, name, "%s", text); /* a caller who has gone needs no word */
    drop(k);
}

static void allow(struct check *k)
{
    k->allowed = true;
    if (sd_bus_enqueue_for_read(k->a->m->bus, k->call) < 0)
        refuse(k, VL_BUS_NO_MEMORY, "out of memory");
}

/* ---- without polkit ---- */

static bool in_groups(sd_bus_message *reply, gid_t group)
{
    const char *key;
    const void *gid = NULL;
    size_t size = 0;
    bool found = false;
    int r = sd_bus_message_enter_container(reply, 'a', "{sv}");
    while (r > 0 && (r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
        r = sd_bus_message_read(reply, "s", &key);
        if (r > 0 && !strcmp(key, "UnixGroupIDs")) {
            if ((r = sd_bus_message_enter_container(reply, 'v', "au")) > 0 &&
                (r = sd_bus_message_read_array(reply, 'u', &gid, &size)) >= 0)
                r = sd_bus_message_exit_container(reply);
        } else if (r > 0) {
            r = sd_bus_message_skip(reply, "v");
        }
        r = r < 0 ? r : sd_bus_message_exit_container(reply);
    }
    for (size_t i = 0; r >= 0 && i < size / sizeof(uint32_t); i++)
        found = found || ((const uint32_t *)gid)[i] == group;
    return found;
}

static int on_credentials(sd_bus_message *reply, void *user, sd_bus_error *e)
{
    struct check *k = user;
    (void)e;
    k->slot = sd_bus_slot_unref(k->slot);
    if (!sd_bus_message_is_method_error(reply, NULL) && in_groups(reply, k->a->group))
        allow(k);
    else
        refuse(k, SD_BUS_ERROR_ACCESS_DENIED,
               "polkit does not answer, and without it only root, the owner of a stream and members of the "
               "group " GROUP " may do that");
    return 0;
}

static void decide_without_polkit(struct check *k)
{
    if (!k->a->have_group || !actions[k->rule->action].group) {
        refuse(k, SD_BUS_ERROR_ACCESS_DENIED, "polkit does not answer, and without it only root may do that");
        return;
    }
    sd_bus_message *m = NULL;
    int r = sd_bus_message_new_method_call(k->a->m->bus, &m, BUS, "/org/freedesktop/DBus", BUS,
                                           "GetConnectionCredentials");
    if (r >= 0)
        r = sd_bus_message_append(m, "s", k->client->name);
    if (r >= 0)
        r = sd_bus_call_async(k->a->m->bus, &k->slot, m, on_credentials, k, CREDENTIALS_USEC);
    (void)sd_bus_message_unref(m);
    if (r < 0)
        refuse(k, VL_BUS_NO_MEMORY, strerror(-r));
}

/* ---- polkit ---- */

static int ask_polkit(struct check *k, bool person);

static void on_verdict(struct check *k, int authorized, int challenge)
{
    if (authorized)
        allow(k);
    else if (!challenge)
        refuse(k, SD_BUS_ERROR_ACCESS_DENIED, "polkit says that you may not do that");
    else if (k->cancel_id || sd_bus_message_get_allow_interactive_authorization(k->call) <= 0)
        refuse(k, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, "a password is needed to do that");
    else if (ask_polkit(k, true) < 0)
        refuse(k, VL_BUS_NO_MEMORY, "out of memory");
}

static void say_absent(struct vl_access *a, const sd_bus_error *e)
{
    if (!a->absent)
        vl_log(VL_LOG_WARNING, "access",
               "polkit does not answer, so root, owners of streams and the group %s decide: %s", GROUP,
               e && e->message ? e->message : "its reply is no reply");
    a->absent = true;
}

static int on_polkit(sd_bus_message *reply, void *user, sd_bus_error *e)
{
    struct check *k = user;
    int authorized, challenge;
    (void)e;
    k->slot = sd_bus_slot_unref(k->slot);
    if (!sd_bus_message_is_method_error(reply, NULL) &&
        sd_bus_message_enter_container(reply, 'r', "bba{ss}") > 0 &&
        sd_bus_message_read(reply, "bb", &authorized, &challenge) > 0) {
        k->a->absent = false;
        on_verdict(k, authorized, challenge);
        return 0;
    }
    if (k->cancel_id) { /* it did answer before: a password was needed */
        tell_polkit_to_stop(k);
        refuse(k, SD_BUS_ERROR_ACCESS_DENIED, "nobody gave the password in time");
    } else {
        say_absent(k->a, sd_bus_message_get_error(reply));
        decide_without_polkit(k);
    }
    return 0;
}

/* By the name on the bus, never by a process id: that one can be given to another while we ask. */
static int ask_polkit(struct check *k, bool person)
{
    char id[32] = "";
    sd_bus_message *m = NULL;
    sd_bus *bus = k->a->m->bus;
    if (person) {
        k->cancel_id = ++k->a->next_cancel_id;
        (void)snprintf(id, sizeof(id), "vlmd%" PRIu64, k->cancel_id);
    }
    int r = sd_bus_message_new_method_call(bus, &m, POLKIT, POLKIT_PATH, POLKIT ".Authority",
                                           "CheckAuthorization");
    if (r >= 0)
        r = sd_bus_message_append(m, "(sa{sv})s", "system-bus-name", 1, "name", "s", k->client->name,
                                  actions[k->rule->action].id);
    if (r >= 0)
        r = sd_bus_message_append(m, "a{ss}us", 0, person ? ALLOW_USER_INTERACTION : 0, id);
    if (r >= 0)
        r = sd_bus_call_async(bus, &k->slot, m, on_polkit, k, person ? PERSON_USEC : POLKIT_USEC);
    (void)sd_bus_message_unref(m);
    return r;
}

/* ---- the filter ---- */

/* 1: the call waits. */
static int hold(struct vl_access *a, const struct rule *rule, sd_bus_message *call, sd_bus_error *e)
{
    struct vl_error err = {0};
    vl_auto(vl_client) client = NULL;
    int r = vl_client_of(a->m->clients, call, &client);
    if (r < 0)
        return r;
    r = vl_limits_take(a->m->limits, VL_LIMIT_CHECKS, client->uid, 0, &err);
    if (r != 0)
        return sd_bus_error_set(e, r < 0 ? VL_BUS_NO_MEMORY : VL_BUS_BUSY, err.msg);
    struct check *k = calloc(1, sizeof(*k));
    if (!k) {
        vl_limits_give(a->m->limits, VL_LIMIT_CHECKS, client->uid);
        return -ENOMEM;
    }
    *k = (struct check){.next = a->checks,
                        .a = a,
                        .rule = rule,
                        .call = sd_bus_message_ref(call),
                        .client = vl_steal(client)};
    a->checks = k;
    r = ask_polkit(k, false);
    if (r < 0)
        drop(k);
    return r < 0 ? r : 1;
}

static bool was_allowed(struct vl_access *a, const sd_bus_message *call)
{
    for (struct check *k = a->checks; k; k = k->next)
        if (k->call == call && k->allowed) {
            drop(k);
            return true;
        }
    return false;
}

/* 0: the call goes on to its object. */
static int on_message(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_access *a = user;
    uid_t uid;
    if (sd_bus_message_is_method_call(call, NULL, NULL) <= 0)
        return 0;
    const struct rule *rule = find_rule(call);
    if (rule->action == FREE || was_allowed(a, call))
        return 0;
    int r = vl_client_uid(a->m->clients, call, &uid);
    if (r < 0)
        return vl_bus_named(e, r);
    if (uid == 0 || uid == getuid() || is_owner(a->m, rule, call, uid))
        return 0;
    if (!actions[rule->action].id)
        return sd_bus_error_set(e, SD_BUS_ERROR_ACCESS_DENIED,
                                "only root and the daemon's own user may do that");
    return vl_bus_named(e, hold(a, rule, call, e));
}

/* ---- life ---- */

int vl_access_new(struct vl_access **ret, struct vl_manager *m)
{
    vl_auto(vl_access) a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->m = m;
    const struct group *g = m->config->system ? getgrnam(GROUP) : NULL;
    if (g) {
        a->group = g->gr_gid;
        a->have_group = true;
    }
    int r = m->config->system ? sd_bus_add_filter(m->bus, &a->filter, on_message, a) : 0;
    if (r < 0)
        return r;
    *ret = vl_steal(a);
    return 0;
}

void vl_access_client_gone(struct vl_access *a, const struct vl_client *c)
{
    for (struct check *k = a->checks, *next; k; k = next) {
        next = k->next;
        if (k->client == c)
            drop(k);
    }
}

struct vl_access *vl_access_unref(struct vl_access *a)
{
    if (!a)
        return NULL;
    (void)sd_bus_slot_unref(a->filter);
    while (a->checks)
        drop(a->checks);
    free(a);
    return NULL;
}
