/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The tiny SmolVLM pairs against what Hugging Face computed with the same weights: exact for pixels, ids and
 * positions, and otherwise within 2e-5 of the activation's RMS, 1e-4 for logits, on the C reference; kernels
 * of the machine's own ISA may stray further, by the format. Controls show that the comparison can fail.
 */
#include "model/model_private.h"
#include "tests/golden/taps.h"
#include "weights/weights.h"

#include <errno.h>

#define BOUND       2e-5 /* of the activation's RMS */
#define LOGIT_BOUND 1e-4

enum { SCRATCH = 64 << 20, MAX_IDS = 512, MAX_KEPT = 64, N_LOGITS = 16 };

struct kept {
    char name[48];
    size_t n;
    float *data; /* u8 as its numbers */
};

struct fixture {
    struct vl_exec x, ex;
    struct vl_arena arena, encode_arena;
    void *mem, *encode_mem;
    struct vl_model *m;
    const struct vl_arch *arch;
    struct vl_encode *e;
    struct vl_kv_pool *pool;
    struct test_taps want;
    struct kept kept[MAX_KEPT];
    int n_kept;
};

static void keep(void *user, const char *name, const struct vl_tensor *t)
{
    struct fixture *f = user;
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->dim[i];
    int i = 0;
    while (i < f->n_kept && strcmp(f->kept[i].name, name) != 0)
        i++;
    assert_true(i < MAX_KEPT);
    if (i == f->n_kept)
        f->n_kept++;
    free(f->kept[i].data);
    struct kept *k = &f->kept[i];
    *k = (struct kept){.n = n, .data = malloc(n * sizeof(float))};
    (void)snprintf(k->name, sizeof(k->name), "%s", name);
    for (size_t j = 0; j < n; j++)
        k->data[j] = t->dtype == VL_U8 ? ((const uint8_t *)t->data)[j] : ((const float *)t->data)[j];
}

static void open_exec(struct vl_exec *x, struct vl_arena *a, void **mem, const struct fixture *f)
{
    *x = f->x;
    assert_int_equal(x->ops->alloc(x->device, SCRATCH, false, mem), 0);
    vl_arena_init(a, *mem, SCRATCH);
    x->scratch = a;
}

static void open_pair(struct fixture *f, const char *name, const char *spec)
{
    char text[512], mmproj[512], taps[512];
    struct vl_error err = {0, ""};
    (void)snprintf(text, sizeof(text), "%s/smolvlm/%s-text.gguf", GOLDEN_DIR, name);
    (void)snprintf(mmproj, sizeof(mmproj), "%s/smolvlm/%s-mmproj.gguf", GOLDEN_DIR, name);
    (void)snprintf(taps, sizeof(taps), "%s/smolvlm/%s.taps", GOLDEN_DIR, name);
    *f = (struct fixture){.want = test_taps_open(taps)};
    f->x = (struct vl_exec){.ops = vl_backend_find("cpu"), .tap = keep, .tap_user = f};
    assert_int_equal(f->x.ops->open(&f->x.device, spec, &err), 0);
    open_exec(&f->ex, &f->encode_arena, &f->encode_mem, f);
    open_exec(&f->x, &f->arena, &f->mem, f);
    if (vl_model_new(&f->m, text, mmproj, &f->x, &err) < 0)
        fail_msg("%s", err.msg);
    f->arch = vl_model_arch(f->m);
    struct vl_kv_geometry g = vl_model_get_desc(f->m)->kv;
    g.k_dtype = g.v_dtype = VL_F32;
    size_t bytes = vl_kv_geometry_bytes(&g, MAX_IDS, MAX_IDS, 8);
    assert_int_equal(vl_kv_pool_new(&f->pool, &f->x, &g, bytes, NULL, &err), 0);
    assert_int_equal(vl_encode_new(&f->e, f->m, &f->ex, false), 0);
}

