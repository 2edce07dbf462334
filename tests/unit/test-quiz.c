/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * The quiz: captions and answers are the words of the contract, answers follow from
 * the truth, and the same rng asks the same questions.
 */
#include "bench/quiz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SECONDS = 12 };

static uint64_t first_seed(void)
{
    const char *text = getenv("VL_TEST_SEED");
    return text ? strtoull(text, NULL, 0) : 1;
}

static void history_of(uint64_t seed, struct vl_world_truth *ret)
{
    struct vl_world_options options = vl_world_default_options(seed);
    struct vl_world *world = NULL;
    options.event_rate = 0.6f;
    assert_int_equal(vl_world_open(&options, &world), 0);
    for (int t = 0; t < SECONDS; t++) {
        ret[t] = *vl_world_truth(world);
        vl_world_step(world);
    }
    vl_world_close(world);
}

static void captions_are_the_contract(void **state)
{
    struct vl_world_event e = {
        .kind = VL_WORLD_APPEARED,
        .object = {.shape = VL_WORLD_CIRCLE, .colour = 0, .x = 0.1f, .y = 0.2f, .direction = 1}};
    char text[VL_QUIZ_TEXT_SIZE];
    (void)state;
    vl_quiz_caption(&e, text);
    assert_string_equal(text, "A red circle appeared, top left.");
    e.object.colour = 1;
    vl_quiz_caption(&e, text);
    assert_string_equal(text, "An orange circle appeared, top left.");
    e.object.colour = 0;
    e.kind = VL_WORLD_GONE;
    vl_quiz_caption(&e, text);
    assert_string_equal(text, "The red circle is gone.");
    e.kind = VL_WORLD_MOVES;
    vl_quiz_caption(&e, text);
    assert_string_equal(text, "The red circle moves right.");
    e.kind = VL_WORLD_TURNED;
    e.to_colour = 5;
    vl_quiz_caption(&e, text);
    assert_string_equal(text, "The red circle turned blue.");
    e.kind = VL_WORLD_QUIET;
    vl_quiz_caption(&e, text);
    assert_string_equal(text, "");
}

static const struct vl_world_truth *moment(const struct vl_world_truth *history,
                                           const struct vl_quiz_item *item)
{
    return &history[SECONDS - 1 - item->seconds_back];
}

/* An independent reading of the answer. */
static void check_answer(const struct vl_world_truth *history, const struct vl_quiz_item *item)
{
    const struct vl_world_truth *then = moment(history, item);
    const struct vl_world_object *o = NULL;
    char text[VL_QUIZ_TEXT_SIZE];
    static const char *const counts[] = {"zero", "one", "two", "three", "four", "five"};
    for (int i = 0; i < then->n_objects; i++)
        if (then->objects[i].id == item->about_id)
            o = &then->objects[i];
    assert_int_equal(o != NULL, item->about_id != 0);
    switch (item->category) {
    case VL_QUIZ_SHAPE:
        assert_true(vl_quiz_is_right(item, vl_world_shape_name(o->shape)));
        break;
    case VL_QUIZ_COLOUR:
        assert_true(vl_quiz_is_right(item, vl_world_colour_name(o->colour)));
        break;
    case VL_QUIZ_WHERE:
    case VL_QUIZ_WHERE_BEFORE:
        assert_true(vl_quiz_is_right(item, vl_world_place_name(vl_world_place(o->x, o->y))));
        break;
    case VL_QUIZ_WHAT_AT:
    case VL_QUIZ_WHAT_BEFORE:
        if (o)
            (void)snprintf(text, sizeof(text), "%s %s %s", o->colour == 1 ? "an" : "a",
                           vl_world_colour_name(o->colour), vl_world_shape_name(o->shape));
        assert_true(vl_quiz_is_right(item, o ? text : "nothing"));
        break;
    case VL_QUIZ_COUNT:
    case VL_QUIZ_COUNT_BEFORE:
        assert_true(vl_quiz_is_right(item, counts[then->n_objects]));
        break;
    case VL_QUIZ_EXISTS:
        assert_true(vl_quiz_is_right(item, o ? "yes" : "no"));
        break;
    case VL_QUIZ_MOTION:
        assert_true(
            vl_quiz_is_right(item, item->moving ? vl_world_direction_name(o->direction) : "it is still"));
        break;
    case VL_QUIZ_LAST:
        vl_quiz_caption(&then->event, text);
        assert_true(vl_quiz_is_right(item, text));
        break;
    default:
        assert_true(strncmp(item->answer, "I can only tell", 15) == 0);
    }
}

