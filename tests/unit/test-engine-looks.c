/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Which look a frame is compared with: the last one of its own stream that became part of its timeline, and
 * none where something else begins. */
#include "tests/unit/engine_driver.h"

enum { NONE = -1 };

static struct log *start_keen(void)
{
    atomic_store(&scripted_n_looks, 0);
    struct log *l = start_with(&(struct vl_engine_opts){.model = "keen", .n_workers = 1});
    pump(l, &l->n_ready, 1);
    assert_int_equal(atomic_load(&scripted_n_looks), 2); /* it is warm: a first look, and one that follows */
    atomic_store(&scripted_n_looks, 0);
    return l;
}

/* All frames that were begun since the start, and what each was compared with. */
static void expect_looks(const int (*want)[2], unsigned n)
{
    assert_int_equal(atomic_load(&scripted_n_looks), n);
    for (unsigned i = 0; i < n; i++)
        if (atomic_load(&scripted_looks[i][0]) != want[i][0] ||
            atomic_load(&scripted_looks[i][1]) != want[i][1])
            fail_msg("look %u is %d after %d, and should be %d after %d", i,
                     atomic_load(&scripted_looks[i][0]), atomic_load(&scripted_looks[i][1]), want[i][0],
                     want[i][1]);
}
#define EXPECT_LOOKS(...)                                                                                    \
    do {                                                                                                     \
        static const int want[][2] = {__VA_ARGS__};                                                          \
        expect_looks(want, sizeof(want) / sizeof(want[0]));                                                  \
    } while (0)

static void show_one(struct log *l, struct vl_mailbox *m, double pts, uint8_t value, uint32_t flags)
{
    (void)vl_mailbox_put(m, new_frame(value, pts, flags));
    pump(l, &l->n_seen, l->n_seen + 1);
}

static void test_each_follows_the_one_before(void **state)
{
    (void)state;
    struct log *l = start_keen();
    struct vl_mailbox *m = watch(l, open_session(l, &plain), 2);
    show(l, m, 0, (const uint8_t[]){1, 2, 3, 3, 5, 7, 9}, 7); /* more than the window keeps */
    show_one(l, m, 500, 4, 0);                                /* late, but the same source */
    EXPECT_LOOKS({1, NONE}, {2, 1}, {3, 2}, {3, 3}, {5, 3}, {7, 5}, {9, 7}, {4, 9});
    m = vl_mailbox_unref(m);
    stop(l);
}

/* Neither a second stream nor questions, with pictures or without, come between two looks of a stream. */
static void test_others_are_not_seen(void **state)
{
    (void)state;
    struct log *l = start_keen();
    uint64_t a = open_session(l, &plain), b = open_session(l, &plain);
    struct vl_mailbox *ma = watch(l, a, 2), *mb = watch(l, b, 2);
    struct vl_frame *picture = new_frame(77, 0, 0);
    for (uint8_t i = 0; i < 4; i++) {
        show_one(l, ma, i, (uint8_t)(2 * i + 1), 0);
        const uint64_t about = ask(l, a, "L"),
                       own = ask_with(
                           l,
                           &(struct vl_ask){.text = "S", .image = &picture, .n_images = 1, .max_tokens = 20});
        show_one(l, mb, i, (uint8_t)(2 * i + 2), 0);
        expect_answer(l, own, "<154>"); /* two views */
        pump_turn(l, about);
        assert_int_equal(l->turn[about].status, VL_TURN_OK);
    }
    EXPECT_LOOKS({1, NONE}, {2, NONE}, {3, 1}, {4, 2}, {5, 3}, {6, 4}, {7, 5}, {8, 6});
    vl_frame_unref(picture);
    ma = vl_mailbox_unref(ma);
    mb = vl_mailbox_unref(mb);
    stop(l);
}

/* A frame that is skipped, whether its numbers are bad or no encoder takes it, is nobody's look before; after
 * the third in a row the timeline starts anew. */
static void test_skipped_frames(void **state)
{
    (void)state;
    struct log *l = start_keen();
    struct vl_mailbox *m = watch(l, open_session(l, &plain), 9);
    static const uint8_t value[] = {3, 13, 255, 5, 13, 13, 13, 7, 9};
    for (int i = 0; i < 9; i++)
        (void)vl_mailbox_put(m, new_frame(value[i], i, 0));
    pump(l, &l->n_seen, 4);
    EXPECT_LOOKS({3, NONE}, {13, 3}, {255, 3}, {5, 3}, {13, 5}, {13, 5}, {13, 5}, {7, NONE}, {9, 7});
    m = vl_mailbox_unref(m);
    stop(l);
}

