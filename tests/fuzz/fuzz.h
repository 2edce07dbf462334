/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_FUZZ_FUZZ_H
#define VL_TESTS_FUZZ_FUZZ_H
#include <stddef.h>
#include <stdint.h>

/* libFuzzer's entry points. A target defines the first, and may define the second: in a build with
 * -Dfuzz=true libFuzzer calls them; in every build replay.c runs the checked-in corpus through the first. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
/* Defined by libFuzzer, and by replay.c, which does not call it. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* Ends the run at an invariant that does not hold; libFuzzer then keeps the input. */
#define FUZZ_CHECK(x)                                                                                        \
    do {                                                                                                     \
        if (!(x))                                                                                            \
            __builtin_trap();                                                                                \
    } while (0)
#endif
