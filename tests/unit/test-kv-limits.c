/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The cache's limits: a full pool, what is refused and in which words, no allocation while it works, and no
 * look at the backend's memory. */
#include "tests/unit/kv_fixture.h"

/* A picture larger than the pool: the window empties, then the answer is FULL, and smaller ones go on. */
static void test_full(void **state)
{
    (void)state;
    struct fixture f;
    struct vl_kv_units u;
    uint32_t n = 0;
    open_fixture(&f, "cpu", VL_F32, axis_1d, 12, NULL);
    vl_auto(vl_kv) kv = new_kv(&f, 8, 512);
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 0, 10, 1, 0), 0);
    vl_kv_commit(kv);
    for (uint64_t unit = 1; unit < 40; unit++) {
        while (add(&f, kv, VL_KV_VISUAL, unit, 24, 100 * unit, 0) == VL_KV_FULL) {
            assert_int_equal(vl_kv_evict(kv, &f.e.x, 24, &n), 0);
            assert_int_equal(n, 24);
        }
        vl_kv_commit(kv);
    }
    vl_kv_units(kv, VL_KV_VISUAL, &u);
    assert_true(u.n >= 3 && u.newest == 39 && u.oldest == 40 - u.n);
    while (add(&f, kv, VL_KV_VISUAL, 40, 200, 10000, 0) == VL_KV_FULL) {
        assert_int_equal(vl_kv_evict(kv, &f.e.x, 200, &n), 0);
        if (n == 0)
            break;
    }
    assert_int_equal(vl_kv_n_tokens(kv), 10);
    assert_int_equal(add(&f, kv, VL_KV_VISUAL, 41, 24, 11000, 0), 0);
    kv = vl_kv_unref(kv);
    close_fixture(&f);
}

static void test_refuses(void **state)
{
    (void)state;
    struct fixture f;
    struct vl_error err = {0, ""};
    uint32_t slot;
    open_fixture(&f, "cpu", VL_F32, axis_1d, 12, NULL);
    vl_auto(vl_kv) kv = new_kv(&f, 8, 512);
    const int64_t outside[2][3] = {{0, 0, 0}, {0, 4, 0}}, below[1][3] = {{0, 0, -1}};
    const struct vl_kv_segment bad[] = {
        {.kind = VL_KV_TEXT, .n = 0, .unit = 5, .extent = 0},
        {.kind = VL_KV_TEXT, .n = 2, .unit = 5, .extent = 3},
        {.kind = VL_KV_TEXT, .n = 2, .unit = 5, .extent = 2, .rel = outside},
        {.kind = VL_KV_VISUAL, .n = 2, .unit = 5, .extent = 1},
        {.kind = VL_KV_VISUAL, .n = 2, .unit = 5, .extent = 4, .rel = outside},
        {.kind = VL_KV_VISUAL, .n = 1, .unit = 5, .extent = 4, .rel = below},
        {.kind = VL_KV_VISUAL, .n = 1, .unit = 5, .extent = INT64_MAX},
        {.kind = VL_KV_TEXT, .n = 1, .unit = 4, .extent = 1},
    };
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 5, 3, 1, 0), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(vl_kv_append(kv, &f.e.x, &bad[i], &slot), -EINVAL);
    assert_int_equal(vl_kv_n_tokens(kv), 3);

    float data[4 * WIDTH] = {0};
    struct vl_tensor good = vl_tensor_2d(data, VL_F32, 2, WIDTH),
                     narrow = vl_tensor_2d(data, VL_F32, 2, WIDTH - 1);
    struct vl_tensor half = vl_tensor_2d(data, VL_F16, 2, WIDTH),
                     three = vl_tensor_2d(data, VL_F32, 3, WIDTH);
    assert_int_equal(vl_kv_store(kv, &f.e.x, 0, 1, &good, &good), 0);
    assert_int_equal(vl_kv_store(kv, &f.e.x, 0, 2, &good, &good), -EINVAL);
    assert_int_equal(vl_kv_store(kv, &f.e.x, LAYERS, 1, &good, &good), -EINVAL);
    assert_int_equal(vl_kv_store(kv, &f.e.x, 0, 1, &narrow, &good), -EINVAL);
    assert_int_equal(vl_kv_store(kv, &f.e.x, 0, 1, &good, &half), -EINVAL);
    assert_int_equal(vl_kv_store(kv, &f.e.x, 0, 0, &good, &three), -EINVAL);
    vl_kv_commit(kv);
    assert_int_equal(vl_kv_store(kv, &f.e.x, 0, 1, &good, &good), -EINVAL); /* committed is final */
    assert_int_equal(vl_kv_truncate(kv, 4), -EINVAL);

    struct vl_kv *none = NULL;
    vl_auto(vl_params) p = NULL;
    assert_int_equal(vl_params_new(&p), 0);
    assert_int_equal(vl_params_set_f64(p, "windwo", 3), 0);
    assert_int_equal(vl_kv_new(&none, f.pool, vl_kv_policies[0], p, 100, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "did you mean 'window'"));
    assert_int_equal(vl_kv_new(&none, f.pool, NULL, NULL, 0, &err), -EINVAL);

    struct vl_kv_pool *no_pool = NULL;
    struct vl_kv_geometry g = f.geo;
    const struct vl_kv_reserve forks = {4, 1000, 1000};
    assert_int_equal(vl_kv_pool_new(&no_pool, &f.e.x, &g, 100000, &forks, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "4 questions at once"));
    assert_int_equal(vl_kv_pool_new(&no_pool, &f.e.x, &g, 0, NULL, &err), -EINVAL);
    g.n_kv_heads = 1u << 31;
    g.head_dim = 1u << 31;
    assert_int_equal(vl_kv_pool_new(&no_pool, &f.e.x, &g, 1 << 20, NULL, &err), -EINVAL);
    g = f.geo;
    g.k_dtype = VL_Q8_0;
    assert_int_equal(vl_kv_pool_new(&no_pool, &f.e.x, &g, 1 << 20, NULL, &err), -EINVAL);
    kv = vl_kv_unref(kv);
    close_fixture(&f);
}

