/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* SigLIP's encoder over backend ops. Between two steps nothing is held but h, of which merging leaves the
 * first rows; every block gives its scratch back. */
#include "vision/vit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int key_u32(const struct vl_weights *w, const char *name, uint32_t min, uint32_t max, uint32_t *ret,
                   struct vl_error *err)
{
    char key[96];
    (void)snprintf(key, sizeof(key), "clip.vision.%s", name);
    return vl_weights_need_u32(w, key, min, max, ret, err);
}

static const struct vl_weights_tensor *layer_tensor(const struct vl_weights *w, uint32_t l, const char *name)
{
    char full[VL_WEIGHTS_MAX_NAME + 1];
    (void)snprintf(full, sizeof(full), "v.blk.%u.%s", l, name);
    return vl_weights_find(w, full);
}

/* Depth and width as the tensors have them. Old converters swapped the names of the two feed-forward
 * matrices: the one that maps d to d_ff is the first, whatever it is called. */
static int read_shape(struct vl_vit *v, const struct vl_weights *w, struct vl_error *err)
{
    while (v->n_layers < 512 && layer_tensor(w, v->n_layers, "ln1.weight"))
        v->n_layers++;
    const struct vl_weights_tensor *up = layer_tensor(w, 0, "ffn_up.weight"),
                                   *down = layer_tensor(w, 0, "ffn_down.weight");
    if (!v->n_layers || !up || !down || up->n_dims != 2 || down->n_dims != 2)
        return vl_error_set(err, -EINVAL,
                            "%s has no encoder (v.blk.0.ln1, ffn_up, ffn_down); is it an mmproj file?",
                            vl_weights_name(w));
    v->swapped_ffn = down->dim[1] == v->d_model && up->dim[1] != v->d_model;
    v->d_ff = v->swapped_ffn ? down->dim[0] : up->dim[0];
    return 0;
}

static int read_pixels(struct vl_vit *v, const struct vl_weights *w, struct vl_error *err)
{
    int r;
    if ((r = vl_weights_get_f32s(w, "clip.vision.image_mean", v->mean, 3, err)) < 0 ||
        (r = vl_weights_get_f32s(w, "clip.vision.image_std", v->std, 3, err)) < 0)
        return r;
    if (r == VL_WEIGHTS_ABSENT)
        return vl_error_set(err, -EINVAL, "%s: clip.vision.image_mean or image_std is missing",
                            vl_weights_name(w));
    for (int c = 0; c < 3; c++)
        if (!isfinite(v->mean[c]) || !isfinite(v->std[c]) || !(v->std[c] > 0))
            return vl_error_set(err, -EINVAL, "%s: clip.vision.image_std must be three positive numbers",
                                vl_weights_name(w));
    return 0;
}

static const char delta_name[] = "v.patch_embd.delta.weight";

int vl_vit_init(struct vl_vit *v, const struct vl_weights *w, struct vl_error *err)
{
    *v = (struct vl_vit){.eps = 1e-6f};
    int r;
    if ((r = key_u32(w, "embedding_length", 1, 1 << 14, &v->d_model, err)) < 0 ||
        (r = key_u32(w, "attention.head_count", 1, 512, &v->n_heads, err)) < 0 ||
        (r = key_u32(w, "patch_size", 1, 256, &v->patch, err)) < 0 ||
        (r = key_u32(w, "image_size", 1, 4096, &v->image_size, err)) < 0 ||
        (r = read_pixels(v, w, err)) < 0 || (r = read_shape(v, w, err)) < 0)
        return r;
    v->grid = v->image_size / v->patch;
    if (v->grid == 0 || v->grid > 128)
        return vl_error_set(err, -EINVAL,
                            "%s: pictures of %u in patches of %u make a grid of %u; 1 to 128 is possible",
                            vl_weights_name(w), v->image_size, v->patch, v->grid);
    if (v->d_model % v->n_heads)
        return vl_error_set(err, -EINVAL, "%s: width %u does not divide into %u heads", vl_weights_name(w),
                            v->d_model, v->n_heads);
    v->sees_change = vl_weights_find(w, delta_name);
    v->layer = calloc(v->n_layers, sizeof(*v->layer));
    return v->layer ? 0 : vl_error_set(err, -ENOMEM, "no memory for %u layers", v->n_layers);
}

