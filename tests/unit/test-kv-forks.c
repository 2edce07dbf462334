/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Forks of a sequence: what they see and what stays theirs, and tokens that a fork's layers see no more. */
#include "tests/unit/kv_fixture.h"

static void test_forks(void **state)
{
    (void)state;
    const struct vl_kv_reserve forks = {2, 40, 16};
    struct fixture f;
    open_fixture(&f, "cpu", VL_F32, axis_1d, 80, &forks);
    vl_auto(vl_kv) kv = new_kv(&f, 2, 64);
    vl_auto(vl_kv) twin = new_kv(&f, 2, 64);
    vl_auto(vl_kv) one = NULL;
    vl_auto(vl_kv) two = NULL;
    struct vl_kv *three = NULL;
    struct vl_kv_pool_stats st;
    uint32_t n = 1;
    for (uint64_t unit = 0; unit < 4; unit++)
        for (int k = 0; k < 2; k++) {
            assert_int_equal(add(&f, k ? twin : kv, VL_KV_TEXT, unit, 5, 100 * unit + 1, 0), 0);
            if (unit > 0)
                assert_int_equal(add(&f, k ? twin : kv, VL_KV_VISUAL, unit, 8, 100 * unit + 6, 0), 0);
            (void)evict(&f, k ? twin : kv);
        }
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 9, 3, 5000, 0), 0); /* not committed: a fork does not see it */
    vl_kv_pool_get_stats(f.pool, &st);
    assert_int_equal(st.n_forks_left, 2);
    assert_int_equal(vl_kv_fork(&one, kv, 20), 0);
    same_bits(one, twin);
    assert_int_equal(vl_kv_fork(&two, kv, 20), 0);
    assert_int_equal(vl_kv_fork(&three, kv, 20), VL_KV_FULL);
    assert_int_equal(add(&f, one, VL_KV_TEXT, 9, 15, 6000, 0), 0);
    assert_int_equal(add(&f, two, VL_KV_TEXT, 9, 20, 7000, 0), 0);
    assert_int_equal(add(&f, two, VL_KV_TEXT, 9, 1, 8000, 0), VL_KV_FULL); /* its max_more */
    assert_int_equal(vl_kv_truncate(kv, vl_kv_n_tokens(twin)), 0);
    same_bits(kv, twin);
    vl_kv_commit(one);
    assert_int_equal(vl_kv_evict(one, &f.e.x, 100, &n), 0);
    assert_int_equal(n, 0);
    /* the parent goes on, slides, and ends before its forks */
    for (uint64_t unit = 10; unit < 13; unit++)
        for (int k = 0; k < 2; k++) {
            assert_int_equal(add(&f, k ? twin : kv, VL_KV_VISUAL, unit, 8, 100 * unit, 0), 0);
            (void)evict(&f, k ? twin : kv);
        }
    same_bits(kv, twin);
    kv = vl_kv_unref(kv);
    uint32_t first = vl_kv_n_tokens(one) - 15;
    for (uint32_t i = 0; i < 15; i++) {
        float v[WIDTH];
        fill(v, 6000 + i, 1, 1);
        assert_memory_equal(v, row_at(one, 1, 1, first + i), sizeof(v));
        assert_memory_equal(row_at(one, 0, 0, i % first), row_at(two, 0, 0, i % first), sizeof(v));
    }
    one = vl_kv_unref(one);
    two = vl_kv_unref(two);
    twin = vl_kv_unref(twin);
    close_fixture(&f);
}

