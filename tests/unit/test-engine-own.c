/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Questions without a stream, to the scripted model: words alone, pictures and words; and how a model loads:
 * events, progress, budget, an end half way. */
#include "tests/unit/engine_driver.h"

#include <inttypes.h>

/* ---- words alone ---- */

static void test_a_question_without_a_stream_begins_a_sequence_of_its_own(void **state)
{
    (void)state;
    struct log *l = start();
    expect_answer(l, ask(l, 0, "T"), "(QT)"); /* neither system prompt nor frames */
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    expect_answer(l, ask(l, 0, "T"), "(QT)");
    expect_answer(l, ask(l, s, "T"), "(S)look(F0:);(QT)");
    expect_answer(l, ask(l, s, "S"), "<2>");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_a_model_without_eyes_answers_and_refuses_streams_and_pictures(void **state)
{
    (void)state;
    struct log *l = start_with(&(struct vl_engine_opts){.model = "blind", .n_workers = 1});
    expect_answer(l, ask(l, 0, "T"), "(QT)");
    struct vl_engine_info info;
    assert_int_equal(vl_engine_get_info(l->e, &info), 0);
    assert_int_equal(info.max_image_tokens, 0);
    assert_int_equal(info.tokens_per_frame, 0);
    uint64_t s = open_session(l, &plain);
    pump(l, &l->n_failed, 1);
    assert_int_equal(l->failed_session, s);
    assert_int_equal(l->error.code, -ENOTSUP);
    assert_string_equal(l->error.msg, "model scripted has no eyes: a stream needs an mmproj");
    struct vl_frame *f = new_frame(3, 0, 0);
    uint64_t t = ask_with(l, &(struct vl_ask){.text = "S", .image = &f, .n_images = 1});
    (void)vl_frame_unref(f);
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
    assert_string_equal(l->turn[t].end.error.msg, "model scripted has no eyes: a picture needs an mmproj");
    expect_answer(l, ask(l, 0, "T"), "(QT)");
    stop(l);
}

static void test_several_at_once_and_in_turn(void **state)
{
    (void)state;
    const char *const paths[] = {"good", "blind"};
    for (int p = 0; p < 2; p++) {
        struct log *l = start_with(&(struct vl_engine_opts){.model = paths[p], .n_workers = 1});
        uint64_t t[40];
        for (int i = 0; i < 40; i++)
            t[i] = ask_with(l, &(struct vl_ask){.text = i % 4 ? "T" : "E", .max_tokens = 100});
        for (int i = 0; i < 40; i++) {
            pump_turn(l, t[i]);
            assert_int_equal(l->turn[t[i]].status, VL_TURN_OK);
            assert_int_equal(strlen(l->turn[t[i]].text), i % 4 ? 4 : 100);
        }
        stop(l);
    }
}

/* Cut as if by length where the context ends; and the memory is back for the next. */
static void test_a_reply_ends_where_the_context_ends(void **state)
{
    (void)state;
    struct log *l = start();
    for (int i = 0; i < 3; i++) {
        uint64_t t = ask_with(l, &(struct vl_ask){.text = "E"});
        pump_turn(l, t);
        assert_int_equal(l->turn[t].status, VL_TURN_OK);
        const uint32_t n = l->turn[t].end.turn_stats.n_output;
        assert_int_equal(n, SCRIPTED_CONTEXT - 4 + 1); /* the last word is said and not read */
    }
    stop(l);
}

static void test_what_cannot_be_asked_is_refused_by_name(void **state)
{
    (void)state;
    struct log *l = start();
    struct vl_frame *f = new_frame(3, 0, 0), *nine[9];
    struct vl_error err;
    uint64_t s = open_session(l, &plain), t;
    for (int i = 0; i < 9; i++)
        nine[i] = f;
    assert_int_equal(
        vl_engine_ask(l->e, &(struct vl_ask){.text = "S", .image = nine, .n_images = 9}, &t, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "9 pictures"));
    assert_int_equal(vl_engine_ask(l->e,
                                   &(struct vl_ask){.session = s, .text = "S", .image = nine, .n_images = 1},
                                   &t, &err),
                     -EINVAL);
    assert_non_null(strstr(err.msg, "not both"));
    assert_int_equal(vl_engine_ask(l->e, &(struct vl_ask){.text = "S", .since_ns = 5}, &t, &err), -EINVAL);
    assert_int_equal(vl_engine_ask(l->e, &(struct vl_ask){.session = 77, .text = "S"}, &t, &err), -ENOENT);
    const struct {
        struct vl_ask q;
        const char *words;
    } reduced[] = {
        {{.text = "S", .reducer = "uniform"}, "no visual tokens"},
        {{.text = "S", .visual_budget = 3}, "no visual tokens"},
        {{.text = "S", .session = s, .reducer = "uniform"}, "such as 'feather'"},
        {{.text = "S", .session = s, .visual_budget = 3}, "want a reducer too"},
        {{.text = "S", .session = s, .reducer = "father"}, "did you mean 'feather'"},
        {{.text = "S", .image = &f, .n_images = 1, .reducer = "zipvl"}, "such as 'uniform'"},
    };
    for (size_t i = 0; i < sizeof(reduced) / sizeof(reduced[0]); i++) {
        assert_int_equal(vl_engine_ask(l->e, &reduced[i].q, &t, &err), -EINVAL);
        if (!strstr(err.msg, reduced[i].words))
            fail_msg("%s", err.msg);
    }
    static char text[SCRIPTED_CONTEXT + 16];
    memset(text, 'T', sizeof(text) - 1);
    t = ask(l, 0, text);
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
    assert_int_equal(l->turn[t].end.error.code, -E2BIG);
    if (!strstr(l->turn[t].end.error.msg, "4114 tokens") || !strstr(l->turn[t].end.error.msg, "4095"))
        fail_msg("'%s'", l->turn[t].end.error.msg);
    (void)vl_frame_unref(f);
    stop(l);
}

/* Each kind of question has memory of its own: those that wait for theirs hold up none of the other kind. */
static void test_a_question_that_waits_for_room_holds_up_no_other_kind(void **state)
{
    (void)state;
    enum { N = 9 };
    struct log *l = start_with(&(struct vl_engine_opts){.model = "good", .n_workers = 1, .max_forks = N + 1});
    uint64_t s = open_session(l, &plain), own[N];
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    go_by_steps();
    for (int i = 0; i < N; i++)
        own[i] = ask_with(l, &(struct vl_ask){.text = "E", .priority = 5}); /* half of a context each */
    expect_answer(l, ask(l, s, "S"), "<2>");
    assert_string_equal(l->turn[own[N - 1]].text, ""); /* it waits */
    for (int i = 0; i < N; i++) {
        assert_int_equal(l->turn[own[i]].n_ends, 0);
        assert_int_equal(vl_engine_cancel(l->e, own[i]), 0);
    }
    for (int i = 0; i < N; i++)
        pump_turn(l, own[i]);
    (void)vl_mailbox_unref(m);
    stop(l);
}

/* ---- pictures ---- */

static uint64_t ask_pictures(struct log *l, const char *text, const uint8_t *value, uint32_t n,
                             uint32_t max_tokens)
{
    struct vl_frame *f[VL_ENGINE_MAX_IMAGES];
    for (uint32_t i = 0; i < n; i++)
        f[i] = new_frame(value[i], 0, 0);
    uint64_t t =
        ask_with(l, &(struct vl_ask){.text = text, .image = f, .n_images = n, .max_tokens = max_tokens});
    for (uint32_t i = 0; i < n; i++)
        (void)vl_frame_unref(f[i]);
    return t;
}

static void test_pictures_come_before_the_words_view_by_view(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t t = ask_pictures(l, "S", (const uint8_t[]){5}, 1, 50);
    expect_answer(l, t, "<10>"); /* two views of 5 */
    const struct vl_turn_stats *st = &l->turn[t].end.turn_stats;
    assert_int_equal(st->n_prompt, 2 * SCRIPTED_FRAME_TOKENS + 2 + 4); /* "P", ",", "[QS]" */
    assert_int_equal(st->n_output, 4);
    assert_true(st->first_token_ns > 0);
    expect_answer(l, ask_pictures(l, "S", (const uint8_t[]){1, 2, 3, 4, 5, 6, 7, 8}, 8, 50), "<72>");
    expect_answer(l, ask_pictures(l, "T", (const uint8_t[]){1, 2}, 2, 50), "P,P,(QT)");
    assert_int_equal(atomic_load(&n_live_frames), 0);
    stop(l);
}

/* The references go when the pixels are taken, not when the answer ends. */
static void test_frames_go_when_their_pixels_are_taken(void **state)
{
    (void)state;
    struct log *l = start();
    pump(l, &l->n_ready, 1);
    go_by_steps();
    uint64_t t = ask_pictures(l, "E", (const uint8_t[]){1, 2}, 2, 0);
    pump_text(l, t);
    assert_int_equal(l->turn[t].n_ends, 0);
    assert_int_equal(atomic_load(&n_live_frames), 0);
    assert_int_equal(vl_engine_cancel(l->e, t), 0);
    pump_turn(l, t);
    stop(l);
}

/* Pictures have an encode of their own: a stream's frames pass them by. */
static void test_the_commentary_goes_on_while_pictures_are_looked_at(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t s = open_session(l, &plain);
    struct vl_mailbox *m = watch(l, s, 4);
    show(l, m, 0, (const uint8_t[]){2}, 1);
    go_by_steps();
    uint64_t t = ask_pictures(l, "S", (const uint8_t[]){1, 2, 3, 4, 5, 6, 7, 8}, 8, 50);
    show(l, m, 1, (const uint8_t[]){3, 4}, 2);
    assert_int_equal(l->turn[t].n_ends, 0);
    expect_answer(l, t, "<72>");
    assert_string_equal(l->caption[1], "<5>");
    expect_answer(l, ask(l, s, "S"), "<9>");
    (void)vl_mailbox_unref(m);
    stop(l);
}

static void test_two_questions_with_pictures_take_turns_and_do_not_mix(void **state)
{
    (void)state;
    struct log *l = start();
    uint64_t a = ask_pictures(l, "S", (const uint8_t[]){1, 2, 3}, 3, 50);
    uint64_t b = ask_pictures(l, "S", (const uint8_t[]){10, 20}, 2, 50);
    uint64_t c = ask(l, 0, "T");
    expect_answer(l, a, "<12>");
    expect_answer(l, b, "<60>");
    expect_answer(l, c, "(QT)");
    stop(l);
}

static void test_pictures_end_by_cancel_deadline_and_encoder(void **state)
{
    (void)state;
    struct log *l = start();
    pump(l, &l->n_ready, 1);
    expect_answer(l, ask_pictures(l, "S", (const uint8_t[]){1}, 1, 50), "<2>");
    go_by_steps();
    uint64_t a = ask_pictures(l, "S", (const uint8_t[]){1, 2}, 2, 50);
    step(2);
    assert_int_equal(vl_engine_cancel(l->e, a), 0);
    pump_turn(l, a);
    assert_int_equal(l->turn[a].status, VL_TURN_CANCELLED);
    struct vl_frame *f = new_frame(7, 0, 0);
    uint64_t b = ask_with(
        l, &(struct vl_ask){
               .text = "S", .image = &f, .n_images = 1, .deadline_ns = vl_clock_monotonic_ns() + HOUR});
    (void)vl_frame_unref(f);
    step(2);
    atomic_fetch_add(&scripted_ahead_ns, HOUR);
    pump_turn(l, b);
    assert_int_equal(l->turn[b].status, VL_TURN_DEADLINE);
    go_freely();
    uint64_t c = ask_pictures(l, "S", (const uint8_t[]){1, 255}, 2, 50);
    pump_turn(l, c);
    assert_int_equal(l->turn[c].status, VL_TURN_FAILED);
    assert_non_null(strstr(l->turn[c].end.error.msg, "picture 2"));
    atomic_store(&scripted_encode_fails, 1);
    uint64_t d = ask_pictures(l, "S", (const uint8_t[]){1}, 1, 50);
    pump_turn(l, d);
    assert_int_equal(l->turn[d].status, VL_TURN_FAILED);
    assert_int_equal(l->turn[d].end.error.code, -EIO);
    expect_answer(l, ask_pictures(l, "S", (const uint8_t[]){9}, 1, 50), "<18>");
    stop(l);
}

static void test_pictures_end_cleanly_in_the_middle(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct log *l = start();
        atomic_store(&scripted_delay_us, i * 20u);
        (void)ask_pictures(l, "E", (const uint8_t[]){1, 2, 3}, 3, 0);
        (void)ask_pictures(l, "S", (const uint8_t[]){1}, 1, 5);
        (void)usleep((unsigned)i * 200u);
        stop(l);
    }
}

