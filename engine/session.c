/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A session: its options, its sequence with the pinned system prompt at the front, and what it remembers of
 * when its frames were taken. Opening may allocate; nothing after that does.
 */
#include "engine/session.h"

#include "base/clock.h"

#include <assert.h>
#include <string.h>

/* ---- plan ---- */

static int copy_params(struct vl_params **ret, const struct vl_params *p, const struct vl_param_desc *desc,
                       struct vl_error *err)
{
    int r = vl_params_check(p, desc, err);
    return r < 0 ? r : vl_params_copy(ret, p);
}

static int fill_plan(struct vl_session_plan *p, const struct vl_session_opts *o, struct vl_error *err)
{
    if (o->max_caption_tokens > VL_ENGINE_MAX_CAPTION)
        return vl_error_set(err, -EINVAL, "a caption of %u tokens is asked for; the limit is %d",
                            o->max_caption_tokens, VL_ENGINE_MAX_CAPTION);
    /* A budget alone makes the picture smaller: nothing was right more often at the same measured cost. */
    const char *reducer = o->reducer ? o->reducer : o->visual_budget ? "resolution" : NULL;
    int r = vl_kv_policy_find(&p->policy, o->policy ? o->policy : "sink_window", err);
    if (r == 0 && reducer)
        r = vl_reducer_find(&p->reducer, reducer, err);
    if (r == 0)
        r = copy_params(&p->policy_params, o->policy_params, p->policy->params, err);
    if (r == 0 && p->reducer)
        r = copy_params(&p->reducer_params, o->reducer_params, p->reducer->params, err);
    if (r == 0 && p->reducer && p->reducer->needs_question)
        r = vl_error_set(err, -EINVAL, "reducer '%s' needs a question, and frames arrive with none", reducer);
    if (r == 0 && o->instruction && !(p->instruction = strdup(o->instruction)))
        r = -ENOMEM;
    return r;
}

int vl_session_plan_new(struct vl_session_plan **ret, const struct vl_session_opts *o, struct vl_error *err)
{
    vl_auto(vl_session_plan) p = calloc(1, sizeof(*p));
    if (!p)
        return vl_error_set(err, -ENOMEM, "no memory for a session");
    int r = fill_plan(p, o, err);
    if (r < 0)
        return r == -ENOMEM ? vl_error_set(err, r, "no memory for a session") : r;
    p->opts = *o;
    p->opts.instruction = p->instruction;
    p->opts.policy = p->opts.reducer = NULL;
    p->opts.policy_params = p->opts.reducer_params = NULL;
    if (!p->opts.max_caption_tokens)
        p->opts.max_caption_tokens = 32;
    *ret = vl_steal(p);
    return 0;
}

struct vl_session_plan *vl_session_plan_unref(struct vl_session_plan *p)
{
    if (p) {
        (void)vl_params_unref(p->policy_params);
        (void)vl_params_unref(p->reducer_params);
        free(p->instruction);
        free(p);
    }
    return NULL;
}

/* ---- life ---- */

void vl_session_move(struct vl_session *s, enum vl_watch_phase to)
{
    static const bool allowed[VL_WATCH_PHASES][VL_WATCH_PHASES] = {
        [VL_WATCH_OFF] = {[VL_WATCH_OFF] = true, [VL_WATCH_SINK] = true},
        [VL_WATCH_SINK] = {[VL_WATCH_OFF] = true, [VL_WATCH_WAIT] = true},
        [VL_WATCH_WAIT] = {[VL_WATCH_OFF] = true, [VL_WATCH_ENCODE] = true, [VL_WATCH_WAIT] = true},
        [VL_WATCH_ENCODE] = {[VL_WATCH_OFF] = true, [VL_WATCH_FRAME] = true, [VL_WATCH_WAIT] = true},
        [VL_WATCH_FRAME] = {[VL_WATCH_OFF] = true,
                            [VL_WATCH_CAPTION] = true,
                            [VL_WATCH_CLOSE] = true,
                            [VL_WATCH_WAIT] = true},
        [VL_WATCH_CAPTION] = {[VL_WATCH_OFF] = true, [VL_WATCH_CLOSE] = true, [VL_WATCH_WAIT] = true},
        [VL_WATCH_CLOSE] = {[VL_WATCH_OFF] = true, [VL_WATCH_WAIT] = true},
    };
    assert(allowed[s->phase][to]);
    (void)allowed; /* a release build has no assert */
    s->phase = to;
    if (s->m->encode_owner == s && to != VL_WATCH_ENCODE && to != VL_WATCH_FRAME)
        s->m->encode_owner = NULL;
}

