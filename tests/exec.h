/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A backend opened for one test, with scratch from the backend's own memory. */
#ifndef VL_TESTS_EXEC_H
#define VL_TESTS_EXEC_H
#include "kernels/backend.h"
#include "tests/harness.h"

struct test_exec {
    struct vl_exec x;
    struct vl_arena arena;
    void *mem;
};

static inline void test_exec_open(struct test_exec *e, const char *backend, size_t scratch)
{
    struct vl_error err = {0, ""};
    e->x = (struct vl_exec){.ops = vl_backend_find(backend), .scratch = &e->arena};
    assert_non_null(e->x.ops);
    if (e->x.ops->open(&e->x.device, NULL, &err) < 0)
        fail_msg("backend %s: %s", backend, err.msg);
    assert_int_equal(e->x.ops->alloc(e->x.device, scratch, false, &e->mem), 0);
    vl_arena_init(&e->arena, e->mem, scratch);
}

static inline void test_exec_close(struct test_exec *e)
{
    assert_int_equal(e->arena.used, 0);
    e->x.ops->free(e->x.device, e->mem);
    e->x.ops->close(e->x.device);
}
#endif
