/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * sink_window: the window of StreamingVLM over the sink of StreamingLLM. The pinned prompt stays; the
 * pictures of the newest `window` units stay; words outlive their pictures, up to `text_tokens` tokens, and
 * then leave a whole unit at a time, oldest first. Two departures from the papers: the instruction is pinned
 * instead of leaving with the first turn, and the words of a unit whose picture is still held are not
 * dropped, nor those of the newest unit, since a picture without its time is a worse prompt than a text a
 * little too long.
 *
 * Units never decrease along the slots, so an answer is two thresholds and needs no state but its options.
 */
#include "kvcache/policy.h"

struct sink_window {
    uint32_t window, text_tokens;
};

static const struct vl_param_desc params[] = {
    {"window", "units whose pictures are kept", 8, 1, 4096},
    {"text_tokens", "tokens of earlier words kept, beside the pinned ones", 512, 0, 1 << 20},
    {NULL, NULL, 0, 0, 0},
};

/* All unpinned tokens of a kind whose unit is below the threshold go. */
struct cut {
    uint64_t below[2]; /* by enum vl_kv_kind */
    uint32_t n;        /* tokens named so far */
};

static bool goes(const struct vl_kv_token *t, const struct cut *c)
{
    return !t->pinned && t->unit < c->below[t->kind];
}

/* The oldest unit that keeps unpinned tokens of this kind, and how many. 0 when there is none. */
static uint32_t oldest(const struct vl_kv_token *tok, uint32_t n, const struct cut *c, enum vl_kv_kind kind,
                       uint64_t *ret_unit)
{
    uint32_t n_of_unit = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (tok[i].pinned || tok[i].kind != kind || goes(&tok[i], c))
            continue;
        if (n_of_unit > 0 && tok[i].unit != *ret_unit)
            break;
        *ret_unit = tok[i].unit;
        n_of_unit++;
    }
    return n_of_unit;
}

static void drop_unit(struct cut *c, enum vl_kv_kind kind, uint64_t unit, uint32_t n)
{
    c->below[kind] = unit + 1;
    c->n += n;
}

static uint32_t n_visual_units(const struct vl_kv_token *tok, uint32_t n)
{
    uint32_t units = 0;
    uint64_t last = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (tok[i].pinned || tok[i].kind != VL_KV_VISUAL || (units > 0 && tok[i].unit == last))
            continue;
        last = tok[i].unit;
        units++;
    }
    return units;
}

static void enforce_windows(const struct sink_window *w, const struct vl_kv_token *tok, uint32_t n,
                            struct cut *c)
{
    uint64_t unit = 0, held = UINT64_MAX;
    for (uint32_t units = n_visual_units(tok, n), m; units > w->window; units--) {
        m = oldest(tok, n, c, VL_KV_VISUAL, &unit);
        drop_unit(c, VL_KV_VISUAL, unit, m);
    }
    (void)oldest(tok, n, c, VL_KV_VISUAL, &held);
    uint64_t newest = n > 0 ? tok[n - 1].unit : 0;
    uint32_t text = 0;
    for (uint32_t i = 0; i < n; i++)
        text += !tok[i].pinned && tok[i].kind == VL_KV_TEXT;
    while (text > w->text_tokens) {
        uint32_t m = oldest(tok, n, c, VL_KV_TEXT, &unit);
        if (m == 0 || unit >= held || unit >= newest)
            break;
        drop_unit(c, VL_KV_TEXT, unit, m);
        text -= m;
    }
}

/* Pages ran out: pictures inside the window, then words, oldest first. */
static void give_up(const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted, struct cut *c)
{
    static const enum vl_kv_kind order[] = {VL_KV_VISUAL, VL_KV_TEXT};
    for (int k = 0; k < 2; k++) {
        uint64_t unit = 0;
        uint32_t m;
        while (c->n < n_wanted && (m = oldest(tok, n, c, order[k], &unit)) > 0)
            drop_unit(c, order[k], unit, m);
    }
}

static int pick(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                uint32_t *ret_slots, uint32_t *ret_n)
{
    struct cut c = {{0, 0}, 0};
    enforce_windows(state, tok, n, &c);
    give_up(tok, n, n_wanted, &c);
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++)
        if (goes(&tok[i], &c))
            ret_slots[m++] = i;
    *ret_n = m;
    return 0;
}

static size_t state_size(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers)
{
    (void)p;
    (void)max_tokens;
    (void)n_layers;
    return sizeof(struct sink_window);
}

static int init(void *state, const struct vl_params *p, struct vl_error *err)
{
    struct sink_window *w = state;
    double window = params[0].def, text_tokens = params[1].def;
    if (vl_params_f64(p, params[0].key, &window) < 0 || vl_params_f64(p, params[1].key, &text_tokens) < 0)
        return vl_error_set(err, -EINVAL, "sink_window: '%s' and '%s' are numbers", params[0].key,
                            params[1].key);
    w->window = (uint32_t)window;
    w->text_tokens = (uint32_t)text_tokens;
    return 0;
}

extern const struct vl_kv_policy vl_kv_sink_window;
const struct vl_kv_policy vl_kv_sink_window = {
    .name = "sink_window",
    .paper = "StreamingVLM; StreamingLLM",
    .params = params,
    .state_size = state_size,
    .init = init,
    .pick = pick,
};
