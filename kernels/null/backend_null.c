/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The null backend: shapes, scratch and counts of a dry run. The trap: data pointers may be NULL or point to
 * PROT_NONE pages, so only descriptions and host memory are read. */
#include "kernels/layout.h"
#include "kernels/null/null.h"
#include "kernels/shapes.h"

#include <stdlib.h>
#include <sys/mman.h>

struct block {
    struct block *next;
    void *data;
    size_t size;
};

struct null_device {
    struct vl_null_counts counts;
    struct block *blocks;
};

const struct vl_null_counts *vl_null_counts(void *device)
{
    return &((struct null_device *)device)->counts;
}

static int null_open(void **ret_device, const char *spec, struct vl_error *err)
{
    if (spec && *spec)
        return vl_error_set(err, -EINVAL, "null: unknown option '%s'; there is none", spec);
    struct null_device *d = calloc(1, sizeof(*d));
    if (!d)
        return vl_error_set(err, -ENOMEM, "null: out of memory");
    *ret_device = d;
    return 0;
}

static void release(struct block *b)
{
    (void)munmap(b->data, b->size); /* our own mapping: it cannot fail */
    free(b);
}

static void null_close(void *device)
{
    struct null_device *d = device;
    if (!d)
        return;
    while (d->blocks) {
        struct block *b = d->blocks;
        d->blocks = b->next;
        release(b);
    }
    free(d);
}

static int null_alloc(void *device, size_t n, bool host_pinned, void **ret)
{
    (void)host_pinned;
    struct null_device *d = device;
    struct block *b = malloc(sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->size = n ? n : 1;
    b->data = mmap(NULL, b->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->data == MAP_FAILED) {
        free(b);
        return -ENOMEM;
    }
    b->next = d->blocks;
    d->blocks = b;
    *ret = b->data;
    return 0;
}

static void null_free(void *device, void *p)
{
    struct null_device *d = device;
    for (struct block **b = &d->blocks; p && *b; b = &(*b)->next)
        if ((*b)->data == p) {
            struct block *gone = *b;
            *b = gone->next;
            release(gone);
            return;
        }
}

static const char *null_describe(void *device)
{
    (void)device;
    return "null: computes nothing";
}

static size_t null_packed_size(void *device, const struct vl_tensor *stored)
{
    (void)device;
    size_t n;
    return vl_layout_size(stored, &n) < 0 ? 0 : n;
}

static int null_pack(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *stored)
{
    (void)x;
    int r = vl_check_pack(stored);
    if (r < 0)
        return r;
    *ret = vl_layout_tensor(stored, ret->data);
    return 0;
}

static uint64_t bytes_of(const struct vl_tensor *t)
{
    if (!t)
        return 0;
    if (t->layout == VL_LAYOUT_ROWS)
        return vl_tensor_bytes(t);
    return ((uint64_t)t->dim[0] + VL_PANEL - 1) / VL_PANEL *
           vl_layout_panel_bytes((enum vl_layout)t->layout, t->dim[1]);
}

/* Forwards what the check said; counts the op when it was 0. */
static int count(struct vl_exec *x, enum vl_op op, int checked, uint64_t bytes, uint64_t flops)
{
    if (checked < 0)
        return checked;
    struct vl_null_counts *c = &((struct null_device *)x->device)->counts;
    c->n[op]++;
    c->bytes[op] += bytes;
    c->flops[op] += flops;
    return 0;
}

static int null_matmul(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                       const struct vl_tensor *w)
{
    int r = vl_check_matmul(y, a, w);
    return r < 0 ? r
                 : count(x, VL_OP_MATMUL, 0, bytes_of(y) + bytes_of(a) + bytes_of(w),
                         2ull * a->dim[0] * a->dim[1] * w->dim[0]);
}

static int null_rms_norm(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                         const struct vl_tensor *w, float eps)
{
    (void)eps;
    return count(x, VL_OP_RMS_NORM, vl_check_norm(y, a, w, NULL), bytes_of(y) + bytes_of(a) + bytes_of(w), 0);
}

static int null_layer_norm(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                           const struct vl_tensor *w, const struct vl_tensor *b, float eps)
{
    (void)eps;
    return count(x, VL_OP_LAYER_NORM, vl_check_norm(y, a, w, b),
                 bytes_of(y) + bytes_of(a) + bytes_of(w) + bytes_of(b), 0);
}

static int null_rope(struct vl_exec *x, struct vl_tensor *qk, const int64_t (*pos)[3],
                     const struct vl_rope *r)
{
    int e = vl_check_rope(qk, pos, r);
    if (e < 0)
        return e;
    struct vl_tensor turn; /* the sines and cosines, so that the arena's peak is right */
    size_t mark = vl_arena_mark(x->scratch);
    e = vl_scratch_3d(x, &turn, VL_F32, 2, qk->dim[0], r->n_pairs);
    vl_arena_reset(x->scratch, mark);
    return count(x, VL_OP_ROPE, e, 2 * bytes_of(qk), 0);
}

static int null_silu_mul(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *gate,
                         const struct vl_tensor *up)
{
    return count(x, VL_OP_SILU_MUL, vl_check_silu_mul(y, gate, up),
                 bytes_of(y) + bytes_of(gate) + bytes_of(up), 0);
}

static int null_gelu(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a)
{
    return count(x, VL_OP_GELU, vl_check_map(y, a), bytes_of(y) + bytes_of(a), 0);
}

static int null_add(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                    const struct vl_tensor *b)
{
    return count(x, VL_OP_ADD, vl_check_add(y, a, b), bytes_of(y) + bytes_of(a) + bytes_of(b), 0);
}

static int null_gather(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *table,
                       const struct vl_tensor *index)
{
    return count(x, VL_OP_GATHER, vl_check_gather(y, table, index), 2 * bytes_of(y) + bytes_of(index), 0);
}

static int null_attention(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *q,
                          const struct vl_attn_seq *seq, uint32_t n_seqs, const struct vl_attn_params *p)
{
    int r = vl_check_attention(y, q, seq, n_seqs, p);
    if (r < 0)
        return r;
    uint64_t bytes = bytes_of(y) + bytes_of(q) + bytes_of(p->key_bias) + bytes_of(p->ret_lse), seen = 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        const struct vl_kv_view *kv = seq[s].kv;
        for (uint32_t i = 0; i < kv->n_pages; i++) {
            size_t n = (size_t)kv->n_kv_heads * kv->head_dim;
            bytes += kv->page[i].n_tokens * (vl_dtype_row_bytes((enum vl_dtype)kv->page[i].k_dtype, n) +
                                             vl_dtype_row_bytes((enum vl_dtype)kv->page[i].v_dtype, n));
        }
        for (uint32_t i = seq[s].first_query; i < seq[s].first_query + seq[s].n_queries; i++)
            seen += p->visible ? p->visible[i][1] - p->visible[i][0] : kv->n_tokens;
    }
    return count(x, VL_OP_ATTENTION, 0, bytes, 4 * seen * q->dim[1] * q->dim[2]);
}

