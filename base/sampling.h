/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_SAMPLING_H
#define VL_BASE_SAMPLING_H
#include <stdint.h>

/* How the next token is chosen. In base/ because the daemon fills it and the decoder reads it.
 * temperature 0: greedy. top_k 0, top_p 1, min_p 0, repeat_penalty 1: off. The penalty looks back
 * repeat_window tokens (never the whole context: that slowly forbids common words). */
struct vl_sampling {
    float temperature, top_p, min_p, repeat_penalty;
    uint32_t top_k, repeat_window;
    uint64_t seed;
};
#define VL_SAMPLING_GREEDY                                                                                   \
    (struct vl_sampling)                                                                                     \
    {                                                                                                        \
        .top_p = 1, .repeat_penalty = 1, .repeat_window = 64                                                 \
    }
#endif
