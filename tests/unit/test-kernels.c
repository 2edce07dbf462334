/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* kernels/ against answers from elsewhere: constants of the formulas, plain sums over the stored values, and
 * identities (pages do not show, partial attention merges). Other backends and instruction sets are held to
 * the cpu backend by tests/backend-ops and tests/checkkernel. */
#include "base/workers.h"
#include "kernels/backend.h"
#include "kernels/isa.h"
#include "kernels/quant/quant.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>

static struct vl_exec x;
static struct vl_arena arena;
static char scratch[1 << 20];

static int setup_with(const char *spec)
{
    x = (struct vl_exec){.ops = vl_backend_find("cpu"), .scratch = &arena};
    vl_arena_init(&arena, scratch, sizeof(scratch));
    return x.ops->open(&x.device, spec, NULL);
}

static int setup_c(void **state)
{
    (void)state;
    return setup_with("isa=c");
}

static int setup_best(void **state)
{
    (void)state;
    return setup_with(NULL);
}

static int teardown(void **state)
{
    (void)state;
    x.ops->close(x.device);
    return 0;
}

static void fill(struct test_rng *rng, float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        v[i] = test_randf(rng);
}

static void expect(float got, double want, double tolerance)
{
    if (!(fabs((double)got - want) <= tolerance))
        fail_msg("got %.9g, want %.9g within %g", (double)got, want, tolerance);
}

static void test_activations(void **state)
{
    (void)state;
    float in[] = {-3, -1, -0.5f, 0.5f, 1, 3}, one[] = {1, 1, 1, 1, 1, 1}, out[6];
    static const double gelu[] = {-0.003637392, -0.158808009, -0.154285990,
                                  0.345714010,  0.841191991,  2.996362608};
    static const double silu[] = {-0.142277620, -0.268941421, -0.188770334,
                                  0.311229666,  0.731058579,  2.857722380};
    struct vl_tensor a = vl_tensor_1d(in, VL_F32, 6), u = vl_tensor_1d(one, VL_F32, 6);
    struct vl_tensor y = vl_tensor_1d(out, VL_F32, 6);
    assert_int_equal(x.ops->gelu(&x, &y, &a), 0);
    for (int i = 0; i < 6; i++)
        expect(out[i], gelu[i], 3e-7);
    assert_int_equal(x.ops->silu_mul(&x, &y, &a, &u), 0);
    for (int i = 0; i < 6; i++)
        expect(out[i], silu[i], 3e-7);
}

static void test_norms(void **state)
{
    (void)state;
    float in[] = {1, 2, 3, 6}, w[] = {1, 1, 2, 1}, b[] = {0, 0.5f, 0, 0}, out[4];
    struct vl_tensor a = vl_tensor_2d(in, VL_F32, 1, 4), y = vl_tensor_2d(out, VL_F32, 1, 4);
    struct vl_tensor wt = vl_tensor_1d(w, VL_F32, 4), bt = vl_tensor_1d(b, VL_F32, 4);
    assert_int_equal(x.ops->rms_norm(&x, &y, &a, &wt, 0), 0);
    for (int i = 0; i < 4; i++) /* mean square 12.5 */
        expect(out[i], (double)in[i] * w[i] / sqrt(12.5), 1e-6);
    assert_int_equal(x.ops->layer_norm(&x, &y, &a, &wt, &bt, 0), 0);
    for (int i = 0; i < 4; i++) /* mean 3, variance 3.5 */
        expect(out[i], (in[i] - 3.0) / sqrt(3.5) * w[i] + b[i], 1e-6);
}

