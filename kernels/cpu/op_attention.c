/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Attention over cached pages. The work is cut into (sequence, KV head, up to 96 rows), a row being one query
 * of one head; each item streams over the keys in tiles of 64 slots that begin at multiples of 64, whatever
 * the pages, so that no split shows in a result. A tile is widened to f32 and turned once for all rows of the
 * item. Item memory is the stack of the thread that runs it, 400 KiB at the widest head. */
#include "base/workers.h"
#include "kernels/cpu/cpu.h"
#include "kernels/shapes.h"

#include <math.h>
#include <string.h>

struct job {
    const struct vl_cpu *cpu;
    const struct vl_tensor *y, *q;
    const struct vl_attn_seq *seq;
    const struct vl_attn_params *p;
};

/* Queries [first, first + n) of q's rows, all heads of one KV head. */
struct item {
    const struct vl_kv_view *kv;
    uint32_t head, first, n, group; /* group: query heads to a KV head */
};

struct buffers {
    float q[VL_ATTN_ROWS * VL_ATTN_HEAD_DIM], o[VL_ATTN_ROWS * VL_ATTN_HEAD_DIM];
    float kt[VL_ATTN_HEAD_DIM * VL_ATTN_KEYS], v[VL_ATTN_KEYS * VL_ATTN_HEAD_DIM];
    float k[VL_ATTN_KEYS * VL_ATTN_HEAD_DIM];
    float m[VL_ATTN_ROWS], l[VL_ATTN_ROWS];
    uint32_t seen[VL_ATTN_ROWS][2];
    const struct vl_kv_page *page; /* of the tile before, and its first slot: tiles only go on */
    uint32_t page_first;
};

static uint32_t group_of(const struct vl_tensor *q, const struct vl_kv_view *kv)
{
    return q->dim[1] / kv->n_kv_heads;
}

/* The shape check refuses a group that does not fit. */
static uint32_t queries_per_item(uint32_t group)
{
    return VL_ATTN_ROWS / group;
}

static uint32_t n_blocks(const struct job *j, const struct vl_attn_seq *s)
{
    uint32_t per = queries_per_item(group_of(j->q, s->kv));
    return s->n_queries / per + (s->n_queries % per != 0);
}

static size_t n_items(const struct job *j, const struct vl_attn_seq *s)
{
    return (size_t)s->kv->n_kv_heads * n_blocks(j, s);
}

/* Item i counted through the sequences; the items of one head follow each other, so its keys stay in cache.
 */
static struct item find_item(const struct job *j, size_t i)
{
    const struct vl_attn_seq *s = j->seq;
    while (i >= n_items(j, s))
        i -= n_items(j, s++);
    struct item it = {.kv = s->kv, .group = group_of(j->q, s->kv)};
    uint32_t per = queries_per_item(it.group), n = n_blocks(j, s), block = (uint32_t)(i % n);
    it.head = (uint32_t)(i / n);
    it.first = s->first_query + block * per;
    it.n = s->n_queries - block * per < per ? s->n_queries - block * per : per;
    return it;
}

void vl_cpu_widen(const struct vl_cpu *cpu, float *dst, const char *src, enum vl_dtype t, size_t row_bytes,
                  size_t n, size_t d)
{
    const struct vl_convert_ukernels *c = &cpu->k.convert;
    vl_widen_fn fn = t == VL_F16 ? c->widen_f16 : t == VL_BF16 ? c->widen_bf16 : vl_dtype_info(t)->unpack_row;
    for (size_t i = 0; i < n; i++)
        fn(dst + i * d, src + i * row_bytes, d);
}

/* Slots [first, first + n) of one KV head as f32, gathered over the pages. */
static void load_keys(const struct job *j, const struct item *it, struct buffers *b, uint32_t first,
                      uint32_t n)
{
    size_t d = it->kv->head_dim, heads = it->kv->n_kv_heads;
    const float *k = b->k;
    size_t lds = d;
    while (first - b->page_first >= b->page->n_tokens)
        b->page_first += b->page++->n_tokens;
    const struct vl_kv_page *p = b->page;
    first -= b->page_first;
    for (uint32_t i = 0, run; i < n; i += run, first = 0, p++) {
        run = p->n_tokens - first < n - i ? p->n_tokens - first : n - i;
        enum vl_dtype kt = (enum vl_dtype)p->k_dtype, vt = (enum vl_dtype)p->v_dtype;
        size_t kb = vl_dtype_row_bytes(kt, d), vb = vl_dtype_row_bytes(vt, d), at = first * heads + it->head;
        if (kt == VL_F32 && run == n) { /* turned where it lies */
            k = (const float *)p->k + at * d;
            lds = heads * d;
        } else {
            vl_cpu_widen(j->cpu, b->k + i * d, (const char *)p->k + at * kb, kt, heads * kb, run, d);
        }
        vl_cpu_widen(j->cpu, b->v + i * d, (const char *)p->v + at * vb, vt, heads * vb, run, d);
    }
    j->cpu->k.attn.turn(b->kt, k, lds, n, d);
}

