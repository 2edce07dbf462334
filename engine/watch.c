/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * One turn of commentary a frame (StreamingVLM's protocol, without its moving window):
 *
 *   take -> encode, a layer a quantum -> reduce -> read header, visual tokens, footer -> speak, or at once
 * the end token: silence -> read the end of the turn -> commit -> the policy's windows -> FRAME_SEEN
 *
 * Until the commit all of it can be undone by one truncate, and forks do not see it. A frame that brings
 * numbers that are not finite is undone so; after three in a row the window itself is suspect and the
 * sequence starts anew behind the sink, as after a gap in the stream.
 */
#include "engine/watch.h"

#include "base/clock.h"
#include "base/log.h"
#include "model/model.h"

#include <assert.h>
#include <string.h>

enum { MAX_BAD = 3, CAPTION_BYTES = 1024, EVENTS_PER_FRAME = 3 };
static const int64_t MAX_JUMP_NS = 5 * VL_NSEC_PER_SEC;

int vl_watch_set_mailbox(struct vl_session *s, struct vl_mailbox *frames)
{
    if (s->mailbox)
        vl_mailbox_set_wake(s->mailbox, NULL, NULL);
    (void)vl_mailbox_unref(s->mailbox);
    s->mailbox = frames;
    vl_session_forget_looks(s); /* another source shows something else */
    return 0;
}

/* ---- what there is to do ---- */

bool vl_watch_wants_step(struct vl_session *s)
{
    return s->phase != VL_WATCH_OFF && s->voice.state == VL_VOICE_STEP;
}

bool vl_watch_wants_prefill(struct vl_session *s)
{
    return s->phase != VL_WATCH_OFF && s->voice.state == VL_VOICE_PREFILL;
}

bool vl_watch_wants_frame(struct vl_session *s)
{
    if (s->phase == VL_WATCH_ENCODE)
        return true;
    /* Room for all that one frame can bring is asked for before it is taken, so nothing waits for it later.
     */
    return s->phase == VL_WATCH_WAIT && s->mailbox && !s->m->encode_owner &&
           vl_outbox_has_room(s->out, EVENTS_PER_FRAME, CAPTION_BYTES);
}

/* ---- the end of a frame ---- */

/* The frame under way is undone; words already sent are taken back by an empty caption. */
static int abandon(struct vl_session *s, const char *why)
{
    vl_session_take_back(s);
    vl_voice_stop(&s->voice);
    s->frame = vl_frame_unref(s->frame);
    s->stats.n_skipped++;
    vl_session_move(s, VL_WATCH_WAIT);
    if (s->reducer.ops)
        s->reducer.ops->reset(s->reducer.state); /* what it kept was not taken in */
    int r = vl_kv_truncate(s->kv, vl_kv_n_committed(s->kv));
    if (r < 0 || ++s->n_bad < MAX_BAD)
        return r;
    vl_log(VL_LOG_WARNING, "engine",
           "session %llu: %u frames in a row could not be taken in (%s); its window starts anew",
           (unsigned long long)s->id, s->n_bad, why);
    s->n_bad = 0;
    return vl_session_reset(s);
}

static void count_frame(struct vl_session *s, uint32_t n_tokens)
{
    s->stats.n_visual_tokens += s->n_visual;
    s->stats.n_text_tokens += n_tokens - s->n_visual;
    s->stats.n_frames++;
    s->n_bad = 0;
    s->moment[s->unit % VL_SESSION_MOMENTS] = (struct vl_moment){s->unit, s->wall_ns};
}

/* The look that is now part of the timeline is what the next one is compared with. */
static void keep_look(struct vl_session *s)
{
    const struct vl_look older = s->before;
    s->before = s->look;
    s->look = older;
}

static int seen(struct vl_session *s)
{
    uint32_t gone = 0, before = vl_kv_n_committed(s->kv);
    vl_kv_commit(s->kv);
    count_frame(s, vl_kv_n_committed(s->kv) - before);
    keep_look(s);
    int r = vl_voice_evict(&s->voice, 0, &gone);
    if (r < 0)
        return r;
    s->stats.n_dropped_tokens += gone;
    s->stats.lag_ns = vl_clock_wall_ns() - s->wall_ns;
    vl_session_measure(s);
    if (s->plan->opts.captions) {
        s->stats.n_captions += s->voice.n_text > 0;
        struct vl_event ev = vl_session_frame_event(s, VL_EVENT_CAPTION_DONE);
        vl_outbox_put_event(s->out, &ev);
    }
    struct vl_event ev = vl_session_frame_event(s, VL_EVENT_FRAME_SEEN);
    vl_outbox_put_event(s->out, &ev);
    vl_session_move(s, VL_WATCH_WAIT);
    return 0;
}

/* ---- a frame arrives ---- */

/* The model's clock only rises: a stream that jumps back, or far ahead, goes on as if one step had passed. */
static void advance_clock(struct vl_session *s, int64_t pts_ns)
{
    int64_t step = pts_ns - s->last_pts_ns;
    if (!s->have_clock)
        s->clock_ns = 0;
    else if (step > 0 && step <= MAX_JUMP_NS)
        s->clock_ns += s->step_ns = step;
    else
        s->clock_ns += s->step_ns;
    s->have_clock = true;
    s->last_pts_ns = pts_ns;
}

static int begin_frame(struct vl_session *s)
{
    struct vl_frame *f = s->frame;
    if (f->flags & VL_FRAME_GAP)
        vl_session_forget_looks(s);
    if ((f->flags & VL_FRAME_GAP) && s->stats.window_frames) {
        int r = vl_session_reset(s);
        if (r < 0)
            return r;
    }
    advance_clock(s, f->pts_ns);
    s->unit++;
    s->pts_ns = f->pts_ns;
    s->wall_ns = f->wall_ns;
    s->stats.encode_ns = s->stats.prefill_ns = s->stats.decode_ns = 0;
    s->m->encode_owner = s;
    vl_session_move(s, VL_WATCH_ENCODE);
    const struct vl_unit unit = {.frame = &s->frame,
                                 .n_frames = 1,
                                 .budget = s->plan->opts.visual_budget,
                                 .reducer = s->reducer.ops ? &s->reducer : NULL,
                                 .before = s->looks ? &s->before : NULL,
                                 .look = s->looks ? &s->look : NULL};
    /* What comes from outside may be a picture that no encoder takes. That is the frame's fault. */
    int r = vl_model_arch(s->m->model)->encode_begin(s->m->model, s->m->encode, &unit, 1);
    return r < 0 ? abandon(s, strerror(-r)) : 0;
}

static int take(struct vl_session *s, bool *ret_did)
{
    int end = 0, r = vl_mailbox_take(s->mailbox, &s->frame, &end);
    *ret_did = r != VL_MAILBOX_EMPTY;
    if (r == VL_MAILBOX_ENDED) {
        struct vl_event ev = {.type = VL_EVENT_ENDED, .session_stats = s->stats, .error = {.code = end}};
        (void)vl_watch_set_mailbox(s, NULL);
        vl_outbox_put_event(s->out, &ev);
    }
    return r == 0 ? begin_frame(s) : 0;
}

/* ---- what it looks like is read ---- */

/* Reduction left fewer tokens than the rendered frame has places: the places left over go. */
static void close_places(struct vl_session *s, uint32_t n_tokens)
{
    uint32_t n = 0, n_places = 0;
    for (uint32_t i = 0; i < s->n_ids; i++) {
        n_places += s->ids[i] < 0;
        if (s->ids[i] >= 0 || n_places <= n_tokens)
            s->ids[n++] = s->ids[i];
    }
    s->n_ids = n;
}

static int render_frame(struct vl_session *s, uint32_t n_tokens)
{
    const struct vl_arch *arch = vl_model_arch(s->m->model);
    struct vl_chunk c = {.id = s->ids, .cap = s->ids_cap};
    int r = arch->render(s->m->model, VL_PART_FRAME, NULL, s->clock_ns, &c);
    uint32_t n_places = c.n_places;
    if (r == 0 && !s->plan->opts.captions)
        r = arch->render(s->m->model, VL_PART_CAPTION_END, NULL, 0, &c);
    if (r)
        return r < 0 ? r : -EMSGSIZE;
    s->n_ids = c.n;
    close_places(s, n_tokens);
    return n_places < n_tokens ? -EINVAL : 0;
}

/* The window's count includes the frame that comes, so the oldest leaves before it is read (StreamingVLM,
 * step 2): the model never sees one frame more than it was trained with. */
static int leave_room(struct vl_session *s)
{
    struct vl_kv_units held;
    uint32_t gone = 0;
    vl_kv_units(s->kv, VL_KV_VISUAL, &held);
    if (!s->plan->window_frames || held.n < s->plan->window_frames)
        return 0;
    int r = vl_voice_evict_picture(&s->voice, &gone);
    s->stats.n_dropped_tokens += gone;
    return r;
}

static int read_frame(struct vl_session *s, struct vl_visual_tokens *tok)
{
    const uint32_t budget = s->plan->opts.visual_budget;
    int r = 0;
    if (s->reducer.ops)
        r = vl_reducer_run(&s->reducer, &s->m->encode_x, tok, budget);
    if (r == 0)
        r = render_frame(s, tok->n);
    if (r == 0)
        r = leave_room(s);
    s->frame = vl_frame_unref(s->frame); /* its sender may send the next */
    if (r < 0)
        return r;
    s->stats.n_dropped_tokens += s->m->desc->frame_tokens - tok->n;
    s->n_visual = tok->n;
    r = vl_voice_feed(&s->voice, s->ids, s->n_ids, tok, s->unit, false);
    if (r == VL_VOICE_FULL)
        return abandon(s, "no room in the cache");
    if (r < 0)
        return r;
    if (s->plan->opts.captions)
        vl_voice_speak(&s->voice, s->plan->opts.max_caption_tokens, CAPTION_BYTES);
    vl_session_move(s, VL_WATCH_FRAME);
    return 0;
}

int vl_watch_frame(struct vl_session *s, bool *ret_did)
{
    *ret_did = true;
    if (s->phase == VL_WATCH_WAIT)
        return take(s, ret_did);
    int64_t t0 = vl_clock_monotonic_ns();
    struct vl_visual_tokens tok;
    int r = vl_model_arch(s->m->model)->encode_step(s->m->encode, 1, &tok);
    s->stats.encode_ns += vl_clock_monotonic_ns() - t0;
    if (r == VL_ENCODE_MORE)
        return 0;
    return r < 0 ? r : read_frame(s, &tok);
}

/* ---- and something is said, or not ---- */

/* Reads what closes the turn: the last word said, which the sequence has not got yet, and the end. */
static int close_turn(struct vl_session *s)
{
    struct vl_chunk c = {.id = s->ids, .cap = s->ids_cap};
    if (s->voice.next >= 0)
        c.id[c.n++] = s->voice.next;
    int r = vl_model_arch(s->m->model)->render(s->m->model, VL_PART_CAPTION_END, NULL, 0, &c);
    if (r)
        return r < 0 ? r : -EMSGSIZE;
    vl_session_move(s, VL_WATCH_CLOSE);
    r = vl_voice_feed(&s->voice, c.id, c.n, NULL, s->unit, false);
    return r == VL_VOICE_FULL ? abandon(s, "no room in the cache") : r;
}

/* What a quantum of the voice led to. */
static int go_on(struct vl_session *s, int r)
{
    if (r < 0 || r == VL_VOICE_MORE) {
        if (r == VL_VOICE_MORE && s->voice.state == VL_VOICE_STEP && s->phase == VL_WATCH_FRAME)
            vl_session_move(s, VL_WATCH_CAPTION);
        return r < 0 ? r : 0;
    }
    if (s->phase == VL_WATCH_SINK) {
        if (r == VL_VOICE_NUMERIC)
            return -EDOM;
        vl_kv_commit(s->kv);
        vl_session_move(s, VL_WATCH_WAIT);
        return 0;
    }
    if (r == VL_VOICE_NUMERIC)
        return abandon(s, "numeric: logits are not finite");
    bool closed = s->phase == VL_WATCH_CLOSE || !s->voice.speaks;
    return closed ? seen(s) : close_turn(s);
}

int vl_watch_prefill(struct vl_session *s)
{
    int64_t t0 = vl_clock_monotonic_ns();
    int r = vl_voice_prefill(&s->voice);
    s->stats.prefill_ns += vl_clock_monotonic_ns() - t0;
    return go_on(s, r);
}

int vl_watch_step(struct vl_session *s)
{
    int64_t t0 = vl_clock_monotonic_ns();
    int r = vl_voice_step(&s->voice);
    s->stats.decode_ns += vl_clock_monotonic_ns() - t0;
    return go_on(s, r);
}
