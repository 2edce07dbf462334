/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* See gguf_writer.h. Keys, tensor table and data grow apart and are joined by gguf_finish. */
#include "tests/gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, STR = 8, ARRAY = 9 };

void gguf_init(struct gguf_writer *w)
{
    *w = (struct gguf_writer){.version = 3, .alignment = 32};
}

void gguf_done(struct gguf_writer *w)
{
    free(w->keys.data);
    free(w->tensors.data);
    free(w->data.data);
    *w = (struct gguf_writer){0};
}

void gguf_bytes(struct gguf_buf *b, const void *p, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2 + 64;
        b->data = realloc(b->data, b->cap);
        if (!b->data) {
            (void)fputs("gguf_writer: no memory\n", stderr);
            abort();
        }
    }
    if (n && p)
        memcpy(b->data + b->n, p, n);
    else if (n)
        memset(b->data + b->n, 0, n);
    b->n += n;
}

void gguf_put32(struct gguf_buf *b, uint32_t v)
{
    const unsigned char p[4] = {v & 255, v >> 8 & 255, v >> 16 & 255, v >> 24};
    gguf_bytes(b, p, sizeof(p));
}

void gguf_put64(struct gguf_buf *b, uint64_t v)
{
    gguf_put32(b, (uint32_t)v);
    gguf_put32(b, (uint32_t)(v >> 32));
}

void gguf_put_str(struct gguf_buf *b, const char *s)
{
    gguf_put64(b, strlen(s));
    gguf_bytes(b, s, strlen(s));
}

void gguf_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    gguf_put_str(&w->keys, key);
    gguf_put32(&w->keys, type);
    w->n_keys++;
}

void gguf_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    gguf_key(w, key, U32);
    gguf_put32(&w->keys, v);
}

void gguf_i32(struct gguf_writer *w, const char *key, int32_t v)
{
    gguf_key(w, key, I32);
    gguf_put32(&w->keys, (uint32_t)v);
}

void gguf_f32(struct gguf_writer *w, const char *key, float v)
{
    gguf_key(w, key, F32);
    gguf_bytes(&w->keys, &v, sizeof(v));
}

void gguf_bool(struct gguf_writer *w, const char *key, bool v)
{
    gguf_key(w, key, BOOL);
    gguf_bytes(&w->keys, v ? "\1" : "\0", 1);
}

void gguf_str(struct gguf_writer *w, const char *key, const char *v)
{
    gguf_key(w, key, STR);
    gguf_put_str(&w->keys, v);
}

static void array(struct gguf_writer *w, const char *key, uint32_t elem, uint64_t n)
{
    gguf_key(w, key, ARRAY);
    gguf_put32(&w->keys, elem);
    gguf_put64(&w->keys, n);
}

void gguf_i32s(struct gguf_writer *w, const char *key, const int32_t *v, uint64_t n)
{
    array(w, key, I32, n);
    for (uint64_t i = 0; i < n; i++)
        gguf_put32(&w->keys, (uint32_t)v[i]);
}

void gguf_f32s(struct gguf_writer *w, const char *key, const float *v, uint64_t n)
{
    array(w, key, F32, n);
    gguf_bytes(&w->keys, v, n * sizeof(*v));
}

void gguf_strs(struct gguf_writer *w, const char *key, const char *const *v, uint64_t n)
{
    array(w, key, STR, n);
    for (uint64_t i = 0; i < n; i++)
        gguf_put_str(&w->keys, v[i]);
}

static void pad(struct gguf_buf *b, size_t alignment)
{
    gguf_bytes(b, NULL, (alignment - b->n % alignment) % alignment);
}

void gguf_tensor_raw(struct gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *ne,
                     uint32_t id, uint64_t offset, size_t n)
{
    gguf_put_str(&w->tensors, name);
    gguf_put32(&w->tensors, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        gguf_put64(&w->tensors, ne[i]);
    gguf_put32(&w->tensors, id);
    gguf_put64(&w->tensors, offset);
    w->n_tensors++;
    pad(&w->data, w->alignment);
    gguf_bytes(&w->data, NULL, n);
}

void gguf_tensor(struct gguf_writer *w, const char *name, enum vl_dtype dtype, uint32_t n_dims,
                 const uint32_t *dim, const void *data)
{
    uint64_t ne[4];
    size_t n = vl_dtype_row_bytes(dtype, dim[n_dims - 1]);
    for (uint32_t i = 0; i < n_dims; i++)
        ne[n_dims - 1 - i] = dim[i];
    for (uint32_t i = 0; i + 1 < n_dims; i++)
        n *= dim[i];
    pad(&w->data, w->alignment);
    size_t offset = w->data.n;
    gguf_tensor_raw(w, name, n_dims, ne, vl_dtype_info(dtype)->gguf_id, offset, n);
    if (n && data)
        memcpy(w->data.data + offset, data, n);
}

unsigned char *gguf_finish(struct gguf_writer *w, size_t *ret_n)
{
    struct gguf_buf out = {0};
    gguf_bytes(&out, "GGUF", 4);
    gguf_put32(&out, w->version);
    gguf_put64(&out, w->lie_counts ? w->n_tensors_lie : w->n_tensors);
    gguf_put64(&out, w->lie_counts ? w->n_keys_lie : w->n_keys);
    gguf_bytes(&out, w->keys.data, w->keys.n);
    gguf_bytes(&out, w->tensors.data, w->tensors.n);
    if (w->n_tensors) {
        pad(&out, w->alignment);
        gguf_bytes(&out, w->data.data, w->data.n);
    }
    *ret_n = out.n;
    return out.data;
}

int gguf_memfd(const void *data, size_t n)
{
    int fd = memfd_create("gguf", MFD_CLOEXEC);
    if (fd >= 0 && pwrite(fd, data, n, 0) == (ssize_t)n)
        return fd;
    perror("gguf_writer: memfd");
    abort();
}
