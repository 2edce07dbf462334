/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The worker pool. One job at a time; chunks are handed out by an atomic counter. A round of work in a
 * decoder step lasts microseconds, so both sides spin briefly before they sleep.
 *
 * The trap: a late worker must never take a chunk of the *next* job with the old job's arguments. Therefore a
 * job ends only when every worker that entered it has left it, and workers enter under the lock.
 */
#include "base/workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { MAX_THREADS = 256, SPINS = 4000 };

struct vl_workers {
    pthread_mutex_t lock;
    pthread_cond_t go, done;
    unsigned n_threads, n_started;
    bool stop;
    atomic_uint generation; /* of the job; workers spin on it */
    atomic_uint inside;     /* workers in the current job */
    atomic_size_t next;     /* first item of the next chunk */
    vl_range_fn fn;
    void *arg;
    size_t n, grain;
    pthread_t thread[];
};

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void run_chunks(struct vl_workers *w)
{
    for (;;) {
        size_t first = atomic_fetch_add_explicit(&w->next, w->grain, memory_order_relaxed);
        if (first >= w->n)
            return;
        size_t last = w->n - first < w->grain ? w->n : first + w->grain;
        w->fn(w->arg, first, last);
    }
}

/* Returns false when the pool stops. */
static bool wait_for_job(struct vl_workers *w, unsigned *seen)
{
    for (int i = 0; i < SPINS && atomic_load_explicit(&w->generation, memory_order_acquire) == *seen; i++)
        relax();
    pthread_mutex_lock(&w->lock);
    while (atomic_load_explicit(&w->generation, memory_order_relaxed) == *seen && !w->stop)
        pthread_cond_wait(&w->go, &w->lock);
    *seen = atomic_load_explicit(&w->generation, memory_order_relaxed);
    bool go = !w->stop;
    if (go)
        atomic_fetch_add_explicit(&w->inside, 1, memory_order_relaxed);
    pthread_mutex_unlock(&w->lock);
    return go;
}

static void *worker(void *p)
{
    struct vl_workers *w = p;
    unsigned seen = 0;
    while (wait_for_job(w, &seen)) {
        run_chunks(w);
        if (atomic_fetch_sub_explicit(&w->inside, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&w->lock);
            pthread_cond_signal(&w->done);
            pthread_mutex_unlock(&w->lock);
        }
    }
    return NULL;
}

int vl_workers_new(struct vl_workers **ret, unsigned n_threads)
{
    if (n_threads > MAX_THREADS)
        return -EINVAL;
    struct vl_workers *w = calloc(1, sizeof(*w) + n_threads * sizeof(w->thread[0]));
    if (!w)
        return -ENOMEM;
    w->n_threads = n_threads;
    if (pthread_mutex_init(&w->lock, NULL) || pthread_cond_init(&w->go, NULL) ||
        pthread_cond_init(&w->done, NULL)) {
        free(w);
        return -ENOMEM;
    }
    for (; w->n_started < n_threads; w->n_started++) {
        int r = pthread_create(&w->thread[w->n_started], NULL, worker, w);
        if (r) {
            (void)vl_workers_unref(w);
            return -r;
        }
    }
    *ret = w;
    return 0;
}

struct vl_workers *vl_workers_unref(struct vl_workers *w)
{
    if (!w)
        return NULL;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->go);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->n_started; i++)
        (void)pthread_join(w->thread[i], NULL);
    (void)pthread_cond_destroy(&w->done);
    (void)pthread_cond_destroy(&w->go);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
    return NULL;
}

unsigned vl_workers_count(const struct vl_workers *w)
{
    return w ? w->n_threads + 1 : 1;
}

static void wait_until_left(struct vl_workers *w)
{
    for (int i = 0; i < SPINS && atomic_load_explicit(&w->inside, memory_order_acquire); i++)
        relax();
    pthread_mutex_lock(&w->lock);
    while (atomic_load_explicit(&w->inside, memory_order_acquire))
        pthread_cond_wait(&w->done, &w->lock);
    /* Nobody is inside and nobody can enter: a worker that wakes late finds an empty range. */
    w->n = 0;
    pthread_mutex_unlock(&w->lock);
}

void vl_workers_run(struct vl_workers *w, vl_range_fn fn, void *arg, size_t n, size_t grain)
{
    if (n == 0)
        return;
    if (!w || w->n_threads == 0 || n <= grain) {
        fn(arg, 0, n);
        return;
    }
    pthread_mutex_lock(&w->lock);
    while (atomic_load_explicit(&w->inside, memory_order_acquire)) /* one that woke late for the last job */
        pthread_cond_wait(&w->done, &w->lock);
    w->fn = fn;
    w->arg = arg;
    w->n = n;
    w->grain = grain;
    atomic_store_explicit(&w->next, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->generation, 1, memory_order_release);
    pthread_cond_broadcast(&w->go);
    pthread_mutex_unlock(&w->lock);
    run_chunks(w);
    wait_until_left(w);
}
