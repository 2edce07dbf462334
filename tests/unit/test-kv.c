/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Where the cache's tokens stand: positions after a slide, exactness against freshly assigned positions over
 * 10,000 evictions, pruned pictures. Forks and limits have files of their own; tests/unit/test-kv-random.c
 * does all of it at once against a naive model. */
#include "tests/unit/kv_fixture.h"

/* A naive sequence beside the cache: what it should hold, token by token, and nothing of where. */
struct shadow_token {
    uint64_t id, seg;     /* seg: of a picture, by its number */
    int64_t extent;       /* of its picture's grid; 0: a word */
    int64_t rel[3], came; /* came: where its picture began when all that ever came is counted */
};
struct shadow {
    struct shadow_token tok[MAX_TOKENS];
    uint32_t n;
    uint64_t n_segs;
    int64_t pos[MAX_TOKENS][3]; /* freshly assigned, from zero */
    int64_t end, all;           /* all: extents of whatever came */
};

static void shadow_add(struct shadow *s, enum vl_kv_kind kind, uint32_t n, uint64_t id, uint32_t grid_w)
{
    s->n_segs++;
    assert_true(n <= MAX_TOKENS - s->n);
    for (uint32_t k = 0; k < n; k++) {
        struct shadow_token *t = &s->tok[s->n++];
        *t = (struct shadow_token){.id = id + k, .seg = s->n_segs, .came = s->all};
        if (kind == VL_KV_TEXT)
            continue;
        t->extent = extent_of(n, grid_w);
        t->rel[0] = grid_w > 0 ? 0 : k;
        t->rel[1] = grid_w > 0 ? k / grid_w : k;
        t->rel[2] = grid_w > 0 ? k % grid_w : k;
    }
    s->all += kind == VL_KV_TEXT ? n : extent_of(n, grid_w);
}

static void shadow_drop(struct shadow *s, const uint32_t *slots, uint32_t n)
{
    uint32_t kept = 0, k = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (k < n && slots[k] == i)
            k++;
        else
            s->tok[kept++] = s->tok[i];
    }
    s->n = kept;
}

/* Words follow one another; a picture takes up its whole grid while anything of it is left. */
static void shadow_lay_out(struct shadow *s)
{
    int64_t base = 0;
    uint64_t seg = 0;
    s->end = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        const struct shadow_token *t = &s->tok[i];
        if (t->extent == 0 || t->seg != seg) {
            base = s->end;
            s->end += t->extent > 0 ? t->extent : 1;
            seg = t->seg;
        }
        for (int a = 0; a < 3; a++)
            s->pos[i][a] = base + t->rel[a];
    }
}

/* For a policy that takes what stands between two pictures: pictures keep their distance, words touch what
 * follows them. */
static void shadow_lay_out_gaps(struct shadow *s)
{
    int64_t limit = s->end = s->all;
    for (uint32_t i = s->n; i > 0; i--) {
        const struct shadow_token *t = &s->tok[i - 1];
        limit = t->extent > 0 ? t->came : limit - 1;
        for (int a = 0; a < 3; a++)
            s->pos[i - 1][a] = limit + t->rel[a];
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
        fill(k, s->tok[t].id, layer, 0);
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
        fill(v, s->tok[t].id, layer, 1);
        for (int i = 0; i < HEAD_DIM; i++)
            ret[i] += p * v[head * HEAD_DIM + i];
        sum += p;
    }
    for (int i = 0; i < HEAD_DIM; i++)
        ret[i] /= sum;
}

/* Largest difference between attention over the cache and over the same keys and values at fresh positions.
 */