static void test_rope(void **state)
{
    (void)state;
    static const double golden[] = {5.078284, -1.121388, 2.646397, 3.95995,
                                    0.459387, 6.224346,  7.141189, 8.0199};
    float v[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    double inv_freq[4];
    const uint8_t axis[4] = {1, 1, 1, 1};
    for (int i = 0; i < 4; i++)
        inv_freq[i] = pow(10000, -2.0 * i / 8);
    const struct vl_rope r = {4, inv_freq, axis};
    struct vl_tensor t = vl_tensor_3d(v, VL_F32, 1, 1, 8);
    const int64_t pos[1][3] = {{77, 5, 77}};
    assert_int_equal(x.ops->rope(&x, &t, pos, &r), 0);
    for (int i = 0; i < 8; i++)
        expect(v[i], golden[i], 2e-6);
    /* Years of frames: only the difference of positions counts, to f32's precision. */
    float q[2][8], k[2][8];
    for (int i = 0; i < 8; i++) {
        q[0][i] = q[1][i] = (float)(i + 1);
        k[0][i] = k[1][i] = (float)(8 - i);
    }
    const int64_t at_q[2][3] = {{0, 100, 0}, {0, 1000000100, 0}},
                  at_k[2][3] = {{0, 93, 0}, {0, 1000000093, 0}};
    struct vl_tensor qt = vl_tensor_3d(q, VL_F32, 2, 1, 8), kt = vl_tensor_3d(k, VL_F32, 2, 1, 8);
    assert_int_equal(x.ops->rope(&x, &qt, at_q, &r), 0);
    assert_int_equal(x.ops->rope(&x, &kt, at_k, &r), 0);
    double dot[2] = {0, 0};
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < 8; i++)
            dot[s] += (double)q[s][i] * k[s][i];
    expect((float)dot[1], dot[0], 4e-5);
}

static void test_matmul(void **state)
{
    (void)state;
    enum { N = 3, N_OUT = 37, K = 512 };
    static float a[N][K], w[N_OUT][K], y[N][N_OUT], table[N_OUT][K];
    static unsigned char stored[N_OUT * K * 4];
    struct test_rng rng = test_rng_new("kernels matmul");
    fill(&rng, a[0], N * K);
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        if (f->packs_to == VL_LAYOUT_ROWS)
            continue;
        fill(&rng, w[0], N_OUT * K);
        f->pack_row(stored, w[0], N_OUT * K);
        f->unpack_row(w[0], stored, N_OUT * K);
        struct vl_tensor st = vl_tensor_2d(stored, (enum vl_dtype)t, N_OUT, K), packed = {0};
        struct vl_tensor at = vl_tensor_2d(a, VL_F32, N, K), yt = vl_tensor_2d(y, VL_F32, N, N_OUT);
        size_t size = x.ops->packed_size(x.device, &st);
        size_t bytes = vl_tensor_bytes(&st) / N_OUT * 48; /* whole panels; five bits are kept in eight */
        assert_true(size >= bytes && size <= 2 * bytes);
        assert_int_equal(x.ops->alloc(x.device, size, false, &packed.data), 0);
        assert_int_equal(x.ops->pack(&x, &packed, &st), 0);
        assert_int_equal(x.ops->matmul(&x, &yt, &at, &packed), 0);
        for (int r = 0; r < N; r++)
            for (int j = 0; j < N_OUT; j++) {
                double sum = 0;
                for (int i = 0; i < K; i++)
                    sum += (double)a[r][i] * w[j][i];
                expect(y[r][j], sum, 3e-5);
            }
        /* The same packed memory serves as the embedding table. */
        int32_t id[N_OUT];
        for (int j = 0; j < N_OUT; j++)
            id[j] = N_OUT - 1 - j;
        struct vl_tensor ids = vl_tensor_1d(id, VL_I32, N_OUT), out = vl_tensor_2d(table, VL_F32, N_OUT, K);
        assert_int_equal(x.ops->gather(&x, &out, &packed, &ids), 0);
        for (int j = 0; j < N_OUT; j++)
            assert_memory_equal(table[j], w[N_OUT - 1 - j], sizeof(w[0]));
        id[0] = N_OUT;
        assert_int_equal(x.ops->gather(&x, &out, &packed, &ids), -EINVAL);
        x.ops->free(x.device, packed.data);
    }
}

enum { N_Q = 5, HEADS = 4, KV_HEADS = 2, D = 24, TOKENS = 150 };
static float q[N_Q][HEADS][D], y[N_Q][HEADS][D], lse[N_Q][HEADS], bias[TOKENS];
static uint16_t keys[TOKENS][KV_HEADS][D], values[TOKENS][KV_HEADS][D];
static uint32_t seen[N_Q][2] = {{0, 1}, {0, TOKENS}, {70, 130}, {9, 9}, {63, 65}};

static void fill_attention(struct test_rng *rng)
{
    fill(rng, q[0][0], N_Q * HEADS * D);
    fill(rng, bias, TOKENS);
    for (size_t i = 0; i < TOKENS * KV_HEADS * D; i++) {
        ((uint16_t *)keys)[i] = vl_f16_from_f32(test_randf(rng) * 3);
        ((uint16_t *)values)[i] = vl_f16_from_f32(test_randf(rng));
    }
}

