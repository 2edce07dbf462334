/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What every test includes: cmocka with the headers it wants first, and a seeded generator that prints its
 * seed. */
#ifndef VL_TESTS_HARNESS_H
#define VL_TESTS_HARNESS_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* xorshift64*: small, and the same everywhere. */
struct test_rng {
    uint64_t s;
};

static inline uint64_t test_rand(struct test_rng *r)
{
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * UINT64_C(0x2545F4914F6CDD1D);
}

/* [-1, 1) */
static inline float test_randf(struct test_rng *r)
{
    return (float)((double)(test_rand(r) >> 11) * (2.0 / 9007199254740992.0) - 1.0);
}

/* [0, n) */
static inline uint32_t test_randn(struct test_rng *r, uint32_t n)
{
    return (uint32_t)((test_rand(r) >> 33) % n);
}

/* The seed of VLMD_TEST_SEED, or 1; printed, so that a failure can be replayed. */
static inline struct test_rng test_rng_new(const char *name)
{
    const char *env = getenv("VLMD_TEST_SEED");
    uint64_t seed = env ? strtoull(env, NULL, 0) : 1;
    (void)printf("%s: VLMD_TEST_SEED=%llu\n", name, (unsigned long long)seed);
    struct test_rng r = {seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
    (void)test_rand(&r);
    return r;
}
#endif
