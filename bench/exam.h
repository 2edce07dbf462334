/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * Which scenes of the drawn world the quality bench shows and which questions it asks: a function of a seed
 * and a number, so that the C engine and PyTorch sit the same exam. No state; libc only.
 */
#ifndef VL_BENCH_EXAM_H
#define VL_BENCH_EXAM_H

#include "bench/quiz.h"

enum { VL_EXAM_SECONDS = 12, VL_EXAM_MAX_QUESTIONS = VL_QUIZ_N_CATEGORIES };

enum vl_exam_aspect { VL_EXAM_16_9, VL_EXAM_4_3, VL_EXAM_1_1, VL_EXAM_N_ASPECTS };

struct vl_exam_scene {
    struct vl_world_options world; /* open it, then VL_EXAM_SECONDS - 1 steps */
    int32_t width, height;         /* of the pictures, drawn at fraction 1 of each second */
    int32_t aspect;                /* enum vl_exam_aspect: they take turns */
    int32_t start_second;          /* what the media clock shows in second 0 */
};

/* Every fourth scene has a first object whose (shape, colour, place) was kept out of training. */
void vl_exam_scene(uint64_t seed, uint32_t index, struct vl_exam_scene *ret);

/*
 * The questions asked after second n_history - 1 of that scene, at most one a category; about three in all.
 * Returns how many are in ret. Nothing about the past is asked before VL_QUIZ_SECONDS_BEFORE seconds have
 * been seen.
 */
uint32_t vl_exam_questions(uint64_t seed, uint32_t index, const struct vl_world_truth *history,
                           size_t n_history, struct vl_quiz_item ret[VL_EXAM_MAX_QUESTIONS]);

const char *vl_exam_aspect_name(int aspect); /* "16:9" */

#endif
