/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Prefill and step of one sequence, a bounded quantum at a time. All slots of a feed are appended at once and
 * run in pieces, so that cutting it into quanta changes neither slots nor positions; the cut itself depends
 * on the length alone, so the same feed gives the same bits whoever else is served in between.
 *
 * The trap: logits lie in step scratch, which is given back at the end of each quantum. A token is therefore
 * sampled in the quantum that computed its logits and put into the sequence in the next.
 */
#include "engine/voice.h"

#include "kernels/backend.h"
#include "model/model.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static void move(struct vl_voice *v, enum vl_voice_state to)
{
    static const bool allowed[VL_VOICE_STATES][VL_VOICE_STATES] = {
        [VL_VOICE_IDLE] = {[VL_VOICE_IDLE] = true, [VL_VOICE_PREFILL] = true},
        [VL_VOICE_PREFILL] = {[VL_VOICE_IDLE] = true, [VL_VOICE_STEP] = true},
        [VL_VOICE_STEP] = {[VL_VOICE_IDLE] = true},
    };
    assert(allowed[v->state][to]);
    (void)allowed; /* a release build has no assert */
    v->state = to;
}

void vl_voice_init(struct vl_voice *v, struct vl_machine *m, struct vl_kv *kv, struct vl_outbox *out,
                   const struct vl_sampling *how, bool one_line)
{
    *v = (struct vl_voice){.m = m, .kv = kv, .out = out, .next = -1, .filter = {.one_line = one_line}};
    vl_sampler_init(&v->sampler, how);
}

void vl_voice_stop(struct vl_voice *v)
{
    move(v, VL_VOICE_IDLE);
}

bool vl_voice_can_step(struct vl_voice *v)
{
    return vl_outbox_has_room(v->out, 1, VL_VOICE_PIECE);
}

/* ---- feeding ---- */

static uint32_t run_length(const int32_t *id, uint32_t n)
{
    uint32_t k = 1;
    while (k < n && (id[k] < 0) == (id[0] < 0))
        k++;
    return k;
}

static int append_run(struct vl_voice *v, const int32_t *id, uint32_t n, const struct vl_visual_tokens *tok,
                      bool pinned)
{
    struct vl_kv_segment s = {.kind = VL_KV_TEXT, .pinned = pinned, .n = n, .unit = v->unit, .extent = n};
    if (id[0] < 0) {
        assert(tok->n == n);
        int r = vl_model_arch(v->m->model)->positions(v->m->model, tok, v->m->rel, &s.extent);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < n; i++) {
            v->m->place[i][0] = tok->pos[i].y;
            v->m->place[i][1] = tok->pos[i].x;
        }
        s.kind = VL_KV_VISUAL;
        s.rel = v->m->rel;
        s.place = v->m->place;
    }
    uint32_t slot;
    return vl_kv_append(v->kv, &v->m->x, &s, &slot);
}

/* All or nothing. VL_KV_FULL, VL_KV_BUSY. */
static int append_all(struct vl_voice *v, const struct vl_visual_tokens *tok, bool pinned)
{
    uint32_t before = vl_kv_n_tokens(v->kv), row = 0;
    for (uint32_t i = 0, n; i < v->n; i += n) {
        n = run_length(v->id + i, v->n - i);
        struct vl_visual_tokens view = tok ? *tok : (struct vl_visual_tokens){0};
        if (v->id[i] < 0) { /* of several views this is the next */
            assert(view.n - row >= n);
            view.pos += row;
            view.n = n;
            row += n;
        }
        int r = append_run(v, v->id + i, n, &view, pinned);
        if (r) {
            int undo = vl_kv_truncate(v->kv, before);
            return undo < 0 ? undo : r;
        }
    }
    v->slot = before;
    return 0;
}

/* After an eviction answered *r: a fork that held what is needed has ended, try again. */
static bool again(struct vl_voice *v, int *r)
{
    if (*r != VL_KV_BUSY)
        return false;
    if (vl_machine_end_fork(v->m))
        return true;
    *r = -ENOSPC; /* no fork is left, and still the pool says that forks hold it */
    return false;
}

int vl_voice_evict(struct vl_voice *v, uint32_t n_wanted, uint32_t *ret_n)
{
    int r;
    do
        r = vl_kv_evict(v->kv, &v->m->x, n_wanted, ret_n);
    while (again(v, &r));
    return r;
}

int vl_voice_evict_picture(struct vl_voice *v, uint32_t *ret_n)
{
    int r;
    do
        r = vl_kv_evict_picture(v->kv, &v->m->x, ret_n);
    while (again(v, &r));
    return r;
}

