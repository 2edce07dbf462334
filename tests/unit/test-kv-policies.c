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

/* ---- h2o ---- */

/* Attention by what a token is, so that it follows it wherever it goes: the diagonal of each picture, and the
 * first word of each unit. */
static float interest(const struct asked *a, uint32_t slot)
{
    const struct vl_kv_token *t = &a->tok[slot];
    bool first = slot == 0 || a->tok[slot - 1].unit != t->unit;
    return t->kind == VL_KV_VISUAL ? (t->y == t->x ? 0.5f : 0.01f) : first ? 0.4f : 0.02f;
}

static void look(struct asked *a)
{
    static float mass[MAX_TOKENS];
    for (uint32_t i = 0; i < a->n; i++)
        mass[i] = interest(a, i);
    a->policy->observe(a->state, mass, a->n);
}

/* obey, and the policy hears of it. */
static void obey_and_tell(struct asked *a, uint32_t n_wanted)
{
    static uint32_t kept[MAX_TOKENS];
    uint32_t before = a->n, gone = obey(a, n_wanted), n = 0;
    for (uint32_t i = 0, k = 0; i < before; i++) {
        if (k < gone && a->slot[k] == i)
            k++;
        else
            kept[n++] = i;
    }
    if (gone)
        a->policy->moved(a->state, kept, n);
}

static void test_h2o_keeps_heavy_hitters(void **state)
{
    (void)state;
    static struct asked a;
    open_policy(&a, "h2o", "window=12,visual_tokens=208,text_tokens=30,recent=2,half_life=4");
    for (uint64_t unit = 1; unit <= 30; unit++) {
        add_unit(&a, unit);
        look(&a);
        obey_and_tell(&a, 0);
    }
    uint32_t n_visual = 0, n_words = 0;
    for (uint64_t u = 1; u <= 30; u++) {
        uint32_t n = held(&a, u, VL_KV_VISUAL);
        n_visual += n;
        n_words += held(&a, u, VL_KV_TEXT);
        assert_int_equal(n, u > 28 ? GRID : u > 18 ? SIDE : 0); /* 2 * 64 + 10 * 8: the diagonals */
        for (uint32_t i = 0; i < a.n; i++)
            if (a.tok[i].unit == u && u <= 28 && a.tok[i].kind == VL_KV_VISUAL)
                assert_int_equal(a.tok[i].y, a.tok[i].x);
    }
    assert_int_equal(n_visual, 208);
    assert_int_equal(n_words, 30);
    for (uint64_t u = 12; u <= 28; u++) /* 2 * 6 and the heavy word of 18 more */
        assert_int_equal(held(&a, u, VL_KV_TEXT), 1);
    obey_and_tell(&a, 1); /* room: words of pictures that are gone, before any picture */
    assert_int_equal(held(&a, 19, VL_KV_VISUAL), SIDE);
    close_policy(&a);
}

/* What was dear fades when nobody looks any more; a sum would keep it. */
static void test_h2o_forgets(void **state)
{
    (void)state;
    static struct asked a;
    static float mass[MAX_TOKENS];
    open_policy(&a, "h2o", "window=4096,visual_tokens=64,recent=0,half_life=2");
    add_unit(&a, 1);
    add_unit(&a, 2);
    for (int frame = 0; frame < 12; frame++) {
        for (uint32_t i = 0; i < a.n; i++)
            mass[i] = a.tok[i].unit == (frame < 6 ? 1 : 2) ? 0.5f : 0;
        a.policy->observe(a.state, mass, a.n);
    }
    obey_and_tell(&a, 0);
    assert_int_equal(held(&a, 1, VL_KV_VISUAL), 0);
    assert_int_equal(held(&a, 2, VL_KV_VISUAL), GRID);
    close_policy(&a);
}

/* When pages run out, the picture with the least attention goes whole, not the oldest. */
static void test_h2o_gives_up_a_picture(void **state)
{
    (void)state;
    static struct asked a;
    static float mass[MAX_TOKENS];
    open_policy(&a, "h2o", "visual_tokens=10000,recent=1");
    for (uint64_t unit = 1; unit <= 4; unit++)
        add_unit(&a, unit);
    for (uint32_t i = 0; i < a.n; i++)
        mass[i] = a.tok[i].unit == 2 ? 0.1f : 0.2f;
    a.policy->observe(a.state, mass, a.n);
    obey_and_tell(&a, 1);
    for (uint64_t u = 1; u <= 4; u++)
        assert_int_equal(held(&a, u, VL_KV_VISUAL), u == 2 ? 0 : GRID);
    close_policy(&a);
}

