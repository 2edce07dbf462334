/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The allocator's entries that a test makes fail, linked with -Wl,--wrap=malloc and so on. Included once in a
 * program, which says at each allocation whether it is to fail. */
#ifndef VL_TESTS_FAILING_MALLOC_H
#define VL_TESTS_FAILING_MALLOC_H
#include <stdbool.h>
#include <stddef.h>

bool test_allocation_fails(void);

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_reallocarray(void *p, size_t n, size_t size);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);

void *__wrap_malloc(size_t n)
{
    return test_allocation_fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return test_allocation_fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return test_allocation_fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
    return test_allocation_fails() ? NULL : __real_reallocarray(p, n, size);
}

#endif