/* ---- loading ---- */

static void test_loading_is_told_with_its_bytes_and_progress(void **state)
{
    (void)state;
    struct vl_engine_info info, ready;
    atomic_store(&scripted_hold, true);
    struct log *l = start_with(&(struct vl_engine_opts){.model = "slow", .n_workers = 1});
    pump(l, &l->n_loading, 1);
    assert_int_equal(vl_engine_get_info(l->e, &info), 0);
    assert_int_equal(info.weight_bytes, SCRIPTED_WEIGHTS);
    assert_true(info.scratch_bytes > 0 && info.kv_pool_bytes > 0 && info.max_image_tokens > 0);
    assert_true(vl_engine_load_progress(l->e) == 0);
    assert_false(l->ready);
    atomic_store(&scripted_hold, false);
    pump(l, &l->n_ready, 1);
    assert_true(vl_engine_load_progress(l->e) == 1);
    assert_int_equal(vl_engine_get_info(l->e, &ready), 0);
    assert_int_equal(ready.kv_pool_bytes, info.kv_pool_bytes);
    assert_int_equal(ready.scratch_bytes, info.scratch_bytes);
    stop(l);
}

static void test_a_load_that_fails_half_way(void **state)
{
    (void)state;
    struct log *l = start_with(&(struct vl_engine_opts){.model = "cut", .n_workers = 1});
    pump(l, &l->n_failed, 1);
    assert_int_equal(l->n_loading, 1);
    assert_int_equal(l->error.code, -EIO);
    double p = vl_engine_load_progress(l->e);
    assert_true(p > 0.4 && p < 0.6);
    struct vl_engine_info info;
    assert_int_equal(vl_engine_get_info(l->e, &info), -EAGAIN);
    uint64_t t = ask(l, 0, "S");
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
    assert_int_equal(l->turn[t].end.error.code, -EIO);
    stop(l);
}

