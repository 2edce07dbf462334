/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What is promised about a stream that is watched for long, and what was measured when it was promised. One
 * table, so that a better model raises its floors in one place.
 */
#ifndef VL_TESTS_ENDURANCE_FLOORS_H
#define VL_TESTS_ENDURANCE_FLOORS_H
#include <stdbool.h>

/* Compares with the row of that name, and prints both. A name without a row is a mistake of the test's. */
void floors_check(const char *name, double value);
/* The same for what a registry may hold tomorrow: without a row nothing is promised, and the value is told.
 */
void floors_check_if_known(const char *name, double value);
/* A measured value without a promise, or a line on what cannot be measured. */
void floors_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints what did not hold; true: all did. */
bool floors_held(void);
#endif
