/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_MODEL_PROMPT_H
#define VL_MODEL_PROMPT_H
#include "decoder/tokenizer.h"
#include "model/model.h"

/* What the families put prompts together with. All return 0, VL_CHUNK_FULL or what the tokenizer answers;
 * after VL_CHUNK_FULL the chunk is worthless, and the family gives its caller the one from before. */

/* Template text, in which special tokens count, and a person's, in which they do not. text must stay. */
struct vl_text_piece vl_prompt_template(const char *text);
struct vl_text_piece vl_prompt_words(const char *text);

/* The pieces are one text to the tokenizer. */
int vl_prompt_put(const struct vl_model *m, struct vl_chunk *c, const struct vl_text_piece *piece, size_t n);
/* n places for visual tokens. */
int vl_prompt_put_places(struct vl_chunk *c, uint32_t n);
/* The file's begin token, if the file wants one in front and the template `first` does not bring it. */
int vl_prompt_put_bos(const struct vl_model *m, struct vl_chunk *c, const char *first);

bool vl_prompt_has_special(const struct vl_model *m, const char *token);
#endif
