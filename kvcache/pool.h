/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The pool behind kv.c: backend memory cut into equal planes. A plane is [n_layers, page_slots, n_kv_heads *
 * head_dim], one of the tensors of a page for all layers at once: a page is two planes (k, v), a text page
 * three (k_raw). One table entry thus serves every layer, a slide of all layers is one strided op, visual
 * pages do not pay for k_raw, and a fork keeps sharing v and k_raw with a parent that slid. Planes are
 * counted; a session's planes are told from those that only forks hold, because a session's limit must not
 * depend on the forks that happen to live. Included by kv.c and pool.c only. Engine thread.
 */
#ifndef VL_KVCACHE_POOL_H
#define VL_KVCACHE_POOL_H
#include "kvcache/kv.h"

enum { VL_KV_PLANE_K, VL_KV_PLANE_V, VL_KV_PLANE_RAW, VL_KV_PLANES_TEXT, VL_KV_PLANES_VISUAL = 2 };

struct vl_kv_pool {
    uint32_t refs; /* of the pool: its owner and each sequence */
    const struct vl_backend_ops *ops;
    void *device; /* borrowed, lives longer than the pool */
    struct vl_kv_geometry geo;
    struct vl_rope rope; /* owned; geo.rope points here */
    struct vl_kv_reserve reserve;
    char *mem; /* backend memory, [n_planes] of plane_bytes */
    size_t plane_bytes;
    uint32_t width;                       /* n_kv_heads * head_dim */
    uint32_t n_planes, n_used, n_session; /* n_session: held by sequences that are no forks */
    uint32_t n_budget,
        n_reserve; /* planes for sessions, planes for forks; the rest is a slide's spare page */
    uint32_t n_sequences, n_forks;
    uint32_t *plane_refs; /* [n_planes] */
    uint32_t *free_list;  /* [n_planes - n_used] */
};

/* The caller has made sure that one is free. */
uint32_t vl_kv_plane_take(struct vl_kv_pool *p, bool fork);
void vl_kv_plane_share(struct vl_kv_pool *p, uint32_t plane); /* one more holder, a fork */
void vl_kv_plane_drop(struct vl_kv_pool *p, uint32_t plane, bool fork);

static inline uint32_t vl_kv_pool_n_free(const struct vl_kv_pool *p)
{
    return p->n_planes - p->n_used;
}
/* Planes that only forks hold. */
static inline uint32_t vl_kv_pool_n_forked(const struct vl_kv_pool *p)
{
    return p->n_used - p->n_session;
}
/* How many more forks may be made now. */
uint32_t vl_kv_pool_forks_left(const struct vl_kv_pool *p);

static inline enum vl_dtype vl_kv_plane_dtype(const struct vl_kv_pool *p, unsigned which)
{
    return which == VL_KV_PLANE_V ? p->geo.v_dtype : p->geo.k_dtype;
}
void *vl_kv_plane_at(const struct vl_kv_pool *p, uint32_t plane, unsigned which, unsigned layer,
                     uint32_t slot);
/* Rows [first, first + n) of one layer, [n, width], and of all, [n_layers, n, width]. */
struct vl_tensor vl_kv_plane_layer(const struct vl_kv_pool *p, uint32_t plane, unsigned which, unsigned layer,
                                   uint32_t first, uint32_t n);
struct vl_tensor vl_kv_plane_rows(const struct vl_kv_pool *p, uint32_t plane, unsigned which, uint32_t first,
                                  uint32_t n);
#endif
