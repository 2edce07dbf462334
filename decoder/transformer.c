/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The forward pass of a Llama decoder, eagerly, one op after the other. Host memory is touched for ids,
 * positions and visibility only; all else is backend memory. Causality is by slot, never by position.
 */
#include "decoder/transformer.h"
#include "decoder/prune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int key_u32(const struct vl_weights *w, const char *name, uint32_t min, uint32_t max, uint32_t *ret,
                   struct vl_error *err)
{
    char key[96];
    (void)snprintf(key, sizeof(key), "llama.%s", name);
    return vl_weights_need_u32(w, key, min, max, ret, err);
}

static int optional_u32(const struct vl_weights *w, const char *name, uint32_t *inout, struct vl_error *err)
{
    char key[96];
    (void)snprintf(key, sizeof(key), "llama.%s", name);
    int r = vl_weights_get_u32(w, key, inout, err);
    return r == VL_WEIGHTS_ABSENT ? 0 : r;
}

static int read_rope(struct vl_decoder *d, const struct vl_weights *w, struct vl_error *err)
{
    float base = 10000;
    uint32_t n_rot = d->head_dim;
    const char *scaling = "none";
    int r = vl_weights_get_f32(w, "llama.rope.freq_base", &base, err);
    if (r < 0 || (r = optional_u32(w, "rope.dimension_count", &n_rot, err)) < 0 ||
        (r = vl_weights_get_str(w, "llama.rope.scaling.type", &scaling, err)) < 0)
        return r;
    if (!(base > 0) || !isfinite(base))
        return vl_error_set(err, -EINVAL, "%s: llama.rope.freq_base is %g; it must be positive",
                            vl_weights_name(w), (double)base);
    if (n_rot != d->head_dim)
        return vl_error_set(err, -EINVAL, "%s: llama.rope.dimension_count is %u, the heads have %u",
                            vl_weights_name(w), n_rot, d->head_dim);
    if (strcmp(scaling, "none") != 0)
        return vl_error_set(err, -ENOTSUP, "%s: llama.rope.scaling.type '%.40s' is not supported",
                            vl_weights_name(w), scaling);
    uint32_t n_pairs = d->head_dim / 2;
    double *freq = calloc(n_pairs, sizeof(*freq));
    uint8_t *axis = calloc(n_pairs, sizeof(*axis));
    d->rope = (struct vl_rope){.n_pairs = n_pairs, .inv_freq = freq, .axis = axis};
    if (!freq || !axis)
        return vl_error_set(err, -ENOMEM, "no memory for the angles of %u pairs", n_pairs);
    for (uint32_t i = 0; i < n_pairs; i++)
        freq[i] = pow(base, -2.0 * i / d->head_dim);
    return 0;
}

int vl_decoder_init(struct vl_decoder *d, const struct vl_weights *w, uint32_t n_vocab, struct vl_error *err)
{
    *d = (struct vl_decoder){.n_vocab = n_vocab};
    int r;
    if ((r = key_u32(w, "block_count", 1, 512, &d->n_layers, err)) < 0 ||
        (r = key_u32(w, "context_length", 1, 1 << 20, &d->n_ctx, err)) < 0 ||
        (r = key_u32(w, "embedding_length", 1, 1 << 16, &d->d_model, err)) < 0 ||
        (r = key_u32(w, "feed_forward_length", 1, 1 << 18, &d->d_ff, err)) < 0 ||
        (r = key_u32(w, "attention.head_count", 1, 512, &d->n_heads, err)) < 0 ||
        (r = vl_weights_need_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-12f, 1, &d->eps, err)) < 0)
        return r;
    d->n_kv_heads = d->n_heads;
    d->head_dim = d->d_model / d->n_heads;
    if ((r = optional_u32(w, "attention.head_count_kv", &d->n_kv_heads, err)) < 0 ||
        (r = optional_u32(w, "attention.key_length", &d->head_dim, err)) < 0)
        return r;
    uint32_t value_len = d->head_dim;
    if ((r = optional_u32(w, "attention.value_length", &value_len, err)) < 0)
        return r;
    if (d->n_kv_heads == 0 || d->n_kv_heads > d->n_heads || d->n_heads % d->n_kv_heads)
        return vl_error_set(err, -EINVAL,
                            "%s: %u query heads cannot share %u key heads (llama.attention.head_count_kv)",
                            vl_weights_name(w), d->n_heads, d->n_kv_heads);
    if (d->head_dim == 0 || d->head_dim > 512 || d->head_dim % 2 || value_len != d->head_dim)
        return vl_error_set(err, -EINVAL,
                            "%s: heads of %u keys and %u values; both must be one even number up to 512",
                            vl_weights_name(w), d->head_dim, value_len);
    if ((r = read_rope(d, w, err)) < 0)
        return r;
    d->layer = calloc(d->n_layers, sizeof(*d->layer));
    return d->layer ? 0 : vl_error_set(err, -ENOMEM, "no memory for %u layers", d->n_layers);
}

