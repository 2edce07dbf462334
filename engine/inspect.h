/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What a pair of model files is and what it would cost, told without an engine: `vlmctl model check` and
 * `vlmctl plan`. Blocking, for a program that does nothing else; files are opened by path, with our own
 * rights.
 */
#ifndef VL_ENGINE_INSPECT_H
#define VL_ENGINE_INSPECT_H
#include "engine/engine.h"

/* One finding, as it comes: section "text", "projector", "protocol", "repaired", "ignored", "unsupported",
 * "image", key and value for people and for JSON alike. Strings are good during the call. */
struct vl_inspect_out {
    void *user;
    void (*line)(void *user, const char *section, const char *key, const char *value);
};
/* Opens the pair (mmproj NULL: text alone), tells what it is made of, loads it, and shows it one fixed
 * picture: section "image" has the digests of its pixels and of its visual tokens, by which two machines can
 * be compared. 0: the model can be used. Else what vl_model_new answers, after as many lines as could be
 * told. */
int vl_inspect(const struct vl_engine_opts *o, const struct vl_inspect_out *out, struct vl_error *err);

/* What an engine with these options would take and how fast it would be, from a dry run on the null backend;
 * no weight is read. */
struct vl_plan {
    char name[64], arch[32], quantization[32];
    uint64_t weight_bytes, scratch_bytes;
    uint64_t session_bytes, fork_bytes,
        kv_pool_bytes;    /* one stream's window; one question's; all of the pool */
    uint64_t total_bytes; /* what max_bytes is compared with */
    uint32_t tokens_per_frame, max_image_tokens, context_tokens;
    double encode_flops, prefill_flops,
        step_flops; /* of one frame; of its tokens; of one token of an answer */
    /* Estimated. For some 0.1 s this machine multiplies matrices in the files' formats, 128 rows together and
     * one row alone, with all workers. A frame takes its flops at the first speed; a token of an answer the
     * bytes that it reads at the second, or its flops, whichever is longer. Cold caches, heat and other
     * programs are not in it. */
    int64_t encode_ns, prefill_ns, step_ns;
};
int vl_plan(struct vl_plan *ret, const struct vl_engine_opts *o, struct vl_error *err);
#endif
