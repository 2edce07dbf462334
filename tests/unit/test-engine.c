/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The engine with a model that says what a script says: protocol, scheduling, isolation of questions, ends,
 * limits and faults. What a real model computes is not the subject here, see test-engine-model.c. */
#include "tests/unit/engine_driver.h"

static void test_a_frame_is_captioned_or_met_with_silence(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){0, 5, 2, 7}, 4);
    assert_int_equal(l->n_captions, 4);
    assert_string_equal(l->caption[0], "");
    assert_string_equal(l->caption[1], "<5>");
    assert_string_equal(l->caption[2], "");
    assert_string_equal(l->caption[3], "<14>");
    assert_int_equal(l->caption_pts[3], 3 * VL_NSEC_PER_SEC);
    assert_int_equal(l->stats.n_frames, 4);
    assert_int_equal(l->stats.n_captions, 2);
    assert_int_equal(l->stats.n_visual_tokens, 16);
    assert_int_equal(l->stats.newest_wall_ns, 1003 * VL_NSEC_PER_SEC);
    /* All that was read, and nothing else: the clock runs from the first frame, the caption's last word and
     * the end of the turn are in the sequence. */
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:);(F1:)<5>;(F2:);(F3:)<14>;(QT)");
    struct vl_engine_info info;
    assert_int_equal(vl_engine_get_info(l->e, &info), 0);
    assert_string_equal(info.model_name, "scripted");
    assert_true(info.kv_used_bytes > 0 && info.kv_used_bytes <= info.kv_pool_bytes);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_without_captions_frames_are_remembered_in_silence(void **state)
{
    (void)state;
    struct log *l = start();
    struct vl_session_opts o = plain;
    o.captions = false;
    uint64_t s = open_session(l, &o);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){3, 5}, 2);
    assert_int_equal(l->n_captions, 0);
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:);(F1:);(QT)");
    expect_answer(l, ask(l, s, "S"), "<8>");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_long_caption_is_cut_and_the_turn_still_closed(void **state)
{
    (void)state;
    struct log *l = start();
    struct vl_session_opts o = plain;
    o.max_caption_tokens = 3;
    uint64_t s = open_session(l, &o);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){55, 0}, 2);
    assert_string_equal(l->caption[0], "<55");
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:)<55;(F1:);(QT)");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_the_window_counts_the_frame_that_is_spoken_about(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    char want[32];
    for (int i = 0; i < 10; i++) {
        show(l, m, i, (const uint8_t[]){1}, 1);
        (void)snprintf(want, sizeof(want), "<%d>", i < SCRIPTED_WINDOW ? i + 1 : SCRIPTED_WINDOW);
        assert_string_equal(l->caption[i], want);
        expect_answer(l, ask(l, s, "S"), want);
    }
    assert_int_equal(l->stats.n_visual_tokens, 40);
    assert_int_equal(l->stats.n_dropped_tokens, (10 - SCRIPTED_WINDOW) * SCRIPTED_FRAME_TOKENS);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void run_clip(bool questions, char ret[MAX_CAPTIONS][64], uint32_t n)
{
    struct log *l =
        start_with(&(struct vl_engine_opts){.model = "good", .n_workers = 1, .max_queue = MAX_TURNS});
    uint64_t s = open_session(l, &plain), turn = 0;
    struct vl_mailbox *m = watch(l, s, 4);
    for (uint32_t i = 0; i < n; i++) {
        (void)vl_mailbox_put(m, new_frame((uint8_t)(i * 37), i, 0));
        for (int k = 0; questions && k < 2 && turn < MAX_TURNS - 3; k++)
            turn = ask(l, s, k ? "E" : "S");
        pump(l, &l->n_seen, i + 1);
    }
    assert_int_equal(l->n_captions, n);
    memcpy(ret, l->caption, sizeof(l->caption));
    for (uint64_t t = 1; t <= turn; t++)
        pump_turn(l, t);
    (void)vl_mailbox_unref(m);
    stop(l);
}

/* Interference: forks, their endless answers and their ends leave no trace in the commentary. */
static void test_questions_do_not_disturb_the_commentary(void **state)
{
    (void)state;
    static char with[MAX_CAPTIONS][64], without[MAX_CAPTIONS][64];
    run_clip(false, without, 60);
    run_clip(true, with, 60);
    for (int i = 0; i < 60; i++)
        assert_string_equal(with[i], without[i]);
}

