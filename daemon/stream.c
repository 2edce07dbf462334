/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A stream from its source to its captions: the supervisor's frames go into the mailbox, the engine's events
 * come back here. Lives in the manager's list until it is removed. Trap: what ends a stream that is at its
 * end is the engine's event, not the source's: frames may still wait in between.
 */
#include "daemon/stream.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/bus.h"
#include "daemon/bus_error.h"
#include "daemon/chosen.h"
#include "daemon/config.h"
#include "daemon/model.h"

#include <stdio.h>
#include <string.h>

static const char *const state_names[VL_STREAM_STATE_COUNT] = {
    [VL_STREAM_CONNECTING] = "connecting", [VL_STREAM_RUNNING] = "running", [VL_STREAM_STALLED] = "stalled",
    [VL_STREAM_RETRYING] = "retrying",     [VL_STREAM_ENDED] = "ended",     [VL_STREAM_FAILED] = "failed",
};

const char *vl_stream_state_name(enum vl_stream_state s)
{
    return state_names[s];
}

static void set_state(struct vl_stream *s, enum vl_stream_state state, const char *reason)
{
    s->state = state;
    (void)snprintf(s->reason, sizeof(s->reason), "%s", reason);
    vl_manager_changed(s->m, s);
}

static void log_state(const struct vl_stream *s, const char *detail)
{
    struct vl_log_field field = {"VLMD_STREAM", s->spec.name};
    bool bad =
        s->state == VL_STREAM_FAILED || s->state == VL_STREAM_STALLED || s->state == VL_STREAM_RETRYING;
    vl_log_with(bad ? VL_LOG_WARNING : VL_LOG_INFO, "stream", &field, 1, "%s: %s%s%s%s%s", s->spec.name,
                state_names[s->state], s->reason[0] ? ", " : "", s->reason, detail[0] ? ": " : "", detail);
}

static void on_frame(void *user, struct vl_frame *f)
{
    struct vl_stream *s = user;
    s->width = f->width;
    s->height = f->height;
    (void)vl_mailbox_put(s->mailbox, f); /* one that was replaced is counted there */
}

static void on_phase(void *user, enum vl_ingest_phase phase, const char *reason, const char *detail)
{
    struct vl_stream *s = user;
    static const enum vl_stream_state state[VL_INGEST_PHASE_COUNT] = {
        [VL_INGEST_PHASE_CONNECTING] = VL_STREAM_CONNECTING, [VL_INGEST_PHASE_RUNNING] = VL_STREAM_RUNNING,
        [VL_INGEST_PHASE_STALLED] = VL_STREAM_STALLED,       [VL_INGEST_PHASE_RETRYING] = VL_STREAM_RETRYING,
        [VL_INGEST_PHASE_ENDED] = VL_STREAM_RUNNING,         [VL_INGEST_PHASE_FAILED] = VL_STREAM_FAILED,
    };
    if (s->state == VL_STREAM_FAILED)
        return; /* the model did: what happens to the source is of no interest now */
    if (phase == VL_INGEST_PHASE_ENDED) {
        vl_mailbox_end(s->mailbox, 0);
        return;
    }
    set_state(s, state[phase], reason);
    if (phase == VL_INGEST_PHASE_FAILED)
        vl_mailbox_end(s->mailbox, -EIO);
    if (phase != VL_INGEST_PHASE_CONNECTING)
        log_state(s, detail);
}

/* What the engine is to know of a specification; borrows from both. */
static int session_opts(const struct vl_stream_spec *spec, struct vl_chosen *chosen,
                        struct vl_session_opts *ret, struct vl_error *err)
{
    int r = vl_chosen_read(chosen, spec->reducer, spec->policy, vl_stream_spec_window_frames(spec), err);
    *ret = (struct vl_session_opts){
        .visual_budget = spec->tokens_per_frame,
        .captions = spec->captions,
        .instruction = spec->instruction,
        .sampling = VL_SAMPLING_GREEDY,
    };
    vl_chosen_apply(chosen, ret);
    return r;
}

