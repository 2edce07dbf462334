/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* org.vlmd.Vision1.Captions, on the object of each stream. Main thread. */
#include "daemon/bus.h"

#include "daemon/bus_error.h"
#include "daemon/options.h"

#include <string.h>

#define INTERFACE VL_BUS_NAME ".Captions"

static int method_open(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_stream *s = user;
    vl_auto(vl_client) client = NULL;
    vl_autofd reader = -1;
    const char *format;
    uint64_t since = 0;
    int follow = 1;
    struct vl_option option[] = {{"Since", 't', &since, false}, {"Follow", 'b', &follow, false}};
    struct vl_error err = {0};
    int r = sd_bus_message_read(call, "s", &format);
    if (r < 0 || (r = vl_options_read(call, option, 2, e)) < 0 ||
        (r = vl_client_of(s->m->clients, call, &client)) < 0)
        return vl_bus_named(e, r);
    bool over = s->state == VL_STREAM_ENDED || s->state == VL_STREAM_FAILED;
    r = vl_captions_open(s->captions, format, since > INT64_MAX ? INT64_MAX : (int64_t)since, follow && !over,
                         client->uid, &reader, &err);
    if (r > 0)
        return sd_bus_error_set(e, VL_BUS_BUSY, err.msg);
    return r < 0 ? vl_bus_error_from(e, r, &err)
                 : vl_bus_named(e, sd_bus_reply_method_return(call, "h", reader));
}

static int append_recent(sd_bus_message *reply, const struct vl_captions *captions, uint64_t since)
{
    struct vl_caption c;
    int r = sd_bus_message_open_container(reply, 'a', "(ttts)");
    for (uint64_t id = 0; r >= 0 && vl_captions_next(captions, &id, &c);)
        if ((uint64_t)c.start_usec >= since)
            r = sd_bus_message_append(reply, "(ttts)", c.id, (uint64_t)c.start_usec, (uint64_t)c.end_usec,
                                      c.text);
    return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int method_get_recent(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_stream *s = user;
    sd_bus_message *reply = NULL;
    uint64_t since;
    int r = sd_bus_message_read(call, "t", &since);
    if (r >= 0)
        r = sd_bus_message_new_method_return(call, &reply);
    if (r >= 0)
        r = append_recent(reply, s->captions, since);
    if (r >= 0)
        r = sd_bus_send(NULL, reply, NULL);
    (void)sd_bus_message_unref(reply);
    return vl_bus_named(e, r);
}

static int read_changes(sd_bus_message *call, struct vl_stream_spec *spec, sd_bus_error *e)
{
    const char *instruction = NULL;
    int enabled = spec->captions;
    struct vl_option option[] = {{"Enabled", 'b', &enabled, false},
                                 {"Instruction", 's', &instruction, false}};
    struct vl_error err = {0};
    int r = vl_options_read(call, option, 2, e);
    if (r < 0)
        return r;
    spec->captions = enabled;
    if (instruction) {
        char *copy = strdup(instruction);
        if (!copy)
            return -ENOMEM;
        free(spec->instruction);
        spec->instruction = copy;
    }
    r = vl_stream_spec_check(spec, &err);
    return r < 0 ? vl_bus_error_from(e, r, &err) : 0;
}

static int method_configure(sd_bus_message *call, void *user, sd_bus_error *e)
{
    return vl_bus_configure_stream(user, call, read_changes, e);
}

static int get_enabled(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "b", (int)s->spec.captions);
}

int vl_bus_captions_emit(struct vl_stream *s)
{
    return sd_bus_emit_properties_changed(s->m->bus, s->path, INTERFACE, "Enabled", NULL);
}

/* clang-format off */
static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Open", SD_BUS_ARGS("s", format, "a{sv}", options), SD_BUS_RESULT("h", data), method_open,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("GetRecent", SD_BUS_ARGS("t", since), SD_BUS_RESULT("a(ttts)", captions),
                            method_get_recent, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Configure", SD_BUS_ARGS("a{sv}", changes), SD_BUS_NO_RESULT, method_configure,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Enabled", "b", get_enabled, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_VTABLE_END,
};
/* clang-format on */

int vl_bus_captions_add(struct vl_stream *s, sd_bus_slot **ret)
{
    return sd_bus_add_object_vtable(s->m->bus, ret, s->path, INTERFACE, vtable, s);
}