void vl_decoder_done(struct vl_decoder *d)
{
    free((void *)d->rope.inv_freq);
    free((void *)d->rope.axis);
    free(d->layer);
    *d = (struct vl_decoder){0};
}

static int bind_layer(struct vl_decoder *d, uint32_t l, struct vl_bind *b, struct vl_error *err)
{
    struct vl_decoder_layer *y = &d->layer[l];
    const uint32_t c = d->d_model, q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
    const struct vl_bind_row rows[] = {
        {"blk.N.attn_norm.weight", VL_BIND_F32, {c}, &y->attn_norm, false, NULL, 0},
        {"blk.N.attn_q.weight", VL_BIND_WEIGHT, {q, c}, &y->q, false, vl_bind_llama_row, d->head_dim},
        {"blk.N.attn_k.weight", VL_BIND_WEIGHT, {kv, c}, &y->k, false, vl_bind_llama_row, d->head_dim},
        {"blk.N.attn_v.weight", VL_BIND_WEIGHT, {kv, c}, &y->v, false, NULL, 0},
        {"blk.N.attn_output.weight", VL_BIND_WEIGHT, {c, q}, &y->o, false, NULL, 0},
        {"blk.N.ffn_norm.weight", VL_BIND_F32, {c}, &y->ffn_norm, false, NULL, 0},
        {"blk.N.ffn_gate.weight", VL_BIND_WEIGHT, {d->d_ff, c}, &y->gate, false, NULL, 0},
        {"blk.N.ffn_up.weight", VL_BIND_WEIGHT, {d->d_ff, c}, &y->up, false, NULL, 0},
        {"blk.N.ffn_down.weight", VL_BIND_WEIGHT, {c, d->d_ff}, &y->down, false, NULL, 0},
    };
    return vl_bind_add(b, rows, sizeof(rows) / sizeof(rows[0]), l, err);
}

int vl_decoder_bind(struct vl_decoder *d, const struct vl_weights *w, struct vl_bind *b, struct vl_error *err)
{
    const struct vl_bind_row rows[] = {
        {"token_embd.weight", VL_BIND_WEIGHT, {d->n_vocab, d->d_model}, &d->embed, false, NULL, 0},
        {"output_norm.weight", VL_BIND_F32, {d->d_model}, &d->norm, false, NULL, 0},
        {"output.weight", VL_BIND_WEIGHT, {d->n_vocab, d->d_model}, &d->output, true, NULL, 0},
    };
    if (vl_weights_find(w, "rope_freqs.weight"))
        return vl_error_set(err, -ENOTSUP, "%s: scaled rope (rope_freqs.weight) is not supported",
                            vl_weights_name(w));
    int r = vl_bind_add(b, rows, sizeof(rows) / sizeof(rows[0]), 0, err);
    for (uint32_t l = 0; r == 0 && l < d->n_layers; l++)
        r = bind_layer(d, l, b, err);
    return r;
}

/* The batch's shape, checked once, and what the layers need of it. */
struct pass {
    const struct vl_decoder *d;
    struct vl_exec *x;
    const struct vl_batch *b;
    struct vl_tensor h; /* [n, d_model], the residual stream */
    struct vl_kv_view view[VL_BATCH_MAX_SPANS];
    struct vl_attn_seq seq[VL_BATCH_MAX_SPANS];
    uint32_t visible[VL_BATCH_MAX_TOKENS][2];
};