static void test_less_context_takes_less_memory_and_holds_less(void **state)
{
    (void)state;
    struct vl_engine_info whole, half;
    struct vl_engine_opts o = {.model = "good", .n_workers = 1, .context_tokens = 2 * SCRIPTED_CONTEXT};
    struct log *l = start_with(&o);
    pump(l, &l->n_ready, 1);
    assert_int_equal(vl_engine_get_info(l->e, &whole), 0);
    assert_int_equal(whole.context_tokens, SCRIPTED_CONTEXT);
    stop(l);
    o.context_tokens = SCRIPTED_CONTEXT / 2;
    l = start_with(&o);
    pump(l, &l->n_ready, 1);
    assert_int_equal(vl_engine_get_info(l->e, &half), 0);
    assert_int_equal(half.context_tokens, SCRIPTED_CONTEXT / 2);
    assert_true(half.kv_pool_bytes < whole.kv_pool_bytes);
    static char text[SCRIPTED_CONTEXT / 2 + 16];
    memset(text, 'T', sizeof(text) - 1);
    uint64_t t = ask(l, 0, text);
    pump_turn(l, t);
    assert_int_equal(l->turn[t].status, VL_TURN_FAILED);
    assert_int_equal(l->turn[t].end.error.code, -E2BIG);
    stop(l);
}

