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

    struct vl_weights *text, *mmproj;  /* from open to load; mmproj NULL: text alone */
    const struct vl_notes *notes;      /* during open, or NULL */
    const struct vl_load_watch *watch; /* during load, or NULL */
    size_t n_loaded, n_total;          /* bytes, during load */
};

struct vl_encode {
    const struct vl_model *model; /* borrowed, outlives the encode */
    struct vl_exec *x;            /* borrowed, outlives the encode */
    size_t mark;                  /* of x's arena when nothing is under way */
    bool stills;                  /* what it takes */
    void *family;                 /* freed by arch->encode_free */
};

/* Gives packed weights back; the tensors that lay there are void. */
void vl_model_free_weights(struct vl_model *m);
/* What arch->load does with a file (0: text, 1: mmproj) of which all rows were added: reads it, and adds to
 * desc.weight_bytes. */
int vl_model_load_file(struct vl_model *m, struct vl_bind *b, int file, struct vl_error *err);
/* desc as far as the decoder says it; pages are left to the family. */
void vl_model_describe_decoder(struct vl_model *m, const struct vl_decoder *d, uint32_t max_batch);

extern const struct vl_arch vl_arch_llama, vl_arch_smolvlm;
#endif
