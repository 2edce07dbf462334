/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_RANDOM_H
#define VL_BASE_RANDOM_H
#include <stdint.h>

/* SplitMix64 (Steele, Lea, Flood 2014): any state is a good seed, and all that there is. Not for secrets. */
static inline uint64_t vl_random_u64(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}
#endif
