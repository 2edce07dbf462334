/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The shape rules of every op; backend.h states them in words. The trap: shapes may come from a model file,
 * so nothing here may be an assertion. */
#include "kernels/shapes.h"
#include "kernels/layout.h"
#include "kernels/ukernels.h"

static int answer(bool ok)
{
    return ok ? 0 : -EINVAL;
}

static uint32_t inner(const struct vl_tensor *t)
{
    return t->dim[t->n_dims - 1];
}

/* Rows of whole elements, the innermost dimension contiguous, rows apart by whole elements. */
static bool is_rows(const struct vl_tensor *t, enum vl_dtype dtype)
{
    const struct vl_dtype_info *f = vl_dtype_info(dtype);
    bool ok = t->layout == VL_LAYOUT_ROWS && t->dtype == dtype && t->n_dims >= 1 && t->n_dims <= 4 &&
              t->stride[t->n_dims - 1] == f->block_bytes && inner(t) % f->block_len == 0;
    for (int i = 0; ok && i + 1 < t->n_dims; i++)
        ok = t->stride[i] % f->block_bytes == 0;
    return ok;
}

static bool same_shape(const struct vl_tensor *a, const struct vl_tensor *b)
{
    bool same = a->n_dims == b->n_dims;
    for (int i = 0; same && i < a->n_dims; i++)
        same = a->dim[i] == b->dim[i];
    return same;
}

static bool is_vector(const struct vl_tensor *t, uint32_t d)
{
    return is_rows(t, VL_F32) && inner(t) == d && vl_tensor_n_rows(t) == 1;
}

int vl_check_pack(const struct vl_tensor *stored)
{
    size_t size;
    return vl_layout_size(stored, &size);
}

int vl_check_matmul(const struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *w)
{
    return answer(is_rows(y, VL_F32) && is_rows(a, VL_F32) && y->n_dims == 2 && a->n_dims == 2 &&
                  w->n_dims == 2 && w->layout != VL_LAYOUT_ROWS && w->layout < VL_LAYOUT_COUNT &&
                  a->dim[1] == w->dim[1] && y->dim[0] == a->dim[0] && y->dim[1] == w->dim[0]);
}

int vl_check_norm(const struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *w,
                  const struct vl_tensor *b)
{
    return answer(vl_check_map(y, a) == 0 && inner(a) > 0 && is_vector(w, inner(a)) &&
                  (!b || is_vector(b, inner(a))));
}

int vl_check_rope(const struct vl_tensor *qk, const int64_t (*pos)[3], const struct vl_rope *r)
{
    if (!is_rows(qk, VL_F32) || qk->n_dims != 3 || 2 * (uint64_t)r->n_pairs > qk->dim[2] ||
        (!pos && qk->dim[0] > 0))
        return -EINVAL;
    for (uint32_t i = 0; i < r->n_pairs; i++)
        if (r->axis[i] > 2)
            return -EINVAL;
    return 0;
}

int vl_check_map(const struct vl_tensor *y, const struct vl_tensor *a)
{
    return answer(is_rows(y, VL_F32) && is_rows(a, VL_F32) && same_shape(y, a));
}

int vl_check_silu_mul(const struct vl_tensor *y, const struct vl_tensor *gate, const struct vl_tensor *up)
{
    return answer(vl_check_map(y, gate) == 0 && vl_check_map(y, up) == 0);
}

bool vl_is_row_of(const struct vl_tensor *b, const struct vl_tensor *a)
{
    return is_vector(b, inner(a)) && !same_shape(a, b);
}

int vl_check_add(const struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *b)
{
    return answer(vl_check_map(y, a) == 0 && (vl_check_map(y, b) == 0 || vl_is_row_of(b, a)));
}

int vl_check_gather(const struct vl_tensor *y, const struct vl_tensor *table, const struct vl_tensor *index)
{
    bool readable =
        table->layout < VL_LAYOUT_COUNT && (table->layout != VL_LAYOUT_ROWS || is_rows(table, table->dtype));
    return answer(readable && is_rows(y, VL_F32) && is_rows(index, VL_I32) && y->n_dims == 2 &&
                  table->n_dims == 2 && index->n_dims == 1 && y->dim[0] == index->dim[0] &&
                  y->dim[1] == table->dim[1]);
}