static int check_batch(const struct vl_decoder *d, const struct vl_batch *b, uint32_t *ret_n_logits)
{
    uint32_t n = 0, n_rows = 0, n_logits = 0;
    if (b->n == 0 || b->n > VL_BATCH_MAX_TOKENS || b->n_spans == 0 || b->n_spans > VL_BATCH_MAX_SPANS)
        return -EINVAL;
    for (uint32_t s = 0; s < b->n_spans; s++) {
        const struct vl_span *sp = &b->span[s];
        if (sp->n == 0 || sp->n > b->n - n || sp->n_logits > sp->n ||
            sp->slot + sp->n > vl_kv_n_tokens(sp->kv) ||
            (sp->probe && (sp->probe->n_rows == 0 || sp->probe->n_rows > sp->n)))
            return -EINVAL;
        n += sp->n;
        n_logits += sp->n_logits;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->id[i] < -1 || b->id[i] >= (int32_t)d->n_vocab)
            return -EINVAL;
        n_rows += b->id[i] == -1;
    }
    if (n != b->n || n_rows > (b->row ? b->row->dim[0] : 0) ||
        (b->prune && (b->n_spans != 1 || b->prune->kv != b->span->kv)))
        return -EINVAL;
    *ret_n_logits = n_logits;
    return 0;
}

/* Token embeddings and visual rows, each run of a kind at once, into p->h. */
static int embed(struct pass *p)
{
    const struct vl_batch *b = p->b;
    struct vl_tensor index;
    int r = vl_scratch_1d(p->x, &index, VL_I32, b->n);
    for (uint32_t i = 0, row = 0, n; r == 0 && i < b->n; i += n) {
        bool visual = b->id[i] < 0;
        for (n = 1; i + n < b->n && (b->id[i + n] < 0) == visual; n++)
            ;
        struct vl_tensor dst = vl_tensor_rows(&p->h, i, n);
        if (visual) {
            struct vl_tensor src = vl_tensor_rows(b->row, row, n);
            r = p->x->ops->copy(p->x, &dst, &src);
            row += n;
        } else {
            struct vl_tensor ids = vl_tensor_1d((void *)(b->id + i), VL_I32, n),
                             at = vl_tensor_rows(&index, i, n);
            r = p->x->ops->copy(p->x, &at, &ids);
            if (r == 0)
                r = p->x->ops->gather(p->x, &dst, &p->d->embed, &at);
        }
    }
    return r;
}

/* y [n, w->dim[0]] in scratch = a * w^T */
static int linear(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                  const struct vl_tensor *w)
{
    int r = vl_scratch_2d(x, y, VL_F32, a->dim[0], w->dim[0]);
    return r ? r : x->ops->matmul(x, y, a, w);
}

/* h += w * y */
static int add_linear(struct pass *p, const struct vl_tensor *y, const struct vl_tensor *w)
{
    struct vl_tensor o;
    int r = linear(p->x, &o, y, w);
    return r ? r : p->x->ops->add(p->x, &p->h, &p->h, &o);
}

static struct vl_tensor heads(const struct vl_tensor *t, uint32_t first, uint32_t n, uint32_t head_dim)
{
    struct vl_tensor rows = vl_tensor_rows(t, first, n);
    return vl_tensor_3d(rows.data, VL_F32, n, t->dim[1] / head_dim, head_dim);
}

/* Keys and values go to the cache, which rotates them; queries rotate here, by the same positions. */
static int store_and_rotate(struct pass *p, uint32_t l, struct vl_tensor *q, struct vl_tensor *k,
                            struct vl_tensor *v)
{
    uint32_t first = 0;
    for (uint32_t s = 0; s < p->b->n_spans; s++) {
        const struct vl_span *sp = &p->b->span[s];
        struct vl_tensor ks = vl_tensor_rows(k, first, sp->n), vs = vl_tensor_rows(v, first, sp->n);
        struct vl_tensor qs = heads(q, first, sp->n, p->d->head_dim);
        int r = vl_kv_store(sp->kv, p->x, l, sp->slot, &ks, &vs);
        if (r == 0)
            r = p->x->ops->rope(p->x, &qs, vl_kv_positions(sp->kv, sp->slot), &p->d->rope);
        if (r)
            return r;
        first += sp->n;
    }
    return 0;
}

/* What each row sees in this layer: itself and what stands before it. What a layer lacks stands before all
 * rows, so it is counted from the end. */
static int look(struct pass *p, uint32_t l)
{
    uint32_t first = 0;
    for (uint32_t s = 0; s < p->b->n_spans; s++) {
        const struct vl_span *sp = &p->b->span[s];
        int r = vl_kv_view(sp->kv, l, &p->view[s]);
        if (r)
            return r;
        const uint32_t n_lacking = vl_kv_n_tokens(sp->kv) - p->view[s].n_tokens;
        for (uint32_t i = 0; i < sp->n; i++)
            p->visible[first + i][1] = sp->slot + i + 1 - n_lacking;
        p->seq[s] = (struct vl_attn_seq){.kv = &p->view[s], .first_query = first, .n_queries = sp->n};
        first += sp->n;
    }
    return 0;
}

