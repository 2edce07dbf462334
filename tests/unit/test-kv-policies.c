/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What each policy keeps, by books of our own; that it keeps the contract is the conformance suite's to show,
 * and that the cache follows it test-kv's. */
#include "kvcache/kv.h"
#include "tests/exec.h"

#include <stdio.h>
#include <string.h>

enum { SIDE = 8, GRID = SIDE * SIDE, WORDS = 6, SINK = 5, MAX_TOKENS = 4096, SLOTS = 16, HEAD_DIM = 2 };

/* ---- asking a policy alone ---- */

struct asked {
    const struct vl_kv_policy *policy;
    void *state;
    struct vl_kv_token tok[MAX_TOKENS];
    uint32_t n, slot[MAX_TOKENS];
};

static struct vl_params *params_of(const struct vl_kv_policy *policy, const char *options)
{
    struct vl_params *p = NULL;
    struct vl_error err = {0, ""};
    char text[200], name[40];
    (void)snprintf(text, sizeof(text), "%s:%s", policy->name, options);
    if (vl_params_parse(text, name, sizeof(name), &p, &err) < 0 ||
        vl_params_check(p, policy->params, &err) < 0)
        fail_msg("%s", err.msg);
    return p;
}

static void open_policy(struct asked *a, const char *name, const char *options)
{
    struct vl_error err = {0, ""};
    memset(a, 0, sizeof(*a));
    if (vl_kv_policy_find(&a->policy, name, &err) < 0)
        fail_msg("%s", err.msg);
    vl_auto(vl_params) p = params_of(a->policy, options);
    a->state = calloc(1, a->policy->state_size(p, MAX_TOKENS, 1));
    assert_non_null(a->state);
    assert_int_equal(a->policy->init(a->state, p, &err), 0);
    for (; a->n < SINK; a->n++)
        a->tok[a->n] = (struct vl_kv_token){.pinned = true};
}

static void close_policy(struct asked *a)
{
    free(a->state);
}

/* A header, a whole grid, a word. */
static void add_unit(struct asked *a, uint64_t unit)
{
    for (int i = 0; i < WORDS - 1; i++)
        a->tok[a->n++] = (struct vl_kv_token){.unit = unit};
    for (uint16_t i = 0; i < GRID; i++)
        a->tok[a->n++] =
            (struct vl_kv_token){.unit = unit, .kind = VL_KV_VISUAL, .y = i / SIDE, .x = i % SIDE};
    a->tok[a->n++] = (struct vl_kv_token){.unit = unit};
}

/* Lets the policy have its way; returns how many went. */
static uint32_t obey(struct asked *a, uint32_t n_wanted)
{
    uint32_t gone = 0, kept = 0;
    assert_int_equal(a->policy->pick(a->state, a->tok, a->n, n_wanted, a->slot, &gone), 0);
    for (uint32_t i = 0, k = 0; i < a->n; i++) {
        if (k < gone && a->slot[k] == i)
            k++;
        else
            a->tok[kept++] = a->tok[i];
    }
    a->n = kept;
    return gone;
}

static uint32_t held(const struct asked *a, uint64_t unit, enum vl_kv_kind kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n; i++)
        n += a->tok[i].unit == unit && a->tok[i].kind == kind && !a->tok[i].pinned;
    return n;
}

/* ---- sink_window ---- */

