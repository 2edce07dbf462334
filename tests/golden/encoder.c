/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What a reducer does before and in the encoder, on the tiny SmolVLM pairs: smaller views and saliency
 * against what Hugging Face computed; merging against the same pass without it, where nothing may change. And
 * a look compared with the one before it, against PyTorch's convolution over both.
 */
#include "model/model_private.h"
#include "tests/golden/taps.h"
#include "tokenprune/reducer.h"
#include "vision/vit.h"
#include "weights/weights.h"

#define BOUND 2e-5 /* of the RMS */

enum { SCRATCH = 64 << 20, MAX_TOKENS = 16, MAX_PATCHES = 81, MAX_WIDTH = 64 };

static const char *const pairs[] = {"odd-f32", "odd-f16", "even-q8_0"};

struct fixture {
    struct vl_exec x, ex;
    struct vl_arena arena, encode_arena;
    void *mem, *encode_mem;
    struct vl_model *m;
    const struct vl_arch *arch;
    const struct vl_model_desc *d;
    struct vl_encode *e;
    uint8_t pixels[64 * 64 * 3];
    float embed[MAX_PATCHES * MAX_WIDTH];
    size_t n_pixels, n_embed;
};

static void keep(void *user, const char *name, const struct vl_tensor *t)
{
    struct fixture *f = user;
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->dim[i];
    if (strcmp(name, "pixels") == 0 && n <= sizeof(f->pixels)) {
        memcpy(f->pixels, t->data, n);
        f->n_pixels = n;
    } else if (strcmp(name, "vit.embed") == 0 && n <= MAX_PATCHES * MAX_WIDTH) {
        memcpy(f->embed, t->data, n * sizeof(float));
        f->n_embed = n;
    }
}

static void open_exec(struct vl_exec *x, struct vl_arena *a, void **mem, const struct fixture *f)
{
    *x = f->x;
    assert_int_equal(x->ops->alloc(x->device, SCRATCH, false, mem), 0);
    vl_arena_init(a, *mem, SCRATCH);
    x->scratch = a;
}

static void path_of(char *ret, size_t cap, const char *pair, const char *kind)
{
    (void)snprintf(ret, cap, "%s/smolvlm/%s-%s.gguf", GOLDEN_DIR, pair, kind);
}

static void open_pair(struct fixture *f, const char *name)
{
    char text[512], mmproj[512];
    struct vl_error err = {0, ""};
    path_of(text, sizeof(text), name, "text");
    path_of(mmproj, sizeof(mmproj), name, "mmproj");
    memset(f, 0, sizeof(*f));
    f->x = (struct vl_exec){.ops = vl_backend_find("cpu"), .tap = keep, .tap_user = f};
    assert_int_equal(f->x.ops->open(&f->x.device, "isa=c", &err), 0);
    open_exec(&f->ex, &f->encode_arena, &f->encode_mem, f);
    open_exec(&f->x, &f->arena, &f->mem, f);
    if (vl_model_new(&f->m, text, mmproj, &f->x, &err) < 0)
        fail_msg("%s", err.msg);
    f->arch = vl_model_arch(f->m);
    f->d = vl_model_get_desc(f->m);
    assert_int_equal(vl_encode_new(&f->e, f->m, &f->ex, false), 0);
}

static void close_pair(struct fixture *f)
{
    vl_encode_unref(f->e);
    vl_model_unref(f->m);
    f->x.ops->free(f->x.device, f->mem);
    f->x.ops->free(f->x.device, f->encode_mem);
    f->x.ops->close(f->x.device);
}

/* u's frame is a picture of this size. */
static void encode_unit(struct fixture *f, uint32_t w, uint32_t h, struct vl_unit u,
                        struct vl_visual_tokens *ret)
{
    uint8_t *pixels = test_picture(w, h);
    struct vl_frame frame = test_frame_rgb(pixels, w, h), *frames[] = {&frame};
    u.frame = frames;
    u.n_frames = 1;
    assert_int_equal(f->arch->encode_begin(f->m, f->e, &u, 1), 0);
    free(pixels);
    int r;
    while ((r = f->arch->encode_step(f->e, 1, ret)) == VL_ENCODE_MORE)
        ;
    assert_int_equal(r, 0);
}