/* Slots of fork that layer 1 is to see, against its view; rows: what they held before. */
static void check_seen(struct vl_kv *fork, const bool *hidden, float (*rows)[2][WIDTH], uint32_t n_rows)
{
    static struct vl_kv_visual seen[MAX_TOKENS];
    struct vl_kv_view view;
    uint32_t n_all = vl_kv_n_tokens(fork), n = 0, n_visual = 0;
    for (uint32_t slot = 0; slot < n_all; slot++) {
        assert_int_equal(vl_kv_sees(fork, 1, slot), !hidden[slot]);
        if (hidden[slot])
            continue;
        for (unsigned which = 0; which < 2 && slot < n_rows; which++)
            assert_memory_equal(row_at(fork, 1, which, n), rows[slot][which], sizeof(rows[slot][which]));
        n++;
    }
    assert_int_equal(vl_kv_view(fork, 1, &view), 0);
    assert_int_equal(view.n_tokens, n);
    n_visual = vl_kv_visual(fork, 1, seen);
    for (uint32_t i = 0; i < n_visual; i++)
        assert_true(!hidden[seen[i].slot] && seen[i].at < n && (i == 0 || seen[i].at > seen[i - 1].at));
    assert_int_equal(vl_kv_view(fork, 0, &view), 0);
    assert_int_equal(view.n_tokens, n_all);
}

/* A layer of a fork stops seeing tokens; its values stand closer together, and nobody else notices. */
static void test_drop(void **state)
{
    (void)state;
    const struct vl_kv_reserve forks = {2, 40, 40};
    struct fixture f;
    bool hidden[MAX_TOKENS] = {false};
    uint32_t slots[MAX_TOKENS], n = 0;
    float v[WIDTH];
    static float rows[MAX_TOKENS][2][WIDTH];
    open_fixture(&f, "cpu", VL_F32, axis_1d, 80, &forks);
    vl_auto(vl_kv) kv = new_kv(&f, 4, 64);
    vl_auto(vl_kv) twin = new_kv(&f, 4, 64);
    vl_auto(vl_kv) fork = NULL;
    for (uint64_t unit = 0; unit < 4; unit++)
        for (int k = 0; k < 2; k++) {
            assert_int_equal(add(&f, k ? twin : kv, VL_KV_TEXT, unit, 5, 100 * unit, 0), 0);
            if (unit > 0)
                assert_int_equal(add(&f, k ? twin : kv, VL_KV_VISUAL, unit, 11, 100 * unit + 5, 0), 0);
            (void)evict(&f, k ? twin : kv);
        }
    assert_int_equal(vl_kv_fork(&fork, kv, 40), 0);
    const uint32_t n_before = vl_kv_n_tokens(fork);
    assert_int_equal(add(&f, fork, VL_KV_TEXT, 9, 3, 5000, 0), 0);
    static struct vl_kv_visual seen[MAX_TOKENS];
    uint32_t n_visual = vl_kv_visual(fork, 1, seen);
    assert_int_equal(n_visual, 33);
    for (uint32_t slot = 0; slot < n_before + 3; slot++)
        for (unsigned which = 0; which < 2; which++)
            memcpy(rows[slot][which], row_at(fork, 1, which, slot), sizeof(v));
    for (int round = 0; round < 2; round++) {
        for (n = 0; n < n_visual; n++)
            if (test_randn(&f.rng, 3) == 0)
                hidden[slots[n] = seen[n].slot] = true;
            else
                slots[n] = seen[0].slot; /* again and again */
        hidden[seen[0].slot] = true;
        assert_int_equal(vl_kv_drop(fork, 1, 2, slots, n), 0);
        check_seen(fork, hidden, rows, n_before + 1);
    }
    assert_int_equal(vl_kv_drop(fork, 1, 2, slots, n), 0);
    assert_int_equal(vl_kv_drop(kv, 1, 2, slots, n), -EINVAL);
    assert_int_equal(vl_kv_drop(fork, 1, LAYERS + 1, slots, n), -EINVAL);
    slots[0] = n_before; /* the question's own, and text */
    assert_int_equal(vl_kv_drop(fork, 1, 2, slots, 1), -EINVAL);
    slots[0] = 0;
    assert_int_equal(vl_kv_drop(fork, 1, 2, slots, 1), -EINVAL);
    /* it goes on: across pages, and back */
    assert_int_equal(add(&f, fork, VL_KV_TEXT, 9, 17, 6000, 0), 0);
    check_seen(fork, hidden, rows, n_before + 1);
    uint32_t n_seen = 0;
    for (uint32_t slot = 0; slot < vl_kv_n_tokens(fork); slot++)
        n_seen += !hidden[slot];
    fill(v, 6016, 1, 1);
    assert_memory_equal(row_at(fork, 1, 1, n_seen - 1), v, sizeof(v));
    assert_int_equal(vl_kv_truncate(fork, n_before + 1), 0);
    check_seen(fork, hidden, rows, n_before + 1);
    same_bits(kv, twin);
    for (uint64_t unit = 10; unit < 14; unit++)
        for (int k = 0; k < 2; k++) {
            assert_int_equal(add(&f, k ? twin : kv, VL_KV_VISUAL, unit, 8, 100 * unit, 0), 0);
            (void)evict(&f, k ? twin : kv);
        }
    same_bits(kv, twin);
    check_seen(fork, hidden, rows, n_before + 1);
    memset(hidden + 30, 0, sizeof(hidden) - 30 * sizeof(hidden[0]));
    assert_int_equal(vl_kv_truncate(fork, 30), 0);
    check_seen(fork, hidden, rows, 30);
    fork = vl_kv_unref(fork);
    twin = vl_kv_unref(twin);
    kv = vl_kv_unref(kv);
    close_fixture(&f);
}

