/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Every stored format of kernels/quant/formats.def keeps what its row promises: the round trip within
 * max_nmse, blocks that do not reach into each other, no NaN out of finite scales, and bytes as ggml has
 * them. */
#include "kernels/dtype.h"
#include "kernels/quant/quant.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>

enum { MAX_N = 1024 };

static void test_rows(void **state)
{
    (void)state;
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        assert_non_null(f->name);
        assert_non_null(f->unpack_row);
        assert_true(f->block_len > 0 && f->block_bytes > 0 && MAX_N % f->block_len == 0);
        assert_true(f->packs_to < VL_LAYOUT_COUNT);
        assert_int_equal(vl_dtype_row_bytes((enum vl_dtype)t, 3 * f->block_len), 3 * f->block_bytes);
        for (int u = 0; u < t; u++) {
            assert_string_not_equal(f->name, vl_dtype_info((enum vl_dtype)u)->name);
            if (f->gguf_id != UINT32_MAX)
                assert_int_not_equal(f->gguf_id, vl_dtype_info((enum vl_dtype)u)->gguf_id);
        }
    }
}

static double nmse(const float *got, const float *want, size_t n)
{
    double err = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        err += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        sum += (double)want[i] * want[i];
    }
    return sum > 0 ? err / sum : err;
}

static void test_round_trip(void **state)
{
    (void)state;
    static float in[MAX_N], out[MAX_N + 1];
    static unsigned char bytes[MAX_N * 4 + 1];
    static const float scale[] = {1, 1e-3f, 1e3f};
    struct test_rng rng = test_rng_new("dtypes round trip");
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        if (!f->pack_row)
            continue;
        for (size_t s = 0; s < sizeof(scale) / sizeof(scale[0]); s++)
            for (size_t n = f->block_len; n <= MAX_N; n *= 2) {
                for (size_t i = 0; i < n; i++)
                    in[i] = test_randf(&rng) * scale[s];
                size_t used = vl_dtype_row_bytes((enum vl_dtype)t, n);
                memset(bytes, 0xA5, sizeof(bytes));
                out[n] = 12345;
                f->pack_row(bytes + 1, in, n); /* stored rows may lie at any address */
                assert_int_equal(bytes[0], 0xA5);
                if (used + 1 < sizeof(bytes))
                    assert_int_equal(bytes[used + 1], 0xA5);
                f->unpack_row(out, bytes + 1, n);
                assert_true(out[n] == 12345);
                double e = nmse(out, in, n);
                if (n >= 64 && !(e <= f->max_nmse))
                    fail_msg("%s: n %zu scale %g: nmse %g, promised %g", f->name, n, (double)scale[s], e,
                             f->max_nmse);
            }
    }
}

/* A block is read on its own: what stands in its neighbours changes nothing. */
static void test_blocks(void **state)
{
    (void)state;
    static unsigned char bytes[3 * 64];
    static float one[64], three[3 * 64];
    struct test_rng rng = test_rng_new("dtypes blocks");
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        assert_true(f->block_bytes <= 64 && f->block_len <= 64);
        for (int i = 0; i < 3 * (int)f->block_bytes; i++)
            bytes[i] = (unsigned char)test_rand(&rng);
        f->unpack_row(three, bytes, 3 * f->block_len);
        f->unpack_row(one, bytes + f->block_bytes, f->block_len);
        assert_memory_equal(one, three + f->block_len, f->block_len * sizeof(float));
    }
}

/* Any bytes: no crash, and quantised blocks with a finite scale give finite values. */
static void test_any_bytes(void **state)
{
    (void)state;
    static unsigned char bytes[64];
    static float out[64];
    struct test_rng rng = test_rng_new("dtypes any bytes");
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        for (int round = 0; round < 20000; round++) {
            for (uint32_t i = 0; i < f->block_bytes; i++)
                bytes[i] = (unsigned char)(test_rand(&rng) >> 24);
            uint16_t d = (uint16_t)(bytes[0] | bytes[1] << 8);
            f->unpack_row(out, bytes, f->block_len);
            if (f->block_len > 1 && (d & 0x7C00) != 0x7C00)
                for (uint32_t i = 0; i < f->block_len; i++)
                    assert_true(isfinite(out[i]));
        }
    }
}

