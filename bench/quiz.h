/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * Captions, questions and expected answers about the drawn world, made from its
 * truth. Training and the quality bench ask through this one implementation, so
 * PyTorch and C are asked the same questions about the same scenes.
 *
 * A history is an array of truths, one a second, oldest first; the last one is
 * now. libc only, no state: everything comes from the caller's rng, a number that
 * the calls move on. Same history, same rng: same question.
 */
#ifndef VL_BENCH_QUIZ_H
#define VL_BENCH_QUIZ_H

#include "pipelines/world.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vl_quiz_category {
    VL_QUIZ_SHAPE,        /* What shape is red? */
    VL_QUIZ_COLOUR,       /* What colour is the circle? */
    VL_QUIZ_WHERE,        /* Where is the red circle? */
    VL_QUIZ_WHAT_AT,      /* What is at the top left? */
    VL_QUIZ_EXISTS,       /* Is there a red circle? */
    VL_QUIZ_COUNT,        /* How many shapes are there? */
    VL_QUIZ_MOTION,       /* Which way is the red circle moving? */
    VL_QUIZ_WHERE_BEFORE, /* Where was the red circle 5 seconds ago? */
    VL_QUIZ_WHAT_BEFORE,  /* What was at the top left 5 seconds ago? */
    VL_QUIZ_COUNT_BEFORE, /* How many shapes were there 5 seconds ago? */
    VL_QUIZ_LAST,         /* What happened last? */
    VL_QUIZ_UNKNOWN,      /* anything else */
    VL_QUIZ_N_CATEGORIES,
};

enum { VL_QUIZ_SECONDS_BEFORE = 5, VL_QUIZ_TEXT_SIZE = 128 };

enum vl_quiz_wording {
    VL_QUIZ_CONTRACT, /* the documented words exactly */
    VL_QUIZ_ANY,      /* paraphrases, lower case, no final mark, American spelling too */
};

struct vl_quiz_item {
    int32_t category;
    int32_t seconds_back; /* the moment it is about: 0 or VL_QUIZ_SECONDS_BEFORE */
    int32_t about_id;     /* the object it is about, 0 for none */
    int32_t about_shape;
    int32_t about_colour;
    float about_x, about_y; /* where that object was then */
    int32_t moving;         /* VL_QUIZ_MOTION: it moves */
    int32_t changed;        /* the answer about the past differs from that about now */
    int32_t held_out;       /* the object's triple is one kept out of training */
    char question[VL_QUIZ_TEXT_SIZE];
    char answer[VL_QUIZ_TEXT_SIZE];
};

/* "shape", "colour", ... for tables; NULL out of range */
const char *vl_quiz_category_name(int category);

/* Caption of an event into ret of VL_QUIZ_TEXT_SIZE bytes; an empty string for a quiet second. */
void vl_quiz_caption(const struct vl_world_event *event, char *ret);

/*
 * Makes a question of a category that has exactly one right answer in this history.
 * Returns 0; 1 if this history has no such question (try another category or second).
 */
int vl_quiz_ask(uint64_t *rng, const struct vl_world_truth *history, size_t n_history,
                enum vl_quiz_category category, enum vl_quiz_wording wording, struct vl_quiz_item *ret);

/*
 * The exam: numbered scenes that training never draws (their seeds are apart), the
 * same for every implementation. Scenes go round 16:9, 4:3 and 1:1; in every fourth
 * one the first object is a (shape, colour, place) triple kept out of training.
 * Even scenes ask in the contract's words, odd ones in any.
 */
struct vl_quiz_scene {
    struct vl_world_options options;
    int32_t aspect; /* 0: 16:9, 1: 4:3, 2: 1:1 */
    int32_t width, height;
    int32_t n_seconds;
};

enum { VL_QUIZ_EXAM_SECONDS = 10 };

/* event_rate: chance of an event in a second; 0.5 is a busy scene, 0 a still one */
struct vl_quiz_scene vl_quiz_exam_scene(uint32_t index, float event_rate);
const char *vl_quiz_aspect_name(int aspect);

/*
 * The exam's question of a category in the last second of a history. Returns 0, or 1 if
 * the exam has none there: it asks in about a third of the seconds that could have one.
 */
int vl_quiz_exam_ask(uint32_t index, const struct vl_world_truth *history, size_t n_history,
                     enum vl_quiz_category category, struct vl_quiz_item *ret);

/* Whether an answer is right: the same words, whatever the case, spaces around and final mark. */
bool vl_quiz_is_right(const struct vl_quiz_item *item, const char *answer);
bool vl_quiz_same_text(const char *a, const char *b);

#endif