static void encode(struct fixture *f, const struct vl_reducer *red, uint32_t budget,
                   struct vl_visual_tokens *ret)
{
    encode_unit(f, 90, 50, (struct vl_unit){.budget = budget, .reducer = red}, ret);
}

static void check(const struct test_taps *want, const char *pair, uint32_t grid, const char *what,
                  const float *got, size_t n)
{
    char name[48];
    struct test_tap_entry e;
    double max = 0, sum = 0;
    (void)snprintf(name, sizeof(name), "%s.%u.%s", pair, grid, what);
    const float *ref = test_tap(want, name, &e);
    assert_int_equal(n, (size_t)e.dim[0] * e.dim[1]);
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)ref[i]);
        max = d > max || d != d ? d : max;
        sum += (double)ref[i] * (double)ref[i];
    }
    double rms = sqrt(sum / (double)n);
    (void)printf("  %-24s max error %.2e of RMS %.3g\n", name, max / rms, rms);
    if (!(max <= BOUND * rms))
        fail_msg("%s differs from the reference", name);
}

/* ---- smaller views ---- */

struct watcher {
    uint32_t grid;
};

static int watch_view(void *state, uint32_t shuffle, uint32_t budget, uint32_t *inout_grid)
{
    const struct watcher *w = state;
    (void)budget;
    assert_true(w->grid % shuffle == 0 && w->grid <= *inout_grid);
    *inout_grid = w->grid;
    return 0;
}

static const struct vl_reducer_ops watcher_ops = {
    .name = "watcher", .wants_saliency = true, .view = watch_view};

static void check_grid(struct fixture *f, const struct test_taps *want, const char *pair, uint32_t grid,
                       uint32_t shuffle)
{
    const uint32_t side = grid / shuffle, n = side * side;
    struct watcher w = {grid};
    const struct vl_reducer red = {.ops = &watcher_ops, .state = &w};
    struct vl_reducer small = {.ops = NULL};
    const struct vl_reducer_ops *ops;
    const struct vl_reducer_shape shape = {.max_tokens = f->d->frame_tokens, .d_model = f->d->d_model};
    struct vl_visual_tokens tok;
    struct test_tap_entry e;
    char name[48];
    encode(f, &red, n, &tok);
    (void)snprintf(name, sizeof(name), "%s.%u.pixels", pair, grid);
    const uint8_t *pixels = test_tap(want, name, &e);
    assert_int_equal(f->n_pixels, (size_t)e.dim[0] * e.dim[1] * e.dim[2]);
    assert_memory_equal(f->pixels, pixels, f->n_pixels);
    check(want, pair, grid, "embed", f->embed, f->n_embed);
    check(want, pair, grid, "proj", tok.feat.data, (size_t)tok.n * tok.feat.dim[1]);
    check(want, pair, grid, "saliency", tok.saliency.data, tok.n);

    /* The registered reducer asks for the same view, and without saliency no bit is another. */
    float *feat = malloc((size_t)n * f->d->d_model * sizeof(*feat));
    memcpy(feat, tok.feat.data, (size_t)n * f->d->d_model * sizeof(*feat));
    assert_int_equal(vl_reducer_find(&ops, "resolution", NULL), 0);
    assert_int_equal(vl_reducer_init(&small, ops, NULL, &shape, NULL), 0);
    encode(f, &small, n, &tok);
    assert_int_equal(tok.n, n);
    assert_null(tok.saliency.data);
    assert_memory_equal(tok.feat.data, feat, (size_t)n * f->d->d_model * sizeof(*feat));
    vl_reducer_done(&small);
    free(feat);
    for (uint32_t i = 0; i < n; i++)
        assert_true(tok.pos[i].x < tok.grid_w && tok.pos[i].y < tok.grid_h &&
                    (i == 0 || tok.pos[i].y > tok.pos[i - 1].y || tok.pos[i].x > tok.pos[i - 1].x));
    assert_int_equal(tok.grid_w * tok.grid_h, f->d->frame_tokens);
}