/* After an append answered r: 0, try again; VL_VOICE_FULL; or an error. Room is asked for by the page, since
 * what comes may need fewer of them than its tokens would fill: no picture leaves that could have stayed. */
static int make_room(struct vl_voice *v, int r, uint32_t n)
{
    if (r < 0)
        return r;
    if (r == VL_KV_BUSY)
        return vl_machine_end_fork(v->m) ? 0 : -ENOSPC;
    const uint32_t page = v->m->geometry.page_slots;
    uint32_t gone = 0;
    r = vl_voice_evict(v, n < page ? n : page, &gone);
    return r < 0 ? r : gone ? 0 : VL_VOICE_FULL;
}

int vl_voice_feed(struct vl_voice *v, const int32_t *id, uint32_t n, const struct vl_visual_tokens *tok,
                  uint64_t unit, bool pinned)
{
    assert(v->state == VL_VOICE_IDLE && n > 0);
    v->id = id;
    v->n = n;
    v->at = v->row_at = 0;
    v->unit = unit;
    v->speaks = false;
    v->next = -1;
    v->row = tok ? tok->feat : (struct vl_tensor){0};
    int r;
    while ((r = append_all(v, tok, pinned)))
        if ((r = make_room(v, r, n)))
            return r;
    move(v, VL_VOICE_PREFILL);
    return 0;
}

void vl_voice_speak(struct vl_voice *v, uint32_t max_tokens, size_t max_text)
{
    v->speaks = max_tokens > 0;
    v->max_said = max_tokens;
    v->max_text = max_text;
    v->n_said = 0;
    v->n_text = 0;
    memset(v->n_same, 0, sizeof(v->n_same));
    v->detok = (struct vl_detok){0};
    v->filter = (struct vl_text_filter){.one_line = v->filter.one_line};
}

/* ---- saying ---- */

/* False: it would be too much, and nothing was said. */
static bool say_bytes(struct vl_voice *v, char *bytes, size_t n)
{
    n = vl_text_filter_run(&v->filter, bytes, n, bytes);
    if (n > v->max_text - v->n_text)
        return false;
    vl_outbox_put_text(v->out, bytes, n);
    v->n_text += n;
    return true;
}

static void remember(struct vl_voice *v, int32_t id)
{
    uint32_t cap = sizeof(v->recent) / sizeof(v->recent[0]);
    if (v->n_recent == cap) {
        memmove(v->recent, v->recent + cap / 2, cap / 2 * sizeof(v->recent[0]));
        v->n_recent = cap / 2;
    }
    v->recent[v->n_recent++] = id;
}

/* A period that has come back three times and eight tokens more is a loop that a model does not leave. */
static bool is_loop(struct vl_voice *v)
{
    bool loop = false;
    for (uint32_t p = 1; p <= VL_VOICE_PERIODS && p < v->n_said; p++) {
        bool same = v->recent[v->n_recent - 1] == v->recent[v->n_recent - 1 - p];
        v->n_same[p] = same ? v->n_same[p] + 1 : 0;
        loop |= v->n_same[p] >= 3 * p + 8;
    }
    return loop;
}

static int finish(struct vl_voice *v, int32_t unfed)
{
    char tail[VL_DETOK_MAX];
    size_t n;
    vl_detok_flush(&v->detok, tail, &n);
    (void)say_bytes(v, tail, n); /* half a code point: no loss */
    v->next = unfed;
    move(v, VL_VOICE_IDLE);
    return 0;
}

static int say(struct vl_voice *v, int32_t id)
{
    char piece[VL_DETOK_MAX];
    size_t n;
    int r = vl_detok_push(vl_model_tokenizer(v->m->model), &v->detok, id, piece, &n);
    if (r < 0)
        return r;
    v->n_said++;
    remember(v, id);
    bool fits = say_bytes(v, piece, n);
    if (!fits || v->n_said == v->max_said || is_loop(v))
        return finish(v, id);
    v->next = id;
    if (v->state != VL_VOICE_STEP)
        move(v, VL_VOICE_STEP);
    return VL_VOICE_MORE;
}

static bool is_finite(const struct vl_tensor *logits)
{
    const float *f = logits->data;
    size_t n = vl_tensor_bytes(logits) / sizeof(*f);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(f[i]))
            return false;
    return true;
}

