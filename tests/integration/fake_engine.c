/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * An engine without a model, for what the daemon must do however the engine behaves: floods, silence,
 * failures that no small model can be made to show on demand. All on the calling thread, but for a load that
 * takes time. The model's path and the question's words are the script.
 *
 * model     "ok", "missing" (-ENOENT), "corrupt" (-EBADMSG), "loading" (for ever, its memory is never
 * granted), "slow" (its weights take a second), "truncated" (they end half-way: -EIO), "stuck" (its heartbeat
 * stops)
 *
 * question  "echo ...", "look" (the sizes and first pixels of the pictures it came with), "flood" (1 KiB
 * pieces without end), "hang", "nothing" (NothingSeen), "fail"
 *
 * Every model takes a MiB. Every frame is seen and gets a caption of its number.
 */
#include "base/clock.h"
#include "base/queue.h"
#include "engine/engine.h"
#include "engine/inspect.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

enum { MAX = 64, PIECE = 1024, STEPS = 20, STEP_USEC = 50000, BYTES = 1 << 20 };
struct item {
    struct vl_event ev;
    char text[1200];
};
struct session {
    uint64_t id;
    struct vl_mailbox *frames;
    struct vl_session_stats stats;
    bool captions, ended, wordy;
};
struct turn {
    uint64_t id, session;
    bool waits; /* for the model */
    char text[64], seen[256];
};
struct vl_engine {
    int fd;
    struct vl_queue *out;
    struct item last;
    struct session session[MAX];
    struct turn turn[MAX];
    uint64_t next_id;
    char model[64], flood[PIECE + 1];
    struct vl_budget *budget; /* NULL: nothing was taken from it */
    bool sees;
    int error; /* of the model */
    pthread_t loader;
    bool has_loader;
    atomic_bool stop, granted, ready;
    atomic_int step;
};

static void put(struct vl_engine *e, const struct vl_event *ev, const char *text)
{
    struct item it = {.ev = *ev};
    (void)snprintf(it.text, sizeof(it.text), "%s", text);
    (void)vl_queue_put(e->out, &it);
    (void)eventfd_write(e->fd, 1);
}

/* error 0: done. */
static void put_outcome(struct vl_engine *e, int error, const char *why)
{
    struct vl_event ev = {.type = error ? VL_EVENT_FAILED : VL_EVENT_READY};
    (void)vl_error_set(&ev.error, error, error ? "%s: %s" : "%s", e->model, why);
    atomic_store(&e->ready, error == 0);
    put(e, &ev, "");
}

static void *read_weights(void *user)
{
    struct vl_engine *e = user;
    bool truncated = strstr(e->model, "truncated");
    for (int i = 0; i < (truncated ? STEPS / 2 : STEPS) && !atomic_load(&e->stop); i++) {
        (void)usleep(STEP_USEC);
        atomic_store(&e->step, i + 1);
    }
    put_outcome(e, truncated ? -EIO : 0, "the weights end too early");
    return NULL;
}

static int start(struct vl_engine *e, const struct vl_engine_opts *o)
{
    e->error = strstr(o->model, "missing") ? -ENOENT : strstr(o->model, "corrupt") ? -EBADMSG : 0;
    if (strstr(o->model, "loading"))
        return 0;
    if (e->error) {
        put_outcome(e, e->error, "it is not what it should be");
        return 0;
    }
    uint64_t missing = vl_budget_take(o->budget, BYTES);
    if (missing) {
        char why[80];
        (void)snprintf(why, sizeof(why), "%llu bytes are missing", (unsigned long long)missing);
        put_outcome(e, -EDQUOT, why);
        return 0;
    }
    e->budget = o->budget;
    atomic_store(&e->granted, true);
    put(e, &(struct vl_event){.type = VL_EVENT_LOADING}, "");
    if (strstr(o->model, "slow") || strstr(o->model, "truncated"))
        e->has_loader = pthread_create(&e->loader, NULL, read_weights, e) == 0;
    else
        put_outcome(e, 0, "");
    return 0;
}

int vl_engine_new(struct vl_engine **ret, const struct vl_engine_opts *o, struct vl_error *err)
{
    if (o->backend && strncmp(o->backend, "cpu", 3) != 0)
        return vl_error_set(err, -EINVAL, "there is no backend '%s'", o->backend);
    struct vl_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->next_id = 1;
    memset(e->flood, 'x', PIECE);
    (void)snprintf(e->model, sizeof(e->model), "%s", o->model);
    (void)vl_queue_new(&e->out, sizeof(struct item), 4096, NULL, NULL);
    e->sees = o->mmproj != NULL;
    *ret = e;
    return start(e, o);
}

static struct session *session_of(struct vl_engine *e, uint64_t id)
{
    for (int i = 0; i < MAX; i++)
        if (e->session[i].id == id)
            return &e->session[i];
    return NULL;
}