static void begin_rows(const struct job *j, const struct item *it, struct buffers *b)
{
    size_t d = it->kv->head_dim, n_rows = (size_t)it->n * it->group;
    for (size_t r = 0; r < n_rows; r++) {
        size_t head = it->head * it->group + r % it->group;
        const float *q = vl_tensor_row(j->q, (it->first + r / it->group) * j->q->dim[1] + head);
        for (size_t i = 0; i < d; i++)
            b->q[r * d + i] = q[i] * j->p->scale;
        b->m[r] = -INFINITY;
        b->l[r] = 0;
    }
    memset(b->o, 0, n_rows * d * sizeof(*b->o));
}

static void end_rows(const struct job *j, const struct item *it, const struct buffers *b)
{
    size_t d = it->kv->head_dim, n_rows = (size_t)it->n * it->group;
    for (size_t r = 0; r < n_rows; r++) {
        size_t head = it->head * it->group + r % it->group, query = it->first + r / it->group;
        float *y = vl_tensor_row(j->y, query * j->q->dim[1] + head);
        float inv = b->l[r] > 0 ? 1 / b->l[r] : 0;
        for (size_t i = 0; i < d; i++)
            y[i] = b->o[r * d + i] * inv;
        if (j->p->ret_lse)
            ((float *)vl_tensor_row(j->p->ret_lse, query))[head] =
                b->l[r] > 0 ? b->m[r] + logf(b->l[r]) : -INFINITY;
    }
}

static uint32_t clamp(uint32_t v, uint32_t low, uint32_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* What each row sees of slots [first, first + n), counted from first; false if no row sees any. */
static bool see(const struct job *j, const struct item *it, struct buffers *b, uint32_t first, uint32_t n)
{
    bool any = false;
    for (uint32_t r = 0; r < it->n * it->group; r++) {
        uint32_t from = 0, to = it->kv->n_tokens;
        if (j->p->visible) {
            from = j->p->visible[it->first + r / it->group][0];
            to = j->p->visible[it->first + r / it->group][1];
        }
        b->seen[r][0] = clamp(from, first, first + n) - first;
        b->seen[r][1] = clamp(to, first, first + n) - first;
        any = any || b->seen[r][0] < b->seen[r][1];
    }
    return any;
}

static void run_item(const struct job *j, const struct item *it, struct buffers *b)
{
    const float *bias = j->p->key_bias ? j->p->key_bias->data : NULL;
    begin_rows(j, it, b);
    b->page = it->kv->page;
    b->page_first = 0;
    for (uint32_t first = 0; first < it->kv->n_tokens; first += VL_ATTN_KEYS) {
        uint32_t n = it->kv->n_tokens - first < VL_ATTN_KEYS ? it->kv->n_tokens - first : VL_ATTN_KEYS;
        if (!see(j, it, b, first, n))
            continue;
        load_keys(j, it, b, first, n);
        const struct vl_attn_tile t = {
            .q = b->q,
            .kt = b->kt,
            .v = b->v,
            .bias = bias ? bias + first : NULL,
            .seen = (const uint32_t(*)[2])b->seen,
            .m = b->m,
            .l = b->l,
            .o = b->o,
            .n_rows = (size_t)it->n * it->group,
            .n_keys = n,
            .d = it->kv->head_dim,
        };
        j->cpu->k.attn.tile(&t);
    }
    end_rows(j, it, b);
}

static void attention_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    struct buffers b;
    for (size_t i = first; i < last; i++) {
        struct item it = find_item(j, i);
        run_item(j, &it, &b);
    }
}

int vl_cpu_attention(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *q,
                     const struct vl_attn_seq *seq, uint32_t n_seqs, const struct vl_attn_params *p)
{
    int r = vl_check_attention(y, q, seq, n_seqs, p);
    if (r < 0)
        return r;
    struct job j = {x->device, y, q, seq, p};
    size_t n = 0, work = 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        n += n_items(&j, &seq[s]);
        work += 2 * (size_t)seq[s].n_queries * seq[s].kv->n_tokens * q->dim[1] * q->dim[2];
    }
    vl_workers_run(work < VL_CPU_SMALL ? NULL : x->workers, attention_range, &j, n, 1);
    return 0;
}