static void test_an_answer_sees_what_was_seen_when_it_began(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    atomic_store(&scripted_delay_us, 2000);
    uint64_t t = ask(l, s, "T");
    show(l, m, 1, (const uint8_t[]){4}, 1);
    expect_answer(l, t, "(S)look(F0:);(QT)");
    expect_answer(l, ask(l, s, "S"), "<6>");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_question_interrupts_an_encode_between_layers(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    atomic_store(&scripted_mixed, false);
    go_by_steps();
    (void)vl_mailbox_put(m, new_frame(4, 1, 0));
    step(1);
    uint64_t t = ask(l, s, "S");
    expect_answer(l, t, "<2>"); /* the frame under way is not in it */
    assert_int_equal(l->n_seen, 1);
    pump(l, &l->n_seen, 2);
    assert_true(atomic_load(&scripted_mixed));
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_long_answer_does_not_stop_the_commentary(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    go_by_steps();
    uint64_t t = ask_with(l, &(struct vl_ask){.session = s, .text = "E", .max_tokens = 1000});
    show(l, m, 1, (const uint8_t[]){3, 5, 7}, 3);
    assert_int_equal(l->turn[t].n_ends, 0); /* it goes on */
    assert_int_equal(vl_engine_cancel(l->e, t), 0);
    pump_turn(l, t);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_cancel_and_deadline_end_an_answer_and_nothing_else(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    go_by_steps();
    uint64_t a = ask_with(l, &(struct vl_ask){.session = s, .text = "E"});
    uint64_t b = ask_with(
        l, &(struct vl_ask){.session = s, .text = "E", .deadline_ns = vl_clock_monotonic_ns() + HOUR});
    uint64_t c = ask(l, s, "S");
    expect_answer(l, c, "<2>");
    pump_text(l, b);
    assert_int_equal(l->turn[b].n_ends, 0);
    atomic_fetch_add(&scripted_ahead_ns, HOUR);
    pump_turn(l, b);
    assert_int_equal(l->turn[b].status, VL_TURN_DEADLINE);
    assert_true(l->turn[b].end.turn_stats.total_ns >= HOUR);
    assert_true(l->turn[b].end.turn_stats.n_output > 0);
    assert_int_equal(l->turn[a].n_ends, 0);
    const unsigned runs = atomic_load(&scripted_n_runs);
    assert_int_equal(vl_engine_cancel(l->e, a), 0);
    assert_int_equal(vl_engine_cancel(l->e, a), 0);
    pump_turn(l, a);
    assert_int_equal(l->turn[a].status, VL_TURN_CANCELLED);
    assert_true(atomic_load(&scripted_n_runs) <= runs + 1); /* the one that was under way */
    assert_int_equal(vl_engine_cancel(l->e, a), 0);         /* too late is no error */
    assert_int_equal(vl_engine_cancel(l->e, 999), 0);
    drain(l, 20);
    assert_int_equal(l->turn[a].n_ends, 1);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_deadline_also_ends_what_still_waits(void **state)
{
    (void)state;
    struct log *l = start_with(&(struct vl_engine_opts){.model = "good", .n_workers = 1, .max_forks = 1});
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    go_by_steps();
    uint64_t a = ask_with(l, &(struct vl_ask){.session = s, .text = "E"});
    uint64_t b = ask_with(
        l, &(struct vl_ask){.session = s, .text = "S", .deadline_ns = vl_clock_monotonic_ns() + HOUR});
    pump_text(l, a);
    atomic_fetch_add(&scripted_ahead_ns, HOUR);
    pump_turn(l, b);
    assert_int_equal(l->turn[b].status, VL_TURN_DEADLINE);
    assert_int_equal(l->turn[b].end.turn_stats.n_output, 0);
    assert_int_equal(vl_engine_cancel(l->e, a), 0);
    pump_turn(l, a);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_length_loops_and_controls_are_bounded(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    uint64_t t = ask_with(l, &(struct vl_ask){.session = s, .text = "E", .max_tokens = 17});
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_OK);
    assert_int_equal(strlen(l->turn[t].text), 17);
    assert_int_equal(l->turn[t].end.turn_stats.n_output, 17);
    assert_int_equal(l->turn[t].end.turn_stats.n_prompt, 4);
    t = ask_with(l, &(struct vl_ask){.session = s, .text = "E"}); /* ends where the fork does */
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_OK);
    t = ask_with(l, &(struct vl_ask){.session = s, .text = "L", .max_tokens = 1000});
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_OK);
    assert_true(strlen(l->turn[t].text) < 40);
    expect_answer(l, ask(l, s, "C"), "xy");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_the_queue_is_bounded_and_each_accepted_question_ends_once(void **state)
{
    (void)state;
    struct log *l =
        start_with(&(struct vl_engine_opts){.model = "good", .n_workers = 1, .max_forks = 2, .max_queue = 8});
    uint64_t s = open_session(l, &plain), id;
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    go_by_steps();
    uint32_t accepted = 0, busy = 0, ended = 0;
    for (int i = 0; i < 100; i++) {
        struct vl_ask q = {.session = s, .text = "S"};
        int r = vl_engine_ask(l->e, &q, &id, NULL);
        assert_true(r == 0 || r == VL_ENGINE_BUSY);
        accepted += r == 0;
        busy += r == VL_ENGINE_BUSY;
        if (i % 7 == 6)
            pump_turn(l, ++ended);
    }
    assert_true(accepted > 8 && busy > 0 && accepted < MAX_TURNS);
    for (uint64_t t = 1; t <= accepted; t++)
        expect_answer(l, t, "<2>");
    drain(l, 20);
    for (uint64_t t = 1; t <= accepted; t++)
        assert_int_equal(l->turn[t].n_ends, 1);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_priority_goes_before_age(void **state)
{
    (void)state;
    struct log *l = start_with(&(struct vl_engine_opts){.model = "good", .n_workers = 1, .max_forks = 1});
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    go_by_steps();
    uint64_t first = ask_with(l, &(struct vl_ask){.session = s, .text = "E", .max_tokens = 10});
    pump_text(l, first);
    uint64_t low = ask(l, s, "S");
    uint64_t high = ask_with(l, &(struct vl_ask){.session = s, .text = "S", .priority = 5});
    pump_turn(l, high);
    assert_int_equal(l->turn[first].n_ends, 1);
    assert_int_equal(l->turn[low].n_ends, 0);
    pump_turn(l, low);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_nothing_seen_says_what_is_remembered(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    uint64_t t = ask(l, s, "S");
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_NOTHING_SEEN);
    assert_int_equal(l->turn[t].end.session_stats.newest_wall_ns, 0);
    struct vl_mailbox *m = watch(l, s, 4);
    uint8_t values[40];
    memset(values, 2, sizeof(values));
    show(l, m, 0, values, 40);
    int64_t oldest = l->stats.oldest_wall_ns, newest = l->stats.newest_wall_ns;
    assert_int_equal(newest, 1039 * VL_NSEC_PER_SEC);
    assert_true(oldest > 1000 * VL_NSEC_PER_SEC); /* the first have left the window */
    assert_int_equal((newest - oldest) / VL_NSEC_PER_SEC + 1, l->stats.window_frames);
    assert_int_equal(l->stats.window_frames, SCRIPTED_WINDOW); /* what the model was made for */
    const struct {
        int64_t since, until;
        bool seen;
    } range[] = {
        {0, 0, true},           {newest, 0, true},      {newest + 1, 0, false},
        {0, oldest, true},      {0, oldest - 1, false}, {oldest + 1, oldest + VL_NSEC_PER_SEC - 1, false},
        {oldest, newest, true}, {1, 2, false},
    };
    for (size_t i = 0; i < sizeof(range) / sizeof(range[0]); i++) {
        t = ask_with(l,
                     &(struct vl_ask){
                         .session = s, .text = "S", .since_ns = range[i].since, .until_ns = range[i].until});
        pump_turn(l, t);
        assert_int_equal(l->turn[t].status, range[i].seen ? VL_TURN_OK : VL_TURN_NOTHING_SEEN);
        if (!range[i].seen) {
            assert_int_equal(l->turn[t].end.session_stats.oldest_wall_ns, oldest);
            assert_int_equal(l->turn[t].end.session_stats.newest_wall_ns, newest);
        }
    }
    struct vl_error err;
    uint64_t id;
    struct vl_ask q = {.session = s, .text = "S", .since_ns = 5, .until_ns = 4};
    assert_int_equal(vl_engine_ask(l->e, &q, &id, &err), -EINVAL);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_numeric_trouble_ends_one_answer_only(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2, 5}, 2);
    uint64_t t = ask(l, s, "N");
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
    assert_non_null(strstr(l->turn[t].end.error.msg, "numeric"));
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:);(F1:)<7>;(QT)");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_numeric_frame_is_skipped_and_the_third_starts_anew(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 8);
    (void)vl_mailbox_put(m, new_frame(2, 0, 0));
    (void)vl_mailbox_put(m, new_frame(13, 1, 0));
    (void)vl_mailbox_put(m, new_frame(13, 2, 0));
    (void)vl_mailbox_put(m, new_frame(5, 3, 0));
    (void)vl_mailbox_put(m, new_frame(255, 3.5, 0));
    pump(l, &l->n_seen, 2);
    assert_int_equal(l->stats.n_skipped, 2);
    assert_int_equal(l->stats.n_gaps, 0);
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:);(F3:)<7>;(QT)");
    for (int i = 4; i < 7; i++)
        (void)vl_mailbox_put(m, new_frame(13, i, 0)); /* with the refused one four in a row */
    (void)vl_mailbox_put(m, new_frame(9, 7, 0));
    pump(l, &l->n_seen, 3);
    assert_int_equal(l->stats.n_skipped, 6);
    assert_int_equal(l->stats.n_gaps, 1);
    assert_int_equal(l->stats.window_frames, 1);
    expect_answer(l, ask(l, s, "T"), "(S)look(F7:)<9>;(QT)");
    assert_int_equal(l->n_failed, 0);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_gap_starts_a_new_view(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 8);
    show(l, m, 0, (const uint8_t[]){2, 4}, 2);
    (void)vl_mailbox_put(m, new_frame(5, 2, VL_FRAME_GAP));
    pump(l, &l->n_seen, 3);
    assert_string_equal(l->caption[2], "<5>");
    expect_answer(l, ask(l, s, "T"), "(S)look(F2:)<5>;(QT)");
    uint64_t t = ask_with(l, &(struct vl_ask){.session = s, .text = "S", .until_ns = 1001 * VL_NSEC_PER_SEC});
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_NOTHING_SEEN);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_the_clock_never_goes_back(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 8);
    const double pts[] = {100, 102, 50, 51, 4000};
    for (int i = 0; i < 5; i++)
        (void)vl_mailbox_put(m, new_frame(2, pts[i], 0));
    pump(l, &l->n_seen, 5);
    uint64_t t = ask(l, s, "T");
    pump_turn(l, t);
    assert_non_null(strstr(l->turn[t].text, "(F2:);(F4:);(F5:);(F6:);"));
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_source_ends_and_another_takes_its_place(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4), *n;
    (void)vl_mailbox_put(m, new_frame(2, 0, 0));
    vl_mailbox_end(m, -EIO);
    pump(l, &l->n_ended, 1);
    assert_int_equal(l->n_seen, 1); /* what came before the end was seen before the end was told */
    assert_int_equal(l->end_code, -EIO);
    n = watch(l, s, 4);
    show(l, n, 1, (const uint8_t[]){4}, 1);
    expect_answer(l, ask(l, s, "S"), "<6>");
    (void)vl_mailbox_unref(m);
    (void)vl_mailbox_unref(n);
    stop(l);
}

