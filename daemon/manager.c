/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The root object: it has the models, takes their engines' events to the stream or query they are for, and
 * knows in what state the whole is. Daemon lifetime, main thread.
 */
#include "daemon/manager.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/access.h"
#include "daemon/bus.h"
#include "daemon/bus_error.h"
#include "daemon/config.h"
#include "daemon/images.h"
#include "daemon/memory.h"
#include "daemon/model.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EMIT_NS (VL_NSEC_PER_SEC / 2)

static const char *const state_names[VL_MANAGER_STATE_COUNT] = {
    [VL_MANAGER_LOADING] = "loading",   [VL_MANAGER_READY] = "ready",   [VL_MANAGER_IDLE] = "idle",
    [VL_MANAGER_NO_MODEL] = "no-model", [VL_MANAGER_FAILED] = "failed", [VL_MANAGER_STOPPING] = "stopping",
};

const char *vl_manager_state_name(enum vl_manager_state s)
{
    return state_names[s];
}

/* ---- what others ask ---- */

struct vl_stream *vl_manager_find_stream(const struct vl_manager *m, const char *name)
{
    for (struct vl_stream *s = m->streams; s; s = s->next)
        if (!strcmp(s->spec.name, name))
            return s;
    return NULL;
}

struct vl_stream *vl_manager_stream_at(const struct vl_manager *m, const char *path)
{
    for (struct vl_stream *s = m->streams; s; s = s->next)
        if (s->path && !strcmp(s->path, path))
            return s;
    return NULL;
}

struct vl_daemon_model *vl_manager_find_model(const struct vl_manager *m, const char *name)
{
    for (struct vl_daemon_model *d = m->models; d; d = d->next)
        if (!strcmp(d->config->name, name))
            return d;
    return NULL;
}

struct vl_daemon_model *vl_manager_model_at(const struct vl_manager *m, const char *path)
{
    for (struct vl_daemon_model *d = m->models; d; d = d->next)
        if (!strcmp(d->path, path))
            return d;
    return NULL;
}

static void running_text(const struct vl_manager *m, char *buf, size_t size)
{
    const struct vl_engine_info *info = &m->default_model->info;
    unsigned n = 0;
    int64_t lag_ns = 0;
    for (const struct vl_stream *s = m->streams; s; s = s->next) {
        n++;
        if (s->state == VL_STREAM_RUNNING && s->stats.lag_ns > lag_ns)
            lag_ns = s->stats.lag_ns;
    }
    (void)snprintf(buf, size, "%s (%s, %s), %u stream%s, lag %.1f s, %" PRIu64 " MiB", info->model_name,
                   info->arch, info->quantization, n, n == 1 ? "" : "s",
                   (double)lag_ns / (double)VL_NSEC_PER_SEC, vl_budget_used(&m->budget) >> 20);
}

char *vl_manager_status_text(const struct vl_manager *m, char *buf, size_t size)
{
    const struct vl_daemon_model *d = m->default_model;
    const char *why = d ? d->error.msg : m->no_model.msg;
    if (m->state == VL_MANAGER_READY)
        running_text(m, buf, size);
    else if (m->state == VL_MANAGER_LOADING && d)
        (void)snprintf(buf, size, "loading %s %.0f %%", d->config->name, 100 * vl_daemon_model_progress(d));
    else if (m->state == VL_MANAGER_IDLE)
        (void)snprintf(buf, size, "%s is not loaded; the first question or stream loads it", d->config->name);
    else
        (void)snprintf(buf, size, "%s%s%s", state_names[m->state], why[0] ? ": " : "", why);
    return buf;
}

/* ---- changed properties ---- */

static void emit_due(struct vl_manager *m)
{
    m->emitted_ns = vl_clock_monotonic_ns();
    if (m->changed)
        (void)vl_bus_manager_emit(m); /* an announcement that is lost is no error: properties can be read */
    m->changed = false;
    for (struct vl_daemon_model *d = m->models; d; d = d->next) {
        if (d->changed)
            (void)vl_bus_model_emit(d); /* as above */
        d->changed = false;
    }
    for (struct vl_stream *s = m->streams; s; s = s->next) {
        if (s->changed)
            (void)(vl_bus_stream_emit(s) < 0 || vl_bus_captions_emit(s) < 0); /* as above */
        s->changed = false;
    }
}

static int on_emit(sd_event_source *s, uint64_t usec, void *user)
{
    (void)s;
    (void)usec;
    emit_due(user);
    return 0;
}

static void emit_soon(struct vl_manager *m)
{
    int64_t due = m->emitted_ns + EMIT_NS;
    int on = SD_EVENT_OFF;
    (void)sd_event_source_get_enabled(m->emit, &on);
    if (on == SD_EVENT_ONESHOT)
        return;
    (void)sd_event_source_set_time(m->emit, (uint64_t)(due / VL_NSEC_PER_USEC)); /* in the past: at once */
    (void)sd_event_source_set_enabled(m->emit, SD_EVENT_ONESHOT);
}

