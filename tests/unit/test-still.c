/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Still pictures decoded in this process: every format and kind, every orientation, cut at every 1/16 and at
 * every byte, sizes that are refused. test-still-child.c has the process around it. */
#include "base/cleanup.h"
#include "pipelines/still.h"
#include "tests/harness.h"
#include "tests/pictures.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#if defined(VL_HAVE_JPEG) || defined(VL_HAVE_PNG) || defined(VL_HAVE_WEBP)
#define ANY_FORMAT
#endif

static const struct vl_still_limits limits = {
    .max_side = 8192, .max_pixels = 33177600, .max_bytes = VL_STILL_MAX_BYTES};

/* A decoded picture with its rows packed. */
struct shown {
    uint32_t width, height, flags;
    uint8_t *rgb;
    int r;
    struct vl_error err;
};

static struct shown show_as(struct encoded e, const struct vl_still_limits *max)
{
    struct shown s = {0};
    struct vl_frame_packet p;
    vl_autofd memfd = -1;
    s.r = vl_still_decode(e.p, e.n, max, &p, &memfd, &s.err);
    if (s.r < 0) {
        assert_int_equal(memfd, -1);
        assert_int_equal(s.err.code, s.r);
        assert_true(s.err.msg[0] != '\0');
        return s;
    }
    assert_int_equal(s.r, 0);
    struct vl_error err = {0};
    p.magic = VL_FRAME_PACKET_MAGIC;
    p.version = VL_FRAME_PACKET_VERSION;
    if (vl_frame_packet_check(&p, &vl_frame_limits_default, p.size, &err) != 0)
        fail_msg("the daemon would refuse it: %s", err.msg);
    s.width = p.width;
    s.height = p.height;
    s.flags = p.flags;
    const uint8_t *map = mmap(NULL, p.size, PROT_READ, MAP_SHARED, memfd, 0);
    assert_true(map != MAP_FAILED);
    s.rgb = malloc((size_t)3 * s.width * s.height);
    assert_non_null(s.rgb);
    for (uint32_t y = 0; y < s.height; y++)
        memcpy(s.rgb + (size_t)3 * s.width * y, map + p.offset[0] + (size_t)p.stride[0] * y,
               (size_t)3 * s.width);
    assert_int_equal(munmap((void *)(uintptr_t)map, p.size), 0);
    return s;
}

static struct shown show(struct encoded e)
{
    return show_as(e, &limits);
}

static void expect_refused(struct encoded e, int code, const char *word)
{
    struct shown s = show(e);
    free(e.p);
    assert_int_equal(s.r, code);
    if (!strstr(s.err.msg, word))
        fail_msg("'%s' does not say '%s'", s.err.msg, word);
}

#ifdef ANY_FORMAT
static int apart(const uint8_t *a, const uint8_t *b, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++)
        if (abs(a[i] - b[i]) > most)
            most = abs(a[i] - b[i]);
    return most;
}

/* Decodes e, which is freed, and compares it with rgb. */
static void expect(const char *what, struct encoded e, const uint8_t *rgb, uint32_t width, uint32_t height,
                   int bound)
{
    struct shown s = show(e);
    free(e.p);
    if (s.r != 0)
        fail_msg("%s: %s", what, s.err.msg);
    assert_int_equal(s.width, width);
    assert_int_equal(s.height, height);
    assert_int_equal(s.flags, 0);
    int most = apart(s.rgb, rgb, (size_t)3 * width * height);
    if (most > bound)
        fail_msg("%s: off by %d, at most %d", what, most, bound);
    free(s.rgb);
}

/* A size that is too large costs next to nothing to refuse, in time of this thread and in memory. */
static void expect_bomb(struct encoded e, const char *word)
{
    struct timespec before, after;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before), 0);
    expect_refused(e, -EMSGSIZE, word);
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after), 0);
    int64_t us = (after.tv_sec - before.tv_sec) * INT64_C(1000000) + (after.tv_nsec - before.tv_nsec) / 1000;
    if (us > 5000)
        fail_msg("refused after %lld us", (long long)us);
}

/* The picture turned as Exif means it, by the words of its definition: the row 0 and the column 0 of the file
 * are at ... of the scene. */
