/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What is seen: where, how many, how small, how slowly, how dark, through how much noise. */
#include "tests/endurance/floors.h"
#include "tests/endurance/tests.h"

#include "base/clock.h"
#include "pipelines/gate.h"

#include <stdio.h>
#include <string.h>

enum { WIDTH = 256, HEIGHT = 144 }; /* what play_open asks for */

static const char *name_of(const struct vl_world_object *o, char *ret, size_t size)
{
    (void)snprintf(ret, size, "%s %s", vl_world_colour_name(o->colour), vl_world_shape_name(o->shape));
    return ret;
}

static bool ask_where(struct play *p, const struct vl_world_object *o)
{
    char name[40];
    return play_ask(p, vl_world_place_name(vl_world_place(o->x, o->y)), "Where is the %s?",
                    name_of(o, name, sizeof(name)));
}

/* 15. One of four, in each cell of a 6x6 grid: of the nine places that the model can tell, each is four
 * cells. A row that is never found is what a bias by position looks like. */
static void pointing_grid(struct play *p)
{
    enum { N = 6, ROUNDS = 2 };
    uint32_t right[N] = {0}, asked[N] = {0}, n_right = 0;
    struct play_opts o = play_defaults("grid", 15, N * N * ROUNDS);
    play_open(p, &o);
    while (play_next(p)) {
        const struct vl_world_object *subject = vl_script_subject(p->script);
        uint32_t row = (uint32_t)(p->second % (N * N)) / N;
        if (!subject)
            continue;
        bool good = ask_where(p, subject);
        asked[row]++;
        right[row] += good;
        n_right += good;
    }
    for (uint32_t row = 0; row < N; row++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "grid row %u", row + 1);
        floors_check(name, play_percent(right[row], asked[row]));
    }
    floors_check("grid", play_percent(n_right, N * N * ROUNDS));
    floors_check("grid, false captions", p->n_false);
}

/* 18. As many as the world draws: none to five. The model knows no more. */
static void counting(struct play *p)
{
    enum { N = 6, ROUNDS = 8 };
    static const char *const number[N] = {"Zero", "One", "Two", "Three", "Four", "Five"};
    uint32_t right[N] = {0}, n_right = 0, n = 0;
    struct play_opts o = play_defaults("count", 18, N * ROUNDS);
    for (play_open(p, &o); play_next(p); n++) {
        int32_t k = play_truth(p)->n_objects;
        bool good = play_ask(p, number[k], "How many shapes are there?");
        right[k] += good;
        n_right += good;
    }
    floors_check("count", play_percent(n_right, n));
    for (int k = 0; k < N; k++)
        floors_note("count %s: %u of %d", number[k], right[k], ROUNDS);

    /* One that comes and goes again and again: said each time, no more and no less. */
    o = play_defaults("blink", 18, 60);
    o.every = 5;
    play_open(p, &o);
    play_all(p);
    floors_check("count, repeated events captioned", play_percent(p->n_right, p->n_events));
    floors_check("count, false captions", p->n_false);
}

/* Draws the seconds of a script for the gate alone. Returns of how many that hold an event it passed one. */
static void gate_events(struct vl_script_options *o, int64_t seconds, uint32_t *inout_passed,
                        uint32_t *inout_n)
{
    static uint8_t rgb[WIDTH * HEIGHT * 3];
    struct vl_change_gate gate;
    vl_auto(vl_script) script = NULL;
    struct vl_error err;
    if (vl_script_new(o, &script, &err) < 0)
        vl_feed_die("%s", err.msg);
    vl_change_gate_init(&gate);
    for (int64_t s = 0; s < seconds; s++) {
        int64_t pts = s * VL_NSEC_PER_SEC;
        if (vl_script_draw(script, pts, WIDTH, HEIGHT, (size_t)WIDTH * 3, rgb) < 0)
            vl_feed_die("cannot draw second %lld", (long long)s);
        struct vl_frame f = {.plane = {rgb},
                             .stride = {WIDTH * 3},
                             .width = WIDTH,
                             .height = HEIGHT,
                             .format = VL_PIXFMT_RGB24,
                             .pts_ns = pts};
        bool passed = vl_change_gate_pass(&gate, &f, pts);
        if (vl_script_truth(script)->event.kind != VL_WORLD_APPEARED && o->at >= 0)
            continue;
        *inout_n += 1;
        *inout_passed += passed;
    }
}

/* 16. So many pixels of 256 for one second. Found: something is said about it in its second. The gate is
 * asked alone, about many more. */
static void small_change(struct play *p)
{
    static const double px[] = {4, 8, 16, 24, 32};
    for (size_t i = 0; i < sizeof(px) / sizeof(*px); i++) {
        uint32_t n_said = 0, n = 0, n_gate = 0, n_drawn = 0;
        char name[48];
        for (uint64_t seed = 1; seed <= 8; seed++) {
            struct vl_script_options o = vl_script_default_options(160 + seed, WIDTH, HEIGHT);
            o.name = "blink";
            o.at = 3;
            o.every = 4;
            o.px = px[i];
            gate_events(&o, 12, &n_gate, &n_drawn);
        }
        (void)snprintf(name, sizeof(name), "small, %g px: passes the gate", px[i]);
        floors_check(name, play_percent(n_gate, n_drawn));
        for (uint64_t seed = 1; seed <= 4; seed++) {
            struct play_opts o = play_defaults("blink", 160 + seed, 8);
            o.every = 3;
            o.at = 3;
            o.px = px[i];
            play_open(p, &o);
            while (play_next(p)) {
                bool there = play_truth(p)->event.kind == VL_WORLD_APPEARED;
                n += there;
                n_said += there && p->feed.caption[0];
            }
        }
        (void)snprintf(name, sizeof(name), "small, %g px: captioned", px[i]);
        floors_check(name, play_percent(n_said, n));
    }
}