int vl_engine_open_session(struct vl_engine *e, const struct vl_session_opts *o, uint64_t *ret_id,
                           struct vl_error *err)
{
    if (o->policy && strcmp(o->policy, "sink_window") != 0)
        return vl_error_set(err, -EINVAL, "there is no policy '%s'; did you mean 'sink_window'?", o->policy);
    struct session *s = session_of(e, 0);
    *s = (struct session){.id = e->next_id++, .captions = o->captions};
    s->wordy = o->instruction && !strcmp(o->instruction, "long");
    *ret_id = s->id;
    return 0;
}

int vl_engine_configure(struct vl_engine *e, uint64_t session, const struct vl_session_opts *o,
                        struct vl_error *err)
{
    (void)err;
    session_of(e, session)->captions = o->captions;
    return 0;
}

static void see(struct vl_engine *e, struct session *s, const struct vl_frame *f)
{
    char text[1200];
    s->stats.n_frames++;
    s->stats.newest_wall_ns = f->wall_ns;
    if (!s->stats.oldest_wall_ns)
        s->stats.oldest_wall_ns = f->wall_ns;
    struct vl_event ev = {.type = VL_EVENT_CAPTION_DONE,
                          .session = s->id,
                          .pts_ns = f->pts_ns,
                          .pts_end_ns = f->pts_ns + VL_NSEC_PER_SEC,
                          .wall_ns = f->wall_ns,
                          .session_stats = s->stats};
    (void)snprintf(text, sizeof(text), "frame %llu%s%s", (unsigned long long)s->stats.n_frames,
                   f->flags & VL_FRAME_GAP ? " after a gap" : "", s->wordy ? e->flood : "");
    if (s->captions)
        put(e, &ev, text);
    ev.type = VL_EVENT_FRAME_SEEN;
    put(e, &ev, "");
}

/* From next_event, so that no frame is taken while the daemon is inside a call. */
static void watch_all(struct vl_engine *e)
{
    for (int i = 0; i < MAX; i++) {
        struct session *s = &e->session[i];
        struct vl_frame *f;
        int r = s->id && s->frames && !s->ended ? 0 : VL_MAILBOX_EMPTY, why = 0;
        while (r == 0 && (r = vl_mailbox_take(s->frames, &f, &why)) == 0) {
            see(e, s, f);
            (void)vl_frame_unref(f);
        }
        if (r == VL_MAILBOX_ENDED) {
            struct vl_event ev = {.type = VL_EVENT_ENDED, .session = s->id, .session_stats = s->stats};
            ev.error.code = why;
            s->ended = true;
            put(e, &ev, "");
        }
    }
}

static void wake(void *user)
{
    (void)eventfd_write(((struct vl_engine *)user)->fd, 1);
}

int vl_engine_watch(struct vl_engine *e, uint64_t session, struct vl_mailbox *frames)
{
    session_of(e, session)->frames = vl_mailbox_ref(frames);
    vl_mailbox_set_wake(frames, wake, e);
    return 0;
}

static void end_turn(struct vl_engine *e, struct turn *t, enum vl_turn_status status)
{
    struct vl_event ev = {.type = VL_EVENT_TURN_DONE, .status = status, .session = t->session, .turn = t->id};
    ev.turn_stats = (struct vl_turn_stats){.n_prompt = 5, .n_output = 3, .total_ns = 2000000};
    if (status == VL_TURN_FAILED)
        (void)vl_error_set(&ev.error, -EIO, "it was told to fail");
    if (status == VL_TURN_NOTHING_SEEN && session_of(e, t->session))
        ev.session_stats = session_of(e, t->session)->stats;
    t->id = 0;
    put(e, &ev, "");
}

int vl_engine_close_session(struct vl_engine *e, uint64_t session)
{
    struct session *s = session_of(e, session);
    for (int i = 0; i < MAX; i++)
        if (e->turn[i].id && e->turn[i].session == session)
            end_turn(e, &e->turn[i], VL_TURN_CANCELLED);
    vl_mailbox_set_wake(s->frames, NULL, NULL);
    (void)vl_mailbox_unref(s->frames);
    *s = (struct session){0};
    return 0;
}

static void answer(struct vl_engine *e, struct turn *t)
{
    struct vl_event ev = {.type = VL_EVENT_TEXT, .turn = t->id, .session = t->session};
    t->waits = false;
    if (!strcmp(t->text, "look")) {
        put(e, &ev, t->seen);
        end_turn(e, t, VL_TURN_OK);
    } else if (!strncmp(t->text, "echo ", 5)) {
        put(e, &ev, t->text + 5);
        end_turn(e, t, VL_TURN_OK);
    } else if (!strcmp(t->text, "nothing")) {
        end_turn(e, t, VL_TURN_NOTHING_SEEN);
    } else if (!strcmp(t->text, "fail")) {
        end_turn(e, t, VL_TURN_FAILED);
    }
}

static void answer_all(struct vl_engine *e)
{
    for (int i = 0; i < MAX && atomic_load(&e->ready); i++)
        if (e->turn[i].id && e->turn[i].waits)
            answer(e, &e->turn[i]);
}

