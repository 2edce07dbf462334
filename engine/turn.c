/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A question and its reply. About a stream it reads a fork, so the commentary goes on as if nobody had asked.
 * Without one it reads a sequence of its own: picture by picture, each encoded in bounded quanta and read
 * before the next one is begun, and then the words.
 *
 * The trap: once the end lies in the outbox the main thread may give the slot to the next question. Telling
 * the end is therefore the last thing that is done.
 */
#include "engine/turn.h"

#include "base/clock.h"
#include "engine/offers.h"
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
    if (!q->session && (q->since_ns || q->until_ns))
        return vl_error_set(err, -EINVAL, "a time is asked about, and no stream");
    if (q->session && q->n_images)
        return vl_error_set(err, -EINVAL, "a question is about a stream or about pictures, not both");
    if (q->n_images > VL_ENGINE_MAX_IMAGES)
        return vl_error_set(err, -EINVAL, "%u pictures are asked about; %d are the limit", q->n_images,
                            VL_ENGINE_MAX_IMAGES);
    return 0;
}

/* About a stream a reducer chooses in the decoder, among what was remembered; of pictures it takes what one
 * takes that sees frames arrive, and a budget alone means a smaller picture, as it does of a stream. */
static int choose_reducer(struct vl_question *n, const struct vl_ask *q, struct vl_error *err)
{
    const char *name = q->reducer;
    if (!name && !q->visual_budget)
        return 0;
    if (!q->session && !q->n_images)
        return vl_error_set(err, -EINVAL,
                            "a question without a stream or picture has no visual tokens to reduce");
    if (!name && q->session)
        return vl_error_set(err, -EINVAL,
                            "tokens per frame, of a question about a stream, want a reducer too, such "
                            "as 'feather' or 'zipvl'");
    if (!name)
        name = "resolution";
    int r = vl_reducer_find(&n->reducer, name, err);
    if (r == 0)
        r = vl_offer_check(VL_OFFER_REDUCER, name, q->reducer_params,
                           q->session ? VL_OFFER_STREAM : VL_OFFER_PICTURES, err);
    return r < 0 ? r : vl_params_copy(&n->params, q->reducer_params);
}

int vl_question_new(struct vl_question **ret, const struct vl_ask *q, struct vl_error *err)
{
    int r = check_ask(q, err);
    if (r < 0)
        return r;
    vl_auto(vl_question) n = calloc(1, sizeof(*n));
    if (!n || !(n->text = strdup(q->text)))
        return vl_error_set(err, -ENOMEM, "no memory for a question");
    r = choose_reducer(n, q, err);
    if (r < 0)
        return r;
    n->ask = *q;
    n->ask.text = n->text;
    n->ask.reducer = NULL;
    n->ask.reducer_params = NULL;
    n->ask.image = n->image;
    for (uint32_t i = 0; i < q->n_images; i++)
        n->image[i] = vl_frame_ref(q->image[i]);
    if (!n->ask.max_tokens || n->ask.max_tokens > VL_ENGINE_MAX_TOKENS)
        n->ask.max_tokens = VL_ENGINE_MAX_TOKENS;
    n->accepted_ns = vl_clock_monotonic_ns();
    *ret = vl_steal(n);
    return 0;
}

struct vl_question *vl_question_unref(struct vl_question *q)
{
    if (q) {
        for (int i = 0; i < VL_ENGINE_MAX_IMAGES; i++)
            q->image[i] = vl_frame_unref(q->image[i]);
        q->params = vl_params_unref(q->params);
        free(q->text);
        free(q);
    }
    return NULL;
}

/* ---- life ---- */