/* Attention over slots [first, last), in pages of page_slots. */
static void attend(uint32_t first, uint32_t last, uint32_t page_slots)
{
    static struct vl_kv_page page[TOKENS];
    uint32_t n = 0, part[N_Q][2];
    for (uint32_t i = first; i < last; i += page_slots)
        page[n++] = (struct vl_kv_page){.k = keys[i],
                                        .v = values[i],
                                        .n_tokens = last - i < page_slots ? last - i : page_slots,
                                        .k_dtype = VL_F16,
                                        .v_dtype = VL_F16};
    for (int i = 0; i < N_Q; i++)
        for (int e = 0; e < 2; e++)
            part[i][e] = seen[i][e] < first ? 0 : seen[i][e] > last ? last - first : seen[i][e] - first;
    const struct vl_kv_view kv = {page, n, last - first, 0, KV_HEADS, D};
    const struct vl_attn_seq seq = {&kv, 0, N_Q};
    struct vl_tensor yt = vl_tensor_3d(y, VL_F32, N_Q, HEADS, D), qt = vl_tensor_3d(q, VL_F32, N_Q, HEADS, D);
    struct vl_tensor bt = vl_tensor_1d(bias + first, VL_F32, last - first);
    struct vl_tensor lt = vl_tensor_2d(lse, VL_F32, N_Q, HEADS);
    const struct vl_attn_params p = {0.3f, (const uint32_t(*)[2])part, &bt, &lt};
    assert_int_equal(x.ops->attention(&x, &yt, &qt, &seq, 1, &p), 0);
}

static void check_head(int i, int h)
{
    double s[TOKENS], top = -(double)INFINITY, sum = 0;
    for (uint32_t t = seen[i][0]; t < seen[i][1]; t++) {
        s[t] = 0;
        for (int e = 0; e < D; e++)
            s[t] += (double)q[i][h][e] * (double)vl_f16_to_f32(keys[t][h / 2][e]);
        s[t] = s[t] * 0.3 + (double)bias[t];
        top = fmax(top, s[t]);
    }
    for (uint32_t t = seen[i][0]; t < seen[i][1]; t++)
        sum += exp(s[t] - top);
    if (seen[i][0] == seen[i][1]) {
        assert_true(lse[i][h] == -INFINITY);
        for (int e = 0; e < D; e++)
            assert_true(y[i][h][e] == 0);
        return;
    }
    expect(lse[i][h], top + log(sum), 3e-6);
    for (int e = 0; e < D; e++) {
        double o = 0;
        for (uint32_t t = seen[i][0]; t < seen[i][1]; t++)
            o += exp(s[t] - top) / sum * (double)vl_f16_to_f32(values[t][h / 2][e]);
        expect(y[i][h][e], o, 3e-6);
    }
}

static void test_attention(void **state)
{
    (void)state;
    static float whole[N_Q][HEADS][D], whole_lse[N_Q][HEADS], left[N_Q][HEADS][D], left_lse[N_Q][HEADS];
    struct test_rng rng = test_rng_new("kernels attention");
    fill_attention(&rng);
    attend(0, TOKENS, TOKENS);
    for (int i = 0; i < N_Q; i++)
        for (int h = 0; h < HEADS; h++)
            check_head(i, h);
    memcpy(whole, y, sizeof(y));
    memcpy(whole_lse, lse, sizeof(lse));
    static const uint32_t slots[] = {1, 16, 37, 64, 149};
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) { /* how it is paged does not show */
        attend(0, TOKENS, slots[i]);
        assert_memory_equal(y, whole, sizeof(y));
        assert_memory_equal(lse, whole_lse, sizeof(lse));
    }
    for (int i = 1; i < N_Q; i++) /* a step sees the cache as it was: later tokens do not show */
        if (seen[i][0] < seen[i][1]) {
            attend(0, seen[i][1], 64);
            assert_memory_equal(y[i], whole[i], sizeof(y[i]));
        }
    attend(0, 71, 32); /* two parts merge by their log-sum-exp */
    memcpy(left, y, sizeof(y));
    memcpy(left_lse, lse, sizeof(lse));
    attend(71, TOKENS, 32);
    for (int i = 0; i < N_Q; i++)
        for (int h = 0; h < HEADS; h++)
            for (int e = 0; e < D && seen[i][0] < seen[i][1]; e++) {
                double a = exp((double)left_lse[i][h] - whole_lse[i][h]);
                double b = exp((double)lse[i][h] - whole_lse[i][h]);
                expect(whole[i][h][e], a * left[i][h][e] + b * y[i][h][e], 4e-6);
            }
}

