/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The main thread's side of the engine: slots are taken and freed here, commands posted, outboxes read in
 * turn. Nothing here waits for the engine thread but unref.
 */
#include "engine/engine.h"

#include "base/clock.h"
#include "base/workers.h"
#include "engine/scheduler.h"
#include "kernels/backend.h"

#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

void vl_engine_wake(struct vl_engine *e)
{
    (void)eventfd_write(e->wake_fd, 1); /* full means that it is readable already */
}

void vl_engine_announce(struct vl_engine *e)
{
    if (!atomic_exchange(&e->signalled, true))
        (void)eventfd_write(e->event_fd, 1);
}

/* ---- life ---- */

static int check_opts(const struct vl_engine_opts *o, struct vl_error *err)
{
    if (!o->model)
        return vl_error_set(err, -EINVAL, "no model file is given");
    if (o->max_sessions > VL_ENGINE_MAX_SESSIONS || o->max_queue > VL_ENGINE_MAX_QUEUE ||
        o->max_forks > VL_ENGINE_MAX_QUEUE || o->n_workers > VL_ENGINE_MAX_WORKERS)
        return vl_error_set(err, -EINVAL, "at most %d sessions, %d queued turns, %d forks and 256 workers",
                            VL_ENGINE_MAX_SESSIONS, VL_ENGINE_MAX_QUEUE, VL_ENGINE_MAX_QUEUE);
    return 0;
}

static int copy_string(char **ret, const char *s)
{
    *ret = s ? strdup(s) : NULL;
    return s && !*ret ? -ENOMEM : 0;
}

static int copy_opts(struct vl_engine *e, const struct vl_engine_opts *o)
{
    if (copy_string(&e->backend, o->backend) < 0 || copy_string(&e->model, o->model) < 0 ||
        copy_string(&e->mmproj, o->mmproj) < 0)
        return -ENOMEM;
    e->opts = *o;
    e->opts.backend = e->backend;
    e->opts.model = e->model;
    e->opts.mmproj = e->mmproj;
    vl_machine_fill_opts(&e->opts);
    return 0;
}

static int make_slots(struct vl_engine *e)
{
    uint32_t n_sessions = e->opts.max_sessions, n_turns = e->opts.max_queue;
    e->session = calloc(n_sessions, sizeof(*e->session));
    e->turn = calloc(n_turns, sizeof(*e->turn));
    e->text = malloc(VL_OUTBOX_TEXT + 1);
    if (!e->session || !e->turn || !e->text)
        return -ENOMEM;
    vl_outbox_init(&e->own, 0, 0, &e->dirty);
    e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->event_fd < 0 || e->wake_fd < 0)
        return -errno;
    return vl_queue_new(&e->commands, sizeof(struct vl_command), VL_MAX_COMMANDS + n_sessions, NULL, NULL);
}

/* Signals are the main thread's: the engine thread and the workers it starts inherit a full mask. */
static int start_thread(struct vl_engine *e)
{
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&e->thread, NULL, vl_scheduler_main, e);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    e->has_thread = r == 0;
    return -r;
}

int vl_engine_new(struct vl_engine **ret, const struct vl_engine_opts *o, struct vl_error *err)
{
    int r = check_opts(o, err);
    if (r < 0)
        return r;
    vl_auto(vl_engine) e = calloc(1, sizeof(*e));
    if (!e)
        return vl_error_set(err, -ENOMEM, "no memory for the engine");
    e->event_fd = e->wake_fd = -1;
    r = vl_machine_find_backend(o->backend, NULL, NULL, err);
    if (r < 0)
        return r;
    if ((r = copy_opts(e, o)) < 0 || (r = make_slots(e)) < 0 || (r = start_thread(e)) < 0)
        return vl_error_set(err, r, "cannot start the engine: %s", strerror(-r));
    *ret = vl_steal(e);
    return 0;
}

static void drop_command(const struct vl_command *c)
{
    (void)vl_session_plan_unref(c->plan);
    (void)vl_mailbox_unref(c->mailbox);
    (void)vl_question_unref(c->question);
}

void vl_engine_stop(struct vl_engine *e)
{
    atomic_store(&e->stop, true);
    vl_engine_wake(e);
}