void vl_turn_accept(struct vl_turn *t, struct vl_machine *m, struct vl_session *s, struct vl_outbox *out,
                    uint64_t id, struct vl_question *q)
{
    assert(t->state == VL_TURN_FREE);
    *t =
        (struct vl_turn){.state = VL_TURN_WAITING, .m = m, .session = s, .out = out, .id = id, .question = q};
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
    if (t->m->still_owner == t)
        t->m->still_owner = NULL;
    t->m->own_used -= t->own_bytes;
    vl_prune_done(&t->prune);
    vl_reducer_done(&t->reducer);
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

/* ---- start, about a stream ---- */

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

static void run(struct vl_turn *t)
{
    t->stats.queued_ns = vl_clock_monotonic_ns() - t->question->accepted_ns;
    t->state = VL_TURN_RUNNING;
}

/* The next n ids: with a picture's tokens, or the last ones, behind which the reply begins. */
static int feed(struct vl_turn *t, uint32_t n, const struct vl_visual_tokens *tok)
{
    const uint64_t unit = t->session ? t->session->unit + 1 : 0;
    int r = vl_voice_feed(&t->voice, t->ids + t->at, n, tok, unit, false);
    if (r)
        return r < 0 ? r : -ENOSPC;
    t->at += n;
    if (t->at == t->stats.n_prompt)
        vl_voice_speak(&t->voice, t->question->ask.max_tokens, SIZE_MAX / 2);
    return 0;
}

/* As square a grid as a frame's tokens make. */
static uint32_t grid_width(uint32_t n)
{
    uint32_t w = 1;
    for (uint32_t i = 1; i <= n / i; i++)
        w = n % i == 0 ? i : w;
    return n / w;
}

static int begin_prune(struct vl_turn *t, struct vl_error *err)
{
    const struct vl_question *q = t->question;
    const struct vl_model_desc *d = t->m->desc;
    if (!q->reducer)
        return 0;
    const uint32_t w = grid_width(d->frame_tokens);
    const struct vl_prune_shape s = {.n_layers = d->kv.n_layers,
                                     .d_model = d->d_model,
                                     .grid_w = w,
                                     .grid_h = d->frame_tokens / w,
                                     .n_more = t->m->fork_tokens};
    int r = vl_prune_init(&t->prune, t->kv, q->reducer, q->params, q->ask.visual_budget, &s, err);
    if (r == 0)
        t->voice.prune = &t->prune;
    return r;
}

static int begin_fork(struct vl_turn *t, struct vl_error *err)
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
        return VL_TURN_NO_ROOM;
    vl_voice_init(&t->voice, t->m, t->kv, t->out, &t->question->ask.sampling, false);
    r = begin_prune(t, err);
    if (r < 0)
        return r;
    r = feed(t, t->stats.n_prompt, NULL);
    return r < 0 ? vl_error_set(err, r, "the question does not fit into the cache") : 0;
}

/* ---- start, without a stream ---- */

static struct vl_unit picture(const struct vl_question *q, uint32_t i)
{
    return (struct vl_unit){.frame = &q->image[i], .n_frames = 1, .still = true};
}

static int begin_reducer(struct vl_turn *t, struct vl_error *err)
{
    const struct vl_question *q = t->question;
    const struct vl_model_desc *d = t->m->desc;
    const bool whole = q->reducer && q->reducer->whole_picture;
    const struct vl_reducer_shape s = {.max_tokens = whole ? d->max_image_tokens : d->frame_tokens,
                                       .d_model = d->d_model,
                                       .n_layers = d->kv.n_layers,
                                       .max_patches = d->view_patches,
                                       .d_vision = d->d_vision};
    return q->reducer ? vl_reducer_init(&t->reducer, q->reducer, q->params, &s, err) : 0;
}

/* Every picture is one that the model takes; *ret_n: their views. */
static int count_views(const struct vl_turn *t, uint32_t *ret_n, struct vl_error *err)
{
    const struct vl_question *q = t->question;
    struct vl_view view[VL_MODEL_MAX_VIEWS];
    *ret_n = 0;
    if (q->ask.n_images && !t->m->desc->frame_tokens)
        return vl_error_set(err, -ENOTSUP, "model %s has no eyes: a picture needs an mmproj",
                            t->m->desc->name);
    for (uint32_t i = 0; i < q->ask.n_images; i++) {
        const struct vl_unit u = picture(q, i);
        uint32_t n = VL_MODEL_MAX_VIEWS;
        int r = vl_model_arch(t->m->model)->views(t->m->model, &u, view, &n);
        if (r < 0)
            return vl_error_set(err, r, "picture %u is %ux%u; the model takes 1x1 to %dx%d", i + 1,
                                u.frame[0]->width, u.frame[0]->height, VL_MODEL_MAX_SIDE, VL_MODEL_MAX_SIDE);
        *ret_n += n;
    }
    return 0;
}

/* The whole prompt, places of all pictures included, into t->ids. */
static int render_own(struct vl_turn *t, struct vl_error *err)
{
    const struct vl_question *q = t->question;
    struct vl_unit still[VL_ENGINE_MAX_IMAGES];
    struct vl_chunk c = {0};
    uint32_t n_views, n_reply = q->ask.max_tokens;
    int r = count_views(t, &n_views, err);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < q->ask.n_images; i++)
        still[i] = picture(q, i);
    r = vl_machine_render_ask(t->m, still, q->ask.n_images, q->text, &c);
    if (r < 0)
        return vl_error_set(err, r, "cannot render the question: %s", strerror(-r));
    t->ids = c.id;
    t->stats.n_prompt = c.n;
    const uint32_t limit = t->m->own_tokens - 1;
    if (c.n > limit && c.n_places)
        return vl_error_set(err, -E2BIG,
                            "the question is %u tokens long, %u of them for %u pictures; %u are the limit",
                            c.n, c.n_places, q->ask.n_images, limit);
    if (c.n > limit)
        return vl_error_set(err, -E2BIG, "the question is %u tokens long; %u are the limit", c.n, limit);
    if (n_reply > t->m->own_tokens - c.n)
        n_reply = t->m->own_tokens - c.n;
    t->want_bytes = vl_machine_own_bytes(t->m, c.n - c.n_places + n_reply, n_views);
    return 0;
}

