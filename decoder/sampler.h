/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DECODER_SAMPLER_H
#define VL_DECODER_SAMPLER_H
#include "base/sampling.h"
#include "kernels/backend.h"
struct vl_sampler {
    struct vl_sampling how;
    uint64_t rng;
}; /* plain data: a copy of it is its checkpoint */
void vl_sampler_init(struct vl_sampler *s, const struct vl_sampling *how);
int vl_sampler_pick(struct vl_sampler *s, struct vl_exec *x, const struct vl_tensor *logits /* [n_vocab] */,
                    const int32_t *recent, uint32_t n_recent, const uint32_t *allowed /* bit set, or NULL */,
                    int32_t *ret);
#endif