static uint8_t *turned(const uint8_t *rgb, uint32_t w, uint32_t h, unsigned orientation, uint32_t *ret_w)
{
    static const struct {
        bool swap, right, bottom;
    } way[9] = {[1] = {false, false, false}, {false, true, false}, {false, true, true}, {false, false, true},
                {true, false, false},        {true, true, false},  {true, true, true},  {true, false, true}};
    uint8_t *to = malloc((size_t)3 * w * h);
    uint32_t out_w = way[orientation].swap ? h : w, out_h = way[orientation].swap ? w : h;
    assert_non_null(to);
    for (uint32_t y = 0; y < out_h; y++)
        for (uint32_t x = 0; x < out_w; x++) {
            uint32_t u = way[orientation].right ? out_w - 1 - x : x,
                     v = way[orientation].bottom ? out_h - 1 - y : y;
            const uint8_t *from = rgb + (size_t)3 * (way[orientation].swap ? u * w + v : v * w + u);
            memcpy(to + (size_t)3 * (y * out_w + x), from, 3);
        }
    *ret_w = out_w;
    return to;
}

#if defined(VL_HAVE_JPEG) || defined(VL_HAVE_WEBP)
static void expect_turned(struct encoded e, const uint8_t *rgb, uint32_t w, uint32_t h, unsigned o, int bound)
{
    uint32_t out_w;
    char what[32];
    uint8_t *want = turned(rgb, w, h, o, &out_w);
    (void)snprintf(what, sizeof(what), "orientation %u", o);
    expect(what, e, want, out_w, w * h / out_w, bound);
    free(want);
}
#endif

/* Cut at each 1/16 and each byte of its first and last hundred: refused with words, or the same rows as the
 * whole one has, at least half of them and marked. */
static void expect_cut(struct encoded e, unsigned *ret_used)
{
    struct shown whole = show(e);
    assert_int_equal(whole.r, 0);
    *ret_used = 0;
    for (size_t i = 0; i < 216; i++) {
        size_t n = i < 16 ? e.n * i / 16 : i < 116 ? i - 16 : e.n - (i - 115);
        uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees one byte too many */
        assert_non_null(exact);
        if (n >= e.n)
            n = 0;
        memcpy(exact, e.p, n);
        struct shown s = show((struct encoded){exact, n});
        free(exact);
        if (s.r < 0)
            continue;
        ++*ret_used;
        assert_int_equal(s.width, whole.width);
        assert_true(2 * s.height >= whole.height);
        assert_int_equal(s.height < whole.height, (s.flags & VL_FRAME_CORRUPT) != 0);
        if (s.height < whole.height) /* the last rows before a break are filtered with what is not there */
            assert_int_equal(apart(s.rgb, whole.rgb, (size_t)3 * s.width * (s.height - 1)), 0);
        free(s.rgb);
    }
    free(whole.rgb);
}
#endif

/* -------------------------------------------------------------------------------------------------- JPEG */
#ifdef VL_HAVE_JPEG
static void test_jpeg_kinds(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct jpeg_how how;
        int bound;
    } kind[] = {
        {"baseline", {0}, 5},
        {"halved chroma", {.halved = true}, 9},
        {"progressive", {.progressive = true, .halved = true}, 9},
        {"restarts", {.restart_rows = 1}, 5},
        {"one scan a component", {.separate = true}, 5},
        {"CMYK", {.n_components = 4}, 6},
        {"progressive CMYK", {.n_components = 4, .progressive = true}, 6},
        {"size far behind", {.n_pad = 200000}, 5},
    };
    const uint32_t w = 101, h = 67;
    uint8_t *rgb = picture_draw(w, h);
    for (size_t i = 0; i < sizeof(kind) / sizeof(*kind); i++)
        expect(kind[i].name, picture_jpeg(rgb, w, h, &kind[i].how), rgb, w, h, kind[i].bound);
    for (size_t i = 0; i < (size_t)w * h; i++)
        rgb[3 * i] = rgb[3 * i + 2] = rgb[3 * i + 1];
    expect("grey", picture_jpeg(rgb, w, h, &(struct jpeg_how){.n_components = 1}), rgb, w, h, 5);
    free(rgb);
}

static void test_jpeg_sizes(void **state)
{
    (void)state;
    static const uint32_t size[][2] = {{1, 1}, {1, 8192}, {8192, 1}, {2, 3}, {15, 16}, {17, 33}, {640, 480}};
    for (size_t i = 0; i < sizeof(size) / sizeof(*size); i++) {
        uint8_t *rgb = picture_draw(size[i][0], size[i][1]);
        expect("size", picture_jpeg(rgb, size[i][0], size[i][1], &(struct jpeg_how){0}), rgb, size[i][0],
               size[i][1], 16); /* so small that colours differ much from pixel to pixel */
        free(rgb);
    }
}

