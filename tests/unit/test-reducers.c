/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What each reducer chooses, against references written for nothing but to be read. Features are four equal
 * numbers among zeros, at scales that are powers of two: cosines are quarters, exact in float, and most are
 * ties. The contract of all reducers is in tests/conformance.
 */
#include "tests/exec.h"
#include "tokenprune/reducer.h"

#include <math.h>
#include <string.h>

enum { MAX_N = 64, WIDTH = 24, SCRATCH = 1 << 20, ROUNDS = 200 };

struct tokens {
    struct vl_visual_tokens tok;
    float feat[MAX_N][WIDTH], weight[MAX_N], saliency[MAX_N];
    struct vl_grid_pos pos[MAX_N];
};

static void wrap(struct tokens *t, uint32_t h, uint32_t w, bool saliency)
{
    uint32_t n = h * w;
    for (uint32_t i = 0; i < n; i++) {
        t->weight[i] = 1;
        t->pos[i] = (struct vl_grid_pos){0, (uint16_t)(i / w), (uint16_t)(i % w)};
    }
    t->tok = (struct vl_visual_tokens){.feat = vl_tensor_2d(t->feat, VL_F32, n, WIDTH),
                                       .pos = t->pos,
                                       .weight = t->weight,
                                       .n = n,
                                       .grid_w = w,
                                       .grid_h = h};
    if (saliency)
        t->tok.saliency = vl_tensor_1d(t->saliency, VL_F32, n);
}

static void draw_row(float *row, struct test_rng *rng)
{
    float scale = ldexpf(1, (int)test_randn(rng, 7) - 3);
    memset(row, 0, WIDTH * sizeof(*row));
    for (int ones = 0; ones < 4;) {
        uint32_t k = test_randn(rng, 12);
        ones += row[k] == 0;
        row[k] = scale;
    }
}

/* Saliency has a mean of exactly 1. */
static void draw(struct tokens *t, uint32_t h, uint32_t w, bool saliency, struct test_rng *rng)
{
    for (uint32_t i = 0; i < h * w; i++) {
        draw_row(t->feat[i], rng);
        t->saliency[i] = i % 2 ? 2 - t->saliency[i - 1] : i + 1 == h * w ? 1 : (float)test_randn(rng, 3);
    }
    wrap(t, h, w, saliency);
}