/* Wrapped by the linker, so that a call below can be told to make none. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
static uint64_t n_mallocs;

void *__wrap_malloc(size_t n)
{
    n_mallocs++;
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    n_mallocs++;
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    n_mallocs++;
    return __real_realloc(p, n);
}

/* Per frame and per token nothing is allocated, slides and copies on write included. */
static void test_no_malloc(void **state)
{
    (void)state;
    const struct vl_kv_reserve forks = {1, 64, 64};
    struct fixture f;
    open_fixture(&f, "cpu", VL_F16, axis_1d, 64, &forks);
    vl_auto(vl_kv) kv = new_kv(&f, 2, 16);
    vl_auto(vl_kv) fork = NULL;
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 0, 5, 1, 0), 0);
    vl_kv_commit(kv);
    assert_int_equal(vl_kv_fork(&fork, kv, 30), 0);
    uint64_t before = n_mallocs;
    for (uint64_t unit = 1; unit < 30; unit++) {
        assert_int_equal(add(&f, kv, VL_KV_TEXT, unit, 3, 100, 0), 0);
        assert_int_equal(add(&f, kv, VL_KV_VISUAL, unit, 9, 200, 0), 0);
        assert_int_equal(add(&f, fork, VL_KV_TEXT, unit, 1, 300, 0), 0);
        (void)evict(&f, kv);
    }
    assert_int_equal(n_mallocs, before);
    fork = vl_kv_unref(fork);
    kv = vl_kv_unref(kv);
    close_fixture(&f);
}

/* A dry run of everything that moves data: the backend's memory cannot be read, and scratch is as promised.
 */
static void test_null_backend(void **state)
{
    (void)state;
    const struct vl_kv_reserve forks = {1, 64, 64};
    struct fixture f;
    open_fixture(&f, "null", VL_F16, axis_1d, 64, &forks);
    vl_auto(vl_kv) kv = new_kv(&f, 1, 8);
    vl_auto(vl_kv) fork = NULL;
    f.e.arena.cap = vl_kv_geometry_scratch(&f.geo); /* rows of one page at most below */
    for (uint64_t unit = 0; unit < 20; unit++) {
        assert_int_equal(add(&f, kv, VL_KV_TEXT, unit, 3, 1, 0), 0);
        assert_int_equal(add(&f, kv, VL_KV_VISUAL, unit, SLOTS, 1, 0), 0);
        if (unit % 5 == 0) {
            fork = vl_kv_unref(fork);
            assert_int_equal(vl_kv_fork(&fork, kv, 10), 0);
            assert_int_equal(add(&f, fork, VL_KV_TEXT, unit, 3, 1, 0), 0);
        }
        (void)evict(&f, kv);
    }
    fork = vl_kv_unref(fork);
    kv = vl_kv_unref(kv);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_no_malloc),
        cmocka_unit_test(test_null_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