static double attention_error(struct fixture *f, const struct vl_kv *kv, const struct shadow *s,
                              int64_t pos_q, unsigned layer)
{
    float q[WIDTH], y[WIDTH], q_rot[WIDTH];
    int64_t at[1][3];
    uint32_t n = vl_kv_n_tokens(kv);
    double worst = 0, want[HEAD_DIM];
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

/* Asks a registered policy, and writes down what it says. */
static struct {
    const struct vl_kv_policy *policy;
    uint32_t slot[MAX_TOKENS], n;
    uint64_t n_parts; /* answers that took a part of a picture and left another */
} told;

static void count_parts(const struct vl_kv_token *tok, uint32_t n)
{
    for (uint32_t i = 0, k = 0, first = 0, gone = 0; i < n; i++) {
        bool goes = k < told.n && told.slot[k] == i, visual = tok[i].kind == VL_KV_VISUAL;
        k += goes;
        if (i == 0 || tok[i].kind != tok[i - 1].kind || tok[i].unit != tok[i - 1].unit) {
            first = i;
            gone = 0;
        }
        gone += goes;
        bool ends = i + 1 == n || tok[i].kind != tok[i + 1].kind || tok[i].unit != tok[i + 1].unit;
        if (ends && visual && gone > 0 && gone < i + 1 - first) {
            told.n_parts++;
            return;
        }
    }
}

static int pick_and_tell(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                         uint32_t *ret_slots, uint32_t *ret_n)
{
    int r = told.policy->pick(state, tok, n, n_wanted, ret_slots, ret_n);
    assert_int_equal(r, 0);
    memcpy(told.slot, ret_slots, *ret_n * sizeof(*ret_slots));
    told.n = *ret_n;
    count_parts(tok, n);
    return 0;
}

/* A sequence under a registered policy, its options small where it has them. */
static struct vl_kv *new_told_kv(struct fixture *f, const struct vl_kv_policy *policy)
{
    static struct vl_kv_policy teller;
    static const struct {
        const char *key;
        double value;
    } small[] = {{"window", 5}, {"text_tokens", 40}, {"full", 1},          {"step", 1},
                 {"least", 2},  {"recent", 1},       {"visual_tokens", 30}};
    struct vl_kv *kv = NULL;
    struct vl_error err = {0, ""};
    vl_auto(vl_params) p = NULL;
    assert_int_equal(vl_params_new(&p), 0);
    for (const struct vl_param_desc *d = policy->params; d->key; d++)
        for (size_t i = 0; i < sizeof(small) / sizeof(small[0]); i++)
            if (!strcmp(d->key, small[i].key))
                assert_int_equal(vl_params_set_f64(p, d->key, small[i].value), 0);
    teller = *policy;
    teller.pick = pick_and_tell;
    told.policy = policy;
    told.n_parts = 0;
    if (vl_kv_new(&kv, f->pool, &teller, p, MAX_TOKENS, &err) < 0)
        fail_msg("%s: %s", policy->name, err.msg);
    return kv;
}

/* One unit of the commentary protocol: header, picture, now and then a caption. */
static void add_unit(struct fixture *f, struct vl_kv *kv, struct shadow *s, uint64_t unit, uint64_t *id,
                     uint32_t grid_w)
{
    uint32_t header = 1 + test_randn(&f->rng, 4), caption = test_randn(&f->rng, 5),
             visual = grid_w ? 3 * grid_w : 13;
    assert_int_equal(add(f, kv, VL_KV_TEXT, unit, header, *id, 0), 0);
    shadow_add(s, VL_KV_TEXT, header, *id, 0);
    *id += header;
    assert_int_equal(add(f, kv, VL_KV_VISUAL, unit, visual, *id, grid_w), 0);
    shadow_add(s, VL_KV_VISUAL, visual, *id, grid_w);
    *id += visual;
    if (caption == 0)
        return;
    assert_int_equal(add(f, kv, VL_KV_TEXT, unit, caption, *id, 0), 0);
    shadow_add(s, VL_KV_TEXT, caption, *id, 0);
    *id += caption;
}

/* Attention out of nowhere, for a policy that looks at it. */
static void look(struct fixture *f, struct vl_kv *kv)
{
    static float mass[HEADS * MAX_TOKENS];
    uint32_t n = vl_kv_n_tokens(kv);
    if (vl_kv_probes(kv) == 0)
        return;
    for (uint32_t i = 0; i < HEADS * n; i++)
        mass[i] = (float)test_randn(&f->rng, 100) / 100;
    vl_kv_observe(kv, mass, HEADS, n, 1);
}

/* The position that the next token would get. */
static int64_t next_position(struct fixture *f, struct vl_kv *kv)
{
    uint32_t slot;
    struct vl_kv_segment one = {.kind = VL_KV_TEXT, .n = 1, .unit = UINT64_MAX, .extent = 1};
    assert_int_equal(vl_kv_append(kv, &f->e.x, &one, &slot), 0);
    int64_t pos = vl_kv_positions(kv, slot)[0][0];
    assert_int_equal(vl_kv_truncate(kv, slot), 0);
    return pos;
}

/* L1.1 and L1.2: the window after each eviction against the same keys and values at freshly assigned
 * positions; the error of the last thousand evictions is that of the first. The query stands where the next
 * token would. */
static void exact_for_long(const struct vl_kv_policy *policy, const uint8_t *axis, bool grids,
                           uint32_t n_evictions)
{
    struct fixture f;
    struct shadow *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    open_fixture(&f, "cpu", VL_F32, axis, 64, NULL);
    struct vl_kv *kv = new_told_kv(&f, policy);
    double first = 0, last = 0, worst = 0;
    uint64_t id = 7;
    uint32_t evictions = 0;
    int64_t pos = 0;
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 0, 6, 1, 0), 0);
    shadow_add(s, VL_KV_TEXT, 6, 1, 0);
    for (uint64_t unit = 1; evictions < n_evictions; unit++) {
        add_unit(&f, kv, s, unit, &id, grids ? 2 + (unit / 100 % 2) * 3 : 0);
        look(&f, kv);
        uint32_t gone = evict(&f, kv);
        assert_int_equal(gone, told.n);
        shadow_drop(s, told.slot, told.n);
        evictions += told.n > 0;
        assert_true(evictions > 0 || unit < 100);
        if (unit % 50 != 0 && unit > 20)
            continue;
        pos = next_position(&f, kv);
        if (policy->probes)
            shadow_lay_out_gaps(s);
        else
            shadow_lay_out(s);
        double e = attention_error(&f, kv, s, pos, (unsigned)(unit / 50) % LAYERS);
        worst = fmax(worst, e);
        first = evictions < n_evictions / 10 ? fmax(first, e) : first;
        last = evictions > n_evictions / 10 * 9 ? fmax(last, e) : last;
    }
    print_message("%s: %u evictions, %llu of parts of pictures, up to position %lld: error %.2g, first tenth "
                  "%.2g, last tenth %.2g\n",
                  policy->name, n_evictions, (unsigned long long)told.n_parts, (long long)pos, worst, first,
                  last);
    assert_true(worst <= 1e-4 && last <= 2 * first + 1e-6);
    kv = vl_kv_unref(kv);
    free(s);
    close_fixture(&f);
}