/* 17. Each second looks like the one before: whoever compares only those two sees nothing, and the end has to
 * be right all the same, also behind what leaves out pictures or parts of them. */
static void slow_drift(struct play *p)
{
    enum { SECONDS = 121 };
    static const struct {
        const char *name, *reducer;
        bool gate;
    } by[] = {{"drift, final place", NULL, false},
              {"drift, final place behind the gate", NULL, true},
              {"drift, final place by temporal_diff", "temporal_diff", false}};
    uint32_t n_said = 0;
    for (size_t i = 0; i < sizeof(by) / sizeof(*by); i++) {
        struct play_opts o = play_defaults("drift", 171, SECONDS);
        o.width = 320; /* 120 pixels are from the left to the middle */
        o.height = 180;
        o.gate = by[i].gate;
        o.reducer = by[i].reducer;
        play_open(p, &o);
        play_all(p);
        vl_script_seek(p->script, SECONDS - 1);
        const struct vl_world_object *subject = vl_script_subject(p->script);
        floors_check(by[i].name, subject && ask_where(p, subject));
        floors_note("answer '%s', %.1f visual tokens a frame, %u frames", p->feed.answer,
                    (double)p->feed.stats.n_visual_tokens / p->n_frames, p->n_frames);
        if (o.reducer)
            floors_check("drift, tokens a frame kept by temporal_diff",
                         (double)p->feed.stats.n_visual_tokens / p->n_frames);
        n_said += o.reducer ? 0 : p->n_false;
    }
    floors_check("drift, captions on the way", n_said);
}

static void fading(struct play *p)
{
    uint32_t right = 0;
    struct play_opts o = play_defaults("fade", 17, 121);
    play_open(p, &o);
    play_all(p);
    for (int32_t i = 0; i < play_truth(p)->n_objects; i++)
        right += ask_where(p, &play_truth(p)->objects[i]);
    floors_check("fade, places of three", right);
    floors_check("fade, false captions", p->n_false);
}

/* Visual tokens of a frame that temporal_diff kept of those there were, by its own measure. */
static double kept_by_temporal_diff(struct play *p, const struct play_opts *o)
{
    struct vl_engine_info info;
    struct play_opts reduced = *o;
    reduced.reducer = "temporal_diff";
    play_open(p, &reduced);
    play_all(p);
    (void)vl_engine_get_info(p->feed.engine, &info); /* it is READY */
    return 100.0 * (double)p->feed.stats.n_visual_tokens / p->n_frames / info.tokens_per_frame;
}

/* 26. Still scenes under a lamp that flickers and a sensor that is noisy: what the gate lets through and
 * temporal_diff keeps, and what is said about nothing. */
static void noise_and_light(struct play *p)
{
    static const struct {
        double flicker, sigma;
    } level[] = {{0, 0}, {0.05, 0}, {0.15, 0}, {0.4, 0}, {0, 8}, {0, 16}, {0, 32}};
    for (size_t i = 0; i < sizeof(level) / sizeof(*level); i++) {
        enum { SECONDS = 16 };
        char name[64], row[96];
        uint32_t right = 0, n_passed = 0, n_drawn = 0;
        struct play_opts o = play_defaults("still", 26, SECONDS);
        struct vl_script_options drawn = vl_script_default_options(26, WIDTH, HEIGHT);
        drawn.name = "still";
        drawn.flicker = o.flicker = level[i].flicker;
        drawn.sigma = o.sigma = level[i].sigma;
        (void)snprintf(name, sizeof(name), "flicker %g, sigma %g", o.flicker, o.sigma);
        play_open(p, &o);
        play_all(p);
        for (int32_t k = 0; k < play_truth(p)->n_objects; k++)
            right += ask_where(p, &play_truth(p)->objects[k]);
        (void)snprintf(row, sizeof(row), "%s: false captions", name);
        floors_check(row, p->n_false);
        (void)snprintf(row, sizeof(row), "%s: places of three", name);
        floors_check(row, right);
        gate_events(&drawn, 24, &n_passed, &n_drawn);
        (void)snprintf(row, sizeof(row), "%s: through the gate", name);
        floors_check(row, play_percent(n_passed, n_drawn));
        (void)snprintf(row, sizeof(row), "%s: kept by temporal_diff", name);
        floors_check(row, kept_by_temporal_diff(p, &o));
    }
}

static void reading(struct play *p)
{
    (void)p;
    floors_note("not measured: the model of this suite cannot read, so no strings are shown to it");
}

const struct endurance_test endurance_sight[] = {
    {"grid", "15: where one of four is, per row of a 6x6 grid", pointing_grid},
    {"small", "16: something small for a second", small_change},
    {"drift", "17: a pixel a second for two minutes", slow_drift},
    {"fade", "17: light that fades for two minutes", fading},
    {"count", "18: how many, and how often", counting},
    {"reading", "19: strings", reading},
    {"noise", "26: lamps that flicker, sensors that are noisy", noise_and_light},
    {NULL, NULL, NULL},
};
