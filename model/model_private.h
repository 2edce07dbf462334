/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_MODEL_MODEL_PRIVATE_H
#define VL_MODEL_MODEL_PRIVATE_H
#include "decoder/tokenizer.h"
#include "model/model.h"

/* What model.c and the families share; nobody else includes it but tests. */
struct vl_model {
    const struct vl_arch *arch;
    struct vl_model_desc desc;
    struct vl_tokenizer *tokenizer;
    char name[96], quantization[16];
    const struct vl_backend_ops *ops; /* whose device holds weights */
    void *device;                     /* borrowed, outlives the model */
    void *memory[2];                  /* of text and mmproj weights, by ops->alloc */
    void *family;                     /* the family's own, freed by arch->close */
};

struct vl_encode {
    const struct vl_model *model; /* borrowed, outlives the encode */
    struct vl_exec *x;            /* borrowed from whoever made the encode */
    void *family;
};

/* Gives the packed weights back; the tensors that lay there are void. */
void vl_model_free_weights(struct vl_model *m);
#endif