/* One view's tokens, [*inout_to, ...) of what is kept so far, from those at [from, from + n): kept ones move
 * to the front. */
static int reduce_view(struct vl_turn *t, struct vl_visual_tokens *tok, uint32_t from, uint32_t n,
                       uint32_t *inout_to)
{
    struct vl_exec *x = &t->m->still_x;
    struct vl_visual_tokens view = *tok;
    struct vl_tensor part;
    size_t mark = vl_arena_mark(x->scratch);
    view.feat = vl_tensor_rows(&tok->feat, from, n);
    if (tok->saliency.data)
        view.saliency = vl_tensor_1d((float *)tok->saliency.data + from, VL_F32, n);
    view.pos += from;
    view.weight += from;
    view.n = n;
    t->reducer.ops->reset(t->reducer.state); /* views are no frames that follow one another */
    int r = vl_reducer_run(&t->reducer, x, &view, t->question->ask.visual_budget);
    if (r == 0 && *inout_to < from + n - view.n) {
        struct vl_tensor to = vl_tensor_rows(&tok->feat, *inout_to, view.n);
        r = vl_scratch_2d(x, &part, VL_F32, view.n, view.feat.dim[1]); /* the two may overlap */
        if (r == 0)
            r = x->ops->copy(x, &part, &view.feat);
        if (r == 0)
            r = x->ops->copy(x, &to, &part);
        memmove(tok->pos + *inout_to, view.pos, view.n * sizeof(*view.pos));
        memmove(tok->weight + *inout_to, view.weight, view.n * sizeof(*view.weight));
    }
    vl_arena_reset(x->scratch, mark);
    *inout_to += view.n;
    return r;
}

/* Takes the places out of the prompt that the picture's next view has no tokens for; *inout_at: where to look
 * for them, then behind them. */
static int close_places(struct vl_turn *t, uint32_t n_tokens, uint32_t *inout_at)
{
    uint32_t at = *inout_at, n = 0;
    while (at < t->stats.n_prompt && t->ids[at] >= 0)
        at++;
    while (at + n < t->stats.n_prompt && t->ids[at + n] < 0)
        n++;
    if (n < n_tokens)
        return -EINVAL;
    memmove(t->ids + at + n_tokens, t->ids + at + n, (t->stats.n_prompt - at - n) * sizeof(*t->ids));
    t->stats.n_prompt -= n - n_tokens;
    t->stats.n_pruned += n - n_tokens;
    *inout_at = at + n_tokens;
    return 0;
}

/* All views at once, for a reducer that shares the budget out among them. */
static int reduce_whole(struct vl_turn *t, struct vl_visual_tokens *tok)
{
    const uint32_t n_views = tok->pos[tok->n - 1].t + 1, most = tok->n / n_views;
    const uint32_t budget = t->question->ask.visual_budget;
    uint32_t at = t->at;
    t->reducer.ops->reset(t->reducer.state);
    int r = vl_reducer_run(&t->reducer, &t->m->still_x, tok, (budget < most ? budget : most) * n_views);
    for (uint32_t view = 0, i = 0; r == 0 && view < n_views; view++) {
        const uint32_t before = i;
        while (i < tok->n && tok->pos[i].t == view)
            i++;
        r = close_places(t, i - before, &at);
    }
    return r;
}

/* A picture's tokens, view by view, and their places. */
static int reduce(struct vl_turn *t, struct vl_visual_tokens *tok)
{
    uint32_t to = 0, at = t->at;
    int r = 0;
    if (t->reducer.ops && t->reducer.ops->whole_picture)
        return reduce_whole(t, tok);
    for (uint32_t from = 0, n; r == 0 && t->reducer.ops && from < tok->n; from += n) {
        const uint32_t before = to, view = tok->pos[from].t;
        for (n = 1; from + n < tok->n && tok->pos[from + n].t == view; n++)
            ;
        r = reduce_view(t, tok, from, n, &to);
        if (r == 0)
            r = close_places(t, to - before, &at);
    }
    if (r == 0 && t->reducer.ops) {
        tok->feat = vl_tensor_rows(&tok->feat, 0, to);
        tok->n = to;
    }
    return r;
}

