/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DECODER_SPLITTER_H
#define VL_DECODER_SPLITTER_H
#include "base/cleanup.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Cuts text into the pieces inside which a byte-level BPE merges, by the regular expressions that a family of
 * vocabularies was trained with. Process lifetime; run is for one thread at a time, because matching needs
 * working memory. */
struct vl_splitter;

/* What else comes with the family. */
struct vl_splitter_habits {
    bool whole;   /* a piece that is a token as it stands is that token, whatever the merges say */
    bool add_bos; /* a prompt begins with the first token unless the file says otherwise */
    bool guessed; /* the file names no family: likely not the one it was trained with */
};

/* By the value of tokenizer.ggml.pre; NULL: the file has none, which is what files of before May 2024 look
 * like. -ENOTSUP: no such family, the message lists what there is. */
int vl_splitter_new(struct vl_splitter **ret, const char *pre, struct vl_error *err);
struct vl_splitter *vl_splitter_unref(struct vl_splitter *s); /* one owner */
VL_DEFINE_AUTO(vl_splitter)

struct vl_splitter_habits vl_splitter_habits(const struct vl_splitter *s);

/* fn gets every piece in its order; together they are the text. What it returns that is not 0 ends the run
 * and is returned. text is valid UTF-8. -ENOMEM; -EOVERFLOW: the matcher's limits, which these expressions do
 * not reach with what a tokenizer lets in. */
typedef int (*vl_splitter_fn)(void *user, const unsigned char *piece, size_t len);
int vl_splitter_run(struct vl_splitter *s, const unsigned char *text, size_t len, vl_splitter_fn fn,
                    void *user);
#endif
