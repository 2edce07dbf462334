/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The ops that go row by row: norms, activations, addition, rotation, gathering, patches, copies. One job
 * holds the arguments of all of them; a range function takes rows of it. Rows are handed to workers in
 * pieces of about 16,000 elements. */
#include "base/workers.h"
#include "kernels/cpu/cpu.h"
#include "kernels/layout.h"
#include "kernels/shapes.h"

#include <math.h>
#include <string.h>

enum { PIECE = 16384 };

struct job {
    const struct vl_ukernels *k;
    const struct vl_tensor *y, *a, *b, *c;
    const float *cosine, *sine; /* [n, n_pairs] */
    const float (*level)[256];  /* [3] what a byte of each channel becomes */
    size_t n;                   /* innermost elements */
    uint32_t n_pairs, patch;
    float eps;
    bool b_is_row;
};

static void run_rows(struct vl_exec *x, vl_range_fn fn, struct job *j)
{
    j->k = &((struct vl_cpu *)x->device)->k;
    j->n = j->y->dim[j->y->n_dims - 1];
    size_t grain = j->n > 0 && j->n < PIECE ? PIECE / j->n : 1;
    vl_workers_run(x->workers, fn, j, vl_tensor_n_rows(j->y), grain);
}

static void rms_norm_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    for (size_t r = first; r < last; r++)
        j->k->norm.rms_norm(vl_tensor_row(j->y, r), vl_tensor_row(j->a, r), j->b->data, j->n, j->eps);
}

int vl_cpu_rms_norm(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                    const struct vl_tensor *w, float eps)
{
    int r = vl_check_norm(y, a, w, NULL);
    if (r < 0)
        return r;
    run_rows(x, rms_norm_range, &(struct job){.y = y, .a = a, .b = w, .eps = eps});
    return 0;
}

static void layer_norm_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    for (size_t r = first; r < last; r++)
        j->k->norm.layer_norm(vl_tensor_row(j->y, r), vl_tensor_row(j->a, r), j->b->data, j->c->data, j->n,
                              j->eps);
}

int vl_cpu_layer_norm(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                      const struct vl_tensor *w, const struct vl_tensor *b, float eps)
{
    int r = vl_check_norm(y, a, w, b);
    if (r < 0)
        return r;
    run_rows(x, layer_norm_range, &(struct job){.y = y, .a = a, .b = w, .c = b, .eps = eps});
    return 0;
}

static void gelu_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    for (size_t r = first; r < last; r++)
        j->k->act.gelu(vl_tensor_row(j->y, r), vl_tensor_row(j->a, r), j->n);
}

int vl_cpu_gelu(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a)
{
    int r = vl_check_map(y, a);
    if (r < 0)
        return r;
    run_rows(x, gelu_range, &(struct job){.y = y, .a = a});
    return 0;
}

static void silu_mul_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    for (size_t r = first; r < last; r++)
        j->k->act.silu_mul(vl_tensor_row(j->y, r), vl_tensor_row(j->a, r), vl_tensor_row(j->b, r), j->n);
}

int vl_cpu_silu_mul(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *gate,
                    const struct vl_tensor *up)
{
    int r = vl_check_silu_mul(y, gate, up);
    if (r < 0)
        return r;
    run_rows(x, silu_mul_range, &(struct job){.y = y, .a = gate, .b = up});
    return 0;
}

static void add_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    for (size_t r = first; r < last; r++)
        j->k->act.add(vl_tensor_row(j->y, r), vl_tensor_row(j->a, r),
                      vl_tensor_row(j->b, j->b_is_row ? 0 : r), j->n);
}

int vl_cpu_add(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *b)
{
    int r = vl_check_add(y, a, b);
    if (r < 0)
        return r;
    run_rows(x, add_range, &(struct job){.y = y, .a = a, .b = b, .b_is_row = vl_is_row_of(b, a)});
    return 0;
}

static void rope_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    for (size_t r = first; r < last; r++) {
        size_t token = r / j->y->dim[1];
        j->k->rope.rotate(vl_tensor_row(j->y, r), j->cosine + token * j->n_pairs,
                          j->sine + token * j->n_pairs, j->n_pairs);
    }
}