static void test_exact_for_long(void **state)
{
    (void)state;
    for (int p = 0; vl_kv_policies[p]; p++) {
        exact_for_long(vl_kv_policies[p], axis_1d, false, 10000);
        exact_for_long(vl_kv_policies[p], axis_3d, true, 2000);
    }
}

/* Drops the odd visual tokens, once. */
static int pick_odd(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                    uint32_t *ret_slots, uint32_t *ret_n)
{
    (void)state;
    (void)n_wanted;
    *ret_n = 0;
    for (uint32_t i = 0; i < n; i++)
        if (tok[i].kind == VL_KV_VISUAL && i % 2)
            ret_slots[(*ret_n)++] = i;
    return 0;
}

static size_t no_state(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers)
{
    (void)p;
    (void)max_tokens;
    (void)n_layers;
    return 0;
}

static int init_nothing(void *state, const struct vl_params *p, struct vl_error *err)
{
    (void)state;
    (void)p;
    (void)err;
    return 0;
}

/* L1.4: tokens pruned before they come and tokens dropped afterwards leave the others' positions alone, so
 * that attention is that of the whole grid with the same tokens masked. The reference masks by leaving them
 * out. */
static void test_pruned_positions(void **state)
{
    (void)state;
    static const struct vl_param_desc none[] = {{NULL, NULL, 0, 0, 0}};
    static const struct vl_kv_policy odd = {.name = "odd",
                                            .paper = "",
                                            .params = none,
                                            .state_size = no_state,
                                            .init = init_nothing,
                                            .pick = pick_odd};
    struct fixture f;
    struct shadow *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    open_fixture(&f, "cpu", VL_F32, axis_3d, 64, NULL);
    vl_auto(vl_kv) kv = NULL;
    assert_int_equal(vl_kv_new(&kv, f.pool, &odd, NULL, MAX_TOKENS, NULL), 0);
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 0, 6, 1, 0), 0);
    shadow_add(s, VL_KV_TEXT, 6, 1, 0);
    /* a 5 x 6 grid of which every third token is left out on arrival */
    int64_t rel[30][3];
    uint32_t n = 0, slot;
    for (uint32_t i = 0; i < 30; i++) {
        if (i % 3 == 1)
            continue;
        rel[n][0] = 0;
        rel[n][1] = i / 6;
        rel[n++][2] = i % 6;
    }
    struct vl_kv_segment g = {
        .kind = VL_KV_VISUAL, .n = n, .unit = 1, .extent = 6, .rel = (const int64_t(*)[3])rel};
    assert_int_equal(vl_kv_append(kv, &f.e.x, &g, &slot), 0);
    for (uint32_t i = 0, k = 0; i < 30; i++)
        if (i % 3 != 1)
            store_all(&f, kv, slot + k++, 1, 100 + i);
    shadow_add(s, VL_KV_VISUAL, 30, 100, 6);
    assert_int_equal(add(&f, kv, VL_KV_TEXT, 1, 4, 200, 0), 0);
    shadow_add(s, VL_KV_TEXT, 4, 200, 0);
    assert_int_equal(vl_kv_positions(kv, slot + n)[0][0], 6 + 6); /* the extent is the whole grid's */
    assert_int_equal(evict(&f, kv), 10);

    shadow_lay_out(s);
    uint32_t kept = 0, at = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        bool picture = s->tok[i].extent > 0;
        if (picture && (s->tok[i].id - 100) % 3 == 1)
            continue; /* never came */
        if (!picture || at % 2 == 0) {
            s->tok[kept] = s->tok[i];
            memmove(s->pos[kept++], s->pos[i], sizeof(s->pos[i]));
        }
        at++;
    }
    s->n = kept;
    for (unsigned layer = 0; layer < LAYERS; layer++)
        assert_true(attention_error(&f, kv, s, s->end, layer) <= 1e-5);
    kv = vl_kv_unref(kv);
    free(s);
    close_fixture(&f);
}

