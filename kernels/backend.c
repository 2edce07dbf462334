/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What every backend shares: the registry, step scratch and taps. Runs on the thread that owns the exec. The
 * trap: scratch dies with the step, so a tensor of it must not outlive the caller's mark. */
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"
#include "kernels/null/null.h"

#include <stdio.h>
#include <string.h>

const struct vl_backend_ops *const vl_backends[] = {&vl_backend_cpu, &vl_backend_null, NULL};

const struct vl_backend_ops *vl_backend_find(const char *name)
{
    for (const struct vl_backend_ops *const *b = vl_backends; *b; b++)
        if (strcmp((*b)->name, name) == 0)
            return *b;
    return NULL;
}

int vl_scratch(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint8_t n_dims,
               const uint32_t *dim)
{
    size_t block = vl_dtype_info(dtype)->block_len, n = vl_dtype_info(dtype)->block_bytes;
    if (n_dims < 1 || n_dims > 4 || dim[n_dims - 1] % block)
        return -EINVAL;
    for (int i = 0; i < n_dims; i++)
        if (__builtin_mul_overflow(n, i == n_dims - 1 ? dim[i] / block : dim[i], &n))
            return -ENOMEM;
    void *data;
    int r = vl_arena_alloc(x->scratch, n, 64, &data);
    if (r < 0)
        return r;
    *ret = vl_tensor_of(data, dtype, n_dims, dim);
    return 0;
}

int vl_scratch_1d(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint32_t d0)
{
    return vl_scratch(x, ret, dtype, 1, &d0);
}

int vl_scratch_2d(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint32_t d0, uint32_t d1)
{
    return vl_scratch(x, ret, dtype, 2, (const uint32_t[]){d0, d1});
}

int vl_scratch_3d(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint32_t d0, uint32_t d1,
                  uint32_t d2)
{
    return vl_scratch(x, ret, dtype, 3, (const uint32_t[]){d0, d1, d2});
}

void vl_tap(struct vl_exec *x, const struct vl_tensor *t, const char *fmt, ...)
{
    if (!x->tap)
        return;
    char name[64];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(name, sizeof(name), fmt, ap); /* tap names are short; one that is cut is still a name */
    va_end(ap);
    x->tap(x->tap_user, name, t);
}
