/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Resizing against Pillow's bytes, the frame path against transformers', YUV against the formula. */
#include "base/workers.h"
#include "tests/golden/taps.h"
#include "vision/preprocess.h"
#include "vision/tiles.h"

#include <errno.h>
#include <stdbool.h>

enum { SIDE = 1280 };

static void check_row(enum vl_filter filter, const uint8_t *in, uint32_t n_in, const uint8_t *want,
                      uint32_t n)
{
    uint8_t src[3 * 16], dst[3 * 16];
    struct vl_resize_axis a;
    assert_int_equal(vl_resize_axis_init(&a, 16, 16), 0);
    vl_resize_axis_set(&a, filter, n_in, n);
    for (uint32_t i = 0; i < 3 * n_in; i++)
        src[i] = in[i / 3];
    vl_resize_row(&a, dst, src);
    for (uint32_t i = 0; i < 3 * n; i++)
        assert_int_equal(dst[i], want[i / 3]);
    vl_resize_axis_done(&a);
}

/* Bytes that Pillow gave, written down once. */
static void test_rows(void **state)
{
    (void)state;
    static const uint8_t a[] = {0, 255, 0, 255, 128, 64, 32, 16}, b[] = {10, 200, 30, 90, 250};
    static const struct {
        enum vl_filter filter;
        uint8_t a5[5], a3[3], b8[8];
    } want[] = {
        {VL_FILTER_BILINEAR, {104, 113, 178, 68, 23}, {121, 136, 43}, {10, 93, 189, 83, 49, 86, 180, 250}},
        {VL_FILTER_BICUBIC, {104, 116, 187, 60, 19}, {113, 144, 36}, {0, 94, 199, 78, 28, 83, 190, 255}},
        {VL_FILTER_LANCZOS, {103, 127, 181, 57, 20}, {113, 148, 33}, {0, 99, 201, 91, 7, 77, 198, 255}},
    };
    for (size_t i = 0; i < 3; i++) {
        check_row(want[i].filter, a, 8, want[i].a5, 5);
        check_row(want[i].filter, a, 8, want[i].a3, 3);
        check_row(want[i].filter, b, 5, want[i].b8, 8);
    }
}

/* value (37 * i) mod 256 in raster order, 4 x 4 */
static void check_square(enum vl_filter filter, uint32_t w, uint32_t h, const uint8_t *want)
{
    uint8_t pixels[48];
    for (uint32_t i = 0; i < 48; i++)
        pixels[i] = (uint8_t)(37 * (i / 3));
    struct vl_frame f = test_frame_rgb(pixels, 4, 4);
    struct vl_view v = {.src_w = 4, .src_h = 4, .out_w = w, .out_h = h};
    struct vl_preprocess p;
    struct vl_tensor t;
    assert_int_equal(vl_preprocess_init(&p, filter, 8, 8), 0);
    assert_int_equal(vl_preprocess_run(&p, NULL, &f, &v, &t), 0);
    const uint8_t *got = t.data;
    for (uint32_t i = 0; i < w * h; i++)
        assert_int_equal(got[3 * i], want[i]);
    vl_preprocess_done(&p);
}

static void test_squares(void **state)
{
    (void)state;
    check_square(VL_FILTER_BILINEAR, 3, 3, (const uint8_t[]){55, 100, 91, 105, 150, 105, 155, 110, 64});
    check_square(VL_FILTER_BICUBIC, 3, 3, (const uint8_t[]){50, 101, 88, 100, 159, 104, 164, 104, 56});
    check_square(VL_FILTER_LANCZOS, 3, 3, (const uint8_t[]){54, 108, 83, 96, 167, 107, 164, 96, 53});
    check_square(VL_FILTER_BILINEAR, 6, 2,
                 (const uint8_t[]){69, 88, 112, 137, 107, 70, 119, 138, 143, 96, 84, 84});
    check_square(VL_FILTER_BICUBIC, 6, 2,
                 (const uint8_t[]){65, 80, 111, 149, 109, 68, 120, 144, 151, 89, 78, 87});
}

/* Every size of frames.taps through one preprocess, so that a table left over from the last would show; with
 * and without workers. */
