/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_WEIGHTS_WEIGHTS_H
#define VL_WEIGHTS_WEIGHTS_H
#include "base/cleanup.h"
#include "base/error.h"
#include "kernels/dtype.h"

#include <stdbool.h>

/* A model file that nobody vouches for, checked whole before a value of it is used: GGUF version 3 (and 2,
 * which lies the same), little endian, as ggml's docs/gguf.md describes it. Counted, immutable after open;
 * any thread may read it. It holds the descriptor and the metadata in memory, never the tensor data: that is
 * read with pread, in pieces, and never mapped, so that a file cut short under us is an error and not a
 * signal.
 *
 * Errors name the file, the key or tensor and the byte: -EBADMSG damaged or cut short, -ENOTSUP a format,
 * type or byte order that this build does not read, -EINVAL a value or type that is not what was asked for,
 * -ENOENT and the like from the system. They all mean "this model cannot be used". */
struct vl_weights;

enum { VL_WEIGHTS_ABSENT = 1 }; /* outcome: no such key; the result was not written */

/* Caps beyond what the format itself says; a file over one is refused, naming key and byte. */
enum {
    VL_WEIGHTS_MAX_KEYS = 1 << 16,
    VL_WEIGHTS_MAX_TENSORS = 1 << 16,
    VL_WEIGHTS_MAX_STRING = 16 << 20, /* bytes */
    VL_WEIGHTS_MAX_ARRAY = 1 << 24,   /* elements */
    VL_WEIGHTS_MAX_ALIGNMENT = 1 << 16,
    VL_WEIGHTS_MAX_METADATA = 256 << 20, /* bytes of metadata and tensor table together */
    VL_WEIGHTS_MAX_NAME = 63             /* bytes of a tensor's name */
};

/* path must lead to a regular file. Symbolic links are followed, because model caches are made of them, but
 * at most 8, and each must belong to root, to us, or to the owner of the file it ends at: nobody else can
 * point us at a file. What is checked after that is the opened file, not the path. */
int vl_weights_open(struct vl_weights **ret, const char *path, struct vl_error *err);
/* fd stays the caller's (it is duplicated); name appears in messages. */
int vl_weights_open_fd(struct vl_weights **ret, int fd, const char *name, struct vl_error *err);
struct vl_weights *vl_weights_ref(struct vl_weights *w);
struct vl_weights *vl_weights_unref(struct vl_weights *w);
VL_DEFINE_AUTO(vl_weights)
/* Last part of the path, or the name given to open_fd; for messages, lives as long as w. */
const char *vl_weights_name(const struct vl_weights *w);

/* Metadata. The stored type must be the one asked for, exactly: -EINVAL, naming key and both types, if not.
 * VL_WEIGHTS_ABSENT if there is no such key. */
int vl_weights_get_u32(const struct vl_weights *w, const char *key, uint32_t *ret, struct vl_error *err);
int vl_weights_get_i32(const struct vl_weights *w, const char *key, int32_t *ret, struct vl_error *err);
int vl_weights_get_f32(const struct vl_weights *w, const char *key, float *ret, struct vl_error *err);
int vl_weights_get_bool(const struct vl_weights *w, const char *key, bool *ret, struct vl_error *err);
/* Ends in NUL; a value with a NUL inside is -EINVAL. Lives as long as w. May hold any other byte. */
int vl_weights_get_str(const struct vl_weights *w, const char *key, const char **ret, struct vl_error *err);

/* A key that must be there and lie in [min, max]; a float must also be finite. Absent or outside: -EINVAL. */
int vl_weights_need_u32(const struct vl_weights *w, const char *key, uint32_t min, uint32_t max,
                        uint32_t *ret, struct vl_error *err);
int vl_weights_need_f32(const struct vl_weights *w, const char *key, float min, float max, float *ret,
                        struct vl_error *err);
int vl_weights_need_str(const struct vl_weights *w, const char *key, const char **ret, struct vl_error *err);

/* Arrays. */
bool vl_weights_is_array(const struct vl_weights *w, const char *key);
/* Elements of the array; -EINVAL if key is no array. */
int vl_weights_array_len(const struct vl_weights *w, const char *key, uint32_t *ret, struct vl_error *err);
/* Copies all elements, of which there must be exactly n (-EINVAL otherwise): sizes are never guessed. */
int vl_weights_get_u32s(const struct vl_weights *w, const char *key, uint32_t *ret, uint32_t n,
                        struct vl_error *err);
int vl_weights_get_i32s(const struct vl_weights *w, const char *key, int32_t *ret, uint32_t n,
                        struct vl_error *err);
int vl_weights_get_f32s(const struct vl_weights *w, const char *key, float *ret, uint32_t n,
                        struct vl_error *err);
/* A string array is walked from its first element to its last: for (r = get_strs(...); it.n_left;
 * next_str(...)). Strings lie in w's memory, without NUL at the end, and may hold any byte. */
struct vl_weights_strs {
    const unsigned char *at; /* borrowed from w */
    uint32_t n, n_left;
};
int vl_weights_get_strs(const struct vl_weights *w, const char *key, struct vl_weights_strs *ret,
                        struct vl_error *err);
const char *vl_weights_next_str(struct vl_weights_strs *it, size_t *ret_len); /* n_left > 0 */

/* One stored tensor; checked to lie inside the file, in a dtype of this build. */
struct vl_weights_tensor {
    char name[VL_WEIGHTS_MAX_NAME + 1];
    enum vl_dtype dtype;
    uint8_t n_dims;        /* 1..4 */
    uint32_t dim[4];       /* outermost first: the file's order turned round; the rest is 1 */
    uint64_t offset, size; /* bytes, from the start of the file */
};
uint32_t vl_weights_n_tensors(const struct vl_weights *w);
const struct vl_weights_tensor *vl_weights_tensor_at(const struct vl_weights *w,
                                                     uint32_t i); /* ascending by name */
const struct vl_weights_tensor *vl_weights_find(const struct vl_weights *w,
                                                const char *name); /* NULL: none */
/* Bytes [from, from + n) of the tensor into ret, by pread. -EBADMSG, naming tensor and byte, if the file has
 * become shorter since it was opened. */
int vl_weights_read(const struct vl_weights *w, const struct vl_weights_tensor *t, uint64_t from, void *ret,
                    size_t n, struct vl_error *err);
#endif
