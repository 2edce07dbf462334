/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The ukernels that take a row: norms, activations, rotation, conversion. */
#include "tests/checkkernel/checkkernel.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    LARGE_BENCH = 3072,
    RMS_NORM = 0,
    LAYER_NORM,
    GELU,
    SILU_MUL,
    ADD,
    ROTATE,
    WIDEN_F16,
    WIDEN_BF16,
    NARROW_F16,
    NARROW_BF16
};

static any_fn pick(const struct vl_ukernels *k, int which)
{
    switch (which) {
    case RMS_NORM:
        return (any_fn)k->norm.rms_norm;
    case LAYER_NORM:
        return (any_fn)k->norm.layer_norm;
    case GELU:
        return (any_fn)k->act.gelu;
    case SILU_MUL:
        return (any_fn)k->act.silu_mul;
    case ADD:
        return (any_fn)k->act.add;
    case ROTATE:
        return (any_fn)k->rope.rotate;
    case WIDEN_F16:
        return (any_fn)k->convert.widen_f16;
    case WIDEN_BF16:
        return (any_fn)k->convert.widen_bf16;
    case NARROW_F16:
        return (any_fn)k->convert.narrow_f16;
    default:
        return (any_fn)k->convert.narrow_bf16;
    }
}

/* dst of n, or 2 n for the rotation, from up to three inputs of n. */
static void call(int which, const struct vl_ukernels *k, void *dst, float *const in[3], size_t n)
{
    switch (which) {
    case RMS_NORM:
        k->norm.rms_norm(dst, in[0], in[1], n, 1e-6f);
        break;
    case LAYER_NORM:
        k->norm.layer_norm(dst, in[0], in[1], in[2], n, 1e-6f);
        break;
    case GELU:
        k->act.gelu(dst, in[0], n);
        break;
    case SILU_MUL:
        k->act.silu_mul(dst, in[0], in[1], n);
        break;
    case ADD:
        k->act.add(dst, in[0], in[1], n);
        break;
    case ROTATE:
        k->rope.rotate(dst, in[0], in[1], n);
        break;
    case WIDEN_F16:
        k->convert.widen_f16(dst, in[0], n);
        break;
    case WIDEN_BF16:
        k->convert.widen_bf16(dst, in[0], n);
        break;
    case NARROW_F16:
        k->convert.narrow_f16(dst, in[0], n);
        break;
    default:
        k->convert.narrow_bf16(dst, in[0], n);
        break;
    }
}

/* Element i's terms, so that what cancels is not held to the size of what is left. */
static double terms(int which, float *const in[3], const float *want, size_t i, size_t n)
{
    switch (which) {
    case LAYER_NORM: { /* of (x - mean) * scale, known from the result */
        double amax = 0, spread = 0, mean = 0;
        for (size_t j = 0; j < n; j++) {
            amax = fmax(amax, fabs((double)in[0][j]));
            mean += in[0][j] / (double)n;
        }
        for (size_t j = 0; j < n; j++)
            spread += (in[0][j] - mean) * (in[0][j] - mean) / (double)n;
        return fabs(in[1][i] * amax / sqrt(spread + 1e-6)) + fabs((double)in[2][i]) + fabs((double)want[i]);
    }
    case ADD:
        return fabs((double)in[0][i]) + fabs((double)in[1][i]);
    case GELU: /* far out the rounding of exp's argument is most of it */
        return fabs((double)want[i]) + fabs((double)in[0][i]) * 1e-6;
    case SILU_MUL: /* below exp's range the result is 0 instead of a last crumb */
        return fabs((double)want[i]) + fabs((double)in[1][i]) * 1e-30;
    default:
        return fabs((double)want[i]) + FLT_MIN;
    }
}

static void test_floats(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref)
{
    for (size_t li = 0; li < N_LENGTHS; li++)
        for (int kind = 0; kind < KIND_COUNT; kind++)
            for (int side = 0; side < 2; side++) {
                size_t n = check_lengths[li];
                float *in[3], *got = guard_alloc(n * sizeof(float), side);
                float *want = guard_alloc(n * sizeof(float), GUARD_BEHIND);
                for (int i = 0; i < 3; i++)
                    in[i] = guard_floats(n, side, i ? KIND_EVEN : kind, 1e15f);
                call(c->which, k, got, in, n);
                call(c->which, ref, want, in, n);
                for (size_t i = 0; i < n; i++)
                    expect_near(c, i, got[i], want[i], 1e-6 * terms(c->which, in, want, i, n) + FLT_MIN);
                if (c->which != ADD) { /* dst may be src */
                    call(c->which, k, in[0], in, n);
                    expect_same(c, in[0], got, n * sizeof(float));
                }
                guard_reset();
            }
}