static void test_jpeg_orientations(void **state)
{
    (void)state;
    const uint32_t w = 37, h = 53;
    uint8_t *rgb = picture_draw(w, h);
    for (unsigned o = 1; o <= 8; o++)
        for (int big = 0; big < 2; big++)
            expect_turned(
                picture_jpeg(rgb, w, h,
                             &(struct jpeg_how){.orientation = o, .big_endian = big, .n_components = 3}),
                rgb, w, h, o, 6);
    expect("orientation 9", picture_jpeg(rgb, w, h, &(struct jpeg_how){.orientation = 9}), rgb, w, h, 6);
    free(rgb);
}

static void test_jpeg_shrinks(void **state)
{
    (void)state;
    static const uint32_t want[][2] = {{0, 1000},  {1000, 1000}, {501, 1000}, {500, 500}, {251, 500},
                                       {250, 250}, {126, 250},   {125, 125},  {1, 125}};
    uint8_t *rgb = picture_draw(1000, 600);
    struct encoded e = picture_jpeg(rgb, 1000, 600, &(struct jpeg_how){.halved = true});
    free(rgb);
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        struct vl_still_limits max = limits;
        max.want_side = want[i][0];
        struct shown s = show_as(e, &max);
        assert_int_equal(s.r, 0);
        assert_int_equal(s.width, want[i][1]);
        assert_int_equal(s.height, want[i][1] * 6 / 10);
        uint8_t *small = picture_draw(s.width, s.height);
        assert_true(apart(s.rgb, small, (size_t)3 * s.width * s.height) <= 9);
        free(small);
        free(s.rgb);
    }
    free(e.p);
}

/* A baseline one is used from half on, each kind but for its last bytes. */
static void test_jpeg_cut(void **state)
{
    (void)state;
    static const struct jpeg_how how[] = {{0},
                                          {.halved = true},
                                          {.progressive = true},
                                          {.separate = true},
                                          {.restart_rows = 2},
                                          {.n_components = 4},
                                          {.orientation = 6}};
    unsigned used;
    uint8_t *rgb = picture_draw(160, 120);
    for (size_t i = 0; i < sizeof(how) / sizeof(*how) - 1; i++) {
        struct encoded e = picture_jpeg(rgb, 160, 120, &how[i]);
        expect_cut(e, &used);
        (void)printf("JPEG kind %zu: %u of 216 cuts used\n", i, used);
        assert_true(used >= 2);
        free(e.p);
    }
    /* turned: what is missing is at a side */
    struct encoded e = picture_jpeg(rgb, 160, 120, &how[sizeof(how) / sizeof(*how) - 1]);
    struct shown whole = show(e);
    e.n = e.n * 4 / 5;
    struct shown s = show(e);
    assert_int_equal(s.r, 0);
    assert_int_equal(s.flags, VL_FRAME_CORRUPT);
    assert_int_equal(s.height, 160);
    assert_in_range(s.width, 60, 119);
    for (uint32_t y = 0; y < 160; y++)
        assert_int_equal(apart(s.rgb + (size_t)3 * s.width * y + 3,
                               whole.rgb + (size_t)3 * (120 * y + 120 - s.width) + 3,
                               (size_t)3 * (s.width - 1)),
                         0);
    free(s.rgb);
    free(whole.rgb);
    free(e.p);
    free(rgb);
}

static void test_jpeg_scans(void **state)
{
    (void)state;
    uint8_t *rgb = picture_draw(64, 64);
    struct encoded e = picture_jpeg(rgb, 64, 64, &(struct jpeg_how){.progressive = true});
    struct encoded most = picture_jpeg_scans(e, 64);
    struct shown s = show(most); /* refined more often than it was meant to be, and read all the same */
    assert_int_equal(s.r, 0);
    free(s.rgb);
    free(most.p);
    expect_refused(picture_jpeg_scans(e, 65), -EMSGSIZE, "scans");
    expect_bomb(picture_jpeg_scans(e, 1000), "scans");
    free(e.p);
    free(rgb);
}