static int pick_the_first(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                          uint32_t *ret_slots, uint32_t *ret_n)
{
    (void)state;
    (void)tok;
    (void)n_wanted;
    ret_slots[0] = 0;
    *ret_n = n > 0;
    return 0;
}

static size_t no_state(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers)
{
    (void)p;
    (void)max_tokens;
    (void)n_layers;
    return 1;
}

static int no_init(void *state, const struct vl_params *p, struct vl_error *err)
{
    (void)state;
    (void)p;
    (void)err;
    return 0;
}

/* A picture of four pages loses its first token: the three pages behind move up, and a fork holds them all.
 */
static void test_a_torn_picture_counts_whole(void **state)
{
    (void)state;
    static const struct vl_param_desc none[] = {{NULL, NULL, 0, 0, 0}};
    static const struct vl_kv_policy policy = {
        .name = "first", .params = none, .state_size = no_state, .init = no_init, .pick = pick_the_first};
    static const struct vl_kv_reserve forks = {.max_forks = 1, .max_text = 1};
    const size_t plane = (size_t)LAYERS * SLOTS * WIDTH * 4;
    for (size_t n_planes = 14; n_planes < 24; n_planes++) {
        struct fixture f;
        struct vl_error err = {0, ""};
        struct vl_kv *kv = NULL, *fork = NULL;
        uint32_t gone = 0;
        open_fixture(&f, "cpu", VL_F32, axis_1d, 10, &forks);
        f.pool = vl_kv_pool_unref(f.pool);
        if (vl_kv_pool_new(&f.pool, &f.e.x, &f.geo, n_planes * plane, &forks, &err) < 0 ||
            vl_kv_new(&kv, f.pool, &policy, NULL, MAX_TOKENS, &err) < 0)
            fail_msg("%s", err.msg);
        if (add(&f, kv, VL_KV_VISUAL, 1, 4 * SLOTS, 100, 0) == 0) {
            vl_kv_commit(kv);
            assert_int_equal(vl_kv_fork(&fork, kv, 1), 0);
            assert_int_equal(add(&f, fork, VL_KV_TEXT, 2, 1, 500, 0), 0);
            int r = vl_kv_evict(kv, &f.e.x, 0, &gone);
            assert_true(r == VL_KV_BUSY || (r == 0 && gone == 1 && vl_kv_n_tokens(kv) == 4 * SLOTS - 1));
        }
        fork = vl_kv_unref(fork);
        kv = vl_kv_unref(kv);
        close_fixture(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_torn_picture_counts_whole),
        cmocka_unit_test(test_forks),
        cmocka_unit_test(test_drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
