/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The life of a model: an engine of its own is started, its events go to the streams and questions that use
 * it, and at the end it is told to stop and left to itself until its memory is back. The manager sees to the
 * rest. Trap: an event may end the engine it came from, so nothing of the engine is touched after an event
 * was handled.
 */
#include "daemon/model.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/bus.h"
#include "daemon/bus_error.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#define TICK_USEC UINT64_C(500000)
enum { MAX_EVENTS = 64 }; /* of an engine in one go, so that the bus is never kept waiting */

struct vl_leaving {
    struct vl_manager *m; /* borrowed, outlives it */
    struct vl_leaving *next;
    struct vl_engine *engine;
    sd_event_source *events;
    sd_bus_message *call; /* Unload, answered when it is gone; NULL: none */
};

static const char *const state_names[VL_DAEMON_MODEL_STATE_COUNT] = {
    [VL_DAEMON_MODEL_UNLOADED] = "unloaded",
    [VL_DAEMON_MODEL_LOADING] = "loading",
    [VL_DAEMON_MODEL_READY] = "ready",
    [VL_DAEMON_MODEL_FAILED] = "failed",
};

const char *vl_daemon_model_state_name(enum vl_daemon_model_state s)
{
    return state_names[s];
}

const char *vl_daemon_model_reason(const struct vl_daemon_model *d)
{
    if (d->state != VL_DAEMON_MODEL_FAILED)
        return "";
    switch (-d->error.code) {
    case ENOENT:
    case EACCES:
        return "missing";
    case EDQUOT:
        return "over-budget";
    case ENOMEM:
        return "no-memory";
    case ENOTSUP:
        return "unsupported";
    default:
        return "invalid";
    }
}

bool vl_daemon_model_sees(const struct vl_daemon_model *d)
{
    return d->state == VL_DAEMON_MODEL_READY ? d->info.tokens_per_frame > 0 : d->config->projector != NULL;
}

uint64_t vl_daemon_model_bytes(const struct vl_daemon_model *d)
{
    return d->info.weight_bytes + d->info.scratch_bytes + d->info.kv_pool_bytes;
}

double vl_daemon_model_progress(const struct vl_daemon_model *d)
{
    return d->state == VL_DAEMON_MODEL_READY ? 1 : d->engine ? vl_engine_load_progress(d->engine) : 0;
}

/* ---- an engine that leaves ---- */

struct vl_leaving *vl_leaving_unref(struct vl_leaving *l)
{
    if (!l)
        return NULL;
    struct vl_leaving **at = &l->m->leaving;
    while (*at && *at != l)
        at = &(*at)->next;
    if (*at)
        *at = l->next;
    (void)sd_event_source_disable_unref(l->events);
    (void)vl_engine_unref(l->engine);
    if (l->call)
        (void)sd_bus_reply_method_return(l->call, NULL); /* a caller who has gone needs no word */
    (void)sd_bus_message_unref(l->call);
    free(l);
    return NULL;
}

static int on_leaving(sd_event_source *s, int fd, uint32_t revents, void *user)
{
    struct vl_leaving *l = user;
    struct vl_event ev = {0};
    (void)s, (void)fd, (void)revents;
    for (int n = 0; n < MAX_EVENTS && ev.type != VL_EVENT_STOPPED; n++)
        if (vl_engine_next_event(l->engine, &ev) != 0)
            return 0;
    if (ev.type == VL_EVENT_STOPPED)
        (void)vl_leaving_unref(l);
    return 0;
}

/* Takes the engine away. Without memory for that the loop waits for it, which is the lesser evil. */
static void dismiss(struct vl_daemon_model *d, sd_bus_message *call)
{
    struct vl_leaving *l = calloc(1, sizeof(*l));
    struct vl_engine *engine = d->engine;
    d->engine = NULL;
    d->events = sd_event_source_disable_unref(d->events);
    d->ticks = sd_event_source_disable_unref(d->ticks);
    if (!l) {
        (void)vl_engine_unref(engine);
        if (call)
            (void)sd_bus_reply_method_return(call, NULL); /* a caller who has gone needs no word */
        return;
    }
    *l = (struct vl_leaving){.m = d->m, .next = d->m->leaving, .engine = engine};
    l->call = call ? sd_bus_message_ref(call) : NULL;
    d->m->leaving = l;
    vl_engine_stop(engine);
    if (sd_event_add_io(d->m->event, &l->events, vl_engine_event_fd(engine), EPOLLIN, on_leaving, l) < 0)
        (void)vl_leaving_unref(l);
}

/* ---- its state ---- */

static void set_state(struct vl_daemon_model *d, enum vl_daemon_model_state state)
{
    d->state = state;
    if (state != VL_DAEMON_MODEL_READY && state != VL_DAEMON_MODEL_LOADING)
        d->info = (struct vl_engine_info){0};
    vl_manager_model_changed(d->m, d);
}