static void test_jpeg_lies(void **state)
{
    (void)state;
    uint8_t *rgb = picture_draw(64, 64);
    struct encoded e = picture_jpeg(rgb, 64, 64, &(struct jpeg_how){0});
    free(rgb);
    /* A second header of another size before the scan, and one with no rows. */
    for (size_t i = 2; i + 19 < e.n; i++)
        if (e.p[i] == 0xFF && e.p[i + 1] == 0xC0) {
            struct encoded two = {malloc(e.n + 19), e.n + 19}, none = {malloc(e.n), e.n};
            assert_true(two.p && none.p);
            memcpy(two.p, e.p, i + 19);
            two.p[i + 5] = two.p[i + 6] = 1;
            memcpy(two.p + i + 19, e.p + i, e.n - i);
            memcpy(none.p, e.p, e.n);
            none.p[i + 5] = none.p[i + 6] = 0;
            expect_refused(two, -EBADMSG, "JPEG");
            expect_refused(none, -EBADMSG, "64 x 0");
            break;
        }
    free(e.p);
}
#endif

/* --------------------------------------------------------------------------------------------------- PNG */
#ifdef VL_HAVE_PNG
enum { GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGBA = 6 };

/* Sample v of bit depth d in a row of big-endian samples. */
static unsigned sample(const uint8_t *row, size_t i, int d)
{
    if (d == 16)
        return row[2 * i]; /* its upper 8 bits */
    if (d == 8)
        return row[i];
    size_t per = 8 / (size_t)d;
    return row[i / per] >> (8 - (size_t)d * (i % per + 1)) & ((1u << d) - 1);
}

static void png_pixel(uint8_t *to, const uint8_t *row, uint32_t x, int type, int depth)
{
    static const int channels[] = {[GREY] = 1, [RGB] = 3, [PALETTE] = 1, [GREY_ALPHA] = 2, [RGBA] = 4};
    size_t at = (size_t)channels[type] * x;
    unsigned v = sample(row, at, depth);
    if (type == PALETTE) { /* tests/pictures.c has the palette */
        to[0] = (uint8_t)v;
        to[1] = (uint8_t)(255 - v);
        to[2] = (uint8_t)(v * 7);
    } else if (type == GREY || type == GREY_ALPHA) {
        memset(to, (int)(depth < 8 ? v * 255 / ((1u << depth) - 1) : v), 3);
    } else {
        for (size_t c = 0; c < 3; c++)
            to[c] = (uint8_t)sample(row, at + c, depth);
    }
}

static void test_png_kinds(void **state)
{
    (void)state;
    static const struct {
        int type, depth, channels;
    } kind[] = {{GREY, 1, 1},    {GREY, 2, 1}, {GREY, 4, 1},    {GREY, 8, 1},       {GREY, 16, 1},
                {RGB, 8, 3},     {RGB, 16, 3}, {PALETTE, 1, 1}, {PALETTE, 2, 1},    {PALETTE, 4, 1},
                {PALETTE, 8, 1}, {RGBA, 8, 4}, {RGBA, 16, 4},   {GREY_ALPHA, 8, 2}, {GREY_ALPHA, 16, 2}};
    const uint32_t w = 29, h = 37;
    struct test_rng rng = test_rng_new("png");
    for (size_t i = 0; i < 2 * sizeof(kind) / sizeof(*kind); i++) {
        const int type = kind[i / 2].type, depth = kind[i / 2].depth;
        const size_t row = ((size_t)w * (size_t)kind[i / 2].channels * (size_t)depth + 7) / 8;
        uint8_t *rows = malloc(row * h), *rgb = malloc((size_t)3 * w * h);
        assert_true(rows && rgb);
        for (size_t b = 0; b < row * h; b++)
            rows[b] = (uint8_t)test_rand(&rng);
        for (uint32_t y = 0; y < h; y++)
            for (uint32_t x = 0; x < w; x++)
                png_pixel(rgb + (size_t)3 * (y * w + x), rows + y * row, x, type, depth);
        struct png_how how = {
            .color_type = type, .depth = depth, .interlaced = i % 2, .transparent = type <= PALETTE};
        expect("PNG", picture_png(rows, row, w, h, &how), rgb, w, h, 0);
        free(rows);
        free(rgb);
    }
}

static void test_png_orientations(void **state)
{
    (void)state;
    const uint32_t w = 5, h = 34;
    uint8_t *rgb = picture_draw(w, h);
    for (unsigned o = 1; o <= 8; o++) {
        uint32_t out_w;
        uint8_t *want = turned(rgb, w, h, o, &out_w);
        struct png_how how = {.color_type = RGB, .depth = 8, .orientation = o};
        expect("turned PNG", picture_png(rgb, (size_t)3 * w, w, h, &how), want, out_w, w * h / out_w, 0);
        free(want);
    }
    free(rgb);
}

