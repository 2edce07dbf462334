/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Which cached tokens go. A policy sees what the tokens are, never their keys, values or positions, and
 * answers with slots; kvcache/kv.c moves pages and positions, once for all policies. A new policy is one file
 * and one line in registry.c; tests/conformance/kv_policies.c holds every registered one to the contract
 * below. Engine thread only.
 */
#ifndef VL_KVCACHE_POLICY_H
#define VL_KVCACHE_POLICY_H
#include "base/error.h"
#include "base/params.h"

#include <stdbool.h>
#include <stdint.h>

enum vl_kv_kind { VL_KV_TEXT, VL_KV_VISUAL };

struct vl_kv_token {
    uint64_t unit; /* never decreases from slot to slot: what came in with one frame and its words */
    uint8_t kind;  /* enum vl_kv_kind */
    bool pinned;
    uint16_t y, x; /* of a visual token: its place in the picture's grid, counted before any reduction */
};

/* Asked after every commit with n_wanted 0, when it only enforces its own windows, and with n_wanted > 0 when
 * pages ran out, when it also gives up what its windows would keep. It is shown committed tokens only.
 *
 * Contract, checked for every registered policy: with n_wanted > 0 it names at least n_wanted slots, or all
 * it may (everything but the pinned); never a pinned one; ascending, no duplicates; what it names with
 * n_wanted 0 it also names with more; asked again about the rest with n_wanted 0 it names nothing;
 * deterministic; the same answer after truncate to n and re-append. */
struct vl_kv_policy {
    const char *name, *paper;
    const struct vl_param_desc *params; /* ends with key == NULL */
    /* The option `window`, when there is one, is of units: a unit further back than that has no picture left.
     * When nobody says it is that many times the window the model was made for: what keeps less of each
     * picture looks back further. 0: once. */
    uint32_t n_windows;
    /* Bytes of host memory for one sequence of at most max_tokens tokens. */
    size_t (*state_size)(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers);
    int (*init)(void *state, const struct vl_params *p,
                struct vl_error *err); /* p was checked against params */
    /* The next three together or not at all: a policy that looks at attention. probes: in how many layers, 0
     * none. observe: mass [n] is what the first n slots received from the rows that were probed, summed over
     * rows and averaged over layers and heads. Called with the commit of those rows, so never for a fork nor
     * for what was truncated. moved: slots moved after an eviction, kept [n] are the former ones, ascending;
     * or kept is NULL and the first n are left of a truncate. */
    uint32_t (*probes)(const void *state);
    void (*observe)(void *state, const float *mass, uint32_t n);
    void (*moved)(void *state, const uint32_t *kept, uint32_t n);
    /* tok [n]; ret_slots has room for n. */
    int (*pick)(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                uint32_t *ret_slots, uint32_t *ret_n);
};

extern const struct vl_kv_policy *const vl_kv_policies[]; /* registry.c, NULL-terminated */
/* -EINVAL names the nearest known policy. */
int vl_kv_policy_find(const struct vl_kv_policy **ret, const char *name, struct vl_error *err);
#endif
