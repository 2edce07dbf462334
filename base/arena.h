/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_ARENA_H
#define VL_BASE_ARENA_H
#include <stddef.h>

/* A bump allocator over memory that somebody else owns, host or device. Never grows, never frees one object.
 * One thread at a time. With base NULL it only measures: allocations "succeed" with NULL until cap. */
struct vl_arena {
    char *base;
    size_t cap, used, peak;
};
void vl_arena_init(struct vl_arena *a, void *base, size_t cap);
/* align: a power of two, at most 4096. -ENOMEM when full, -EINVAL for a bad align. */
int vl_arena_alloc(struct vl_arena *a, size_t size, size_t align, void **ret);
size_t vl_arena_mark(const struct vl_arena *a);
void vl_arena_reset(struct vl_arena *a, size_t mark);
#endif