static int open_session(struct vl_stream *s, struct vl_error *err)
{
    struct vl_chosen chosen;
    struct vl_session_opts o;
    int r = session_opts(&s->spec, &chosen, &o, err);
    if (r == 0)
        r = vl_engine_open_session(s->model->engine, &o, &s->session, err);
    vl_chosen_done(&chosen);
    return r < 0 ? r : vl_engine_watch(s->model->engine, s->session, s->mailbox);
}

static int open_ingest(struct vl_stream *s)
{
    struct vl_ingest_opts o = {
        .program = s->m->config->ingest_program,
        .uri = s->spec.uri,
        .fd = s->spec.fd,
        .interval_ns = (int64_t)s->spec.sample_interval_usec * VL_NSEC_PER_USEC,
        .gate = s->spec.gate,
        .restart = s->spec.uri != NULL, /* test: can be started again, a file's death is its own fault */
        .realtime = s->spec.realtime,
        .loop = s->spec.loop,
    };
    struct vl_ingest_events ev = {.frame = on_frame, .phase = on_phase, .user = s};
    return vl_ingest_new(&s->ingest, s->m->event, s->m->children, &o, &ev);
}

static int encode_path(struct vl_stream *s)
{
    return sd_bus_path_encode(VL_BUS_STREAM_PREFIX, s->spec.name, &s->path);
}

/* The parts that can fail, in an order in which the half-built rest can be unreffed. */
static int build(struct vl_stream *s, struct vl_error *err)
{
    bool model = s->model && s->model->engine;
    bool source = s->spec.uri || s->spec.fd >= 0; /* a configured file may not be there */
    int r = encode_path(s);
    if (r < 0 || (r = vl_captions_new(&s->captions, s->m->event, s->m->limits)) < 0 ||
        (r = vl_mailbox_new(&s->mailbox, s->spec.realtime ? 1 : VL_INGEST_FILE_CREDIT, NULL, NULL)) < 0)
        return r;
    if (model && source && ((r = open_session(s, err)) < 0 || (r = open_ingest(s)) < 0))
        return r;
    if (!model || !source) {
        s->state = VL_STREAM_FAILED;
        (void)snprintf(s->reason, sizeof(s->reason), "%s", model ? "device-gone" : "model");
    }
    if ((r = vl_bus_stream_add(s, &s->slot[0])) < 0 || (r = vl_bus_captions_add(s, &s->slot[1])) < 0)
        return r;
    return 0;
}

int vl_stream_new(struct vl_stream **ret, struct vl_manager *m, struct vl_daemon_model *model,
                  struct vl_stream_spec *spec, uid_t uid, struct vl_client *client, sd_bus_error *e)
{
    struct vl_error err = {0};
    struct vl_stream *s = NULL;
    int r = vl_limits_take(m->limits, VL_LIMIT_STREAMS, uid, 0, &err);
    if (r == 0 && !(s = calloc(1, sizeof(*s)))) {
        vl_limits_give(m->limits, VL_LIMIT_STREAMS, uid);
        r = -ENOMEM;
    }
    if (r != 0) {
        vl_stream_spec_done(spec);
        return r > 0 ? vl_bus_error_setf(e, VL_BUS_OVER_BUDGET, "%s", err.msg)
                     : vl_bus_error_from(e, r, &err);
    }
    *s = (struct vl_stream){.m = m, .next = m->streams, .model = model, .spec = *spec, .uid = uid};
    vl_stream_spec_init(spec);
    s->client = client ? vl_client_ref(client) : NULL;
    m->streams = s;
    if ((r = build(s, &err)) < 0) {
        (void)vl_stream_unref(s);
        return vl_bus_error_from(e, r, &err);
    }
    (void)sd_bus_emit_object_added(m->bus, s->path); /* who misses it can list the objects */
    *ret = s;
    return 0;
}