/* Places of one picture end its leg of the prompt; the last leg has none. */
static int feed_leg(struct vl_turn *t, const struct vl_visual_tokens *tok)
{
    uint32_t n = 0, n_places = 0;
    if (!tok)
        return feed(t, t->stats.n_prompt - t->at, NULL);
    while (n_places < tok->n && t->at + n < t->stats.n_prompt)
        n_places += t->ids[t->at + n++] < 0;
    return n_places < tok->n ? -EINVAL : feed(t, n, tok);
}

static int begin_own(struct vl_turn *t, struct vl_error *err)
{
    struct vl_machine *m = t->m;
    if (t->ids == NULL) {
        int r = render_own(t, err);
        if (r < 0)
            return r;
    }
    if (t->want_bytes > m->own_bytes - m->own_used)
        return VL_TURN_NO_ROOM;
    int r = vl_kv_new(&t->kv, m->pool, NULL, NULL, m->own_tokens, err);
    if (r < 0)
        return r;
    r = begin_reducer(t, err);
    if (r < 0)
        return r;
    t->own_bytes = t->want_bytes;
    m->own_used += t->own_bytes;
    vl_voice_init(&t->voice, m, t->kv, t->out, &t->question->ask.sampling, false);
    if (t->question->ask.n_images == 0)
        r = feed_leg(t, NULL);
    return r < 0 ? vl_error_set(err, r, "the question does not fit into the cache") : 0;
}

int vl_turn_start(struct vl_turn *t, bool others_run)
{
    struct vl_session *s = t->session;
    const struct vl_ask *q = &t->question->ask;
    if (s && s->phase == VL_WATCH_OFF) {
        vl_turn_end(t, VL_TURN_FAILED, &s->failed);
        return 0;
    }
    if (s && !vl_session_remembers(s, q->since_ns, q->until_ns)) {
        vl_turn_end(t, VL_TURN_NOTHING_SEEN, NULL);
        return 0;
    }
    struct vl_error err = {0};
    int r = s ? begin_fork(t, &err) : begin_own(t, &err);
    if (r == VL_TURN_NO_ROOM && others_run)
        return r;
    if (r == VL_TURN_NO_ROOM)
        fail(t, -ENOSPC, "the cache has no room for a question");
    else if (r < 0)
        vl_turn_end(t, VL_TURN_FAILED, &err);
    else
        run(t);
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

bool vl_turn_wants_image(struct vl_turn *t)
{
    return t->state == VL_TURN_RUNNING && t->voice.state == VL_VOICE_IDLE &&
           t->n_images < t->question->ask.n_images && (!t->m->still_owner || t->m->still_owner == t);
}

/* A picture was read: its place in the encode is free, and the words follow the last one. */
static int end_image(struct vl_turn *t)
{
    t->m->still_owner = NULL;
    return ++t->n_images == t->question->ask.n_images ? feed_leg(t, NULL) : 0;
}

/* What a quantum of the voice led to. */
static void go_on(struct vl_turn *t, int r)
{
    t->stats.n_output = t->voice.n_said;
    if (t->session)
        t->stats.n_pruned = t->prune.n_pruned;
    if (t->voice.n_said && !t->stats.first_token_ns)
        t->stats.first_token_ns = vl_clock_monotonic_ns() - t->question->accepted_ns;
    const bool all_read = t->at == t->stats.n_prompt;
    if (r == 0 && !all_read)
        r = end_image(t);
    else if (r == 0)
        vl_turn_end(t, VL_TURN_OK, NULL);
    if (r == VL_VOICE_NUMERIC)
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

void vl_turn_image(struct vl_turn *t)
{
    const struct vl_arch *arch = vl_model_arch(t->m->model);
    struct vl_question *q = t->question;
    struct vl_visual_tokens tok;
    int r;
    if (t->encoding) {
        r = arch->encode_step(t->m->still, 1, &tok);
        t->encoding = r == VL_ENCODE_MORE;
        if (r == 0)
            r = reduce(t, &tok);
        if (r == 0)
            r = feed_leg(t, &tok);
    } else {
        struct vl_unit unit = picture(q, t->n_images);
        unit.budget = q->ask.visual_budget;
        unit.reducer = t->reducer.ops ? &t->reducer : NULL;
        t->m->still_owner = t;
        r = arch->encode_begin(t->m->model, t->m->still, &unit, 1);
        q->image[t->n_images] = vl_frame_unref(q->image[t->n_images]); /* its sender may have it back */
        t->encoding = r == 0;
    }
    if (r < 0) {
        struct vl_error err;
        (void)vl_error_set(&err, r, "picture %u: %s", t->n_images + 1, strerror(-r));
        vl_turn_end(t, VL_TURN_FAILED, &err);
    }
}