static void test_sink_window(void **state)
{
    (void)state;
    static struct asked a;
    open_policy(&a, "sink_window", "window=3,text_tokens=30");
    for (uint64_t unit = 1; unit <= 12; unit++) {
        add_unit(&a, unit);
        (void)obey(&a, 0);
        for (uint64_t u = 1; u <= unit; u++) {
            assert_int_equal(held(&a, u, VL_KV_VISUAL), u + 3 > unit ? GRID : 0);
            assert_int_equal(held(&a, u, VL_KV_TEXT), u + 5 > unit ? WORDS : 0); /* 5 units: 30 words */
        }
    }
    assert_int_equal(obey(&a, 1), GRID); /* whole units: the oldest picture */
    assert_int_equal(held(&a, 10, VL_KV_VISUAL), 0);
    assert_int_equal(obey(&a, GRID + 1), 2 * GRID);
    assert_int_equal(held(&a, 12, VL_KV_TEXT), WORDS);
    close_policy(&a);
    open_policy(&a, "sink_window",
                "window=3,text_tokens=0"); /* pictures keep their words, so does the last */
    for (uint64_t unit = 1; unit <= 9; unit++) {
        add_unit(&a, unit);
        (void)obey(&a, 0);
    }
    assert_int_equal(held(&a, 6, VL_KV_TEXT), 0);
    assert_int_equal(held(&a, 7, VL_KV_TEXT), WORDS);
    assert_int_equal(a.n, SINK + 3 * (GRID + WORDS));
    close_policy(&a);
}

/* ---- visual_age ---- */

/* Ages from 0: whole, whole, half twice, a quarter twice, an eighth: below `least`, so a quarter for good. */
static void test_visual_age_schedule(void **state)
{
    (void)state;
    static struct asked a;
    static const uint32_t want[] = {64, 64, 32, 32, 16, 16, 16, 16, 16, 16};
    open_policy(&a, "visual_age", "window=10,full=2,step=2,least=16,text_tokens=0");
    for (uint64_t unit = 1; unit <= 40; unit++) {
        add_unit(&a, unit);
        (void)obey(&a, 0);
        for (uint64_t u = 1; u <= unit; u++) {
            assert_int_equal(held(&a, u, VL_KV_VISUAL), unit - u < 10 ? want[unit - u] : 0);
            assert_int_equal(held(&a, u, VL_KV_TEXT), unit - u < 10 ? WORDS : 0);
        }
    }
    assert_int_equal(obey(&a, 1), 16); /* asked for room it gives up its oldest picture */
    assert_int_equal(held(&a, 31, VL_KV_VISUAL), 0);
    close_policy(&a);
    open_policy(&a, "visual_age", "window=100,full=0,step=1,least=1");
    for (uint64_t unit = 1; unit <= 40; unit++) {
        add_unit(&a, unit);
        (void)obey(&a, 0);
    }
    for (uint64_t u = 1; u <= 40; u++) /* down to the last token, and that stays */
        assert_int_equal(held(&a, u, VL_KV_VISUAL), 40 - u < 6 ? 32u >> (40 - u) : 1);
    close_policy(&a);
}

/* What is left of a picture is spread evenly over it, and four neighbours at a quarter show every place. */
static void test_visual_age_lattice(void **state)
{
    (void)state;
    static struct asked a;
    open_policy(&a, "visual_age", "window=100,full=0,step=1,least=16");
    for (uint64_t unit = 1; unit <= 20; unit++) {
        add_unit(&a, unit);
        (void)obey(&a, 0);
    }
    uint32_t shown[SIDE][SIDE] = {{0}}, in_block[21][SIDE / 2][SIDE / 2] = {{{0}}};
    for (uint32_t i = 0; i < a.n; i++)
        if (a.tok[i].kind == VL_KV_VISUAL && a.tok[i].unit >= 4 && a.tok[i].unit < 8) {
            shown[a.tok[i].y][a.tok[i].x]++;
            in_block[a.tok[i].unit][a.tok[i].y / 2][a.tok[i].x / 2]++;
        }
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            assert_int_equal(shown[y][x], 1);
            for (int u = 4; u < 8; u++)
                assert_int_equal(in_block[u][y / 2][x / 2], 1);
        }
    close_policy(&a);
}

