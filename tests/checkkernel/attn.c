/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The attention ukernels: turning a tile of keys, one step of the streamed softmax over it, and what its keys
 * receive. */
#include "tests/checkkernel/checkkernel.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { TURN = 0, TILE, MASS };

static any_fn pick(const struct vl_ukernels *k, int which)
{
    return which == TURN ? (any_fn)k->attn.turn : which == TILE ? (any_fn)k->attn.tile : (any_fn)k->attn.mass;
}

static void test_turn(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref)
{
    for (size_t n_keys = 1; n_keys <= VL_ATTN_KEYS; n_keys += n_keys < 10 ? 1 : 9)
        for (size_t li = 0; li < N_LENGTHS; li++)
            for (int side = 0; side < 2; side++) {
                size_t d = check_lengths[li] % VL_ATTN_HEAD_DIM, size = d * VL_ATTN_KEYS * sizeof(float);
                size_t lds = d + li % 3;
                float *src = guard_floats(n_keys * lds - li % 3, (enum guard_side)side, KIND_EVEN, 1);
                float *got = guard_alloc(size, (enum guard_side)side),
                      *want = guard_alloc(size, GUARD_BEHIND);
                k->attn.turn(got, src, lds, n_keys, d);
                ref->attn.turn(want, src, lds, n_keys, d);
                expect_same(c, got, want, size);
                guard_reset();
            }
}

/* A state that has seen keys, or has not. */
static void fill_state(struct vl_attn_tile *t, const struct vl_attn_tile *same)
{
    size_t n = t->n_rows;
    if (same) {
        memcpy(t->m, same->m, n * sizeof(float));
        memcpy(t->l, same->l, n * sizeof(float));
        memcpy(t->o, same->o, n * t->d * sizeof(float));
        return;
    }
    fill_floats(t->o, n * t->d, KIND_EVEN, 1);
    for (size_t r = 0; r < n; r++) {
        bool empty = test_randn(&check_rng, 3) == 0;
        t->m[r] = empty ? -INFINITY : test_randf(&check_rng) * 5;
        t->l[r] = empty ? 0 : 1 + test_randf(&check_rng);
        if (empty)
            memset(t->o + r * t->d, 0, t->d * sizeof(float));
    }
}

static struct vl_attn_tile make(size_t n_rows, size_t n_keys, size_t d, enum kind kind, enum guard_side side)
{
    float *kt = guard_floats(d * VL_ATTN_KEYS, side, kind, 30),
          *bias = guard_floats(n_keys, side, KIND_EVEN, 1);
    uint32_t(*seen)[2] = guard_alloc(n_rows * sizeof(*seen), side);
    for (size_t r = 0; r < n_rows; r++) {
        seen[r][0] = test_randn(&check_rng, 2) ? 0 : test_randn(&check_rng, (uint32_t)n_keys + 1);
        seen[r][1] = test_randn(&check_rng, 2)
                         ? (uint32_t)n_keys
                         : seen[r][0] + test_randn(&check_rng, (uint32_t)n_keys - seen[r][0] + 1);
    }
    if (n_keys > 2)
        bias[1] = -INFINITY;
    return (struct vl_attn_tile){
        .q = guard_floats(n_rows * d, side, KIND_EVEN, 1),
        .kt = kt,
        .v = guard_floats(n_keys * d, side, kind, 1e15f),
        .bias = test_randn(&check_rng, 2) ? bias : NULL,
        .seen = (const uint32_t(*)[2])seen,
        .m = guard_alloc(n_rows * sizeof(float), side),
        .l = guard_alloc(n_rows * sizeof(float), side),
        .o = guard_alloc(n_rows * d * sizeof(float), side),
        .n_rows = n_rows,
        .n_keys = n_keys,
        .d = d,
    };
}