static void test_closing_cancels_and_frees_the_place(void **state)
{
    (void)state;
    struct log *l = start_with(&(struct vl_engine_opts){.model = "good", .n_workers = 1, .max_sessions = 2});
    uint64_t s = open_session(l, &plain), other = open_session(l, &plain), id;
    struct vl_mailbox *m = watch(l, s, 4), *k = watch(l, other, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    show(l, k, 0, (const uint8_t[]){4}, 1);
    struct vl_error err;
    assert_int_equal(vl_engine_open_session(l->e, &plain, &id, &err), -ENOSPC);
    go_by_steps();
    (void)vl_mailbox_put(m, new_frame(6, 1, 0)); /* a frame is under way */
    step(1);
    uint64_t a = ask_with(l, &(struct vl_ask){.session = s, .text = "E"});
    uint64_t b = ask(l, other, "S");
    pump_text(l, a);
    assert_int_equal(vl_engine_close_session(l->e, s), 0);
    assert_int_equal(vl_engine_close_session(l->e, s), -ENOENT);
    assert_int_equal(vl_engine_ask(l->e, &(struct vl_ask){.session = s, .text = "S"}, &id, &err), -ENOENT);
    pump_turn(l, a);
    assert_int_equal(l->turn[a].status, VL_TURN_CANCELLED);
    expect_answer(l, b, "<4>");
    go_freely();
    uint64_t again = open_session(l, &plain);
    struct vl_mailbox *j = watch(l, again, 4);
    show(l, j, 0, (const uint8_t[]){8}, 1);
    expect_answer(l, ask(l, again, "S"), "<8>");
    (void)vl_mailbox_unref(m);
    (void)vl_mailbox_unref(k);
    (void)vl_mailbox_unref(j);
    stop(l);
}

static void test_configure_keeps_the_window_unless_the_sink_changes(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){5}, 1);
    struct vl_session_opts o = plain;
    o.captions = false;
    assert_int_equal(vl_engine_configure(l->e, s, &o, NULL), 0);
    show(l, m, 1, (const uint8_t[]){7}, 1);
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:)<5>;(F1:);(QT)");
    o.instruction = "again";
    o.captions = true;
    assert_int_equal(vl_engine_configure(l->e, s, &o, NULL), 0);
    show(l, m, 2, (const uint8_t[]){9}, 1);
    expect_answer(l, ask(l, s, "T"), "(S)again(F2:)<9>;(QT)");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_bad_options_are_refused_by_name(void **state)
{
    (void)state;
    struct log *l = start();
    struct vl_error err;
    uint64_t id;
    struct vl_session_opts o = plain;
    o.policy = "sink_windwo";
    assert_int_equal(vl_engine_open_session(l->e, &o, &id, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "sink_window"));
    o = plain;
    o.reducer = "unifrom";
    assert_int_equal(vl_engine_open_session(l->e, &o, &id, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "uniform"));
    o = plain;
    o.max_caption_tokens = 100000;
    assert_int_equal(vl_engine_open_session(l->e, &o, &id, &err), -EINVAL);
    assert_int_equal(vl_engine_configure(l->e, 77, &plain, &err), -ENOENT);
    assert_int_equal(vl_engine_watch(l->e, 77, NULL), -ENOENT);
    uint64_t s = open_session(l, &plain);
    assert_int_equal(vl_engine_ask(l->e, &(struct vl_ask){.session = s, .text = ""}, &id, &err), -EINVAL);
    char *big = malloc(VL_ENGINE_MAX_QUESTION + 2);
    assert_non_null(big);
    memset(big, 'S', VL_ENGINE_MAX_QUESTION + 1);
    big[VL_ENGINE_MAX_QUESTION + 1] = '\0';
    assert_int_equal(vl_engine_ask(l->e, &(struct vl_ask){.session = s, .text = big}, &id, &err), -E2BIG);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    big[VL_ENGINE_MAX_QUESTION / 2] = '\0'; /* accepted, and then too long for the cache */
    uint64_t t = ask(l, s, big);
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
    assert_int_equal(l->turn[t].end.error.code, -E2BIG);
    expect_answer(l, ask(l, s, "S"), "<2>");
    free(big);
    (void)vl_mailbox_unref(m);
    stop(l);
    struct vl_engine *e;
    assert_int_equal(vl_engine_new(&e, &(struct vl_engine_opts){.model = "good", .backend = "gpu"}, &err),
                     -EINVAL);
    assert_int_equal(vl_engine_new(&e, &(struct vl_engine_opts){.max_queue = 1}, &err), -EINVAL);
}

