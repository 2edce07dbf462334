/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The engine thread. A tick does one bounded quantum: a step of somebody who speaks, else a piece of prefill,
 * else a layer of an encoder; within a kind, sessions and turns take their turn in a ring. A kind that was
 * passed over eight times in a row goes next, so that a long answer slows the commentary down and does not
 * stop it.
 *
 * Ends come first in a tick: what is cancelled or late never gets another quantum.
 */
#include "engine/scheduler.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/warm.h"
#include "engine/watch.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

enum quantum { STEP, PREFILL, FRAME, N_KINDS };
enum { PATIENCE = 8 };

/* ---- commands ---- */

static void end_turns_of(struct vl_engine *e, const struct vl_session *s)
{
    for (uint32_t i = 0; i < e->opts.max_queue; i++) {
        struct vl_turn *t = &e->turn[i].turn;
        if (t->state != VL_TURN_FREE && t->session == s)
            vl_turn_end(t, VL_TURN_CANCELLED, NULL);
    }
}

/* The session cannot go on: tells it and ends its turns. */
static void fail_session(struct vl_engine *e, struct vl_session *s, int r, const struct vl_error *err)
{
    struct vl_error own;
    if (!err) {
        (void)vl_error_set(&own, r, r == -EDOM ? "numeric: logits are not finite" : "%s", strerror(-r));
        err = &own;
    }
    vl_log(VL_LOG_ERR, "engine", "session %llu failed: %s", (unsigned long long)s->id, err->msg);
    for (uint32_t i = 0; i < e->opts.max_queue; i++) {
        struct vl_turn *t = &e->turn[i].turn;
        if (t->state != VL_TURN_FREE && t->session == s)
            vl_turn_end(t, VL_TURN_FAILED, err);
    }
    vl_session_fail(s, err);
}

static void open_session(struct vl_engine *e, struct vl_session_slot *slot, const struct vl_command *c)
{
    struct vl_session *s = &slot->session;
    struct vl_error err = e->failed;
    if (e->failed.code < 0) {
        memset(s, 0, sizeof(*s));
        s->out = &slot->out;
        s->id = c->id;
        (void)vl_session_plan_unref(c->plan);
        vl_session_fail(s, &err);
        return;
    }
    int r = vl_session_open(s, &e->machine, &slot->out, c->id, c->plan, &err);
    if (r < 0)
        fail_session(e, s, r, &err);
}

static void configure_session(struct vl_engine *e, struct vl_session *s, struct vl_session_plan *plan)
{
    struct vl_error err;
    if (!s->m) {
        (void)vl_session_plan_unref(plan);
        return; /* it has failed, and said so */
    }
    int r = vl_session_configure(s, plan, &err);
    if (r < 0)
        fail_session(e, s, r, &err);
}

static void wake_on_frame(void *user)
{
    vl_engine_wake(user);
}

static void watch_session(struct vl_engine *e, struct vl_session *s, struct vl_mailbox *frames)
{
    if (!s->m) {
        (void)vl_mailbox_unref(frames);
        return;
    }
    vl_watch_set_mailbox(s, frames);
    if (frames)
        vl_mailbox_set_wake(frames, wake_on_frame, e);
}

static void obey(struct vl_engine *e, const struct vl_command *c)
{
    struct vl_session_slot *s = c->session == VL_NO_SESSION ? NULL : &e->session[c->session];
    switch (c->type) {
    case VL_COMMAND_OPEN:
        open_session(e, s, c);
        break;
    case VL_COMMAND_CONFIGURE:
        configure_session(e, &s->session, c->plan);
        break;
    case VL_COMMAND_WATCH:
        watch_session(e, &s->session, c->mailbox);
        break;
    case VL_COMMAND_CLOSE:
        end_turns_of(e, &s->session);
        vl_session_close(&s->session);
        atomic_store(&s->state, VL_SLOT_DEAD);
        break;
    case VL_COMMAND_ASK:
        vl_turn_accept(&e->turn[c->turn].turn, &e->machine, s ? &s->session : NULL, &e->turn[c->turn].out,
                       c->id, c->question);
        break;
    }
}

/* ---- ends and beginnings of turns ---- */

/* Ends what is cancelled or late. Returns the next deadline, 0: none. */
static int64_t end_turns(struct vl_engine *e)
{
    int64_t now = vl_clock_monotonic_ns(), next = 0;
    for (uint32_t i = 0; i < e->opts.max_queue; i++) {
        struct vl_turn *t = &e->turn[i].turn;
        if (t->state == VL_TURN_FREE)
            continue;
        int64_t deadline = t->question->ask.deadline_ns;
        if (atomic_load_explicit(&e->turn[i].cancelled, memory_order_relaxed))
            vl_turn_end(t, VL_TURN_CANCELLED, NULL);
        else if (deadline && now >= deadline)
            vl_turn_end(t, VL_TURN_DEADLINE, NULL);
        else if (deadline && (!next || deadline < next))
            next = deadline;
    }
    return next;
}