static double cosine(const float *a, const float *b)
{
    double ab = 0, aa = 0, bb = 0;
    for (int k = 0; k < WIDTH; k++) {
        ab += (double)a[k] * (double)b[k];
        aa += (double)a[k] * (double)a[k];
        bb += (double)b[k] * (double)b[k];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

static void open_of_shape(struct vl_reducer *r, const char *text, const struct vl_reducer_shape *shape)
{
    const struct vl_reducer_ops *ops = NULL;
    vl_auto(vl_params) p = NULL;
    struct vl_error err = {0, ""};
    char name[64];
    if (vl_params_parse(text, name, sizeof(name), &p, &err) < 0 || vl_reducer_find(&ops, name, &err) < 0 ||
        vl_reducer_init(r, ops, p, shape, &err) < 0)
        fail_msg("%s: %s", text, err.msg);
}

static void open_large(struct vl_reducer *r, const char *text, uint32_t max_tokens)
{
    open_of_shape(r, text,
                  &(struct vl_reducer_shape){.max_tokens = max_tokens, .d_model = WIDTH, .n_layers = 1});
}

static void open_reducer(struct vl_reducer *r, const char *text)
{
    open_large(r, text, MAX_N);
}

/* What the reducer answers, as marks; into, if not NULL, is filled when it merges. */
static uint32_t choose(struct test_exec *e, const struct vl_reducer *r, const struct tokens *t,
                       uint32_t budget, bool *keep, int32_t *into)
{
    struct vl_kept kept = {.n = 0};
    memset(keep, 0, MAX_N * sizeof(*keep));
    assert_int_equal(r->ops->after_projector(r->state, &e->x, &t->tok, budget, &kept), 0);
    for (uint32_t i = 0; i < kept.n; i++)
        keep[((int32_t *)kept.index.data)[i]] = true;
    if (into && kept.merge_into.data)
        memcpy(into, kept.merge_into.data, t->tok.n * sizeof(*into));
    vl_arena_reset(&e->arena, 0);
    return kept.n;
}

static void print_marks(const char *what, const bool *keep, uint32_t n)
{
    (void)printf("%s:", what);
    for (uint32_t i = 0; i < n; i++)
        (void)printf("%s%c", i % 8 ? "" : " ", keep[i] ? '#' : '.');
    (void)puts("");
}

static void same_marks(const bool *got, const bool *want, uint32_t n)
{
    if (memcmp(got, want, n * sizeof(*got)) != 0) {
        print_marks("got", got, n);
        print_marks("want", want, n);
        fail_msg("another choice than the reference's");
    }
}

/* The best of those not yet marked, by the greatest value, the lower index on a tie. */
static uint32_t best_of(const double *value, const bool *marked, uint32_t n)
{
    uint32_t best = n;
    for (uint32_t i = 0; i < n; i++)
        if (!marked[i] && (best == n || value[i] > value[best]))
            best = i;
    return best;
}

static void mark_best(const double *value, bool *marked, uint32_t n, uint32_t how_many)
{
    for (uint32_t i = 0; i < how_many; i++)
        marked[best_of(value, marked, n)] = true;
}

/* ---- diverse ---- */

static void naive_diverse(const struct tokens *t, uint32_t budget, uint32_t critical, double salient,
                          bool *keep)
{
    uint32_t n = t->tok.n, n_kept = 0;
    double value[MAX_N];
    memset(keep, 0, MAX_N * sizeof(*keep));
    if (t->tok.saliency.data) {
        for (uint32_t i = 0; i < n; i++)
            value[i] = (double)t->saliency[i];
        critical = critical < budget ? critical : budget;
        n_kept = critical + (uint32_t)((budget - critical) * salient);
        mark_best(value, keep, n, n_kept);
    }
    for (; n_kept < budget; n_kept++) {
        for (uint32_t i = 0; i < n; i++) {
            double near = 2; /* distance to the nearest chosen one; of the first, to any other */
            for (uint32_t j = 0; j < n; j++)
                if (j != i && (keep[j] || n_kept == 0))
                    near = fmin(near, 1 - cosine(t->feat[i], t->feat[j]));
            value[i] = near;
        }
        mark_best(value, keep, n, 1);
    }
}

static void test_diverse(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    bool got[MAX_N], want[MAX_N];
    struct test_rng rng = test_rng_new("diverse");
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "diverse:critical=3,salient=0.25");
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t h = 1 + test_randn(&rng, 8), w = 2 + test_randn(&rng, 7);
        draw(&t, h, w, round % 2, &rng);
        uint32_t budget = 1 + test_randn(&rng, h * w - 1);
        naive_diverse(&t, budget, 3, 0.25, want);
        assert_int_equal(choose(&e, &r, &t, budget, got, NULL), budget);
        same_marks(got, want, h * w);
    }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* The even share is there whatever the features say. */
static void test_floor(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL}, even = {.ops = NULL};
    bool got[MAX_N], want[MAX_N];
    struct test_rng rng = test_rng_new("even share");
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "diverse:uniform=0.5");
    open_reducer(&even, "uniform");
    for (int round = 0; round < ROUNDS; round++) {
        draw(&t, 8, 8, round % 2, &rng);
        uint32_t budget = 2 + test_randn(&rng, 60);
        (void)choose(&e, &even, &t, budget / 2, want, NULL);
        assert_int_equal(choose(&e, &r, &t, budget, got, NULL), budget);
        for (uint32_t i = 0; i < 64; i++)
            assert_true(got[i] || !want[i]);
    }
    vl_reducer_done(&r);
    vl_reducer_done(&even);
    test_exec_close(&e);
}

