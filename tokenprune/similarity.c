/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Cosines. The trap: rows that are zero or not finite must not reach the backend, or every product with them
 * is no number. */
#include "tokenprune/similarity.h"

#include <math.h>
#include <string.h>

static bool fits_whole(const struct vl_reducer_shape *s)
{
    return s->max_tokens <= VL_SIMILARITY_WHOLE;
}

size_t vl_similarity_size(const struct vl_reducer_shape *s, bool pairs)
{
    size_t whole = fits_whole(s) ? s->max_tokens : 0, row = s->d_model;
    if (pairs)
        row += VL_SIMILARITY_BLOCK + whole;
    return s->max_tokens * row * sizeof(float);
}

void vl_similarity_init(struct vl_similarity *s, void *memory, const struct vl_reducer_shape *shape,
                        bool pairs)
{
    const size_t n = shape->max_tokens;
    *s = (struct vl_similarity){.max_tokens = shape->max_tokens, .d_model = shape->d_model, .unit = memory};
    if (pairs)
        s->block = s->unit + n * shape->d_model;
    if (pairs && fits_whole(shape))
        s->whole = s->block + n * VL_SIMILARITY_BLOCK;
}

void vl_similarity_unit(float *row, uint32_t d)
{
    double sum = 0;
    for (uint32_t k = 0; k < d; k++)
        sum += (double)row[k] * (double)row[k];
    if (!(sum > 0) || isinf(sum)) {
        memset(row, 0, d * sizeof(*row));
        return;
    }
    double scale = 1 / sqrt(sum);
    for (uint32_t k = 0; k < d; k++)
        row[k] = (float)((double)row[k] * scale);
}

/* Eight sums, so that they run side by side. */
float vl_similarity_dot(const float *a, const float *b, uint32_t d)
{
    float sum[8] = {0};
    uint32_t k = 0;
    for (; k + 8 <= d; k += 8)
        for (uint32_t i = 0; i < 8; i++)
            sum[i] += a[k + i] * b[k + i];
    for (; k < d; k++)
        sum[k % 8] += a[k] * b[k];
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

int vl_similarity_read(struct vl_similarity *s, struct vl_exec *x, const struct vl_visual_tokens *tok)
{
    struct vl_tensor from = tok->feat;
    if (tok->n > s->max_tokens || from.n_dims != 2 || from.dim[0] != tok->n || from.dim[1] < s->d_model)
        return -EINVAL;
    from.dim[1] = s->d_model;
    s->n = tok->n;
    s->walked = false;
    struct vl_tensor to = vl_tensor_2d(s->unit, VL_F32, s->n, s->d_model);
    int r = x->ops->copy(x, &to, &from);
    if (r < 0 || (r = x->ops->sync(x)) < 0)
        return r;
    for (uint32_t i = 0; i < s->n; i++)
        vl_similarity_unit(s->unit + (size_t)i * s->d_model, s->d_model);
    return 0;
}

int vl_similarity_pack(struct vl_similarity *s, struct vl_exec *x)
{
    const struct vl_tensor rows = vl_tensor_2d(s->unit, VL_F32, s->n, s->d_model);
    size_t size = x->ops->packed_size(x->device, &rows);
    struct vl_tensor memory;
    if (size == 0 || size > UINT32_MAX)
        return -EINVAL;
    int r = vl_scratch_1d(x, &memory, VL_U8, (uint32_t)size);
    if (r < 0)
        return r;
    s->packed.data = memory.data;
    return x->ops->pack(x, &s->packed, &rows);
}

int vl_similarity_rows(struct vl_similarity *s, struct vl_exec *x, uint32_t first, uint32_t n_rows)
{
    const struct vl_tensor rows =
        vl_tensor_2d(s->unit + (size_t)first * s->d_model, VL_F32, n_rows, s->d_model);
    struct vl_tensor host = vl_tensor_2d(s->block, VL_F32, n_rows, s->n), a, y;
    size_t mark = vl_arena_mark(x->scratch);
    int r = vl_scratch_2d(x, &a, VL_F32, n_rows, s->d_model);
    if (r == 0)
        r = vl_scratch_2d(x, &y, VL_F32, n_rows, s->n);
    if (r == 0)
        r = x->ops->copy(x, &a, &rows);
    if (r == 0)
        r = x->ops->matmul(x, &y, &a, &s->packed);
    if (r == 0)
        r = x->ops->copy(x, &host, &y);
    if (r == 0)
        r = x->ops->sync(x);
    vl_arena_reset(x->scratch, mark);
    return r;
}

static int walk_blocks(struct vl_similarity *s, struct vl_exec *x, vl_similarity_fn see, void *user)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < s->n; i += VL_SIMILARITY_BLOCK) {
        uint32_t n = s->n - i < VL_SIMILARITY_BLOCK ? s->n - i : VL_SIMILARITY_BLOCK;
        r = vl_similarity_rows(s, x, i, n);
        for (uint32_t k = 0; r == 0 && k < n; k++)
            see(user, i + k, s->block + (size_t)k * s->n);
        if (r == 0 && s->whole)
            memcpy(s->whole + (size_t)i * s->n, s->block, (size_t)n * s->n * sizeof(*s->block));
    }
    s->walked = r == 0 && s->whole;
    return r;
}

int vl_similarity_walk(struct vl_similarity *s, struct vl_exec *x, vl_similarity_fn see, void *user)
{
    for (uint32_t i = 0; s->walked && i < s->n; i++)
        see(user, i, s->whole + (size_t)i * s->n);
    if (s->walked)
        return 0;
    size_t mark = vl_arena_mark(x->scratch);
    int r = vl_similarity_pack(s, x);
    if (r == 0)
        r = walk_blocks(s, x, see, user);
    vl_arena_reset(x->scratch, mark);
    return r;
}
