/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Plays a test: URI to a session at the model's pace, through the real vlmd-ingest, and keeps the truth of
 * each second beside what was said about it. Nothing waits for a clock: a second lasts as long as its work.
 * Trouble ends the program with what and why.
 */
#ifndef VL_TESTS_ENDURANCE_PLAY_H
#define VL_TESTS_ENDURANCE_PLAY_H
#include "base/frame_socket.h"
#include "bench/feed.h"
#include "bench/quiz.h"
#include "pipelines/script.h"

#include <sys/types.h>

enum { PLAY_HISTORY = 64, PLAY_MAX_TOKENS = 24 };

/* Of the whole program. */
struct play_setup {
    const char *model, *mmproj, *ingest;
    uint32_t minutes; /* of the long run behind its window */
};
extern struct play_setup play_setup;

/* What is played, and how it is watched. */
struct play_opts {
    const char *world; /* NULL: the seeded one */
    uint64_t seed;
    uint32_t seconds, width, height; /* size 0: 256x144 */
    float event_rate, move_share;    /* of the seeded world */
    int32_t n_start;                 /* -1: by seed */
    int32_t order;
    double at, every, px, flicker, sigma;
    const char *fault; /* NULL: none */
    bool gate;
    const char *instruction, *reducer, *policy;
    uint32_t visual_budget;
};
/* A quiet second of the scripted or seeded world in question: everything at its default. */
struct play_opts play_defaults(const char *world, uint64_t seed, uint32_t seconds);

struct play {
    struct vl_feed feed; /* stats, caption and answer of the last frame and question */
    struct vl_script *script;
    struct vl_frame_socket *socket;
    pid_t child;
    struct vl_frame_status status; /* the child's last */
    /* the second just shown */
    int64_t second;
    uint32_t flags; /* of its frame */
    int64_t wall_ns;
    struct vl_world_truth history[PLAY_HISTORY]; /* since the last gap, oldest first */
    uint32_t n_history;
    char want[VL_QUIZ_TEXT_SIZE]; /* its caption, "" for none */
    /* since open */
    uint32_t n_frames, n_events, n_right, n_missed, n_false;
    uint64_t rng;
};
void play_start(struct play *p); /* the engine, once */
void play_open(struct play *p, const struct play_opts *o);
bool play_next(struct play *p);  /* one frame; false: the stream has ended */
void play_all(struct play *p);   /* to its end */
void play_close(struct play *p); /* the stream */
void play_stop(struct play *p);  /* the engine */
const struct vl_world_truth *play_truth(const struct play *p);

/* Asks; true: the answer is that text. */
bool play_ask(struct play *p, const char *want, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The contract's question of that category about what was shown. Returns 1 right, 0 wrong, -1: there is none.
 */
int play_quiz(struct play *p, enum vl_quiz_category category);
/* Of n in percent; 0 of 0 is 0. */
double play_percent(uint32_t part, uint32_t n);
#endif
