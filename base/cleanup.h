/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Owning locals. `vl_auto(vl_frame) f = NULL;` runs vl_frame_unref at the end of the scope; vl_autofd closes,
 * vl_autofree frees. A type takes part by one line, VL_DEFINE_AUTO(vl_frame), beside its unref in its header.
 */
#ifndef VL_BASE_CLEANUP_H
#define VL_BASE_CLEANUP_H
#include <stdlib.h>
#include <unistd.h>

#define VL_DEFINE_AUTO(type)                                                                                 \
    static inline void type##_unrefp(struct type **p)                                                        \
    {                                                                                                        \
        (void)type##_unref(*p);                                                                              \
    }
#define vl_auto(type) __attribute__((cleanup(type##_unrefp))) struct type *
#define vl_autofd     __attribute__((cleanup(vl_closep))) int
#define vl_autofree   __attribute__((cleanup(vl_freep)))

static inline void vl_closep(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* nothing can be done about it, and Linux has let go of the number either way */
}

static inline void vl_freep(void *p)
{
    free(*(void **)p);
}

/* Hands an owned value over: returns it and leaves the cleanup variable empty. */
static inline int vl_steal_fd(int *fd)
{
    int r = *fd;
    *fd = -1;
    return r;
}

static inline void *vl_steal_ptr(void *pp)
{
    void *r = *(void **)pp;
    *(void **)pp = NULL;
    return r;
}
#define vl_steal(p) ((__typeof__(p))vl_steal_ptr(&(p)))
#endif
