/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A question and its reply. It reads a fork, so the commentary goes on as if nobody had asked.
 *
 * The trap: once the end lies in the outbox the main thread may give the slot to the next question. Telling
 * the end is therefore the last thing that is done.
 */
#include "engine/turn.h"

#include "base/clock.h"
#include "model/model.h"

#include <assert.h>
#include <string.h>

/* ---- question ---- */

static int check_ask(const struct vl_ask *q, struct vl_error *err)
{
    size_t len = q->text ? strnlen(q->text, VL_ENGINE_MAX_QUESTION + 1) : 0;
    if (len == 0)
        return vl_error_set(err, -EINVAL, "the question is empty");
    if (len > VL_ENGINE_MAX_QUESTION)
        return vl_error_set(err, -E2BIG, "the question is longer than %d bytes", VL_ENGINE_MAX_QUESTION);
    if (q->since_ns && q->until_ns && q->since_ns > q->until_ns)
        return vl_error_set(err, -EINVAL, "the time asked about ends before it begins");
    return 0;
}

int vl_question_new(struct vl_question **ret, const struct vl_ask *q, struct vl_error *err)
{
    int r = check_ask(q, err);
    if (r < 0)
        return r;
    vl_auto(vl_question) n = calloc(1, sizeof(*n));
    if (!n || !(n->text = strdup(q->text)))
        return vl_error_set(err, -ENOMEM, "no memory for a question");
    n->ask = *q;
    n->ask.text = n->text;
    if (!n->ask.max_tokens || n->ask.max_tokens > VL_ENGINE_MAX_TOKENS)
        n->ask.max_tokens = VL_ENGINE_MAX_TOKENS;
    n->accepted_ns = vl_clock_monotonic_ns();
    *ret = vl_steal(n);
    return 0;
}

struct vl_question *vl_question_unref(struct vl_question *q)
{
    if (q) {
        free(q->text);
        free(q);
    }
    return NULL;
}

/* ---- life ---- */

void vl_turn_accept(struct vl_turn *t, struct vl_session *s, struct vl_outbox *out, uint64_t id,
                    struct vl_question *q)
{
    assert(t->state == VL_TURN_FREE);
    *t = (struct vl_turn){.state = VL_TURN_WAITING, .session = s, .out = out, .id = id, .question = q};
}

void vl_turn_end(struct vl_turn *t, enum vl_turn_status status, const struct vl_error *err)
{
    assert(t->state != VL_TURN_FREE);
    t->stats.total_ns = vl_clock_monotonic_ns() - t->question->accepted_ns;
    struct vl_event ev = {.type = VL_EVENT_TURN_DONE, .status = status, .turn_stats = t->stats};
    if (status == VL_TURN_NOTHING_SEEN)
        ev.session_stats = t->session->stats;
    if (err)
        ev.error = *err;
    t->kv = vl_kv_unref(t->kv);
    t->question = vl_question_unref(t->question);
    free(t->ids);
    t->ids = NULL;
    t->state = VL_TURN_FREE;
    vl_outbox_put_event(t->out, &ev);
}

static void fail(struct vl_turn *t, int code, const char *what)
{
    struct vl_error err;
    (void)vl_error_set(&err, code, "%s", what);
    vl_turn_end(t, VL_TURN_FAILED, &err);
}

/* ---- start ---- */

/* Renders the question into t->ids. */
static int render(struct vl_turn *t, struct vl_error *err)
{
    struct vl_chunk c = {0};
    int r = vl_machine_render(t->m, VL_PART_QUESTION, t->question->text, &c);
    if (r < 0)
        return vl_error_set(err, r, "cannot render the question: %s", strerror(-r));
    t->ids = c.id;
    t->stats.n_prompt = c.n;
    if (c.n >= t->m->fork_tokens)
        return vl_error_set(err, -E2BIG, "the question is %u tokens long; %u are the limit", c.n,
                            t->m->fork_tokens - 1);
    return 0;
}

static int feed(struct vl_turn *t)
{
    const struct vl_ask *q = &t->question->ask;
    vl_voice_init(&t->voice, t->m, t->kv, t->out, &q->sampling, false);
    int r = vl_voice_feed(&t->voice, t->ids, t->stats.n_prompt, NULL, t->session->unit + 1, false);
    if (r)
        return r < 0 ? r : -ENOSPC;
    vl_voice_speak(&t->voice, q->max_tokens, SIZE_MAX / 2);
    t->stats.queued_ns = vl_clock_monotonic_ns() - t->question->accepted_ns;
    t->state = VL_TURN_RUNNING;
    return 0;
}

static int begin(struct vl_turn *t, struct vl_error *err)
{
    if (t->ids == NULL) {
        int r = render(t, err);
        if (r < 0)
            return r;
    }
    int r = vl_kv_fork(&t->kv, t->session->kv, t->m->fork_tokens);
    if (r < 0)
        return vl_error_set(err, r, "cannot fork the sequence: %s", strerror(-r));
    if (r == VL_KV_FULL)
        return VL_TURN_NO_FORK;
    r = feed(t);
    return r < 0 ? vl_error_set(err, r, "the question does not fit into the cache") : 0;
}

int vl_turn_start(struct vl_turn *t, bool others_run)
{
    struct vl_session *s = t->session;
    const struct vl_ask *q = &t->question->ask;
    if (s->phase == VL_WATCH_OFF) {
        vl_turn_end(t, VL_TURN_FAILED, &s->failed);
        return 0;
    }
    if (!vl_session_remembers(s, q->since_ns, q->until_ns)) {
        vl_turn_end(t, VL_TURN_NOTHING_SEEN, NULL);
        return 0;
    }
    struct vl_error err = {0};
    t->m = s->m;
    int r = begin(t, &err);
    if (r == VL_TURN_NO_FORK && others_run)
        return r;
    if (r == VL_TURN_NO_FORK)
        fail(t, -ENOSPC, "the cache has no room for a question");
    else if (r < 0)
        vl_turn_end(t, VL_TURN_FAILED, &err);
    return 0;
}

/* ---- quanta ---- */

bool vl_turn_wants_step(struct vl_turn *t)
{
    return t->state == VL_TURN_RUNNING && t->voice.state == VL_VOICE_STEP && vl_voice_can_step(&t->voice);
}

bool vl_turn_wants_prefill(struct vl_turn *t)
{
    return t->state == VL_TURN_RUNNING && t->voice.state == VL_VOICE_PREFILL && vl_voice_can_step(&t->voice);
}

/* What a quantum of the voice led to. */
static void go_on(struct vl_turn *t, int r)
{
    t->stats.n_output = t->voice.n_said;
    if (t->voice.n_said && !t->stats.first_token_ns)
        t->stats.first_token_ns = vl_clock_monotonic_ns() - t->question->accepted_ns;
    if (r == 0)
        vl_turn_end(t, VL_TURN_OK, NULL);
    else if (r == VL_VOICE_NUMERIC)
        fail(t, -EDOM, "numeric: logits are not finite");
    else if (r < 0)
        fail(t, r, strerror(-r));
}

void vl_turn_step(struct vl_turn *t)
{
    go_on(t, vl_voice_step(&t->voice));
}

void vl_turn_prefill(struct vl_turn *t)
{
    go_on(t, vl_voice_prefill(&t->voice));
}
