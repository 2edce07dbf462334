/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_WEIGHTS_BIND_H
#define VL_WEIGHTS_BIND_H
#include "base/cleanup.h"
#include "base/error.h"
#include "kernels/backend.h"
#include "weights/weights.h"

/* Binds the tensors of a file to a family's structs by table: the family writes down names and the shapes
 * that its parameters demand, and nothing that does not match is ever read. First all rows are checked, then
 * one block of backend memory takes them all, then each tensor is read, packed and forgotten: the peak is the
 * packed model plus the largest single tensor. On the backend named "null" shapes are checked and no data is
 * read.
 *
 *     vl_auto(vl_bind) b = NULL;
 *     int r = vl_bind_new(&b, weights, x);
 *     for (uint32_t l = 0; r == 0 && l < n_layers; l++) {
 *         const struct vl_bind_row rows[] = {
 *             {"blk.N.attn_norm.weight", VL_BIND_F32, {d_model}, .ret = &layer[l].attn_norm},
 *             {"blk.N.attn_q.weight", VL_BIND_WEIGHT, {n_heads * head_dim, d_model}, .ret = &layer[l].q,
 *              .from_row = vl_bind_llama_row, .arg = head_dim},
 *         };
 *         r = vl_bind_add(b, rows, 2, l, err);
 *     }
 *     if (r == 0)
 *         r = vl_bind_load(b, &memory, &bytes, err);
 */
enum vl_bind_how {
    /* Packed by the backend, for matmul's w and gather's table alike (a tied embedding is one row). [n_out,
     * k]; of more dimensions the inner ones are joined: a convolution kernel [C, 3, p, p] becomes [C, 3 * p *
     * p]. */
    VL_BIND_WEIGHT,
    /* Converted to f32, layout ROWS, shape kept: norms, biases, position tables. */
    VL_BIND_F32
};
struct vl_bind_row {
    const char *name; /* 'N' stands for the layer's number: "blk.N.attn_q.weight" */
    enum vl_bind_how how;
    uint32_t dim[4];       /* outermost first, ends at the first 0; ones in front do not count */
    struct vl_tensor *ret; /* borrowed until vl_bind_load; data NULL before it, and after it if absent */
    bool optional;
    /* Row i of the result is row from_row(i, arg) of the file (of its outermost dimension; of a vector, its
     * elements), i < dim[0]; the answer must be a permutation. NULL: as it lies. */
    uint32_t (*from_row)(uint32_t row, uint32_t arg);
    uint32_t arg;
};
struct vl_bind;
/* w and x are borrowed until unref. -ENOMEM. */
int vl_bind_new(struct vl_bind **ret, const struct vl_weights *w, struct vl_exec *x);
/* Looks each row up and checks its shape; rows are copied, names too. -EINVAL: missing, or of another shape,
 * with what was found, what is needed and what to do about it. */
int vl_bind_add(struct vl_bind *b, const struct vl_bind_row *row, size_t n_rows, uint32_t layer,
                struct vl_error *err);
/* Bytes of backend memory that load will ask for: compare with the limit before. */
size_t vl_bind_bytes(const struct vl_bind *b);
/* Who wants to know how the load goes on; members may be NULL. Copied. */
struct vl_bind_watch {
    void *user;
    /* After each tensor, with its bytes of backend memory. A negative answer ends the load with that code. */
    int (*loaded)(void *user, size_t n_bytes);
    /* At the end, for each tensor of the file that no row named. */
    void (*unused)(void *user, const struct vl_weights_tensor *t);
};
void vl_bind_set_watch(struct vl_bind *b, const struct vl_bind_watch *watch);
/* Fills every row's ret. *ret_memory is the caller's, by x->ops->free, and outlives the tensors. */
int vl_bind_load(struct vl_bind *b, void **ret_memory, size_t *ret_bytes, struct vl_error *err);
struct vl_bind *vl_bind_unref(struct vl_bind *b);
VL_DEFINE_AUTO(vl_bind)

/* from_row of attn_q and attn_k in files of architecture "llama": their converter has interleaved the two
 * halves of each head so that (2i, 2i + 1) rotate together; this puts them back, so that one rope kernel with
 * pairs (i, i + D / 2) serves all. arg: head_dim, even. Moving rows is exact in every format. */
uint32_t vl_bind_llama_row(uint32_t row, uint32_t head_dim);
#endif
