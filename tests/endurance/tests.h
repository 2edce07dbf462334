/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_ENDURANCE_TESTS_H
#define VL_TESTS_ENDURANCE_TESTS_H
#include "tests/endurance/play.h"

/* Each opens its streams on p and checks rows of floors.c. The numbers are those of the list in
 * docs/testing.md. */
struct endurance_test {
    const char *name, *what;
    void (*run)(struct play *p);
};
/* Each ends with name NULL. */
extern const struct endurance_test endurance_sight[];
extern const struct endurance_test endurance_time[];
extern const struct endurance_test endurance_long[];
#endif
