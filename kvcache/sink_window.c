/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * sink_window: the window of StreamingVLM over the sink of StreamingLLM. The pinned prompt stays; the
 * pictures of the newest `window` units stay; words outlive their pictures, up to `text_tokens` tokens, and
 * then leave a whole unit at a time, oldest first. Two departures from the papers: the instruction is pinned
 * instead of leaving with the first turn, and the words of a unit whose picture is still held are not
 * dropped, nor those of the newest unit, since a picture without its time is a worse prompt than a text a
 * little too long.
 */
#include "kvcache/marks.h"

struct sink_window {
    uint32_t window, text_tokens;
    bool gone[]; /* [max_tokens] */
};

static const struct vl_param_desc params[] = {
    {"window", "units whose pictures are kept", 8, 1, 4096},
    {"text_tokens", "tokens of earlier words kept, beside the pinned ones", 512, 0, 1 << 20},
    {NULL, NULL, 0, 0, 0},
};

static int pick(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                uint32_t *ret_slots, uint32_t *ret_n)
{
    struct sink_window *w = state;
    struct vl_kv_marks m;
    vl_kv_marks_begin(&m, w->gone, tok, n);
    vl_kv_mark_window(&m, w->window);
    vl_kv_mark_text(&m, w->text_tokens);
    vl_kv_mark_wanted(&m, n_wanted);
    return vl_kv_marks_answer(&m, ret_slots, ret_n);
}

static size_t state_size(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers)
{
    (void)p;
    (void)n_layers;
    return sizeof(struct sink_window) + max_tokens * sizeof(bool);
}

static int init(void *state, const struct vl_params *p, struct vl_error *err)
{
    struct sink_window *w = state;
    int r = vl_kv_option(p, "sink_window", &params[0], &w->window, err);
    return r < 0 ? r : vl_kv_option(p, "sink_window", &params[1], &w->text_tokens, err);
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