/* name NULL: it can be loaded. */
static void answer_calls(struct vl_daemon_model *d, const char *name, const char *message)
{
    for (unsigned i = 0; i < d->n_calls; i++) {
        if (name) /* a caller who has gone needs no word */
            (void)sd_bus_reply_method_errorf(d->call[i], name, "%s", message);
        else
            (void)sd_bus_reply_method_return(d->call[i], NULL);
        d->call[i] = sd_bus_message_unref(d->call[i]);
    }
    d->n_calls = 0;
}

/* A bare name is searched in the model folders when the daemon starts, and stays bare when it is nowhere. */
static void explain(struct vl_daemon_model *d)
{
    const char *text = d->config->text, *projector = d->config->projector;
    if (d->error.code != -ENOENT || (strchr(text, '/') && (!projector || strchr(projector, '/'))))
        return;
    size_t n = strlen(d->error.msg);
    (void)snprintf(d->error.msg + n, sizeof(d->error.msg) - n,
                   "; when vlmd starts, names are looked for in %s/models and the other model folders",
                   d->m->config->dir);
}

static void fail(struct vl_daemon_model *d, const struct vl_error *why)
{
    struct vl_log_field field = {"VLMD_MODEL", d->config->name};
    const struct vl_error *err = &d->error;
    d->error = *why;
    explain(d);
    vl_log_with(VL_LOG_ERR, "model", &field, 1, "%s: %s", d->config->name, err->msg);
    if (d->engine)
        dismiss(d, NULL);
    set_state(d, VL_DAEMON_MODEL_FAILED);
    vl_manager_model_gone(d->m, d, "failed", vl_bus_model_error(err->code), err->msg);
    answer_calls(d, vl_bus_model_error(err->code), err->msg);
}

static void on_granted(struct vl_daemon_model *d)
{
    if (vl_engine_get_info(d->engine, &d->info) < 0)
        d->info = (struct vl_engine_info){0};
    d->granted = true;
    vl_manager_model_changed(d->m, d);
    answer_calls(d, NULL, NULL);
}

static void on_ready(struct vl_daemon_model *d)
{
    struct vl_log_field field = {"VLMD_MODEL", d->config->name};
    d->ticks = sd_event_source_disable_unref(d->ticks);
    on_granted(d);
    vl_log_with(VL_LOG_INFO, "model", &field, 1, "%s: %s, %s, %s, %s", d->config->name, d->info.model_name,
                d->info.arch, d->info.quantization, d->info.kernels);
    set_state(d, VL_DAEMON_MODEL_READY);
}

static void on_event(struct vl_daemon_model *d, const struct vl_event *ev)
{
    if (ev->turn != 0 || ev->session != 0)
        vl_manager_engine_event(d->m, d, ev);
    else if (ev->type == VL_EVENT_LOADING)
        on_granted(d);
    else if (ev->type == VL_EVENT_READY)
        on_ready(d);
    else if (ev->type == VL_EVENT_FAILED)
        fail(d, &ev->error);
}

static int on_engine(sd_event_source *s, int fd, uint32_t revents, void *user)
{
    struct vl_daemon_model *d = user;
    struct vl_event ev;
    (void)s, (void)fd, (void)revents;
    for (int n = 0; n < MAX_EVENTS && d->engine && vl_engine_next_event(d->engine, &ev) == 0; n++)
        on_event(d, &ev);
    return 0;
}