void vl_vit_done(struct vl_vit *v)
{
    free(v->layer);
    *v = (struct vl_vit){0};
}

static int bind_layer(struct vl_vit *v, uint32_t l, struct vl_bind *b, struct vl_error *err)
{
    struct vl_vit_layer *y = &v->layer[l];
    const uint32_t c = v->d_model, f = v->d_ff;
    const bool s = v->swapped_ffn;
    const struct vl_bind_row rows[] = {
        {"v.blk.N.ln1.weight", VL_BIND_F32, {c}, &y->ln1, false, NULL, 0},
        {"v.blk.N.ln1.bias", VL_BIND_F32, {c}, &y->ln1_b, false, NULL, 0},
        {"v.blk.N.attn_q.weight", VL_BIND_WEIGHT, {c, c}, &y->q, false, NULL, 0},
        {"v.blk.N.attn_q.bias", VL_BIND_F32, {c}, &y->q_b, false, NULL, 0},
        {"v.blk.N.attn_k.weight", VL_BIND_WEIGHT, {c, c}, &y->k, false, NULL, 0},
        {"v.blk.N.attn_k.bias", VL_BIND_F32, {c}, &y->k_b, false, NULL, 0},
        {"v.blk.N.attn_v.weight", VL_BIND_WEIGHT, {c, c}, &y->v, false, NULL, 0},
        {"v.blk.N.attn_v.bias", VL_BIND_F32, {c}, &y->v_b, false, NULL, 0},
        {"v.blk.N.attn_out.weight", VL_BIND_WEIGHT, {c, c}, &y->o, false, NULL, 0},
        {"v.blk.N.attn_out.bias", VL_BIND_F32, {c}, &y->o_b, false, NULL, 0},
        {"v.blk.N.ln2.weight", VL_BIND_F32, {c}, &y->ln2, false, NULL, 0},
        {"v.blk.N.ln2.bias", VL_BIND_F32, {c}, &y->ln2_b, false, NULL, 0},
        {s ? "v.blk.N.ffn_down.weight" : "v.blk.N.ffn_up.weight",
         VL_BIND_WEIGHT,
         {f, c},
         &y->up,
         false,
         NULL,
         0},
        {s ? "v.blk.N.ffn_down.bias" : "v.blk.N.ffn_up.bias", VL_BIND_F32, {f}, &y->up_b, false, NULL, 0},
        {s ? "v.blk.N.ffn_up.weight" : "v.blk.N.ffn_down.weight",
         VL_BIND_WEIGHT,
         {c, f},
         &y->down,
         false,
         NULL,
         0},
        {s ? "v.blk.N.ffn_up.bias" : "v.blk.N.ffn_down.bias", VL_BIND_F32, {c}, &y->down_b, false, NULL, 0},
    };
    return vl_bind_add(b, rows, sizeof(rows) / sizeof(rows[0]), l, err);
}

int vl_vit_bind(struct vl_vit *v, struct vl_bind *b, struct vl_error *err)
{
    const uint32_t c = v->d_model;
    const struct vl_bind_row rows[] = {
        {"v.patch_embd.weight", VL_BIND_WEIGHT, {c, 3, v->patch, v->patch}, &v->patch_embd, false, NULL, 0},
        {"v.patch_embd.bias", VL_BIND_F32, {c}, &v->patch_b, false, NULL, 0},
        {delta_name, VL_BIND_WEIGHT, {c, 3, v->patch, v->patch}, &v->delta, true, NULL, 0},
        {"v.position_embd.weight", VL_BIND_F32, {v->grid * v->grid, c}, &v->pos, false, NULL, 0},
        {"v.post_ln.weight", VL_BIND_F32, {c}, &v->post, false, NULL, 0},
        {"v.post_ln.bias", VL_BIND_F32, {c}, &v->post_b, false, NULL, 0},
    };
    int r = vl_bind_add(b, rows, sizeof(rows) / sizeof(rows[0]), 0, err);
    for (uint32_t l = 0; r == 0 && l < v->n_layers; l++)
        r = bind_layer(v, l, b, err);
    return r;
}

/* y in scratch = a * w^T + bias */
static int linear(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                  const struct vl_tensor *w, const struct vl_tensor *bias)
{
    int r = vl_scratch_2d(x, y, VL_F32, a->dim[0], w->dim[0]);
    if (r || (r = x->ops->matmul(x, y, a, w)))
        return r;
    return x->ops->add(x, y, y, bias);
}

