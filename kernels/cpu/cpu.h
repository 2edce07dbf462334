/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_CPU_CPU_H
#define VL_KERNELS_CPU_CPU_H
#include "kernels/backend.h"
#include "kernels/ukernels.h"

/* Inside the cpu backend only. The device: the chosen table and the memory it handed out. Constant after
 * open, apart from alloc and free, which are for init time on the owner thread. */
enum {
    VL_CPU_SMALL = 1 << 17
}; /* multiplications that one thread does sooner than a second one wakes: about 5 us */
struct vl_cpu_block {
    struct vl_cpu_block *next;
    void *data;
};
struct vl_cpu {
    struct vl_ukernels k;
    struct vl_cpu_block *blocks;
    char describe[320];
};

extern const struct vl_backend_ops vl_backend_cpu;

/* n rows of d elements of a cached page, row_bytes apart, as contiguous f32. */
void vl_cpu_widen(const struct vl_cpu *cpu, float *dst, const char *src, enum vl_dtype t, size_t row_bytes,
                  size_t n, size_t d);

/* The ops, each in the file of its group; backend.h is their contract. */
int vl_cpu_pack(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *stored);
int vl_cpu_matmul(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                  const struct vl_tensor *w);
int vl_cpu_attention(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *q,
                     const struct vl_attn_seq *seq, uint32_t n_seqs, const struct vl_attn_params *p);
int vl_cpu_probe(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *q,
                 const struct vl_kv_view *kv, const struct vl_probe_params *p);
int vl_cpu_rms_norm(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                    const struct vl_tensor *w, float eps);
int vl_cpu_layer_norm(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                      const struct vl_tensor *w, const struct vl_tensor *b, float eps);
int vl_cpu_rope(struct vl_exec *x, struct vl_tensor *qk, const int64_t (*pos)[3], const struct vl_rope *r);
int vl_cpu_silu_mul(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *gate,
                    const struct vl_tensor *up);
int vl_cpu_gelu(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a);
int vl_cpu_add(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *b);
int vl_cpu_gather(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *table,
                  const struct vl_tensor *index);
int vl_cpu_patchify(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *img, uint32_t patch,
                    const float mean[3], const float std[3]);
int vl_cpu_copy(struct vl_exec *x, struct vl_tensor *dst, const struct vl_tensor *src);
#endif
