/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_BUDGET_H
#define VL_BASE_BUDGET_H
#include <stdatomic.h>
#include <stdint.h>

/* Bytes that several owners share: each takes what it needs before it allocates, and gives it back when that
 * is freed. Any thread, no lock; outlives whoever takes from it. */
struct vl_budget {
    uint64_t limit; /* 0: none, what is taken is counted all the same */
    atomic_uint_least64_t used;
};
void vl_budget_init(struct vl_budget *b, uint64_t limit);
/* 0: they are the caller's. Else how many are missing, and nothing was taken. */
uint64_t vl_budget_take(struct vl_budget *b, uint64_t n);
void vl_budget_give(struct vl_budget *b, uint64_t n);
uint64_t vl_budget_used(const struct vl_budget *b);
#endif
