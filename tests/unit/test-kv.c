/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The cache's promises one by one: positions after a slide, exactness against freshly assigned positions over
 * 10,000 evictions, forks, the reserve, limits. tests/unit/test-kv-random.c does all of it at once against a
 * naive model. */
#include "kvcache/kv.h"
#include "tests/exec.h"

#include <math.h>
#include <string.h>

enum { LAYERS = 2, HEADS = 2, HEAD_DIM = 16, WIDTH = HEADS * HEAD_DIM, SLOTS = 8, MAX_TOKENS = 512 };

static const uint8_t axis_1d[HEAD_DIM / 2];
static const uint8_t axis_3d[HEAD_DIM / 2] = {0, 0, 1, 1, 1, 2, 2, 2};
static double inv_freq[HEAD_DIM / 2];

struct fixture {
    struct test_exec e;
    struct vl_rope rope;
    struct vl_kv_geometry geo;
    struct vl_kv_pool *pool;
    struct test_rng rng;
};

static void open_fixture(struct fixture *f, const char *backend, enum vl_dtype dtype, const uint8_t *axis,
                         size_t pages, const struct vl_kv_reserve *forks)
{
    struct vl_error err = {0, ""};
    for (int i = 0; i < HEAD_DIM / 2; i++)
        inv_freq[i] = pow(10000, -2.0 * i / HEAD_DIM);
    *f = (struct fixture){.rng = test_rng_new("kv")};
    f->rope = (struct vl_rope){HEAD_DIM / 2, inv_freq, axis};
    f->geo = (struct vl_kv_geometry){LAYERS, HEADS, HEAD_DIM, SLOTS, dtype, dtype, &f->rope};
    test_exec_open(&f->e, backend, 1 << 20);
    size_t page = 3 * LAYERS * SLOTS * WIDTH * (dtype == VL_F32 ? 4 : 2);
    if (vl_kv_pool_new(&f->pool, &f->e.x, &f->geo, pages * page, forks, &err) < 0)
        fail_msg("%s", err.msg);
}

static void close_fixture(struct fixture *f)
{
    struct vl_kv_pool_stats st;
    vl_kv_pool_get_stats(f->pool, &st);
    assert_int_equal(st.bytes_used, 0);
    assert_int_equal(st.n_sequences + st.n_forks, 0);
    f->pool = vl_kv_pool_unref(f->pool);
    test_exec_close(&f->e);
}

/* What a token holds, by a number of its own. */
static float value_of(uint64_t id, unsigned layer, unsigned which, unsigned i)
{
    struct test_rng r = {(id * 64 + layer * 2 + which + 1) * UINT64_C(0x9E3779B97F4A7C15) +
                         i * UINT64_C(0xD1B54A32D192ED03)};
    (void)test_rand(&r);
    return test_randf(&r);
}

static void fill(float *dst, uint64_t id, unsigned layer, unsigned which)
{
    for (unsigned i = 0; i < WIDTH; i++)
        dst[i] = value_of(id, layer, which, i);
}

static uint32_t extent_of(uint32_t n, uint32_t grid_w)
{
    uint32_t grid_h = grid_w > 0 ? n / grid_w : n;
    return grid_h > grid_w ? grid_h : grid_w;
}

static void store_all(struct fixture *f, struct vl_kv *kv, uint32_t slot, uint32_t n, uint64_t id)
{
    static float k[MAX_TOKENS * WIDTH], v[MAX_TOKENS * WIDTH];
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        for (uint32_t i = 0; i < n; i++) {
            fill(k + i * WIDTH, id + i, layer, 0);
            fill(v + i * WIDTH, id + i, layer, 1);
        }
        struct vl_tensor kt = vl_tensor_3d(k, VL_F32, n, HEADS, HEAD_DIM),
                         vt = vl_tensor_2d(v, VL_F32, n, WIDTH);
        assert_int_equal(vl_kv_store(kv, &f->e.x, layer, slot, &kt, &vt), 0);
    }
}

/* Text counts on by one; a picture of grid_w > 0 is a grid of one slice (t, y, x), as Qwen2-VL has it. */
static int add(struct fixture *f, struct vl_kv *kv, enum vl_kv_kind kind, uint64_t unit, uint32_t n,
               uint64_t id, uint32_t grid_w)
{
    uint32_t slot = 0;
    int64_t rel[MAX_TOKENS][3];
    struct vl_kv_segment s = {.kind = kind, .n = n, .unit = unit, .extent = n, .pinned = unit == 0};
    for (uint32_t i = 0; grid_w > 0 && i < n; i++) {
        rel[i][0] = 0;
        rel[i][1] = i / grid_w;
        rel[i][2] = i % grid_w;
    }
    if (grid_w > 0) {
        s.extent = extent_of(n, grid_w);
        s.rel = (const int64_t(*)[3])rel;
    }
    int r = vl_kv_append(kv, &f->e.x, &s, &slot);
    if (r == 0)
        store_all(f, kv, slot, n, id);
    return r;
}

