/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* org.vlmd.Vision1.Model, one object a model that is offered. Main thread. */
#include "daemon/bus.h"

#include "daemon/bus_error.h"
#include "daemon/options.h"

#include <stdio.h>
#include <string.h>

#define INTERFACE VL_BUS_NAME ".Model"

static int method_load(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_daemon_model *d = user;
    int r = vl_options_read(call, NULL, 0, e);
    return vl_bus_named(e, r < 0 ? r : vl_daemon_model_answer_load(d, call, e));
}

/* What would end with it: 0 when nothing would, else the named error, with the names of the streams. */
static int check_unused(const struct vl_daemon_model *d, sd_bus_error *e)
{
    char streams[160] = "";
    unsigned n_streams = 0, n_queries = 0;
    for (const struct vl_stream *s = d->m->streams; s; s = s->next) {
        if (s->model != d || s->session == 0)
            continue;
        size_t n = strlen(streams);
        (void)snprintf(streams + n, sizeof(streams) - n, "%s%s", n_streams ? ", " : "", s->spec.name);
        n_streams++;
    }
    for (const struct vl_query *q = d->m->queries; q; q = q->next)
        n_queries += q->model == d && q->state != VL_QUERY_FINISHED;
    if (n_streams + n_queries == 0)
        return 0;
    return vl_bus_error_setf(
        e, VL_BUS_MODEL_IN_USE,
        "model '%s' has %u stream%s%s%s%s and %u question%s; end them, or unload with Force", d->config->name,
        n_streams, n_streams == 1 ? "" : "s", n_streams ? " (" : "", streams, n_streams ? ")" : "", n_queries,
        n_queries == 1 ? "" : "s");
}

static int method_unload(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_daemon_model *d = user;
    int force = 0;
    struct vl_option option[] = {{"Force", 'b', &force, false}};
    int r = vl_options_read(call, option, 1, e);
    if (r < 0 || (!force && (r = check_unused(d, e)) < 0))
        return r;
    return vl_bus_named(e, vl_daemon_model_unload(d, call));
}

static int get_text(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_daemon_model *d = user;
    const char *text = !strcmp(property, "Name")           ? d->config->name
                       : !strcmp(property, "Title")        ? d->info.model_name
                       : !strcmp(property, "Architecture") ? d->info.arch
                       : !strcmp(property, "Quantization") ? d->info.quantization
                       : !strcmp(property, "State")        ? vl_daemon_model_state_name(d->state)
                       : !strcmp(property, "StateReason")  ? vl_daemon_model_reason(d)
                                                           : d->error.msg;
    (void)bus, (void)path, (void)interface, (void)e;
    return sd_bus_message_append(reply, "s", text ? text : "");
}

static int get_context(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_daemon_model *d = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "u", d->info.context_tokens);
}

static int get_bytes(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "t", vl_daemon_model_bytes(user));
}

static int get_progress(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "d", vl_daemon_model_progress(user));
}

static int get_vision(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "b", (int)vl_daemon_model_sees(user));
}

int vl_bus_model_emit(struct vl_daemon_model *d)
{
    return sd_bus_emit_properties_changed(d->m->bus, d->path, INTERFACE, "State", "StateReason", "Error",
                                          "LoadProgress", "Title", "Architecture", "Quantization",
                                          "ContextLength", "ResidentBytes", "Vision", NULL);
}

/* clang-format off */
static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Load", SD_BUS_ARGS("a{sv}", options), SD_BUS_NO_RESULT, method_load,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Unload", SD_BUS_ARGS("a{sv}", options), SD_BUS_NO_RESULT, method_unload,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Name", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("State", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("StateReason", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("Error", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("LoadProgress", "d", get_progress, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("Title", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("Architecture", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("Quantization", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("ContextLength", "u", get_context, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("ResidentBytes", "t", get_bytes, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("Vision", "b", get_vision, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_VTABLE_END,
};
/* clang-format on */

int vl_bus_model_add(struct vl_daemon_model *d, sd_bus_slot **ret)
{
    return sd_bus_add_object_vtable(d->m->bus, ret, d->path, INTERFACE, vtable, d);
}