/* Two engines share a budget that is enough for one and a half. */
static void test_a_shared_budget_is_taken_and_given_back(void **state)
{
    (void)state;
    struct vl_budget all;
    struct vl_engine_opts o = {.model = "good", .n_workers = 1, .budget = &all};
    vl_budget_init(&all, 0);
    struct log *first = start_with(&o);
    pump(first, &first->n_ready, 1);
    const uint64_t need = vl_budget_used(&all);
    assert_true(need > 0);
    all.limit = need + need / 2; /* nobody reads it now */
    struct log *second = start_with(&o);
    pump(second, &second->n_failed, 1);
    assert_int_equal(second->error.code, -EDQUOT);
    uint64_t missing = 0;
    assert_int_equal(
        sscanf(strstr(second->error.msg, "), ") + 3, "%" SCNu64 " MiB more than is left", &missing), 1);
    assert_int_equal(missing, (need - need / 2 + (1 << 20) - 1) >> 20);
    assert_int_equal(vl_budget_used(&all), need);
    stop(second);
    stop(first);
    assert_int_equal(vl_budget_used(&all), 0);
    second = start_with(&o);
    pump(second, &second->n_ready, 1);
    stop(second);
}

/* The budget is compared before a byte of weights is read, and one byte decides. */
static void test_a_budget_that_is_too_small_names_what_is_missing(void **state)
{
    (void)state;
    struct vl_engine_info info;
    struct vl_engine_opts o = {.model = "good", .n_workers = 1};
    struct log *l = start_with(&o);
    pump(l, &l->n_ready, 1);
    assert_int_equal(vl_engine_get_info(l->e, &info), 0);
    stop(l);
    const uint64_t total = info.weight_bytes + info.scratch_bytes + info.kv_pool_bytes;
    o.max_bytes = total - 100000;
    l = start_with(&o);
    pump(l, &l->n_failed, 1);
    assert_int_equal(l->n_loading, 0);
    assert_int_equal(l->error.code, -EDQUOT);
    assert_non_null(strstr(l->error.msg, "more than the budget of"));
    size_t need = 0, missing = 0;
    assert_int_equal(sscanf(l->error.msg, "model scripted needs %zu MiB", &need), 1);
    assert_int_equal(sscanf(strstr(l->error.msg, "), ") + 3, "%zu MiB more", &missing), 1);
    assert_int_equal(need, (total + (1 << 20) - 1) >> 20);
    assert_int_equal(missing, 1); /* a begun one */
    stop(l);
    o.max_bytes = total;
    l = start_with(&o);
    pump(l, &l->n_ready, 1);
    stop(l);
    o.max_bytes = total - 1;
    l = start_with(&o);
    pump(l, &l->n_failed, 1);
    stop(l);
}