static struct vl_kv *new_kv(struct fixture *f, double window, double text_tokens)
{
    struct vl_kv *kv = NULL;
    struct vl_error err = {0, ""};
    const struct vl_kv_policy *policy = NULL;
    vl_auto(vl_params) p = NULL;
    assert_int_equal(vl_params_new(&p), 0);
    assert_int_equal(vl_params_set_f64(p, "window", window), 0);
    assert_int_equal(vl_params_set_f64(p, "text_tokens", text_tokens), 0);
    assert_int_equal(vl_kv_policy_find(&policy, "sink_window", &err), 0);
    if (vl_kv_new(&kv, f->pool, policy, p, MAX_TOKENS, &err) < 0)
        fail_msg("%s", err.msg);
    return kv;
}

static uint32_t evict(struct fixture *f, struct vl_kv *kv)
{
    uint32_t n = 0;
    vl_kv_commit(kv);
    assert_int_equal(vl_kv_evict(kv, &f->e.x, 0, &n), 0);
    return n;
}

/* Row `slot` of a layer's rotated keys or values; f32 caches only. */
static const float *row_at(const struct vl_kv *kv, unsigned layer, unsigned which, uint32_t slot)
{
    struct vl_kv_view view;
    assert_int_equal(vl_kv_view(kv, layer, &view), 0);
    for (uint32_t i = 0; i < view.n_pages; slot -= view.page[i++].n_tokens)
        if (slot < view.page[i].n_tokens)
            return (const float *)(which ? view.page[i].v : view.page[i].k) + (size_t)slot * WIDTH;
    fail_msg("slot %u is not in the view", slot);
    return NULL;
}

/* A naive sequence beside the cache: what it should hold, segment by segment, and nothing of where. */
struct shadow_segment {
    uint64_t unit, id;
    uint32_t n, grid_w;
    enum vl_kv_kind kind;
};
struct shadow {
    struct shadow_segment seg[256];
    uint32_t n_segs, n;
    uint64_t id[MAX_TOKENS];
    int64_t pos[MAX_TOKENS][3]; /* freshly assigned, from zero */
    int64_t end;
};

static void shadow_add(struct shadow *s, enum vl_kv_kind kind, uint64_t unit, uint32_t n, uint64_t id,
                       uint32_t grid_w)
{
    assert_true(s->n_segs < 256);
    s->seg[s->n_segs++] = (struct shadow_segment){unit, id, n, grid_w, kind};
}

/* Drops all segments of a kind and unit; returns their tokens. */
static uint32_t shadow_drop(struct shadow *s, enum vl_kv_kind kind, uint64_t unit)
{
    uint32_t kept = 0, gone = 0;
    for (uint32_t i = 0; i < s->n_segs; i++) {
        if (s->seg[i].kind == kind && s->seg[i].unit == unit)
            gone += s->seg[i].n;
        else
            s->seg[kept++] = s->seg[i];
    }
    s->n_segs = kept;
    return gone;
}

static uint32_t shadow_text(const struct shadow *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_segs; i++)
        n += s->seg[i].kind == VL_KV_TEXT && s->seg[i].unit > 0 ? s->seg[i].n : 0;
    return n;
}

static void shadow_lay_out(struct shadow *s)
{
    s->n = 0;
    s->end = 0;
    for (uint32_t i = 0; i < s->n_segs; i++) {
        const struct shadow_segment *g = &s->seg[i];
        for (uint32_t k = 0; k < g->n; k++) {
            int64_t *pos = s->pos[s->n];
            s->id[s->n++] = g->id + k;
            pos[0] = s->end + (g->grid_w > 0 ? 0 : k);
            pos[1] = s->end + (g->grid_w > 0 ? k / g->grid_w : k);
            pos[2] = s->end + (g->grid_w > 0 ? k % g->grid_w : k);
        }
        s->end += extent_of(g->n, g->grid_w);
    }
}