static void test_small(void **state)
{
    (void)state;
    static struct fixture f;
    struct test_taps want = test_taps_open(GOLDEN_DIR "/smolvlm/small.taps");
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        open_pair(&f, pairs[i]);
        uint32_t whole = (uint32_t)lround(sqrt(f.d->view_patches)),
                 shuffle = whole / (uint32_t)lround(sqrt(f.d->frame_tokens));
        for (uint32_t grid = shuffle; grid <= whole; grid += shuffle)
            check_grid(&f, &want, pairs[i], grid, shuffle);
        close_pair(&f);
    }
    test_taps_close(&want);
}

/* Places of a smaller view lie in the middle of its tokens' areas, evenly over the whole grid. */
static void test_places(void **state)
{
    (void)state;
    static struct fixture f;
    struct watcher w = {6};
    const struct vl_reducer red = {.ops = &watcher_ops, .state = &w};
    struct vl_visual_tokens tok;
    int64_t rel[MAX_TOKENS][3], extent;
    open_pair(&f, "odd-f32"); /* 3 x 3 tokens; 2 x 2 of a view of 6 patches */
    encode(&f, &red, 4, &tok);
    assert_int_equal(f.arch->positions(f.m, &tok, rel, &extent), 0);
    static const int64_t at[] = {0, 2, 6, 8};
    for (int i = 0; i < 4; i++)
        assert_int_equal(rel[i][0], at[i]);
    assert_int_equal(extent, 9);
    close_pair(&f);
}

/* ---- the look before ---- */

static void check_change(struct fixture *f, const struct test_taps *want, const char *pair, uint32_t grid)
{
    struct watcher w = {grid};
    const struct vl_reducer red = {.ops = &watcher_ops, .state = &w};
    struct vl_unit u = {.budget = 1, .reducer = &red};
    struct vl_visual_tokens tok;
    struct test_tap_entry e;
    char name[48];
    uint8_t *rgb = malloc(2 * f->d->look_bytes);
    struct vl_look before = {.rgb = rgb}, look = {.rgb = rgb + f->d->look_bytes};
    u.look = &before;
    encode_unit(f, 33, 47, u, &tok);
    (void)snprintf(name, sizeof(name), "%s.%u.before", pair, grid);
    const uint8_t *pixels = test_tap(want, name, &e);
    assert_int_equal(before.edge, e.dim[0]);
    assert_memory_equal(before.rgb, pixels, 3 * (size_t)before.edge * before.edge);
    u.before = &before;
    u.look = &look;
    encode_unit(f, 90, 50, u, &tok);
    (void)snprintf(name, sizeof(name), "%s.%u.pixels", pair, grid);
    pixels = test_tap(want, name, &e);
    assert_int_equal(look.edge, e.dim[0]);
    assert_memory_equal(look.rgb, pixels, 3 * (size_t)look.edge * look.edge);
    assert_memory_equal(f->pixels, pixels, f->n_pixels);
    check(want, pair, grid, "embed", f->embed, f->n_embed);
    check(want, pair, grid, "proj", tok.feat.data, (size_t)tok.n * tok.feat.dim[1]);
    free(rgb);
}

/* Whole and smaller views; and alone, a frame is what it is for the same pair without that tensor. */
static void test_change(void **state)
{
    (void)state;
    static struct fixture f;
    static const uint32_t grids[] = {9, 6};
    static float without[MAX_TOKENS * MAX_WIDTH];
    struct test_taps want = test_taps_open(GOLDEN_DIR "/smolvlm/change.taps");
    struct vl_visual_tokens tok;
    open_pair(&f, "odd-f16");
    assert_int_equal(f.d->look_bytes, 0);
    encode(&f, NULL, 0, &tok);
    const size_t n = (size_t)tok.n * tok.feat.dim[1];
    memcpy(without, tok.feat.data, n * sizeof(*without));
    close_pair(&f);
    open_pair(&f, "change-f16");
    assert_int_equal(f.d->look_bytes, 3 * 56 * 56);
    encode(&f, NULL, 0, &tok);
    assert_memory_equal(tok.feat.data, without, n * sizeof(*without));
    for (size_t i = 0; i < sizeof(grids) / sizeof(grids[0]); i++)
        check_change(&f, &want, "change-f16", grids[i]);
    close_pair(&f);
    test_taps_close(&want);
}