static uint32_t count_running(const struct vl_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->opts.max_queue; i++)
        n += e->turn[i].turn.state == VL_TURN_RUNNING;
    return n;
}

/* Of those that wait: the highest priority, of equals the oldest. Not of a kind, about a stream or without
 * one, that there is no room for: each kind has memory of its own, and neither waits for the other's. */
static struct vl_turn *next_waiting(struct vl_engine *e, const bool full[2])
{
    struct vl_turn *best = NULL;
    for (uint32_t i = 0; i < e->opts.max_queue; i++) {
        struct vl_turn *t = &e->turn[i].turn;
        if (t->state != VL_TURN_WAITING || full[t->session != NULL])
            continue;
        int p = t->question->ask.priority, q = best ? best->question->ask.priority : 0;
        if (!best || p > q || (p == q && t->id < best->id))
            best = t;
    }
    return best;
}

static void start_turns(struct vl_engine *e)
{
    bool full[2] = {false, false};
    struct vl_turn *t;
    while ((t = next_waiting(e, full))) {
        const uint32_t n = count_running(e);
        if (e->failed.code < 0)
            vl_turn_end(t, VL_TURN_FAILED, &e->failed);
        else if (n >= e->opts.max_forks)
            return;
        else if (vl_turn_start(t, n > 0) == VL_TURN_NO_ROOM)
            full[t->session != NULL] = true;
    }
}

static bool end_oldest_fork(void *user)
{
    struct vl_engine *e = user;
    struct vl_turn *oldest = NULL;
    for (uint32_t i = 0; i < e->opts.max_queue; i++) {
        struct vl_turn *t = &e->turn[i].turn;
        if (t->state == VL_TURN_RUNNING && t->session && (!oldest || t->id < oldest->id))
            oldest = t;
    }
    if (!oldest)
        return false;
    struct vl_error err;
    (void)vl_error_set(&err, -ENOSPC, "the stream needed the cache that this answer held");
    vl_turn_end(oldest, VL_TURN_FAILED, &err);
    return true;
}

/* ---- one quantum ---- */

static bool turn_quantum(struct vl_turn *t, enum quantum kind)
{
    if (kind == STEP && vl_turn_wants_step(t))
        vl_turn_step(t);
    else if (kind == PREFILL && vl_turn_wants_prefill(t))
        vl_turn_prefill(t);
    else if (kind == FRAME && vl_turn_wants_image(t))
        vl_turn_image(t);
    else
        return false;
    return true;
}

static bool session_quantum(struct vl_engine *e, struct vl_session *s, enum quantum kind)
{
    bool did = true;
    int r = 0;
    if (!s->m)
        return false;
    if (kind == STEP && vl_watch_wants_step(s))
        r = vl_watch_step(s);
    else if (kind == PREFILL && vl_watch_wants_prefill(s))
        r = vl_watch_prefill(s);
    else if (kind == FRAME && vl_watch_wants_frame(s))
        r = vl_watch_frame(s, &did);
    else
        return false;
    if (r < 0)
        fail_session(e, s, r, NULL);
    return did;
}

/* The next in the ring that has a quantum of this kind to do does it. */
static bool do_kind(struct vl_engine *e, enum quantum kind)
{
    uint32_t n_sessions = e->opts.max_sessions, n = n_sessions + e->opts.max_queue;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = (e->ring[kind] + k) % n;
        bool did = i < n_sessions ? session_quantum(e, &e->session[i].session, kind)
                                  : turn_quantum(&e->turn[i - n_sessions].turn, kind);
        if (did) {
            e->ring[kind] = (i + 1) % n;
            return true;
        }
    }
    return false;
}

static bool do_quantum(struct vl_engine *e)
{
    for (int kind = N_KINDS - 1; kind > STEP; kind--)
        if (e->n_passed_over[kind] >= PATIENCE) {
            e->n_passed_over[kind] = 0;
            if (do_kind(e, (enum quantum)kind))
                return true;
        }
    for (int kind = STEP; kind < N_KINDS; kind++) {
        if (!do_kind(e, (enum quantum)kind))
            continue;
        e->n_passed_over[kind] = 0;
        for (int later = kind + 1; later < N_KINDS; later++)
            e->n_passed_over[later]++;
        return true;
    }
    return false;
}

/* ---- the thread ---- */

static void sleep_until(struct vl_engine *e, int64_t deadline)
{
    int ms = -1;
    if (deadline) {
        int64_t left = (deadline - vl_clock_monotonic_ns()) / VL_NSEC_PER_MSEC + 1;
        ms = left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
    }
    struct pollfd p = {.fd = e->wake_fd, .events = POLLIN};
    atomic_store(&e->idle, true);
    (void)poll(&p, 1, ms); /* whatever it says, the tick looks at everything */
    atomic_store(&e->idle, false);
}

