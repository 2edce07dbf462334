/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Byte-pair encoding (Sennrich et al. 2016, section 3.2; on bytes as in GPT-2, Radford et al. 2019) with a
 * heap, so that a long piece costs n log n. Pairs are found by bisection among the merges of their left side.
 * The trap: a candidate in the heap goes stale when one of its two symbols is merged elsewhere; it is checked
 * when it comes out. */
#include "decoder/bpe.h"
#include "decoder/tokenizer.h"
#include "weights/weights.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MERGES = 4 << 20 };

int vl_ids_add(struct vl_ids *ids, int32_t id)
{
    if (ids->n == ids->cap)
        return VL_TOKENIZER_FULL;
    ids->id[ids->n++] = id;
    return 0;
}

static int compare_merges(const void *a, const void *b)
{
    const struct vl_merge *x = a, *y = b;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    if (x->right != y->right)
        return x->right < y->right ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* "left right" -> ids; the space is the first from byte 1 on. */
static int parse_merge(const struct vl_vocabulary *v, const char *s, size_t n, struct vl_merge *ret)
{
    char joined[2 * VL_PIECE_MAX];
    const char *space = n > 2 ? memchr(s + 1, ' ', n - 1) : NULL;
    size_t left = space ? (size_t)(space - s) : 0, right = space ? n - left - 1 : 0;
    if (!right || left > VL_PIECE_MAX || right > VL_PIECE_MAX)
        return -EINVAL;
    memcpy(joined, s, left);
    memcpy(joined + left, space + 1, right);
    ret->left = vl_vocabulary_find(v, s, left);
    ret->right = vl_vocabulary_find(v, space + 1, right);
    ret->into = vl_vocabulary_find(v, joined, left + right);
    return ret->left < 0 || ret->right < 0 || ret->into < 0 || (v->flags[ret->into] & VL_WORD_SPECIAL)
               ? -EINVAL
               : 0;
}

static int load_merges(struct vl_bpe *b, const struct vl_vocabulary *v, const struct vl_weights *w,
                       struct vl_error *err)
{
    struct vl_weights_strs it = {0};
    int r = vl_weights_get_strs(w, "tokenizer.ggml.merges", &it, err);
    if (r < 0)
        return r;
    if (r == VL_WEIGHTS_ABSENT || it.n > MAX_MERGES)
        return vl_error_set(err, -EINVAL, "%.60s: tokenizer.ggml.merges is missing or longer than %d",
                            vl_weights_name(w), MAX_MERGES);
    b->merge = calloc(it.n ? it.n : 1, sizeof(*b->merge));
    b->first = calloc((size_t)v->n + 1, sizeof(*b->first));
    if (!b->merge || !b->first)
        return vl_error_set(err, -ENOMEM, "no memory for %u merges", it.n);
    for (uint32_t i = 0; i < it.n; i++) {
        char name[40];
        size_t n;
        const char *s = vl_weights_next_str(&it, &n);
        b->merge[i].rank = i;
        if (parse_merge(v, s, n, &b->merge[i]) < 0)
            return vl_error_set(
                err, -EINVAL,
                "%.60s: merge %u '%s' does not join two tokens of the vocabulary into a third that "
                "is not special",
                vl_weights_name(w), i, vl_vocabulary_quote(name, s, n));
    }
    qsort(b->merge, it.n, sizeof(*b->merge), compare_merges);
    for (uint32_t i = 0; i < it.n; i++) { /* of merges that stand there twice the first counts */
        const struct vl_merge *last = b->n_merges ? &b->merge[b->n_merges - 1] : NULL;
        if (!last || last->left != b->merge[i].left || last->right != b->merge[i].right)
            b->merge[b->n_merges++] = b->merge[i];
    }
    for (uint32_t i = 0; i < b->n_merges; i++)
        b->first[b->merge[i].left + 1]++;
    for (uint32_t i = 0; i < v->n; i++)
        b->first[i + 1] += b->first[i];
    return 0;
}

/* Index of the merge of this pair, or n_merges. */
static uint32_t find_merge(const struct vl_bpe *b, int32_t left, int32_t right)
{
    uint32_t lo = b->first[left], hi = b->first[left + 1], end = hi;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (b->merge[mid].right < right)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < end && b->merge[lo].right == right ? lo : b->n_merges;
}

int vl_bpe_init(struct vl_bpe *b, const struct vl_vocabulary *v, const struct vl_weights *w,
                struct vl_error *err)
{
    *b = (struct vl_bpe){0};
    for (int i = 0; i < 256; i++)
        b->byte_id[i] = vl_vocabulary_byte(v, (uint8_t)i);
    return load_merges(b, v, w, err);
}

static void free_room(struct vl_bpe *b)
{
    free(b->symbol);
    free(b->heap);
}

void vl_bpe_done(struct vl_bpe *b)
{
    free(b->merge);
    free(b->first);
    free_room(b);
    *b = (struct vl_bpe){0};
}

int vl_bpe_reserve(struct vl_bpe *b, size_t n)
{
    if (n <= b->cap)
        return 0;
    free_room(b);
    b->symbol = reallocarray(NULL, n, sizeof(*b->symbol));
    b->heap = reallocarray(NULL, n, 3 * sizeof(*b->heap)); /* n - 1 pairs, and two more for each merge */
    b->cap = b->symbol && b->heap ? n : 0;
    return b->cap ? 0 : -ENOMEM;
}

static void heap_push(struct vl_bpe *b, struct vl_merge_candidate c)
{
    size_t i = b->n_heap++;
    for (; i && b->heap[(i - 1) / 2].key > c.key; i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = c;
}

static struct vl_merge_candidate heap_pop(struct vl_bpe *b)
{
    struct vl_merge_candidate top = b->heap[0], last = b->heap[--b->n_heap];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < b->n_heap; i = child) {
        if (child + 1 < b->n_heap && b->heap[child + 1].key < b->heap[child].key)
            child++;
        if (b->heap[child].key >= last.key)
            break;
        b->heap[i] = b->heap[child];
    }
    b->heap[i] = last;
    return top;
}

static void propose(struct vl_bpe *b, int32_t left)
{
    if (left < 0 || b->symbol[left].next < 0)
        return;
    uint32_t m = find_merge(b, b->symbol[left].id, b->symbol[b->symbol[left].next].id);
    if (m < b->n_merges)
        heap_push(b, (struct vl_merge_candidate){(uint64_t)b->merge[m].rank << 32 | (uint32_t)left, m});
}

/* Merges the pair at c's place, unless one of the two has become something else since. */
static void apply(struct vl_bpe *b, const struct vl_merge_candidate *c)
{
    struct vl_symbol *s = b->symbol;
    const struct vl_merge *m = &b->merge[c->merge];
    int32_t left = (int32_t)(c->key & UINT32_MAX), right = s[left].next;
    if (s[left].id != m->left || right < 0 || s[right].id != m->right)
        return;
    s[left].id = m->into;
    s[left].next = s[right].next;
    s[right].id = VL_TOKEN_NONE;
    if (s[left].next >= 0)
        s[s[left].next].prev = left;
    propose(b, s[left].prev);
    propose(b, left);
}

int vl_bpe_encode(struct vl_bpe *b, const unsigned char *p, size_t len, struct vl_ids *ids)
{
    int32_t n = 0;
    for (size_t i = 0; i < len; i++)
        if (b->byte_id[p[i]] >= 0) {
            b->symbol[n] = (struct vl_symbol){b->byte_id[p[i]], n - 1, n + 1};
            n++;
        }
    if (n == 0)
        return 0;
    b->symbol[n - 1].next = -1;
    b->n_heap = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        propose(b, i);
    while (b->n_heap) {
        struct vl_merge_candidate c = heap_pop(b);
        apply(b, &c);
    }
    int r = 0;
    for (int32_t i = 0; i >= 0 && r == 0; i = b->symbol[i].next)
        r = vl_ids_add(ids, b->symbol[i].id);
    return r;
}
