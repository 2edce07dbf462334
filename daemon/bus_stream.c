/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* org.vlmd.Vision1.Stream, one object a stream. Main thread. Trap: Remove frees the stream that the slot
 * names, so it replies first. */
#include "daemon/bus.h"

#include "base/clock.h"
#include "daemon/bus_error.h"
#include "daemon/chosen.h"

#include <string.h>

#define INTERFACE VL_BUS_NAME ".Stream"

static int method_remove(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_stream *s = user;
    int r = sd_bus_reply_method_return(call, NULL);
    (void)e;
    (void)vl_stream_unref(s);
    return r;
}

int vl_bus_configure_stream(struct vl_stream *s, sd_bus_message *call, vl_bus_read_fn read_changes,
                            sd_bus_error *e)
{
    struct vl_stream_spec spec;
    int r = vl_stream_spec_copy(&spec, &s->spec);
    if (r < 0)
        return vl_bus_named(e, r);
    r = read_changes(call, &spec, e);
    if (r >= 0)
        r = vl_stream_configure(s, &spec, e);
    vl_stream_spec_done(&spec);
    return vl_bus_named(e, r < 0 ? r : sd_bus_reply_method_return(call, NULL));
}

static int method_configure(sd_bus_message *call, void *user, sd_bus_error *e)
{
    return vl_bus_configure_stream(user, call, vl_stream_spec_read_changes, e);
}

static int method_get_configuration(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_stream *s = user;
    sd_bus_message *reply = NULL;
    int r = sd_bus_message_new_method_return(call, &reply);
    if (r >= 0)
        r = vl_stream_spec_append(reply, &s->spec);
    if (r >= 0)
        r = sd_bus_send(NULL, reply, NULL);
    (void)sd_bus_message_unref(reply);
    return vl_bus_named(e, r);
}

static int get_text(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    const char *text = !strcmp(property, "Name")       ? s->spec.name
                       : !strcmp(property, "State")    ? vl_stream_state_name(s->state)
                       : !strcmp(property, "Lifetime") ? (s->client ? "client" : "daemon")
                                                       : s->reason;
    (void)bus, (void)path, (void)interface, (void)e;
    return sd_bus_message_append(reply, "s", text);
}

struct number {
    const char *property;
    uint64_t value;
};

static uint64_t number_of(const struct number *n, const char *property)
{
    while (n->property && strcmp(n->property, property) != 0)
        n++;
    return n->value;
}

static int get_u32(sd_bus *bus, const char *path, const char *interface, const char *property,
                   sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    struct vl_ingest_stats in = {0};
    if (s->ingest)
        vl_ingest_get_stats(s->ingest, &in);
    const struct number n[] = {{"OwnerUID", s->uid},
                               {"TokensPerFrame", s->spec.tokens_per_frame},
                               {"WindowTokens", s->stats.window_tokens},
                               {"Width", s->width},
                               {"Height", s->height},
                               {"Reconnects", in.n_restarts},
                               {0}};
    (void)bus, (void)path, (void)interface, (void)e;
    return sd_bus_message_append(reply, "u", (uint32_t)number_of(n, property));
}

static uint64_t usec(int64_t ns)
{
    return ns > 0 ? (uint64_t)(ns / VL_NSEC_PER_USEC) : 0;
}

/* What holds: the one that was asked for, else the policy's own, which is known from the first frame on, or
 * the model's. */
static uint64_t window_usec(const struct vl_stream *s)
{
    const uint32_t own = s->model ? s->model->info.default_window_frames : 0;
    const uint32_t written = vl_chosen_window(s->spec.policy);
    if (s->spec.window_usec && !written)
        return s->spec.window_usec;
    return (written                 ? written
            : s->stats.window_limit ? s->stats.window_limit
                                    : own) *
           s->spec.sample_interval_usec;
}

static int get_u64(sd_bus *bus, const char *path, const char *interface, const char *property,
                   sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    const struct number n[] = {{"SampleIntervalUSec", s->spec.sample_interval_usec},
                               {"WindowUSec", window_usec(s)},
                               {"LagUSec", usec(s->stats.lag_ns)},
                               {"KVBytes", s->stats.kv_bytes},
                               {"RemembersSinceUSec", usec(s->stats.oldest_wall_ns)},
                               {0}};
    (void)bus, (void)path, (void)interface, (void)e;
    return sd_bus_message_append(reply, "t", number_of(n, property));
}

static int get_model(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "o", s->model ? s->model->path : "/");
}

static int get_work(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "a{st}", 3, "encode", usec(s->stats.encode_ns), "prefill",
                                 usec(s->stats.prefill_ns), "decode", usec(s->stats.decode_ns));
}

static int get_frames(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    struct vl_ingest_stats in = {0};
    if (s->ingest)
        vl_ingest_get_stats(s->ingest, &in);
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "a{st}", 4, "seen", s->stats.n_frames, "skipped",
                                 s->stats.n_skipped + vl_mailbox_dropped(s->mailbox), "gated", in.n_gated,
                                 "corrupt", in.n_corrupt);
}

static int get_tokens(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_stream *s = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "a{st}", 3, "visual", s->stats.n_visual_tokens, "text",
                                 s->stats.n_text_tokens, "dropped", s->stats.n_dropped_tokens);
}

int vl_bus_stream_emit(struct vl_stream *s)
{
    return sd_bus_emit_properties_changed(s->m->bus, s->path, INTERFACE, "State", "StateReason",
                                          "SampleIntervalUSec", "TokensPerFrame", "WindowUSec", NULL);
}

/* clang-format off */
static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Remove", NULL, NULL, method_remove, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Configure", SD_BUS_ARGS("a{sv}", changes), SD_BUS_NO_RESULT, method_configure,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("GetConfiguration", SD_BUS_NO_ARGS, SD_BUS_RESULT("a{sv}", configuration),
                            method_get_configuration, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Name", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("Lifetime", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("OwnerUID", "u", get_u32, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("Model", "o", get_model, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("State", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("StateReason", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("SampleIntervalUSec", "t", get_u64, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("TokensPerFrame", "u", get_u32, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("WindowUSec", "t", get_u64, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("WindowTokens", "u", get_u32, 0, 0),
    SD_BUS_PROPERTY("Width", "u", get_u32, 0, 0),
    SD_BUS_PROPERTY("Height", "u", get_u32, 0, 0),
    SD_BUS_PROPERTY("LagUSec", "t", get_u64, 0, 0),
    SD_BUS_PROPERTY("WorkUSec", "a{st}", get_work, 0, 0),
    SD_BUS_PROPERTY("Frames", "a{st}", get_frames, 0, 0),
    SD_BUS_PROPERTY("Tokens", "a{st}", get_tokens, 0, 0),
    SD_BUS_PROPERTY("KVBytes", "t", get_u64, 0, 0),
    SD_BUS_PROPERTY("RemembersSinceUSec", "t", get_u64, 0, 0),
    SD_BUS_PROPERTY("Reconnects", "u", get_u32, 0, 0),
    SD_BUS_VTABLE_END,
};
/* clang-format on */

int vl_bus_stream_add(struct vl_stream *s, sd_bus_slot **ret)
{
    return sd_bus_add_object_vtable(s->m->bus, ret, s->path, INTERFACE, vtable, s);
}