static void test_png_cut(void **state)
{
    (void)state;
    unsigned used;
    struct test_rng rng = test_rng_new("png-cut");
    uint8_t *rgb = malloc((size_t)3 * 80 * 60);
    assert_non_null(rgb);
    for (size_t i = 0; i < (size_t)3 * 80 * 60; i++)
        rgb[i] = (uint8_t)test_rand(&rng); /* noise, so that bytes and rows go together */
    for (int interlaced = 0; interlaced < 2; interlaced++) {
        struct png_how how = {.color_type = RGB, .depth = 8, .interlaced = interlaced};
        struct encoded e = picture_png(rgb, 240, 80, 60, &how);
        expect_cut(e, &used);
        (void)printf("PNG interlaced %d: %u of 216 cuts used\n", interlaced, used);
        assert_true(used >= (interlaced ? 1 : 7));
        if (!interlaced) { /* noise: bytes and rows go together */
            struct shown s = show((struct encoded){e.p, e.n * 3 / 5});
            assert_int_equal(s.r, 0);
            assert_in_range(s.height, 30, 36);
            free(s.rgb);
        }
        free(e.p);
    }
    free(rgb);
}
#endif

/* -------------------------------------------------------------------------------------------------- WebP */
#ifdef VL_HAVE_WEBP
static void test_webp_kinds(void **state)
{
    (void)state;
    const uint32_t w = 60, h = 44;
    uint8_t *rgb = picture_draw(w, h), *rgba = malloc((size_t)4 * w * h);
    assert_non_null(rgba);
    for (size_t i = 0; i < (size_t)w * h; i++) {
        memcpy(rgba + 4 * i, rgb + 3 * i, 3);
        rgba[4 * i + 3] = (uint8_t)(i % 255 + 1); /* not 0: the encoder changes what nobody sees */
    }
    expect("lossy", picture_webp(rgb, w, h, 3, false), rgb, w, h, 12);
    expect("lossless", picture_webp(rgb, w, h, 3, true), rgb, w, h, 0);
    expect("lossy with alpha", picture_webp(rgba, w, h, 4, false), rgb, w, h, 12);
    expect("lossless with alpha", picture_webp(rgba, w, h, 4, true), rgb, w, h, 0);
    struct encoded plain = picture_webp(rgb, w, h, 3, true);
    for (unsigned o = 1; o <= 8; o++)
        expect_turned(picture_webp_turned(plain, w, h, o), rgb, w, h, o, 0);
    free(plain.p);
    free(rgba);
    free(rgb);
}

static void test_webp_animated(void **state)
{
    (void)state;
    const uint32_t w = 20, h = 10;
    uint8_t *rgb = picture_draw(w, h), *canvas = calloc((size_t)40 * 30, 3);
    assert_non_null(canvas);
    struct encoded plain = picture_webp(rgb, w, h, 3, true);
    for (uint32_t y = 0; y < h; y++)
        memcpy(canvas + (size_t)3 * (40 * (y + 8) + 6), rgb + (size_t)3 * w * y, (size_t)3 * w);
    expect("first frame", picture_webp_animated(plain, w, h, 6, 8, 40, 30), canvas, 40, 30, 0);
    expect_refused(picture_webp_animated(plain, w, h, 22, 8, 40, 30), -EBADMSG, "canvas");
    expect_refused(picture_webp_animated(plain, w, h + 1, 6, 8, 40, 30), -EBADMSG, "sizes");
    free(plain.p);
    free(canvas);
    free(rgb);
}

static void test_webp_cut(void **state)
{
    (void)state;
    unsigned used;
    uint8_t *rgb = picture_draw(64, 48);
    for (int lossless = 0; lossless < 2; lossless++) {
        struct encoded plain = picture_webp(rgb, 64, 48, 3, lossless),
                       moving = picture_webp_animated(plain, 64, 48, 0, 0, 64, 48);
        expect_cut(plain, &used);
        expect_cut(moving, &used);
        free(moving.p);
        free(plain.p);
    }
    free(rgb);
}
#endif

/* --------------------------------------------------------------------------------------- what all refuse */

