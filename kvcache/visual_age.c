/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * visual_age: the older a picture, the fewer of its tokens are kept, so that the same memory looks back
 * several times further. The pictures of the newest `full` units are whole; from then on every further `step`
 * units halve what is left, while `least` tokens are left of it; after `window` units it goes. Words as in
 * sink_window; but when pages run out, words that have lost their picture go before any picture. No paper of
 * its own: the fading of a StreamingVLM window, after what pyramids of summaries do over time.
 *
 * Which tokens: a token survives as many halvings as its place says, and the surviving sets are nested
 * lattices of the grid: every other place as on a chessboard, then every other row and column, a chessboard
 * of those, and so on. So the answer needs no memory of what was there before, and what a reducer left out on
 * arrival changes nothing for the others. The lattice is shifted from unit to unit: places that the one lost
 * its neighbours in time still have.
 *
 * Memory comes back in whole pages: a picture's tokens are moved together in the pages of that picture
 * alone, so `least` below the tokens of a page makes attention cheaper but frees nothing more.
 *
 * Measured on the built-in model (bench/curves.sh, 30 scenes): above sink_window with half of its bytes, in
 * answers and far more in captions; level with it at a quarter, where one frame is in view.
 */
#include "kvcache/marks.h"

enum { MAX_LEVEL = 31 };

struct visual_age {
    uint32_t window, full, step, least, text_tokens;
    bool gone[]; /* [max_tokens] */
};

static const struct vl_param_desc params[] = {
    {"window", "units of whose pictures anything is kept", 24, 1, 4096},
    {"full", "newest units whose pictures are whole", 2, 0, 4096},
    {"step", "units after which what is left of a picture is halved again", 2, 1, 4096},
    {"least", "tokens below which a picture is not halved", 16, 1, 1 << 16},
    {"text_tokens", "tokens of earlier words kept, beside the pinned ones", 512, 0, 1 << 20},
    {NULL, NULL, 0, 0, 0},
};

/* How many halvings a token survives. With y and x counted from the unit's own corner: the first if y + x is
 * even, the second if both are, the third if (y + x) / 2 is even too, the fourth if both halves are. */
static uint32_t levels_of(const struct vl_kv_token *t)
{
    uint32_t shift = (uint32_t)t->unit, y = t->y + (shift >> 1), x = t->x + (shift ^ (shift >> 1)), k = 0;
    while (k < MAX_LEVEL / 2 && ((y | x) & 1) == 0) {
        y >>= 1;
        x >>= 1;
        k++;
    }
    return 2 * k + ((y + x) % 2 == 0);
}

static bool fades(const struct vl_kv_marks *m, uint32_t slot)
{
    return m->tok[slot].kind == VL_KV_VISUAL && !m->tok[slot].pinned && !m->gone[slot];
}

/* Halves the picture of slots [first, end), which are one unit, `level` times or as often as `least` lets. */
static void fade(struct vl_kv_marks *m, uint32_t first, uint32_t end, uint32_t level, uint32_t least)
{
    uint32_t n_at[MAX_LEVEL + 1] = {0}, n = 0, l = MAX_LEVEL;
    for (uint32_t i = first; i < end; i++)
        if (fades(m, i))
            n_at[levels_of(&m->tok[i])]++;
    for (; l > 0; l--) {
        n += n_at[l];
        if (l <= level && n >= least)
            break;
    }
    for (uint32_t i = first; i < end; i++)
        if (fades(m, i) && levels_of(&m->tok[i]) < l)
            vl_kv_mark(m, i);
}

static void fade_all(const struct visual_age *v, struct vl_kv_marks *m)
{
    uint32_t age = vl_kv_marks_units(m, VL_KV_VISUAL);
    for (uint32_t first = 0, end; first < m->n; first = end) {
        bool seen = false;
        for (end = first; end < m->n && m->tok[end].unit == m->tok[first].unit; end++)
            seen |= fades(m, end);
        age -= seen;
        if (seen && age >= v->full)
            fade(m, first, end, 1 + (age - v->full) / v->step, v->least);
    }
}

static int pick(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                uint32_t *ret_slots, uint32_t *ret_n)
{
    struct visual_age *v = state;
    struct vl_kv_marks m;
    vl_kv_marks_begin(&m, v->gone, tok, n);
    vl_kv_mark_window(&m, v->window);
    fade_all(v, &m);
    vl_kv_mark_text(&m, v->text_tokens);
    vl_kv_mark_text_wanted(&m, n_wanted);
    vl_kv_mark_wanted(&m, n_wanted);
    return vl_kv_marks_answer(&m, ret_slots, ret_n);
}

static size_t state_size(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers)
{
    (void)p;
    (void)n_layers;
    return sizeof(struct visual_age) + max_tokens * sizeof(bool);
}

static int init(void *state, const struct vl_params *p, struct vl_error *err)
{
    struct visual_age *v = state;
    uint32_t *option[] = {&v->window, &v->full, &v->step, &v->least, &v->text_tokens};
    int r = 0;
    for (int i = 0; r == 0 && params[i].key; i++)
        r = vl_kv_option(p, "visual_age", &params[i], option[i], err);
    return r;
}

extern const struct vl_kv_policy vl_kv_visual_age;
const struct vl_kv_policy vl_kv_visual_age = {
    .name = "visual_age",
    .paper = "a window that fades; StreamingVLM",
    .params = params,
    .n_windows = 3,
    .state_size = state_size,
    .init = init,
    .pick = pick,
};