static int add_linear(struct vl_vit_pass *p, struct vl_exec *x, const struct vl_tensor *a,
                      const struct vl_tensor *w, const struct vl_tensor *bias)
{
    struct vl_tensor y;
    int r = linear(x, &y, a, w, bias);
    return r ? r : x->ops->add(x, &p->h, &p->h, &y);
}

/* ---- host memory ---- */

int vl_vit_host_init(struct vl_vit_host *host, const struct vl_vit *v)
{
    const size_t n = (size_t)v->grid * v->grid;
    *host = (struct vl_vit_host){
        .pos = calloc(n, sizeof(*host->pos)),
        .weight = calloc(n, sizeof(*host->weight)),
        .bias = calloc(n, sizeof(*host->bias)),
        .row = calloc(n, sizeof(*host->row)),
        .place = calloc(n, sizeof(*host->place)),
        .work = calloc(n, VL_REDUCER_HOST * sizeof(*host->work)),
        .by_head = calloc(n * v->n_heads, sizeof(*host->by_head)),
        .saliency = calloc(n, sizeof(*host->saliency)),
    };
    const bool made = host->pos && host->weight && host->bias && host->row && host->place && host->work &&
                      host->by_head && host->saliency;
    return made ? 0 : -ENOMEM;
}

void vl_vit_host_done(struct vl_vit_host *host)
{
    free(host->pos);
    free(host->weight);
    free(host->bias);
    free(host->row);
    free(host->place);
    free(host->work);
    free(host->by_head);
    free(host->saliency);
    *host = (struct vl_vit_host){0};
}

static void fill_host(const struct vl_vit_pass *p)
{
    const uint32_t g = p->grid, whole = p->vit->grid;
    for (uint32_t i = 0; i < g * g; i++) {
        const uint32_t y = i / g, x = i % g;
        p->host->pos[i] = (struct vl_grid_pos){0, (uint16_t)y, (uint16_t)x};
        p->host->weight[i] = 1;
        p->host->bias[i] = 0;
        p->host->row[i] = (int32_t)i;
        p->host->place[i] = (int32_t)(y * whole / g * whole + x * whole / g);
    }
}

/* ---- the first map ---- */

/* A smaller view takes its positions from the whole table, at the place where each patch begins in it, as
 * Idefics3 does it for pictures of fewer patches. */
static int add_places(struct vl_vit_pass *p, struct vl_exec *x)
{
    const struct vl_vit *v = p->vit;
    if (p->grid == v->grid)
        return x->ops->add(x, &p->h, &p->h, &v->pos);
    const uint32_t n = p->grid * p->grid;
    const struct vl_tensor host = vl_tensor_1d(p->host->place, VL_I32, n);
    struct vl_tensor index, rows;
    const size_t mark = vl_arena_mark(x->scratch);
    int r;
    if ((r = vl_scratch_1d(x, &index, VL_I32, n)) == 0 &&
        (r = vl_scratch_2d(x, &rows, VL_F32, n, v->d_model)) == 0 &&
        (r = x->ops->copy(x, &index, &host)) == 0 && (r = x->ops->gather(x, &rows, &v->pos, &index)) == 0)
        r = x->ops->add(x, &p->h, &p->h, &rows);
    vl_arena_reset(x->scratch, mark);
    return r;
}

/* The patch embedding of two frames (ViViT, arXiv 2103.15691) whose kernels are delta for the earlier and
 * patch_embd - delta for the later one: x = W now + D (before - now). What has not changed adds nothing. */
static int add_change(struct vl_vit_pass *p, struct vl_exec *x, const struct vl_tensor *change)
{
    struct vl_tensor y;
    const size_t mark = vl_arena_mark(x->scratch);
    int r = vl_scratch_2d(x, &y, VL_F32, p->h.dim[0], p->h.dim[1]);
    if (r == 0 && (r = x->ops->matmul(x, &y, change, &p->vit->delta)) == 0)
        r = x->ops->add(x, &p->h, &p->h, &y);
    vl_arena_reset(x->scratch, mark);
    return r;
}

