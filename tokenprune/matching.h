/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Bipartite soft matching, the step of ToMe (arXiv 2210.09461): the even-numbered of n rows each find the
 * odd-numbered row most like them, and the best r of these pairs become one. All of it on the host, in memory
 * of whoever asks; nothing is allocated. Pure functions: the same rows give the same answer, whatever the
 * workers; ties go to the lower row. Engine thread.
 */
#ifndef VL_TOKENPRUNE_MATCHING_H
#define VL_TOKENPRUNE_MATCHING_H
#include <stddef.h>
#include <stdint.h>

struct vl_workers;

/* An even row, the odd row it would go into, and how good that is. */
struct vl_match {
    float score;
    int32_t from, to;
};

/* ret [(n + 1) / 2], by row: the best partner and its product. n >= 2. work: [vl_match_work(n, d)] */
size_t vl_match_work(uint32_t n, uint32_t d);
void vl_match_best(struct vl_workers *w, const float *rows, uint32_t n, uint32_t d, float *work,
                   struct vl_match *ret);

/* The r pairs with the highest score come first, r <= n_pairs; the order of the rest is lost. */
void vl_match_rank(struct vl_match *pair, uint32_t n_pairs, uint32_t r);

/* The first r pairs become one: into [n], each row's target, and index, what stays, ascending. Returns n - r.
 */
uint32_t vl_match_merge(const struct vl_match *pair, uint32_t r, uint32_t n, int32_t *into, int32_t *index);
#endif
