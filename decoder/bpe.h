/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DECODER_BPE_H
#define VL_DECODER_BPE_H
#include "decoder/vocabulary.h"

/* The merges of a byte-level BPE, and the working memory in which a piece is merged. Embedded in a tokenizer;
 * encode is for one thread at a time. */
struct vl_merge {
    int32_t left, right, into;
    uint32_t rank;
};
struct vl_symbol { /* of the piece being merged: a doubly linked list by index, id < 0: gone */
    int32_t id, prev, next;
};
struct vl_merge_candidate { /* key: rank, then place, so that the smallest is the next to merge */
    uint64_t key;
    uint32_t merge;
};
struct vl_bpe {
    uint32_t n_merges;
    struct vl_merge *merge;          /* [n_merges] ascending by left, then right */
    uint32_t *first;                 /* [vocabulary + 1] by left */
    int32_t byte_id[256];            /* VL_TOKEN_NONE: the vocabulary has no token for it */
    struct vl_symbol *symbol;        /* [cap] */
    struct vl_merge_candidate *heap; /* [3 * cap] */
    size_t cap, n_heap;
};
/* Ids being collected. */
struct vl_ids {
    int32_t *id;
    uint32_t n, cap;
};
int vl_ids_add(struct vl_ids *ids, int32_t id); /* or VL_TOKENIZER_FULL */

/* Reads tokenizer.ggml.merges. Errors as vl_tokenizer_new's. On failure, too, done is the caller's. */
int vl_bpe_init(struct vl_bpe *b, const struct vl_vocabulary *v, const struct vl_weights *w,
                struct vl_error *err);
void vl_bpe_done(struct vl_bpe *b);
/* Room for pieces of n bytes. -ENOMEM; the old room is gone then. */
int vl_bpe_reserve(struct vl_bpe *b, size_t n);
/* Merges one piece of at most the reserved length: lowest rank first, leftmost on ties. 0 or
 * VL_TOKENIZER_FULL. */
int vl_bpe_encode(struct vl_bpe *b, const unsigned char *p, size_t len, struct vl_ids *ids);
#endif