/* ---- crossget ---- */

static void naive_crossget(const struct tokens *t, uint32_t budget, double importance, bool *keep,
                           int32_t *into)
{
    uint32_t n = t->tok.n, place[MAX_N], at = 0;
    double greatest[MAX_N], value[MAX_N] = {0}, c[MAX_N][MAX_N];
    bool done[MAX_N] = {false};
    for (uint32_t i = 0; i < n; i++) {
        greatest[i] = -2;
        for (uint32_t j = 0; j < n; j++) {
            c[i][j] = cosine(t->feat[i], t->feat[j]);
            greatest[i] = j != i ? fmax(greatest[i], c[i][j]) : greatest[i];
        }
    }
    for (; at < n; at++) {
        uint32_t next = best_of(greatest, done, n);
        place[next] = at;
        done[next] = true;
    }
    for (uint32_t i = 0; i < n; i++) {
        double allowed = -1e9;
        for (uint32_t j = 0; j < n; j++)
            allowed = place[j] > place[i] ? fmax(allowed, c[i][j]) : allowed;
        value[i] = importance * (t->tok.saliency.data ? (double)t->saliency[i] : 1) - allowed;
    }
    memset(keep, 0, MAX_N * sizeof(*keep));
    mark_best(value, keep, n, budget);
    for (uint32_t i = 0; i < n; i++) {
        double near[MAX_N];
        bool no[MAX_N];
        into[i] = (int32_t)i;
        for (int strict = 1; strict >= 0 && !keep[i] && into[i] == (int32_t)i; strict--) {
            for (uint32_t j = 0; j < n; j++) {
                near[j] = c[i][j];
                no[j] = !keep[j] || (strict && place[j] < place[i]);
            }
            uint32_t best = best_of(near, no, n);
            into[i] = best < n ? (int32_t)best : (int32_t)i;
        }
    }
}

static void test_crossget(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r[2] = {{.ops = NULL}};
    bool got[MAX_N], want[MAX_N];
    int32_t into[MAX_N], want_into[MAX_N];
    struct test_rng rng = test_rng_new("crossget");
    test_exec_open(&e, "cpu", SCRATCH);
    open_large(&r[0], "crossget:importance=0.125", MAX_N);
    open_large(&r[1], "crossget:importance=0.125", 2000); /* too many to keep all cosines */
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t h = 1 + test_randn(&rng, 8), w = 2 + test_randn(&rng, 7);
        draw(&t, h, w, round % 2, &rng);
        uint32_t budget = 1 + test_randn(&rng, h * w - 1);
        naive_crossget(&t, budget, 0.125, want, want_into);
        assert_int_equal(choose(&e, &r[round % 4 / 2], &t, budget, got, into), budget);
        same_marks(got, want, h * w);
        assert_memory_equal(into, want_into, h * w * sizeof(*into));
    }
    vl_reducer_done(&r[0]);
    vl_reducer_done(&r[1]);
    test_exec_close(&e);
}

/* ---- turbo ---- */

/* One round: even tokens find their odd one, and those of the highest degree go there. */
static void naive_turbo(const struct tokens *t, uint32_t budget, double alpha, int32_t *into)
{
    uint32_t n = t->tok.n, partner[MAX_N] = {0};
    double degree[MAX_N];
    bool gone[MAX_N];
    for (uint32_t i = 0; i < n; i++) {
        double best = -2;
        for (uint32_t j = 1; j < n; j += 2) {
            double c = cosine(t->feat[i], t->feat[j]);
            partner[i] = c > best ? j : partner[i];
            best = fmax(best, c);
        }
        degree[i] = best - alpha * (t->tok.saliency.data ? (double)t->saliency[i] : 1);
        gone[i] = i % 2; /* to be asked no more */
        into[i] = (int32_t)i;
    }
    for (uint32_t left = n; left > budget; left--) {
        uint32_t i = best_of(degree, gone, n);
        gone[i] = true;
        into[i] = (int32_t)partner[i];
    }
}

