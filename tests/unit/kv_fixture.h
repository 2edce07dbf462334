/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_KV_FIXTURE_H
#define VL_TESTS_KV_FIXTURE_H
/* A page pool and sequences whose every token holds numbers of its own. */
#include "kvcache/kv.h"
#include "tests/exec.h"

#include <math.h>
#include <string.h>

enum { LAYERS = 2, HEADS = 2, HEAD_DIM = 16, WIDTH = HEADS * HEAD_DIM, SLOTS = 8, MAX_TOKENS = 512 };

static const uint8_t axis_1d[HEAD_DIM / 2];
static const uint8_t axis_3d[HEAD_DIM / 2] = {0, 0, 1, 1, 1, 2, 2, 2};
static double inv_freq[HEAD_DIM / 2];

struct fixture {
    struct test_exec e;
    struct vl_rope rope;
    struct vl_kv_geometry geo;
    struct vl_kv_pool *pool;
    struct test_rng rng;
};

static inline void open_fixture(struct fixture *f, const char *backend, enum vl_dtype dtype,
                                const uint8_t *axis, size_t pages, const struct vl_kv_reserve *forks)
{
    struct vl_error err = {0, ""};
    for (int i = 0; i < HEAD_DIM / 2; i++)
        inv_freq[i] = pow(10000, -2.0 * i / HEAD_DIM);
    *f = (struct fixture){.rng = test_rng_new("kv")};
    f->rope = (struct vl_rope){HEAD_DIM / 2, inv_freq, axis};
    f->geo = (struct vl_kv_geometry){LAYERS, HEADS, HEAD_DIM, SLOTS, dtype, dtype, &f->rope};
    test_exec_open(&f->e, backend, 1 << 20);
    size_t page = 3 * LAYERS * SLOTS * WIDTH * (dtype == VL_F32 ? 4 : 2);
    if (vl_kv_pool_new(&f->pool, &f->e.x, &f->geo, pages * page, forks, &err) < 0)
        fail_msg("%s", err.msg);
}

static inline void close_fixture(struct fixture *f)
{
    struct vl_kv_pool_stats st;
    vl_kv_pool_get_stats(f->pool, &st);
    assert_int_equal(st.bytes_used, 0);
    assert_int_equal(st.n_sequences + st.n_forks, 0);
    f->pool = vl_kv_pool_unref(f->pool);
    test_exec_close(&f->e);
}

/* What a token holds, by a number of its own. */
static inline float value_of(uint64_t id, unsigned layer, unsigned which, unsigned i)
{
    struct test_rng r = {(id * 64 + layer * 2 + which + 1) * UINT64_C(0x9E3779B97F4A7C15) +
                         i * UINT64_C(0xD1B54A32D192ED03)};
    (void)test_rand(&r);
    return test_randf(&r);
}

static inline void fill(float *dst, uint64_t id, unsigned layer, unsigned which)
{
    for (unsigned i = 0; i < WIDTH; i++)
        dst[i] = value_of(id, layer, which, i);
}

static inline uint32_t extent_of(uint32_t n, uint32_t grid_w)
{
    uint32_t grid_h = grid_w > 0 ? n / grid_w : n;
    return grid_h > grid_w ? grid_h : grid_w;
}

static inline void store_all(struct fixture *f, struct vl_kv *kv, uint32_t slot, uint32_t n, uint64_t id)
{
    static float k[MAX_TOKENS * WIDTH], v[MAX_TOKENS * WIDTH];
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        for (uint32_t i = 0; i < n; i++) {
            fill(k + i * WIDTH, id + i, layer, 0);
            fill(v + i * WIDTH, id + i, layer, 1);
        }
        struct vl_tensor kt = vl_tensor_3d(k, VL_F32, n, HEADS, HEAD_DIM),
                         vt = vl_tensor_2d(v, VL_F32, n, WIDTH);
        assert_int_equal(vl_kv_store(kv, &f->e.x, layer, slot, &kt, &vt), 0);
    }
}

/* Text counts on by one; a picture of grid_w > 0 is a grid of one slice (t, y, x), as Qwen2-VL has it. */
static inline int add(struct fixture *f, struct vl_kv *kv, enum vl_kv_kind kind, uint64_t unit, uint32_t n,
                      uint64_t id, uint32_t grid_w)
{
    uint32_t slot = 0;
    int64_t rel[MAX_TOKENS][3];
    uint16_t place[MAX_TOKENS][2];
    struct vl_kv_segment s = {.kind = kind, .n = n, .unit = unit, .extent = n, .pinned = unit == 0};
    for (uint32_t i = 0; grid_w > 0 && i < n; i++) {
        rel[i][0] = 0;
        rel[i][1] = place[i][0] = (uint16_t)(i / grid_w);
        rel[i][2] = place[i][1] = (uint16_t)(i % grid_w);
    }
    if (grid_w > 0) {
        s.extent = extent_of(n, grid_w);
        s.rel = (const int64_t(*)[3])rel;
        s.place = (const uint16_t(*)[2])place;
    }
    int r = vl_kv_append(kv, &f->e.x, &s, &slot);
    if (r == 0)
        store_all(f, kv, slot, n, id);
    return r;
}

static inline struct vl_kv *new_kv(struct fixture *f, double window, double text_tokens)
{
    struct vl_kv *kv = NULL;
    struct vl_error err = {0, ""};
    const struct vl_kv_policy *policy = NULL;
    vl_auto(vl_params) p = NULL;
    assert_int_equal(vl_params_new(&p), 0);
    assert_int_equal(vl_params_set_f64(p, "window", window), 0);
    assert_int_equal(vl_params_set_f64(p, "text_tokens", text_tokens), 0);
    assert_int_equal(vl_kv_policy_find(&policy, "sink_window", &err), 0);
    if (vl_kv_new(&kv, f->pool, policy, p, MAX_TOKENS, &err) < 0)
        fail_msg("%s", err.msg);
    return kv;
}

static inline uint32_t evict(struct fixture *f, struct vl_kv *kv)
{
    uint32_t n = 0;
    vl_kv_commit(kv);
    assert_int_equal(vl_kv_evict(kv, &f->e.x, 0, &n), 0);
    return n;
}

/* Row `slot` of a layer's rotated keys or values; f32 caches only. */
static inline const float *row_at(const struct vl_kv *kv, unsigned layer, unsigned which, uint32_t slot)
{
    struct vl_kv_view view;
    assert_int_equal(vl_kv_view(kv, layer, &view), 0);
    for (uint32_t i = 0; i < view.n_pages; slot -= view.page[i++].n_tokens)
        if (slot < view.page[i].n_tokens)
            return (const float *)(which ? view.page[i].v : view.page[i].k) + (size_t)slot * WIDTH;
    fail_msg("slot %u is not in the view", slot);
    return NULL;
}

static inline void same_bits(const struct vl_kv *a, const struct vl_kv *b)
{
    assert_int_equal(vl_kv_n_tokens(a), vl_kv_n_tokens(b));
    for (uint32_t i = 0; i < vl_kv_n_tokens(a); i++) {
        assert_memory_equal(vl_kv_positions(a, i), vl_kv_positions(b, i), sizeof(int64_t[3]));
        for (unsigned layer = 0; layer < LAYERS; layer++)
            for (unsigned which = 0; which < 2; which++)
                assert_memory_equal(row_at(a, layer, which, i), row_at(b, layer, which, i),
                                    WIDTH * sizeof(float));
    }
}
#endif