/* ---- through the cache ---- */

static const size_t plane = SLOTS * HEAD_DIM * sizeof(float);

struct cache {
    struct test_exec e;
    struct vl_kv_pool *pool;
    struct vl_kv *kv;
};

static void open_cache(struct cache *c, const char *name, const char *options)
{
    static const double inv_freq[HEAD_DIM / 2] = {1};
    static const uint8_t axis[HEAD_DIM / 2];
    static const struct vl_rope rope = {HEAD_DIM / 2, inv_freq, axis};
    static const struct vl_kv_geometry geo = {1, 1, HEAD_DIM, SLOTS, VL_F32, VL_F32, &rope};
    const struct vl_kv_policy *policy = NULL;
    struct vl_error err = {0, ""};
    test_exec_open(&c->e, "cpu", 1 << 16);
    assert_int_equal(vl_kv_policy_find(&policy, name, &err), 0);
    vl_auto(vl_params) p = params_of(policy, options);
    assert_int_equal(vl_kv_pool_new(&c->pool, &c->e.x, &geo, 400 * plane, NULL, &err), 0);
    assert_int_equal(vl_kv_new(&c->kv, c->pool, policy, p, MAX_TOKENS, &err), 0);
}

static void close_cache(struct cache *c)
{
    c->kv = vl_kv_unref(c->kv);
    c->pool = vl_kv_pool_unref(c->pool);
    test_exec_close(&c->e);
}

static void put(struct cache *c, enum vl_kv_kind kind, uint64_t unit, uint32_t n)
{
    uint16_t place[GRID][2];
    uint32_t slot;
    struct vl_kv_segment s = {.kind = kind, .pinned = unit == 0, .n = n, .unit = unit, .extent = n};
    for (uint16_t i = 0; i < GRID; i++) {
        place[i][0] = i / SIDE;
        place[i][1] = i % SIDE;
    }
    if (kind == VL_KV_VISUAL)
        s.place = (const uint16_t(*)[2])place;
    assert_int_equal(vl_kv_append(c->kv, &c->e.x, &s, &slot), 0);
}

static void commit(struct cache *c)
{
    uint32_t gone;
    vl_kv_commit(c->kv);
    assert_int_equal(vl_kv_evict(c->kv, &c->e.x, 0, &gone), 0);
}

/* Pages that hold pictures: a quarter of a grid of four pages is one page, and less than a page frees no
 * more. */
static void test_memory_comes_back(void **state)
{
    (void)state;
    static const char *const options[] = {"window=8,full=2,step=2,least=16",
                                          "window=8,full=2,step=2,least=4"};
    for (int o = 0; o < 2; o++) {
        struct cache c = {.kv = NULL};
        struct vl_kv_stats st;
        open_cache(&c, "visual_age", options[o]);
        for (uint64_t unit = 1; unit <= 30; unit++) {
            put(&c, VL_KV_VISUAL, unit, GRID);
            commit(&c);
        }
        vl_kv_get_stats(c.kv, &st);
        assert_int_equal(st.n_visual, 2 * 64 + 2 * 32 + (o ? 2 * 16 + 2 * 8 : 4 * 16));
        assert_int_equal(st.bytes,
                         (2 * 4 + 2 * 2 + 4 * 1) * 2 * plane); /* of 8 * 4 pages when all are whole */
        close_cache(&c);
    }
}