/* What the sequence's last logits lead to. */
static int conclude(struct vl_voice *v, struct vl_tensor *logits)
{
    int r = v->m->ops->sync(&v->m->x);
    if (r < 0)
        return r;
    if (!is_finite(logits)) {
        move(v, VL_VOICE_IDLE);
        return VL_VOICE_NUMERIC;
    }
    if (!v->speaks) {
        move(v, VL_VOICE_IDLE);
        return 0;
    }
    uint32_t n = v->n_recent < VL_VOICE_RECENT ? v->n_recent : VL_VOICE_RECENT;
    *logits = vl_tensor_1d(logits->data, VL_F32, v->m->desc->n_vocab);
    int32_t id;
    r = vl_sampler_pick(&v->sampler, &v->m->x, logits, v->recent + v->n_recent - n, n, NULL, &id);
    if (r < 0)
        return r;
    if (vl_tokenizer_is_end(vl_model_tokenizer(v->m->model), id))
        return finish(v, -1);
    return say(v, id);
}

/* ---- quanta ---- */

/* Whether this piece's last words are those of a frame, and the policy wants to know what they look at. */
static int begin_probe(struct vl_voice *v, const int32_t *id, uint32_t n, bool last, struct vl_probe *ret)
{
    uint32_t heads = v->m->geometry.n_kv_heads;
    bool of_frame = last && v->row.data && v->state == VL_VOICE_PREFILL;
    *ret = (struct vl_probe){.n_layers = of_frame ? vl_kv_probes(v->kv) : 0};
    while (ret->n_layers && ret->n_rows < n && ret->n_rows < VL_VOICE_PROBED && id[n - 1 - ret->n_rows] >= 0)
        ret->n_rows++;
    return ret->n_rows ? vl_scratch_2d(&v->m->x, &ret->mass, VL_F32, heads, vl_kv_n_tokens(v->kv)) : 0;
}

/* Told to the cache, which tells its policy when the frame is done. */
static int end_probe(struct vl_voice *v, const struct vl_probe *pr)
{
    const uint32_t heads = pr->mass.dim[0], n = pr->mass.dim[1], layers = v->m->geometry.n_layers;
    struct vl_tensor host = vl_tensor_2d(v->m->mass, VL_F32, heads, n);
    int r = v->m->ops->copy(&v->m->x, &host, &pr->mass);
    if (r == 0)
        r = v->m->ops->sync(&v->m->x);
    if (r == 0)
        vl_kv_observe(v->kv, v->m->mass, heads, n, pr->n_layers < layers ? pr->n_layers : layers);
    return r;
}

static int run_piece(struct vl_voice *v, const int32_t *id, uint32_t n, uint32_t slot, bool last)
{
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < n; i++)
        n_rows += id[i] < 0;
    struct vl_tensor row = n_rows ? vl_tensor_rows(&v->row, v->row_at, n_rows) : v->row;
    struct vl_span span = {.kv = v->kv, .slot = slot, .n = n, .n_logits = last ? 1 : 0};
    struct vl_batch b = {.id = id,
                         .row = n_rows ? &row : NULL,
                         .span = &span,
                         .n_spans = 1,
                         .n = n,
                         .prune = last ? v->prune : NULL};
    v->prune = last ? NULL : v->prune;
    struct vl_tensor logits = {0};
    struct vl_probe probe;
    size_t mark = vl_arena_mark(v->m->x.scratch);
    int r = begin_probe(v, id, n, last, &probe);
    span.probe = probe.n_rows ? &probe : NULL;
    if (r == 0)
        r = vl_model_arch(v->m->model)->run(v->m->model, &v->m->x, &b, &logits);
    v->row_at += n_rows;
    if (r == 0 && probe.n_rows)
        r = end_probe(v, &probe);
    if (r == 0)
        r = last ? conclude(v, &logits) : VL_VOICE_MORE;
    vl_arena_reset(v->m->x.scratch, mark);
    return r;
}

int vl_voice_prefill(struct vl_voice *v)
{
    assert(v->state == VL_VOICE_PREFILL);
    uint32_t left = v->n - v->at, max = v->m->quantum, n = left < max ? left : max, at = v->at;
    v->at += n;
    return run_piece(v, v->id + at, n, v->slot + at, n == left);
}

int vl_voice_step(struct vl_voice *v)
{
    assert(v->state == VL_VOICE_STEP);
    int32_t id = v->next;
    struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = 1, .unit = v->unit, .extent = 1};
    uint32_t slot;
    int r;
    while ((r = vl_kv_append(v->kv, &v->m->x, &s, &slot)))
        if ((r = make_room(v, r, 1)))
            return r == VL_VOICE_FULL ? finish(v, id) : r; /* full: it ends here, as if by length */
    return run_piece(v, &id, 1, slot, true);
}