static void test_turbo(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    bool keep[MAX_N];
    int32_t into[MAX_N], want[MAX_N];
    struct test_rng rng = test_rng_new("turbo");
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "turbo:alpha=0.125");
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t h = 2 + test_randn(&rng, 7), w = 2 + test_randn(&rng, 7), n = h * w;
        draw(&t, h, w, round % 2, &rng);
        uint32_t budget = n - 1 - test_randn(&rng, n / 4);
        naive_turbo(&t, budget, 0.125, want);
        assert_int_equal(choose(&e, &r, &t, budget, keep, into), budget);
        assert_memory_equal(into, want, n * sizeof(*into));
    }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* Many rounds: what is left stands for all, and copies of what is looked at most stay apart the longest. */
static void test_turbo_rounds(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    struct test_rng rng = test_rng_new("turbo rounds");
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "turbo:alpha=100");
    for (uint32_t budget = 1; budget < 64; budget++) {
        float sum = 0;
        draw(&t, 8, 8, true, &rng);
        for (uint32_t i = 0; i < 64; i++)
            t.saliency[i] = i == 36 ? 64 : 0;
        assert_int_equal(vl_reducer_run(&r, &e.x, &t.tok, budget), 0);
        assert_int_equal(t.tok.n, budget);
        bool there = false;
        for (uint32_t i = 0; i < budget; i++) {
            sum += t.weight[i];
            there = there || (t.pos[i].y == 4 && t.pos[i].x == 4);
        }
        assert_true(sum == 64);
        assert_true(there || budget < 2);
        vl_arena_reset(&e.arena, 0);
    }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* ---- hired ---- */

/* A frame: the strongest, of equals the first; without saliency what uniform keeps. */
static void test_hired_frame(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL}, even = {.ops = NULL};
    bool got[MAX_N], want[MAX_N];
    double value[MAX_N];
    struct test_rng rng = test_rng_new("hired");
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "hired");
    open_reducer(&even, "uniform");
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t h = 1 + test_randn(&rng, 8), w = 2 + test_randn(&rng, 7);
        draw(&t, h, w, round % 2, &rng);
        uint32_t budget = 1 + test_randn(&rng, h * w - 1);
        memset(want, 0, sizeof(want));
        for (uint32_t i = 0; i < h * w; i++)
            value[i] = (double)t.saliency[i];
        if (round % 2)
            mark_best(value, want, h * w, budget);
        else
            (void)choose(&e, &even, &t, budget, want, NULL);
        assert_int_equal(choose(&e, &r, &t, budget, got, NULL), budget);
        same_marks(got, want, h * w);
    }
    vl_reducer_done(&r);
    vl_reducer_done(&even);
    test_exec_close(&e);
}

/* A picture of 2 x 2 tiles and the whole, 3 x 3 tokens each, whose lower right alone is looked at: that tile
 * gets all that tiles get but one for each, up to all of it. A strip would have fed the third tile too. */
