/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_SHAPES_H
#define VL_KERNELS_SHAPES_H
#include "kernels/backend.h"

/* What each op of backend.h accepts, once for all backends: 0 or -EINVAL. They read descriptions and host
 * memory (positions, visible ranges, pages), never a tensor's data. Pure; any thread. */
int vl_check_pack(const struct vl_tensor *stored);
int vl_check_matmul(const struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *w);
int vl_check_norm(const struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *w,
                  const struct vl_tensor *b /* NULL: none */);
int vl_check_rope(const struct vl_tensor *qk, const int64_t (*pos)[3], const struct vl_rope *r);
int vl_check_map(const struct vl_tensor *y, const struct vl_tensor *a); /* element by element */
int vl_check_silu_mul(const struct vl_tensor *y, const struct vl_tensor *gate, const struct vl_tensor *up);
int vl_check_add(const struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *b);
int vl_check_gather(const struct vl_tensor *y, const struct vl_tensor *table, const struct vl_tensor *index);
int vl_check_attention(const struct vl_tensor *y, const struct vl_tensor *q, const struct vl_attn_seq *seq,
                       uint32_t n_seqs, const struct vl_attn_params *p);
int vl_check_probe(const struct vl_tensor *ret, const struct vl_tensor *q, const struct vl_kv_view *kv,
                   const struct vl_probe_params *p);
int vl_check_patchify(const struct vl_tensor *y, const struct vl_tensor *img, uint32_t patch);
int vl_check_copy(const struct vl_tensor *dst, const struct vl_tensor *src);

/* b is one row of d values that add puts on every row of a, rather than a tensor of a's shape. */
bool vl_is_row_of(const struct vl_tensor *b, const struct vl_tensor *a);

/* What a probe keeps of its rows, [2, n_stretches + 1, n_q * n_heads] f32 in scratch: a softmax state for
 * each stretch of so many slots, and one for all. */
enum { VL_PROBE_STRETCH = 256 };
int vl_scratch_probe(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *q,
                     const struct vl_kv_view *kv);
#endif
