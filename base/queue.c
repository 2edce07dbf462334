/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A bounded ring of items under one mutex. The taker is woken outside the lock. */
#include "base/queue.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct vl_queue {
    pthread_mutex_t lock;
    void (*wake)(void *user);
    void *user;
    size_t item_size, cap, first, n, high_water;
    uint64_t refused;
    unsigned char ring[];
};

int vl_queue_new(struct vl_queue **ret, size_t item_size, size_t cap, void (*wake)(void *user), void *user)
{
    size_t bytes;
    if (item_size == 0 || cap == 0 || __builtin_mul_overflow(item_size, cap, &bytes) || bytes > (1u << 28))
        return -EINVAL;
    struct vl_queue *q = calloc(1, sizeof(*q) + bytes);
    if (!q)
        return -ENOMEM;
    int r = pthread_mutex_init(&q->lock, NULL);
    if (r) {
        free(q);
        return -r;
    }
    q->item_size = item_size;
    q->cap = cap;
    q->wake = wake;
    q->user = user;
    *ret = q;
    return 0;
}

struct vl_queue *vl_queue_unref(struct vl_queue *q)
{
    if (q) {
        (void)pthread_mutex_destroy(&q->lock);
        free(q);
    }
    return NULL;
}

int vl_queue_put(struct vl_queue *q, const void *item)
{
    int r = VL_QUEUE_FULL;
    pthread_mutex_lock(&q->lock);
    if (q->n < q->cap) {
        memcpy(q->ring + (q->first + q->n++) % q->cap * q->item_size, item, q->item_size);
        if (q->n > q->high_water)
            q->high_water = q->n;
        r = 0;
    } else {
        q->refused++;
    }
    pthread_mutex_unlock(&q->lock);
    if (r == 0 && q->wake)
        q->wake(q->user);
    return r;
}

int vl_queue_take(struct vl_queue *q, void *ret_item)
{
    int r = VL_QUEUE_EMPTY;
    pthread_mutex_lock(&q->lock);
    if (q->n) {
        memcpy(ret_item, q->ring + q->first * q->item_size, q->item_size);
        q->first = (q->first + 1) % q->cap;
        q->n--;
        r = 0;
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}

void vl_queue_get_stats(struct vl_queue *q, struct vl_queue_stats *ret)
{
    pthread_mutex_lock(&q->lock);
    *ret = (struct vl_queue_stats){
        .depth = q->n, .high_water = q->high_water, .cap = q->cap, .refused = q->refused};
    pthread_mutex_unlock(&q->lock);
}
