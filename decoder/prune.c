/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The stage in the decoder: probe, ask, drop. The reducer sees visual tokens alone; here they are told from
 * the text between them. The trap: rows of one question see one another causally, while scores are of the
 * visual tokens, which stand before all of them. */
#include "decoder/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t vl_prune_scratch(uint32_t max_tokens, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim)
{
    size_t rows = (size_t)VL_PRUNE_MAX_QUERIES * n_heads, n = max_tokens;
    size_t floats = rows * head_dim + 2 * n * n_kv_heads + 2 * n + 2 * rows * (n / 256 + 2);
    return floats * sizeof(float) + 4096; /* and what alignment takes */
}

void vl_prune_done(struct vl_prune *p)
{
    vl_reducer_done(&p->reducer);
    free(p->seen);
    free(p->pos);
    free(p->key_pos);
    free(p->bias);
    free(p->index);
    free(p->gone);
    memset(p, 0, sizeof(*p));
}

int vl_prune_init(struct vl_prune *p, struct vl_kv *kv, const struct vl_reducer_ops *ops,
                  const struct vl_params *params, uint32_t budget, const struct vl_prune_shape *s,
                  struct vl_error *err)
{
    struct vl_kv_stats st;
    vl_kv_get_stats(kv, &st);
    *p = (struct vl_prune){.kv = kv, .n_layers = s->n_layers, .grid_w = s->grid_w, .grid_h = s->grid_h};
    p->n_visual = st.n_visual;
    p->max_tokens = vl_kv_n_tokens(kv) + s->n_more;
    const size_t n = p->n_visual + 1; /* nothing in view is no error */
    p->seen = calloc(n, sizeof(*p->seen));
    p->pos = calloc(n, sizeof(*p->pos));
    p->key_pos = calloc(p->max_tokens, sizeof(*p->key_pos));
    p->bias = calloc(p->max_tokens, sizeof(*p->bias));
    p->index = calloc(n, sizeof(*p->index));
    p->gone = calloc(n, sizeof(*p->gone));
    if (!p->seen || !p->pos || !p->key_pos || !p->bias || !p->index || !p->gone)
        return vl_error_set(err, -ENOMEM, "no memory to choose among %u tokens", p->n_visual);
    const uint32_t n_seen = vl_kv_visual(kv, 0, p->seen);
    uint64_t n_frames = 0;
    for (uint32_t i = 0; i < n_seen; i++)
        n_frames += i == 0 || p->seen[i].segment != p->seen[i - 1].segment;
    const uint64_t all = budget * n_frames;
    p->budget = all > p->n_visual ? p->n_visual : (uint32_t)all;
    const struct vl_reducer_shape shape = {
        .max_tokens = (uint32_t)n, .d_model = s->d_model, .n_layers = s->n_layers};
    return vl_reducer_init(&p->reducer, ops, params, &shape, err);
}

bool vl_prune_asks(const struct vl_prune *p, unsigned layer, struct vl_reducer_probe *ret)
{
    struct vl_reducer_probe how = {.n_queries = 0};
    if (p->budget >= p->n_visual) /* nothing in view, or room for all */
        return false;
    if (!p->reducer.ops->probe(p->reducer.state, layer, p->n_layers, &how))
        return false;
    how.n_queries = how.n_queries > VL_PRUNE_MAX_QUERIES ? VL_PRUNE_MAX_QUERIES : how.n_queries;
    *ret = how;
    return how.n_queries > 0;
}

/* Where each visual token stands in its frame: by the picture's own axes where positions have them, else by
 * the order of a raster. */
static void locate(struct vl_prune *p, uint32_t n)
{
    uint32_t frame = 0;
    for (uint32_t i = 0; i < n; i++) {
        const int64_t *rel = p->seen[i].rel;
        frame += i > 0 && p->seen[i].segment != p->seen[i - 1].segment;
        bool raster = rel[0] == rel[1] && rel[1] == rel[2];
        p->pos[i] = (struct vl_grid_pos){.t = frame,
                                         .y = (uint16_t)(raster ? rel[0] / p->grid_w : rel[1]),
                                         .x = (uint16_t)(raster ? rel[0] % p->grid_w : rel[2])};
    }
}

/* The positions of what the layer sees, slot by slot of its view. */
static int list_positions(struct vl_prune *p, unsigned layer, uint32_t n_tokens)
{
    const int64_t(*pos)[3] = vl_kv_positions(p->kv, 0);
    uint32_t n_all = vl_kv_n_tokens(p->kv), n = 0;
    for (uint32_t slot = 0; slot < n_all; slot++)
        if (vl_kv_sees(p->kv, layer, slot)) {
            if (n == p->max_tokens)
                return -EINVAL;
            memcpy(p->key_pos[n++], pos[slot], sizeof(pos[slot]));
        }
    return n == n_tokens ? 0 : -EINVAL;
}