static bool sees(const struct vl_kv_view *kv, uint32_t n_heads, uint32_t head_dim)
{
    uint64_t n = 0;
    if (kv->n_kv_heads == 0 || kv->first_kv_head != 0 || kv->head_dim != head_dim ||
        n_heads % kv->n_kv_heads || n_heads / kv->n_kv_heads > VL_ATTN_ROWS)
        return false;
    for (uint32_t i = 0; i < kv->n_pages; i++) {
        const struct vl_kv_page *p = &kv->page[i];
        if (p->k_dtype >= VL_DTYPE_COUNT || p->v_dtype >= VL_DTYPE_COUNT ||
            head_dim % vl_dtype_info((enum vl_dtype)p->k_dtype)->block_len ||
            head_dim % vl_dtype_info((enum vl_dtype)p->v_dtype)->block_len)
            return false;
        n += p->n_tokens;
    }
    return n >= kv->n_tokens;
}

int vl_check_attention(const struct vl_tensor *y, const struct vl_tensor *q, const struct vl_attn_seq *seq,
                       uint32_t n_seqs, const struct vl_attn_params *p)
{
    if (vl_check_map(y, q) < 0 || q->n_dims != 3 || q->dim[2] == 0 || q->dim[2] > VL_ATTN_HEAD_DIM)
        return -EINVAL;
    const struct vl_tensor *lse = p->ret_lse;
    if (lse &&
        !(is_rows(lse, VL_F32) && lse->n_dims == 2 && lse->dim[0] == q->dim[0] && lse->dim[1] == q->dim[1]))
        return -EINVAL;
    for (uint32_t s = 0; s < n_seqs; s++) {
        uint32_t n_tokens = seq[s].kv->n_tokens, first = seq[s].first_query, n = seq[s].n_queries;
        if (first > q->dim[0] || n > q->dim[0] - first || !sees(seq[s].kv, q->dim[1], q->dim[2]) ||
            (p->key_bias && !is_vector(p->key_bias, n_tokens)))
            return -EINVAL;
        for (uint32_t i = first; p->visible && i < first + n; i++)
            if (p->visible[i][0] > p->visible[i][1] || p->visible[i][1] > n_tokens)
                return -EINVAL;
    }
    return 0;
}

int vl_check_probe(const struct vl_tensor *ret, const struct vl_tensor *q, const struct vl_kv_view *kv,
                   const struct vl_probe_params *p)
{
    if (!is_rows(ret, VL_F32) || ret->n_dims != 2 || !is_rows(q, VL_F32) || q->n_dims != 3 ||
        q->dim[2] == 0 || q->dim[2] > VL_ATTN_HEAD_DIM || !sees(kv, q->dim[1], q->dim[2]) ||
        ret->dim[0] != kv->n_kv_heads || ret->dim[1] != kv->n_tokens ||
        (p->key_bias && !is_vector(p->key_bias, kv->n_tokens)) || !p->key_pos != !p->rope)
        return -EINVAL;
    for (uint32_t i = 0; p->visible && i < q->dim[0]; i++)
        if (p->visible[i][0] > p->visible[i][1] || p->visible[i][1] > kv->n_tokens)
            return -EINVAL;
    return p->rope ? vl_check_rope(q, p->key_pos, p->rope) : 0;
}

int vl_scratch_probe(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *q,
                     const struct vl_kv_view *kv)
{
    uint32_t n = kv->n_tokens / VL_PROBE_STRETCH + (kv->n_tokens % VL_PROBE_STRETCH != 0), rows;
    if (__builtin_mul_overflow(q->dim[0], q->dim[1], &rows))
        return -ENOMEM;
    return vl_scratch_3d(x, ret, VL_F32, 2, n + 1, rows);
}

int vl_check_patchify(const struct vl_tensor *y, const struct vl_tensor *img, uint32_t patch)
{
    if (!is_rows(y, VL_F32) || !is_rows(img, VL_U8) || y->n_dims != 2 || img->n_dims != 3 ||
        img->dim[2] != 3 || patch == 0 || patch > 1024 || img->dim[1] / patch == 0)
        return -EINVAL;
    uint32_t gw = img->dim[1] / patch;
    return answer(y->dim[0] % gw == 0 && y->dim[0] / gw <= img->dim[0] / patch &&
                  y->dim[1] == 3 * patch * patch);
}

static bool is_float(enum vl_dtype t)
{
    return t == VL_F32 || t == VL_F16 || t == VL_BF16;
}

int vl_check_copy(const struct vl_tensor *dst, const struct vl_tensor *src)
{
    return answer(is_rows(dst, dst->dtype) && is_rows(src, src->dtype) && same_shape(dst, src) &&
                  (dst->dtype == src->dtype || (is_float(dst->dtype) && is_float(src->dtype))));
}