static void close_pair(struct fixture *f)
{
    vl_encode_unref(f->e);
    vl_kv_pool_unref(f->pool);
    vl_model_unref(f->m);
    f->x.ops->free(f->x.device, f->mem);
    f->x.ops->free(f->x.device, f->encode_mem);
    f->x.ops->close(f->x.device);
    for (int i = 0; i < f->n_kept; i++)
        free(f->kept[i].data);
    test_taps_close(&f->want);
}

static double difference(const float *got, const float *want, size_t n, double *ret_rms)
{
    double max = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        max = d > max || d != d ? d : max;
        sum += (double)want[i] * want[i];
    }
    *ret_rms = sqrt(sum / (double)n);
    return max;
}

static void check(const struct fixture *f, const char *tap, const float *got, size_t n, double bound)
{
    struct test_tap_entry e;
    const float *want = test_tap(&f->want, tap, &e);
    double rms;
    assert_int_equal(n, (size_t)e.dim[0] * e.dim[1] * e.dim[2] * e.dim[3]);
    double max = difference(got, want, n, &rms);
    (void)printf("  %-12s max error %.2e of RMS %.3g\n", tap, max / rms, rms);
    if (!(max <= bound * rms)) {
        size_t i = 0;
        while (i < n && fabs((double)got[i] - want[i]) <= bound * rms)
            i++;
        fail_msg("tap %s differs first at %zu: %.9g, reference %.9g", tap, i, (double)got[i],
                 (double)want[i]);
    }
}

static void check_kept(const struct fixture *f, const char *tap, double bound)
{
    for (int i = 0; i < f->n_kept; i++)
        if (strcmp(f->kept[i].name, tap) == 0) {
            check(f, tap, f->kept[i].data, f->kept[i].n, bound);
            return;
        }
    fail_msg("the model has no tap %s", tap);
}

/* ---- what the prompt of the reference is made of ---- */

static void encode(struct fixture *f, uint32_t w, uint32_t h, unsigned step, struct vl_visual_tokens *ret)
{
    uint8_t *pixels = test_picture(w, h);
    struct vl_frame frame = test_frame_rgb(pixels, w, h), *frames[] = {&frame};
    const struct vl_unit unit = {.frame = frames, .n_frames = 1};
    assert_int_equal(f->arch->encode_begin(f->m, f->e, &unit, 1), 0);
    free(pixels);
    int r;
    while ((r = f->arch->encode_step(f->e, step, ret)) == VL_ENCODE_MORE)
        ;
    assert_int_equal(r, 0);
}

static void put(struct fixture *f, struct vl_chunk *c, enum vl_part part, const char *text, int64_t seconds)
{
    assert_int_equal(f->arch->render(f->m, part, text, seconds * 1000000000 + 999999999, c), 0);
}

static void put_said(struct fixture *f, struct vl_chunk *c, const char *text)
{
    uint32_t n;
    assert_int_equal(vl_tokenizer_encode(vl_model_tokenizer(f->m), text, strlen(text), false, c->id + c->n,
                                         c->cap - c->n, &n),
                     0);
    c->n += n;
}

/* The same timeline as PROMPT of make_smolvlm.py. */
static void render(struct fixture *f, struct vl_chunk *c)
{
    put(f, c, VL_PART_SYSTEM, NULL, 0);
    put(f, c, VL_PART_FRAME, NULL, 3725);
    put_said(f, c, " A red circle appeared");
    put(f, c, VL_PART_CAPTION_END, NULL, 0);
    put(f, c, VL_PART_FRAME, NULL, 46799);
    put(f, c, VL_PART_CAPTION_END, NULL, 0);
    put(f, c, VL_PART_QUESTION, "Where is the <image> now, 42?", 0);
}

static void check_ids(const struct fixture *f, const struct vl_chunk *c)
{
    struct test_tap_entry e;
    const int32_t *want = test_tap(&f->want, "ids", &e);
    for (uint32_t i = 0; i < c->n && i < e.dim[0]; i++)
        if (c->id[i] != want[i])
            fail_msg("id %u is %d, reference %d", i, c->id[i], want[i]);
    assert_int_equal(c->n, e.dim[0]);
    assert_int_equal(c->n_places, 2 * vl_model_get_desc(f->m)->frame_tokens);
}