/* docs of ggml, checked against its Python package: b[i] = 37 i + 11, then the scale is set to 0.5. */
static void test_q8_0_golden(void **state)
{
    (void)state;
    unsigned char b[VL_Q8_0_BYTES], again[VL_Q8_0_BYTES];
    float v[VL_Q8_0_LEN];
    for (int i = 0; i < VL_Q8_0_BYTES; i++)
        b[i] = (unsigned char)(37 * i + 11);
    b[0] = 0x00;
    b[1] = 0x38;
    vl_q8_0_unpack(v, b, VL_Q8_0_LEN);
    double sum = 0, sq = 0;
    for (int i = 0; i < VL_Q8_0_LEN; i++) {
        sum += v[i];
        sq += (double)v[i] * v[i];
    }
    assert_true(v[0] == 42.5f && v[1] == 61 && v[15] == -64 && v[16] == -45.5f && v[31] == -24);
    assert_true(sum == -88 && sq == 47564);

    /* Halves go away from zero, and q is formed before d is rounded to f16. */
    float w[VL_Q8_0_LEN] = {127, -127, 0.5f, -0.5f, 1.5f, -2.5f, 0.49f};
    vl_q8_0_pack(again, w, VL_Q8_0_LEN);
    static const signed char want[] = {127, -127, 1, -1, 2, -3, 0, 0};
    assert_int_equal(again[0] | again[1] << 8, 0x3C00);
    assert_memory_equal(again + 2, want, sizeof(want));
    memset(w, 0, sizeof(w));
    vl_q8_0_pack(again, w, VL_Q8_0_LEN);
    memset(b, 0, sizeof(b));
    assert_memory_equal(again, b, sizeof(b));
}

static void test_f16(void **state)
{
    (void)state;
    static const struct {
        float v;
        uint16_t h;
    } golden[] = {{0, 0},
                  {-0.0f, 0x8000},
                  {1, 0x3C00},
                  {-2, 0xC000},
                  {65504, 0x7BFF},
                  {65519, 0x7BFF},
                  {65520, 0x7C00},
                  {1e9f, 0x7C00},
                  {0x1p-24f, 1},
                  {0x1p-25f, 0},
                  {0x1.8p-25f, 1},
                  {0x1.8p-24f, 2},
                  {0x1p-14f, 0x400},
                  {0x1.ff8p-15f, 0x3FF},
                  {0x1.ffcp-15f, 0x400},
                  {0x1.002p0f, 0x3C00},
                  {0x1.006p0f, 0x3C02}};
    for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++)
        if (vl_f16_from_f32(golden[i].v) != golden[i].h)
            fail_msg("f16 of %a is %#x, not %#x", (double)golden[i].v, vl_f16_from_f32(golden[i].v),
                     golden[i].h);
    for (uint32_t h = 0; h < 0x10000; h++) { /* every f16 and bf16 survives the way there and back */
        float f = vl_f16_to_f32((uint16_t)h), b = vl_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(vl_f16_to_f32(vl_f16_from_f32(f))));
        else
            assert_int_equal(vl_f16_from_f32(f), h);
        if (isnan(b))
            assert_true(isnan(vl_bf16_to_f32(vl_bf16_from_f32(b))));
        else
            assert_int_equal(vl_bf16_from_f32(b), h);
    }
    assert_int_equal(vl_bf16_from_f32(0x1.01p0f), 0x3F80); /* ties to even */
    assert_int_equal(vl_bf16_from_f32(0x1.03p0f), 0x3F82);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_any_bytes), cmocka_unit_test(test_q8_0_golden), cmocka_unit_test(test_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