static int on_tick(sd_event_source *s, uint64_t usec, void *user)
{
    struct vl_daemon_model *d = user;
    double now = vl_daemon_model_progress(d);
    (void)usec;
    if (now != d->progress)
        vl_manager_model_changed(d->m, d);
    d->progress = now;
    int r = sd_event_source_set_time_relative(s, TICK_USEC);
    return r < 0 ? r : sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

/* ---- load and unload ---- */

static int start_engine(struct vl_daemon_model *d, struct vl_error *err)
{
    const struct vl_config *c = d->m->config;
    struct vl_engine_opts o = {
        .backend = c->backend,
        .model = d->config->text,
        .mmproj = d->config->projector,
        .budget = &d->m->budget,
        .context_tokens = d->config->context_tokens,
        .max_sessions = c->max_streams,
        .max_queue = c->max_queries,
        .n_workers = c->workers,
    };
    int r = vl_engine_new(&d->engine, &o, err);
    if (r < 0)
        return r;
    r = sd_event_add_io(d->m->event, &d->events, vl_engine_event_fd(d->engine), EPOLLIN, on_engine, d);
    if (r >= 0)
        r = sd_event_add_time_relative(d->m->event, &d->ticks, CLOCK_MONOTONIC, TICK_USEC, 100000, on_tick,
                                       d);
    return r < 0 ? vl_error_set(err, r, "cannot watch the engine: %s", strerror(-r)) : 0;
}

int vl_daemon_model_load(struct vl_daemon_model *d, struct vl_error *err)
{
    if (d->engine)
        return 0;
    struct vl_error why = {0};
    d->granted = false;
    d->progress = 0;
    d->error = (struct vl_error){0};
    int r = start_engine(d, &why);
    if (r < 0) {
        why.code = r;
        fail(d, &why);
        return vl_error_set(err, r, "%s", why.msg);
    }
    set_state(d, VL_DAEMON_MODEL_LOADING);
    return 0;
}

int vl_daemon_model_answer_load(struct vl_daemon_model *d, sd_bus_message *call, sd_bus_error *e)
{
    struct vl_error err = {0};
    if (d->m->state == VL_MANAGER_STOPPING)
        return sd_bus_error_set(e, VL_BUS_CANCELLED, "the daemon is stopping");
    int r = vl_daemon_model_load(d, &err);
    if (r < 0)
        return sd_bus_error_set(e, vl_bus_model_error(r), err.msg);
    if (d->granted)
        return sd_bus_reply_method_return(call, NULL);
    if (d->n_calls == VL_DAEMON_MODEL_MAX_CALLS)
        return sd_bus_error_set(e, VL_BUS_BUSY, "others wait for this model too; look at its State");
    d->call[d->n_calls++] = sd_bus_message_ref(call);
    return 1;
}

int vl_daemon_model_unload(struct vl_daemon_model *d, sd_bus_message *call)
{
    struct vl_log_field field = {"VLMD_MODEL", d->config->name};
    bool had_engine = d->engine != NULL;
    if (had_engine) {
        dismiss(d, call);
        vl_log_with(VL_LOG_INFO, "model", &field, 1, "%s: unloaded", d->config->name);
    }
    d->error = (struct vl_error){0};
    set_state(d, VL_DAEMON_MODEL_UNLOADED);
    vl_manager_model_gone(d->m, d, "cancelled", VL_BUS_CANCELLED, "the model was unloaded");
    answer_calls(d, VL_BUS_CANCELLED, "the model was unloaded");
    return had_engine || !call ? 1 : sd_bus_reply_method_return(call, NULL);
}

int vl_daemon_model_check(const struct vl_manager *m, const struct vl_daemon_model *d, bool eyes,
                          sd_bus_error *e)
{
    if (m->state == VL_MANAGER_STOPPING)
        return sd_bus_error_set(e, VL_BUS_CANCELLED, "the daemon is stopping");
    if (!d)
        return sd_bus_error_set(e, VL_BUS_MODEL_NOT_READY, m->no_model.msg);
    if (d->state == VL_DAEMON_MODEL_FAILED)
        return sd_bus_error_set(e, vl_bus_model_error(d->error.code), d->error.msg);
    if (eyes && !vl_daemon_model_sees(d))
        return vl_bus_error_setf(
            e, VL_BUS_NOT_SUPPORTED,
            "model '%s' has no eyes: streams and pictures need one with a projector (mmproj)",
            d->config->name);
    return 0;
}

int vl_daemon_model_want(struct vl_manager *m, struct vl_daemon_model *d, bool eyes, sd_bus_error *e)
{
    struct vl_error err = {0};
    int r = vl_daemon_model_check(m, d, eyes, e);
    if (r < 0)
        return r;
    r = vl_daemon_model_load(d, &err);
    return r < 0 ? sd_bus_error_set(e, vl_bus_model_error(r), err.msg) : 0;
}

/* ---- life ---- */

int vl_daemon_model_new(struct vl_daemon_model **ret, struct vl_manager *m,
                        const struct vl_model_config *config)
{
    struct vl_daemon_model *d = calloc(1, sizeof(*d)), **at = &m->models;
    if (!d)
        return -ENOMEM;
    *d = (struct vl_daemon_model){.m = m, .config = config};
    while (*at)
        at = &(*at)->next;
    *at = d;
    int r = sd_bus_path_encode(VL_BUS_MODEL_PREFIX, config->name, &d->path);
    if (r >= 0)
        r = vl_bus_model_add(d, &d->slot);
    if (r < 0) {
        (void)vl_daemon_model_unref(d);
        return r;
    }
    *ret = d;
    return 0;
}

struct vl_daemon_model *vl_daemon_model_unref(struct vl_daemon_model *d)
{
    if (!d)
        return NULL;
    struct vl_daemon_model **at = &d->m->models;
    while (*at && *at != d)
        at = &(*at)->next;
    if (*at)
        *at = d->next;
    answer_calls(d, VL_BUS_CANCELLED, "the daemon is stopping");
    (void)sd_bus_slot_unref(d->slot);
    (void)sd_event_source_disable_unref(d->events);
    (void)sd_event_source_disable_unref(d->ticks);
    (void)vl_engine_unref(d->engine);
    free(d->path);
    free(d);
    return NULL;
}
