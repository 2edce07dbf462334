/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * The exam: seeds become scenes and questions. Seeds of scenes lie far above those that training draws.
 */
#include "bench/exam.h"

#include <stddef.h>

static const struct {
    const char *name;
    int32_t width, height;
} aspects[VL_EXAM_N_ASPECTS] = {
    [VL_EXAM_16_9] = {"16:9", 320, 180},
    [VL_EXAM_4_3] = {"4:3", 320, 240},
    [VL_EXAM_1_1] = {"1:1", 240, 240},
};

/* splitmix64 of two numbers. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t z = a * UINT64_C(0xD1342543DE82EF95) + b + UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

void vl_exam_scene(uint64_t seed, uint32_t index, struct vl_exam_scene *ret)
{
    int aspect = (int)(index % VL_EXAM_N_ASPECTS);
    uint64_t m = mix(seed, index);
    struct vl_world_options w = vl_world_default_options(m | UINT64_C(1) << 62);
    w.aspect = (float)aspects[aspect].width / (float)aspects[aspect].height;
    w.event_rate = 0.55f; /* a busy scene: an event in more than half of the seconds */
    w.held_out = index / VL_EXAM_N_ASPECTS % 4 == 3 ? VL_WORLD_HELD_OUT_FORCED : VL_WORLD_HELD_OUT_NEVER;
    *ret = (struct vl_exam_scene){
        .world = w,
        .width = aspects[aspect].width,
        .height = aspects[aspect].height,
        .aspect = aspect,
        .start_second = 0,
    };
}

uint32_t vl_exam_questions(uint64_t seed, uint32_t index, const struct vl_world_truth *history,
                           size_t n_history, struct vl_quiz_item ret[VL_EXAM_MAX_QUESTIONS])
{
    uint64_t rng = mix(mix(seed, index), n_history) | 1;
    uint32_t n = 0;
    for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++) {
        /* Motion has the most cases to tell apart; an unknown question is the same each time. */
        uint32_t percent = c == VL_QUIZ_MOTION ? 50 : c == VL_QUIZ_UNKNOWN ? 5 : 25;
        if (mix(rng, (uint64_t)c) % 100 >= percent)
            continue;
        uint64_t own = mix(rng, 1000 + (uint64_t)c);
        if (vl_quiz_ask(&own, history, n_history, (enum vl_quiz_category)c, VL_QUIZ_CONTRACT, &ret[n]) == 0)
            n++;
    }
    return n;
}

const char *vl_exam_aspect_name(int aspect)
{
    return aspect >= 0 && aspect < VL_EXAM_N_ASPECTS ? aspects[aspect].name : NULL;
}
