/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Warming up: a frame with its caption (two where the encoder compares looks), a question without a stream,
 * and the first view of a still. */
#include "engine/warm.h"

#include "engine/session.h"
#include "engine/turn.h"
#include "engine/watch.h"

static void grey(struct vl_frame *f)
{
    (void)f; /* the picture is static */
}

static struct vl_frame picture(void)
{
    static const uint8_t pixel[64 * 64 * 3];
    return (struct vl_frame){.plane = {pixel},
                             .stride = {64 * 3},
                             .width = 64,
                             .height = 64,
                             .format = VL_PIXFMT_RGB24,
                             .refs = 1,
                             .release = grey};
}

static int some_frames(struct vl_machine *m, const atomic_bool *stop, struct vl_session *s,
                       struct vl_outbox *out, struct vl_error *err)
{
    const uint64_t n = m->desc->look_bytes ? 2 : 1;
    struct vl_frame frame;
    vl_auto(vl_session_plan) plan = NULL;
    vl_auto(vl_mailbox) box = NULL;
    bool dirty;
    int r = vl_mailbox_new(&box, 1, NULL, NULL);
    if (r == 0)
        r = vl_session_plan_new(&plan, &(struct vl_session_opts){.max_caption_tokens = 4, .captions = true},
                                err);
    if (r < 0)
        return r;
    vl_outbox_init(out, 0, 0, &dirty);
    r = vl_session_open(s, m, out, 0, vl_steal(plan), err);
    if (r == 0)
        vl_watch_set_mailbox(s, vl_mailbox_ref(box));
    for (uint64_t n_done = 0, n_shown = 0; r == 0 && n_done < n;
         n_done = s->stats.n_frames + s->stats.n_skipped) {
        bool did = false;
        if (n_shown == n_done) { /* the one before is done with */
            frame = picture();
            (void)vl_mailbox_put(box, &frame);
            n_shown++;
        }
        r = atomic_load(stop)           ? -ECANCELED
            : vl_watch_wants_step(s)    ? vl_watch_step(s)
            : vl_watch_wants_prefill(s) ? vl_watch_prefill(s)
                                        : vl_watch_frame(s, &did);
    }
    vl_session_close(s);
    return r;
}

static int one_question(struct vl_machine *m, const atomic_bool *stop, struct vl_turn *t,
                        struct vl_outbox *out, struct vl_error *err)
{
    const struct vl_ask ask = {
        .text = "Hello", .max_tokens = 4, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    struct vl_question *q = NULL;
    bool dirty;
    int r = vl_question_new(&q, &ask, err);
    if (r < 0)
        return r;
    vl_outbox_init(out, 0, 1, &dirty);
    vl_turn_accept(t, m, NULL, out, 1, q);
    (void)vl_turn_start(t, false);
    while (t->state != VL_TURN_FREE && !atomic_load(stop))
        if (vl_turn_wants_step(t))
            vl_turn_step(t);
        else
            vl_turn_prefill(t);
    if (t->state != VL_TURN_FREE) {
        vl_turn_end(t, VL_TURN_CANCELLED, NULL);
        return -ECANCELED;
    }
    const struct vl_event *end = &out->ring[(atomic_load(&out->n_put) - 1) % VL_OUTBOX_EVENTS].event;
    return end->status == VL_TURN_OK ? 0 : vl_error_set(err, end->error.code, "%s", end->error.msg);
}

/* The views differ in their pixels alone: the first is enough. */
static int one_view(struct vl_machine *m, const atomic_bool *stop)
{
    const struct vl_arch *arch = vl_model_arch(m->model);
    struct vl_frame frame = picture(), *frames[] = {&frame};
    const struct vl_unit unit = {.frame = frames, .n_frames = 1, .still = true};
    struct vl_visual_tokens tok;
    int r = arch->encode_begin(m->model, m->still, &unit, 1);
    for (uint32_t i = 0; r == 0 && i < m->desc->n_encode_layers; i++) {
        r = atomic_load(stop) ? -ECANCELED : arch->encode_step(m->still, 1, &tok);
        if (r == VL_ENCODE_MORE)
            r = 0;
    }
    return r < 0 ? r : m->ops->sync(&m->still_x);
}

int vl_warm_up(struct vl_machine *m, const atomic_bool *stop, struct vl_error *err)
{
    vl_autofree struct vl_session *s = calloc(1, sizeof(*s));
    vl_autofree struct vl_turn *t = calloc(1, sizeof(*t));
    vl_autofree struct vl_outbox *out = calloc(1, sizeof(*out));
    int r = s && t && out ? 0 : -ENOMEM;
    if (r == 0 && m->desc->frame_tokens)
        r = some_frames(m, stop, s, out, err);
    if (r == 0 && m->desc->frame_tokens)
        r = one_view(m, stop);
    if (r == 0)
        r = one_question(m, stop, t, out, err);
    return r == -EDOM ? 0 : r; /* numeric trouble ends answers, not the engine */
}