static void test_a_gap(void **state)
{
    (void)state;
    struct log *l = start_keen();
    struct vl_mailbox *m = watch(l, open_session(l, &plain), 2);
    show_one(l, m, 0, 3, VL_FRAME_GAP);
    show_one(l, m, 1, 5, 0);
    show_one(l, m, 2, 7, VL_FRAME_GAP);
    show_one(l, m, 3, 9, 0);
    EXPECT_LOOKS({3, NONE}, {5, 3}, {7, NONE}, {9, 7});
    m = vl_mailbox_unref(m);
    stop(l);
}

/* Another source, also while a frame of the old one is under way. */
static void test_another_source(void **state)
{
    (void)state;
    struct log *l = start_keen();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 2);
    show_one(l, m, 0, 3, 0);
    m = vl_mailbox_unref(m);
    m = watch(l, s, 2);
    show_one(l, m, 1, 5, 0);
    atomic_store(&scripted_delay_us, 20000);
    (void)vl_mailbox_put(m, new_frame(7, 2, 0));
    while (atomic_load(&scripted_n_looks) < 3)
        drain(l, 1);
    m = vl_mailbox_unref(m);
    m = watch(l, s, 2);
    (void)vl_mailbox_put(m, new_frame(9, 3, 0));
    pump(l, &l->n_seen, 4);
    EXPECT_LOOKS({3, NONE}, {5, NONE}, {7, 5}, {9, NONE});
    m = vl_mailbox_unref(m);
    stop(l);
}

/* What makes the timeline anew forgets the look too; what only says how to speak does not. */
static void test_another_configuration(void **state)
{
    (void)state;
    struct log *l = start_keen();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 2);
    struct vl_session_opts o = plain;
    show_one(l, m, 0, 3, 0);
    o.max_caption_tokens = 8;
    assert_int_equal(vl_engine_configure(l->e, s, &o, NULL), 0);
    show_one(l, m, 1, 5, 0);
    o.instruction = "look closely";
    assert_int_equal(vl_engine_configure(l->e, s, &o, NULL), 0);
    show_one(l, m, 2, 7, 0);
    show_one(l, m, 3, 9, 0);
    EXPECT_LOOKS({3, NONE}, {5, 3}, {7, NONE}, {9, 7});
    m = vl_mailbox_unref(m);
    stop(l);
}

/* A stream that is closed in the midst of a frame leaves nothing to the one that gets its place. */
static void test_a_closed_stream(void **state)
{
    (void)state;
    struct log *l = start_keen();
    for (uint8_t i = 0; i < 6; i++) {
        uint64_t s = open_session(l, &plain);
        struct vl_mailbox *m = watch(l, s, 2);
        show_one(l, m, 0, (uint8_t)(2 * i + 1), 0);
        atomic_store(&scripted_delay_us, 5000);
        (void)vl_mailbox_put(m, new_frame(40, 1, 0));
        while (atomic_load(&scripted_n_looks) < 2u * i + 2)
            drain(l, 1);
        vl_engine_close_session(l->e, s);
        atomic_store(&scripted_delay_us, 0);
        m = vl_mailbox_unref(m);
        assert_int_equal(atomic_load(&scripted_looks[2 * i][1]), NONE);
        assert_int_equal(atomic_load(&scripted_looks[2 * i + 1][1]), 2 * i + 1);
        drain(l, 20);
    }
    stop(l);
}

/* The streams' looks are in what an engine takes, and none in that of a model that keeps none. */
static void test_looks_are_counted(void **state)
{
    (void)state;
    static const char *const models[] = {"good", "keen"};
    uint64_t bytes[2];
    for (int i = 0; i < 2; i++) {
        struct vl_engine_info info;
        atomic_store(&scripted_n_looks, 0);
        struct log *l =
            start_with(&(struct vl_engine_opts){.model = models[i], .n_workers = 1, .max_sessions = 5});
        pump(l, &l->n_ready, 1);
        vl_engine_get_info(l->e, &info);
        bytes[i] = info.scratch_bytes;
        stop(l);
    }
    assert_int_equal(bytes[1] - bytes[0], 5 * 2 * SCRIPTED_LOOK_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_follows_the_one_before),
        cmocka_unit_test(test_others_are_not_seen),
        cmocka_unit_test(test_skipped_frames),
        cmocka_unit_test(test_a_gap),
        cmocka_unit_test(test_another_source),
        cmocka_unit_test(test_another_configuration),
        cmocka_unit_test(test_a_closed_stream),
        cmocka_unit_test(test_looks_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