static void test_frame_path(void **state)
{
    (void)state;
    struct test_taps taps = test_taps_open(GOLDEN_DIR "/smolvlm/frames.taps");
    vl_auto(vl_workers) workers = NULL;
    assert_int_equal(vl_workers_new(&workers, 1), 0);
    struct vl_preprocess p;
    assert_int_equal(vl_preprocess_init(&p, VL_FILTER_LANCZOS, SIDE, 64), 0);
    for (uint32_t i = 0; i < 2 * taps.n; i++) {
        struct test_tap_entry e = test_tap_at(&taps, i / 2);
        unsigned w = 0, h = 0, edge = 0;
        assert_int_equal(sscanf(e.name, "%ux%u.%u", &w, &h, &edge), 3);
        uint8_t *pixels = test_picture(w, h);
        struct vl_frame f = test_frame_rgb(pixels, w, h);
        struct vl_view v;
        struct vl_tensor t;
        vl_view_squash(&v, w, h, edge);
        assert_int_equal(vl_preprocess_run(&p, i % 2 ? workers : NULL, &f, &v, &t), 0);
        assert_int_equal(t.dim[0], e.dim[0]);
        assert_int_equal(t.dim[1], e.dim[1]);
        if (memcmp(t.data, taps.bytes + e.offset, vl_tensor_bytes(&t)) != 0)
            fail_msg("pixels of %s differ from the reference", e.name);
        free(pixels);
    }
    vl_preprocess_done(&p);
    test_taps_close(&taps);
}

/* In a dry run: a view has its size, and what was in it stays. */
static void test_a_frame_without_pixels_has_sizes_alone(void **state)
{
    (void)state;
    uint8_t pixels[3 * 100] = {0};
    const struct vl_frame f = test_frame_rgb(pixels, 10, 10),
                          none = {.width = 20, .height = 10, .format = VL_PIXFMT_GRAY8};
    struct vl_view v = {.src_w = 10, .src_h = 10, .out_w = 8, .out_h = 8};
    struct vl_preprocess p;
    struct vl_tensor t;
    assert_int_equal(vl_preprocess_init(&p, VL_FILTER_LANCZOS, 20, 16), 0);
    assert_int_equal(vl_preprocess_run(&p, NULL, &f, &v, &t), 0);
    ((uint8_t *)t.data)[0] = 99;
    vl_view_squash(&v, 20, 10, 16);
    assert_int_equal(vl_preprocess_run(&p, NULL, &none, &v, &t), 0);
    assert_int_equal(t.dim[0], 16);
    assert_int_equal(t.dim[1], 16);
    assert_int_equal(((const uint8_t *)t.data)[0], 99);
    vl_preprocess_done(&p);
    struct vl_tiles s;
    assert_int_equal(vl_tiles_init(&s, 20, 32, 16), 0);
    assert_int_equal(vl_tiles_take(&s, NULL, &none), 0);
    assert_int_equal(vl_tiles_cut(&s, NULL), 0);
    assert_int_equal(s.plan.n_views, 3);
    for (uint32_t i = 0; i < s.plan.n_views; i++) {
        t = vl_tiles_view(&s, i);
        assert_int_equal(t.dim[0], 16);
        assert_int_equal(t.dim[1], 16);
    }
    vl_tiles_done(&s);
}

static void test_refuses(void **state)
{
    (void)state;
    uint8_t pixels[3 * 100] = {0};
    struct vl_frame f = test_frame_rgb(pixels, 10, 10);
    const struct vl_view bad[] = {
        {.src_w = 11, .src_h = 10, .out_w = 8, .out_h = 8},
        {.src_x = 1, .src_w = 10, .src_h = 10, .out_w = 8, .out_h = 8},
        {.src_y = 11, .src_w = 10, .src_h = 1, .out_w = 8, .out_h = 8},
        {.src_w = 0, .src_h = 10, .out_w = 8, .out_h = 8},
        {.src_w = 10, .src_h = 10, .out_w = 17, .out_h = 8},
        {.src_w = 10, .src_h = 10, .out_w = 8, .out_h = 0},
        {.src_w = 10, .src_h = 10, .mid_w = 8, .out_w = 8, .out_h = 8},
    };
    struct vl_preprocess p;
    struct vl_tensor t;
    assert_int_equal(vl_preprocess_init(&p, VL_FILTER_LANCZOS, 10, 16), 0);
    const struct vl_frame no_pixels = {.width = 10, .height = 10, .format = VL_PIXFMT_GRAY8};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(vl_preprocess_run(&p, NULL, &f, &bad[i], &t), -EINVAL);
        assert_int_equal(vl_preprocess_run(&p, NULL, &no_pixels, &bad[i], &t), -EINVAL);
    }
    vl_preprocess_done(&p);
    assert_int_equal(vl_preprocess_init(&p, VL_FILTER_LANCZOS, 0, 16), -EINVAL);
    vl_preprocess_done(&p);
}