static void test_rotate(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref)
{
    for (size_t li = 0; li < N_LENGTHS; li++)
        for (int kind = 0; kind < KIND_COUNT; kind++)
            for (int side = 0; side < 2; side++) {
                size_t n = check_lengths[li];
                float *in[3] = {guard_floats(n, side, KIND_EVEN, 1), guard_floats(n, side, KIND_EVEN, 1),
                                NULL};
                float *got = guard_floats(2 * n, side, kind, 1e15f);
                float *want = guard_alloc(2 * n * sizeof(float), side);
                float *x = guard_alloc(2 * n * sizeof(float), side);
                memcpy(want, got, 2 * n * sizeof(float));
                memcpy(x, got, 2 * n * sizeof(float));
                call(c->which, k, got, in, n);
                call(c->which, ref, want, in, n);
                for (size_t i = 0; i < 2 * n; i++)
                    expect_near(c, i, got[i], want[i],
                                5e-7 * (fabs((double)x[i % n]) + fabs((double)x[i % n + n])) + FLT_MIN);
                guard_reset();
            }
}

/* Conversions have one right answer: every 16-bit pattern, and floats of random bits. */
static void test_convert(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref)
{
    bool widens = c->which == WIDEN_F16 || c->which == WIDEN_BF16;
    size_t from = widens ? 2 : 4, to = 6 - from;
    for (int round = 0; round < 300; round++) {
        size_t n = round < 30 ? check_lengths[round / 2] : 2048;
        enum guard_side side = round % 2 ? GUARD_BEFORE : GUARD_BEHIND;
        unsigned char *src = guard_alloc(n * from, side), *got = guard_alloc(n * to, side);
        unsigned char *want = guard_alloc(n * to, side);
        float *in[3] = {(float *)src, NULL, NULL};
        for (size_t i = 0; i < n; i++) {
            uint64_t bits = round < 30 ? test_rand(&check_rng) >> 13 : 0;
            uint32_t u = (uint32_t)bits;
            if (round >= 30 && widens) /* all 65,536 of them, 8 times */
                u = (uint32_t)((size_t)(round - 30) * n + i);
            else if (round >= 30) /* exponents near the ends of f16 more often than chance has them */
                u = (uint32_t)(test_rand(&check_rng) >> 9) ^ (round % 3 ? 0x38000000u : 0);
            memcpy(src + i * from, &u, from);
        }
        call(c->which, k, got, in, n);
        call(c->which, ref, want, in, n);
        expect_same(c, got, want, n * to);
        guard_reset();
    }
}

struct bench_arg {
    int which;
    const struct vl_ukernels *k;
    float *in[3];
    float *dst;
};

static void bench_once(void *p)
{
    struct bench_arg *b = p;
    call(b->which, b->k, b->dst, b->in, b->which == ROTATE ? 32 : LARGE_BENCH);
}

static void bench(const struct check *c, const struct vl_ukernels *k, const char *level)
{
    static float in[3][LARGE_BENCH], dst[LARGE_BENCH];
    for (int i = 0; i < 3; i++)
        fill_floats(in[i], LARGE_BENCH, KIND_EVEN, 1);
    struct bench_arg b = {c->which, k, {in[0], in[1], in[2]}, dst};
    measure(c->name, level, bench_once, &b, c->which == ROTATE ? 64 : LARGE_BENCH, "elements/ns");
}

const struct check rows_checks[] = {
    {"rms_norm", pick, test_floats, bench, RMS_NORM},
    {"layer_norm", pick, test_floats, bench, LAYER_NORM},
    {"gelu", pick, test_floats, bench, GELU},
    {"silu_mul", pick, test_floats, bench, SILU_MUL},
    {"add", pick, test_floats, bench, ADD},
    {"rotate", pick, test_rotate, bench, ROTATE},
    {"widen_f16", pick, test_convert, bench, WIDEN_F16},
    {"widen_bf16", pick, test_convert, bench, WIDEN_BF16},
    {"narrow_f16", pick, test_convert, bench, NARROW_F16},
    {"narrow_bf16", pick, test_convert, bench, NARROW_BF16},
    {"", NULL, NULL, NULL, 0},
};
