/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What systemd is told, and the way out. The watchdog is pinged from the event loop, so a hung main thread
 * misses it by itself; and only when the engine's heartbeat moved or it is idle, so a hung engine does too. A
 * quantum of the engine has a bound far below any sensible WatchdogSec=.
 */
#include "daemon/service.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/model.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#define ANSWERS_NS     (5 * VL_NSEC_PER_SEC)
#define CHILDREN_NS    (3 * VL_NSEC_PER_SEC)
#define STOP_TICK_USEC UINT64_C(20000)
#define STATUS_USEC    UINT64_C(5000000)
#define PROGRESS_USEC  UINT64_C(1000000)  /* between two of those while the model loads */
#define EXTEND_USEC    UINT64_C(30000000) /* asked for at each status tick while the model loads */

struct vl_service {
    struct vl_manager *m; /* borrowed, outlives it */
    sd_event_source *term, *interrupt, *status, *watchdog, *stop;
    uint64_t watchdog_usec; /* 0: systemd did not ask for it */
    int64_t stop_ns;        /* when the end began; 0: it did not */
    char said[400];
};

static void say_status(struct vl_service *s)
{
    char text[sizeof(s->said)];
    (void)vl_manager_status_text(s->m, text, sizeof(text));
    if (!strcmp(text, s->said))
        return;
    memcpy(s->said, text, sizeof(text));
    (void)sd_notifyf(0, "STATUS=%s", text); /* nobody listens: nothing to do */
}

static int again(sd_event_source *source, uint64_t usec)
{
    int r = sd_event_source_set_time_relative(source, usec);
    return r < 0 ? r : sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int on_status(sd_event_source *source, uint64_t usec, void *user)
{
    struct vl_service *s = user;
    (void)usec;
    bool loading = s->m->state == VL_MANAGER_LOADING;
    if (loading)
        (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, EXTEND_USEC); /* nobody listens: nothing to do */
    say_status(s);
    return again(source, loading ? PROGRESS_USEC : STATUS_USEC);
}

/* A load has no bound, and systemd waits as long as we ask. */
static bool engine_lives(struct vl_daemon_model *d)
{
    uint64_t beats = d->beats;
    bool idle = true;
    if (!d->engine || d->state == VL_DAEMON_MODEL_LOADING)
        return true;
    vl_engine_heartbeat(d->engine, &beats, &idle);
    bool moved = beats != d->beats;
    d->beats = beats;
    return idle || moved;
}

static bool all_live(struct vl_service *s)
{
    bool live = true;
    for (struct vl_daemon_model *d = s->m->models; d; d = d->next)
        if (!engine_lives(d)) {
            vl_log(VL_LOG_WARNING, "service", "the engine of %s made no progress for %" PRIu64 " ms",
                   d->config->name, s->watchdog_usec / 4000);
            live = false;
        }
    return live;
}

static int on_watchdog(sd_event_source *source, uint64_t usec, void *user)
{
    struct vl_service *s = user;
    (void)usec;
    if (all_live(s))
        (void)sd_notify(0, "WATCHDOG=1"); /* nobody listens: nothing to do */
    return again(source, s->watchdog_usec / 4);
}

/* READY=1 also without a model: the daemon answers on the bus, and says what it lacks. */
static void on_state(void *user)
{
    struct vl_service *s = user;
    if (s->m->state != VL_MANAGER_LOADING && s->m->state != VL_MANAGER_STOPPING)
        (void)sd_notify(0, "READY=1"); /* nobody listens: nothing to do */
    say_status(s);
}

/* ---- the end ---- */

static int on_stop_tick(sd_event_source *source, uint64_t usec, void *user)
{
    struct vl_service *s = user;
    int64_t since = vl_clock_monotonic_ns() - s->stop_ns;
    (void)usec;
    if (since >= CHILDREN_NS)
        vl_children_kill_all(s->m->children);
    if (since < ANSWERS_NS && vl_manager_busy(s->m))
        return again(source, STOP_TICK_USEC);
    return sd_event_exit(s->m->event, 0);
}

void vl_service_stop(struct vl_service *s)
{
    if (s->stop_ns) {
        (void)sd_event_exit(s->m->event, 0); /* told twice: at once */
        return;
    }
    s->stop_ns = vl_clock_monotonic_ns();
    (void)sd_notify(0, "STOPPING=1"); /* nobody listens: nothing to do */
    vl_log(VL_LOG_INFO, "service", "stopping");
    vl_manager_stop(s->m);
    if (sd_event_add_time_relative(s->m->event, &s->stop, CLOCK_MONOTONIC, 0, 1000, on_stop_tick, s) < 0)
        (void)sd_event_exit(s->m->event, 0); /* no timer: at once */
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *user)
{
    (void)source;
    (void)si;
    vl_service_stop(user);
    return 0;
}

/* ---- life ---- */

static int add_sources(struct vl_service *s)
{
    sd_event *event = s->m->event;
    int r = sd_event_add_signal(event, &s->term, SIGTERM, on_signal, s);
    if (r >= 0)
        r = sd_event_add_signal(event, &s->interrupt, SIGINT, on_signal, s);
    if (r >= 0)
        r = sd_event_add_time_relative(event, &s->status, CLOCK_MONOTONIC, 0, 100000, on_status, s);
    if (r >= 0 && sd_watchdog_enabled(0, &s->watchdog_usec) > 0)
        r = sd_event_add_time_relative(event, &s->watchdog, CLOCK_MONOTONIC, s->watchdog_usec / 4, 1000,
                                       on_watchdog, s);
    return r < 0 ? r : 0;
}

int vl_service_new(struct vl_service **ret, struct vl_manager *m)
{
    vl_auto(vl_service) s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->m = m;
    int r = add_sources(s);
    if (r < 0)
        return r;
    m->state_changed = on_state;
    m->user = s;
    *ret = vl_steal(s);
    return 0;
}

struct vl_service *vl_service_unref(struct vl_service *s)
{
    if (!s)
        return NULL;
    s->m->state_changed = NULL;
    (void)sd_event_source_disable_unref(s->term);
    (void)sd_event_source_disable_unref(s->interrupt);
    (void)sd_event_source_disable_unref(s->status);
    (void)sd_event_source_disable_unref(s->watchdog);
    (void)sd_event_source_disable_unref(s->stop);
    free(s);
    return NULL;
}