/* Full-precision BT.601/709, both ranges: at most one level from the fixed-point rows. */
static void reference_rgb(int matrix, int range, double y, double u, double v, double rgb[3])
{
    double kr = matrix == VL_MATRIX_BT709 ? 0.2126 : 0.299, kb = matrix == VL_MATRIX_BT709 ? 0.0722 : 0.114;
    y = range == VL_RANGE_FULL ? y / 255 : (y - 16) / 219;
    u = (u - 128) / (range == VL_RANGE_FULL ? 255 : 224);
    v = (v - 128) / (range == VL_RANGE_FULL ? 255 : 224);
    rgb[0] = y + 2 * (1 - kr) * v;
    rgb[2] = y + 2 * (1 - kb) * u;
    rgb[1] = (y - kr * rgb[0] - kb * rgb[2]) / (1 - kr - kb);
    for (int c = 0; c < 3; c++)
        rgb[c] = 255 * (rgb[c] < 0 ? 0 : rgb[c] > 1 ? 1 : rgb[c]);
}

enum { W = 7, H = 6, CW = 4, CH = 3 };
struct yuv {
    uint8_t y[W * H], u[CW * CH], v[CW * CH], uv[2 * CW * CH];
};

static void check_yuv(const struct yuv *s, enum vl_pixfmt format, uint8_t matrix, uint8_t range)
{
    struct vl_frame f = {.plane = {s->y, format == VL_PIXFMT_NV12 ? s->uv : s->u, s->v},
                         .stride = {W, format == VL_PIXFMT_NV12 ? 2 * CW : CW, CW},
                         .width = W,
                         .height = H,
                         .format = format,
                         .matrix = matrix,
                         .range = range};
    for (uint32_t y = 0; y < H; y++) {
        uint8_t got[3 * W];
        vl_frame_row_rgb(&f, y, 1, W - 1, got);
        for (uint32_t x = 1; x < W; x++) {
            double want[3];
            bool grey = format == VL_PIXFMT_GRAY8;
            uint32_t c = y / 2 * CW + x / 2;
            reference_rgb(matrix, range, s->y[y * W + x], grey ? 128 : s->u[c], grey ? 128 : s->v[c], want);
            for (int i = 0; i < 3; i++)
                assert_true(fabs(want[i] - got[3 * (x - 1) + i]) <= 1);
        }
    }
}

static void test_yuv(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("yuv");
    for (int round = 0; round < 20; round++) {
        struct yuv s;
        for (size_t i = 0; i < sizeof(s.y); i++)
            s.y[i] = (uint8_t)test_randn(&rng, 256);
        for (size_t i = 0; i < sizeof(s.u); i++) {
            s.uv[2 * i] = s.u[i] = (uint8_t)test_randn(&rng, 256);
            s.uv[2 * i + 1] = s.v[i] = (uint8_t)test_randn(&rng, 256);
        }
        static const enum vl_pixfmt formats[] = {VL_PIXFMT_NV12, VL_PIXFMT_I420, VL_PIXFMT_GRAY8};
        for (int i = 0; i < 12; i++)
            check_yuv(&s, formats[i % 3], i & 1 ? VL_MATRIX_BT709 : VL_MATRIX_BT601,
                      i < 6 ? VL_RANGE_LIMITED : VL_RANGE_FULL);
    }
}

/* ---- stills ---- */

