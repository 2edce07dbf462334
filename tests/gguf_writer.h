/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_GGUF_WRITER_H
#define VL_TESTS_GGUF_WRITER_H
#include "kernels/dtype.h"

#include <stdbool.h>

/* A small GGUF writer for tests and fuzz seeds, written apart from the reader. It writes what it is told, so
 * that it can also lie: fields marked "lie" replace what would be true. Memory that runs out ends the test.
 */
struct gguf_buf {
    unsigned char *data;
    size_t n, cap;
};
struct gguf_writer {
    struct gguf_buf keys, tensors, data;
    uint64_t n_keys, n_tensors;
    uint32_t version, alignment; /* 3 and 32 unless set before the first tensor */
    bool lie_counts;             /* lie: write n_keys_lie and n_tensors_lie */
    uint64_t n_keys_lie, n_tensors_lie;
};
void gguf_init(struct gguf_writer *w);
void gguf_done(struct gguf_writer *w);

void gguf_bytes(struct gguf_buf *b, const void *p, size_t n);
void gguf_put32(struct gguf_buf *b, uint32_t v);
void gguf_put64(struct gguf_buf *b, uint64_t v);
void gguf_put_str(struct gguf_buf *b, const char *s);

/* Begins a key; its value is the caller's next put into w->keys. */
void gguf_key(struct gguf_writer *w, const char *key, uint32_t type);
void gguf_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_i32(struct gguf_writer *w, const char *key, int32_t v);
void gguf_f32(struct gguf_writer *w, const char *key, float v);
void gguf_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_str(struct gguf_writer *w, const char *key, const char *v);
void gguf_i32s(struct gguf_writer *w, const char *key, const int32_t *v, uint64_t n);
void gguf_f32s(struct gguf_writer *w, const char *key, const float *v, uint64_t n);
void gguf_strs(struct gguf_writer *w, const char *key, const char *const *v, uint64_t n);

/* dim: outermost first, as in vl_tensor. data has the bytes of that dtype and shape. */
void gguf_tensor(struct gguf_writer *w, const char *name, enum vl_dtype dtype, uint32_t n_dims,
                 const uint32_t *dim, const void *data);
/* A tensor table entry as it is said: ne in the file's order, id and offset at will, data n bytes. */
void gguf_tensor_raw(struct gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *ne,
                     uint32_t id, uint64_t offset, size_t n);
/* The whole file; the caller frees it. */
unsigned char *gguf_finish(struct gguf_writer *w, size_t *ret_n);

/* A memory file with this content, at position 0; the caller closes it. */
int gguf_memfd(const void *data, size_t n);
#endif