struct vl_engine *vl_engine_unref(struct vl_engine *e)
{
    if (!e)
        return NULL;
    if (e->has_thread) {
        vl_engine_stop(e);
        (void)pthread_join(e->thread, NULL);
    }
    struct vl_command c;
    while (e->commands && vl_queue_take(e->commands, &c) == 0)
        drop_command(&c);
    (void)vl_queue_unref(e->commands);
    if (e->event_fd >= 0)
        (void)close(e->event_fd);
    if (e->wake_fd >= 0)
        (void)close(e->wake_fd);
    free(e->session);
    free(e->turn);
    free(e->text);
    free(e->backend);
    free(e->model);
    free(e->mmproj);
    free(e);
    return NULL;
}

/* ---- commands ---- */

/* The main thread is the only putter: room that is seen here stays. */
static bool has_room(struct vl_engine *e)
{
    struct vl_queue_stats st;
    vl_queue_get_stats(e->commands, &st);
    return st.depth < VL_MAX_COMMANDS;
}

static void post(struct vl_engine *e, const struct vl_command *c)
{
    (void)vl_queue_put(e->commands, c); /* there is room, see has_room and VL_MAX_COMMANDS */
    vl_engine_wake(e);
}

static struct vl_session_slot *find_session(struct vl_engine *e, uint64_t id)
{
    for (uint32_t i = 0; i < e->opts.max_sessions; i++) {
        struct vl_session_slot *s = &e->session[i];
        if (id && s->id == id && !s->closing)
            return s;
    }
    return NULL;
}

static struct vl_session_slot *free_session(struct vl_engine *e)
{
    for (uint32_t i = 0; i < e->opts.max_sessions; i++)
        if (atomic_load(&e->session[i].state) != VL_SLOT_LIVE)
            return &e->session[i];
    return NULL;
}

int vl_engine_open_session(struct vl_engine *e, const struct vl_session_opts *o, uint64_t *ret_id,
                           struct vl_error *err)
{
    vl_auto(vl_session_plan) plan = NULL;
    int r = vl_session_plan_new(&plan, o, err);
    if (r < 0)
        return r;
    struct vl_session_slot *s = free_session(e);
    if (!s)
        return vl_error_set(err, -ENOSPC, "all %u sessions are in use", e->opts.max_sessions);
    if (!has_room(e))
        return vl_error_set(err, -EAGAIN, "the engine has %d commands to read; try again", VL_MAX_COMMANDS);
    s->id = ++e->last_session;
    s->closing = false;
    vl_outbox_init(&s->out, s->id, 0, &e->dirty);
    atomic_store(&s->state, VL_SLOT_LIVE);
    post(e, &(struct vl_command){.type = VL_COMMAND_OPEN,
                                 .session = (uint32_t)(s - e->session),
                                 .id = s->id,
                                 .plan = vl_steal(plan)});
    *ret_id = s->id;
    return 0;
}

int vl_engine_configure(struct vl_engine *e, uint64_t session, const struct vl_session_opts *o,
                        struct vl_error *err)
{
    vl_auto(vl_session_plan) plan = NULL;
    int r = vl_session_plan_new(&plan, o, err);
    if (r < 0)
        return r;
    struct vl_session_slot *s = find_session(e, session);
    if (!s)
        return vl_error_set(err, -ENOENT, "there is no session %llu", (unsigned long long)session);
    if (!has_room(e))
        return vl_error_set(err, -EAGAIN, "the engine has %d commands to read; try again", VL_MAX_COMMANDS);
    post(e, &(struct vl_command){
                .type = VL_COMMAND_CONFIGURE, .session = (uint32_t)(s - e->session), .plan = vl_steal(plan)});
    return 0;
}

int vl_engine_watch(struct vl_engine *e, uint64_t session, struct vl_mailbox *frames)
{
    struct vl_session_slot *s = find_session(e, session);
    if (!s)
        return -ENOENT;
    if (!has_room(e))
        return -EAGAIN;
    post(e, &(struct vl_command){.type = VL_COMMAND_WATCH,
                                 .session = (uint32_t)(s - e->session),
                                 .mailbox = vl_mailbox_ref(frames)});
    return 0;
}

int vl_engine_close_session(struct vl_engine *e, uint64_t session)
{
    struct vl_session_slot *s = find_session(e, session);
    if (!s)
        return -ENOENT;
    s->closing = true;
    post(e, &(struct vl_command){.type = VL_COMMAND_CLOSE, .session = (uint32_t)(s - e->session)});
    return 0;
}