static void test_tile_plans(void **state)
{
    (void)state;
    static const struct {
        uint32_t w, h, longest, tile;
        struct vl_tile_plan want;
    } cases[] = {
        {1280, 720, 2048, 512, {2048, 1152, 2048, 1536, 3, 4, 13}},
        {4000, 3000, 2048, 512, {2048, 1536, 2048, 1536, 3, 4, 13}},
        {64, 64, 2048, 512, {2048, 2048, 2048, 2048, 4, 4, 17}},
        {3000, 4000, 1536, 384, {1152, 1536, 1152, 1536, 4, 3, 13}},
        {1000, 400, 2048, 512, {2048, 820, 2048, 1024, 2, 4, 9}},
        {300, 1, 2048, 512, {2048, 6, 2048, 512, 1, 4, 5}},
        {1, 8192, 2048, 512, {1, 2048, 512, 2048, 4, 1, 5}},
        {90, 50, 512, 512, {512, 284, 512, 512, 0, 0, 1}},
        {1,
         1,
         55,
         55,
         {55, 56, 110, 110, 2, 2, 5}}, /* an odd edge: rounded up to even, as the reference does */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vl_tile_plan p;
        uint32_t side;
        vl_tile_plan_init(&p, cases[i].w, cases[i].h, cases[i].longest, cases[i].tile);
        if (memcmp(&p, &cases[i].want, sizeof(p)) != 0)
            fail_msg("case %zu: %ux%u, %ux%u, %u rows, %u columns", i, p.big_w, p.big_h, p.cut_w, p.cut_h,
                     p.rows, p.cols);
        assert_true(p.n_views <= vl_tile_max_views(cases[i].longest, cases[i].tile, &side));
        assert_true(p.rows <= side && p.cols <= side);
    }
}

/* No shape needs more room than was taken for it. */
static void test_tile_bounds(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("tiles");
    for (int round = 0; round < 20000; round++) {
        const uint32_t tile = 1 + test_randn(&rng, 600), longest = tile + test_randn(&rng, 3000);
        struct vl_tile_plan p;
        uint32_t side;
        vl_tile_plan_init(&p, 1 + test_randn(&rng, 8192), 1 + test_randn(&rng, 8192), longest, tile);
        const uint32_t n = vl_tile_max_views(longest, tile, &side);
        assert_true(p.big_w >= 1 && p.big_h >= 1 && p.big_w <= longest + 1 && p.big_h <= longest + 1);
        assert_true(p.cut_w % tile == 0 && p.cut_h % tile == 0 && p.cut_w && p.cut_h);
        assert_true(p.cut_w <= side * tile && p.cut_h <= side * tile && p.n_views <= n);
    }
}

static void check_views(struct vl_tiles *t, uint32_t w, uint32_t h, const int32_t *want, uint32_t n)
{
    uint8_t *pixels = test_picture(w, h);
    struct vl_frame f = test_frame_rgb(pixels, w, h);
    assert_int_equal(vl_tiles_take(t, NULL, &f), 0);
    free(pixels);
    assert_int_equal(vl_tiles_cut(t, NULL), 0);
    assert_int_equal(t->plan.n_views, n);
    for (uint32_t i = 0; i < n; i++) {
        const struct vl_tensor v = vl_tiles_view(t, i);
        uint64_t digest = UINT64_C(0xcbf29ce484222325), right;
        for (uint32_t y = 0; y < v.dim[0]; y++)
            for (uint32_t k = 0; k < 3 * v.dim[1]; k++)
                digest = (digest ^ ((const uint8_t *)v.data)[y * v.stride[0] + k]) * UINT64_C(0x100000001b3);
        memcpy(&right, want + 2 * (size_t)i, sizeof(right));
        if (digest != right)
            fail_msg("view %u of %ux%u differs from the reference", i, w, h);
    }
}

