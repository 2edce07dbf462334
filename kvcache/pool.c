/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Planes of backend memory: a free list, counts, and the split between sessions, forks and a spare page.
 * Nothing here looks at data; sizes come from a model file, so every product is checked. */
#include "kvcache/pool.h"

#include <assert.h>
#include <string.h>

static uint64_t pages_of(uint32_t n_tokens, uint32_t page_slots)
{
    return ((uint64_t)n_tokens + page_slots - 1) / page_slots;
}

static bool dtype_ok(enum vl_dtype t)
{
    return t == VL_F32 || t == VL_F16 || t == VL_BF16;
}

static bool geometry_ok(const struct vl_kv_geometry *g)
{
    uint64_t width = (uint64_t)g->n_kv_heads * g->head_dim;
    return g->n_layers > 0 && g->n_layers <= 4096 && width > 0 && width <= (1u << 18) && g->page_slots > 0 &&
           g->page_slots <= (1u << 16) && dtype_ok(g->k_dtype) && dtype_ok(g->v_dtype) && g->rope &&
           g->rope->n_pairs <= g->head_dim / 2;
}

/* Rounded up to cache lines, so that every plane starts on one. 0: too large to count. */
static size_t plane_bytes(const struct vl_kv_geometry *g)
{
    size_t n = g->k_dtype == VL_F32 || g->v_dtype == VL_F32 ? 4 : 2;
    if (__builtin_mul_overflow(n, g->n_layers, &n) || __builtin_mul_overflow(n, g->page_slots, &n) ||
        __builtin_mul_overflow(n, g->n_kv_heads, &n) || __builtin_mul_overflow(n, g->head_dim, &n) ||
        __builtin_add_overflow(n, (size_t)63, &n))
        return 0;
    return n & ~(size_t)63;
}

size_t vl_kv_geometry_bytes(const struct vl_kv_geometry *g, uint32_t n_text, uint32_t n_visual,
                            uint32_t n_runs)
{
    uint64_t more = n_runs > 1 ? n_runs - 1 : 0; /* each further run may end in a page of its own */
    uint64_t planes = VL_KV_PLANES_TEXT * (pages_of(n_text, g->page_slots) + more) +
                      VL_KV_PLANES_VISUAL * (pages_of(n_visual, g->page_slots) + more) + VL_KV_PLANES_TEXT;
    size_t bytes = plane_bytes(g);
    return __builtin_mul_overflow(bytes, planes, &bytes) ? SIZE_MAX : bytes;
}

/* One page of all layers as f32, and the angles of its tokens. */
size_t vl_kv_geometry_scratch(const struct vl_kv_geometry *g)
{
    size_t n = g->n_layers, row = sizeof(float);
    if (__builtin_mul_overflow(n, g->n_kv_heads, &n) || __builtin_add_overflow(n, (size_t)1, &n) ||
        __builtin_mul_overflow(row, g->head_dim, &row) || __builtin_mul_overflow(row, g->page_slots, &row) ||
        __builtin_mul_overflow(n, row, &n) || __builtin_add_overflow(n, (size_t)256, &n))
        return SIZE_MAX;
    return n;
}

/* One page more than the text needs, for the partly filled page that a fork and its parent both go on with.
 */
static uint64_t planes_per_fork(const struct vl_kv_pool *p)
{
    return VL_KV_PLANES_TEXT * (pages_of(p->reserve.max_text, p->geo.page_slots) + 1) +
           VL_KV_PLANES_VISUAL * pages_of(p->reserve.max_visual, p->geo.page_slots);
}

static int split(struct vl_kv_pool *p, size_t bytes, struct vl_error *err)
{
    uint64_t n = bytes / p->plane_bytes, reserve = 0;
    if (n > UINT32_MAX)
        n = UINT32_MAX;
    if (__builtin_mul_overflow(planes_per_fork(p), p->reserve.max_forks, &reserve) || reserve > UINT32_MAX ||
        n < reserve + 2 * VL_KV_PLANES_TEXT)
        return vl_error_set(
            err, -EINVAL,
            "%zu KiB are too few for the KV cache: %u questions at once need %zu KiB set aside, and a "
            "page of text is %zu KiB; give more memory or allow fewer questions",
            bytes >> 10, p->reserve.max_forks, (size_t)(reserve * p->plane_bytes) >> 10,
            (VL_KV_PLANES_TEXT * p->plane_bytes) >> 10);
    p->n_planes = (uint32_t)n;
    p->n_reserve = (uint32_t)reserve;
    p->n_budget = (uint32_t)(n - reserve - VL_KV_PLANES_TEXT);
    return 0;
}

static int copy_rope(struct vl_kv_pool *p, const struct vl_rope *r)
{
    double *freq = malloc((r->n_pairs + 1) * sizeof(*freq));
    uint8_t *axis = malloc(r->n_pairs + 1);
    p->rope = (struct vl_rope){.n_pairs = r->n_pairs, .inv_freq = freq, .axis = axis};
    p->geo.rope = &p->rope;
    if (!freq || !axis)
        return -ENOMEM;
    if (r->n_pairs > 0) {
        memcpy(freq, r->inv_freq, r->n_pairs * sizeof(*freq));
        memcpy(axis, r->axis, r->n_pairs);
    }
    return 0;
}

