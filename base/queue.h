/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_QUEUE_H
#define VL_BASE_QUEUE_H
#include "base/cleanup.h"

#include <stddef.h>
#include <stdint.h>

/* A bounded queue of fixed-size items copied in and out: commands to the engine thread, events from it. Any
 * number of putters, one taker. Never blocks, never grows. */
enum { VL_QUEUE_FULL = 1, VL_QUEUE_EMPTY = 2 };
struct vl_queue;
struct vl_queue_stats {
    size_t depth, high_water, cap;
    uint64_t refused; /* puts that found it full */
};
/* wake is called on the putting thread after a successful put, outside the lock; it must only signal. NULL:
 * none. */
int vl_queue_new(struct vl_queue **ret, size_t item_size, size_t cap, void (*wake)(void *user), void *user);
int vl_queue_put(struct vl_queue *q, const void *item); /* 0 or VL_QUEUE_FULL */
int vl_queue_take(struct vl_queue *q, void *ret_item);  /* 0 or VL_QUEUE_EMPTY */
void vl_queue_get_stats(struct vl_queue *q, struct vl_queue_stats *ret);
struct vl_queue *
vl_queue_unref(struct vl_queue *q); /* one owner; items still inside are forgotten, not released */
VL_DEFINE_AUTO(vl_queue)
#endif
