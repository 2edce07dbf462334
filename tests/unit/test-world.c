/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors
 *
 * The drawn world: the same seed is the same bytes, and the rules that make every
 * question answerable hold in every second of many seeds. VL_TEST_SEED moves the
 * seeds; a failure names the seed that failed.
 */
#include "pipelines/world.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t first_seed(void)
{
    const char *text = getenv("VL_TEST_SEED");
    return text ? strtoull(text, NULL, 0) : 1;
}

static struct vl_world *open_world(uint64_t seed, float aspect, int held_out)
{
    struct vl_world_options options = vl_world_default_options(seed);
    struct vl_world *world = NULL;
    options.aspect = aspect;
    options.event_rate = 0.8f;
    options.held_out = held_out;
    assert_int_equal(vl_world_open(&options, &world), 0);
    return world;
}

static void same_seed_same_bytes(void **state)
{
    enum { W = 64, H = 40, STRIDE = 3 * W + 8 };
    uint8_t a[H * STRIDE] = {0}, b[H * STRIDE] = {0};
    struct vl_world *one = open_world(first_seed(), 1.6f, VL_WORLD_HELD_OUT_NEVER);
    struct vl_world *two = open_world(first_seed(), 1.6f, VL_WORLD_HELD_OUT_NEVER);
    (void)state;
    for (int t = 0; t < 20; t++) {
        struct vl_world_scene scene;
        assert_memory_equal(vl_world_truth(one), vl_world_truth(two), sizeof(struct vl_world_truth));
        vl_world_scene_at(one, 0.5, &scene);
        assert_int_equal(vl_world_draw(&scene, W, H, STRIDE, a, NULL), 0);
        vl_world_scene_at(two, 0.5, &scene);
        assert_int_equal(vl_world_draw(&scene, W, H, STRIDE, b, NULL), 0);
        assert_memory_equal(a, b, sizeof(a));
        vl_world_step(one);
        vl_world_step(two);
    }
    vl_world_close(one);
    vl_world_close(two);
}

static bool near_line(float v)
{
    return fabsf(v - 1.0f / 3) < 0.025f || fabsf(v - 2.0f / 3) < 0.025f;
}

static void check_second(const struct vl_world_truth *truth, float aspect)
{
    float root = sqrtf(aspect);
    for (int i = 0; i < truth->n_objects; i++) {
        const struct vl_world_object *a = &truth->objects[i];
        assert_true(a->x > 0 && a->x < 1 && a->y > 0 && a->y < 1);
        assert_false(near_line(a->x) || near_line(a->y));
        assert_false(vl_world_is_held_out(a->shape, a->colour, vl_world_place(a->x, a->y)));
        for (int k = 0; k < i; k++) {
            const struct vl_world_object *b = &truth->objects[k];
            float real = hypotf((a->x - b->x) * root, (a->y - b->y) / root);
            assert_false(a->shape == b->shape && a->colour == b->colour);
            assert_true(hypotf(a->x - b->x, a->y - b->y) > 0.18f);
            assert_true(real > 0.75f * (a->radius + b->radius));
        }
    }
}

static const struct vl_world_object *by_id(const struct vl_world_truth *truth, int id)
{
    for (int i = 0; i < truth->n_objects; i++)
        if (truth->objects[i].id == id)
            return &truth->objects[i];
    return NULL;
}

