/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_CHECKKERNEL_H
#define VL_TESTS_CHECKKERNEL_H
#include "kernels/ukernels.h"
#include "tests/harness.h"

#include <stdbool.h>

/* One ukernel of the table: how to find it, how to hold it to the C one, how long it takes. */
typedef void (*any_fn)(void);
struct check {
    char name[32];
    any_fn (*pick)(const struct vl_ukernels *k, int which);
    void (*test)(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref);
    void (*bench)(const struct check *c, const struct vl_ukernels *k, const char *level);
    int which; /* layout * 8 + index of the function, for the products */
};
extern const struct check rows_checks[], attn_checks[]; /* each ends with an empty name, as does */
const struct check *matmul_checks(void);

/* Memory between two pages that cannot be touched: the data ends flush at the second one, or begins flush at
 * the first. Filled with sentinels; freed by guard_reset after each round. */
enum guard_side { GUARD_BEHIND, GUARD_BEFORE };
void *guard_alloc(size_t size, enum guard_side side);
void guard_reset(void);

/* What the values of an input look like; every test goes through all of them. */
enum kind { KIND_EVEN, KIND_ZERO, KIND_TINY, KIND_LARGE, KIND_ALTERNATING, KIND_COUNT };
void fill_floats(float *v, size_t n, enum kind kind, float large);
float *guard_floats(size_t n, enum guard_side side, enum kind kind, float large);

extern struct test_rng check_rng;
extern const size_t check_lengths[15];
enum { N_LENGTHS = 15 };

/* Reports unless |got - want| <= bound, or both are the same. */
void expect_near(const struct check *c, size_t index, double got, double want, double bound);
void expect_same(const struct check *c, const void *got, const void *want, size_t n);

/* Calls run(arg) for about a quarter of a second and prints ns, and units per ns as `unit`. */
void measure(const char *name, const char *level, void (*run)(void *), void *arg, double units,
             const char *unit);
#endif
