/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DECODER_TOKENIZER_H
#define VL_DECODER_TOKENIZER_H
#include "base/cleanup.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vl_weights;

/* Byte-level BPE (GPT-2's) with the vocabulary of a model file. Process lifetime, immutable but for its
 * working memory: encode is for one thread at a time, the engine's; everything else for any. Ids are 0 <= id
 * < n_vocab.
 *
 * Special tokens (control, unknown, user defined in the file) arise only from text marked as trusted, which
 * is the template's. Nothing that a user types, and no merge in the file, makes one. */
struct vl_tokenizer;

enum {
    VL_TOKENIZER_FULL = 1, /* outcome of encode: more ids than cap */
    VL_TOKEN_NONE = -1,
    VL_TOKENIZER_MAX_VOCAB = 1 << 20,
    VL_TOKENIZER_MAX_TEXT = 256 << 10, /* bytes in one call of encode: -E2BIG beyond */
    VL_PIECE_MAX = 1024,               /* bytes of one token, held at open */
    VL_DETOK_MAX = 4096                /* bytes that one push of the detokenizer can release */
};

/* Reads tokenizer.ggml.* of the text file. -ENOTSUP: another scheme or splitter, by name; -EINVAL: ids,
 * lengths or merges that do not fit together. w is not kept. */
int vl_tokenizer_new(struct vl_tokenizer **ret, const struct vl_weights *w, struct vl_error *err);
struct vl_tokenizer *vl_tokenizer_unref(struct vl_tokenizer *t); /* one owner */
VL_DEFINE_AUTO(vl_tokenizer)

uint32_t vl_tokenizer_n_vocab(const struct vl_tokenizer *t);
int32_t vl_tokenizer_bos(const struct vl_tokenizer *t); /* VL_TOKEN_NONE if the file names none */
int32_t vl_tokenizer_eos(const struct vl_tokenizer *t);
/* A prompt begins with bos: the file says so or, where it says nothing, its family does so. Never without a
 * bos. */
bool vl_tokenizer_add_bos(const struct vl_tokenizer *t);
/* NULL, or why this vocabulary is likely not used as it was trained: a sentence to be logged once. */
const char *vl_tokenizer_doubt(const struct vl_tokenizer *t);
/* eos, eot, eom and the tokens that end a reply by their text ("<end_of_utterance>", "<|im_end|>", ...). */
bool vl_tokenizer_is_end(const struct vl_tokenizer *t, int32_t id);
bool vl_tokenizer_is_special(const struct vl_tokenizer *t, int32_t id);
/* The token whose text in the file is exactly this ("<image>"), the lowest id if there are several, or
 * VL_TOKEN_NONE. For plain words: a space is written U+0120 there, as GPT-2's alphabet does. */
int32_t vl_tokenizer_find(const struct vl_tokenizer *t, const char *text);

/* Text becomes ids. The pieces are one text: what lies between two special tokens is split and merged as a
 * whole, over the seams, as the reference does with the finished string; only special tokens do not reach
 * over a seam between trusted and untrusted text. Invalid UTF-8 becomes U+FFFD, byte by byte; a byte for
 * which the vocabulary has no token is dropped (the reference puts the unknown token there, which here is
 * often an end token that a user must not be able to write). No id is added in front. *ret_n <= cap ids are
 * written, or VL_TOKENIZER_FULL (what was written is worthless then). -E2BIG, -ENOMEM (only when the text is
 * longer than any before and than 1 KiB: an ordinary frame's header does not allocate). */
struct vl_text_piece {
    const char *text;
    size_t len;
    bool trusted; /* template text: special tokens are recognised in it */
};
int vl_tokenizer_encode_pieces(const struct vl_tokenizer *t, const struct vl_text_piece *piece,
                               size_t n_pieces, int32_t *ret_ids, uint32_t cap, uint32_t *ret_n);
int vl_tokenizer_encode(const struct vl_tokenizer *t, const char *text, size_t len, bool parse_special,
                        int32_t *ret_ids, uint32_t cap, uint32_t *ret_n);

/* The bytes of one token, special or not: at most VL_PIECE_MAX, maybe a part of a code point, no NUL at the
 * end. -EINVAL: no such id. */
int vl_tokenizer_piece(const struct vl_tokenizer *t, int32_t id, char ret[VL_PIECE_MAX], size_t *ret_len);

/* Ids become text, one by one. Plain data; zero is the start, a copy is a checkpoint. What comes out is valid
 * UTF-8 and ends with a whole code point; up to 3 bytes wait for the next id. Control and unknown tokens are
 * empty. */
struct vl_detok {
    uint8_t pending[3];
    uint8_t n;
};
int vl_detok_push(const struct vl_tokenizer *t, struct vl_detok *d, int32_t id, char ret[VL_DETOK_MAX],
                  size_t *ret_len);
/* At the end: what still waits becomes U+FFFD. */
void vl_detok_flush(struct vl_detok *d, char ret[VL_DETOK_MAX], size_t *ret_len);
#endif
