/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The sampler. Pure but for the generator in its state; engine thread. Probabilities are formed in double
 * from differences to the largest logit. The trap: candidates leave a heap in order of logit, so top-k and
 * top-p cost what they keep, and only a plain draw walks the whole vocabulary. */
#include "decoder/sampler.h"

#include "base/random.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

void vl_sampler_init(struct vl_sampler *s, const struct vl_sampling *how)
{
    *s = (struct vl_sampler){*how, how->seed};
}

/* [0, 1) */
static double draw(struct vl_sampler *s)
{
    return (double)(vl_random_u64(&s->rng) >> 11) * 0x1p-53;
}

/* before: comes first when the better one wins. */
static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static void sift(struct candidate *c, size_t n, size_t i)
{
    struct candidate v = c[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&c[child + 1], &c[child]))
            child++;
        if (!before(&c[child], &v))
            break;
        c[i] = c[child];
    }
    c[i] = v;
}

static bool is_allowed(const uint32_t *allowed, uint32_t id)
{
    return !allowed || (allowed[id / 32] >> id % 32 & 1);
}

/* Each distinct id of the window once. seen: a bit for each id, zero before. */
static void penalise(const struct vl_sampling *how, float *logit, uint32_t n, const int32_t *recent,
                     uint32_t n_recent, uint32_t *seen)
{
    uint32_t first = n_recent > how->repeat_window ? n_recent - how->repeat_window : 0;
    for (uint32_t i = first; i < n_recent; i++) {
        uint32_t id = (uint32_t)recent[i];
        if (id >= n || (seen[id / 32] >> id % 32 & 1))
            continue;
        seen[id / 32] |= 1u << id % 32;
        logit[id] = logit[id] > 0 ? logit[id] / how->repeat_penalty : logit[id] * how->repeat_penalty;
    }
}

/* The candidates that may be chosen, in order of ids. */
static int gather(const float *logit, uint32_t n, const uint32_t *allowed, struct candidate *ret,
                  size_t *ret_n)
{
    size_t m = 0;
    bool some = false;
    for (uint32_t i = 0; i < n; i++) {
        some = some || is_allowed(allowed, i);
        if (is_allowed(allowed, i) && logit[i] > -INFINITY)
            ret[m++] = (struct candidate){logit[i], (int32_t)i};
    }
    *ret_n = m;
    return m ? 0 : some ? -EDOM : -EINVAL;
}

static int32_t largest(const struct candidate *c, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (c[i].logit > c[best].logit)
            best = i;
    return c[best].id;
}

static double weight(const struct candidate *c, double max, double temperature)
{
    return exp(((double)c->logit - max) / temperature);
}

/* The first candidate at which the running sum passes u times the total. */
static int32_t walk(const struct candidate *c, size_t n, double max, double temperature, double u)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        total += weight(&c[i], max, temperature);
    for (size_t i = 0; i < n; i++) {
        sum += weight(&c[i], max, temperature);
        if (sum > u * total)
            return c[i].id;
    }
    return c[n - 1].id; /* rounding kept the last sum from passing */
}

/* Moves the best of the heap behind it. */
static void take_best(struct candidate *c, size_t *inout_heap)
{
    struct candidate best = c[0];
    c[0] = c[--*inout_heap];
    sift(c, *inout_heap, 0);
    c[*inout_heap] = best;
}

/* Brings the candidates that survive top-k, top-p and min-p to the end of c, the best one last; returns how
 * many. */
static size_t keep_best(const struct vl_sampling *how, struct candidate *c, size_t n)
{
    double t = (double)how->temperature, total = 0, sum = 0;
    size_t heap = n, kept = 0, limit = how->top_k && how->top_k < n ? how->top_k : n;
    for (size_t i = n / 2; i-- > 0;)
        sift(c, n, i);
    double max = (double)c[0].logit;
    while (limit < n && n - heap < limit)
        take_best(c, &heap);
    for (size_t i = n - limit; i < n; i++)
        total += weight(&c[i], max, t);
    while (kept < limit && (!kept || how->top_p >= 1 || sum < (double)how->top_p * total)) {
        if (n - heap == kept) /* without top-k they leave the heap only as they are needed */
            take_best(c, &heap);
        double v = weight(&c[n - 1 - kept], max, t);
        if (kept && v < (double)how->min_p)
            break;
        sum += v;
        kept++;
    }
    return kept;
}

static int32_t choose(struct vl_sampler *s, struct candidate *c, size_t n)
{
    const struct vl_sampling *how = &s->how;
    if (!(how->temperature > 0))
        return largest(c, n);
    size_t kept = n;
    if (how->top_k || how->top_p < 1 || how->min_p > 0)
        kept = keep_best(how, c, n);
    double max = -INFINITY;
    for (size_t i = n - kept; i < n; i++)
        max = fmax(max, (double)c[i].logit);
    return walk(c + n - kept, kept, max, (double)how->temperature, draw(s));
}

struct scratch {
    float *logit;           /* [n] */
    struct candidate *some; /* [n] */
    uint32_t *seen;         /* [n / 32 + 1] */
};

static int reserve(struct vl_exec *x, uint32_t n, struct scratch *ret, struct vl_tensor *ret_logits)
{
    struct vl_tensor some, seen;
    int r = vl_scratch_1d(x, ret_logits, VL_F32, n);
    if (r == 0)
        r = vl_scratch_2d(x, &some, VL_F32, n, 2);
    if (r == 0)
        r = vl_scratch_1d(x, &seen, VL_I32, n / 32 + 1);
    if (r == 0)
        *ret = (struct scratch){ret_logits->data, some.data, seen.data};
    return r;
}

static int pick(struct vl_sampler *s, struct vl_exec *x, const struct vl_tensor *logits,
                const int32_t *recent, uint32_t n_recent, const uint32_t *allowed, int32_t *ret)
{
    uint32_t n = logits->dim[logits->n_dims - 1];
    struct scratch k = {0};
    struct vl_tensor host, row = *logits;
    size_t n_some;
    int r = reserve(x, n, &k, &host);
    if (r < 0)
        return r;
    row.n_dims = 1;
    row.dim[0] = n;
    row.stride[0] = logits->stride[logits->n_dims - 1];
    r = x->ops->copy(x, &host, &row);
    if (r == 0)
        r = x->ops->sync(x);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < n; i++)
        if (!(k.logit[i] < INFINITY))
            return -EDOM;
    if (n_recent && s->how.repeat_penalty > 0 && s->how.repeat_penalty != 1) {
        memset(k.seen, 0, (n / 32 + 1) * sizeof(*k.seen));
        penalise(&s->how, k.logit, n, recent, n_recent, k.seen);
    }
    r = gather(k.logit, n, allowed, k.some, &n_some);
    if (r == 0)
        *ret = choose(s, k.some, n_some);
    return r;
}

int vl_sampler_pick(struct vl_sampler *s, struct vl_exec *x, const struct vl_tensor *logits,
                    const int32_t *recent, uint32_t n_recent, const uint32_t *allowed, int32_t *ret)
{
    uint32_t n = logits->n_dims ? logits->dim[logits->n_dims - 1] : 0;
    if (logits->dtype != VL_F32 || n == 0 || n > INT32_MAX || vl_tensor_n_rows(logits) != 1)
        return -EINVAL;
    size_t mark = vl_arena_mark(x->scratch);
    int r = pick(s, x, logits, recent, n_recent, allowed, ret);
    vl_arena_reset(x->scratch, mark);
    return r;
}
