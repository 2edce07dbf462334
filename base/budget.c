/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A count and a limit. No order is promised between the count and the memory it stands for: none is needed.
 */
#include "base/budget.h"

void vl_budget_init(struct vl_budget *b, uint64_t limit)
{
    b->limit = limit;
    atomic_init(&b->used, 0);
}

uint64_t vl_budget_take(struct vl_budget *b, uint64_t n)
{
    uint64_t used = atomic_load(&b->used);
    do {
        uint64_t left = !b->limit ? UINT64_MAX - used : used < b->limit ? b->limit - used : 0;
        if (n > left)
            return n - left;
    } while (!atomic_compare_exchange_weak(&b->used, &used, used + n));
    return 0;
}

void vl_budget_give(struct vl_budget *b, uint64_t n)
{
    atomic_fetch_sub(&b->used, n);
}

uint64_t vl_budget_used(const struct vl_budget *b)
{
    return atomic_load(&b->used);
}
