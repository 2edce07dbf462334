/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_WORKERS_H
#define VL_BASE_WORKERS_H
#include "base/cleanup.h"

#include <stddef.h>

/* Threads that own nothing and run a range function for one owner thread, which takes part and waits at a
 * barrier. Work is split by shape: chunk boundaries depend on n and grain alone, never on the number of
 * workers, so results do not either. */
struct vl_workers;
/* first..last is one chunk, or several neighbours of it: the result of an item must not depend on where it is
 * cut. */
typedef void (*vl_range_fn)(void *arg, size_t first, size_t last);
/* n_threads helpers beside the caller; 0 is allowed. -ENOMEM, -EAGAIN, -EINVAL (more than 256). */
int vl_workers_new(struct vl_workers **ret, unsigned n_threads);
unsigned vl_workers_count(const struct vl_workers *w); /* helpers + the caller; 1 for NULL */
/* Runs fn over [0, n) in chunks of grain (>= 1) and returns when all are done. w NULL: on this thread alone.
 * Owner thread only, not from inside fn. Does not allocate. */
void vl_workers_run(struct vl_workers *w, vl_range_fn fn, void *arg, size_t n, size_t grain);
struct vl_workers *vl_workers_unref(struct vl_workers *w); /* one owner; joins the threads */
VL_DEFINE_AUTO(vl_workers)
#endif
