/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Every registered KV policy keeps the contract in kvcache/policy.h, on random sequences of tokens and with
 * options drawn from its own description. A new policy needs no test here. */
#include "kvcache/policy.h"
#include "tests/harness.h"

#include <string.h>

enum { MAX_N = 300, ROUNDS = 2000, LAYERS = 4 };

struct case_of {
    const struct vl_kv_policy *policy;
    struct vl_params *params;
    void *state;
    struct vl_kv_token tok[MAX_N];
    uint32_t n, n_free; /* n_free: not pinned */
};

/* Pinned text, then units of words and pictures in any order; now and then pinned ones among them. */
static void draw_tokens(struct case_of *c, struct test_rng *rng)
{
    uint64_t unit = 0;
    uint32_t n_sink = test_randn(rng, 20);
    c->n = test_randn(rng, 10) == 0 ? 0 : test_randn(rng, MAX_N);
    c->n_free = c->n;
    for (uint32_t i = 0, run = 0; i<c->n; i++, run -= run> 0) {
        bool sink = i < n_sink;
        if (run == 0) {
            run = 1 + test_randn(rng, 12);
            unit += test_randn(rng, 2) * (1 + test_randn(rng, 3));
            c->tok[i] = (struct vl_kv_token){.kind = (uint8_t)(sink ? VL_KV_TEXT : test_randn(rng, 2)),
                                             .pinned = sink || test_randn(rng, 20) == 0};
        } else {
            c->tok[i] = c->tok[i - 1];
        }
        c->tok[i].unit = unit;
        c->tok[i].y = (uint16_t)test_randn(rng, 6);
        c->tok[i].x = (uint16_t)test_randn(rng, 6);
        c->tok[i].pinned |= sink;
        c->n_free -= c->tok[i].pinned;
    }
}

static void open_case(struct case_of *c, const struct vl_kv_policy *policy, struct test_rng *rng)
{
    struct vl_error err = {0, ""};
    memset(c, 0, sizeof(*c));
    c->policy = policy;
    assert_int_equal(vl_params_new(&c->params), 0);
    for (const struct vl_param_desc *d = policy->params; d->key; d++) {
        if (d->min > d->max || test_randn(rng, 2) == 0)
            continue;
        static const double small[] = {0, 1, 2, 5, 40};
        double v = small[test_randn(rng, 5)];
        v = v < d->min ? d->min : v > d->max ? d->max : v;
        assert_int_equal(vl_params_set_f64(c->params, d->key, v), 0);
    }
    if (vl_params_check(c->params, policy->params, &err) < 0)
        fail_msg("%s: %s", policy->name, err.msg);
    size_t size = policy->state_size(c->params, MAX_N, LAYERS);
    c->state = calloc(1, size + 1);
    assert_non_null(c->state);
    if (policy->init(c->state, c->params, &err) < 0)
        fail_msg("%s: %s", policy->name, err.msg);
    draw_tokens(c, rng);
}

static void close_case(struct case_of *c)
{
    c->params = vl_params_unref(c->params);
    free(c->state);
}

/* Asks, checks the form of the answer, and returns its length. */
static uint32_t ask(const struct case_of *c, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                    uint32_t *slots)
{
    uint32_t m = 0;
    slots[n] = 0xdecade;
    assert_int_equal(c->policy->pick(c->state, tok, n, n_wanted, slots, &m), 0);
    assert_true(m <= n);
    assert_int_equal(slots[n], 0xdecade);
    for (uint32_t i = 0; i < m; i++) {
        assert_true(slots[i] < n);
        assert_true(i == 0 || slots[i] > slots[i - 1]);
        assert_false(tok[slots[i]].pinned);
    }
    return m;
}

static bool names(const uint32_t *slots, uint32_t n, uint32_t slot)
{
    for (uint32_t i = 0; i < n; i++)
        if (slots[i] == slot)
            return true;
    return false;
}

static void check_case(const struct case_of *c, struct test_rng *rng)
{
    static uint32_t own[MAX_N + 1], more[MAX_N + 1], again[MAX_N + 1];
    static struct vl_kv_token rest[MAX_N];
    uint32_t n_own = ask(c, c->tok, c->n, 0, own), n_rest = 0;
    uint32_t n_wanted = 1 + test_randn(rng, c->n + 5), n_more = ask(c, c->tok, c->n, n_wanted, more);
    assert_true(n_more >= n_wanted || n_more == c->n_free);
    for (uint32_t i = 0; i < n_own; i++)
        assert_true(names(more, n_more, own[i]));

    for (uint32_t i = 0; i < c->n; i++)
        if (!names(own, n_own, i))
            rest[n_rest++] = c->tok[i];
    assert_int_equal(ask(c, rest, n_rest, 0, again), 0);

    /* truncate and re-append: a shorter question in between changes nothing */
    (void)ask(c, c->tok, test_randn(rng, c->n + 1), n_wanted, again);
    assert_int_equal(ask(c, c->tok, c->n, n_wanted, again), n_more);
    assert_memory_equal(more, again, n_more * sizeof(*more));
}

static void test_contract(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("kv policies");
    for (int p = 0; vl_kv_policies[p]; p++)
        for (int round = 0; round < ROUNDS; round++) {
            struct case_of c;
            open_case(&c, vl_kv_policies[p], &rng);
            check_case(&c, &rng);
            close_case(&c);
        }
}

static void test_names(void **state)
{
    (void)state;
    struct vl_error err = {0, ""};
    const struct vl_kv_policy *found = NULL;
    for (int p = 0; vl_kv_policies[p]; p++) {
        assert_true(vl_kv_policies[p]->name && vl_kv_policies[p]->paper && vl_kv_policies[p]->params);
        assert_int_equal(vl_kv_policy_find(&found, vl_kv_policies[p]->name, &err), 0);
        assert_ptr_equal(found, vl_kv_policies[p]);
    }
    assert_int_equal(vl_kv_policy_find(&found, "sink_windwo", &err), -EINVAL);
    assert_non_null(strstr(err.msg, "did you mean 'sink_window'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
