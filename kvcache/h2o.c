/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * h2o: heavy hitters (H2O, arXiv 2306.14048): the cached tokens that later ones attend to most are kept, and
 * the newest. Published: scores are the sum of all attention a token ever received, per layer and head; at
 * every step the least of those that are not among the newest goes. Ours differs:
 *   - the sum never forgets and so favours what is old: here it is a moving average, of which `half_life`
 *     frames leave half;
 *   - attention is probed once a frame, by the last words before the commentary speaks, at `layers` layers,
 *     and averaged over them and their heads: all layers and heads keep the same tokens;
 *   - pictures and words have budgets of their own, since thousands of visual tokens would leave no word;
 *   - the newest are whole units, and no picture is older than `window` units, since its positions stay where
 *     they are and must not get out of the model's reach;
 *   - when pages run out, what goes is a whole picture, the one with the least attention in all: tokens taken
 *     one here and one there would free no page.
 * A picture's importance is decided before anybody has asked about it.
 *
 * Measured on the built-in model (bench/curves.sh, 30 scenes): above sink_window with half of its bytes,
 * by 3.7 points of answers and 27 of captions; level with it at a quarter, where one frame is in view.
 */
#include "kvcache/marks.h"

#include <math.h>
#include <string.h>

struct h2o {
    uint32_t window, visual_tokens, text_tokens, recent, half_life, layers;
    float keep;       /* of an average when a frame comes */
    uint32_t n_known; /* slots that have a score */
    float score[];    /* [max_tokens], of which n_known are used; then bool gone[n] of a pick */
};

static const float UNSEEN = INFINITY; /* came after the last probe */

static const struct vl_param_desc params[] = {
    {"window", "units of whose pictures anything is kept", 32, 1, 4096},
    {"visual_tokens", "tokens of pictures kept, those of the newest units among them", 512, 0, 1 << 20},
    {"text_tokens", "tokens of words kept, beside the pinned ones", 512, 0, 1 << 20},
    {"recent", "newest units that are whole", 2, 0, 4096},
    {"half_life", "frames after which attention counts half", 4, 1, 4096},
    {"layers", "decoder layers that are probed, evenly spread", 2, 1, 64},
    {NULL, NULL, 0, 0, 0},
};

static float score_of(const struct h2o *h, uint32_t slot)
{
    return slot < h->n_known ? h->score[slot] : UNSEEN;
}

/* Scores are not negative, so their bits are in their order. */
static uint32_t bits_of(float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof(bits));
    return bits;
}

static bool may_go(const struct vl_kv_marks *m, uint32_t slot, enum vl_kv_kind kind, uint64_t safe)
{
    return m->tok[slot].kind == kind && m->tok[slot].unit < safe && !m->tok[slot].pinned && !m->gone[slot];
}

/* The first of the newest `recent` units that are left. */
static uint64_t first_safe_unit(const struct vl_kv_marks *m, uint32_t recent)
{
    uint64_t safe = UINT64_MAX;
    uint32_t n = 0;
    for (uint32_t i = m->n; i > 0; i--) {
        const struct vl_kv_token *t = &m->tok[i - 1];
        if (t->pinned || m->gone[i - 1] || (n > 0 && t->unit == safe))
            continue;
        if (n++ == recent)
            break;
        safe = t->unit;
    }
    return safe;
}

/* Marks the n tokens with the least attention; of equals the older goes first. */
static void mark_lightest(const struct h2o *h, struct vl_kv_marks *m, enum vl_kv_kind kind, uint64_t safe,
                          uint32_t n)
{
    uint32_t low = 0, high = bits_of(UNSEEN); /* the n-th score lies in [low, high] */
    while (low < high) {
        uint32_t mid = low + (high - low) / 2, n_below = 0;
        for (uint32_t i = 0; i < m->n; i++)
            n_below += may_go(m, i, kind, safe) && bits_of(score_of(h, i)) <= mid;
        if (n_below >= n)
            high = mid;
        else
            low = mid + 1;
    }
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < m->n && n > 0; i++) {
            uint32_t bits = bits_of(score_of(h, i));
            if (!may_go(m, i, kind, safe) || (pass == 0 ? bits >= low : bits != low))
                continue;
            vl_kv_mark(m, i);
            n--;
        }
}