int vl_vit_begin(struct vl_vit_pass *p, const struct vl_vit *v, struct vl_exec *x,
                 const struct vl_tensor *patches, const struct vl_tensor *change, uint32_t grid,
                 struct vl_vit_host *host, const struct vl_reducer *reducer)
{
    *p = (struct vl_vit_pass){.vit = v, .grid = grid, .host = host, .reducer = reducer};
    int r;
    if (grid == 0 || grid > v->grid || patches->dim[0] != grid * grid || (change && !v->sees_change))
        return -EINVAL;
    fill_host(p);
    if ((r = linear(x, &p->h, patches, &v->patch_embd, &v->patch_b)) ||
        (change && (r = add_change(p, x, change))) || (r = add_places(p, x)))
        return r;
    vl_tap(x, &p->h, "vit.embed");
    return 0;
}

/* ---- blocks ---- */

static struct vl_tensor heads(const struct vl_vit *v, const struct vl_tensor *t)
{
    return vl_tensor_3d(t->data, VL_F32, t->dim[0], v->n_heads, v->d_model / v->n_heads);
}

/* The log of what each key stands for, in scratch, when any stands for more than itself. *ret: bias, or NULL.
 */
static int weigh_keys(const struct vl_vit_pass *p, struct vl_exec *x, struct vl_tensor *bias,
                      const struct vl_tensor **ret)
{
    const uint32_t n = p->h.dim[0];
    *ret = NULL;
    if (n == p->grid * p->grid)
        return 0;
    const struct vl_tensor host = vl_tensor_1d(p->host->bias, VL_F32, n);
    int r = vl_scratch_1d(x, bias, VL_F32, n);
    *ret = bias;
    return r ? r : x->ops->copy(x, bias, &host);
}

/* Attention that each row receives, by head, becomes the patches' saliency. */
static void share_out(const struct vl_vit_pass *p)
{
    const struct vl_vit_host *host = p->host;
    const uint32_t n = p->h.dim[0], n_heads = p->vit->n_heads;
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t h = 0; h < n_heads; h++)
            sum += (double)host->by_head[(size_t)h * n + i];
        host->by_head[i] = (float)(sum / n_heads / (double)host->weight[i]);
    }
    for (uint32_t i = 0; i < p->grid * p->grid; i++)
        host->saliency[i] = host->by_head[host->row[i]];
}

static int measure_saliency(const struct vl_vit_pass *p, struct vl_exec *x, const struct vl_tensor *q,
                            const struct vl_kv_view *kv, const struct vl_attn_params *a)
{
    const struct vl_probe_params params = {.scale = a->scale, .key_bias = a->key_bias};
    struct vl_tensor host = vl_tensor_2d(p->host->by_head, VL_F32, kv->n_kv_heads, kv->n_tokens), sum;
    int r;
    if ((r = vl_scratch_2d(x, &sum, VL_F32, kv->n_kv_heads, kv->n_tokens)) ||
        (r = x->ops->probe(x, &sum, q, kv, &params)) || (r = x->ops->copy(x, &host, &sum)) ||
        (r = x->ops->sync(x)))
        return r;
    share_out(p);
    return 0;
}

static int attend(const struct vl_vit_pass *p, struct vl_exec *x, struct vl_tensor *y,
                  const struct vl_tensor *q, const struct vl_tensor *k, const struct vl_tensor *v)
{
    const struct vl_vit *m = p->vit;
    const uint32_t n = p->h.dim[0], d = m->d_model / m->n_heads;
    struct vl_attn_params params = {.scale = (float)(1.0 / sqrt(d))};
    struct vl_tensor bias, yh = heads(m, y), qh = heads(m, q);
    const struct vl_kv_page page = {
        .k = k->data, .v = v->data, .n_tokens = n, .k_dtype = VL_F32, .v_dtype = VL_F32};
    const struct vl_kv_view view = {
        .page = &page, .n_pages = 1, .n_tokens = n, .n_kv_heads = m->n_heads, .head_dim = d};
    const struct vl_attn_seq seq = {.kv = &view, .n_queries = n};
    const size_t mark = vl_arena_mark(x->scratch);
    int r = weigh_keys(p, x, &bias, &params.key_bias);
    if (r == 0)
        r = x->ops->attention(x, &yh, &qh, &seq, 1, &params);
    if (r == 0 && p->reducer && p->reducer->ops->wants_saliency && p->next_layer + 1 == m->n_layers)
        r = measure_saliency(p, x, &qh, &view, &params);
    vl_arena_reset(x->scratch, mark);
    return r;
}

