/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_MODEL_MODEL_H
#define VL_MODEL_MODEL_H
#include "base/error.h"
#include "base/frame.h"
#include "decoder/transformer.h"
#include "kvcache/kv.h"
#include "tokenprune/visual_tokens.h"
#include "vision/preprocess.h"

struct vl_tokenizer;
struct vl_weights;
struct vl_model;  /* process lifetime: description, packed weights, tokenizer, backend */
struct vl_encode; /* one pass of the encoder under way: its own exec and arena, so that decoder quanta may run
                     between its layers */
struct vl_feature_cache; /* vision/: what a stream keeps between frames to encode only what changed */
struct vl_unit {
    struct vl_frame *const *frame;
    uint32_t n_frames;
    bool still;
    struct vl_feature_cache *cache;
    const struct vl_reducer *red;
};
/* A rendered prompt, appended to piece by piece in memory the caller gave: runs of ids, and places for a
 * unit's visual tokens. */
struct vl_chunk {
    int32_t *id;
    uint32_t n, cap, n_places;
};
enum vl_part { VL_PART_SYSTEM, VL_PART_FRAME, VL_PART_CAPTION_END, VL_PART_QUESTION, VL_PART_REPLY_END };
enum { VL_ENCODE_MORE = 1, VL_CHUNK_FULL = 2 };
/* One VLM family, chosen by the pair (text file's general.architecture, projector file's
 * clip.projector_type). */
struct vl_arch {
    const char *name, *text_arch, *projector; /* "smolvlm", "llama", "idefics3" */
    int (*open)(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                struct vl_error *err);
    int (*views)(const struct vl_model *m, const struct vl_unit *u, struct vl_view *ret,
                 uint32_t *inout_n); /* known before encoding */
    int (*encode_begin)(const struct vl_model *m, struct vl_encode *e, const struct vl_unit *u,
                        uint32_t n_units); /* preprocesses; may batch streams */
    int (*encode_step)(struct vl_encode *e, unsigned n_layers,
                       struct vl_visual_tokens *ret); /* VL_ENCODE_MORE: go on */
    int (*positions)(const struct vl_model *m, const struct vl_visual_tokens *tok, int64_t (*ret_rel)[3],
                     int64_t *ret_extent);
    int (*render)(const struct vl_model *m, enum vl_part part, const char *text, int64_t pts_ns,
                  struct vl_chunk *inout); /* or VL_CHUNK_FULL */
    int (*run)(const struct vl_model *m, struct vl_exec *x, const struct vl_batch *b,
               struct vl_tensor *ret_logits);
};
/* What engine/ must know to make pools and arenas; filled at open, constant afterwards. Strings live as long
 * as the model. */
struct vl_model_desc {
    const char *name, *arch, *quantization;
    struct vl_kv_geometry kv; /* page_slots is the engine's choice */
    uint32_t n_vocab, d_model, n_ctx, frame_tokens /* visual tokens of one video frame */,
        default_window_frames;
    uint32_t max_batch; /* tokens a run may take at once; run_scratch is sized for it */
    size_t weight_bytes, encode_scratch, run_scratch;
};
const struct vl_model_desc *vl_model_get_desc(const struct vl_model *m);
int vl_model_new(struct vl_model **ret, const char *text_path, const char *mmproj_path /* or NULL */,
                 struct vl_exec *x, struct vl_error *err);
const struct vl_arch *vl_model_arch(const struct vl_model *m);
const struct vl_tokenizer *vl_model_tokenizer(
    const struct vl_model *m); /* decoder/tokenizer.h: ids, pieces, end set, detokenizer state */
int vl_encode_new(struct vl_encode **ret, const struct vl_model *m,
                  struct vl_exec *x); /* later: its own device stream */
struct vl_encode *vl_encode_unref(struct vl_encode *e);
struct vl_model *vl_model_unref(struct vl_model *m);
extern const struct vl_arch *const vl_archs[]; /* registry.c */
#endif
