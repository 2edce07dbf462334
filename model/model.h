/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A VLM as the engine sees it: one description, prompts as ids, frames as visual tokens, one forward pass.
 * Families differ behind vl_arch; a new one is a file, a line in registry.c and a line in meson.build, and
 * tests/conformance/archs.c holds it to what is said here. Engine thread only, but for vl_model_get_desc.
 *
 *     vl_model_open -> desc -> pool, arenas of desc's sizes -> vl_model_load -> vl_encode_new
 *     frame:     encode_begin -> encode_step until 0 -> reduce -> render(FRAME) -> positions -> kv append ->
 * run question:  render(QUESTION) -> kv append -> run -> sampler -> ... -> render(REPLY_END) no stream:
 * render_ask -> for each picture encode_begin, encode_step until 0, kv append, run -> ...
 *
 * A family without eyes (a text file alone) has no frames and no timeline: desc.frame_tokens is 0, and views,
 * encode_*, positions and render are NULL.
 */
#ifndef VL_MODEL_MODEL_H
#define VL_MODEL_MODEL_H
#include "base/cleanup.h"
#include "base/error.h"
#include "base/frame.h"
#include "base/notes.h"
#include "decoder/transformer.h"
#include "kvcache/kv.h"
#include "tokenprune/visual_tokens.h"
#include "vision/preprocess.h"

struct vl_reducer;
struct vl_tokenizer;
struct vl_weights;
struct vl_model;  /* process lifetime: description, packed weights, tokenizer; one owner */
struct vl_encode; /* one pass of the encoder under way; one owner, engine lifetime */

/* The pixels of a look, kept for the next of the same stream: an encoder that sees change (desc.look_bytes)
 * takes both. The memory is the caller's. */
struct vl_look {
    uint8_t *rgb;  /* [look_bytes], of which [edge, edge, 3] are in use */
    uint32_t edge; /* 0: there was no look */
};

/* What the encoder takes at once: a frame of a video, which is one view, or a picture that is looked at
 * closely, which may be many. Frames are borrowed until encode_begin returns, the reducer until the tokens
 * are there or the next unit is begun: it is asked for its stages before and in the encoder, and whether it
 * wants saliency; what comes after the projector is the caller's. */
struct vl_unit {
    struct vl_frame *const *frame;
    uint32_t n_frames;
    bool still;
    uint32_t budget;                  /* tokens that a view may keep; 0: all */
    const struct vl_reducer *reducer; /* or NULL */
    /* Of frames, or NULL both, and not the same. What this frame is compared with: none and one of another
     * size count as no look. And where its own pixels go, read by nobody before the caller's next begin. */
    const struct vl_look *before;
    struct vl_look *look;
};

/* A rendered prompt, appended to piece by piece in memory the caller gave: ids, and -1 for each visual
 * token's place. */
struct vl_chunk {
    int32_t *id; /* [cap] */
    uint32_t n, cap, n_places;
};

/* The parts of a timeline. Every part but SYSTEM may follow any other: what stands between two special tokens
 * is one text to the tokenizer, and no part ends or begins inside a word. The generated end token itself is
 * never put into the sequence: CAPTION_END and REPLY_END begin with it, whether the model said it or was cut
 * short. */
enum vl_part {
    VL_PART_SYSTEM,      /* text: the instruction, NULL: the family's own */
    VL_PART_FRAME,       /* pts_ns: the clock shown, seconds rounded down; places of a whole frame */
    VL_PART_CAPTION_END, /* after what was said about a frame, silence included */
    VL_PART_QUESTION,    /* text: the question; special tokens in it are plain text */
    VL_PART_REPLY_END
};

enum { VL_ENCODE_MORE = 1, VL_CHUNK_FULL = 2 };
/* Longest side of a frame that encode_begin takes, and spans of a batch with logits that run_scratch covers.
 */
enum { VL_MODEL_MAX_SIDE = 8192, VL_MODEL_MAX_LOGITS = 16 };
enum { VL_MODEL_MAX_VIEWS = 64 }; /* of one unit */

/* One VLM family, chosen by the pair (text file's general.architecture, projector file's
 * clip.projector_type). */
struct vl_arch {
    const char *name, *text_arch, *projector; /* "smolvlm", "llama", "idefics3"; projector NULL: no eyes */

    /* Reads parameters and tokenizer into m, checks what they mean, fills the family's part of desc. Reads no
     * tensor. -EINVAL, -ENOTSUP name key, value and remedy. After a failure close is called. */
    int (*open)(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                struct vl_error *err);
    /* Binds all tensors into memory of x's device, and unload gives it back: once for the dry run, once for
     * good. After a failure unload or close is called. */
    int (*load)(struct vl_model *m, struct vl_exec *x, const struct vl_weights *text,
                const struct vl_weights *mmproj, struct vl_error *err);
    void (*unload)(struct vl_model *m); /* accepts what is not loaded */
    void (*close)(struct vl_model *m);  /* unloads; accepts what is half open */

    /* The views that u becomes: known before encoding, from sizes and from what its reducer wants. *inout_n:
     * room in ret, then how many. -EINVAL: a frame without pixels, or longer than VL_MODEL_MAX_SIDE. */
    int (*views)(const struct vl_model *m, const struct vl_unit *u, struct vl_view *ret, uint32_t *inout_n);
    /* Clears the encode's arena and takes the pixels of u: whatever the encode gave before is gone.
     * n_units: 1. -EINVAL as views, and when the encode was not made for this kind of unit. */
    int (*encode_begin)(const struct vl_model *m, struct vl_encode *e, const struct vl_unit *u,
                        uint32_t n_units);
    /* Runs up to n_layers (>= 1) further layers of one view, or a step of pixel work. VL_ENCODE_MORE: call
     * again; 0: *ret was written and lies in the encode and its arena until the next begin: the tokens of all
     * views, view by view, each with its own grid and pos.t its number. The cut does not change a bit of the
     * result. */
    int (*encode_step)(struct vl_encode *e, unsigned n_layers, struct vl_visual_tokens *ret);
    /* What e holds beside its exec, for the kind of unit it was made for. free accepts half-made. */
    int (*encode_init)(const struct vl_model *m, struct vl_encode *e);
    void (*encode_free)(struct vl_encode *e);