static int open_reducer(struct vl_session *s, struct vl_error *err)
{
    if (!s->plan->reducer)
        return 0;
    const struct vl_model_desc *d = s->m->desc;
    const struct vl_reducer_shape shape = {.max_tokens = d->frame_tokens,
                                           .d_model = d->d_model,
                                           .n_layers = d->kv.n_layers,
                                           .max_patches = d->view_patches,
                                           .d_vision = d->d_vision,
                                           .window_frames = s->plan->window_frames};
    return vl_reducer_init(&s->reducer, s->plan->reducer, s->plan->reducer_params, &shape, err);
}

static int render_sink(struct vl_session *s, struct vl_error *err)
{
    struct vl_chunk c = {0};
    int r = vl_machine_render(s->m, VL_PART_SYSTEM, s->plan->instruction, &c);
    if (r < 0)
        return vl_error_set(err, r, "cannot render the system prompt: %s", strerror(-r));
    s->sink = c.id;
    s->n_sink = c.n;
    if (c.n > s->m->max_sink)
        return vl_error_set(err, -E2BIG, "the instruction is %u tokens long; %u are the limit", c.n,
                            s->m->max_sink);
    return 0;
}

/* As many frames as the model was made for; a policy that keeps less of each looks back further, but not over
 * more positions than the model knows. */
static uint32_t default_window(const struct vl_machine *m, const struct vl_kv_policy *policy)
{
    uint32_t own = m->desc->default_window_frames, most = m->n_ctx / m->max_frame_ids;
    if (!policy->n_windows || most <= own)
        return own;
    return own * policy->n_windows < most ? own * policy->n_windows : most;
}

/* A policy that counts frames is told how many, unless somebody did. */
static int set_window(const struct vl_machine *m, struct vl_session_plan *plan)
{
    const struct vl_param_desc *d = plan->policy->params;
    double window = 0;
    while (d->key && strcmp(d->key, "window"))
        d++;
    if (!d->key || vl_params_f64(plan->policy_params, "window", &window) < 0)
        return 0;
    if (window == 0 && m->desc->default_window_frames) {
        window = default_window(m, plan->policy);
        int r = vl_params_set_f64(plan->policy_params, "window", window);
        if (r < 0)
            return r;
    }
    plan->window_frames = (uint32_t)window;
    return 0;
}

static int open_looks(struct vl_session *s, struct vl_error *err)
{
    const size_t n = s->m->desc->look_bytes;
    if (n == 0)
        return 0;
    s->looks = calloc(VL_SESSION_LOOKS, n);
    if (!s->looks)
        return vl_error_set(err, -ENOMEM, "no memory for a session");
    s->look = (struct vl_look){.rgb = s->looks};
    s->before = (struct vl_look){.rgb = s->looks + n};
    return 0;
}

struct vl_event vl_session_frame_event(const struct vl_session *s, enum vl_event_type type)
{
    return (struct vl_event){.type = type,
                             .pts_ns = s->pts_ns,
                             .pts_end_ns = s->pts_ns + s->step_ns,
                             .wall_ns = s->wall_ns,
                             .session_stats = s->stats};
}

void vl_session_take_back(struct vl_session *s)
{
    struct vl_event ev = vl_session_frame_event(s, VL_EVENT_CAPTION_DONE);
    vl_outbox_drop_text(s->out, &ev);
}

void vl_session_forget_looks(struct vl_session *s)
{
    s->look.edge = s->before.edge = 0;
}

static int build(struct vl_session *s, struct vl_error *err)
{
    s->ids_cap = s->m->max_frame_ids;
    s->ids = calloc(s->ids_cap, sizeof(*s->ids));
    if (!s->ids)
        return vl_error_set(err, -ENOMEM, "no memory for a session");
    int r = open_looks(s, err);
    if (r == 0)
        r = render_sink(s, err);
    if (r == 0)
        r = open_reducer(s, err);
    if (r == 0)
        r = vl_kv_new(&s->kv, s->m->pool, s->plan->policy, s->plan->policy_params, s->m->max_tokens, err);
    if (r < 0)
        return r;
    vl_voice_init(&s->voice, s->m, s->kv, s->out, &s->plan->opts.sampling, true);
    vl_session_move(s, VL_WATCH_SINK);
    if (s->n_sink == 0) {
        vl_session_move(s, VL_WATCH_WAIT);
        return 0;
    }
    r = vl_voice_feed(&s->voice, s->sink, s->n_sink, NULL, 0, true);
    if (r)
        return vl_error_set(err, r < 0 ? r : -ENOSPC, "the system prompt does not fit into the cache");
    return 0;
}

/* What build made. The frame under way is lost; mailbox, clock and sums stay. */
static void unbuild(struct vl_session *s)
{
    vl_session_move(s, VL_WATCH_OFF);
    s->frame = vl_frame_unref(s->frame);
    s->kv = vl_kv_unref(s->kv);
    vl_reducer_done(&s->reducer);
    memset(&s->reducer, 0, sizeof(s->reducer));
    free(s->sink);
    free(s->ids);
    free(s->looks);
    s->sink = s->ids = NULL;
    s->looks = NULL;
    s->plan = vl_session_plan_unref(s->plan);
}