static void test_patchify(void **state)
{
    (void)state;
    unsigned char img[5][6][3];
    float out[2 * 3][12]; /* 2 x 3 patches of 2 x 2; the fifth row is dropped */
    static const float mean[] = {0.5f, 0.25f, 0}, std[] = {0.5f, 1, 2};
    for (int i = 0; i < 5 * 6 * 3; i++)
        ((unsigned char *)img)[i] = (unsigned char)(i * 37);
    struct vl_tensor it = vl_tensor_3d(img, VL_U8, 5, 6, 3), yt = vl_tensor_2d(out, VL_F32, 6, 12);
    static const float minus[] = {-0.5f, -1, -2};
    float turned[2 * 3][12];
    struct vl_tensor tt = vl_tensor_2d(turned, VL_F32, 6, 12);
    assert_int_equal(x.ops->patchify(&x, &yt, &it, 2, mean, std), 0);
    assert_int_equal(x.ops->patchify(&x, &tt, &it, 2, mean, minus), 0);
    for (int r = 0; r < 6; r++)
        for (int c = 0; c < 3; c++)
            for (int e = 0; e < 4; e++) {
                double v = img[r / 3 * 2 + e / 2][r % 3 * 2 + e % 2][c] / 255.0;
                expect(out[r][c * 4 + e], (v - (double)mean[c]) / (double)std[c], 1e-6);
                assert_true(turned[r][c * 4 + e] == -out[r][c * 4 + e]);
            }
}

static void remember(void *user, const char *name, const struct vl_tensor *t)
{
    (void)snprintf(user, 64, "%s/%u", name, t->dim[1]);
}

static void test_scratch_and_taps(void **state)
{
    (void)state;
    struct vl_tensor t;
    char name[64] = "";
    assert_int_equal(vl_scratch_3d(&x, &t, VL_F16, 3, 5, 7), 0);
    assert_int_equal((uintptr_t)t.data % 64, 0);
    assert_int_equal(vl_tensor_bytes(&t), 3 * 5 * 7 * 2);
    assert_int_equal(t.stride[0], 70);
    assert_int_equal(vl_scratch_2d(&x, &t, VL_Q8_0, 2, 48), -EINVAL); /* cuts a block */
    assert_int_equal(vl_scratch_3d(&x, &t, VL_F32, UINT32_MAX, UINT32_MAX, UINT32_MAX), -ENOMEM);
    vl_tap(&x, &t, "vit.%d.attn", 3);
    x.tap = remember;
    x.tap_user = name;
    vl_tap(&x, &t, "vit.%d.attn", 3);
    assert_string_equal(name, "vit.3.attn/5");
    struct vl_tensor row = vl_tensor_rows(&t, 2, 1);
    assert_ptr_equal(row.data, vl_tensor_row(&t, 10));
}

static void test_isa(void **state)
{
    (void)state;
    struct vl_error err;
    void *device;
    assert_int_equal(vl_isa_parse("c"), 0);
    assert_int_equal(vl_isa_parse("mmx"), -1);
    assert_int_equal(x.ops->open(&device, "isa=mmx", &err), -EINVAL);
    assert_non_null(strstr(err.msg, "no level 'mmx'"));
    assert_int_equal(x.ops->open(&device, "fast=1", &err), -EINVAL);
    assert_non_null(strstr(x.ops->describe(x.device), "attention c"));
    assert_null(vl_backend_find("abacus"));
    assert_int_equal(
        x.ops->packed_size(x.device, &(struct vl_tensor){.dtype = VL_U8, .n_dims = 2, .dim = {1, 1, 1, 1}}),
        0);
}

#define ON_C_AND_BEST(f)                                                                                     \
    cmocka_unit_test_setup_teardown(f, setup_c, teardown),                                                   \
        cmocka_unit_test_setup_teardown(f, setup_best, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_C_AND_BEST(test_activations),
        ON_C_AND_BEST(test_norms),
        ON_C_AND_BEST(test_rope),
        ON_C_AND_BEST(test_matmul),
        ON_C_AND_BEST(test_attention),
        ON_C_AND_BEST(test_patchify),
        cmocka_unit_test_setup_teardown(test_scratch_and_taps, setup_c, teardown),
        cmocka_unit_test_setup_teardown(test_isa, setup_c, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
