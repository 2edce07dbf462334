/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A scene of the exam is drawn here, with all its questions, and shown to an engine at the model's pace. */
#include "bench/exam.h"

#include "base/clock.h"

#include <stdlib.h>

static void draw_second(struct vl_exam *e, const struct vl_world *world, uint32_t second, bool blind)
{
    const int width = e->scene.width, height = e->scene.height;
    const size_t stride = 3 * (size_t)width;
    uint8_t *rgb = e->pixels + second * stride * (size_t)height;
    struct vl_world_scene picture;
    vl_world_scene_at(world, 1, &picture);
    picture.plain = blind;
    if (vl_world_draw(&picture, width, height, stride, rgb, NULL) < 0)
        vl_feed_die("cannot draw second %u", second);
    e->second[second].rgb = rgb;
}

/* The questions of each second, about all that was there until then. */
static void write_questions(struct vl_exam *e)
{
    struct vl_world_truth history[VL_QUIZ_EXAM_SECONDS];
    for (uint32_t s = 0; s < e->n_seconds; s++) {
        struct vl_exam_second *now = &e->second[s];
        history[s] = now->truth;
        if (s) /* what is there from the start is no news */
            vl_quiz_caption(&now->truth.event, now->caption);
        for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++)
            now->asked[c] =
                vl_quiz_exam_ask(e->index, history, s + 1, (enum vl_quiz_category)c, &now->item[c]) == 0;
    }
}

void vl_exam_draw(struct vl_exam *e, uint32_t index, float event_rate, bool blind)
{
    *e = (struct vl_exam){.index = index, .scene = vl_quiz_exam_scene(index, event_rate)};
    struct vl_world *world;
    e->n_seconds = (uint32_t)e->scene.n_seconds;
    e->pixels = calloc(e->n_seconds, 3 * (size_t)e->scene.width * (size_t)e->scene.height);
    if (!e->pixels || e->n_seconds > VL_QUIZ_EXAM_SECONDS || vl_world_open(&e->scene.options, &world) < 0)
        vl_feed_die("cannot open scene %u", index);
    for (uint32_t s = 0; s < e->n_seconds; s++) {
        if (s)
            vl_world_step(world);
        e->second[s].truth = *vl_world_truth(world);
        draw_second(e, world, s, blind);
    }
    (void)vl_world_close(world);
    write_questions(e);
}

void vl_exam_done(struct vl_exam *e)
{
    free(e->pixels);
    e->pixels = NULL;
}

void vl_exam_begin(struct vl_feed *f, const struct vl_exam_how *how)
{
    vl_feed_begin(f, &(struct vl_session_opts){.max_caption_tokens = VL_EXAM_MAX_TOKENS,
                                               .visual_budget = how->tokens,
                                               .captions = true,
                                               .reducer = how->reducer,
                                               .reducer_params = how->reducer_params,
                                               .policy = how->policy,
                                               .policy_params = how->policy_params,
                                               .sampling = VL_SAMPLING_GREEDY});
}

void vl_exam_show(struct vl_feed *f, const struct vl_exam *e, uint32_t second)
{
    vl_feed_show(f, e->second[second].rgb, (uint32_t)e->scene.width, (uint32_t)e->scene.height,
                 second * VL_NSEC_PER_SEC);
}

bool vl_exam_ask(struct vl_feed *f, const struct vl_exam_how *how, const struct vl_quiz_item *item)
{
    vl_feed_put(f, &(struct vl_ask){.text = item->question,
                                    .max_tokens = VL_EXAM_MAX_TOKENS,
                                    .reducer = how->question_reducer,
                                    .reducer_params = how->question_params,
                                    .visual_budget = how->question_tokens,
                                    .sampling = VL_SAMPLING_GREEDY});
    if (f->status == VL_TURN_FAILED)
        vl_feed_die("a question was not answered: '%s'", item->question);
    return vl_quiz_is_right(item, f->answer);
}