int vl_session_open(struct vl_session *s, struct vl_machine *m, struct vl_outbox *out, uint64_t id,
                    struct vl_session_plan *plan, struct vl_error *err)
{
    memset(s, 0, sizeof(*s));
    s->m = m;
    s->out = out;
    s->id = id;
    s->plan = plan;
    s->step_ns = VL_NSEC_PER_SEC;
    if (!m->desc->frame_tokens)
        return vl_error_set(err, -ENOTSUP, "model %s has no eyes: a stream needs an mmproj", m->desc->name);
    int r = set_window(m, plan);
    return r < 0 ? vl_error_set(err, r, "no memory for a session") : build(s, err);
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

int vl_session_configure(struct vl_session *s, struct vl_session_plan *plan, struct vl_error *err)
{
    const struct vl_session_plan *old = s->plan;
    int r = set_window(s->m, plan);
    if (r < 0) {
        (void)vl_session_plan_unref(plan);
        return vl_error_set(err, r, "no memory for a session");
    }
    bool same = old && same_text(old->instruction, plan->instruction) && old->policy == plan->policy &&
                old->reducer == plan->reducer && vl_params_equal(old->policy_params, plan->policy_params) &&
                vl_params_equal(old->reducer_params, plan->reducer_params);
    if (same) {
        s->plan->opts = plan->opts;
        s->plan->opts.instruction = s->plan->instruction;
        vl_sampler_init(&s->voice.sampler, &plan->opts.sampling);
        (void)vl_session_plan_unref(plan);
        return 0;
    }
    vl_session_take_back(s);
    unbuild(s);
    s->plan = plan;
    s->stats.n_gaps++;
    return build(s, err);
}

void vl_session_close(struct vl_session *s)
{
    if (!s->m)
        return;
    if (s->mailbox)
        vl_mailbox_set_wake(s->mailbox, NULL, NULL);
    s->mailbox = vl_mailbox_unref(s->mailbox);
    unbuild(s);
    s->m = NULL;
}

void vl_session_fail(struct vl_session *s, const struct vl_error *err)
{
    s->failed = *err;
    if (s->m)
        vl_session_close(s);
    struct vl_event ev = {.type = VL_EVENT_FAILED, .error = *err};
    vl_outbox_put_event(s->out, &ev);
}

int vl_session_reset(struct vl_session *s)
{
    int r = vl_kv_truncate(s->kv, s->n_sink);
    if (s->reducer.ops)
        s->reducer.ops->reset(s->reducer.state);
    vl_session_forget_looks(s);
    s->stats.n_gaps++;
    vl_session_measure(s);
    return r;
}

/* ---- memory of moments ---- */

/* Units from which to which may be looked up. False: none is visible. A window longer than the table is
 * remembered from where the table begins. */
static bool visible_units(const struct vl_session *s, struct vl_kv_units *ret)
{
    vl_kv_units(s->kv, VL_KV_VISUAL, ret);
    if (ret->n && ret->newest - ret->oldest >= VL_SESSION_MOMENTS)
        ret->oldest = ret->newest - VL_SESSION_MOMENTS + 1;
    return ret->n > 0;
}

static const struct vl_moment *moment_of(const struct vl_session *s, uint64_t unit)
{
    const struct vl_moment *at = &s->moment[unit % VL_SESSION_MOMENTS];
    return at->unit == unit ? at : NULL; /* none: a frame under way, or one that was skipped */
}

void vl_session_measure(struct vl_session *s)
{
    struct vl_kv_stats kv;
    struct vl_kv_units seen;
    bool any = visible_units(s, &seen);
    vl_kv_get_stats(s->kv, &kv);
    s->stats.window_tokens = vl_kv_n_committed(s->kv);
    s->stats.window_frames = seen.n;
    s->stats.window_limit = s->plan->window_frames;
    s->stats.kv_bytes = kv.bytes;
    s->stats.oldest_wall_ns = s->stats.newest_wall_ns = 0;
    for (uint64_t u = seen.oldest; any && u <= seen.newest; u++) {
        const struct vl_moment *at = moment_of(s, u);
        if (at && !s->stats.oldest_wall_ns)
            s->stats.oldest_wall_ns = at->wall_ns;
        if (at)
            s->stats.newest_wall_ns = at->wall_ns;
    }
}

bool vl_session_remembers(const struct vl_session *s, int64_t since_ns, int64_t until_ns)
{
    struct vl_kv_units seen;
    bool any = visible_units(s, &seen);
    for (uint64_t u = seen.oldest; any && u <= seen.newest; u++) {
        const struct vl_moment *at = moment_of(s, u);
        if (at && (!since_ns || at->wall_ns >= since_ns) && (!until_ns || at->wall_ns <= until_ns))
            return true;
    }
    return false;
}