static void test_hired_tiles(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    bool keep[MAX_N];
    uint32_t n_of[5];
    struct test_rng rng = test_rng_new("hired tiles");
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "hired");
    static const struct {
        uint32_t budget, n_of[5];
    } cases[] = {{4, {0, 0, 0, 2, 2}},  {6, {1, 1, 1, 1, 2}},  {8, {1, 1, 1, 1, 4}},
                 {18, {1, 1, 1, 6, 9}}, {22, {2, 1, 1, 9, 9}}, {1, {0, 0, 0, 1, 0}}};
    for (size_t k = 0; k < sizeof(cases) / sizeof(*cases); k++) {
        draw(&t, 5, 9, true, &rng);
        for (uint32_t i = 0; i < 45; i++)
            t.saliency[i] = i == 44 ? 7 : 0;
        for (uint32_t i = 0; i < 9; i++)
            t.saliency[27 + i] = (float)(i % 4);
        t.tok.grid_w = t.tok.grid_h = 3;
        t.tok.tile_cols = 2;
        memset(n_of, 0, sizeof(n_of));
        assert_int_equal(choose(&e, &r, &t, cases[k].budget, keep, NULL), cases[k].budget);
        for (uint32_t i = 0; i < 45; i++)
            n_of[i / 9] += keep[i];
        assert_memory_equal(n_of, cases[k].n_of, sizeof(n_of));
        assert_true(cases[k].budget < 8 || keep[30]); /* the strongest of the fourth tile */
    }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* ---- temporal_diff ---- */

/* Two numbers of a row: a direction in a plane, degrees apart. */
static void turn(float *row, double degrees)
{
    memset(row, 0, WIDTH * sizeof(*row));
    row[0] = (float)cos(degrees * M_PI / 180);
    row[1] = (float)sin(degrees * M_PI / 180);
}

static void still(struct tokens *t, uint32_t h, uint32_t w)
{
    for (uint32_t i = 0; i < h * w; i++)
        turn(t->feat[i], 0);
    wrap(t, h, w, false);
}

/* Place 7 turns by one degree a frame, which no two neighbouring frames show; place 2 is always another, so
 * that nothing is kept only because one must be. */
static void test_slow_drift(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    bool keep[MAX_N];
    int n_shown = 0, last = 0;
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "temporal_diff:threshold=0.9,refresh=100000");
    for (int frame = 0; frame < 120; frame++) {
        still(&t, 3, 4);
        turn(t.feat[7], frame);
        turn(t.feat[2], 90 * frame);
        uint32_t n = choose(&e, &r, &t, 12, keep, NULL);
        if (frame == 0) {
            assert_int_equal(n, 12);
            continue;
        }
        assert_true(keep[2]);
        assert_int_equal(n, keep[7] ? 2 : 1);
        if (keep[7]) {
            assert_int_equal(frame - last, 26); /* the first whole degree past acos 0.9 */
            last = frame;
            n_shown++;
        }
    }
    assert_int_equal(n_shown, 4);
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* A still scene: every place is shown again within `refresh`, and otherwise one token a frame is all. */
static void test_refresh(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    bool keep[MAX_N];
    int last[16];
    uint32_t sum = 0;
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "temporal_diff:refresh=8");
    for (int i = 0; i < 16; i++)
        last[i] = -5; /* four frames to see all for the first time */
    for (int frame = 0; frame < 100; frame++) {
        still(&t, 4, 4);
        sum += choose(&e, &r, &t, 4, keep, NULL);
        for (int i = 0; i < 16; i++) {
            last[i] = keep[i] ? frame : last[i];
            assert_true(frame - last[i] < 8);
        }
    }
    assert_true(sum < 100 * 4 * 7 / 10);
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* What a place showed leaves with its window: unless somebody says otherwise it is shown again by then. */
static void test_refresh_within_the_window(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t window, every;
    } of[] = {{"temporal_diff", 3, 3},
              {"temporal_diff", 0, 8},
              {"temporal_diff", 50, 8},
              {"temporal_diff:refresh=5", 3, 5}};
    static struct tokens t;
    struct test_exec e;
    bool keep[MAX_N];
    test_exec_open(&e, "cpu", SCRATCH);
    for (int k = 0; k < 4; k++) {
        struct vl_reducer r = {.ops = NULL};
        open_of_shape(
            &r, of[k].text,
            &(struct vl_reducer_shape){
                .max_tokens = MAX_N, .d_model = WIDTH, .n_layers = 1, .window_frames = of[k].window});
        still(&t, 4, 4);
        assert_int_equal(choose(&e, &r, &t, 16, keep, NULL), 16);
        uint32_t frame = 1;
        while (frame < 20 && choose(&e, &r, &t, 16, keep, NULL) == 1)
            frame++;
        assert_int_equal(frame, of[k].every);
        vl_reducer_done(&r);
    }
    test_exec_close(&e);
}

