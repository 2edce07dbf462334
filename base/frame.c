/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The reference count of a frame: the last reader, on whichever thread, gives the memory back. */
#include "base/frame.h"

#include <stddef.h>

struct vl_frame *vl_frame_ref(struct vl_frame *f)
{
    if (f)
        atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return f;
}

struct vl_frame *vl_frame_unref(struct vl_frame *f)
{
    if (f && atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) == 1)
        f->release(f);
    return NULL;
}