/* ---- merging ---- */

struct encoder {
    struct vl_exec x;
    struct vl_arena arena;
    void *mem, *weights_mem;
    struct vl_vit vit;
    struct vl_vit_host host;
};

static void open_encoder(struct encoder *e, const char *pair)
{
    char path[512];
    size_t bytes;
    struct vl_error err = {0, ""};
    vl_auto(vl_weights) w = NULL;
    vl_auto(vl_bind) b = NULL;
    *e = (struct encoder){.x = {.ops = vl_backend_find("cpu")}};
    path_of(path, sizeof(path), pair, "mmproj");
    assert_int_equal(e->x.ops->open(&e->x.device, "isa=c", &err), 0);
    assert_int_equal(e->x.ops->alloc(e->x.device, SCRATCH, false, &e->mem), 0);
    vl_arena_init(&e->arena, e->mem, SCRATCH);
    e->x.scratch = &e->arena;
    if (vl_weights_open(&w, path, &err) < 0 || vl_vit_init(&e->vit, w, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(vl_bind_new(&b, w, &e->x), 0);
    if (vl_vit_bind(&e->vit, b, &err) < 0 || vl_bind_load(b, &e->weights_mem, &bytes, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(vl_vit_host_init(&e->host, &e->vit), 0);
}

static void close_encoder(struct encoder *e)
{
    vl_vit_host_done(&e->host);
    vl_vit_done(&e->vit);
    e->x.ops->free(e->x.device, e->weights_mem);
    e->x.ops->free(e->x.device, e->mem);
    e->x.ops->close(e->x.device);
}

static void merger(struct vl_reducer *ret, const struct encoder *e, const char *written)
{
    char name[32];
    struct vl_error err = {0, ""};
    const struct vl_reducer_ops *ops;
    const uint32_t n = e->vit.grid * e->vit.grid;
    const struct vl_reducer_shape shape = {
        .max_tokens = n, .d_model = 1, .max_patches = n, .d_vision = e->vit.d_model};
    vl_auto(vl_params) p = NULL;
    assert_int_equal(vl_params_parse(written, name, sizeof(name), &p, &err), 0);
    assert_int_equal(vl_reducer_find(&ops, name, &err), 0);
    if (vl_reducer_init(ret, ops, p, &shape, &err) < 0)
        fail_msg("%s", err.msg);
}

/* Runs all layers over h [n, d], which takes the place of the embedded patches; out: each patch's row. */
static uint32_t pass(struct encoder *e, const float *h, const struct vl_reducer *red, float *out)
{
    const uint32_t n = e->vit.grid * e->vit.grid, d = e->vit.d_model, wide = 3 * e->vit.patch * e->vit.patch;
    struct vl_tensor patches;
    struct vl_vit_pass p;
    assert_int_equal(vl_scratch_2d(&e->x, &patches, VL_F32, n, wide), 0);
    memset(patches.data, 0, vl_tensor_bytes(&patches));
    assert_int_equal(vl_vit_begin(&p, &e->vit, &e->x, &patches, NULL, e->vit.grid, &e->host, red), 0);
    memcpy(p.h.data, h, (size_t)n * d * sizeof(*h));
    int r;
    while ((r = vl_vit_step(&p, &e->x, 1)) == VL_VIT_MORE)
        ;
    assert_int_equal(r, 0);
    for (uint32_t i = 0; i < n; i++)
        memcpy(out + (size_t)i * d, (const float *)p.h.data + (size_t)e->host.row[i] * d, d * sizeof(*out));
    vl_arena_reset(&e->arena, 0);
    return p.h.dim[0];
}

static void draw(float *h, size_t n, struct test_rng *rng)
{
    for (size_t i = 0; i < n; i++)
        h[i] = test_randf(rng);
}

/* Pairs of patches made equal where layers see them, one of each parity. Answers how many. */
static uint32_t duplicate(float *h, uint32_t n, uint32_t d, uint32_t most, int32_t (*twin)[2],
                          struct test_rng *rng)
{
    bool used[MAX_PATCHES] = {false};
    uint32_t n_twins = 0;
    for (uint32_t tries = 0; tries < 500 && n_twins < most; tries++) {
        uint32_t a = 2 * test_randn(rng, (n + 1) / 2), b = 2 * test_randn(rng, n / 2) + 1;
        if (used[a] || used[b])
            continue;
        used[a] = used[b] = true;
        memcpy(h + (size_t)a * d, h + (size_t)b * d, d * sizeof(*h));
        twin[n_twins][0] = (int32_t)a;
        twin[n_twins++][1] = (int32_t)b;
    }
    return n_twins;
}

/* Equal patches merge before all others, and as one they weigh what they weighed as two: nothing that comes
 * out is another. Without merging, not a bit. */
static void check_merging(struct encoder *e, struct test_rng *rng)
{
    static float h[MAX_PATCHES * MAX_WIDTH], want[MAX_PATCHES * MAX_WIDTH], got[MAX_PATCHES * MAX_WIDTH];
    const uint32_t n = e->vit.grid * e->vit.grid, d = e->vit.d_model;
    int32_t twin[MAX_PATCHES][2];
    char written[48];
    struct vl_reducer red;
    draw(h, (size_t)n * d, rng);
    const uint32_t n_twins = duplicate(h, n, d, 1 + test_randn(rng, n / 4), twin, rng);
    assert_int_equal(pass(e, h, NULL, want), n);
    merger(&red, e, "tome_merge:r=0");
    assert_int_equal(pass(e, h, &red, got), n);
    assert_memory_equal(got, want, (size_t)n * d * sizeof(*got));
    vl_reducer_done(&red);

    (void)snprintf(written, sizeof(written), "tome_merge:r=%u,to=0", n_twins);
    merger(&red, e, written);
    assert_int_equal(pass(e, h, &red, got), n - n_twins);
    for (uint32_t i = 0; i < n_twins; i++)
        assert_int_equal(e->host.row[twin[i][0]], e->host.row[twin[i][1]]);
    double max = 0, sum = 0;
    for (size_t i = 0; i < (size_t)n * d; i++) {
        max = fmax(max, fabs((double)got[i] - (double)want[i]));
        sum += (double)want[i] * (double)want[i];
    }
    double rms = sqrt(sum / (double)((size_t)n * d));
    if (!(max <= 1e-4 * rms))
        fail_msg("%u merged twins change the output by %.2e of its RMS", n_twins, max / rms);
    vl_reducer_done(&red);
}

static void test_merging(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("merging");
    struct encoder e;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        open_encoder(&e, pairs[i]);
        for (int round = 0; round < 10; round++)
            check_merging(&e, &rng);
        close_encoder(&e);
    }
}

/* Every layer merges r pairs, all patches are found again, and sizes add up. */
static void test_every_layer(void **state)
{
    (void)state;
    static float h[MAX_PATCHES * MAX_WIDTH], out[MAX_PATCHES * MAX_WIDTH];
    struct test_rng rng = test_rng_new("every layer");
    struct encoder e;
    struct vl_reducer red;
    open_encoder(&e, "even-q8_0"); /* 64 patches, 3 layers */
    draw(h, (size_t)64 * e.vit.d_model, &rng);
    static const struct {
        const char *written;
        uint32_t left;
    } cases[] = {{"tome_merge:r=10", 34}, {"tome_merge:r=10,from=1,to=1", 54}, {"tome_merge:r=8192", 8}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        merger(&red, &e, cases[i].written);
        assert_int_equal(pass(&e, h, &red, out), cases[i].left);
        float sum = 0;
        for (uint32_t j = 0; j < cases[i].left; j++)
            sum += e.host.weight[j];
        assert_true(sum == 64);
        for (int j = 0; j < 64; j++)
            assert_true(e.host.row[j] >= 0 && e.host.row[j] < (int32_t)cases[i].left);
        vl_reducer_done(&red);
    }
    close_encoder(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),   cmocka_unit_test(test_places),      cmocka_unit_test(test_change),
        cmocka_unit_test(test_merging), cmocka_unit_test(test_every_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