static void test_a_model_that_cannot_be_used_fails_by_name_and_ends_everything(void **state)
{
    (void)state;
    const struct {
        const char *path;
        int code;
    } bad[] = {{"missing", -ENOENT}, {"corrupt", -EBADMSG}};
    for (int i = 0; i < 2; i++) {
        struct log *l = start_with(&(struct vl_engine_opts){.model = bad[i].path, .n_workers = 1});
        uint64_t s = open_session(l, &plain); /* before the outcome is known */
        struct vl_mailbox *m = watch(l, s, 4);
        uint64_t t = ask(l, s, "S");
        pump(l, &l->n_failed, 2);
        assert_false(l->ready);
        assert_int_equal(l->error.code, bad[i].code);
        assert_non_null(strstr(l->error.msg, bad[i].path));
        pump_turn(l, t);
        assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
        assert_int_equal(l->turn[t].end.error.code, bad[i].code);
        struct vl_engine_info info;
        assert_int_equal(vl_engine_get_info(l->e, &info), -EAGAIN);
        assert_int_equal(vl_engine_close_session(l->e, s), 0);
        (void)vl_mailbox_put(m, new_frame(1, 0, 0));
        (void)vl_mailbox_unref(m);
        stop(l);
    }
}

static void test_an_encoder_error_ends_that_session_only(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain), other = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4), *k = watch(l, other, 4);
    show(l, k, 0, (const uint8_t[]){4}, 1);
    atomic_store(&scripted_encode_fails, 1);
    (void)vl_mailbox_put(m, new_frame(2, 0, 0));
    pump(l, &l->n_failed, 1);
    assert_int_equal(l->failed_session, s);
    assert_int_equal(l->error.code, -EIO);
    uint64_t t = ask(l, s, "S");
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
    show(l, k, 1, (const uint8_t[]){6}, 1);
    expect_answer(l, ask(l, other, "S"), "<10>");
    (void)vl_mailbox_unref(m);
    (void)vl_mailbox_unref(k);
    stop(l);
}