/* Terms of row r: logits carry their sum's rounding into the exponent, so the bound grows with them. */
static double logit_error(const struct vl_attn_tile *t, size_t r)
{
    double worst = 1;
    for (size_t j = t->seen[r][0]; j < t->seen[r][1]; j++) {
        double sum = 1;
        for (size_t i = 0; i < t->d; i++)
            sum += fabs((double)t->q[r * t->d + i] * t->kt[i * VL_ATTN_KEYS + j]);
        worst = fmax(worst, sum);
    }
    return 0x1p-24 * (4 + 2 * sqrt((double)t->d)) * worst;
}

static void compare(const struct check *c, const struct vl_attn_tile *got, const struct vl_attn_tile *want,
                    const struct vl_attn_tile *before)
{
    for (size_t r = 0; r < got->n_rows; r++) {
        double e = logit_error(got, r), shift = exp((double)got->m[r] - want->m[r]);
        if (want->m[r] == -INFINITY) {
            expect_near(c, r, got->m[r], want->m[r], 0);
            expect_near(c, r, got->l[r], want->l[r], 0);
            expect_same(c, got->o + r * got->d, want->o + r * got->d, got->d * sizeof(float));
            continue;
        }
        expect_near(c, r, got->m[r], want->m[r], e);
        expect_near(c, r, got->l[r] * shift, want->l[r], 4 * e * want->l[r]);
        for (size_t i = 0; i < got->d; i++) {
            double size = fabs((double)before->o[r * got->d + i]);
            for (size_t j = got->seen[r][0]; j < got->seen[r][1]; j++)
                size += fabs((double)got->v[j * got->d + i]);
            expect_near(c, r * got->d + i, got->o[r * got->d + i] * shift, want->o[r * got->d + i],
                        4 * e * size + FLT_MIN);
        }
    }
}

static void test_tile(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref)
{
    static const size_t rows[] = {1, 2, 3, 4, 5, 6, 7, 11, 13, VL_ATTN_ROWS};
    for (int round = 0; round < 400; round++) {
        size_t d = check_lengths[test_randn(&check_rng, N_LENGTHS - 1)];
        size_t n_keys = 1 + test_randn(&check_rng, VL_ATTN_KEYS), n_rows = rows[round % 10];
        enum guard_side side = round % 2 ? GUARD_BEFORE : GUARD_BEHIND;
        struct vl_attn_tile t = make(n_rows, n_keys, d, (enum kind)(round % KIND_COUNT), side), u = t,
                            before = t;
        u.m = guard_alloc(n_rows * sizeof(float), side);
        u.l = guard_alloc(n_rows * sizeof(float), side);
        u.o = guard_alloc(n_rows * d * sizeof(float), side);
        before.m = guard_alloc(n_rows * sizeof(float), side);
        before.l = guard_alloc(n_rows * sizeof(float), side);
        before.o = guard_alloc(n_rows * d * sizeof(float), side);
        fill_state(&t, NULL);
        fill_state(&u, &t);
        fill_state(&before, &t);
        k->attn.tile(&t);
        ref->attn.tile(&u);
        compare(c, &t, &u, &before);
        struct vl_attn_tile bare = before; /* without values the state moves the same way */
        float bare_m[VL_ATTN_ROWS], bare_l[VL_ATTN_ROWS];
        bare.m = memcpy(bare_m, before.m, n_rows * sizeof(float));
        bare.l = memcpy(bare_l, before.l, n_rows * sizeof(float));
        bare.v = bare.o = NULL;
        k->attn.tile(&bare);
        expect_same(c, t.m, bare.m, n_rows * sizeof(float));
        expect_same(c, t.l, bare.l, n_rows * sizeof(float));
        for (size_t r = 0; r < n_rows; r++) { /* alone it comes out with the same bits */
            struct vl_attn_tile one = before;
            one.n_rows = 1;
            one.q += r * d;
            one.seen += r;
            one.m += r;
            one.l += r;
            one.o += r * d;
            k->attn.tile(&one);
            expect_same(c, t.o + r * d, one.o, d * sizeof(float));
            expect_same(c, t.l + r, one.l, sizeof(float));
        }
        guard_reset();
    }
}