/* Appends ids as text and visual segments, places in the order of the rows. */
static void append(struct fixture *f, struct vl_kv *kv, const int32_t *id, uint32_t n,
                   const struct vl_visual_tokens *tok)
{
    int64_t rel[MAX_IDS][3];
    uint64_t unit = 0;
    for (uint32_t i = 0, len; i < n; i += len) {
        for (len = 1; i + len < n && (id[i + len] < 0) == (id[i] < 0); len++)
            ;
        struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = len, .extent = len, .unit = unit};
        if (id[i] < 0) {
            assert_int_equal(f->arch->positions(f->m, tok, rel, &s.extent), 0);
            s.kind = VL_KV_VISUAL;
            s.rel = (const int64_t(*)[3])rel;
            s.unit = ++unit;
        }
        uint32_t slot;
        assert_int_equal(vl_kv_append(kv, &f->x, &s, &slot), 0);
    }
}

static void check_positions(const struct fixture *f, struct vl_kv *kv)
{
    struct test_tap_entry e;
    const int32_t *want = test_tap(&f->want, "positions", &e);
    const int64_t(*pos)[3] = vl_kv_positions(kv, 0);
    assert_int_equal(vl_kv_n_tokens(kv), e.dim[0]);
    for (uint32_t i = 0; i < e.dim[0]; i++)
        for (int axis = 0; axis < 3; axis++)
            assert_int_equal(pos[i][axis], want[i]);
}

static int32_t step(struct fixture *f, struct vl_kv *kv, int32_t id)
{
    const struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = 1, .extent = 1, .unit = 100};
    struct vl_span span = {.kv = kv, .n = 1, .n_logits = 1};
    const struct vl_batch b = {.id = &id, .span = &span, .n_spans = 1, .n = 1};
    struct vl_tensor logits;
    assert_int_equal(vl_kv_append(kv, &f->x, &s, &span.slot), 0);
    assert_int_equal(f->arch->run(f->m, &f->x, &b, &logits), 0);
    int32_t k = test_argmax(logits.data, logits.dim[1]);
    vl_arena_reset(&f->arena, 0);
    return k;
}

static void check_greedy(struct fixture *f, struct vl_kv *kv, int32_t id)
{
    struct test_tap_entry e;
    const int32_t *want = test_tap(&f->want, "greedy", &e);
    f->x.tap = NULL;
    for (uint32_t i = 0; i < e.dim[0]; i++) {
        if (id != want[i])
            fail_msg("greedy token %u is %d, reference %d", i, id, want[i]);
        id = step(f, kv, id);
    }
    f->x.tap = keep;
}

/* ---- tests ---- */

static void check_pixels(const struct fixture *f, const char *tap)
{
    struct test_tap_entry e;
    const uint8_t *want = test_tap(&f->want, tap, &e);
    for (int i = 0; i < f->n_kept; i++)
        if (strcmp(f->kept[i].name, "pixels") == 0)
            for (size_t j = 0; j < f->kept[i].n; j++)
                if (f->kept[i].data[j] != want[j])
                    fail_msg("byte %zu of %s is %g, reference %d", j, tap, (double)f->kept[i].data[j],
                             want[j]);
}

static void check_vision(struct fixture *f, float *rows, struct vl_visual_tokens *tok)
{
    char tap[16];
    encode(f, 90, 50, 1, tok);
    check_pixels(f, "pixels");
    check_kept(f, "patches", 1e-6);
    check_kept(f, "vit.embed", BOUND);
    for (uint32_t l = 0; l < vl_model_get_desc(f->m)->n_encode_layers; l++) {
        (void)snprintf(tap, sizeof(tap), "vit.%u", l);
        check_kept(f, tap, BOUND);
    }
    check_kept(f, "vit.post", BOUND);
    check_kept(f, "proj.shuffle", BOUND);
    check_kept(f, "proj", BOUND);
    size_t n = (size_t)tok->n * tok->feat.dim[1];
    memcpy(rows, tok->feat.data, n * sizeof(*rows));
    encode(f, 33, 47, 100, tok); /* all layers at once; the first picture's tables and tokens are gone */
    check_pixels(f, "pixels.second");
    memcpy(rows + n, tok->feat.data, n * sizeof(*rows));
    check(f, "proj.second", rows + n, n, BOUND);
}

