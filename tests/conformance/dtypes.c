/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Every stored format of kernels/quant/formats.def keeps what its row promises: the round trip within
 * max_nmse, blocks that do not reach into each other, no NaN out of finite scales, and bytes as ggml has
 * them. tests/golden/formats.taps holds blocks and their values; tests/reference/format_goldens.py made it.
 */
#include "kernels/dtype.h"
#include "kernels/quant/quant.h"
#include "tests/golden/taps.h"

#include <stdbool.h>

enum { MAX_N = 1024, MAX_LEN = VL_BLOCK_MAX_LEN, MAX_BYTES = 288 };

static void test_rows(void **state)
{
    (void)state;
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        assert_non_null(f->name);
        assert_non_null(f->unpack_row);
        assert_true(f->block_len > 0 && f->block_bytes > 0 && MAX_N % f->block_len == 0);
        assert_true(f->block_len <= MAX_LEN && f->block_bytes <= MAX_BYTES);
        assert_int_equal(f->block_len > 1, f->split != NULL);
        assert_true(f->packs_to < VL_LAYOUT_COUNT);
        assert_int_equal(vl_dtype_row_bytes((enum vl_dtype)t, 3 * f->block_len), 3 * f->block_bytes);
        for (int u = 0; u < t; u++) {
            assert_string_not_equal(f->name, vl_dtype_info((enum vl_dtype)u)->name);
            if (f->gguf_id != UINT32_MAX)
                assert_int_not_equal(f->gguf_id, vl_dtype_info((enum vl_dtype)u)->gguf_id);
        }
    }
}

/* A layout without a format would be neither packed nor tested. */
static void test_layouts(void **state)
{
    (void)state;
    for (int l = VL_LAYOUT_ROWS + 1; l < VL_LAYOUT_COUNT; l++) {
        int t = 0;
        while (t < VL_DTYPE_COUNT && vl_dtype_info((enum vl_dtype)t)->packs_to != (enum vl_layout)l)
            t++;
        if (t == VL_DTYPE_COUNT)
            fail_msg("no format of kernels/quant/formats.def packs to layout %d", l);
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
    static unsigned char bytes[3 * MAX_BYTES];
    static float one[MAX_LEN], three[3 * MAX_LEN];
    struct test_rng rng = test_rng_new("dtypes blocks");
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        for (int i = 0; i < 3 * (int)f->block_bytes; i++)
            bytes[i] = (unsigned char)test_rand(&rng);
        f->unpack_row(three, bytes, 3 * f->block_len);
        f->unpack_row(one, bytes + f->block_bytes, f->block_len);
        assert_memory_equal(one, three + f->block_len, f->block_len * sizeof(float));
    }
}

static bool same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof(a[i])) != 0 && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

/* Any bytes: no crash, and a block taken apart is finite exactly when its scales are. Packing relies on that
 * a block taken apart is worth what unpack_row says. */
static void test_any_bytes(void **state)
{
    (void)state;
    static unsigned char bytes[MAX_BYTES];
    static float out[MAX_LEN], apart[MAX_LEN];
    struct test_rng rng = test_rng_new("dtypes any bytes");
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        for (int round = 0; round < 3000; round++) {
            for (uint32_t i = 0; i < f->block_bytes; i++)
                bytes[i] = (unsigned char)(test_rand(&rng) >> 24);
            f->unpack_row(out, bytes, f->block_len);
            if (!f->split)
                continue;
            struct vl_block b;
            f->split(&b, bytes);
            assert_int_equal(b.n, f->block_len);
            for (uint32_t i = 0; i < f->block_len; i++)
                assert_true(isfinite(out[i]) || (b.d & 0x7C00) == 0x7C00 || (b.m & 0x7C00) == 0x7C00);
            vl_blocks_unpack(apart, bytes, f->block_len, f->split, f->block_bytes);
            assert_true(same_floats(out, apart, f->block_len));
        }
    }
}

/* Bit for bit what ggml's own description of the formats computes, strange scales included. */
static void test_golden_file(void **state)
{
    (void)state;
    struct test_taps taps = test_taps_open(GOLDEN_DIR "/formats.taps");
    static float out[MAX_LEN];
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        struct test_tap_entry blocks, values;
        char name[48];
        if (!f->split)
            continue;
        (void)snprintf(name, sizeof(name), "%s.blocks", f->name);
        const uint8_t *in = test_tap(&taps, name, &blocks);
        (void)snprintf(name, sizeof(name), "%s.values", f->name);
        const float *want = test_tap(&taps, name, &values);
        assert_int_equal(blocks.dim[1], f->block_bytes);
        assert_int_equal(values.dim[1], f->block_len);
        assert_true(values.dim[0] == blocks.dim[0] && blocks.dim[0] > 9);
        for (uint32_t i = 0; i < blocks.dim[0]; i++) {
            f->unpack_row(out, in + i * f->block_bytes, f->block_len);
            if (!same_floats(out, want + i * f->block_len, f->block_len))
                fail_msg("%s: block %u of tests/golden/formats.taps has other values", f->name, i);
        }
    }
    test_taps_close(&taps);
}

