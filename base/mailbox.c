/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Newest-wins mailbox of frames between the main thread (put) and the engine thread (take). A ring under one
 * mutex; frames are released and the taker is woken outside it, because both may call into other code.
 *
 * A dropped frame's GAP flag must survive. Frames are immutable once published, but a frame in the box has
 * exactly one reference that anybody knows of, the box's own; the flag of the oldest left is therefore ours
 * to set.
 */
#include "base/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

struct vl_mailbox {
    pthread_mutex_t lock;
    atomic_int refs;
    void (*wake)(void *user);
    void *user;
    size_t depth, first, n;
    uint64_t dropped;
    bool ended;
    int end;
    struct vl_frame *ring[];
};

int vl_mailbox_new(struct vl_mailbox **ret, size_t depth, void (*wake)(void *user), void *user)
{
    if (depth == 0 || depth > 1024)
        return -EINVAL;
    struct vl_mailbox *m = calloc(1, sizeof(*m) + depth * sizeof(m->ring[0]));
    if (!m)
        return -ENOMEM;
    int r = pthread_mutex_init(&m->lock, NULL);
    if (r) {
        free(m);
        return -r;
    }
    atomic_init(&m->refs, 1);
    m->depth = depth;
    m->wake = wake;
    m->user = user;
    *ret = m;
    return 0;
}

struct vl_mailbox *vl_mailbox_ref(struct vl_mailbox *m)
{
    if (m)
        atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

struct vl_mailbox *vl_mailbox_unref(struct vl_mailbox *m)
{
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return NULL;
    for (size_t i = 0; i < m->n; i++)
        (void)vl_frame_unref(m->ring[(m->first + i) % m->depth]);
    (void)pthread_mutex_destroy(&m->lock);
    free(m);
    return NULL;
}

void vl_mailbox_set_wake(struct vl_mailbox *m, void (*wake)(void *user), void *user)
{
    pthread_mutex_lock(&m->lock);
    m->wake = wake;
    m->user = user;
    bool now = wake && (m->n || m->ended);
    pthread_mutex_unlock(&m->lock);
    if (now)
        wake(user);
}

/* Drops the oldest frame and hands it back; the one after the hole takes over its flag. Called under the
 * lock. */
static struct vl_frame *drop_oldest(struct vl_mailbox *m, struct vl_frame *newcomer)
{
    struct vl_frame *old = m->ring[m->first];
    m->first = (m->first + 1) % m->depth;
    m->n--;
    m->dropped++;
    struct vl_frame *next = m->n ? m->ring[m->first] : newcomer;
    next->flags |= old->flags & VL_FRAME_GAP;
    return old;
}

int vl_mailbox_put(struct vl_mailbox *m, struct vl_frame *f)
{
    struct vl_frame *old = NULL;
    pthread_mutex_lock(&m->lock);
    bool ended = m->ended;
    if (!ended) {
        if (m->n == m->depth)
            old = drop_oldest(m, f);
        m->ring[(m->first + m->n++) % m->depth] = f;
    }
    void (*wake)(void *) = m->wake;
    void *user = m->user;
    pthread_mutex_unlock(&m->lock);
    if (ended) {
        (void)vl_frame_unref(f);
        return -EPIPE;
    }
    if (wake)
        wake(user);
    if (!old)
        return 0;
    (void)vl_frame_unref(old);
    return VL_MAILBOX_REPLACED;
}

void vl_mailbox_end(struct vl_mailbox *m, int r)
{
    pthread_mutex_lock(&m->lock);
    if (!m->ended) {
        m->ended = true;
        m->end = r;
    }
    void (*wake)(void *) = m->wake;
    void *user = m->user;
    pthread_mutex_unlock(&m->lock);
    if (wake)
        wake(user);
}

int vl_mailbox_take(struct vl_mailbox *m, struct vl_frame **ret, int *ret_end)
{
    int r = VL_MAILBOX_EMPTY;
    pthread_mutex_lock(&m->lock);
    if (m->n) {
        *ret = m->ring[m->first];
        m->first = (m->first + 1) % m->depth;
        m->n--;
        r = 0;
    } else if (m->ended) {
        *ret_end = m->end;
        r = VL_MAILBOX_ENDED;
    }
    pthread_mutex_unlock(&m->lock);
    return r;
}

uint64_t vl_mailbox_dropped(const struct vl_mailbox *m)
{
    struct vl_mailbox *w =
        (struct vl_mailbox *)m; /* the lock is not part of what the caller sees as constant */
    pthread_mutex_lock(&w->lock);
    uint64_t n = w->dropped;
    pthread_mutex_unlock(&w->lock);
    return n;
}
