/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What cached keys receive of some queries' attention, in two passes over the keys: the first finds each
 * row's softmax state (largest logit, sum), the second forms the logits anew and sums probabilities by slot,
 * so that no matrix of rows by slots is ever held. A work item is a stretch of slots, in both passes; the
 * states of a row over the stretches are joined in order between them, so no split shows in a result. Keys
 * are turned back rather than queries turned to each key, which is the same logit for a fraction of the work;
 * the angles of a tile serve all its KV heads.
 */
#include "base/workers.h"
#include "kernels/cpu/cpu.h"
#include "kernels/shapes.h"

#include <math.h>
#include <string.h>

struct job {
    const struct vl_cpu *cpu;
    const struct vl_tensor *q;
    const struct vl_kv_view *kv;
    const struct vl_probe_params *p;
    float *part_m, *part_l; /* [n_stretches, n_kv_heads, n_rows], row = query * group + head of the group */
    float *m, *l;           /* [n_kv_heads, n_rows] over all slots */
    struct vl_tensor *ret;  /* NULL in the first pass */
    size_t n_rows, group;   /* of one KV head */
};

struct buffers {
    float q[VL_ATTN_ROWS * VL_ATTN_HEAD_DIM];
    float k[VL_ATTN_KEYS * VL_ATTN_HEAD_DIM], kt[VL_ATTN_HEAD_DIM * VL_ATTN_KEYS];
    float cosine[VL_ATTN_KEYS * VL_ATTN_HEAD_DIM / 2], back_sine[VL_ATTN_KEYS * VL_ATTN_HEAD_DIM / 2];
    float mass[VL_ATTN_KEYS];
    uint32_t seen[VL_ATTN_ROWS][2];
};

/* The angles that turn slots [first, first + n) back. */
static void form_angles(const struct job *j, struct buffers *b, uint32_t first, uint32_t n)
{
    const struct vl_rope *rope = j->p->rope;
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < rope->n_pairs; i++) {
            double angle = (double)j->p->key_pos[first + t][rope->axis[i]] * rope->inv_freq[i];
            b->cosine[t * rope->n_pairs + i] = (float)cos(angle);
            b->back_sine[t * rope->n_pairs + i] = (float)-sin(angle);
        }
}

/* Keys of slots [first, first + n) of one KV head, turned back if so asked, as the tile wants them. */
static void load_keys(const struct job *j, struct buffers *b, uint32_t head, uint32_t first, uint32_t n)
{
    size_t d = j->kv->head_dim, heads = j->kv->n_kv_heads;
    const struct vl_kv_page *p = j->kv->page;
    uint32_t at = first;
    for (; at >= p->n_tokens; p++)
        at -= p->n_tokens;
    for (uint32_t i = 0, run; i < n; i += run, at = 0, p++) {
        run = p->n_tokens - at < n - i ? p->n_tokens - at : n - i;
        size_t row_bytes = vl_dtype_row_bytes((enum vl_dtype)p->k_dtype, d);
        vl_cpu_widen(j->cpu, b->k + i * d, (const char *)p->k + (at * heads + head) * row_bytes,
                     (enum vl_dtype)p->k_dtype, heads * row_bytes, run, d);
    }
    for (size_t i = 0; j->p->key_pos && i < n; i++) {
        size_t pairs = j->p->rope->n_pairs;
        j->cpu->k.rope.rotate(b->k + i * d, b->cosine + i * pairs, b->back_sine + i * pairs, pairs);
    }
    j->cpu->k.attn.turn(b->kt, b->k, d, n, d);
}

/* Rows [row, row + n) of a KV head: what they see of a tile, and if they see any, themselves. */
static bool load_rows(const struct job *j, struct buffers *b, uint32_t head, size_t row, size_t n,
                      uint32_t first, uint32_t n_keys)
{
    size_t d = j->kv->head_dim;
    bool any = false;
    for (size_t r = 0; r < n; r++) {
        const uint32_t all[2] = {0, j->kv->n_tokens},
                       *seen = j->p->visible ? j->p->visible[(row + r) / j->group] : all;
        for (int side = 0; side < 2; side++) {
            uint32_t at = seen[side] < first ? first : seen[side];
            b->seen[r][side] = at - first < n_keys ? at - first : n_keys;
        }
        any = any || b->seen[r][0] < b->seen[r][1];
    }
    for (size_t r = 0; any && r < n; r++) {
        size_t query = (row + r) / j->group, q_head = head * j->group + (row + r) % j->group;
        const float *q = vl_tensor_row(j->q, query * j->q->dim[1] + q_head);
        for (size_t i = 0; i < d; i++)
            b->q[r * d + i] = q[i] * j->p->scale;
    }
    return any;
}