void vl_manager_changed(struct vl_manager *m, struct vl_stream *s)
{
    if (s)
        s->changed = true;
    else
        m->changed = true;
    emit_soon(m);
}

/* ---- what models tell ---- */

static enum vl_manager_state state_of(const struct vl_daemon_model *d)
{
    if (!d)
        return VL_MANAGER_NO_MODEL;
    switch (d->state) {
    case VL_DAEMON_MODEL_LOADING:
        return VL_MANAGER_LOADING;
    case VL_DAEMON_MODEL_READY:
        return VL_MANAGER_READY;
    case VL_DAEMON_MODEL_FAILED:
        return d->error.code == -ENOENT ? VL_MANAGER_NO_MODEL : VL_MANAGER_FAILED;
    default:
        return VL_MANAGER_IDLE;
    }
}

static void set_state(struct vl_manager *m, enum vl_manager_state state)
{
    if (m->state == VL_MANAGER_STOPPING)
        return;
    m->state = state;
    vl_manager_changed(m, NULL);
    if (m->state_changed)
        m->state_changed(m->user);
}

void vl_manager_model_changed(struct vl_manager *m, struct vl_daemon_model *d)
{
    d->changed = true;
    emit_soon(m);
    if (d == m->default_model)
        set_state(m, state_of(d));
}

void vl_manager_set_default(struct vl_manager *m, struct vl_daemon_model *d)
{
    m->default_model = d;
    set_state(m, state_of(d));
}

void vl_manager_engine_event(struct vl_manager *m, struct vl_daemon_model *d, const struct vl_event *ev)
{
    if (ev->turn != 0) {
        for (struct vl_query *q = m->queries; q; q = q->next)
            if (q->model == d && q->turn == ev->turn && q->state != VL_QUERY_FINISHED) {
                vl_query_event(q, ev);
                return;
            }
    } else {
        for (struct vl_stream *s = m->streams; s; s = s->next)
            if (s->model == d && s->session == ev->session) {
                vl_stream_event(s, ev);
                return;
            }
    }
}

void vl_manager_model_gone(struct vl_manager *m, struct vl_daemon_model *d, const char *status,
                           const char *error, const char *message)
{
    for (struct vl_query *q = m->queries; q; q = q->next)
        if (q->model == d)
            vl_query_finish(q, status, error, message);
    for (struct vl_stream *s = m->streams; s; s = s->next)
        if (s->model == d && s->session != 0)
            vl_stream_model_gone(s, message);
}

/* ---- life ---- */

static void on_client_gone(void *user, struct vl_client *c)
{
    struct vl_manager *m = user;
    vl_access_client_gone(m->access, c);
    for (struct vl_query *q = m->queries; q;) {
        bool its = q->client == c;
        if (its)
            (void)vl_query_unref(q);
        q = its ? m->queries : q->next; /* the end of one may make others be forgotten: start over */
    }
    for (struct vl_stream *s = m->streams, *next; s; s = next) {
        next = s->next;
        if (s->client == c)
            (void)vl_stream_unref(s);
    }
}

static int add_objects(struct vl_manager *m)
{
    int r = vl_bus_manager_add(m, &m->slot[0]);
    if (r >= 0)
        r = vl_bus_query_add(m, &m->slot[1]);
    if (r >= 0)
        r = vl_bus_log_add(m->bus, &m->slot[2]);
    if (r >= 0)
        r = sd_bus_add_object_manager(m->bus, &m->slot[3], VL_BUS_PATH);
    return r;
}

static int add_models(struct vl_manager *m)
{
    const struct vl_config *c = m->config;
    for (size_t i = 0; i < c->n_models; i++) {
        struct vl_daemon_model *d;
        int r = vl_daemon_model_new(&d, m, &c->model[i]);
        if (r < 0)
            return r;
        if (c->default_model && !strcmp(c->default_model, d->config->name))
            m->default_model = d;
    }
    return 0;
}

int vl_manager_new(struct vl_manager **ret, sd_event *event, sd_bus *bus, const struct vl_config *config,
                   struct vl_error *err)
{
    vl_auto(vl_manager) m = calloc(1, sizeof(*m));
    if (!m)
        return vl_error_set(err, -ENOMEM, "out of memory");
    *m = (struct vl_manager){.event = event, .bus = bus, .config = config, .next_query = 1};
    uint64_t limit = config->memory_budget ? config->memory_budget : vl_memory_default_budget();
    vl_budget_init(&m->budget, limit == UINT64_MAX ? 0 : limit);
    int r = vl_clients_new(&m->clients, bus, config->system, on_client_gone, m);
    if (r >= 0)
        r = vl_limits_new(&m->limits, config->max_streams, config->max_queries, config->system);
    if (r >= 0)
        r = vl_access_new(&m->access, m);
    if (r >= 0)
        r = vl_children_new(&m->children, event);
    if (r >= 0)
        r = vl_image_queue_new(&m->images, event, m->children, config->ingest_program);
    if (r >= 0)
        r = sd_event_add_time(event, &m->emit, CLOCK_MONOTONIC, 0, 10000, on_emit, m);
    if (r >= 0)
        r = sd_event_source_set_enabled(m->emit, SD_EVENT_OFF);
    if (r >= 0)
        r = add_objects(m);
    if (r >= 0)
        r = add_models(m);
    if (r < 0)
        return vl_error_set(err, r, "cannot put objects on the bus: %s", strerror(-r));
    *ret = vl_steal(m);
    return 0;
}