/* The last rows of q, before they are rotated. */
static int keep_rows(struct pass *p, const struct vl_tensor *q, uint32_t n, struct vl_tensor *ret)
{
    const struct vl_tensor src = vl_tensor_rows(q, q->dim[0] - n, n);
    int r = vl_scratch_2d(p->x, ret, VL_F32, n, q->dim[1]);
    return r ? r : p->x->ops->copy(p->x, ret, &src);
}

/* Stores keys and values, and lets a reducer say what is seen of them. */
static int store(struct pass *p, uint32_t l, struct vl_tensor *q, struct vl_tensor *k, struct vl_tensor *v)
{
    struct vl_prune *prune = p->b->prune;
    struct vl_reducer_probe how;
    struct vl_tensor asked;
    const bool asks = prune && vl_prune_asks(prune, l, &how);
    int r = 0;
    if (asks) {
        how.n_queries = how.n_queries < q->dim[0] ? how.n_queries : q->dim[0];
        asked = vl_tensor_rows(q, q->dim[0] - how.n_queries, how.n_queries);
        if (how.undo_rope)
            r = keep_rows(p, q, how.n_queries, &asked);
    }
    if (r == 0)
        r = store_and_rotate(p, l, q, k, v);
    if (r == 0 && asks) {
        asked = heads(&asked, 0, how.n_queries, p->d->head_dim);
        r = vl_prune_run(prune, p->x, l, &how, &asked, &p->d->rope);
    }
    return r ? r : look(p, l);
}

/* Layers are asked at the ends of n_layers equal stretches of them. */
static bool is_probed(const struct vl_probe *pr, uint32_t l, uint32_t n_layers)
{
    uint32_t n = pr->n_layers < n_layers ? pr->n_layers : n_layers;
    return (l + 1) * n / n_layers > l * n / n_layers;
}

static int probe_span(struct pass *p, uint32_t l, uint32_t s, const struct vl_tensor *q)
{
    const struct vl_probe *pr = p->b->span[s].probe;
    const struct vl_attn_seq *seq = &p->seq[s];
    const uint32_t first = seq->first_query + seq->n_queries - pr->n_rows;
    const struct vl_probe_params params = {
        .scale = (float)(1.0 / sqrt(p->d->head_dim)),
        .visible = (const uint32_t(*)[2])p->visible + first,
    };
    const struct vl_tensor rows = heads(q, first, pr->n_rows, p->d->head_dim);
    bool is_first = true;
    for (uint32_t i = 0; i < l; i++)
        is_first &= !is_probed(pr, i, p->d->n_layers);
    struct vl_tensor mass = pr->mass, one = mass;
    size_t mark = vl_arena_mark(p->x->scratch);
    int r = is_first ? 0 : vl_scratch_2d(p->x, &one, VL_F32, mass.dim[0], mass.dim[1]);
    if (r == 0)
        r = p->x->ops->probe(p->x, &one, &rows, seq->kv, &params);
    if (r == 0 && !is_first)
        r = p->x->ops->add(p->x, &mass, &mass, &one);
    vl_arena_reset(p->x->scratch, mark);
    return r;
}

static int probe(struct pass *p, uint32_t l, const struct vl_tensor *q)
{
    int r = 0;
    for (uint32_t s = 0; r == 0 && s < p->b->n_spans; s++)
        if (p->b->span[s].probe && is_probed(p->b->span[s].probe, l, p->d->n_layers))
            r = probe_span(p, l, s, q);
    return r;
}

static int attention(struct pass *p, uint32_t l, const struct vl_tensor *a, struct vl_tensor *ret)
{
    const struct vl_decoder *d = p->d;
    const struct vl_decoder_layer *y = &d->layer[l];
    struct vl_tensor q, k, v;
    int r;
    if ((r = vl_scratch_2d(p->x, ret, VL_F32, p->b->n, d->n_heads * d->head_dim)) ||
        (r = linear(p->x, &q, a, &y->q)) || (r = linear(p->x, &k, a, &y->k)) ||
        (r = linear(p->x, &v, a, &y->v)))
        return r;
    vl_tap(p->x, &k, "dec.%u.k", l);
    vl_tap(p->x, &v, "dec.%u.v", l);
    if ((r = store(p, l, &q, &k, &v)))
        return r;
    struct vl_tensor q3 = heads(&q, 0, p->b->n, d->head_dim), y3 = heads(ret, 0, p->b->n, d->head_dim);
    const struct vl_attn_params params = {
        .scale = (float)(1.0 / sqrt(d->head_dim)),
        .visible = (const uint32_t(*)[2])p->visible,
    };
    r = p->x->ops->attention(p->x, &y3, &q3, p->seq, p->b->n_spans, &params);
    return r ? r : probe(p, l, &q);
}

