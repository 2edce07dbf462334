/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KVCACHE_KV_H
#define VL_KVCACHE_KV_H
#include "kernels/attention.h"
#include "kvcache/policy.h"
enum { VL_KV_FULL = 1 };
struct vl_kv_pool; /* all pages of a device, engine lifetime */
struct vl_kv;      /* one sequence, session lifetime */
struct vl_kv_geometry {
    uint32_t n_layers, n_kv_heads, head_dim, page_slots;
    enum vl_dtype k_dtype, v_dtype;
    const struct vl_rope *rope;
};
/* A run of tokens that arrive together and are relocated or evicted together: system prompt, time stamp,
 * frame, caption, question. */
struct vl_kv_segment {
    enum vl_kv_kind kind;
    bool pinned; /* the sink: never evicted, slides forward instead */
    uint32_t n;
    uint64_t unit;
    int64_t extent;          /* positions it takes up, counted before pruning */
    const int64_t (*rel)[3]; /* [n] from the segment's base; NULL: 0, 1, 2, ... on all axes */
};
int vl_kv_pool_new(struct vl_kv_pool **ret, struct vl_exec *x, const struct vl_kv_geometry *g, size_t bytes,
                   struct vl_error *err);
int vl_kv_new(struct vl_kv **ret, struct vl_kv_pool *pool, const struct vl_kv_policy *policy,
              const struct vl_params *p, uint32_t max_tokens, struct vl_error *err);
/* A slot is a logical index, good until the next evict or truncate. Appends of the same kind and unit extend
 * the open segment until commit. VL_KV_FULL: evict or give up; on a fork: give up (Busy), the parent is never
 * evicted for it. */
int vl_kv_append(struct vl_kv *kv, struct vl_exec *x, const struct vl_kv_segment *s, uint32_t *ret_slot);
int vl_kv_store(struct vl_kv *kv, struct vl_exec *x, unsigned layer, uint32_t slot,
                const struct vl_tensor *k /* not rotated */, const struct vl_tensor *v);
int vl_kv_commit(struct vl_kv *kv); /* forks and saved state see committed segments only */
/* After every commit with n_wanted 0: the policy's own windows are enforced. Text ahead of the gap then
 * slides. */
int vl_kv_evict(struct vl_kv *kv, struct vl_exec *x, uint32_t n_wanted, uint32_t *ret_n);
uint32_t vl_kv_n_tokens(const struct vl_kv *kv);
int vl_kv_drop(struct vl_kv *kv, struct vl_exec *x, unsigned first_layer,
               const struct vl_tensor *slots);           /* later layers only: ragged */
int vl_kv_truncate(struct vl_kv *kv, uint32_t n_tokens); /* undo: rejected drafts, abandoned frames */
int vl_kv_fork(struct vl_kv **ret, struct vl_kv *parent,
               struct vl_exec *x); /* pages shared, copied on write */
int vl_kv_recall(struct vl_kv *fork, struct vl_exec *x, unsigned layer, const struct vl_tensor *q,
                 uint32_t n_units); /* later: retrieval */
int vl_kv_view(const struct vl_kv *kv, unsigned layer, struct vl_kv_view *ret);
const int64_t (*vl_kv_positions(const struct vl_kv *kv, uint32_t first_slot))[3];
struct vl_kv *vl_kv_unref(struct vl_kv *kv);
#endif