static void tick(struct vl_engine *e)
{
    eventfd_t n;
    struct vl_command c;
    (void)eventfd_read(e->wake_fd, &n);
    while (vl_queue_take(e->commands, &c) == 0)
        obey(e, &c);
    int64_t deadline = end_turns(e);
    start_turns(e);
    bool did = do_quantum(e);
    if (e->failed.code == 0) {
        struct vl_kv_pool_stats st;
        vl_kv_pool_get_stats(e->machine.pool, &st);
        atomic_store_explicit(&e->kv_used, st.bytes_used, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&e->heartbeat, 1, memory_order_relaxed);
    if (e->dirty)
        vl_engine_announce(e);
    e->dirty = false;
    if (!did && !atomic_load(&e->stop)) /* its wake may be the one just read */
        sleep_until(e, deadline);
}

static void note_finding(void *user, const char *section, const char *key, const char *value)
{
    (void)user;
    vl_log(VL_LOG_DEBUG, "engine", "%s: %s: %s", section, key, value);
}

/* The first 95 in 100 are weights. */
static int note_progress(void *user, size_t n_bytes, size_t n_total)
{
    struct vl_engine *e = user;
    const double done = n_total ? (double)n_bytes / (double)n_total : 1;
    atomic_store_explicit(&e->progress, (uint32_t)(done * 0.95 * VL_PROGRESS_ONE), memory_order_relaxed);
    return atomic_load(&e->stop) ? -ECANCELED : 0;
}

static void tell(struct vl_engine *e, enum vl_event_type type, const struct vl_error *err)
{
    const struct vl_event ev = {.type = type, .error = *err};
    vl_outbox_put_event(&e->own, &ev);
    vl_engine_announce(e);
}

static void publish_info(struct vl_engine *e)
{
    struct vl_engine_info *i = &e->info;
    vl_machine_get_info(&e->machine, i);
    const char **text[] = {&i->model_name, &i->arch, &i->quantization, &i->kernels};
    for (int k = 0; k < 4; k++) {
        (void)snprintf(e->info_text[k], sizeof(e->info_text[k]), "%s", *text[k]);
        *text[k] = e->info_text[k];
    }
    atomic_store(&e->has_info, true);
}

static int load_model(struct vl_engine *e, struct vl_error *err)
{
    const struct vl_notes notes = {.note = note_finding};
    const struct vl_load_watch watch = {.user = e, .progress = note_progress};
    struct vl_machine *m = &e->machine;
    int r = vl_machine_open(m, &e->opts, &notes, err);
    if (r < 0)
        return r;
    m->end_fork = end_oldest_fork;
    m->user = e;
    const char *doubt = vl_tokenizer_doubt(vl_model_tokenizer(m->model));
    if (doubt)
        vl_log(VL_LOG_WARNING, "engine", "%s", doubt);
    publish_info(e);
    tell(e, VL_EVENT_LOADING, err);
    r = vl_machine_load(m, &watch, err);
    if (r < 0)
        return r;
    r = vl_warm_up(m, &e->stop, err);
    return r < 0 && !err->code ? vl_error_set(err, r, "the model does not run: %s", strerror(-r)) : r;
}

static void load(struct vl_engine *e)
{
    struct vl_error err = {0};
    int r = load_model(e, &err);
    if (r < 0) {
        err.code = r;
        e->failed = err;
        atomic_store(&e->has_info, false);
        vl_machine_close(&e->machine);
    } else {
        err = (struct vl_error){0};
        atomic_store(&e->progress, VL_PROGRESS_ONE);
    }
    tell(e, r < 0 ? VL_EVENT_FAILED : VL_EVENT_READY, &err);
}

static void shut_down(struct vl_engine *e)
{
    for (uint32_t i = 0; i < e->opts.max_queue; i++)
        if (e->turn[i].turn.state != VL_TURN_FREE)
            vl_turn_end(&e->turn[i].turn, VL_TURN_CANCELLED, NULL);
    for (uint32_t i = 0; i < e->opts.max_sessions; i++)
        vl_session_close(&e->session[i].session);
    vl_machine_close(&e->machine);
}

void *vl_scheduler_main(void *engine)
{
    struct vl_engine *e = engine;
    (void)prctl(PR_SET_NAME, "vlmd-engine", 0, 0, 0);
    load(e);
    while (!atomic_load(&e->stop))
        tick(e);
    shut_down(e);
    vl_outbox_put_event(&e->own, &(struct vl_event){.type = VL_EVENT_STOPPED}); /* its fourth at most */
    vl_engine_announce(e);
    return NULL;
}