static void keep_budget(const struct h2o *h, struct vl_kv_marks *m, enum vl_kv_kind kind, uint64_t safe,
                        uint32_t budget)
{
    uint32_t n_left = 0, n_may = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        n_left += may_go(m, i, kind, UINT64_MAX);
        n_may += may_go(m, i, kind, safe);
    }
    uint32_t n = n_left > budget ? n_left - budget : 0;
    if (n > 0)
        mark_lightest(h, m, kind, safe, n < n_may ? n : n_may);
}

/* The picture with the least attention in all. False: none may go. */
static bool mark_lightest_picture(const struct h2o *h, struct vl_kv_marks *m, uint64_t safe)
{
    uint32_t from = 0, to = 0;
    double least = INFINITY;
    for (uint32_t first = 0, end; first < m->n; first = end) {
        double sum = 0;
        bool any = false;
        for (end = first; end < m->n && m->tok[end].unit == m->tok[first].unit; end++)
            if (may_go(m, end, VL_KV_VISUAL, safe)) {
                float score = score_of(h, end);
                sum += score < UNSEEN ? (double)score : 0;
                any = true;
            }
        if (any && (to == 0 || sum < least)) {
            least = sum;
            from = first;
            to = end;
        }
    }
    for (uint32_t i = from; i < to; i++)
        if (may_go(m, i, VL_KV_VISUAL, safe))
            vl_kv_mark(m, i);
    return to > 0;
}

static int pick(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                uint32_t *ret_slots, uint32_t *ret_n)
{
    struct h2o *h = state;
    struct vl_kv_marks m;
    bool *gone = (bool *)(h->score + (n > h->n_known ? n : h->n_known));
    vl_kv_marks_begin(&m, gone, tok, n);
    vl_kv_mark_window(&m, h->window);
    const uint64_t safe = first_safe_unit(&m, h->recent);
    keep_budget(h, &m, VL_KV_VISUAL, safe, h->visual_tokens);
    keep_budget(h, &m, VL_KV_TEXT, safe, h->text_tokens);
    vl_kv_mark_text_wanted(&m, n_wanted);
    while (m.n_gone < n_wanted && mark_lightest_picture(h, &m, safe))
        ;
    vl_kv_mark_wanted(&m, n_wanted);
    return vl_kv_marks_answer(&m, ret_slots, ret_n);
}

static uint32_t probes(const void *state)
{
    return ((const struct h2o *)state)->layers;
}

static void observe(void *state, const float *mass, uint32_t n)
{
    struct h2o *h = state;
    for (uint32_t i = 0; i < n; i++) {
        float former = score_of(h, i);
        h->score[i] = former < UNSEEN ? h->keep * former + (1 - h->keep) * mass[i] : mass[i];
    }
    h->n_known = n > h->n_known ? n : h->n_known;
}

static void moved(void *state, const uint32_t *kept, uint32_t n)
{
    struct h2o *h = state;
    for (uint32_t i = 0; kept && i < n; i++)
        h->score[i] = score_of(h, kept[i]);
    if (kept || n < h->n_known)
        h->n_known = n;
}

static size_t state_size(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers)
{
    (void)p;
    (void)n_layers;
    return sizeof(struct h2o) + max_tokens * (sizeof(float) + sizeof(bool));
}

static int init(void *state, const struct vl_params *p, struct vl_error *err)
{
    struct h2o *h = state;
    uint32_t *option[] = {&h->window, &h->visual_tokens, &h->text_tokens,
                          &h->recent, &h->half_life,     &h->layers};
    int r = 0;
    for (int i = 0; r == 0 && params[i].key; i++)
        r = vl_kv_option(p, "h2o", &params[i], option[i], err);
    h->keep = (float)exp2(-1.0 / h->half_life);
    return r;
}

extern const struct vl_kv_policy vl_kv_h2o;
const struct vl_kv_policy vl_kv_h2o = {
    .name = "h2o",
    .paper = "H2O",
    .params = params,
    .n_windows = 4,
    .state_size = state_size,
    .init = init,
    .probes = probes,
    .observe = observe,
    .moved = moved,
    .pick = pick,
};