/* A stream of the configuration: the daemon opens its file itself, as nobody else may make it do. */
static void add_configured(struct vl_manager *m, const struct vl_stream_spec *configured)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    struct vl_stream_spec spec;
    struct vl_stream *s;
    struct vl_log_field field = {"VLMD_STREAM", configured->name};
    int r = vl_stream_spec_copy(&spec, configured);
    if (r == 0 && spec.path && (spec.fd = open(spec.path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)) < 0)
        vl_log_with(VL_LOG_WARNING, "stream", &field, 1, "%s: %s: %s", spec.name, spec.path, strerror(errno));
    struct vl_daemon_model *d = spec.model ? vl_manager_find_model(m, spec.model) : m->default_model;
    if (r == 0 && vl_daemon_model_want(m, d, true, &e) < 0) {
        vl_log_with(VL_LOG_WARNING, "stream", &field, 1, "%s: %s", spec.name, e.message);
        sd_bus_error_free(&e);
        d = NULL; /* the stream is there, and failed */
    }
    if (r == 0)
        r = vl_stream_new(&s, m, d, &spec, getuid(), NULL, &e);
    if (r < 0)
        vl_log_with(VL_LOG_ERR, "stream", &field, 1, "%s: %s", configured->name,
                    e.message ? e.message : strerror(-r));
    sd_bus_error_free(&e);
}

static void say_no_model(struct vl_manager *m)
{
    const struct vl_config *c = m->config;
    if (c->n_models == 0)
        (void)vl_error_set(
            &m->no_model, -ENOENT,
            "no model is configured: start vlmd with --model F --mmproj F, or set DefaultModel=");
    else
        (void)vl_error_set(
            &m->no_model, -ENOENT,
            "there are %zu models and none is the default: set DefaultModel=, or choose one with "
            "SetDefaultModel (vlmctl model default %s)",
            c->n_models, c->model[0].name);
    vl_log(VL_LOG_WARNING, "model", "%s", m->no_model.msg);
}

static bool loads_at_start(const struct vl_manager *m, const struct vl_daemon_model *d)
{
    if (m->config->no_preload || d->config->preload == VL_PRELOAD_NO)
        return false;
    return d == m->default_model || d->config->preload == VL_PRELOAD_YES;
}

static int start_models(struct vl_manager *m, struct vl_error *err)
{
    if (!m->default_model)
        say_no_model(m);
    for (struct vl_daemon_model *d = m->models; d; d = d->next) {
        int r = loads_at_start(m, d) ? vl_daemon_model_load(d, err) : 0;
        if (r == -EINVAL) /* no file was looked at yet: a backend or a number that does not exist */
            return r;
    }
    set_state(m, state_of(m->default_model));
    return 0;
}

int vl_manager_start(struct vl_manager *m, struct vl_error *err)
{
    int r = start_models(m, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < m->config->n_streams; i++)
        add_configured(m, &m->config->stream[i]);
    return 0;
}

void vl_manager_stop(struct vl_manager *m)
{
    set_state(m, VL_MANAGER_STOPPING);
    for (struct vl_stream *s = m->streams; s; s = s->next)
        vl_stream_stop(s);
}

bool vl_manager_busy(const struct vl_manager *m)
{
    for (const struct vl_query *q = m->queries; q; q = q->next)
        if (q->state != VL_QUERY_FINISHED || q->pipe)
            return true;
    return vl_children_count(m->children) > 0;
}

void vl_manager_cancel_all(struct vl_manager *m)
{
    for (struct vl_query *q = m->queries; q; q = q->next)
        vl_query_cancel(q);
    vl_children_kill_all(m->children);
}

struct vl_manager *vl_manager_unref(struct vl_manager *m)
{
    if (!m)
        return NULL;
    while (m->queries)
        (void)vl_query_unref(m->queries);
    while (m->streams)
        (void)vl_stream_unref(m->streams);
    while (m->models)
        (void)vl_daemon_model_unref(m->models);
    while (m->leaving)
        (void)vl_leaving_unref(m->leaving);
    for (size_t i = 0; i < sizeof(m->slot) / sizeof(*m->slot); i++)
        (void)sd_bus_slot_unref(m->slot[i]);
    (void)sd_event_source_disable_unref(m->emit);
    (void)vl_image_queue_unref(m->images);
    (void)vl_children_unref(m->children);
    (void)vl_access_unref(m->access);
    (void)vl_limits_unref(m->limits);
    (void)vl_clients_unref(m->clients);
    free(m);
    return NULL;
}
