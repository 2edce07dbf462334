/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_KERNELS_BACKEND_H
#define VL_KERNELS_BACKEND_H
#include "base/arena.h"
#include "base/error.h"
#include "kernels/attention.h"

#include <stdbool.h>

struct vl_workers;
struct vl_exec;

enum vl_op {
    VL_OP_MATMUL,
    VL_OP_RMS_NORM,
    VL_OP_LAYER_NORM,
    VL_OP_ROPE,
    VL_OP_SILU_MUL,
    VL_OP_GELU,
    VL_OP_ADD,
    VL_OP_GATHER,
    VL_OP_ATTENTION,
    VL_OP_PROBE,
    VL_OP_PATCHIFY,
    VL_OP_COPY,
    VL_OP_COUNT
};

/* angle = pos[axis[i]] * inv_freq[i], formed in double and reduced mod 2 pi before it is rounded; pairs are
 * (i, i + n_pairs). One kernel for 1-D, sectioned and interleaved rotary positions (RoFormer; M-RoPE of
 * Qwen2-VL). */
struct vl_rope {
    uint32_t n_pairs;
    const double *inv_freq; /* [n_pairs] */
    const uint8_t *axis;    /* [n_pairs] 0..2 */
};

struct vl_probe_params {
    float scale;
    const uint32_t (*visible)[2];     /* [n_q] as attention's; NULL: all rows see all slots; host memory */
    const struct vl_tensor *key_bias; /* as attention's, or NULL */
    /* Logits without rotary positions, which favour what stands near (FEATHER): q comes unrotated and is
     * rotated to each key's own position, [n_tokens] host memory. NULL: q comes rotated. */
    const int64_t (*key_pos)[3];
    const struct vl_rope *rope; /* with key_pos */
};

/* cpu, cuda and null implement this. An op has been issued when it returns, and is complete after sync(). No
 * op waits for the device, returns a host number, or allocates except from x->scratch (given back before it
 * returns). Ops check shapes: -EINVAL. -ENODEV: the device is lost. Tensors are f32 in layout ROWS unless
 * said otherwise; y may be the same memory as a in the element-wise ops and the norms, never in matmul,
 * gather and attention. */
struct vl_backend_ops {
    const char *name;
    /* spec: backend's own, e.g. cpu "isa=avx2"; NULL: the best there is. */
    int (*open)(void **ret_device, const char *spec, struct vl_error *err);
    void (*close)(void *device);
    int (*alloc)(void *device, size_t n, bool host_pinned,
                 void **ret); /* init time only; freed by close or free */
    void (*free)(void *device, void *p);
    /* Which kernels were chosen, one line for the log, the bus and `vlmctl status`; owned by the device. */
    const char *(*describe)(void *device);

    size_t (*packed_size)(void *device, const struct vl_tensor *stored);
    /* stored: [n_out, k] of any stored dtype, host memory. ret->data has packed_size bytes of backend memory.
     * The result is what matmul's w and gather's table take. */
    int (*pack)(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *stored);
    bool (*supports)(enum vl_op op, const struct vl_tensor *w); /* optional: all */

    /* y [n, n_out] = a [n, k] * w^T, w packed [n_out, k]; all of two dimensions, rows of y and a may be
     * strided. On one device a row's result has the same bits however many rows go with it. */
    int (*matmul)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                  const struct vl_tensor *w);
    /* over the innermost dimension; w, b [d] */
    int (*rms_norm)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                    const struct vl_tensor *w, float eps);
    int (*layer_norm)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a,
                      const struct vl_tensor *w, const struct vl_tensor *b, float eps);
    /* qk [n, n_heads, head_dim] in place, rows may be strided; pos [n], host memory; 2 * n_pairs <= head_dim
     */
    int (*rope)(struct vl_exec *x, struct vl_tensor *qk, const int64_t (*pos)[3], const struct vl_rope *r);
    int (*silu_mul)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *gate,
                    const struct vl_tensor *up);
    int (*gelu)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a); /* the tanh form */
    /* b: of a's shape, or [1, d] / [d] added to every row */
    int (*add)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *a, const struct vl_tensor *b);
    /* y [n, d] f32 = rows of table [rows, d] (packed, or ROWS of any dtype); index [n] i32 in backend memory,
     * in range: cpu answers -EINVAL, a device may not */
    int (*gather)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *table,
                  const struct vl_tensor *index);
    /* y, q [n_q, n_heads, head_dim], head_dim <= 256; query head h reads KV head h / (n_heads / n_kv_heads),
     * a whole number, at most 96. Pages of any float or block dtype, of which head_dim is whole blocks. A row
     * that sees nothing is 0 with lse -inf. How the cache is paged, and slots a row does not see, change no
     * bit of it. Rows of q that no sequence names are left alone. */
    int (*attention)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *q,
                     const struct vl_attn_seq *seq, uint32_t n_seqs, const struct vl_attn_params *p);
    /* What reducers and policies read: ret [n_kv_heads, n_tokens] f32, the attention probabilities of kv's
     * slots summed over all rows of q and averaged over the query heads of a group. q [n_q, n_heads,
     * head_dim], few rows. A row that sees nothing adds nothing. */
    int (*probe)(struct vl_exec *x, struct vl_tensor *ret, const struct vl_tensor *q,
                 const struct vl_kv_view *kv, const struct vl_probe_params *p);
    /* y [gh * gw, 3 * patch * patch] = (img / 255 - mean) / std, elements ordered (channel, y, x) as a
     * convolution kernel is; img [H, W, 3] u8 with H >= gh * patch, W >= gw * patch, gw = W / patch: the rest
     * is dropped. std is not 0; with all its signs turned, so is every bit of sign in y, and nothing else. */
    int (*patchify)(struct vl_exec *x, struct vl_tensor *y, const struct vl_tensor *img, uint32_t patch,
                    const float mean[3], const float std[3]);
    /* same shape; converts between f32, f16, bf16 (and copies equal dtypes); host <-> device too; strided
     * both sides */
    int (*copy)(struct vl_exec *x, struct vl_tensor *dst, const struct vl_tensor *src);
    int (*wait)(struct vl_exec *x, struct vl_exec *on); /* x goes on after what was issued to `on` */
    int (*sync)(struct vl_exec *x);
};

/* Everything a forward pass needs besides its arguments. One per stream of work: the encoder's and the
 * decoder's may overlap. */
struct vl_exec {
    const struct vl_backend_ops *ops;
    void *device;
    struct vl_arena *scratch;
    struct vl_workers *workers;
    void (*tap)(void *user, const char *name,
                const struct vl_tensor *t); /* golden tests and --dump; NULL in service */
    void *tap_user;
};

extern const struct vl_backend_ops *const vl_backends[]; /* NULL-terminated; conformance walks it */
const struct vl_backend_ops *vl_backend_find(const char *name);

/* A contiguous tensor in x->scratch, 64-byte aligned. -ENOMEM when the arena is full. */
int vl_scratch(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint8_t n_dims,
               const uint32_t *dim);
int vl_scratch_1d(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint32_t d0);
int vl_scratch_2d(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint32_t d0, uint32_t d1);
int vl_scratch_3d(struct vl_exec *x, struct vl_tensor *ret, enum vl_dtype dtype, uint32_t d0, uint32_t d1,
                  uint32_t d2);
void vl_tap(struct vl_exec *x, const struct vl_tensor *t, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#endif