static void test_a_reader_who_stops_holds_up_nobody_and_loses_nothing(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 64);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    uint64_t t = ask_with(l, &(struct vl_ask){.session = s, .text = "E", .max_tokens = 1500});
    for (int i = 1; i < 60; i++)
        (void)vl_mailbox_put(m, new_frame((uint8_t)(2 * i + 15), i, 0));
    uint64_t beat[2];
    bool idle = false;
    for (int i = 0; i < 12000 && !idle; i++) { /* nobody reads */
        (void)usleep(5000);
        vl_engine_heartbeat(l->e, &beat[0], &idle);
    }
    assert_true(idle);
    pump(l, &l->n_captions, 60);
    pump_turn(l, t);
    vl_engine_heartbeat(l->e, &beat[1], &idle);
    assert_true(beat[1] > beat[0]);
    assert_int_equal(strlen(l->turn[t].text), 1500);
    for (int i = 1; i < 60; i++)
        assert_int_equal(l->caption[i][0], '<');
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_budget_keeps_fewer_tokens_of_each_frame(void **state)
{
    (void)state;
    struct log *l = start();
    struct vl_session_opts o = plain;
    o.visual_budget = 2; /* of four */
    o.reducer = "uniform";
    uint64_t s = open_session(l, &o);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){8, 20}, 2);
    assert_int_equal(l->stats.n_visual_tokens, 4);
    assert_int_equal(l->stats.n_dropped_tokens, 4);
    expect_answer(l, ask(l, s, "S"), "<14>"); /* half of what all tokens would sum up to */
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:);(F1:);(QT)");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_streams_do_not_see_each_other(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t id[4];
    struct vl_mailbox *m[4];
    for (int i = 0; i < 4; i++) {
        id[i] = open_session(l, &plain);
        m[i] = watch(l, id[i], 8);
    }
    for (int f = 0; f < 4; f++)
        for (int i = 0; i < 4; i++)
            (void)vl_mailbox_put(m[i], new_frame((uint8_t)(10 * i + 2), f, 0));
    pump(l, &l->n_seen, 16);
    for (int i = 0; i < 4; i++) {
        char want[32];
        (void)snprintf(want, sizeof(want), "<%d>", 4 * (10 * i + 2));
        expect_answer(l, ask(l, id[i], "S"), want);
    }
    assert_int_equal(vl_engine_watch(l->e, id[0], NULL), 0); /* and one is watched no more */
    drain(l, 20);
    (void)vl_mailbox_put(m[0], new_frame(2, 5, 0));
    drain(l, 20);
    assert_int_equal(l->n_seen, 16);
    for (int i = 0; i < 4; i++)
        (void)vl_mailbox_unref(m[i]);
    stop(l);
}