/* Hides all but the n visual tokens from a softmax. */
static int hide_text(struct vl_prune *p, struct vl_exec *x, uint32_t n, uint32_t n_tokens,
                     struct vl_tensor *ret)
{
    for (uint32_t i = 0; i < n_tokens; i++)
        p->bias[i] = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        p->bias[p->seen[i].at] = 0;
    const struct vl_tensor host = vl_tensor_1d(p->bias, VL_F32, n_tokens);
    int r = vl_scratch_1d(x, ret, VL_F32, n_tokens);
    return r < 0 ? r : x->ops->copy(x, ret, &host);
}

static struct vl_tensor columns(const struct vl_tensor *t, uint32_t first, uint32_t n)
{
    struct vl_tensor part = *t;
    part.data = (char *)t->data + first * sizeof(float);
    part.dim[1] = n;
    return part;
}

/* ret [n_kv_heads, n] = the visual columns of all [n_kv_heads, n_tokens], a run at a time. */
static int pick_visual(const struct vl_prune *p, struct vl_exec *x, const struct vl_tensor *all, uint32_t n,
                       struct vl_tensor *ret)
{
    int r = vl_scratch_2d(x, ret, VL_F32, all->dim[0], n);
    for (uint32_t i = 0, run; r == 0 && i < n; i += run) {
        for (run = 1; i + run < n && p->seen[i + run].at == p->seen[i].at + run; run++)
            ;
        struct vl_tensor dst = columns(ret, i, run), src = columns(all, p->seen[i].at, run);
        r = x->ops->copy(x, &dst, &src);
    }
    return r;
}

static int probe(struct vl_prune *p, struct vl_exec *x, unsigned layer, const struct vl_reducer_probe *how,
                 const struct vl_tensor *q, const struct vl_rope *rope, uint32_t n, struct vl_tensor *ret)
{
    struct vl_kv_view view;
    struct vl_tensor all, bias;
    struct vl_probe_params params = {.scale = (float)(1.0 / sqrt(q->dim[2]))};
    int r = vl_kv_view(p->kv, layer, &view);
    if (r < 0 || view.n_tokens > p->max_tokens)
        return r < 0 ? r : -EINVAL;
    if (how->undo_rope) {
        if ((r = list_positions(p, layer, view.n_tokens)) < 0)
            return r;
        params.key_pos = (const int64_t(*)[3])p->key_pos;
        params.rope = rope;
    }
    if (how->among_visual) {
        if ((r = hide_text(p, x, n, view.n_tokens, &bias)) < 0)
            return r;
        params.key_bias = &bias;
    }
    if ((r = vl_scratch_2d(x, &all, VL_F32, view.n_kv_heads, view.n_tokens)) < 0 ||
        (r = x->ops->probe(x, &all, q, &view, &params)) < 0)
        return r;
    return pick_visual(p, x, &all, n, ret);
}

/* Drops what the answer does not name. An answer that breaks the contract is refused. */
static int apply(struct vl_prune *p, struct vl_exec *x, unsigned layer, bool this_layer, uint32_t n,
                 const struct vl_kept *kept)
{
    if (kept->n == 0 || kept->n > n || kept->index.dim[0] != kept->n)
        return -EINVAL;
    struct vl_tensor host = vl_tensor_1d(p->index, VL_I32, kept->n);
    int r = x->ops->copy(x, &host, &kept->index);
    if (r < 0 || (r = x->ops->sync(x)) < 0)
        return r;
    uint32_t n_gone = 0, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (at < kept->n && p->index[at] == (int32_t)i)
            at++;
        else
            p->gone[n_gone++] = p->seen[i].slot;
    }
    if (at != kept->n) /* not ascending, or out of range */
        return -EINVAL;
    if (p->n_visual - kept->n > p->n_pruned)
        p->n_pruned = p->n_visual - kept->n;
    const unsigned first = this_layer ? layer : layer + 1, end = this_layer ? layer + 1 : p->n_layers;
    return vl_kv_drop(p->kv, first, end, p->gone, n_gone);
}

int vl_prune_run(struct vl_prune *p, struct vl_exec *x, unsigned layer, const struct vl_reducer_probe *how,
                 const struct vl_tensor *q, const struct vl_rope *rope)
{
    const uint32_t n = vl_kv_visual(p->kv, layer, p->seen);
    if (n == 0 || n <= p->budget)
        return 0;
    struct vl_tensor score;
    struct vl_kept kept = {.n = 0};
    size_t mark = vl_arena_mark(x->scratch);
    locate(p, n);
    const struct vl_visual_tokens tok = {.pos = p->pos, .n = n, .grid_w = p->grid_w, .grid_h = p->grid_h};
    int r = probe(p, x, layer, how, q, rope, n, &score);
    if (r == 0)
        r = p->reducer.ops->in_decoder(p->reducer.state, x, layer, &tok, &score, p->budget, &kept);
    if (r == 0)
        r = apply(p, x, layer, how->this_layer, n, &kept);
    vl_arena_reset(x->scratch, mark);
    return r;
}
