/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DECODER_SAMPLER_H
#define VL_DECODER_SAMPLER_H
#include "base/sampling.h"
#include "kernels/backend.h"

/* Chooses the next token. Plain data: a copy of it is its checkpoint, and the same sampler with the same
 * logits makes the same choice on every machine with IEEE doubles. */
struct vl_sampler {
    struct vl_sampling how;
    uint64_t rng;
};
void vl_sampler_init(struct vl_sampler *s, const struct vl_sampling *how);

/* In the reference's order (Hugging Face's logits processors): repetition penalty of CTRL (Keskar et al.
 * 2019, 4.1) over the distinct ids of the last how.repeat_window of `recent`; tokens that are not allowed;
 * temperature; top-k; top-p (Holtzman et al. 2020) over what top-k left; min-p. temperature 0 takes the
 * largest logit. Ties always go to the lower id, and top-k keeps exactly k.
 *
 * logits: [n_vocab] or [1, n_vocab] f32 in backend memory, copied to x->scratch (12 bytes a token, given
 * back). recent: oldest first; ids outside the vocabulary are passed over. allowed: bit id % 32 of word id /
 * 32, for all n_vocab. -EDOM: a logit is NaN or +infinity, or all are -infinity: the model's numbers are
 * broken, nothing was chosen and the generator has not moved. -EINVAL: nothing is allowed, or no such shape.
 * -ENOMEM: scratch is full. */
int vl_sampler_pick(struct vl_sampler *s, struct vl_exec *x, const struct vl_tensor *logits,
                    const int32_t *recent, uint32_t n_recent, const uint32_t *allowed /* bit set, or NULL */,
                    int32_t *ret);
#endif
