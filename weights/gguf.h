/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_WEIGHTS_GGUF_H
#define VL_WEIGHTS_GGUF_H
#include "weights/weights.h"

/* What gguf.c makes of a file's head; only weights.c sees it. */
enum vl_gguf_type {
    VL_GGUF_U8,
    VL_GGUF_I8,
    VL_GGUF_U16,
    VL_GGUF_I16,
    VL_GGUF_U32,
    VL_GGUF_I32,
    VL_GGUF_F32,
    VL_GGUF_BOOL,
    VL_GGUF_STR,
    VL_GGUF_ARRAY,
    VL_GGUF_U64,
    VL_GGUF_I64,
    VL_GGUF_F64,
    VL_GGUF_TYPE_COUNT
};
struct vl_gguf_key {
    uint32_t name, name_len; /* byte in head, and length */
    uint32_t value;     /* byte in head: of an array its first element, of a string its first character */
    uint32_t n;         /* elements of an array, bytes of a string */
    const char *str;    /* a string's copy that ends in NUL, else NULL */
    uint8_t type, elem; /* elem: of an array */
};
struct vl_gguf {
    unsigned char *head;              /* metadata and tensor table as they lie in the file, from byte 0 */
    struct vl_gguf_key *key;          /* [n_keys] ascending by name */
    struct vl_weights_tensor *tensor; /* [n_tensors] ascending by name */
    char *strings;
    uint32_t n_keys, n_tensors;
};
const char *vl_gguf_type_name(uint8_t type);
/* Reads and checks the whole head of the file, size bytes long. On failure there is nothing to undo. */
int vl_gguf_parse(struct vl_gguf *ret, int fd, uint64_t size, struct vl_error *err);
const struct vl_gguf_key *vl_gguf_find(const struct vl_gguf *g, const char *name);
void vl_gguf_done(struct vl_gguf *g);
#endif
