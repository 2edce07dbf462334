/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Applies a reducer's answer. Data moves by backend ops; the answer is read back once, because positions and
 * weights live on the host. The trap: the null backend copies nothing, so what is read back is preset to a
 * valid answer.
 */
#include "tokenprune/reducer.h"

#include <math.h>

/* The answer on the host. */
struct answer {
    uint32_t n_in, n;
    int32_t *index;         /* [n] */
    int32_t *into;          /* [n_in] row it is merged into */
    int32_t *order;         /* [n_in] rows sorted by survivor, then by row */
    float *bias;            /* [n_in] log of the weight of each row of order */
    uint32_t (*members)[2]; /* [n] the part of order that each survivor stands for */
};

static struct answer lay_out(int32_t *host, uint32_t n_in, uint32_t n)
{
    struct answer a = {.n_in = n_in, .n = n};
    a.index = host;
    a.into = host + n_in;
    a.order = host + 2 * (size_t)n_in;
    a.bias = (float *)(host + 3 * (size_t)n_in);
    a.members = (uint32_t(*)[2])(host + 4 * (size_t)n_in);
    return a;
}

static int read_back(struct vl_exec *x, const struct vl_kept *kept, const struct answer *a)
{
    for (uint32_t i = 0; i < a->n_in; i++)
        a->into[i] = (int32_t)(i < a->n ? i : a->n - 1);
    for (uint32_t i = 0; i < a->n; i++)
        a->index[i] = (int32_t)i;
    struct vl_tensor index = vl_tensor_1d(a->index, VL_I32, a->n),
                     into = vl_tensor_1d(a->into, VL_I32, a->n_in);
    int r = x->ops->copy(x, &index, &kept->index);
    if (r == 0 && kept->merge_into.data)
        r = x->ops->copy(x, &into, &kept->merge_into);
    return r < 0 ? r : x->ops->sync(x);
}

static int check_index(const struct answer *a)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->index[i] < 0 || (uint32_t)a->index[i] >= a->n_in || (i > 0 && a->index[i] <= a->index[i - 1]))
            return -EINVAL;
    return 0;
}

/* The survivor's number, or -1. */
static int64_t survivor(const struct answer *a, int32_t row)
{
    int64_t from = 0, to = a->n;
    while (from < to) {
        int64_t mid = (from + to) / 2;
        if (a->index[mid] < row)
            from = mid + 1;
        else
            to = mid;
    }
    return from < a->n && a->index[from] == row ? from : -1;
}

/* Sorts rows by the survivor they are merged into; into becomes that survivor's number. */
static int sort_members(const struct answer *a)
{
    for (uint32_t j = 0; j < a->n; j++)
        a->members[j][0] = a->members[j][1] = 0;
    for (uint32_t i = 0; i < a->n_in; i++) {
        int64_t own = survivor(a, (int32_t)i), j = survivor(a, a->into[i]);
        if (j < 0 || (own >= 0 && own != j))
            return -EINVAL;
        a->into[i] = (int32_t)j;
        a->members[j][1]++;
    }
    for (uint32_t j = 0, at = 0; j < a->n; j++) {
        uint32_t n = a->members[j][1];
        a->members[j][0] = a->members[j][1] = at;
        at += n;
    }
    for (uint32_t i = 0; i < a->n_in; i++)
        a->order[a->members[a->into[i]][1]++] = (int32_t)i;
    return 0;
}

static int gather(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *table,
                  const struct vl_tensor *index)
{
    struct vl_tensor t = *table;
    if (t.n_dims == 1) /* saliency: rows of one */
        t = vl_tensor_2d(t.data, t.dtype, t.dim[0], 1);
    int r = vl_scratch_2d(x, y, VL_F32, index->dim[0], t.dim[1]);
    return r < 0 ? r : x->ops->gather(x, y, &t, index);
}

/* The widest head that every backend takes and that divides a row. */
static uint32_t head_of(uint32_t width)
{
    uint32_t d = width < 64 ? width : 64;
    while (width % d != 0)
        d--;
    return d;
}

