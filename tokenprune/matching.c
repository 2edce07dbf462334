/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Bipartite soft matching. The odd rows are turned over first, so that the products of an even row with many
 * odd ones run along memory; each product is a sum in the order of the columns, whoever computes it. */
#include "tokenprune/matching.h"

#include "base/workers.h"

#include <math.h>

enum { BLOCK = 256 /* odd rows at a time */, GRAIN = 16 /* even rows to a chunk */ };

size_t vl_match_work(uint32_t n, uint32_t d)
{
    return (size_t)(n / 2) * d;
}

struct search {
    const float *rows, *odd; /* [n, d]; [d, n_odd] */
    uint32_t n_odd, d;
    struct vl_match *ret;
};

static void find_partner(const struct search *s, uint32_t from, struct vl_match *ret)
{
    const float *row = s->rows + (size_t)from * s->d;
    float sum[BLOCK];
    *ret = (struct vl_match){-INFINITY, (int32_t)from, 1};
    for (uint32_t at = 0, n; at < s->n_odd; at += n) {
        n = s->n_odd - at < BLOCK ? s->n_odd - at : BLOCK;
        for (uint32_t j = 0; j < n; j++)
            sum[j] = 0;
        for (uint32_t k = 0; k < s->d; k++) {
            const float *odd = s->odd + (size_t)k * s->n_odd + at;
            const float v = row[k];
            for (uint32_t j = 0; j < n; j++)
                sum[j] += v * odd[j];
        }
        for (uint32_t j = 0; j < n; j++)
            if (sum[j] > ret->score) {
                ret->score = sum[j];
                ret->to = (int32_t)(2 * (at + j) + 1);
            }
    }
}

static void find_partners(void *arg, size_t first, size_t last)
{
    const struct search *s = arg;
    for (size_t i = first; i < last; i++)
        find_partner(s, (uint32_t)(2 * i), &s->ret[i]);
}

void vl_match_best(struct vl_workers *w, const float *rows, uint32_t n, uint32_t d, float *work,
                   struct vl_match *ret)
{
    struct search s = {.rows = rows, .odd = work, .n_odd = n / 2, .d = d, .ret = ret};
    for (uint32_t j = 0; j < s.n_odd; j++)
        for (uint32_t k = 0; k < d; k++)
            work[(size_t)k * s.n_odd + j] = rows[(size_t)(2 * j + 1) * d + k];
    vl_workers_run(w, find_partners, &s, (n + 1) / 2, GRAIN);
}

/* ---- the best r of them ---- */

static int before(const struct vl_match *a, const struct vl_match *b)
{
    return a->score > b->score || (!(a->score < b->score) && a->from < b->from);
}

/* The worst of a heap stands on top. */
static void sift(struct vl_match *heap, uint32_t at, uint32_t n)
{
    for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(&heap[child], &heap[child + 1]))
            child++;
        if (before(&heap[child], &heap[at]))
            return;
        const struct vl_match t = heap[at];
        heap[at] = heap[child];
        heap[child] = t;
    }
}

void vl_match_rank(struct vl_match *pair, uint32_t n_pairs, uint32_t r)
{
    if (r == 0)
        return;
    for (uint32_t i = r / 2; i-- > 0;)
        sift(pair, i, r);
    for (uint32_t i = r; i < n_pairs; i++)
        if (before(&pair[i], &pair[0])) {
            const struct vl_match t = pair[0];
            pair[0] = pair[i];
            pair[i] = t;
            sift(pair, 0, r);
        }
}

uint32_t vl_match_merge(const struct vl_match *pair, uint32_t r, uint32_t n, int32_t *into, int32_t *index)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        into[i] = (int32_t)i;
    for (uint32_t i = 0; i < r; i++)
        into[pair[i].from] = pair[i].to;
    for (uint32_t i = 0; i < n; i++)
        if (into[i] == (int32_t)i)
            index[kept++] = (int32_t)i;
    return kept;
}