static void test_bombs(void **state)
{
    (void)state;
    static const uint32_t size[][2] = {{8192, 8192}, {16384, 16384}, {65500, 65500}, {8193, 1}, {1, 8193}};
    struct rusage before, after;
    assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
    for (size_t i = 0; i < sizeof(size) / sizeof(*size); i++) {
#ifdef VL_HAVE_JPEG
        expect_bomb(picture_jpeg_bomb(size[i][0], size[i][1]), "8192");
#endif
#ifdef VL_HAVE_PNG
        expect_bomb(picture_png_bomb(size[i][0], size[i][1]), "8192");
#endif
#ifdef VL_HAVE_WEBP
        if (size[i][0] <= 16384 && size[i][1] <= 16384)
            expect_bomb(picture_webp_bomb(size[i][0], size[i][1]), "8192");
#endif
    }
#ifdef VL_HAVE_PNG
    expect_bomb(picture_png_bomb(UINT32_MAX, UINT32_MAX), "4294967295");
    expect_refused(picture_png_bomb(0, 5), -EBADMSG, "0 x 5");
#endif
    assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
    (void)printf("bombs: the peak rose by %ld KiB\n", after.ru_maxrss - before.ru_maxrss);
    assert_true(after.ru_maxrss - before.ru_maxrss <= 1024);
}

static void test_others_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *word;
    } other[] = {{"GIF89a..........", "GIF"},
                 {"BM..............", "BMP"},
                 {"....ftypheic....", "HEIC"},
                 {"....ftypavif....", "AVIF"},
                 {"%PDF-1.7........", "PDF"},
                 {"\xFF\x0A..............", "JPEG XL"},
#ifndef VL_HAVE_JPEG
                 {"\xFF\xD8\xFF\xE0............", "without libjpeg"},
#endif
#ifndef VL_HAVE_PNG
                 {"\x89PNG\r\n\x1A\n........", "without libpng"},
#endif
#ifndef VL_HAVE_WEBP
                 {"RIFF....WEBPVP8 ", "without libwebp"},
#endif
                 {"hello, world....", "no JPEG"},
                 {"RIFF....AVI ....", "no JPEG"},
                 {"", "no JPEG"}};
    for (size_t i = 0; i < sizeof(other) / sizeof(*other); i++) {
        struct encoded e = {(uint8_t *)strdup(other[i].bytes), strlen(other[i].bytes)};
        expect_refused(e, -ENOTSUP, other[i].word);
    }
}

static void test_exif_is_not_trusted(void **state)
{
    (void)state;
    static const uint8_t tiff[26] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, 6};
    struct test_rng rng = test_rng_new("exif");
    assert_int_equal(vl_exif_orientation(tiff, sizeof(tiff)), 6);
    for (size_t n = 0; n < sizeof(tiff); n++) {
        uint8_t *exact = malloc(n ? n : 1);
        assert_non_null(exact);
        memcpy(exact, tiff, n);
        assert_in_range(vl_exif_orientation(exact, n), 1, 8);
        free(exact);
    }
    for (int i = 0; i < 20000; i++) {
        uint8_t *exact = malloc(sizeof(tiff));
        assert_non_null(exact);
        memcpy(exact, tiff, sizeof(tiff));
        for (int j = 0; j < 3; j++)
            exact[test_randn(&rng, sizeof(tiff))] = (uint8_t)test_rand(&rng);
        assert_in_range(vl_exif_orientation(exact, sizeof(tiff)), 1, 8);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bombs), /* first: it looks at the peak of memory */
#ifdef VL_HAVE_JPEG
        cmocka_unit_test(test_jpeg_kinds),
        cmocka_unit_test(test_jpeg_sizes),
        cmocka_unit_test(test_jpeg_orientations),
        cmocka_unit_test(test_jpeg_shrinks),
        cmocka_unit_test(test_jpeg_cut),
        cmocka_unit_test(test_jpeg_scans),
        cmocka_unit_test(test_jpeg_lies),
#endif
#ifdef VL_HAVE_PNG
        cmocka_unit_test(test_png_kinds),
        cmocka_unit_test(test_png_orientations),
        cmocka_unit_test(test_png_cut),
#endif
#ifdef VL_HAVE_WEBP
        cmocka_unit_test(test_webp_kinds),
        cmocka_unit_test(test_webp_animated),
        cmocka_unit_test(test_webp_cut),
#endif
        cmocka_unit_test(test_others_by_name),
        cmocka_unit_test(test_exif_is_not_trusted),
    };
    return cmocka_run_group_tests_name("still", tests, NULL, NULL);
}
