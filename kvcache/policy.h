/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KVCACHE_POLICY_H
#define VL_KVCACHE_POLICY_H
#include "base/error.h"
#include "base/params.h"
#include "kernels/backend.h"
enum vl_kv_kind { VL_KV_TEXT, VL_KV_VISUAL };
struct vl_kv_token {
    int64_t pos[3];
    uint64_t unit;
    uint8_t kind;
    bool pinned;
}; /* pos: rotary position; only kv.c assigns it */
/* Which slots go when pages run out. Contract, checked for every registered policy: names at least n_wanted
 * slots or all it may; never a pinned one; ascending, no duplicates; deterministic; the same answer after
 * truncate to n and re-append. */
struct vl_kv_policy {
    const char *name, *paper;
    const struct vl_param_desc *params;
    size_t (*state_size)(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers);
    int (*init)(void *state, const struct vl_params *p, struct vl_error *err);
    void (*observe)(void *state, unsigned layer,
                    const struct vl_tensor *mass); /* optional; accepted rows only, no drafts */
    int (*pick)(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                uint32_t *ret_slots, uint32_t *ret_n);
};
extern const struct vl_kv_policy *const vl_kv_policies[]; /* registry.c */
#endif