/* L1.5: windows that keep everything, tokens that come one by one or together, a frame in pieces, a fork that
 * adds nothing: all bit for bit the dense cache. */
static void test_identity(void **state)
{
    (void)state;
    const struct vl_kv_reserve forks = {1, 64, 64};
    struct fixture f;
    open_fixture(&f, "cpu", VL_F32, axis_1d, 64, &forks);
    vl_auto(vl_kv) kv = new_kv(&f, 100, 512);
    vl_auto(vl_kv) dense = NULL;
    vl_auto(vl_kv) fork = NULL;
    assert_int_equal(vl_kv_new(&dense, f.pool, NULL, NULL, MAX_TOKENS, NULL), 0);
    for (uint64_t unit = 0; unit < 5; unit++) {
        assert_int_equal(add(&f, dense, VL_KV_TEXT, unit, 7, 100 * unit + 1, 0), 0);
        assert_int_equal(add(&f, dense, VL_KV_VISUAL, unit, 20, 100 * unit + 8, 0), 0);
        for (uint32_t i = 0; i < 7; i++)
            assert_int_equal(add(&f, kv, VL_KV_TEXT, unit, 1, 100 * unit + 1 + i, 0), 0);
        for (uint32_t i = 0; i < 20; i += 5) {
            uint32_t slot;
            const struct vl_kv_segment piece = {
                .kind = VL_KV_VISUAL, .n = 5, .unit = unit, .extent = 20, .pinned = unit == 0};
            assert_int_equal(vl_kv_append(kv, &f.e.x, &piece, &slot), 0);
            store_all(&f, kv, slot, 5, 100 * unit + 8 + i);
        }
        assert_int_equal(evict(&f, kv), 0);
    }
    same_bits(kv, dense);
    assert_int_equal(vl_kv_fork(&fork, kv, 10), 0);
    same_bits(fork, dense);
    fork = vl_kv_unref(fork);
    kv = vl_kv_unref(kv);
    dense = vl_kv_unref(dense);
    close_fixture(&f);
}

/* f16 pages: what is rotated anew comes from the f16 copy of before rotation, so the error is that of one
 * rounding however often it slides. */
static void test_f16(void **state)
{
    (void)state;
    struct fixture f, g;
    open_fixture(&f, "cpu", VL_F16, axis_1d, 64, NULL);
    open_fixture(&g, "cpu", VL_F32, axis_1d, 64, NULL);
    vl_auto(vl_kv) half = new_kv(&f, 2, 100);
    vl_auto(vl_kv) full = new_kv(&g, 2, 100);
    struct vl_kv_view vh, vf;
    double worst = 0;
    for (uint64_t unit = 0; unit < 2000; unit++) {
        for (int k = 0; k < 2; k++) {
            struct fixture *x = k ? &g : &f;
            struct vl_kv *kv = k ? full : half;
            assert_int_equal(add(x, kv, VL_KV_TEXT, unit, 3, 100 * unit + 1, 0), 0);
            if (unit > 0)
                assert_int_equal(add(x, kv, VL_KV_VISUAL, unit, 9, 100 * unit + 8, 0), 0);
            (void)evict(x, kv);
        }
    }
    assert_int_equal(vl_kv_view(half, 1, &vh), 0);
    assert_int_equal(vl_kv_view(full, 1, &vf), 0);
    assert_int_equal(vh.n_pages, vf.n_pages);
    for (uint32_t p = 0; p < vh.n_pages; p++) {
        float k[SLOTS * WIDTH];
        size_t n = vh.page[p].n_tokens * WIDTH;
        vl_dtype_info(VL_F16)->unpack_row(k, vh.page[p].k, n);
        for (size_t i = 0; i < n; i++)
            worst = fmax(worst, fabs((double)k[i] - (double)((const float *)vf.page[p].k)[i]));
    }
    print_message("f16 keys after 2,000 slides: error %.2g\n", worst);
    assert_true(worst < 2.0 / 1024);
    half = vl_kv_unref(half);
    full = vl_kv_unref(full);
    close_fixture(&f);
    close_fixture(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slide),
        cmocka_unit_test(test_exact_for_long),
        cmocka_unit_test(test_pruned_positions),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
