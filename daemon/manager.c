/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The root object: it starts the engine, takes its events to the stream or query they are for, and knows in
 * what state the whole is. Daemon lifetime, main thread.
 */
#include "daemon/manager.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/access.h"
#include "daemon/bus.h"
#include "daemon/bus_error.h"
#include "daemon/config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#define EMIT_NS (VL_NSEC_PER_SEC / 2)
enum { MAX_EVENTS = 64 }; /* of the engine in one go, so that the bus is never kept waiting */

static const char *const state_names[VL_MANAGER_STATE_COUNT] = {
    [VL_MANAGER_LOADING] = "loading", [VL_MANAGER_READY] = "ready",       [VL_MANAGER_NO_MODEL] = "no-model",
    [VL_MANAGER_FAILED] = "failed",   [VL_MANAGER_STOPPING] = "stopping",
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

int vl_manager_check_model(const struct vl_manager *m, sd_bus_error *e)
{
    switch (m->state) {
    case VL_MANAGER_STOPPING:
        return sd_bus_error_set(e, VL_BUS_CANCELLED, "the daemon is stopping");
    case VL_MANAGER_NO_MODEL:
        return sd_bus_error_set(e, VL_BUS_MODEL_NOT_READY, m->model_error.msg);
    case VL_MANAGER_FAILED:
        return sd_bus_error_set(e, vl_bus_model_error(m->model_error.code), m->model_error.msg);
    default: /* while it is loading, the engine keeps what it is asked */
        return 0;
    }
}

static uint64_t used_bytes(const struct vl_manager *m)
{
    return m->info.weight_bytes + m->info.scratch_bytes + m->info.kv_pool_bytes;
}

char *vl_manager_status_text(const struct vl_manager *m, char *buf, size_t size)
{
    unsigned n = 0;
    int64_t lag_ns = 0;
    for (const struct vl_stream *s = m->streams; s; s = s->next) {
        n++;
        if (s->state == VL_STREAM_RUNNING && s->stats.lag_ns > lag_ns)
            lag_ns = s->stats.lag_ns;
    }
    if (m->state == VL_MANAGER_READY)
        (void)snprintf(buf, size, "%s (%s, %s), %u stream%s, lag %.1f s, %" PRIu64 " MiB", m->info.model_name,
                       m->info.arch, m->info.quantization, n, n == 1 ? "" : "s",
                       (double)lag_ns / (double)VL_NSEC_PER_SEC, used_bytes(m) >> 20);
    else if (m->state == VL_MANAGER_LOADING)
        (void)snprintf(buf, size, "loading %s", m->config->model_name);
    else
        (void)snprintf(buf, size, "%s%s%s", state_names[m->state], m->model_error.msg[0] ? ": " : "",
                       m->model_error.msg);
    return buf;
}

/* ---- changed properties ---- */

static void emit_due(struct vl_manager *m)
{
    m->emitted_ns = vl_clock_monotonic_ns();
    if (m->changed)
        (void)vl_bus_manager_emit(m); /* an announcement that is lost is no error: properties can be read */
    m->changed = false;
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

void vl_manager_changed(struct vl_manager *m, struct vl_stream *s)
{
    if (s)
        s->changed = true;
    else
        m->changed = true;
    int64_t due = m->emitted_ns + EMIT_NS;
    int on = SD_EVENT_OFF;
    (void)sd_event_source_get_enabled(m->emit, &on);
    if (on == SD_EVENT_ONESHOT)
        return;
    (void)sd_event_source_set_time(m->emit, (uint64_t)(due / VL_NSEC_PER_USEC)); /* in the past: at once */
    (void)sd_event_source_set_enabled(m->emit, SD_EVENT_ONESHOT);
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

/* ---- events of the engine ---- */

static void on_model(struct vl_manager *m, const struct vl_event *ev)
{
    if (ev->type == VL_EVENT_READY && vl_engine_get_info(m->engine, &m->info) == 0) {
        vl_log(VL_LOG_INFO, "model", "%s: %s, %s, %s", m->info.model_name, m->info.arch, m->info.quantization,
               m->info.kernels);
        set_state(m, VL_MANAGER_READY);
        return;
    }
    m->model_error = ev->error;
    vl_log(VL_LOG_ERR, "model", "%s", ev->error.msg);
    set_state(m, ev->error.code == -ENOENT ? VL_MANAGER_NO_MODEL : VL_MANAGER_FAILED);
    for (struct vl_stream *s = m->streams; s; s = s->next)
        if (s->session)
            vl_stream_event(s, ev);
}

static void dispatch(struct vl_manager *m, const struct vl_event *ev)
{
    if (ev->turn != 0) {
        for (struct vl_query *q = m->queries; q; q = q->next)
            if (q->turn == ev->turn) {
                vl_query_event(q, ev);
                return;
            }
    } else if (ev->session != 0) {
        for (struct vl_stream *s = m->streams; s; s = s->next)
            if (s->session == ev->session) {
                vl_stream_event(s, ev);
                return;
            }
    } else {
        on_model(m, ev);
    }
}

static int on_engine(sd_event_source *s, int fd, uint32_t revents, void *user)
{
    struct vl_manager *m = user;
    struct vl_event ev;
    (void)s;
    (void)fd;
    (void)revents;
    for (int n = 0; n < MAX_EVENTS && vl_engine_next_event(m->engine, &ev) == 0; n++)
        dispatch(m, &ev);
    return 0;
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

int vl_manager_new(struct vl_manager **ret, sd_event *event, sd_bus *bus, const struct vl_config *config,
                   struct vl_error *err)
{
    vl_auto(vl_manager) m = calloc(1, sizeof(*m));
    if (!m)
        return vl_error_set(err, -ENOMEM, "out of memory");
    *m = (struct vl_manager){.event = event, .bus = bus, .config = config, .next_query = 1};
    int r = vl_clients_new(&m->clients, bus, config->system, on_client_gone, m);
    if (r >= 0)
        r = vl_limits_new(&m->limits, config->max_streams, config->max_queries, config->system);
    if (r >= 0)
        r = vl_access_new(&m->access, m);
    if (r >= 0)
        r = vl_children_new(&m->children, event);
    if (r >= 0)
        r = sd_event_add_time(event, &m->emit, CLOCK_MONOTONIC, 0, 10000, on_emit, m);
    if (r >= 0)
        r = sd_event_source_set_enabled(m->emit, SD_EVENT_OFF);
    if (r >= 0)
        r = add_objects(m);
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
    if (r == 0)
        r = vl_stream_new(&s, m, &spec, getuid(), NULL, &e);
    if (r < 0)
        vl_log_with(VL_LOG_ERR, "stream", &field, 1, "%s: %s", configured->name,
                    e.message ? e.message : strerror(-r));
    sd_bus_error_free(&e);
}

static int start_engine(struct vl_manager *m, struct vl_error *err)
{
    const struct vl_config *c = m->config;
    struct vl_engine_opts o = {
        .backend = c->backend,
        .model = c->text,
        .mmproj = c->projector,
        .max_sessions = c->max_streams,
        .max_queue = c->max_queries,
        .n_workers = c->workers,
    };
    int r = vl_engine_new(&m->engine, &o, err);
    if (r < 0)
        return r;
    r = sd_event_add_io(m->event, &m->events, vl_engine_event_fd(m->engine), EPOLLIN, on_engine, m);
    return r < 0 ? vl_error_set(err, r, "cannot watch the engine: %s", strerror(-r)) : 0;
}

int vl_manager_start(struct vl_manager *m, struct vl_error *err)
{
    if (!m->config->text) {
        (void)vl_error_set(
            &m->model_error, -ENOENT,
            "no model is configured: start vlmd with --model F --mmproj F, or set DefaultModel=");
        set_state(m, VL_MANAGER_NO_MODEL);
        vl_log(VL_LOG_WARNING, "model", "%s", m->model_error.msg);
    } else {
        int r = start_engine(m, err);
        if (r < 0)
            return r;
    }
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
    for (size_t i = 0; i < sizeof(m->slot) / sizeof(*m->slot); i++)
        (void)sd_bus_slot_unref(m->slot[i]);
    (void)sd_event_source_disable_unref(m->events);
    (void)sd_event_source_disable_unref(m->emit);
    (void)vl_engine_unref(m->engine);
    (void)vl_children_unref(m->children);
    (void)vl_access_unref(m->access);
    (void)vl_limits_unref(m->limits);
    (void)vl_clients_unref(m->clients);
    free(m);
    return NULL;
}
