/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* From scores to an answer. The trap: features that are not finite make scores that are not, and what is
 * chosen by comparing must be a choice all the same. */
#include "tokenprune/choice.h"

#include <math.h>

size_t vl_choice_size(const struct vl_reducer_shape *s)
{
    return s->max_tokens * (2 * sizeof(float) + 3 * sizeof(int32_t) + sizeof(bool));
}

void vl_choice_init(struct vl_choice *c, void *memory, const struct vl_reducer_shape *s)
{
    size_t n = s->max_tokens;
    *c = (struct vl_choice){.max_tokens = s->max_tokens, .score = memory};
    c->saliency = c->score + n;
    c->order = (uint32_t *)(c->saliency + n);
    c->index = (int32_t *)(c->order + n);
    c->into = c->index + n;
    c->keep = (bool *)(c->into + n);
}

int vl_choice_begin(struct vl_choice *c, const struct vl_visual_tokens *tok, uint32_t budget)
{
    if (budget == 0 || tok->n == 0 || tok->n > c->max_tokens)
        return -EINVAL;
    for (uint32_t i = 0; i < tok->n; i++) {
        c->keep[i] = false;
        c->into[i] = (int32_t)i;
    }
    return 0;
}

/* ---- order ---- */

static bool before(const float *score, uint32_t a, uint32_t b)
{
    return score[a] > score[b] || (!(score[b] > score[a]) && a < b);
}

/* Heap whose top is the last in order. */
static void sift(uint32_t *heap, const float *score, uint32_t n, uint32_t at)
{
    for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(score, heap[child], heap[child + 1]))
            child++;
        if (!before(score, heap[at], heap[child]))
            return;
        uint32_t down = heap[at];
        heap[at] = heap[child];
        heap[child] = down;
    }
}

void vl_choice_rank(uint32_t *order, const float *score, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (uint32_t i = n / 2; i-- > 0;)
        sift(order, score, n, i);
    for (uint32_t left = n; left > 1;) {
        uint32_t last = order[0];
        order[0] = order[--left];
        order[left] = last;
        sift(order, score, left, 0);
    }
}

void vl_choice_fill(struct vl_choice *c, uint32_t n, uint32_t n_keep)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        kept += c->keep[i];
    for (uint32_t i = 0; i < n && kept < n_keep; i++)
        if (!c->keep[c->order[i]]) {
            c->keep[c->order[i]] = true;
            kept++;
        }
}

/* ---- an even spread ---- */

/* The i-th of n even places in [0, size), n <= size: the middles of n equal parts. */
static uint32_t place(uint32_t i, uint32_t n, uint32_t size)
{
    return (uint32_t)((2 * (uint64_t)i + 1) * size / (2 * (uint64_t)n));
}

/* The i-th of n even shares of `total`; they add up to it. */
static uint32_t share_of(uint32_t i, uint32_t n, uint32_t total)
{
    return (uint32_t)(((uint64_t)i + 1) * total / n - (uint64_t)i * total / n);
}

/* n_keep of a slice's h * w tokens, from its first token on: as many rows as make the spacing alike both
 * ways. */
static uint32_t spread_slice(int32_t *index, uint32_t first, uint32_t h, uint32_t w, uint32_t n_keep)
{
    if (n_keep == 0)
        return 0;
    uint32_t least = (n_keep + w - 1) / w, most = n_keep < h ? n_keep : h, n = 0;
    uint32_t rows = (uint32_t)lround(sqrt((double)n_keep * h / w));
    rows = rows < least ? least : rows > most ? most : rows;
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t y = place(r, rows, h), cols = share_of(r, rows, n_keep);
        for (uint32_t c = 0; c < cols; c++)
            index[n++] = (int32_t)(first + y * w + place(c, cols, w));
    }
    return n;
}