static void observe(struct cache *c, uint64_t seed)
{
    static float mass[MAX_TOKENS];
    struct test_rng rng = {seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
    uint32_t n = vl_kv_n_tokens(c->kv);
    for (uint32_t i = 0; i < n; i++)
        mass[i] = (float)test_randn(&rng, 1000) / 1000;
    vl_kv_observe(c->kv, mass, 1, n, 1);
}

static void one_unit(struct cache *c, uint64_t unit, bool undone_first)
{
    for (int again = undone_first; again >= 0; again--) {
        put(c, VL_KV_TEXT, unit, WORDS);
        put(c, VL_KV_VISUAL, unit, GRID);
        put(c, VL_KV_TEXT, unit, 2);
        observe(c, again ? ~unit : unit);
        put(c, VL_KV_TEXT, unit, 3); /* said after the last look */
        if (again)
            assert_int_equal(vl_kv_truncate(c->kv, vl_kv_n_committed(c->kv)), 0);
    }
    commit(c);
}

static void same_tokens(const struct cache *a, const struct cache *b)
{
    uint32_t n = vl_kv_n_tokens(a->kv);
    assert_int_equal(n, vl_kv_n_tokens(b->kv));
    const int64_t(*p)[3] = vl_kv_positions(a->kv, 0), (*q)[3] = vl_kv_positions(b->kv, 0);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(p[i][0] - p[0][0], q[i][0] - q[0][0]);
}

/* Frames that were looked at and then undone leave no trace, and a sequence that starts anew behind its sink
 * is as a new one. */
static void test_h2o_through_the_cache(void **state)
{
    (void)state;
    static const char options[] = "window=12,visual_tokens=200,text_tokens=60,recent=1";
    struct cache c[3] = {{.kv = NULL}};
    for (int k = 0; k < 3; k++) {
        open_cache(&c[k], "h2o", options);
        assert_int_equal(vl_kv_probes(c[k].kv), 2);
        put(&c[k], VL_KV_TEXT, 0, SINK);
        vl_kv_commit(c[k].kv);
    }
    for (uint64_t unit = 1; unit <= 9; unit++)
        one_unit(&c[2], 100 + unit, false); /* another past */
    assert_int_equal(vl_kv_truncate(c[2].kv, SINK), 0);
    uint32_t slot;
    struct vl_kv_segment later = {.kind = VL_KV_TEXT, .n = 1, .unit = 1, .extent = 1};
    assert_int_equal(vl_kv_append(c[2].kv, &c[2].e.x, &later, &slot), 0); /* units may start anew, too */
    assert_int_equal(vl_kv_truncate(c[2].kv, SINK), 0);
    for (uint64_t unit = 1; unit <= 25; unit++) {
        for (int k = 0; k < 3; k++)
            one_unit(&c[k], unit, k == 1 && unit % 3 == 0);
        same_tokens(&c[0], &c[1]);
        same_tokens(&c[0], &c[2]);
    }
    struct vl_kv_stats st;
    vl_kv_get_stats(c[0].kv, &st);
    assert_int_equal(st.n_visual, 200);
    assert_int_equal(st.n_text, SINK + 60);
    for (int k = 0; k < 3; k++)
        close_cache(&c[k]);
}

/* Room for the next picture is made by the oldest one, of every policy, and costs no word. */
static void test_the_oldest_picture_alone_leaves(void **state)
{
    (void)state;
    for (int k = 0; vl_kv_policies[k]; k++) {
        struct cache c = {.kv = NULL};
        struct vl_kv_units held;
        struct vl_kv_stats before, after;
        uint32_t gone = 7;
        open_cache(&c, vl_kv_policies[k]->name, "window=3,text_tokens=100");
        put(&c, VL_KV_TEXT, 0, SINK);
        commit(&c);
        assert_int_equal(vl_kv_evict_picture(c.kv, &c.e.x, &gone), 0);
        assert_int_equal(gone, 0);
        for (uint64_t unit = 1; unit <= 9; unit++) {
            put(&c, VL_KV_TEXT, unit, WORDS);
            put(&c, VL_KV_VISUAL, unit, GRID);
            commit(&c);
        }
        vl_kv_get_stats(c.kv, &before);
        assert_int_equal(vl_kv_evict_picture(c.kv, &c.e.x, &gone), 0);
        vl_kv_get_stats(c.kv, &after);
        vl_kv_units(c.kv, VL_KV_VISUAL, &held);
        assert_int_equal(held.n, 2);
        assert_true(gone > 0 && gone == before.n_visual - after.n_visual);
        assert_true(after.n_text == before.n_text && after.n_text == SINK + 9 * WORDS);
        close_cache(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_oldest_picture_alone_leaves),
        cmocka_unit_test(test_sink_window),
        cmocka_unit_test(test_visual_age_schedule),
        cmocka_unit_test(test_visual_age_lattice),
        cmocka_unit_test(test_visual_age_reduced),
        cmocka_unit_test(test_h2o_keeps_heavy_hitters),
        cmocka_unit_test(test_h2o_forgets),
        cmocka_unit_test(test_h2o_gives_up_a_picture),
        cmocka_unit_test(test_h2o_through_the_cache),
        cmocka_unit_test(test_memory_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
