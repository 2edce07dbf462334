/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Reads the tap files that tests/reference/taps.py wrote, and draws the pictures of
 * tests/reference/make_smolvlm.py. A test's own file: what does not fit ends the test. */
#ifndef VL_TESTS_GOLDEN_TAPS_H
#define VL_TESTS_GOLDEN_TAPS_H
#include "base/frame.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>

struct test_taps {
    uint8_t *bytes;
    size_t size;
    uint32_t n;
};
struct test_tap_entry {
    char name[48];
    uint32_t type, n_dims, dim[4]; /* type: 0 f32, 1 i32, 2 u8 */
    uint64_t offset;
};

static inline struct test_taps test_taps_open(const char *path)
{
    struct test_taps t = {0};
    FILE *f = fopen(path, "rb");
    if (!f) {
        (void)printf("cannot open %s\n", path);
        abort();
    }
    (void)fseek(f, 0, SEEK_END);
    t.size = (size_t)ftell(f);
    rewind(f);
    t.bytes = malloc(t.size);
    if (!t.bytes || fread(t.bytes, 1, t.size, f) != t.size || memcmp(t.bytes, "VLTAPS01", 8) != 0)
        abort();
    (void)fclose(f);
    memcpy(&t.n, t.bytes + 8, 4);
    return t;
}

static inline void test_taps_close(struct test_taps *t)
{
    free(t->bytes);
    *t = (struct test_taps){0};
}

static inline struct test_tap_entry test_tap_at(const struct test_taps *t, uint32_t i)
{
    struct test_tap_entry e;
    memcpy(&e, t->bytes + 16 + 80 * (size_t)i, sizeof(e));
    return e;
}

/* Data of the tap of that name, or NULL. */
static inline const void *test_tap_find(const struct test_taps *t, const char *name,
                                        struct test_tap_entry *ret)
{
    for (uint32_t i = 0; i < t->n; i++) {
        *ret = test_tap_at(t, i);
        if (strcmp(ret->name, name) == 0)
            return t->bytes + ret->offset;
    }
    return NULL;
}

static inline const void *test_tap(const struct test_taps *t, const char *name, struct test_tap_entry *ret)
{
    const void *data = test_tap_find(t, name, ret);
    if (!data) {
        (void)printf("no tap '%s'\n", name);
        abort();
    }
    return data;
}

/* The greedy choice: the largest of n logits, the first of equals. */
static inline int32_t test_argmax(const float *logits, uint32_t n)
{
    uint32_t k = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[k])
            k = i;
    return (int32_t)k;
}

/* The picture that the reference drew, [h, w, 3], by malloc. */
static inline uint8_t *test_picture(uint32_t w, uint32_t h)
{
    uint8_t *p = malloc(3 * (size_t)w * h), *at = p;
    for (uint32_t y = 0; p && y < h; y++)
        for (uint32_t x = 0; x < w; x++, at += 3) {
            uint32_t n = x * 2654435761u + y * 2246822519u;
            n ^= n >> 15;
            n *= 739982445u;
            n ^= n >> 12;
            at[0] = (uint8_t)(x * 255 / w);
            at[1] = (uint8_t)n;
            at[2] = (uint8_t)(x * 5 + y * 3);
        }
    return p;
}

/* An RGB frame over pixels that outlive it. */
static inline struct vl_frame test_frame_rgb(const uint8_t *pixels, uint32_t w, uint32_t h)
{
    return (struct vl_frame){
        .plane = {pixels}, .stride = {3 * w}, .width = w, .height = h, .format = VL_PIXFMT_RGB24, .refs = 1};
}
#endif