void vl_choice_spread(int32_t *ret, const struct vl_visual_tokens *tok, uint32_t n_keep)
{
    uint64_t slice = (uint64_t)tok->grid_w * tok->grid_h;
    if (slice == 0 || tok->n % slice != 0) {
        for (uint32_t i = 0; i < n_keep; i++)
            ret[i] = (int32_t)place(i, n_keep, tok->n);
        return;
    }
    uint32_t n_slices = (uint32_t)(tok->n / slice), n = 0;
    for (uint32_t t = 0; t < n_slices; t++)
        n += spread_slice(ret + n, (uint32_t)(t * slice), tok->grid_h, tok->grid_w,
                          share_of(t, n_slices, n_keep));
}

void vl_choice_keep_spread(struct vl_choice *c, const struct vl_visual_tokens *tok, uint32_t n_keep)
{
    vl_choice_spread(c->index, tok, n_keep);
    for (uint32_t i = 0; i < n_keep; i++)
        c->keep[c->index[i]] = true;
}

/* ---- what the encoder looked at ---- */

int vl_choice_saliency(struct vl_choice *c, struct vl_exec *x, const struct vl_visual_tokens *tok,
                       bool *ret_there)
{
    struct vl_tensor host = vl_tensor_1d(c->saliency, VL_F32, tok->n);
    double sum = 0;
    for (uint32_t i = 0; i < tok->n; i++)
        c->saliency[i] = 1;
    *ret_there = tok->saliency.data != NULL;
    if (!*ret_there)
        return 0;
    int r = x->ops->copy(x, &host, &tok->saliency);
    if (r < 0 || (r = x->ops->sync(x)) < 0)
        return r;
    for (uint32_t i = 0; i < tok->n; i++) {
        c->saliency[i] = isfinite(c->saliency[i]) ? c->saliency[i] : 0;
        sum += (double)c->saliency[i];
    }
    for (uint32_t i = 0; i < tok->n && sum > 0; i++)
        c->saliency[i] = (float)((double)c->saliency[i] * tok->n / sum);
    return 0;
}

/* ---- what a question looked at ---- */

int vl_choice_scores(struct vl_choice *c, struct vl_exec *x, const struct vl_tensor *score, uint32_t n)
{
    if (score->n_dims != 2 || score->dim[0] == 0 || score->dim[1] != n)
        return -EINVAL;
    for (uint32_t i = 0; i < n; i++)
        c->score[i] = c->saliency[i] = 0;
    for (uint32_t head = 0; head < score->dim[0]; head++) {
        struct vl_tensor host = vl_tensor_2d(c->saliency, VL_F32, 1, n), row = vl_tensor_rows(score, head, 1);
        int r = x->ops->copy(x, &host, &row);
        if (r < 0 || (r = x->ops->sync(x)) < 0)
            return r;
        for (uint32_t i = 0; i < n; i++)
            c->score[i] += isfinite(c->saliency[i]) ? c->saliency[i] / (float)score->dim[0] : 0;
    }
    return 0;
}

/* ---- the answer ---- */

static int upload(struct vl_exec *x, struct vl_tensor *ret, int32_t *from, uint32_t n)
{
    const struct vl_tensor host = vl_tensor_1d(from, VL_I32, n);
    int r = vl_scratch_1d(x, ret, VL_I32, n);
    return r < 0 ? r : x->ops->copy(x, ret, &host);
}

static int answer(struct vl_choice *c, struct vl_exec *x, uint32_t n, bool merged, struct vl_kept *ret)
{
    struct vl_kept kept = {.n = 0};
    for (uint32_t i = 0; i < n; i++)
        if (merged ? c->into[i] == (int32_t)i : c->keep[i])
            c->index[kept.n++] = (int32_t)i;
    int r = kept.n ? upload(x, &kept.index, c->index, kept.n) : -EINVAL;
    if (r == 0 && merged)
        r = upload(x, &kept.merge_into, c->into, n);
    if (r == 0)
        *ret = kept;
    return r;
}

int vl_choice_answer(struct vl_choice *c, struct vl_exec *x, uint32_t n, struct vl_kept *ret)
{
    return answer(c, x, n, false, ret);
}

int vl_choice_answer_merged(struct vl_choice *c, struct vl_exec *x, uint32_t n, struct vl_kept *ret)
{
    return answer(c, x, n, true, ret);
}
