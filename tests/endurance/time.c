/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What is remembered: for how long, in which order, and what is said once it is forgotten. */
#include "tests/endurance/floors.h"
#include "tests/endurance/tests.h"

#include <stdio.h>
#include <string.h>

/* The question about the second of that wall clock alone: whether the engine says that it has nothing of it.
 */
static bool forgotten(struct play *p, int64_t wall_ns)
{
    vl_feed_put(&p->feed, &(struct vl_ask){.text = "How many shapes are there?",
                                           .since_ns = wall_ns,
                                           .until_ns = wall_ns,
                                           .max_tokens = PLAY_MAX_TOKENS,
                                           .sampling = VL_SAMPLING_GREEDY});
    if (p->feed.status != VL_TURN_OK && p->feed.status != VL_TURN_NOTHING_SEEN)
        vl_feed_die("second %lld: no answer (%d)", (long long)p->second, (int)p->feed.status);
    return p->feed.status == VL_TURN_NOTHING_SEEN;
}

/* 20. One picture of many holds something. The model was taught one distance, five seconds, and is asked at
 * that one; what the engine says about its own window is asked at every one. */
static void needle(struct play *p)
{
    enum { AT = 9, SECONDS = AT + 21, SEEDS = 3 };
    struct vl_engine_info info;
    uint32_t honest = 0, asked = 0, where = 0, what = 0, there = 0, n_there = 0, no_more = 0, n_no_more = 0;
    (void)vl_engine_get_info(p->feed.engine, &info); /* it is READY */
    const int64_t window = info.default_window_frames;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct play_opts o = play_defaults("blink", 200 + seed, SECONDS);
        struct vl_world_object it = {0};
        int64_t wall_ns = 0;
        o.at = AT;
        for (play_open(p, &o); play_next(p);) {
            int64_t ago = p->second - AT;
            char name[40];
            if (ago == 0) {
                it = *vl_script_subject(p->script);
                wall_ns = p->wall_ns;
            }
            if (ago < 0)
                continue;
            (void)snprintf(name, sizeof(name), "%s %s", vl_world_colour_name(it.colour),
                           vl_world_shape_name(it.shape));
            const char *place = vl_world_place_name(vl_world_place(it.x, it.y));
            honest += forgotten(p, wall_ns) == (ago >= window);
            asked++;
            if (ago == VL_QUIZ_SECONDS_BEFORE) {
                where += play_ask(p, place, "Where was the %s 5 seconds ago?", name);
                what += play_quiz(p, VL_QUIZ_COUNT_BEFORE) == 1;
            }
            if (ago == 0)
                there += play_ask(p, "Yes.", "Is there a %s?", name), n_there++;
            if (ago == 1 || ago == window || ago == 20)
                no_more += play_ask(p, "No.", "Is there a %s?", name), n_no_more++;
            if (ago == 20 && seed == 1) {
                (void)play_ask(p, "", "Where was the %s 5 seconds ago?", name);
                floors_note("20 s later, where it was 5 seconds ago: '%s'", p->feed.answer);
            }
        }
    }
    floors_check("needle, the engine knows its window", play_percent(honest, asked));
    floors_check("needle, is there", play_percent(there, n_there));
    floors_check("needle, is there no more", play_percent(no_more, n_no_more));
    floors_check("needle, where 5 s ago", play_percent(where, SEEDS));
    floors_check("needle, how many 5 s ago", play_percent(what, SEEDS));
}

/* 21. The same pictures forwards and backwards: the answers are not the same. */
static void order_of_events(struct play *p)
{
    static const char *const name[] = {"order, what happened last", "order, what happened last, backwards"};
    for (int32_t order = VL_SCRIPT_FORWARD; order <= VL_SCRIPT_BACKWARD; order++) {
        uint32_t right = 0, n = 0;
        for (uint64_t seed = 1; seed <= 2; seed++) {
            struct play_opts o = play_defaults("order", 210 + seed, 32);
            o.order = order;
            for (play_open(p, &o); play_next(p);) {
                int64_t in = p->second % 16;
                int r = in == 5 || in == 9 || in == 12 || in == 15 ? play_quiz(p, VL_QUIZ_LAST) : -1;
                n += r >= 0;
                right += r == 1;
            }
        }
        floors_check(name[order], play_percent(right, n));
    }
    floors_note(
        "not measured: what came first, how long it took, how fast: the model knows no such question");
}

static void motion(struct play *p)
{
    static const char *const name[] = {"motion", "motion, backwards", "motion, shuffled"};
    for (int32_t order = VL_SCRIPT_FORWARD; order <= VL_SCRIPT_SHUFFLED; order++) {
        uint32_t right = 0, n = 0, still = 0, n_still = 0;
        for (uint64_t seed = 1; seed <= 1; seed++) {
            struct play_opts o = play_defaults("motion", 220 + seed, 32);
            o.order = order;
            for (play_open(p, &o); play_next(p);) {
                const struct vl_world_object *it = vl_script_subject(p->script);
                char what[40];
                if (!it || p->second % 8 == 0)
                    continue;
                (void)snprintf(what, sizeof(what), "%s %s", vl_world_colour_name(it->colour),
                               vl_world_shape_name(it->shape));
                bool moves = it->direction != VL_WORLD_STILL;
                bool good = play_ask(p, moves ? vl_world_direction_name(it->direction) : "It is still.",
                                     "Which way is the %s moving?", what);
                *(moves ? &right : &still) += good;
                *(moves ? &n : &n_still) += 1;
            }
        }
        floors_check(name[order], play_percent(right, n));
        if (order == VL_SCRIPT_FORWARD)
            floors_check("motion, still", play_percent(still, n_still));
    }
}

/* 22. What was said outlives the pictures that it was said about. */
static void words_that_stay(struct play *p)
{
    static const int ago[] = {1, 4, 6, 9, 12, 20};
    enum { N = sizeof(ago) / sizeof(*ago), AT = 4, SEEDS = 3 };
    uint32_t right[N] = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct play_opts o = play_defaults("blink", 240 + seed, AT + 1 + ago[N - 1] + 1);
        o.at = AT;
        for (play_open(p, &o); play_next(p);)
            for (size_t i = 0; i < N; i++)
                if (p->second == AT + 1 + ago[i]) {
                    right[i] += play_quiz(p, VL_QUIZ_LAST) == 1;
                    if (seed == 1)
                        floors_note("%d s ago: '%s'", ago[i], p->feed.answer);
                }
    }
    for (size_t i = 0; i < N; i++) {
        char name[48];
        (void)snprintf(name, sizeof(name), "words, what happened last, %d s ago", ago[i]);
        floors_check(name, play_percent(right[i], SEEDS));
    }
}

const struct endurance_test endurance_time[] = {
    {"needle", "20: one picture of many", needle},
    {"order", "21: what came last", order_of_events},
    {"motion", "21: which way, forwards, backwards and shuffled", motion},
    {"words", "22: what was said when the pictures are gone", words_that_stay},
    {NULL, NULL, NULL},
};
