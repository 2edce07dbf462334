/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Packing and the matrix product, cut into blocks of outputs and of activation rows by shape alone. Up to
 * eight rows walk the weights once as they are (decoding is bound by memory); more go through the gemm. */
#include "base/workers.h"
#include "kernels/cpu/cpu.h"
#include "kernels/layout.h"
#include "kernels/shapes.h"

/* BLOCK_OUT: panels that a range item keeps warm. MAX_ROWS: activation rows of one k block, a good part of a
 * second level cache; halved down to MIN_ROWS while there are fewer than MIN_ITEMS items to share out. */
enum {
    BLOCK_OUT = 4 * VL_PANEL,
    MAX_ROWS = 192,
    MIN_ROWS = 48,
    MIN_ITEMS = 16,
    MAX_GEMV_ROWS = 8,
    PACK_GRAIN = 4
};

struct job {
    const struct vl_matmul_ukernels *k;
    const struct vl_tensor *y, *a, *w;
    size_t n_out_blocks, block_rows, panel_bytes;
};

static void gemv(const struct job *j, float *y, const void *w, const float *a, size_t n, size_t n_out)
{
    size_t ldy = j->y->stride[0] / sizeof(float), lda = j->a->stride[0] / sizeof(float), k = j->a->dim[1];
    for (size_t r = 0, step; r < n; r += step) {
        int i = n - r >= 8 ? 3 : n - r >= 4 ? 2 : n - r >= 2 ? 1 : 0;
        step = (size_t)1 << i;
        j->k->gemv[i](y + r * ldy, ldy, w, a + r * lda, lda, k, n_out);
    }
}

static void matmul_range(void *arg, size_t first, size_t last)
{
    const struct job *j = arg;
    size_t n = j->a->dim[0];
    for (size_t i = first; i < last; i++) {
        size_t row = i / j->n_out_blocks * j->block_rows, out = i % j->n_out_blocks * BLOCK_OUT;
        size_t n_rows = n - row < j->block_rows ? n - row : j->block_rows;
        size_t n_out = j->w->dim[0] - out < BLOCK_OUT ? j->w->dim[0] - out : BLOCK_OUT;
        const float *a = vl_tensor_row(j->a, row);
        float *y = (float *)vl_tensor_row(j->y, row) + out;
        const void *w = (const char *)j->w->data + out / VL_PANEL * j->panel_bytes;
        if (n <= MAX_GEMV_ROWS)
            gemv(j, y, w, a, n_rows, n_out);
        else
            j->k->gemm(y, j->y->stride[0] / sizeof(float), w, a, j->a->stride[0] / sizeof(float), n_rows,
                       j->a->dim[1], n_out);
    }
}

int vl_cpu_matmul(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                  const struct vl_tensor *w)
{
    int r = vl_check_matmul(y, a, w);
    if (r < 0)
        return r;
    const struct vl_cpu *cpu = x->device;
    struct job j = {.k = &cpu->k.matmul[w->layout], .y = y, .a = a, .w = w};
    j.n_out_blocks = ((size_t)w->dim[0] + BLOCK_OUT - 1) / BLOCK_OUT;
    j.panel_bytes = vl_layout_panel_bytes((enum vl_layout)w->layout, w->dim[1]);
    size_t n = a->dim[0], n_items = (n + MAX_ROWS - 1) / MAX_ROWS * j.n_out_blocks;
    for (j.block_rows = MAX_ROWS; n_items < MIN_ITEMS && j.block_rows > MIN_ROWS && n > MAX_GEMV_ROWS;) {
        j.block_rows /= 2;
        n_items = (n + j.block_rows - 1) / j.block_rows * j.n_out_blocks;
    }
    bool small = (uint64_t)n * w->dim[0] * w->dim[1] < VL_CPU_SMALL;
    vl_workers_run(small ? NULL : x->workers, matmul_range, &j, n_items, 1);
    return 0;
}

struct pack_job {
    void *dst;
    const struct vl_tensor *stored;
};

static void pack_range(void *arg, size_t first, size_t last)
{
    const struct pack_job *j = arg;
    vl_layout_pack(j->dst, j->stored, first, last);
}

int vl_cpu_pack(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *stored)
{
    int r = vl_check_pack(stored);
    if (r < 0)
        return r;
    struct pack_job j = {ret->data, stored};
    vl_workers_run(x->workers, pack_range, &j, ((size_t)stored->dim[0] + VL_PANEL - 1) / VL_PANEL,
                   PACK_GRAIN);
    *ret = vl_layout_tensor(stored, ret->data);
    return 0;
}
