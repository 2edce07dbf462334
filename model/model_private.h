/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_MODEL_MODEL_PRIVATE_H
#define VL_MODEL_MODEL_PRIVATE_H
#include "decoder/tokenizer.h"
#include "model/model.h"

/* What model.c and the families share. Only they, and tests, include it. */
struct vl_model {
    const struct vl_arch *arch;
    struct vl_model_desc desc; /* the family's part by open, the rest by model.c */
    struct vl_tokenizer *tokenizer;
    char name[96], quantization[16];
    const struct vl_backend_ops *ops; /* with device: where weights lie; device is borrowed, outlives them */
    void *device;
    void *memory[2]; /* weights of the text and the mmproj file, by ops->alloc */
    void *family;    /* the family's own, freed by arch->close */
};

struct vl_encode {
    const struct vl_model *model; /* borrowed, outlives the encode */
    struct vl_exec *x;            /* borrowed, outlives the encode */
    size_t mark;                  /* of x's arena when nothing is under way */
    void *family;                 /* freed by arch->encode_free */
};

/* Gives packed weights back; the tensors that lay there are void. */
void vl_model_free_weights(struct vl_model *m);

extern const struct vl_arch vl_arch_smolvlm;
#endif