static void check_decoder(struct fixture *f, struct vl_kv *kv, const struct vl_chunk *c, float *rows,
                          const struct vl_visual_tokens *tok)
{
    const struct vl_model_desc *d = vl_model_get_desc(f->m);
    char tap[16];
    append(f, kv, c->id, c->n, tok);
    check_positions(f, kv);
    const struct vl_tensor row = vl_tensor_2d(rows, VL_F32, 2 * d->frame_tokens, d->d_model);
    const struct vl_span span = {.kv = kv, .n = c->n, .n_logits = N_LOGITS};
    const struct vl_batch b = {.id = c->id, .row = &row, .span = &span, .n_spans = 1, .n = c->n};
    struct vl_tensor logits;
    assert_int_equal(f->arch->run(f->m, &f->x, &b, &logits), 0);
    check_kept(f, "dec.embed", BOUND);
    for (uint32_t l = 0; l < d->kv.n_layers; l++) {
        (void)snprintf(tap, sizeof(tap), "dec.%u", l);
        check_kept(f, tap, BOUND);
    }
    check_kept(f, "dec.norm", BOUND);
    check_kept(f, "logits", LOGIT_BOUND);
    int32_t first = test_argmax((const float *)logits.data + (size_t)(N_LOGITS - 1) * d->n_vocab, d->n_vocab);
    vl_arena_reset(&f->arena, 0);
    check_greedy(f, kv, first);
}

static void check_pair(const char *name, const char *spec)
{
    struct fixture f;
    struct vl_visual_tokens tok;
    int32_t id[MAX_IDS];
    struct vl_chunk c = {.id = id, .cap = MAX_IDS};
    (void)printf("%s, %s\n", name, spec ? spec : "best");
    open_pair(&f, name, spec);
    float *rows = malloc(2 * (size_t)vl_model_get_desc(f.m)->frame_tokens * vl_model_get_desc(f.m)->d_model *
                         sizeof(*rows));
    vl_auto(vl_kv) kv = NULL;
    assert_int_equal(vl_kv_new(&kv, f.pool, NULL, NULL, MAX_IDS, NULL), 0);
    check_vision(&f, rows, &tok);
    render(&f, &c);
    check_ids(&f, &c);
    check_decoder(&f, kv, &c, rows, &tok);
    free(rows);
    kv = vl_kv_unref(kv);
    close_pair(&f);
}

static const char *const pairs[] = {"odd-f32", "odd-f16", "even-q8_0"};

static void test_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        check_pair(pairs[i], "isa=c");
}

static void test_best(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        check_pair(pairs[i], NULL);
}

/* Two likely mistakes lie far outside every bound: q and k left in the file's order, and dx, dy of the
 * shuffle exchanged. */
static void test_controls(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/smolvlm/%s.taps", GOLDEN_DIR, pairs[i]);
        struct test_taps t = test_taps_open(path);
        struct test_tap_entry e, wrong;
        double rms;
        const float *logits = test_tap(&t, "logits", &e),
                    *permuted = test_tap(&t, "control.permuted.logits", &wrong);
        double far = difference(permuted, logits + (size_t)(e.dim[0] - 1) * e.dim[1], e.dim[1], &rms);
        assert_true(far > 0.1 * rms);
        const float *proj = test_tap(&t, "proj", &e);
        far = difference(test_tap(&t, "control.shuffled.proj", &wrong), proj, (size_t)e.dim[0] * e.dim[1],
                         &rms);
        assert_true(far > 0.1 * rms);
        test_taps_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_best),
        cmocka_unit_test(test_controls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