int vl_cpu_rope(struct vl_exec *x, struct vl_tensor *qk, const int64_t (*pos)[3], const struct vl_rope *r)
{
    int e = vl_check_rope(qk, pos, r);
    if (e < 0)
        return e;
    size_t mark = vl_arena_mark(x->scratch);
    struct vl_tensor turn;
    e = vl_scratch_3d(x, &turn, VL_F32, 2, qk->dim[0], r->n_pairs);
    if (e < 0)
        return e;
    float *cosine = turn.data, *sine = cosine + (size_t)qk->dim[0] * r->n_pairs;
    for (size_t t = 0; t < qk->dim[0]; t++)
        for (size_t i = 0; i < r->n_pairs; i++) {
            double angle = (double)pos[t][r->axis[i]] * r->inv_freq[i];
            cosine[t * r->n_pairs + i] = (float)cos(angle);
            sine[t * r->n_pairs + i] = (float)sin(angle);
        }
    run_rows(x, rope_range, &(struct job){.y = qk, .cosine = cosine, .sine = sine, .n_pairs = r->n_pairs});
    vl_arena_reset(x->scratch, mark);
    return 0;
}

static void gather_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    const int32_t *index = j->b->data;
    for (size_t r = first; r < last; r++) {
        if (j->a->layout == VL_LAYOUT_ROWS)
            vl_dtype_info(j->a->dtype)
                ->unpack_row(vl_tensor_row(j->y, r), vl_tensor_row(j->a, (size_t)index[r]), j->n);
        else
            vl_layout_unpack_row(vl_tensor_row(j->y, r), j->a, (size_t)index[r]);
    }
}

int vl_cpu_gather(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *table,
                  const struct vl_tensor *index)
{
    int r = vl_check_gather(y, table, index);
    if (r < 0)
        return r;
    const int32_t *id = index->data;
    for (size_t i = 0; i < index->dim[0]; i++)
        if (id[i] < 0 || (uint32_t)id[i] >= table->dim[0])
            return -EINVAL;
    run_rows(x, gather_range, &(struct job){.y = y, .a = table, .b = index});
    return 0;
}

static void patchify_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    size_t gw = j->a->dim[1] / j->patch;
    for (size_t r = first; r < last; r++) {
        float *y = vl_tensor_row(j->y, r);
        const char *corner = (const char *)j->a->data + r / gw * j->patch * j->a->stride[0] +
                             r % gw * j->patch * j->a->stride[1];
        for (size_t c = 0; c < 3; c++)
            for (size_t dy = 0; dy < j->patch; dy++)
                for (size_t dx = 0; dx < j->patch; dx++)
                    *y++ = j->level[c][(uint8_t)corner[dy * j->a->stride[0] + dx * j->a->stride[1] + c]];
    }
}

int vl_cpu_patchify(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *img, uint32_t patch,
                    const float mean[3], const float std[3])
{
    int r = vl_check_patchify(y, img, patch);
    if (r < 0)
        return r;
    float level[3][256];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            level[c][v] = (float)((v / 255.0 - (double)mean[c]) / (double)std[c]);
    run_rows(x, patchify_range,
             &(struct job){.y = y, .a = img, .level = (const float(*)[256])level, .patch = patch});
    return 0;
}

static void to_f32(const struct vl_convert_ukernels *k, float *dst, const void *src, enum vl_dtype t,
                   size_t n)
{
    if (t == VL_F32)
        memcpy(dst, src, n * sizeof(*dst));
    else if (t == VL_F16)
        k->widen_f16(dst, src, n);
    else
        k->widen_bf16(dst, src, n);
}

static void from_f32(const struct vl_convert_ukernels *k, void *dst, const float *src, enum vl_dtype t,
                     size_t n)
{
    if (t == VL_F32)
        memcpy(dst, src, n * sizeof(*src));
    else if (t == VL_F16)
        k->narrow_f16(dst, src, n);
    else
        k->narrow_bf16(dst, src, n);
}

static void copy_row(const struct job *j, char *dst, const char *src)
{
    const struct vl_convert_ukernels *k = &j->k->convert;
    enum vl_dtype to = j->y->dtype, from = j->a->dtype;
    if (to == from) {
        memcpy(dst, src, vl_dtype_row_bytes(to, j->n));
    } else if (to == VL_F32) {
        to_f32(k, (float *)dst, src, from, j->n);
    } else if (from == VL_F32) {
        from_f32(k, dst, (const float *)src, to, j->n);
    } else { /* between the 16-bit floats, through a piece of f32 */
        float piece[256];
        for (size_t i = 0; i < j->n; i += 256) {
            size_t n = j->n - i < 256 ? j->n - i : 256;
            to_f32(k, piece, src + 2 * i, from, n);
            from_f32(k, dst + 2 * i, piece, to, n);
        }
    }
}

static void copy_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    for (size_t r = first; r < last; r++)
        copy_row(j, vl_tensor_row(j->y, r), vl_tensor_row(j->a, r));
}

int vl_cpu_copy(struct vl_exec *x, struct vl_tensor *dst, const struct vl_tensor *src)
{
    int r = vl_check_copy(dst, src);
    if (r < 0)
        return r;
    run_rows(x, copy_range, &(struct job){.y = dst, .a = src});
    return 0;
}