int vl_engine_ask(struct vl_engine *e, const struct vl_ask *q, uint64_t *ret_turn, struct vl_error *err)
{
    vl_auto(vl_question) question = NULL;
    int r = vl_question_new(&question, q, err);
    if (r < 0)
        return r;
    struct vl_session_slot *s = q->session ? find_session(e, q->session) : NULL;
    if (q->session && !s)
        return vl_error_set(err, -ENOENT, "there is no session %llu", (unsigned long long)q->session);
    uint32_t i = 0;
    while (i < e->opts.max_queue && e->turn[i].id)
        i++;
    if (i == e->opts.max_queue || !has_room(e)) {
        (void)vl_error_set(err, VL_ENGINE_BUSY, "%u questions are under way", e->opts.max_queue);
        return VL_ENGINE_BUSY;
    }
    struct vl_turn_slot *t = &e->turn[i];
    t->id = ++e->last_turn;
    atomic_store(&t->cancelled, false);
    vl_outbox_init(&t->out, q->session, t->id, &e->dirty);
    post(e, &(struct vl_command){.type = VL_COMMAND_ASK,
                                 .session = s ? (uint32_t)(s - e->session) : VL_NO_SESSION,
                                 .turn = i,
                                 .id = t->id,
                                 .question = vl_steal(question)});
    *ret_turn = t->id;
    return 0;
}

int vl_engine_cancel(struct vl_engine *e, uint64_t turn)
{
    for (uint32_t i = 0; turn && i < e->opts.max_queue; i++)
        if (e->turn[i].id == turn) {
            atomic_store(&e->turn[i].cancelled, true);
            vl_engine_wake(e);
        }
    return 0;
}

/* ---- events ---- */

int vl_engine_event_fd(const struct vl_engine *e)
{
    return e->event_fd;
}

/* Outbox i: the engine's own, then the sessions', then the turns'. NULL: not in use. */
static struct vl_outbox *outbox(struct vl_engine *e, uint32_t i)
{
    if (i == 0)
        return &e->own;
    if (--i < e->opts.max_sessions)
        return e->session[i].id && !e->session[i].closing ? &e->session[i].out : NULL;
    i -= e->opts.max_sessions;
    return e->turn[i].id ? &e->turn[i].out : NULL;
}

static bool read_any(struct vl_engine *e, struct vl_event *ret)
{
    uint32_t n = 1 + e->opts.max_sessions + e->opts.max_queue;
    for (uint32_t k = 0; k <= n; k++) {
        uint32_t i = k == 0 ? 0 : (e->cursor + k - 1) % n; /* what the model has to say goes before all */
        struct vl_outbox *o = outbox(e, i);
        bool unblocked = false;
        if (!o || !vl_outbox_read(o, ret, e->text, &unblocked))
            continue;
        if (unblocked)
            vl_engine_wake(e);
        if (ret->type == VL_EVENT_TURN_DONE)
            e->turn[i - 1 - e->opts.max_sessions].id = 0;
        e->cursor = (i + 1) % n; /* the others have their turn first */
        return true;
    }
    return false;
}

int vl_engine_next_event(struct vl_engine *e, struct vl_event *ret)
{
    if (read_any(e, ret))
        return 0;
    eventfd_t n;
    (void)eventfd_read(e->event_fd, &n);
    atomic_store(&e->signalled, false);
    if (!read_any(e, ret)) /* what came after the first look and before signals count again */
        return VL_ENGINE_EMPTY;
    vl_engine_announce(e);
    return 0;
}

int vl_engine_get_info(const struct vl_engine *e, struct vl_engine_info *ret)
{
    if (!atomic_load(&e->has_info))
        return -EAGAIN;
    *ret = e->info;
    ret->kv_used_bytes = atomic_load_explicit(&e->kv_used, memory_order_relaxed);
    return 0;
}

double vl_engine_load_progress(const struct vl_engine *e)
{
    return (double)atomic_load_explicit(&e->progress, memory_order_relaxed) / VL_PROGRESS_ONE;
}

void vl_engine_heartbeat(const struct vl_engine *e, uint64_t *ret_count, bool *ret_idle)
{
    *ret_count = atomic_load_explicit(&e->heartbeat, memory_order_relaxed);
    *ret_idle = atomic_load_explicit(&e->idle, memory_order_relaxed);
}