/* A lamp that turns everything every frame does not keep an unseen corner unseen. */
static void test_no_starving(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    bool keep[MAX_N];
    int last = 0;
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "temporal_diff:refresh=8");
    for (int frame = 0; frame < 200; frame++) {
        still(&t, 4, 4);
        for (int i = 0; i < 15; i++)
            turn(t.feat[i], 90 * frame);
        (void)choose(&e, &r, &t, 2, keep, NULL);
        last = keep[15] ? frame : last;
        assert_true(frame - last <= 3 * 8);
    }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* Within the budget the most changed; without one as many as changed; after a reset all are new. */
static void test_changes(void **state)
{
    (void)state;
    static struct tokens t;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    bool keep[MAX_N];
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "temporal_diff:refresh=1000");
    still(&t, 4, 4);
    assert_int_equal(vl_reducer_run(&r, &e.x, &t.tok, 0), 0);
    assert_int_equal(t.tok.n, 16);
    vl_arena_reset(&e.arena, 0);
    still(&t, 4, 4);
    turn(t.feat[3], 60);
    turn(t.feat[9], 90);
    turn(t.feat[14], 60);
    assert_int_equal(choose(&e, &r, &t, 2, keep, NULL), 2);
    assert_true(keep[9] && keep[3]); /* the greatest, and of two the lower */
    assert_int_equal(vl_reducer_run(&r, &e.x, &t.tok, 0), 0);
    assert_int_equal(t.tok.n, 1);
    assert_int_equal(t.pos[0].y, 3);
    assert_int_equal(t.pos[0].x, 2);
    vl_arena_reset(&e.arena, 0);
    r.ops->reset(r.state);
    still(&t, 4, 4);
    assert_int_equal(choose(&e, &r, &t, 16, keep, NULL), 16);
    still(&t, 2, 8); /* another grid: nothing is compared across */
    assert_int_equal(choose(&e, &r, &t, 16, keep, NULL), 16);
    vl_reducer_done(&r);
    test_exec_close(&e);
}

/* L1.5: a threshold of 1 and no refresh needed drop nothing. */
static void test_keeps_all(void **state)
{
    (void)state;
    static struct tokens t, was;
    struct test_exec e;
    struct vl_reducer r = {.ops = NULL};
    struct test_rng rng = test_rng_new("keeps all");
    test_exec_open(&e, "cpu", SCRATCH);
    open_reducer(&r, "temporal_diff:threshold=1");
    draw(&t, 8, 8, false, &rng);
    for (int frame = 0; frame < 4; frame++) {
        was = t;
        assert_int_equal(vl_reducer_run(&r, &e.x, &t.tok, 0), 0);
        assert_int_equal(t.tok.n, 64);
        assert_memory_equal(t.tok.feat.data, was.feat, sizeof(was.feat));
        assert_memory_equal(t.pos, was.pos, sizeof(was.pos));
        wrap(&t, 8, 8, false);
        vl_arena_reset(&e.arena, 0);
    }
    vl_reducer_done(&r);
    test_exec_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_diverse),      cmocka_unit_test(test_floor),
        cmocka_unit_test(test_crossget),     cmocka_unit_test(test_turbo),
        cmocka_unit_test(test_turbo_rounds), cmocka_unit_test(test_hired_frame),
        cmocka_unit_test(test_hired_tiles),  cmocka_unit_test(test_slow_drift),
        cmocka_unit_test(test_refresh),      cmocka_unit_test(test_refresh_within_the_window),
        cmocka_unit_test(test_no_starving),  cmocka_unit_test(test_changes),
        cmocka_unit_test(test_keeps_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