static int feed_forward(struct pass *p, uint32_t l, const struct vl_tensor *a)
{
    const struct vl_decoder_layer *y = &p->d->layer[l];
    struct vl_tensor gate, up;
    int r;
    if ((r = linear(p->x, &gate, a, &y->gate)) || (r = linear(p->x, &up, a, &y->up)) ||
        (r = p->x->ops->silu_mul(p->x, &gate, &gate, &up)))
        return r;
    return add_linear(p, &gate, &y->down);
}

static int block(struct pass *p, uint32_t l)
{
    const struct vl_decoder_layer *y = &p->d->layer[l];
    struct vl_exec *x = p->x;
    struct vl_tensor a, att;
    size_t mark = vl_arena_mark(x->scratch);
    int r;
    if ((r = vl_scratch_2d(x, &a, VL_F32, p->b->n, p->d->d_model)) == 0 &&
        (r = x->ops->rms_norm(x, &a, &p->h, &y->attn_norm, p->d->eps)) == 0 &&
        (r = attention(p, l, &a, &att)) == 0 && (r = add_linear(p, &att, &y->o)) == 0 &&
        (r = x->ops->rms_norm(x, &a, &p->h, &y->ffn_norm, p->d->eps)) == 0)
        r = feed_forward(p, l, &a);
    vl_arena_reset(x->scratch, mark);
    vl_tap(x, &p->h, "dec.%u", l);
    return r;
}

/* Logits of the rows that were asked for: they are gathered first, so that the vocabulary is not paid for
 * others. */
static int head(struct pass *p, struct vl_tensor *logits)
{
    struct vl_exec *x = p->x;
    struct vl_tensor a;
    uint32_t first = 0, at = 0;
    int r = vl_scratch_2d(x, &a, VL_F32, logits->dim[0], p->d->d_model);
    for (uint32_t s = 0; r == 0 && s < p->b->n_spans; s++) {
        const struct vl_span *sp = &p->b->span[s];
        first += sp->n;
        if (sp->n_logits) {
            struct vl_tensor src = vl_tensor_rows(&p->h, first - sp->n_logits, sp->n_logits);
            struct vl_tensor dst = vl_tensor_rows(&a, at, sp->n_logits);
            r = x->ops->copy(x, &dst, &src);
            at += sp->n_logits;
        }
    }
    if (r || (r = x->ops->rms_norm(x, &a, &a, &p->d->norm, p->d->eps)))
        return r;
    vl_tap(x, &a, "dec.norm");
    r = x->ops->matmul(x, logits, &a, p->d->output.dim[0] ? &p->d->output : &p->d->embed);
    vl_tap(x, logits, "logits");
    return r;
}

int vl_decoder_run(const struct vl_decoder *d, struct vl_exec *x, const struct vl_batch *b,
                   struct vl_tensor *ret_logits)
{
    struct pass p = {.d = d, .x = x, .b = b};
    struct vl_tensor logits = {.dtype = VL_F32, .n_dims = 2, .dim = {0, d->n_vocab, 1, 1}};
    uint32_t n_logits;
    int r = check_batch(d, b, &n_logits);
    if (r || (n_logits && (r = vl_scratch_2d(x, &logits, VL_F32, n_logits, d->n_vocab))))
        return r;
    size_t mark = vl_arena_mark(x->scratch);
    if ((r = vl_scratch_2d(x, &p.h, VL_F32, b->n, d->d_model)) == 0)
        r = embed(&p);
    if (r == 0)
        vl_tap(x, &p.h, "dec.embed");
    for (uint32_t l = 0; r == 0 && l < d->n_layers; l++)
        r = block(&p, l);
    if (r == 0 && n_logits)
        r = head(&p, &logits);
    vl_arena_reset(x->scratch, mark);
    if (r == 0)
        *ret_logits = logits;
    return r;
}
