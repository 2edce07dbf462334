/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DECODER_VOCABULARY_H
#define VL_DECODER_VOCABULARY_H
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vl_weights;

/* The tokens of a model file: texts, kinds, and the ids that mean something. Embedded in a tokenizer,
 * constant after init; any thread. Texts are in GPT-2's alphabet, in which each byte is a printable code
 * point, but those of special tokens are plain. */
enum {
    VL_WORD_SPECIAL = 1, /* control, unknown, user defined: never out of text that is not trusted */
    VL_WORD_SILENT = 2,  /* control, unknown: no text in a reply */
    VL_WORD_END = 4,     /* ends a reply */
    VL_WORD_BYTE = 8     /* "<0x0A>" stands for that byte */
};
enum { VL_ALPHABET = 256 + 68 }; /* code points below this may stand for bytes */
struct vl_word {                 /* head: the text's first 8 bytes, big endian; most comparisons end there */
    uint64_t head;
    int32_t id;
};
struct vl_vocabulary {
    uint32_t n;
    char *text;
    uint32_t *at;                 /* [n + 1] where each token begins in text */
    uint8_t *flags;               /* [n] */
    struct vl_word *word;         /* [n] ascending by text, then id */
    uint16_t alphabet[256];       /* byte -> code point */
    int16_t byte_of[VL_ALPHABET]; /* and back; -1: not in it */
    int32_t bos, eos;             /* or VL_TOKEN_NONE */
    bool add_bos;
};
/* Reads tokenizer.ggml.tokens, token_type, scores and ids; add_bos is for a file that does not say. Errors as
 * vl_tokenizer_new's. On failure, too, done is the caller's. */
int vl_vocabulary_init(struct vl_vocabulary *v, const struct vl_weights *w, bool add_bos,
                       struct vl_error *err);
void vl_vocabulary_done(struct vl_vocabulary *v);

/* 0 <= id < n */
const char *vl_vocabulary_text(const struct vl_vocabulary *v, int32_t id, size_t *ret_len);
/* The lowest id with this text, or VL_TOKEN_NONE. */
int32_t vl_vocabulary_find(const struct vl_vocabulary *v, const char *text, size_t len);
/* The token, not a special one, that stands for exactly these bytes, or VL_TOKEN_NONE. */
int32_t vl_vocabulary_find_bytes(const struct vl_vocabulary *v, const unsigned char *p, size_t len);
/* The token of one byte, or VL_TOKEN_NONE. */
int32_t vl_vocabulary_byte(const struct vl_vocabulary *v, uint8_t byte);
/* The bytes that a token stands for, at most VL_PIECE_MAX; returns how many. */
size_t vl_vocabulary_bytes(const struct vl_vocabulary *v, int32_t id, char *ret);
/* Text of a file cut and masked for a message. */
const char *vl_vocabulary_quote(char out[40], const char *s, size_t n);

/* Length of the code point at p (n > 0), 0: no UTF-8 begins so, -1: it may, but ends too early to tell. */
int vl_utf8_len(const unsigned char *p, size_t n);
#endif
