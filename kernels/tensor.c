/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Views: shapes and strides over memory of somebody else. Pure; any thread. */
#include "kernels/tensor.h"

#include <assert.h>

struct vl_tensor vl_tensor_of(void *data, enum vl_dtype dtype, uint8_t n_dims, const uint32_t *dim)
{
    assert(n_dims >= 1 && n_dims <= 4);
    struct vl_tensor t = {.data = data, .dtype = dtype, .n_dims = n_dims, .dim = {1, 1, 1, 1}};
    for (int i = 0; i < n_dims; i++)
        t.dim[i] = dim[i];
    t.stride[n_dims - 1] = vl_dtype_info(dtype)->block_bytes;
    size_t bytes = vl_dtype_row_bytes(dtype, dim[n_dims - 1]);
    for (int i = n_dims - 2; i >= 0; i--) {
        t.stride[i] = bytes;
        bytes *= dim[i];
    }
    return t;
}

struct vl_tensor vl_tensor_1d(void *data, enum vl_dtype dtype, uint32_t d0)
{
    return vl_tensor_of(data, dtype, 1, &d0);
}

struct vl_tensor vl_tensor_2d(void *data, enum vl_dtype dtype, uint32_t d0, uint32_t d1)
{
    return vl_tensor_of(data, dtype, 2, (const uint32_t[]){d0, d1});
}

struct vl_tensor vl_tensor_3d(void *data, enum vl_dtype dtype, uint32_t d0, uint32_t d1, uint32_t d2)
{
    return vl_tensor_of(data, dtype, 3, (const uint32_t[]){d0, d1, d2});
}

struct vl_tensor vl_tensor_rows(const struct vl_tensor *t, uint32_t first, uint32_t n)
{
    assert(t->layout == VL_LAYOUT_ROWS && first <= t->dim[0] && n <= t->dim[0] - first);
    struct vl_tensor r = *t;
    r.dim[0] = n;
    if (t->data)
        r.data = (char *)t->data + first * t->stride[0];
    return r;
}

size_t vl_tensor_bytes(const struct vl_tensor *t)
{
    return vl_tensor_n_rows(t) * vl_dtype_row_bytes(t->dtype, t->dim[t->n_dims - 1]);
}

size_t vl_tensor_n_rows(const struct vl_tensor *t)
{
    size_t n = 1;
    for (int i = 0; i + 1 < t->n_dims; i++)
        n *= t->dim[i];
    return n;
}

void *vl_tensor_row(const struct vl_tensor *t, size_t row)
{
    char *p = t->data;
    for (int i = t->n_dims - 2; i >= 0; i--) {
        p += row % t->dim[i] * t->stride[i];
        row /= t->dim[i];
    }
    return p;
}