static void answers_follow_from_the_truth(void **state)
{
    int n[VL_QUIZ_N_CATEGORIES] = {0};
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + 150; seed++) {
        struct vl_world_truth history[SECONDS];
        uint64_t rng = seed, again = seed;
        history_of(seed, history);
        for (int i = 0; i < 20 * VL_QUIZ_N_CATEGORIES; i++) {
            struct vl_quiz_item item, same;
            enum vl_quiz_category category = (enum vl_quiz_category)(i % VL_QUIZ_N_CATEGORIES);
            int none = vl_quiz_ask(&rng, history, SECONDS, category, VL_QUIZ_ANY, &item);
            assert_int_equal(vl_quiz_ask(&again, history, SECONDS, category, VL_QUIZ_ANY, &same), none);
            if (none)
                continue;
            assert_memory_equal(&item, &same, sizeof(item));
            assert_true(strlen(item.question) > 1 && strlen(item.question) < VL_QUIZ_TEXT_SIZE - 1);
            assert_null(strchr(item.question, '%'));
            check_answer(history, &item);
            n[category]++;
        }
    }
    for (int c = 0; c < VL_QUIZ_N_CATEGORIES; c++)
        assert_true(n[c] > 100);
}

static void contract_wording_is_exact(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + 50; seed++) {
        struct vl_world_truth history[SECONDS];
        struct vl_quiz_item item;
        uint64_t rng = seed;
        history_of(seed, history);
        assert_int_equal(vl_quiz_ask(&rng, history, SECONDS, VL_QUIZ_COUNT, VL_QUIZ_CONTRACT, &item), 0);
        assert_string_equal(item.question, "How many shapes are there?");
        if (!vl_quiz_ask(&rng, history, SECONDS, VL_QUIZ_COLOUR, VL_QUIZ_CONTRACT, &item))
            assert_true(strncmp(item.question, "What colour is the ", 19) == 0);
    }
}

static void comparison_forgives_case_and_marks(void **state)
{
    (void)state;
    assert_true(vl_quiz_same_text("Top left.", " top  LEFT"));
    assert_true(vl_quiz_same_text("Yes.", "yes!"));
    assert_true(vl_quiz_same_text("", " . "));
    assert_false(vl_quiz_same_text("Top left.", "Topleft"));
    assert_false(vl_quiz_same_text("Top left.", "Top"));
    assert_false(vl_quiz_same_text("A red circle appeared, left.", "A red circle appeared. left."));
}

static void exam_is_the_same_each_time(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 24; i++) {
        struct vl_quiz_scene a = vl_quiz_exam_scene(i, 0.5f), b = vl_quiz_exam_scene(i, 0.5f);
        struct vl_world *world = NULL;
        assert_memory_equal(&a, &b, sizeof(a));
        assert_int_equal(vl_world_open(&a.options, &world), 0);
        vl_world_close(world);
        assert_true(a.options.seed >= 1ULL << 63);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(captions_are_the_contract),  cmocka_unit_test(answers_follow_from_the_truth),
        cmocka_unit_test(contract_wording_is_exact),  cmocka_unit_test(comparison_forgives_case_and_marks),
        cmocka_unit_test(exam_is_the_same_each_time),
    };
    print_message("VL_TEST_SEED=%llu\n", (unsigned long long)first_seed());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