/* "640x480#ffffff 1x1#000000 "; before it "feather share 0.5 budget 9 ", if that was said. */
static void look_at(struct turn *t, const struct vl_ask *q)
{
    double share = 0;
    (void)vl_params_f64(q->reducer_params, "share", &share);
    if (q->reducer || q->visual_budget)
        (void)snprintf(t->seen, sizeof(t->seen), "%s share %g budget %u ",
                       q->reducer ? q->reducer : "no reducer", share, q->visual_budget);
    for (uint32_t i = 0; i < q->n_images; i++) {
        const struct vl_frame *f = q->image[i];
        size_t n = strlen(t->seen);
        (void)snprintf(t->seen + n, sizeof(t->seen) - n, "%ux%u#%02x%02x%02x ", f->width, f->height,
                       f->plane[0][0], f->plane[0][1], f->plane[0][2]);
    }
}

int vl_engine_ask(struct vl_engine *e, const struct vl_ask *q, uint64_t *ret_turn, struct vl_error *err)
{
    struct turn *t = e->turn;
    (void)err;
    while (t < e->turn + MAX && t->id)
        t++;
    if (t == e->turn + MAX)
        return VL_ENGINE_BUSY;
    *t = (struct turn){.id = e->next_id++, .session = q->session, .waits = true};
    (void)snprintf(t->text, sizeof(t->text), "%s", q->text);
    look_at(t, q);
    *ret_turn = t->id;
    (void)eventfd_write(e->fd, 1);
    return 0;
}

int vl_engine_cancel(struct vl_engine *e, uint64_t turn)
{
    for (int i = 0; i < MAX; i++)
        if (e->turn[i].id == turn && turn)
            end_turn(e, &e->turn[i], VL_TURN_CANCELLED);
    return 0;
}

int vl_engine_event_fd(const struct vl_engine *e)
{
    return e->fd;
}

static bool flood(struct vl_engine *e, struct vl_event *ret)
{
    for (int i = 0; i < MAX; i++)
        if (e->turn[i].id && !e->turn[i].waits && !strcmp(e->turn[i].text, "flood")) {
            *ret = (struct vl_event){.type = VL_EVENT_TEXT,
                                     .turn = e->turn[i].id,
                                     .session = e->turn[i].session,
                                     .text = e->flood,
                                     .len = PIECE};
            return true;
        }
    return false;
}

int vl_engine_next_event(struct vl_engine *e, struct vl_event *ret)
{
    eventfd_t n;
    watch_all(e);
    answer_all(e);
    if (vl_queue_take(e->out, &e->last) == 0) {
        *ret = e->last.ev;
        ret->text = e->last.text;
        ret->len = strlen(e->last.text);
        return 0;
    }
    if (flood(e, ret))
        return 0;
    (void)eventfd_read(e->fd, &n);
    return VL_ENGINE_EMPTY;
}

int vl_engine_get_info(const struct vl_engine *e, struct vl_engine_info *ret)
{
    if (!atomic_load(&e->granted))
        return -EAGAIN;
    *ret = (struct vl_engine_info){.model_name = e->model,
                                   .arch = "fake",
                                   .quantization = "none",
                                   .kernels = "fake",
                                   .context_tokens = 4096,
                                   .tokens_per_frame = e->sees ? 4 : 0,
                                   .max_image_tokens = e->sees ? 64 : 0,
                                   .weight_bytes = BYTES,
                                   .default_window_frames = 8};
    return 0;
}

void vl_engine_heartbeat(const struct vl_engine *e, uint64_t *ret_count, bool *ret_idle)
{
    *ret_count = 1;
    *ret_idle = !strstr(e->model, "stuck");
}

double vl_engine_load_progress(const struct vl_engine *e)
{
    return atomic_load(&e->ready) ? 1 : atomic_load(&e->step) / (double)STEPS;
}

void vl_engine_stop(struct vl_engine *e)
{
    atomic_store(&e->stop, true);
    put(e, &(struct vl_event){.type = VL_EVENT_STOPPED}, "");
}

struct vl_engine *vl_engine_unref(struct vl_engine *e)
{
    if (!e)
        return NULL;
    atomic_store(&e->stop, true);
    if (e->has_loader)
        (void)pthread_join(e->loader, NULL);
    for (int i = 0; i < MAX; i++)
        if (e->session[i].id)
            (void)vl_engine_close_session(e, e->session[i].id);
    if (e->budget)
        vl_budget_give(e->budget, BYTES);
    (void)vl_queue_unref(e->out);
    (void)close(e->fd);
    free(e);
    return NULL;
}

/* Of the subcommands, which link with this engine and are not tried with it. */
int vl_inspect(const struct vl_engine_opts *o, const struct vl_inspect_out *out, struct vl_error *err)
{
    (void)o, (void)out;
    return vl_error_set(err, -ENOTSUP, "there is no model in here");
}

int vl_plan(struct vl_plan *ret, const struct vl_engine_opts *o, struct vl_error *err)
{
    (void)ret, (void)o;
    return vl_error_set(err, -ENOTSUP, "there is no model in here");
}