/* m, l: the states of the rows of one KV head; moved on in the first pass, read in the second. */
static void run_rows(const struct job *j, struct buffers *b, uint32_t head, uint32_t first, uint32_t n_keys,
                     float *m, float *l)
{
    const float *bias = j->p->key_bias ? (const float *)j->p->key_bias->data + first : NULL;
    for (size_t row = 0, n; row < j->n_rows; row += n) {
        n = j->n_rows - row < VL_ATTN_ROWS ? j->n_rows - row : VL_ATTN_ROWS;
        if (!load_rows(j, b, head, row, n, first, n_keys))
            continue;
        const struct vl_attn_tile t = {
            .q = b->q,
            .kt = b->kt,
            .bias = bias,
            .seen = (const uint32_t(*)[2])b->seen,
            .m = m + row,
            .l = l + row,
            .n_rows = n,
            .n_keys = n_keys,
            .d = j->kv->head_dim,
        };
        if (j->ret)
            j->cpu->k.attn.mass(b->mass, &t);
        else
            j->cpu->k.attn.tile(&t);
    }
}

static void run_tile(const struct job *j, struct buffers *b, size_t stretch, uint32_t first, uint32_t n)
{
    if (j->p->key_pos)
        form_angles(j, b, first, n);
    for (uint32_t head = 0; head < j->kv->n_kv_heads; head++) {
        size_t at = head * j->n_rows, part = stretch * j->kv->n_kv_heads * j->n_rows + at;
        load_keys(j, b, head, first, n);
        if (!j->ret) {
            run_rows(j, b, head, first, n, j->part_m + part, j->part_l + part);
            continue;
        }
        memset(b->mass, 0, sizeof(b->mass));
        run_rows(j, b, head, first, n, j->m + at, j->l + at);
        float *ret = (float *)vl_tensor_row(j->ret, head) + first;
        for (uint32_t i = 0; i < n; i++)
            ret[i] = b->mass[i] / (float)j->group;
    }
}

static void probe_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    struct buffers b;
    for (size_t s = first; s < last; s++) {
        uint32_t at = (uint32_t)s * VL_PROBE_STRETCH, n_tokens = j->kv->n_tokens;
        uint32_t end = n_tokens - at < VL_PROBE_STRETCH ? n_tokens : at + VL_PROBE_STRETCH;
        for (; at < end; at += VL_ATTN_KEYS)
            run_tile(j, &b, s, at, end - at < VL_ATTN_KEYS ? end - at : VL_ATTN_KEYS);
    }
}

/* The state of each row over all stretches. */
static void join(const struct job *j, size_t n_stretches)
{
    size_t n = j->kv->n_kv_heads * j->n_rows;
    for (size_t i = 0; i < n; i++) {
        float top = -INFINITY;
        for (size_t s = 0; s < n_stretches; s++)
            top = fmaxf(top, j->part_m[s * n + i]);
        double sum = 0;
        for (size_t s = 0; s < n_stretches && top != -INFINITY; s++)
            sum += j->part_l[s * n + i] * exp((double)j->part_m[s * n + i] - top);
        j->m[i] = top;
        j->l[i] = (float)sum;
    }
}

int vl_cpu_probe(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *q,
                 const struct vl_kv_view *kv, const struct vl_probe_params *p)
{
    struct vl_tensor states;
    size_t mark = vl_arena_mark(x->scratch);
    int r = vl_check_probe(ret, q, kv, p);
    if (r == 0)
        r = vl_scratch_probe(x, &states, q, kv);
    if (r < 0)
        return r;
    size_t n_stretches = states.dim[1] - 1, n = (size_t)q->dim[0] * q->dim[1];
    float *m = states.data, *l = m + (n_stretches + 1) * n;
    struct job j = {.cpu = x->device, .q = q, .kv = kv, .p = p, .part_m = m, .part_l = l};
    j.m = m + n_stretches * n;
    j.l = l + n_stretches * n;
    j.group = q->dim[1] / kv->n_kv_heads;
    j.n_rows = q->dim[0] * j.group;
    for (size_t i = 0; i < n_stretches * n; i++) {
        m[i] = -INFINITY;
        l[i] = 0;
    }
    struct vl_workers *w = n * kv->n_tokens * q->dim[2] < VL_CPU_SMALL ? NULL : x->workers;
    vl_workers_run(w, probe_range, &j, n_stretches, 1);
    join(&j, n_stretches);
    j.ret = ret;
    vl_workers_run(w, probe_range, &j, n_stretches, 1);
    vl_arena_reset(x->scratch, mark);
    return 0;
}