/* softmax(q k) v of one head in double, keys and query rotated by the given positions. */
static void attend(const struct shadow *s, unsigned layer, unsigned head, const float *q,
                   const struct vl_rope *rope, double *ret)
{
    static double logit[MAX_TOKENS];
    double max = -INFINITY, sum = 0;
    float k[WIDTH], v[WIDTH];
    for (uint32_t t = 0; t < s->n; t++) {
        fill(k, s->id[t], layer, 0);
        const float *kh = k + head * HEAD_DIM;
        logit[t] = 0;
        for (uint32_t i = 0; i < rope->n_pairs; i++) {
            double a = (double)(s->end - s->pos[t][rope->axis[i]]) * rope->inv_freq[i];
            double q0 = q[i], q1 = q[i + rope->n_pairs], k0 = kh[i], k1 = kh[i + rope->n_pairs];
            logit[t] += (q0 * cos(a) - q1 * sin(a)) * k0 + (q0 * sin(a) + q1 * cos(a)) * k1;
        }
        max = fmax(max, logit[t]);
    }
    memset(ret, 0, HEAD_DIM * sizeof(*ret));
    for (uint32_t t = 0; t < s->n; t++) {
        double p = exp(logit[t] - max);
        fill(v, s->id[t], layer, 1);
        for (int i = 0; i < HEAD_DIM; i++)
            ret[i] += p * v[head * HEAD_DIM + i];
        sum += p;
    }
    for (int i = 0; i < HEAD_DIM; i++)
        ret[i] /= sum;
}

/* Largest difference between attention over the cache and over the same keys and values at fresh positions.
 */
static double attention_error(struct fixture *f, const struct vl_kv *kv, struct shadow *s, int64_t pos_q,
                              unsigned layer)
{
    float q[WIDTH], y[WIDTH], q_rot[WIDTH];
    int64_t at[1][3];
    uint32_t n = vl_kv_n_tokens(kv);
    double worst = 0, want[HEAD_DIM];
    shadow_lay_out(s);
    assert_int_equal(n, s->n);
    for (int i = 0; i < WIDTH; i++)
        q_rot[i] = q[i] = test_randf(&f->rng);
    at[0][0] = at[0][1] = at[0][2] = pos_q;
    struct vl_tensor qt = vl_tensor_3d(q_rot, VL_F32, 1, HEADS, HEAD_DIM),
                     yt = vl_tensor_3d(y, VL_F32, 1, HEADS, HEAD_DIM);
    assert_int_equal(f->e.x.ops->rope(&f->e.x, &qt, (const int64_t(*)[3])at, &f->rope), 0);
    struct vl_kv_view view;
    assert_int_equal(vl_kv_view(kv, layer, &view), 0);
    uint32_t visible[1][2] = {{0, n}};
    struct vl_attn_seq seq = {&view, 0, 1};
    struct vl_attn_params p = {.scale = 1, .visible = (const uint32_t(*)[2])visible};
    assert_int_equal(f->e.x.ops->attention(&f->e.x, &yt, &qt, &seq, 1, &p), 0);
    for (unsigned head = 0; head < HEADS; head++) {
        attend(s, layer, head, q + head * HEAD_DIM, &f->rope, want);
        for (int i = 0; i < HEAD_DIM; i++)
            worst = fmax(worst, fabs(want[i] - (double)y[head * HEAD_DIM + i]));
    }
    return worst;
}

static void test_slide(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, "cpu", VL_F32, axis_1d, 64, NULL);
    vl_auto(vl_kv) kv = new_kv(&f, 1, 512);
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 0, 5, 1, 0), 0);      /* sink 0..4 */
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 1, 2, 100, 0), 0);    /* 5, 6 */
    assert_int_equal(add(&f, kv, VL_KV_VISUAL, 1, 10, 200, 0), 0); /* 7..16 */
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 1, 3, 300, 0), 0);    /* 17..19 */
    assert_int_equal(evict(&f, kv), 0);
    assert_int_equal(add(&f, kv, VL_KV_VISUAL, 2, 9, 400, 0), 0); /* 20..28 */
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 2, 1, 500, 0), 0);   /* 29 */
    float kept[WIDTH];
    memcpy(kept, row_at(kv, 1, 0, 20), sizeof(kept));
    assert_int_equal(evict(&f, kv), 10);
    assert_int_equal(vl_kv_n_tokens(kv), 20);
    const int64_t(*pos)[3] = vl_kv_positions(kv, 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(pos[i][0], i + 10);
    assert_memory_equal(kept, row_at(kv, 1, 0, 10), sizeof(kept)); /* visual keys keep their rotation */
    float v[WIDTH];
    for (uint32_t i = 0; i < 3; i++) {
        fill(v, 300 + i, 1, 1);
        assert_memory_equal(v, row_at(kv, 1, 1, 7 + i), sizeof(v));
    }
    struct vl_kv_view view;
    assert_int_equal(vl_kv_view(kv, 0, &view), 0);
    assert_int_equal(view.n_pages, 5); /* 10 of text in 2, 9 in 2, 1 in 1 */
    assert_int_equal(vl_kv_view(kv, LAYERS, &view), -EINVAL);
    struct vl_kv_units u;
    vl_kv_units(kv, VL_KV_VISUAL, &u);
    assert_true(u.n == 1 && u.oldest == 2 && u.newest == 2);
    vl_kv_units(kv, VL_KV_TEXT, &u);
    assert_true(u.n == 2 && u.oldest == 1 && u.newest == 2);
    kv = vl_kv_unref(kv);
    close_fixture(&f);
}