static unsigned n_computed(void)
{
    return atomic_load(&scripted_n_layers) + atomic_load(&scripted_n_runs);
}

static void test_the_end_does_not_wait_for_the_load(void **state)
{
    (void)state;
    for (int warm = 0; warm < 2; warm++) {
        atomic_store(&scripted_hold, true);
        struct log *l = start_with(&(struct vl_engine_opts){.model = "slow", .n_workers = 1});
        pump(l, &l->n_loading, 1);
        (void)ask(l, 0, "S");
        const unsigned before = n_computed();
        if (warm) { /* told in the middle of the first thing that is computed */
            go_by_steps();
            atomic_store(&scripted_hold, false);
            await_step();
        }
        vl_engine_stop(l->e);
        atomic_store(&scripted_hold, false); /* each tensor is quick, and is looked at */
        stop(l);
        assert_int_equal(n_computed() - before, warm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_question_without_a_stream_begins_a_sequence_of_its_own),
        cmocka_unit_test(test_a_model_without_eyes_answers_and_refuses_streams_and_pictures),
        cmocka_unit_test(test_several_at_once_and_in_turn),
        cmocka_unit_test(test_a_reply_ends_where_the_context_ends),
        cmocka_unit_test(test_what_cannot_be_asked_is_refused_by_name),
        cmocka_unit_test(test_a_question_that_waits_for_room_holds_up_no_other_kind),
        cmocka_unit_test(test_pictures_come_before_the_words_view_by_view),
        cmocka_unit_test(test_frames_go_when_their_pixels_are_taken),
        cmocka_unit_test(test_the_commentary_goes_on_while_pictures_are_looked_at),
        cmocka_unit_test(test_two_questions_with_pictures_take_turns_and_do_not_mix),
        cmocka_unit_test(test_pictures_end_by_cancel_deadline_and_encoder),
        cmocka_unit_test(test_pictures_end_cleanly_in_the_middle),
        cmocka_unit_test(test_loading_is_told_with_its_bytes_and_progress),
        cmocka_unit_test(test_a_load_that_fails_half_way),
        cmocka_unit_test(test_a_budget_that_is_too_small_names_what_is_missing),
        cmocka_unit_test(test_a_shared_budget_is_taken_and_given_back),
        cmocka_unit_test(test_less_context_takes_less_memory_and_holds_less),
        cmocka_unit_test(test_the_end_does_not_wait_for_the_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