/* What changed between two seconds is the event, or a motion that was announced. */
static void check_change(const struct vl_world_truth *before, const struct vl_world_truth *now,
                         const bool *announced)
{
    const struct vl_world_event *e = &now->event;
    for (int i = 0; i < now->n_objects; i++) {
        const struct vl_world_object *o = &now->objects[i], *p = by_id(before, o->id);
        if (!p) {
            assert_int_equal(e->kind, VL_WORLD_APPEARED);
            assert_int_equal(e->object.id, o->id);
            continue;
        }
        if (p->colour != o->colour)
            assert_true(e->kind == VL_WORLD_TURNED && e->object.id == o->id && e->to_colour == o->colour);
        assert_int_equal(o->direction != VL_WORLD_STILL, p->x != o->x || p->y != o->y);
        if (o->direction != VL_WORLD_STILL)
            assert_true(announced[o->id % 4096]);
    }
    for (int i = 0; i < before->n_objects; i++)
        if (!by_id(now, before->objects[i].id))
            assert_true(e->kind == VL_WORLD_GONE && e->object.id == before->objects[i].id);
}

static void rules_hold(void **state)
{
    static const float aspects[] = {16.0f / 9, 4.0f / 3, 1, 9.0f / 16};
    int n_events[5] = {0};
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + 200; seed++) {
        float aspect = aspects[seed % 4];
        struct vl_world *world = open_world(seed, aspect, VL_WORLD_HELD_OUT_NEVER);
        bool announced[4096] = {0};
        for (int t = 0; t < 60; t++) {
            const struct vl_world_truth *truth;
            vl_world_step(world);
            truth = vl_world_truth(world);
            assert_int_equal(truth->second, t + 1);
            n_events[truth->event.kind]++;
            if (truth->event.kind == VL_WORLD_MOVES)
                announced[truth->event.object.id % 4096] = true;
            check_second(truth, aspect);
            check_change(vl_world_truth_before(world), truth, announced);
        }
        vl_world_close(world);
    }
    for (int kind = VL_WORLD_APPEARED; kind <= VL_WORLD_MOVES; kind++)
        assert_true(n_events[kind] > 500);
}

static void forced_triples_are_there(void **state)
{
    int n = 0;
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + 100; seed++) {
        struct vl_world *world = NULL;
        struct vl_world_options options = vl_world_default_options(seed);
        const struct vl_world_object *o;
        options.held_out = VL_WORLD_HELD_OUT_FORCED;
        options.n_start = 2;
        assert_int_equal(vl_world_open(&options, &world), 0);
        o = &vl_world_truth(world)->objects[0];
        n += vl_world_truth(world)->n_objects > 0 &&
             vl_world_is_held_out(o->shape, o->colour, vl_world_place(o->x, o->y));
        vl_world_close(world);
    }
    assert_int_equal(n, 100);
    n = 0;
    for (int i = 0; i < 8 * 8 * 9; i++)
        n += vl_world_is_held_out(i / 72, i / 9 % 8, i % 9);
    assert_in_range(n, 20, 40);
}

static void refuses_what_it_cannot_do(void **state)
{
    struct vl_world_options options = vl_world_default_options(1);
    struct vl_world_scene scene = {.plain = 1};
    struct vl_world *world = NULL;
    uint8_t rgb[3 * 8 * 8], owner[64];
    (void)state;
    options.max_objects = VL_WORLD_MAX_OBJECTS + 1;
    assert_true(vl_world_open(&options, &world) < 0);
    options = vl_world_default_options(1);
    options.aspect = NAN;
    assert_true(vl_world_open(&options, &world) < 0);
    assert_null(world);
    assert_true(vl_world_draw(&scene, 7, 8, 24, rgb, NULL) < 0);
    assert_true(vl_world_draw(&scene, 8, 8, 23, rgb, NULL) < 0);
    assert_int_equal(vl_world_draw(&scene, 8, 8, 24, rgb, owner), 0);
    for (size_t i = 0; i < sizeof(rgb); i++)
        assert_int_equal(rgb[i], 128);
    assert_int_equal(owner[0], 255);
    assert_null(vl_world_close(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_bytes),
        cmocka_unit_test(rules_hold),
        cmocka_unit_test(forced_triples_are_there),
        cmocka_unit_test(refuses_what_it_cannot_do),
    };
    print_message("VL_TEST_SEED=%llu\n", (unsigned long long)first_seed());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