/* One unit of the commentary protocol: header, picture, now and then a caption. */
static void add_unit(struct fixture *f, struct vl_kv *kv, struct shadow *s, uint64_t unit, uint64_t *id,
                     uint32_t grid_w)
{
    uint32_t header = 1 + test_randn(&f->rng, 4), caption = test_randn(&f->rng, 5),
             visual = grid_w ? 3 * grid_w : 13;
    assert_int_equal(add(f, kv, VL_KV_TEXT, unit, header, *id, 0), 0);
    shadow_add(s, VL_KV_TEXT, unit, header, *id, 0);
    *id += header;
    assert_int_equal(add(f, kv, VL_KV_VISUAL, unit, visual, *id, grid_w), 0);
    shadow_add(s, VL_KV_VISUAL, unit, visual, *id, grid_w);
    *id += visual;
    if (caption == 0)
        return;
    assert_int_equal(add(f, kv, VL_KV_TEXT, unit, caption, *id, 0), 0);
    shadow_add(s, VL_KV_TEXT, unit, caption, *id, 0);
    *id += caption;
}

enum { WINDOW = 3, TEXT = 40 };

/* The window by its own books: pictures beyond the third, then the oldest words beyond forty without a
 * picture. */
static uint32_t shadow_evict(struct shadow *s, uint64_t unit, uint64_t *oldest_text)
{
    uint32_t gone = unit > WINDOW ? shadow_drop(s, VL_KV_VISUAL, unit - WINDOW) : 0;
    while (shadow_text(s) > TEXT && *oldest_text + WINDOW <= unit)
        gone += shadow_drop(s, VL_KV_TEXT, (*oldest_text)++);
    return gone;
}

/* L1.1 and L1.2: the window after each eviction against the same keys and values at freshly assigned
 * positions; the error of the last thousand evictions is that of the first. The query stands where the next
 * token would. */
static void exact_for_long(const uint8_t *axis, bool grids, uint32_t n_evictions)
{
    struct fixture f;
    struct shadow *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    open_fixture(&f, "cpu", VL_F32, axis, 64, NULL);
    struct vl_kv *kv = new_kv(&f, WINDOW, TEXT);
    double first = 0, last = 0, worst = 0;
    uint64_t id = 7, oldest_text = 1;
    uint32_t evictions = 0;
    int64_t pos = 0;
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 0, 6, 1, 0), 0);
    shadow_add(s, VL_KV_TEXT, 0, 6, 1, 0);
    for (uint64_t unit = 1; evictions < n_evictions; unit++) {
        add_unit(&f, kv, s, unit, &id, grids ? 2 + (unit / 100 % 2) * 3 : 0);
        uint32_t want = shadow_evict(s, unit, &oldest_text);
        assert_int_equal(evict(&f, kv), want);
        evictions += want > 0;
        if (unit % 50 != 0 && unit > 20)
            continue;
        uint32_t slot; /* the next position, as a token would get it */
        struct vl_kv_segment one = {.kind = VL_KV_TEXT, .n = 1, .unit = unit, .extent = 1};
        assert_int_equal(vl_kv_append(kv, &f.e.x, &one, &slot), 0);
        pos = vl_kv_positions(kv, slot)[0][0];
        assert_int_equal(vl_kv_truncate(kv, slot), 0);
        double e = attention_error(&f, kv, s, pos, (unsigned)(unit / 50) % LAYERS);
        worst = fmax(worst, e);
        first = evictions < n_evictions / 10 ? fmax(first, e) : first;
        last = evictions > n_evictions / 10 * 9 ? fmax(last, e) : last;
    }
    print_message("%u evictions, up to position %lld: error %.2g, first tenth %.2g, last tenth %.2g\n",
                  n_evictions, (long long)pos, worst, first, last);
    assert_true(worst <= 1e-4 && last <= 2 * first + 1e-6);
    kv = vl_kv_unref(kv);
    free(s);
    close_fixture(&f);
}

static void test_exact_for_long(void **state)
{
    (void)state;
    exact_for_long(axis_1d, false, 10000);
}

static void test_exact_three_axes(void **state)
{
    (void)state;
    exact_for_long(axis_3d, true, 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slide),
        cmocka_unit_test(test_exact_for_long),
        cmocka_unit_test(test_exact_three_axes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