static int null_probe(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *q,
                      const struct vl_kv_view *kv, const struct vl_probe_params *p)
{
    int r = vl_check_probe(ret, q, kv, p);
    if (r < 0)
        return r;
    struct vl_tensor states; /* so that the arena's peak is right */
    size_t mark = vl_arena_mark(x->scratch);
    r = vl_scratch_probe(x, &states, q, kv);
    vl_arena_reset(x->scratch, mark);
    uint64_t bytes = bytes_of(ret) + bytes_of(q) + bytes_of(p->key_bias), seen = 0;
    size_t row = (size_t)kv->n_kv_heads * kv->head_dim;
    for (uint32_t i = 0; i < kv->n_pages; i++)
        bytes += kv->page[i].n_tokens * vl_dtype_row_bytes((enum vl_dtype)kv->page[i].k_dtype, row);
    for (uint32_t i = 0; i < q->dim[0]; i++)
        seen += p->visible ? p->visible[i][1] - p->visible[i][0] : kv->n_tokens;
    return count(x, VL_OP_PROBE, r, bytes, 4 * seen * q->dim[1] * q->dim[2]);
}

static int null_patchify(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *img, uint32_t patch,
                         const float mean[3], const float std[3])
{
    (void)mean;
    (void)std;
    return count(x, VL_OP_PATCHIFY, vl_check_patchify(y, img, patch), bytes_of(y) + bytes_of(img), 0);
}

static int null_copy(struct vl_exec *x, struct vl_tensor *dst, const struct vl_tensor *src)
{
    return count(x, VL_OP_COPY, vl_check_copy(dst, src), bytes_of(dst) + bytes_of(src), 0);
}

static int null_wait(struct vl_exec *x, struct vl_exec *on)
{
    (void)x;
    (void)on;
    return 0;
}

static int null_sync(struct vl_exec *x)
{
    (void)x;
    return 0;
}

const struct vl_backend_ops vl_backend_null = {
    .name = "null",
    .open = null_open,
    .close = null_close,
    .alloc = null_alloc,
    .free = null_free,
    .describe = null_describe,
    .packed_size = null_packed_size,
    .pack = null_pack,
    .matmul = null_matmul,
    .rms_norm = null_rms_norm,
    .layer_norm = null_layer_norm,
    .rope = null_rope,
    .silu_mul = null_silu_mul,
    .gelu = null_gelu,
    .add = null_add,
    .gather = null_gather,
    .attention = null_attention,
    .probe = null_probe,
    .patchify = null_patchify,
    .copy = null_copy,
    .wait = null_wait,
    .sync = null_sync,
};
