/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A bump allocator: step lifetime memory of the engine. Alignment is of the address, not of the offset. */
#include "base/arena.h"

#include <errno.h>
#include <stdint.h>

void vl_arena_init(struct vl_arena *a, void *base, size_t cap)
{
    *a = (struct vl_arena){.base = base, .cap = cap};
}

int vl_arena_alloc(struct vl_arena *a, size_t size, size_t align, void **ret)
{
    if (align == 0 || (align & (align - 1)) || align > 4096)
        return -EINVAL;
    uintptr_t at = (uintptr_t)a->base + a->used;
    size_t pad = (size_t)(-at & (align - 1)), end;
    if (__builtin_add_overflow(a->used, pad, &end) || __builtin_add_overflow(end, size, &end) || end > a->cap)
        return -ENOMEM;
    *ret = a->base ? a->base + a->used + pad : NULL;
    a->used = end;
    if (end > a->peak)
        a->peak = end;
    return 0;
}

size_t vl_arena_mark(const struct vl_arena *a)
{
    return a->used;
}

void vl_arena_reset(struct vl_arena *a, size_t mark)
{
    a->used = mark;
}