static int take_memory(struct vl_kv_pool *p, struct vl_error *err)
{
    void *mem = NULL;
    p->plane_refs = calloc(p->n_planes, sizeof(*p->plane_refs));
    p->free_list = calloc(p->n_planes, sizeof(*p->free_list));
    if (!p->plane_refs || !p->free_list)
        return vl_error_set(err, -ENOMEM, "no memory for the tables of %u KV planes", p->n_planes);
    int r = p->ops->alloc(p->device, p->n_planes * p->plane_bytes, false, &mem);
    if (r < 0)
        return vl_error_set(err, r, "the %s backend has no %zu KiB for the KV cache", p->ops->name,
                            (p->n_planes * p->plane_bytes) >> 10);
    p->mem = mem;
    for (uint32_t i = 0; i < p->n_planes; i++)
        p->free_list[i] = p->n_planes - 1 - i;
    return 0;
}

int vl_kv_pool_new(struct vl_kv_pool **ret, struct vl_exec *x, const struct vl_kv_geometry *g, size_t bytes,
                   const struct vl_kv_reserve *forks, struct vl_error *err)
{
    if (!geometry_ok(g) || plane_bytes(g) == 0)
        return vl_error_set(err, -EINVAL, "no KV cache of %u layers, %u heads of %u, pages of %u",
                            g->n_layers, g->n_kv_heads, g->head_dim, g->page_slots);
    vl_auto(vl_kv_pool) p = calloc(1, sizeof(*p));
    if (!p)
        return vl_error_set(err, -ENOMEM, "no memory for a KV pool");
    p->refs = 1;
    p->ops = x->ops;
    p->device = x->device;
    p->geo = *g;
    p->width = g->n_kv_heads * g->head_dim;
    p->plane_bytes = plane_bytes(g);
    if (forks)
        p->reserve = *forks;
    int r = split(p, bytes, err);
    if (r == 0 && copy_rope(p, g->rope) < 0)
        r = vl_error_set(err, -ENOMEM, "no memory for a KV pool");
    if (r == 0)
        r = take_memory(p, err);
    if (r < 0)
        return r;
    *ret = vl_steal(p);
    return 0;
}

struct vl_kv_pool *vl_kv_pool_unref(struct vl_kv_pool *p)
{
    if (!p || --p->refs > 0)
        return NULL;
    if (p->mem)
        p->ops->free(p->device, p->mem);
    free(p->plane_refs);
    free(p->free_list);
    free((void *)p->rope.inv_freq);
    free((void *)p->rope.axis);
    free(p);
    return NULL;
}

uint32_t vl_kv_plane_take(struct vl_kv_pool *p, bool fork)
{
    assert(p->n_used < p->n_planes);
    uint32_t plane = p->free_list[p->n_planes - ++p->n_used];
    p->plane_refs[plane] = 1;
    p->n_session += !fork;
    return plane;
}

void vl_kv_plane_share(struct vl_kv_pool *p, uint32_t plane)
{
    assert(p->plane_refs[plane] > 0);
    p->plane_refs[plane]++;
}

void vl_kv_plane_drop(struct vl_kv_pool *p, uint32_t plane, bool fork)
{
    assert(p->plane_refs[plane] > 0);
    p->n_session -= !fork;
    if (--p->plane_refs[plane] == 0)
        p->free_list[p->n_planes - p->n_used--] = plane;
}

uint32_t vl_kv_pool_forks_left(const struct vl_kv_pool *p)
{
    uint64_t each = planes_per_fork(p), held = vl_kv_pool_n_forked(p);
    if (held < p->n_forks * each)
        held = p->n_forks * each;
    uint64_t left = held < p->n_reserve ? (p->n_reserve - held) / each : 0;
    uint64_t allowed = p->reserve.max_forks - p->n_forks;
    return (uint32_t)(left < allowed ? left : allowed);
}

void vl_kv_pool_get_stats(const struct vl_kv_pool *p, struct vl_kv_pool_stats *ret)
{
    *ret = (struct vl_kv_pool_stats){
        .bytes = p->n_planes * p->plane_bytes,
        .bytes_used = p->n_used * p->plane_bytes,
        .bytes_reserve = p->n_reserve * p->plane_bytes,
        .bytes_forks = vl_kv_pool_n_forked(p) * p->plane_bytes,
        .n_sequences = p->n_sequences,
        .n_forks = p->n_forks,
        .n_forks_left = vl_kv_pool_forks_left(p),
    };
}

static size_t layer_bytes(const struct vl_kv_pool *p, unsigned which)
{
    return p->geo.page_slots * vl_dtype_row_bytes(vl_kv_plane_dtype(p, which), p->width);
}

void *vl_kv_plane_at(const struct vl_kv_pool *p, uint32_t plane, unsigned which, unsigned layer,
                     uint32_t slot)
{
    return p->mem + plane * p->plane_bytes + layer * layer_bytes(p, which) +
           slot * vl_dtype_row_bytes(vl_kv_plane_dtype(p, which), p->width);
}

struct vl_tensor vl_kv_plane_layer(const struct vl_kv_pool *p, uint32_t plane, unsigned which, unsigned layer,
                                   uint32_t first, uint32_t n)
{
    return vl_tensor_2d(vl_kv_plane_at(p, plane, which, layer, first), vl_kv_plane_dtype(p, which), n,
                        p->width);
}

struct vl_tensor vl_kv_plane_rows(const struct vl_kv_pool *p, uint32_t plane, unsigned which, uint32_t first,
                                  uint32_t n)
{
    struct vl_tensor t = vl_tensor_3d(vl_kv_plane_at(p, plane, which, 0, first), vl_kv_plane_dtype(p, which),
                                      p->geo.n_layers, n, p->width);
    t.stride[0] = layer_bytes(p, which);
    return t;
}