    /* Rotary positions of one view's tokens from their segment's base, [tok->n], and what the segment takes
     * up: counted on the whole grid, so that pruning moves nobody. */
    int (*positions)(const struct vl_model *m, const struct vl_visual_tokens *tok, int64_t (*ret_rel)[3],
                     int64_t *ret_extent);
    /* Appends one part. VL_CHUNK_FULL: no room, and what was in inout before is still good. -E2BIG: text too
     * long. */
    int (*render)(const struct vl_model *m, enum vl_part part, const char *text, int64_t pts_ns,
                  struct vl_chunk *inout);
    /* A question without a stream, from the first token of a sequence to where the reply begins: pictures in
     * their order, of which only the sizes are looked at, then the text. Places run view by view, with text
     * between two views. Results as render's; -EINVAL also for a picture that views refuses. */
    int (*render_ask)(const struct vl_model *m, const struct vl_unit *still, uint32_t n_stills,
                      const char *text, struct vl_chunk *inout);
    /* As vl_decoder_run; b->n <= desc.max_batch. */
    int (*run)(const struct vl_model *m, struct vl_exec *x, const struct vl_batch *b,
               struct vl_tensor *ret_logits);
};

/* Counted in a dry run. flops: a multiplication and an addition are two. bytes: of all operands and results.
 */
struct vl_model_cost {
    uint64_t flops, bytes;
};

/* What engine/ must know to make pools and arenas; filled by vl_model_open, constant afterwards. Strings live
 * as long as the model. */
struct vl_model_desc {
    const char *name, *arch, *quantization;
    struct vl_kv_geometry kv; /* page_slots and the dtypes are a proposal; rope lives as long as the model */
    uint32_t n_vocab, d_model, n_heads, n_ctx;
    uint32_t frame_tokens;     /* visual tokens of one view, of which a video frame is one; 0: no eyes */
    uint32_t max_image_tokens; /* of the costliest still picture */
    uint32_t n_encode_layers;  /* layers of one view */
    size_t look_bytes;         /* of vl_look's pixels; 0: each frame is seen alone */
    uint32_t view_patches, d_vision;        /* patches of one view, and their width in the encoder */
    uint32_t default_window_frames;         /* frames that the commentary should keep */
    uint32_t max_batch;                     /* tokens a run may take at once; run_scratch is sized for it */
    enum vl_dtype text_dtype, vision_dtype; /* that hold most bytes of either file */
    size_t weight_bytes;                    /* packed, in backend memory */
    size_t encode_scratch; /* arena of the exec given to vl_encode_new; a reducer's comes on top */
    size_t still_scratch;  /* the same for an encode of stills */
    size_t run_scratch;    /* arena of the exec given to run: max_batch tokens, VL_MODEL_MAX_LOGITS
                            * rows of logits */
    struct vl_model_cost encode, prefill, step; /* one view; its tokens; one token behind a frame's */
};

/* Opens the files (mmproj_path NULL: text alone), finds their family and runs the whole model on the null
 * backend, for shapes and scratch; no byte of a tensor is read. What is told on the way goes to notes, which
 * may be NULL. Errors say which file and what to do: -EINVAL a pair that does not fit together, -ENOTSUP a
 * family, format or option we do not have, and what vl_weights_open answers. */
int vl_model_open(struct vl_model **ret, const char *text_path, const char *mmproj_path,
                  const struct vl_notes *notes, struct vl_error *err);
/* Reads the weights into memory of x's device, which must outlive the model. Once, after open. May take
 * seconds. x and watch (or NULL) are borrowed for the call. */
struct vl_load_watch {
    void *user;
    /* After each tensor. A negative answer ends the load with that code. */
    int (*progress)(void *user, size_t n_bytes, size_t n_total);
};
int vl_model_load(struct vl_model *m, struct vl_exec *x, const struct vl_load_watch *watch,
                  struct vl_error *err);
/* Both. */
int vl_model_new(struct vl_model **ret, const char *text_path, const char *mmproj_path, struct vl_exec *x,
                 struct vl_error *err);
struct vl_model *vl_model_unref(struct vl_model *m);
VL_DEFINE_AUTO(vl_model)
const struct vl_model_desc *vl_model_get_desc(const struct vl_model *m);
const struct vl_arch *vl_model_arch(const struct vl_model *m);
const struct vl_tokenizer *vl_model_tokenizer(const struct vl_model *m);

/* An encode takes video frames, or with `stills` still pictures. x is borrowed until unref and is the
 * encode's own: an exec with an arena of at least desc.encode_scratch (still_scratch), which nobody else uses
 * but to read and reduce the tokens that encode_step gave. Decoder quanta and other encodes, each on an exec
 * of its own, may run between its steps. -ENOMEM. */
int vl_encode_new(struct vl_encode **ret, const struct vl_model *m, struct vl_exec *x, bool stills);
struct vl_encode *vl_encode_unref(struct vl_encode *e); /* before the model's */
VL_DEFINE_AUTO(vl_encode)

extern const struct vl_arch *const vl_archs[]; /* registry.c, NULL-terminated */
#endif