static void test_prefill_goes_in_pieces(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    char text[1200];
    memset(text, 'S', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    expect_answer(l, ask(l, s, text), "<2>");
    assert_int_equal(atomic_load(&scripted_largest), 256);
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_ends_cleanly_in_the_middle_of_everything(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct log *l = start();
        uint64_t s = open_session(l, &plain);
        struct vl_mailbox *m = watch(l, s, 8);
        atomic_store(&scripted_delay_us, i * 20u);
        for (int k = 0; k < 4; k++)
            (void)vl_mailbox_put(m, new_frame((uint8_t)(k + 1), k, 0));
        (void)ask(l, s, "E");
        (void)usleep((unsigned)i * 150u);
        (void)ask(l, s, "E");
        if (i % 3 == 0)
            (void)vl_engine_close_session(l->e, s);
        (void)vl_mailbox_unref(m);
        stop(l);
    }
}

static void test_told_to_stop_it_says_when_it_is_done(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    atomic_store(&scripted_delay_us, 1000);
    (void)ask(l, s, "E");
    vl_engine_stop(l->e);
    struct vl_event ev = {0};
    while (ev.type != VL_EVENT_STOPPED) {
        struct pollfd p = {.fd = vl_engine_event_fd(l->e), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        while (ev.type != VL_EVENT_STOPPED && vl_engine_next_event(l->e, &ev) == 0)
            ;
    }
    (void)vl_mailbox_unref(m);
    stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_frame_is_captioned_or_met_with_silence),
        cmocka_unit_test(test_without_captions_frames_are_remembered_in_silence),
        cmocka_unit_test(test_a_long_caption_is_cut_and_the_turn_still_closed),
        cmocka_unit_test(test_the_window_counts_the_frame_that_is_spoken_about),
        cmocka_unit_test(test_questions_do_not_disturb_the_commentary),
        cmocka_unit_test(test_an_answer_sees_what_was_seen_when_it_began),
        cmocka_unit_test(test_a_question_interrupts_an_encode_between_layers),
        cmocka_unit_test(test_a_long_answer_does_not_stop_the_commentary),
        cmocka_unit_test(test_cancel_and_deadline_end_an_answer_and_nothing_else),
        cmocka_unit_test(test_a_deadline_also_ends_what_still_waits),
        cmocka_unit_test(test_length_loops_and_controls_are_bounded),
        cmocka_unit_test(test_the_queue_is_bounded_and_each_accepted_question_ends_once),
        cmocka_unit_test(test_priority_goes_before_age),
        cmocka_unit_test(test_nothing_seen_says_what_is_remembered),
        cmocka_unit_test(test_numeric_trouble_ends_one_answer_only),
        cmocka_unit_test(test_a_numeric_frame_is_skipped_and_the_third_starts_anew),
        cmocka_unit_test(test_a_gap_starts_a_new_view),
        cmocka_unit_test(test_the_clock_never_goes_back),
        cmocka_unit_test(test_a_source_ends_and_another_takes_its_place),
        cmocka_unit_test(test_closing_cancels_and_frees_the_place),
        cmocka_unit_test(test_configure_keeps_the_window_unless_the_sink_changes),
        cmocka_unit_test(test_bad_options_are_refused_by_name),
        cmocka_unit_test(test_a_model_that_cannot_be_used_fails_by_name_and_ends_everything),
        cmocka_unit_test(test_an_encoder_error_ends_that_session_only),
        cmocka_unit_test(test_a_reader_who_stops_holds_up_nobody_and_loses_nothing),
        cmocka_unit_test(test_a_budget_keeps_fewer_tokens_of_each_frame),
        cmocka_unit_test(test_streams_do_not_see_each_other),
        cmocka_unit_test(test_prefill_goes_in_pieces),
        cmocka_unit_test(test_ends_cleanly_in_the_middle_of_everything),
        cmocka_unit_test(test_told_to_stop_it_says_when_it_is_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