/* The weighted mean is attention without a question: with scale 0 every logit is the key's bias, the log of
 * its weight, and each survivor sees its members. ret [n, width] in scratch. */
static int merge(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *feat,
                 const struct answer *a)
{
    uint32_t width = feat->dim[1], d = head_of(width);
    int r = vl_scratch_2d(x, ret, VL_F32, a->n, width);
    size_t mark = vl_arena_mark(x->scratch);
    struct vl_tensor order, bias, rows;
    const struct vl_tensor host_order = vl_tensor_1d(a->order, VL_I32, a->n_in);
    const struct vl_tensor host_bias = vl_tensor_1d(a->bias, VL_F32, a->n_in);
    if (r == 0)
        r = vl_scratch_1d(x, &order, VL_I32, a->n_in);
    if (r == 0)
        r = vl_scratch_1d(x, &bias, VL_F32, a->n_in);
    if (r == 0)
        r = x->ops->copy(x, &order, &host_order);
    if (r == 0)
        r = x->ops->copy(x, &bias, &host_bias);
    if (r == 0)
        r = gather(x, &rows, feat, &order);
    if (r == 0) {
        struct vl_kv_page page = {
            .k = rows.data, .v = rows.data, .n_tokens = a->n_in, .k_dtype = VL_F32, .v_dtype = VL_F32};
        struct vl_kv_view view = {.page = &page, .n_pages = 1, .n_tokens = a->n_in};
        view.n_kv_heads = width / d;
        view.head_dim = d;
        struct vl_attn_seq seq = {&view, 0, a->n};
        struct vl_attn_params p = {.visible = (const uint32_t(*)[2])a->members, .key_bias = &bias};
        struct vl_tensor q = vl_tensor_3d(rows.data, VL_F32, a->n, width / d, d);
        struct vl_tensor y = vl_tensor_3d(ret->data, VL_F32, a->n, width / d, d);
        r = x->ops->attention(x, &y, &q, &seq, 1, &p);
    }
    vl_arena_reset(x->scratch, mark);
    return r;
}

/* pos and weight in place: index ascends, so a row is read before it is written. */
static void compact(struct vl_visual_tokens *tok, const struct answer *a, bool merged)
{
    for (uint32_t j = 0; merged && j < a->n; j++) {
        float sum = 0;
        for (uint32_t i = a->members[j][0]; i < a->members[j][1]; i++)
            sum += tok->weight[a->order[i]];
        a->bias[j] = sum;
    }
    for (uint32_t j = 0; j < a->n; j++) {
        tok->pos[j] = tok->pos[a->index[j]];
        tok->weight[j] = merged ? a->bias[j] : tok->weight[a->index[j]];
    }
}

int vl_visual_tokens_apply(struct vl_exec *x, struct vl_visual_tokens *tok, const struct vl_kept *kept,
                           int32_t *host)
{
    bool merged = kept->merge_into.data != NULL;
    if (kept->n == 0 || kept->n > tok->n || kept->index.dim[0] != kept->n ||
        (merged && kept->merge_into.dim[0] != tok->n))
        return -EINVAL;
    struct answer a = lay_out(host, tok->n, kept->n);
    struct vl_tensor feat, saliency;
    int r = read_back(x, kept, &a);
    if (r == 0)
        r = check_index(&a);
    if (r == 0 && merged)
        r = sort_members(&a);
    if (r < 0)
        return r;
    for (uint32_t i = 0; merged && i < a.n_in; i++)
        a.bias[i] = logf(tok->weight[a.order[i]]);
    r = merged ? merge(x, &feat, &tok->feat, &a) : gather(x, &feat, &tok->feat, &kept->index);
    if (r == 0 && tok->saliency.data)
        r = gather(x, &saliency, &tok->saliency, &kept->index);
    if (r < 0)
        return r;
    if (merged)
        r = x->ops->sync(x); /* the device may still read order and bias */
    compact(tok, &a, merged);
    tok->feat = feat;
    if (tok->saliency.data)
        tok->saliency = vl_tensor_1d(saliency.data, VL_F32, a.n);
    tok->n = a.n;
    return r;
}
