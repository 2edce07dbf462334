/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Pieces of prompts, for all families. */
#include "model/prompt.h"

#include <string.h>

struct vl_text_piece vl_prompt_template(const char *text)
{
    return (struct vl_text_piece){.text = text, .len = strlen(text), .trusted = true};
}

struct vl_text_piece vl_prompt_words(const char *text)
{
    return (struct vl_text_piece){.text = text, .len = strlen(text)};
}

int vl_prompt_put(const struct vl_model *m, struct vl_chunk *c, const struct vl_text_piece *piece, size_t n)
{
    uint32_t n_ids;
    int r = vl_tokenizer_encode_pieces(vl_model_tokenizer(m), piece, n, c->id + c->n, c->cap - c->n, &n_ids);
    if (r == 0)
        c->n += n_ids;
    return r == VL_TOKENIZER_FULL ? VL_CHUNK_FULL : r;
}

int vl_prompt_put_places(struct vl_chunk *c, uint32_t n)
{
    if (n > c->cap - c->n)
        return VL_CHUNK_FULL;
    for (uint32_t i = 0; i < n; i++)
        c->id[c->n++] = -1;
    c->n_places += n;
    return 0;
}

int vl_prompt_put_bos(const struct vl_model *m, struct vl_chunk *c, const char *first)
{
    const struct vl_tokenizer *t = vl_model_tokenizer(m);
    const int32_t bos = vl_tokenizer_bos(t);
    if (!vl_tokenizer_add_bos(t) || bos == VL_TOKEN_NONE || vl_tokenizer_find(t, first) == bos)
        return 0;
    if (c->n == c->cap)
        return VL_CHUNK_FULL;
    c->id[c->n++] = bos;
    return 0;
}

bool vl_prompt_has_special(const struct vl_model *m, const char *token)
{
    const struct vl_tokenizer *t = vl_model_tokenizer(m);
    const int32_t id = vl_tokenizer_find(t, token);
    return id != VL_TOKEN_NONE && vl_tokenizer_is_special(t, id);
}