int vl_stream_configure(struct vl_stream *s, struct vl_stream_spec *spec, sd_bus_error *e)
{
    struct vl_chosen chosen;
    struct vl_session_opts o;
    struct vl_error err = {0};
    int r = session_opts(spec, &chosen, &o, &err);
    if (r == 0 && s->session)
        r = vl_engine_configure(s->model->engine, s->session, &o, &err);
    vl_chosen_done(&chosen);
    if (r < 0)
        return vl_bus_error_from(e, r, &err);
    struct vl_stream_spec old = s->spec;
    s->spec = *spec;
    s->spec.fd = old.fd; /* name and source stay: the ingest points at them */
    s->spec.uri = old.uri;
    s->spec.name = old.name;
    old.fd = -1;
    old.uri = spec->uri;
    old.name = spec->name;
    vl_closep(&spec->fd);
    vl_stream_spec_init(spec);
    vl_stream_spec_done(&old);
    if (s->ingest)
        vl_ingest_configure(s->ingest, (int64_t)s->spec.sample_interval_usec * VL_NSEC_PER_USEC,
                            s->spec.gate);
    vl_manager_changed(s->m, s);
    return 0;
}

void vl_stream_stop(struct vl_stream *s)
{
    s->ingest = vl_ingest_unref(s->ingest);
}

static void on_caption(struct vl_stream *s, const struct vl_event *ev)
{
    int64_t start = ev->wall_ns / VL_NSEC_PER_USEC, n = (ev->pts_end_ns - ev->pts_ns) / VL_NSEC_PER_USEC;
    struct vl_caption c = {
        .start_usec = start,
        .end_usec = start + (n > 0 ? n : 0),
        .pts_usec = ev->pts_ns / VL_NSEC_PER_USEC,
        .text = ev->text,
    };
    if (vl_captions_add(s->captions, &c) < 0) {
        struct vl_log_field field = {"VLMD_STREAM", s->spec.name};
        vl_log_with(VL_LOG_WARNING, "stream", &field, 1, "%s: a caption is lost: out of memory",
                    s->spec.name);
    }
}

static void on_end(struct vl_stream *s, const struct vl_event *ev)
{
    if (s->state == VL_STREAM_FAILED) {
        vl_captions_end(s->captions, "failed");
        return;
    }
    set_state(s, ev->error.code == 0 ? VL_STREAM_ENDED : VL_STREAM_FAILED,
              ev->error.code == 0 ? "end-of-file" : "decode");
    log_state(s, ev->error.msg);
    vl_captions_end(s->captions, state_names[s->state]);
}

static void fail(struct vl_stream *s, const char *why)
{
    vl_stream_stop(s);
    set_state(s, VL_STREAM_FAILED, "model");
    log_state(s, why);
    vl_captions_end(s->captions, "failed");
}

void vl_stream_model_gone(struct vl_stream *s, const char *why)
{
    s->session = 0;
    fail(s, why);
}

void vl_stream_event(struct vl_stream *s, const struct vl_event *ev)
{
    switch (ev->type) {
    case VL_EVENT_CAPTION_DONE:
        s->stats = ev->session_stats;
        if (ev->len > 0)
            on_caption(s, ev);
        break;
    case VL_EVENT_FRAME_SEEN:
        s->stats = ev->session_stats;
        break;
    case VL_EVENT_ENDED:
        s->stats = ev->session_stats;
        on_end(s, ev);
        break;
    case VL_EVENT_FAILED:
        fail(s, ev->error.msg);
        break;
    default: /* pieces of a caption: the whole comes with CAPTION_DONE */
        break;
    }
}

struct vl_stream *vl_stream_unref(struct vl_stream *s)
{
    if (!s)
        return NULL;
    struct vl_stream **at = &s->m->streams;
    while (*at && *at != s)
        at = &(*at)->next;
    if (*at)
        *at = s->next;
    if (s->slot[1])
        (void)sd_bus_emit_object_removed(s->m->bus, s->path); /* who misses it gets UnknownObject */
    for (size_t i = 0; i < sizeof(s->slot) / sizeof(*s->slot); i++)
        (void)sd_bus_slot_unref(s->slot[i]);
    if (s->session)
        (void)vl_engine_close_session(s->model->engine, s->session); /* no such session: then it is closed */
    (void)vl_ingest_unref(s->ingest);
    (void)vl_mailbox_unref(s->mailbox);
    if (s->captions)
        vl_captions_end(s->captions, "removed");
    (void)vl_captions_unref(s->captions);
    vl_limits_give(s->m->limits, VL_LIMIT_STREAMS, s->uid);
    (void)vl_client_unref(s->client);
    vl_stream_spec_done(&s->spec);
    free(s->path);
    free(s);
    return NULL;
}