/* Bytes b[i] = 37 i + 11 with d set to 0.5 and the minimum or its scale to 0.25: values at some places, their
 * sum and the sum of their squares, from ggml's Python package. */
static const struct known {
    enum vl_dtype t;
    int d, m;       /* where they stand; m -1: none */
    const char *is; /* "element:value ..." */
    double sum, squares;
} known[] = {
    {VL_Q4_0, 0, -1, "0:-1.5 1:1 15:-4 16:-1.5 31:0", -10.5, 161.25},
    {VL_Q4_1, 0, 2, "0:7.75 1:2.25 15:5.25 16:4.75 31:6.25", 130.5, 695},
    {VL_Q5_0, 0, -1, "0:4.5 1:-1 15:-6 16:7 31:0.5", 7.5, 656.75},
    {VL_Q5_1, 0, 2, "0:9.75 1:12.25 15:15.25 16:9.75 31:2.75", 260.5, 2824.5},
    {VL_Q8_0, 0, -1, "0:42.5 1:61 15:-64 16:-45.5 31:-24", -88, 47564},
    {VL_Q4_K, 0, 2, "0:157.75 1:-12.75 31:80.25 32:4 63:20 64:210.25 127:40.5 128:211.5 160:262.5 255:24.25",
     27220, 6041305},
    {VL_Q5_K, 0, 2, "0:405.75 1:-12.75 31:80.25 32:56 63:40 64:210.25 127:-1.5 128:523.5 160:82.5 255:54.25",
     58108, 25707205},
    {VL_Q6_K, 208, -1, "0:-715.5 1:848 31:-48 32:115.5 63:-290 64:-1520 127:750 128:-175.5 160:335.5 255:-30",
     2306, 118475065},
};

static void test_golden_bytes(void **state)
{
    (void)state;
    for (size_t g = 0; g < sizeof(known) / sizeof(known[0]); g++) {
        const struct known *w = &known[g];
        const struct vl_dtype_info *f = vl_dtype_info(w->t);
        unsigned char b[MAX_BYTES];
        float v[MAX_LEN];
        double sum = 0, squares = 0;
        for (uint32_t i = 0; i < f->block_bytes; i++)
            b[i] = (unsigned char)(37 * i + 11);
        vl_block_put16(b + w->d, 0x3800);
        if (w->m >= 0)
            vl_block_put16(b + w->m, 0x3400);
        f->unpack_row(v, b, f->block_len);
        for (uint32_t i = 0; i < f->block_len; i++) {
            sum += v[i];
            squares += (double)v[i] * v[i];
        }
        for (char *at = (char *)w->is; *at;) {
            long i = strtol(at, &at, 10);
            double is = strtod(at + 1, &at);
            if ((double)v[i] != is)
                fail_msg("%s: element %ld is %g, must be %g", f->name, i, (double)v[i], is);
        }
        if (sum != w->sum || squares != w->squares)
            fail_msg("%s: sum %g, squares %g, must be %g and %g", f->name, sum, squares, w->sum, w->squares);
    }
}

/* The simple formats are packed as ggml packs them: x[i] = ((37 i mod 101) - 50) / 25. */
static void test_golden_pack(void **state)
{
    (void)state;
    static const struct {
        enum vl_dtype t;
        const char *hex;
    } want[] = {
        {VL_Q4_0, "0034e046acf258bd1379df358be046acf268"},
        {VL_Q4_1, "443400c0d0369bf157ad1369ce258ad0469cf257"},
        {VL_Q8_0, "082481df3d9af856b41270cd2b89e745a2005ebb1977d53390ee4caa0866c3217fdc"},
    };
    float x[32];
    for (int i = 0; i < 32; i++)
        x[i] = (float)(37 * i % 101 - 50) / 25;
    for (size_t w = 0; w < sizeof(want) / sizeof(want[0]); w++) {
        const struct vl_dtype_info *f = vl_dtype_info(want[w].t);
        unsigned char b[MAX_BYTES];
        char hex[2 * MAX_BYTES + 1];
        f->pack_row(b, x, 32);
        for (uint32_t i = 0; i < f->block_bytes; i++)
            (void)snprintf(hex + 2 * i, 3, "%02x", b[i]);
        assert_string_equal(hex, want[w].hex);
    }
}

static void test_q8_0_rounding(void **state)
{
    (void)state;
    unsigned char b[VL_Q8_0_BYTES], again[VL_Q8_0_BYTES];

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
        cmocka_unit_test(test_rows),          cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_any_bytes),     cmocka_unit_test(test_golden_file),
        cmocka_unit_test(test_golden_bytes),  cmocka_unit_test(test_golden_pack),
        cmocka_unit_test(test_q8_0_rounding), cmocka_unit_test(test_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