/* ---- merging ---- */

/* h becomes its first rows, and every patch learns in which of them it is. */
static int apply(struct vl_vit_pass *p, struct vl_exec *x, struct vl_visual_tokens *tok,
                 const struct vl_kept *kept)
{
    struct vl_vit_host *host = p->host;
    const uint32_t n = tok->n;
    if (!kept->merge_into.data) /* a patch that is dropped could not be found again */
        return -EINVAL;
    int r = vl_visual_tokens_apply(x, tok, kept, host->work);
    if (r < 0)
        return r;
    struct vl_tensor rows = vl_tensor_rows(&p->h, 0, tok->n);
    if ((r = x->ops->copy(x, &rows, &tok->feat)) < 0)
        return r;
    p->h = rows;
    for (uint32_t i = 0; i < p->grid * p->grid; i++)
        host->row[i] = host->work[n + (uint32_t)host->row[i]];
    for (uint32_t i = 0; i < tok->n; i++)
        host->bias[i] = logf(host->weight[i]);
    return 0;
}

static int merge(struct vl_vit_pass *p, struct vl_exec *x, const struct vl_tensor *k)
{
    if (!p->reducer || !p->reducer->ops->in_encoder)
        return 0;
    const struct vl_tensor key = heads(p->vit, k);
    struct vl_visual_tokens tok = {.feat = p->h,
                                   .pos = p->host->pos,
                                   .weight = p->host->weight,
                                   .n = p->h.dim[0],
                                   .grid_w = p->grid,
                                   .grid_h = p->grid};
    struct vl_kept kept = {.n = 0};
    const size_t mark = vl_arena_mark(x->scratch);
    int r = p->reducer->ops->in_encoder(p->reducer->state, x, p->next_layer, &tok, &key, &kept);
    if (r == 0 && kept.n != tok.n)
        r = apply(p, x, &tok, &kept);
    vl_arena_reset(x->scratch, mark);
    return r;
}

static int block(struct vl_vit_pass *p, struct vl_exec *x, const struct vl_vit_layer *y)
{
    const struct vl_vit *m = p->vit;
    struct vl_tensor a, q, k, v, att, f;
    int r;
    if ((r = vl_scratch_2d(x, &a, VL_F32, p->h.dim[0], m->d_model)) ||
        (r = x->ops->layer_norm(x, &a, &p->h, &y->ln1, &y->ln1_b, m->eps)) ||
        (r = linear(x, &q, &a, &y->q, &y->q_b)) || (r = linear(x, &k, &a, &y->k, &y->k_b)) ||
        (r = linear(x, &v, &a, &y->v, &y->v_b)) ||
        (r = vl_scratch_2d(x, &att, VL_F32, p->h.dim[0], m->d_model)) ||
        (r = attend(p, x, &att, &q, &k, &v)) || (r = add_linear(p, x, &att, &y->o, &y->o_b)) ||
        (r = merge(p, x, &k)))
        return r;
    a = vl_tensor_rows(&a, 0, p->h.dim[0]);
    if ((r = x->ops->layer_norm(x, &a, &p->h, &y->ln2, &y->ln2_b, m->eps)) ||
        (r = linear(x, &f, &a, &y->up, &y->up_b)) || (r = x->ops->gelu(x, &f, &f)))
        return r;
    return add_linear(p, x, &f, &y->down, &y->down_b);
}

int vl_vit_step(struct vl_vit_pass *p, struct vl_exec *x, unsigned n_layers)
{
    const struct vl_vit *m = p->vit;
    for (; n_layers && p->next_layer < m->n_layers; n_layers--, p->next_layer++) {
        size_t mark = vl_arena_mark(x->scratch);
        int r = block(p, x, &m->layer[p->next_layer]);
        vl_arena_reset(x->scratch, mark);
        if (r)
            return r;
        vl_tap(x, &p->h, "vit.%u", p->next_layer);
    }
    if (p->next_layer < m->n_layers)
        return VL_VIT_MORE;
    int r = x->ops->layer_norm(x, &p->h, &p->h, &m->post, &m->post_b, m->eps);
    vl_tap(x, &p->h, "vit.post");
    return r;
}