/* A picture of which a reducer left a few tokens is halved like any other, but never below `least`. */
static void test_visual_age_reduced(void **state)
{
    (void)state;
    static struct asked a;
    struct test_rng rng = test_rng_new("visual_age");
    open_policy(&a, "visual_age", "window=30,full=1,step=1,least=6");
    for (uint64_t unit = 1; unit <= 60; unit++) {
        uint32_t odds = 1 + test_randn(&rng, 5), n = 0;
        for (uint16_t i = 0; i < GRID; i++)
            if (test_randn(&rng, odds) == 0 || (i == GRID - 1 && n == 0)) {
                a.tok[a.n++] =
                    (struct vl_kv_token){.unit = unit, .kind = VL_KV_VISUAL, .y = i / SIDE, .x = i % SIDE};
                n++;
            }
        uint32_t before[61];
        for (uint64_t u = 1; u <= unit; u++)
            before[u] = held(&a, u, VL_KV_VISUAL);
        (void)obey(&a, 0);
        for (uint64_t u = 1; u <= unit; u++) {
            uint32_t now = held(&a, u, VL_KV_VISUAL);
            assert_true(now <= before[u]);
            assert_true(now == before[u] || unit - u >= 1);
            assert_true(unit - u >= 30 ? now == 0 : now >= (before[u] < 6 ? before[u] : 6));
        }
    }
    close_policy(&a);
}

/* ---- memory ---- */

/* Pages that hold pictures: a quarter of a grid of four pages is one page, and less than a page frees no
 * more. */
static void test_memory_comes_back(void **state)
{
    (void)state;
    static const double inv_freq[HEAD_DIM / 2] = {1};
    static const uint8_t axis[HEAD_DIM / 2];
    static const struct vl_rope rope = {HEAD_DIM / 2, inv_freq, axis};
    static const struct vl_kv_geometry geo = {1, 1, HEAD_DIM, SLOTS, VL_F32, VL_F32, &rope};
    static const char *const options[] = {"window=8,full=2,step=2,least=16",
                                          "window=8,full=2,step=2,least=4"};
    const size_t plane = SLOTS * HEAD_DIM * sizeof(float);
    for (int o = 0; o < 2; o++) {
        struct test_exec e;
        struct vl_error err = {0, ""};
        const struct vl_kv_policy *policy = NULL;
        vl_auto(vl_kv_pool) pool = NULL;
        vl_auto(vl_kv) kv = NULL;
        uint16_t place[GRID][2];
        struct vl_kv_stats st;
        test_exec_open(&e, "cpu", 1 << 16);
        for (uint16_t i = 0; i < GRID; i++) {
            place[i][0] = i / SIDE;
            place[i][1] = i % SIDE;
        }
        assert_int_equal(vl_kv_policy_find(&policy, "visual_age", &err), 0);
        vl_auto(vl_params) p = params_of(policy, options[o]);
        assert_int_equal(vl_kv_pool_new(&pool, &e.x, &geo, 400 * plane, NULL, &err), 0);
        assert_int_equal(vl_kv_new(&kv, pool, policy, p, MAX_TOKENS, &err), 0);
        for (uint64_t unit = 1; unit <= 30; unit++) {
            const struct vl_kv_segment s = {.kind = VL_KV_VISUAL,
                                            .n = GRID,
                                            .unit = unit,
                                            .extent = GRID,
                                            .place = (const uint16_t(*)[2])place};
            uint32_t slot, gone;
            assert_int_equal(vl_kv_append(kv, &e.x, &s, &slot), 0);
            vl_kv_commit(kv);
            assert_int_equal(vl_kv_evict(kv, &e.x, 0, &gone), 0);
        }
        vl_kv_get_stats(kv, &st);
        assert_int_equal(st.n_visual, 2 * 64 + 2 * 32 + (o ? 2 * 16 + 2 * 8 : 4 * 16));
        assert_int_equal(st.bytes,
                         (2 * 4 + 2 * 2 + 4 * 1) * 2 * plane); /* of 8 * 4 pages when all are whole */
        kv = vl_kv_unref(kv);
        pool = vl_kv_pool_unref(pool);
        test_exec_close(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sink_window),        cmocka_unit_test(test_visual_age_schedule),
        cmocka_unit_test(test_visual_age_lattice), cmocka_unit_test(test_visual_age_reduced),
        cmocka_unit_test(test_memory_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
