/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The decoder of the Llama family: pre-norm blocks of grouped-query attention and SwiGLU over cached
 * sequences (Llama 2, arXiv 2307.09288; GGUF architecture "llama"). Weights have process lifetime and are
 * read only; run is called on the engine thread. Everything it needs for a step comes from x->scratch.
 */
#ifndef VL_DECODER_TRANSFORMER_H
#define VL_DECODER_TRANSFORMER_H
#include "kernels/backend.h"
#include "weights/bind.h"

struct vl_kv;
struct vl_prune;

enum { VL_BATCH_MAX_SPANS = 64, VL_BATCH_MAX_TOKENS = 1024 };

/* What cached tokens receive of the attention of a span's last rows, for who keeps books of it. n_rows <= the
 * span's; n_layers are asked, evenly spread, the last among them. mass: [n_kv_heads, tokens of kv] f32 of
 * backend memory, where the sum over rows and those layers is put. */
struct vl_probe {
    uint32_t n_rows, n_layers;
    struct vl_tensor mass;
};

/* Rows of one sequence; their slots were appended before and are [slot, slot + n). n_logits of the last rows
 * get logits: 0 prefill, 1 step. */
struct vl_span {
    struct vl_kv *kv;
    uint32_t slot, n, n_logits;
    const struct vl_probe *probe; /* or NULL; then the span ends with the last token of kv */
};
/* Rows of several sequences in one pass: tokens by id, or rows already embedded (visual tokens). */
struct vl_batch {
    const int32_t *id;           /* [n] host memory; -1: the next row of `row` */
    const struct vl_tensor *row; /* [n_rows, d_model] f32, or NULL */
    const struct vl_span *span;  /* cover [0, n) in order */
    uint32_t n_spans, n;
    struct vl_prune *prune; /* of the one span, which ends its question; else NULL */
};

struct vl_decoder_layer {
    struct vl_tensor attn_norm, q, k, v, o;    /* [d]; [n_heads * head_dim, d], ... */
    struct vl_tensor ffn_norm, gate, up, down; /* [d]; [d_ff, d], [d_ff, d], [d, d_ff] */
};
struct vl_decoder {
    uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, n_vocab, n_ctx;
    float eps;
    struct vl_rope rope;            /* tables owned by the decoder */
    struct vl_tensor embed;         /* packed [n_vocab, d_model] */
    struct vl_tensor norm;          /* [d_model] */
    struct vl_tensor output;        /* packed [n_vocab, d_model]; dim[0] 0 when tied to embed */
    struct vl_decoder_layer *layer; /* [n_layers], owned */
};

/* Reads and checks the parameters of a text file of architecture "llama"; n_vocab is the tokenizer's. -EINVAL
 * names the key. Ends with vl_decoder_done, also after a failure. */
int vl_decoder_init(struct vl_decoder *d, const struct vl_weights *w, uint32_t n_vocab, struct vl_error *err);
/* Adds all tensors to b; after vl_bind_load the decoder can run. q and k rows are put back into the order in
 * which (i, i + head_dim / 2) rotate together. */
int vl_decoder_bind(struct vl_decoder *d, const struct vl_weights *w, struct vl_bind *b,
                    struct vl_error *err);
void vl_decoder_done(struct vl_decoder *d);

/* *ret_logits: [sum of n_logits, n_vocab] f32 in x->scratch, span by span; data NULL and dim[0] 0 when none
 * was asked for. Taps: dec.embed, dec.N.k and dec.N.v (not rotated), dec.N (residual after block N),
 * dec.norm, logits. -EINVAL for a batch that cannot be (an id outside the vocabulary included), -ENOMEM when
 * scratch is full. */
int vl_decoder_run(const struct vl_decoder *d, struct vl_exec *x, const struct vl_batch *b,
                   struct vl_tensor *ret_logits);
#endif