/* However narrow the band, the same bytes; too narrow for one row of the result is refused. */
static void test_bands_change_no_byte(void **state)
{
    (void)state;
    enum { FROM_W = 200, FROM_H = 300, TO_W = 70, TO_H = 90 };
    uint8_t *src = test_picture(FROM_W, FROM_H), *whole = malloc(3 * TO_W * TO_H),
            *got = malloc(3 * TO_W * TO_H), *rows = malloc(3 * TO_W * FROM_H);
    struct vl_resize_axis across, down;
    assert_int_equal(vl_resize_axis_init(&across, FROM_W, TO_W), 0);
    assert_int_equal(vl_resize_axis_init(&down, FROM_H, TO_H), 0);
    vl_resize_axis_set(&across, VL_FILTER_LANCZOS, FROM_W, TO_W);
    vl_resize_axis_set(&down, VL_FILTER_LANCZOS, FROM_H, TO_H);
    struct vl_resize r = {.across = &across,
                          .down = &down,
                          .src = src,
                          .rows = rows,
                          .dst = whole,
                          .rows_size = 3 * TO_W * FROM_H};
    assert_int_equal(vl_resize_run(&r, NULL), 0);
    r.dst = got;
    for (uint32_t n = 21; n < 100; n += 13) { /* the filter reaches over 20 or 21 rows */
        r.rows_size = 3 * (size_t)TO_W * n;
        memset(got, 0, 3 * TO_W * TO_H);
        assert_int_equal(vl_resize_run(&r, NULL), 0);
        assert_memory_equal(got, whole, 3 * TO_W * TO_H);
    }
    r.rows_size = 3 * TO_W * 19;
    assert_int_equal(vl_resize_run(&r, NULL), -EINVAL);
    vl_resize_axis_done(&across);
    vl_resize_axis_done(&down);
    free(src);
    free(whole);
    free(got);
    free(rows);
}

/* Every picture that is taken can be resized with the band that is there. */
static void test_bands_are_wide_enough(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("bands");
    static const uint32_t sides[] = {1, 2, 3, 5, 8, 100, 4000, 8191, 8192};
    struct vl_tiles t;
    assert_int_equal(vl_tiles_init(&t, 8192, 224, 56), 0);
    uint8_t *grey = calloc(8192, 8192); /* pages of zeros */
    assert_non_null(grey);
    for (int i = 0; i < 60; i++) {
        struct vl_frame f = {.plane = {grey}, .stride = {8192}, .format = VL_PIXFMT_GRAY8};
        f.width = i < 9 ? sides[i] : 1 + test_randn(&rng, 8192);
        f.height = i < 9 ? 1 : 1 + test_randn(&rng, i % 2 ? 8192 : 40);
        if ((uint64_t)f.width * f.height > 4000000)
            f.height = 4000000 / f.width;
        if (i % 3 == 0) {
            uint32_t w = f.width;
            f.width = f.height;
            f.height = w;
        }
        assert_int_equal(vl_tiles_take(&t, NULL, &f), 0);
        assert_int_equal(vl_tiles_cut(&t, NULL), 0);
    }
    free(grey);
    vl_tiles_done(&t);
}

/* As published models look at a still; one set of buffers for all shapes. */
static void test_views(void **state)
{
    (void)state;
    struct test_taps taps = test_taps_open(GOLDEN_DIR "/smolvlm/views.taps");
    struct vl_tiles t[2];
    assert_int_equal(vl_tiles_init(&t[0], 8192, 2048, 512), 0);
    assert_int_equal(vl_tiles_init(&t[1], 8192, 1536, 384), 0);
    for (uint32_t i = 0; i < taps.n; i++) {
        struct test_tap_entry e = test_tap_at(&taps, i);
        uint32_t w, h, longest;
        assert_int_equal(sscanf(e.name, "%ux%u.%u", &w, &h, &longest), 3);
        check_views(&t[longest == 1536], w, h, (const int32_t *)(const void *)(taps.bytes + e.offset),
                    e.dim[0]);
    }
    struct vl_frame long_one = {.width = 8193, .height = 1};
    assert_int_equal(vl_tiles_take(&t[0], NULL, &long_one), -EINVAL);
    vl_tiles_done(&t[0]);
    vl_tiles_done(&t[1]);
    test_taps_close(&taps);
    assert_int_equal(vl_tiles_init(&t[0], 100, 10, 11), -EINVAL);
    vl_tiles_done(&t[0]);
    assert_int_equal(vl_tiles_init(&t[0], 100, VL_TILES_MAX_LONGEST + 1, 512), -EINVAL);
    vl_tiles_done(&t[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_squares),
        cmocka_unit_test(test_frame_path),
        cmocka_unit_test(test_a_frame_without_pixels_has_sizes_alone),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_yuv),
        cmocka_unit_test(test_tile_plans),
        cmocka_unit_test(test_tile_bounds),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_bands_change_no_byte),
        cmocka_unit_test(test_bands_are_wide_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
