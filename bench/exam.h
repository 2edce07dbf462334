/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BENCH_EXAM_H
#define VL_BENCH_EXAM_H
#include "bench/feed.h"
#include "bench/quiz.h"

/* One scene of the exam, drawn once: pictures, questions and right answers, for as many sittings as one
 * likes. Trouble ends the program, as in feed.h. One thread. */
enum { VL_EXAM_MAX_TOKENS = 24 }; /* of a caption, of an answer */

struct vl_exam_second {
    struct vl_world_truth truth;
    char caption[VL_QUIZ_TEXT_SIZE]; /* the right one; "" for silence */
    const uint8_t *rgb;              /* [height, width, 3] */
    struct vl_quiz_item item[VL_QUIZ_N_CATEGORIES];
    bool asked[VL_QUIZ_N_CATEGORIES];
};
struct vl_exam {
    uint32_t index, n_seconds;
    struct vl_quiz_scene scene;
    struct vl_exam_second second[VL_QUIZ_EXAM_SECONDS];
    uint8_t *pixels;
};
/* blind: grey pictures, with the questions of the scene. */
void vl_exam_draw(struct vl_exam *e, uint32_t index, float event_rate, bool blind);
void vl_exam_done(struct vl_exam *e);

/* How it is sat: what is done to arriving frames, what the cache keeps, and what is done on each question's
 * fork. Names are borrowed; zeroed: nothing. */
struct vl_exam_how {
    const char *reducer, *policy, *question_reducer;
    const struct vl_params *reducer_params, *policy_params, *question_params;
    uint32_t tokens, question_tokens; /* of a frame; 0: all */
};
void vl_exam_begin(struct vl_feed *f, const struct vl_exam_how *how);
void vl_exam_show(struct vl_feed *f, const struct vl_exam *e, uint32_t second); /* its caption is in f */
/* The answer is in f. */
bool vl_exam_ask(struct vl_feed *f, const struct vl_exam_how *how, const struct vl_quiz_item *item);
#endif