/* Of rows whose whole context is this tile. */
static void test_mass(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref)
{
    static const size_t rows[] = {1, 2, 3, 5, 6, 7, 12, 13, 40, VL_ATTN_ROWS};
    for (int round = 0; round < 300; round++) {
        size_t d = check_lengths[test_randn(&check_rng, N_LENGTHS - 1)];
        size_t n_keys = 1 + test_randn(&check_rng, VL_ATTN_KEYS), n_rows = rows[round % 10];
        enum guard_side side = round % 2 ? GUARD_BEFORE : GUARD_BEHIND;
        struct vl_attn_tile t = make(n_rows, n_keys, d, (enum kind)(round % KIND_COUNT), side);
        float *got = guard_floats(n_keys, side, KIND_EVEN, 1),
              *want = guard_floats(n_keys, side, KIND_EVEN, 1);
        memcpy(want, got, n_keys * sizeof(*got));
        t.v = t.o = NULL;
        double e = 0x1p-24;
        for (size_t r = 0; r < n_rows; r++) {
            t.m[r] = -INFINITY;
            t.l[r] = 0;
            e += 4 * logit_error(&t, r);
        }
        ref->attn.tile(&t);
        k->attn.mass(got, &t);
        ref->attn.mass(want, &t);
        for (size_t j = 0; j < n_keys; j++)
            expect_near(c, j, got[j], want[j], e);
        guard_reset();
    }
}

struct bench_arg {
    const struct vl_ukernels *k;
    struct vl_attn_tile t;
    float *src, *mass;
};

static void turn_once(void *p)
{
    struct bench_arg *b = p;
    b->k->attn.turn((float *)b->t.kt, b->src, b->t.d, b->t.n_keys, b->t.d);
}

static void tile_once(void *p)
{
    struct bench_arg *b = p;
    b->k->attn.tile(&b->t);
}

static void mass_once(void *p)
{
    struct bench_arg *b = p;
    b->k->attn.mass(b->mass, &b->t);
}

static void bench(const struct check *c, const struct vl_ukernels *k, const char *level)
{
    struct bench_arg b = {k, make(VL_ATTN_ROWS, VL_ATTN_KEYS, 64, KIND_EVEN, GUARD_BEHIND), NULL, NULL};
    b.src = guard_floats((size_t)VL_ATTN_KEYS * 64, GUARD_BEHIND, KIND_EVEN, 1);
    uint32_t(*seen)[2] = guard_alloc(VL_ATTN_ROWS * sizeof(*seen), GUARD_BEHIND);
    for (int r = 0; r < VL_ATTN_ROWS; r++) {
        seen[r][0] = 0;
        seen[r][1] = VL_ATTN_KEYS;
    }
    b.t.seen = (const uint32_t(*)[2])seen;
    b.t.bias = NULL;
    fill_state(&b.t, NULL);
    b.mass = guard_floats(VL_ATTN_KEYS, GUARD_BEHIND, KIND_EVEN, 1);
    if (c->which == TURN)
        measure(c->name, level, turn_once, &b, VL_ATTN_KEYS * 64, "elements/ns");
    else if (c->which == MASS)
        measure(c->name, level, mass_once, &b, 2.0 * VL_ATTN_ROWS * VL_ATTN_KEYS * 64, "FLOP/ns");
    else
        measure(c->name, level, tile_once, &b, 4.0 * VL_ATTN_ROWS * VL_ATTN_KEYS * 64, "FLOP/ns");
    guard_reset();
}

const struct check attn_checks[] = {
    {"attn_turn", pick, test_turn, bench, TURN},
    {"attn_tile", pick, test_tile, bench, TILE},
    {"attn_mass", pick, test_mass, bench, MASS},
    {"", NULL, NULL, NULL, 0},
};
