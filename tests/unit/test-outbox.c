/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The outbox: order, whole captions, room, and two threads that hammer it; and the filter that text passes
 * before it gets there. */
#include "tests/harness.h"

#include "engine/outbox.h"
#include "engine/text_filter.h"

#include <pthread.h>
#include <string.h>

static bool dirty;

static struct vl_outbox *new_outbox(uint64_t turn)
{
    struct vl_outbox *o = calloc(1, sizeof(*o));
    assert_non_null(o);
    vl_outbox_init(o, 7, turn, &dirty);
    return o;
}

static void put(struct vl_outbox *o, const char *text)
{
    vl_outbox_put_text(o, text, strlen(text));
}

static void put_event(struct vl_outbox *o, enum vl_event_type type)
{
    vl_outbox_put_event(o, &(struct vl_event){.type = type});
}

static void expect(struct vl_outbox *o, enum vl_event_type type, const char *text)
{
    char buf[VL_OUTBOX_TEXT + 1];
    struct vl_event ev;
    bool unblocked;
    assert_true(vl_outbox_read(o, &ev, buf, &unblocked));
    assert_int_equal(ev.type, type);
    assert_string_equal(ev.text, text);
    assert_int_equal(ev.len, strlen(text));
    assert_int_equal(ev.session, 7);
    assert_int_equal(ev.turn, o->turn);
}

static void expect_empty(struct vl_outbox *o)
{
    char buf[VL_OUTBOX_TEXT + 1];
    struct vl_event ev;
    bool unblocked;
    assert_false(vl_outbox_read(o, &ev, buf, &unblocked));
}

static void test_pieces_of_an_answer_are_joined_and_come_before_its_end(void **state)
{
    (void)state;
    struct vl_outbox *o = new_outbox(3);
    expect_empty(o);
    put(o, "a ");
    put(o, "red ");
    expect(o, VL_EVENT_TEXT, "a red ");
    put(o, "circle");
    put_event(o, VL_EVENT_TURN_DONE);
    expect(o, VL_EVENT_TEXT, "circle");
    expect(o, VL_EVENT_TURN_DONE, "");
    expect_empty(o);
    free(o);
}

static void test_a_caption_is_read_in_pieces_and_whole(void **state)
{
    (void)state;
    struct vl_outbox *o = new_outbox(0);
    put(o, "one ");
    expect(o, VL_EVENT_TEXT, "one ");
    put(o, "two");
    put_event(o, VL_EVENT_CAPTION_DONE);
    put_event(o, VL_EVENT_FRAME_SEEN);
    put(o, "three");
    expect(o, VL_EVENT_CAPTION_DONE, "one two"); /* the piece that nobody fetched is in it */
    expect(o, VL_EVENT_FRAME_SEEN, "");
    expect(o, VL_EVENT_TEXT, "three");
    vl_outbox_drop_text(o, &(struct vl_event){.type = VL_EVENT_CAPTION_DONE});
    expect(o, VL_EVENT_CAPTION_DONE, "");
    vl_outbox_drop_text(
        o, &(struct vl_event){.type = VL_EVENT_CAPTION_DONE}); /* nothing to drop, nothing said */
    expect_empty(o);
    free(o);
}

static void test_room_is_given_back_and_the_writer_is_told(void **state)
{
    (void)state;
    struct vl_outbox *o = new_outbox(0);
    char buf[VL_OUTBOX_TEXT + 1];
    struct vl_event ev;
    bool unblocked = true;
    for (int i = 0; i < VL_OUTBOX_EVENTS; i++) {
        assert_true(vl_outbox_has_room(o, 1, 0));
        put_event(o, VL_EVENT_FRAME_SEEN);
    }
    assert_true(vl_outbox_read(o, &ev, buf, &unblocked));
    assert_false(unblocked);
    put_event(o, VL_EVENT_FRAME_SEEN);
    assert_false(vl_outbox_has_room(o, 1, 0));
    assert_true(vl_outbox_read(o, &ev, buf, &unblocked));
    assert_true(unblocked);
    assert_true(vl_outbox_has_room(o, 1, VL_OUTBOX_TEXT));
    assert_false(vl_outbox_has_room(o, 1, VL_OUTBOX_TEXT + 1));
    free(o);
}

enum { N_CAPTIONS = 20000 };

static void *write_captions(void *p)
{
    struct vl_outbox *o = p;
    for (int i = 0; i < N_CAPTIONS; i++) {
        while (!vl_outbox_has_room(o, 1, 16))
            sched_yield();
        char text[16];
        int n = snprintf(text, sizeof(text), "<%d>", i);
        for (int k = 0; k < n; k++)
            vl_outbox_put_text(o, text + k, 1);
        put_event(o, VL_EVENT_CAPTION_DONE);
    }
    return NULL;
}

static void test_two_threads_lose_nothing(void **state)
{
    (void)state;
    struct vl_outbox *o = new_outbox(0);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, write_captions, o), 0);
    char buf[VL_OUTBOX_TEXT + 1], pieces[64] = "", want[16];
    for (int i = 0; i < N_CAPTIONS;) {
        struct vl_event ev;
        bool unblocked;
        if (!vl_outbox_read(o, &ev, buf, &unblocked)) {
            sched_yield();
            continue;
        }
        (void)snprintf(want, sizeof(want), "<%d>", i);
        if (ev.type == VL_EVENT_TEXT) {
            strcat(pieces, ev.text);
            assert_int_equal(strncmp(pieces, want, strlen(pieces)), 0); /* never of two captions */
            continue;
        }
        assert_string_equal(ev.text, want);
        pieces[0] = '\0';
        i++;
    }
    assert_int_equal(pthread_join(t, NULL), 0);
    free(o);
}

/* Cut at every place between code points: the result is the same. */
static void check_filter(const char *in, const char *want, bool one_line)
{
    size_t n = strlen(in);
    for (size_t cut = 0; cut <= n; cut++) {
        if (((unsigned char)in[cut] & 0xC0) == 0x80)
            continue;
        struct vl_text_filter f = {.one_line = one_line};
        char out[512];
        size_t m = vl_text_filter_run(&f, in, cut, out);
        m += vl_text_filter_run(&f, in + cut, n - cut, out + m);
        out[m] = '\0';
        assert_string_equal(out, want);
    }
}

static void test_nothing_that_steers_a_terminal_gets_through(void **state)
{
    (void)state;
    check_filter("plain, caf\u00e9 \u4e2d\u6587 \U0001F600\n\tnext",
                 "plain, caf\u00e9 \u4e2d\u6587 \U0001F600\n\tnext", false);
    check_filter("two\nlines\t!", "two lines !", true);
    check_filter(" \n Red. ", "Red. ", false);
    check_filter("a\x1b[31mred\x1b[0m b", "ared b", false);
    check_filter("a\x1b]0;title\x07z\x1b]8;;http://x\x1b\\y", "azy", false);
    check_filter("a\xc2\x9b"
                 "2Jb\xc2\x9d"
                 "0;t\xc2\x9c"
                 "c",
                 "abc", false);
    check_filter("a\x1b(Bb\x1bPq#0\x1b\\c", "abc", false);
    check_filter("\x01\x02\x08\r\x7f\xc2\x85\xc2\x90x\xc2\x9cz", "z", false);
    check_filter("a\u202eb\u2066c\u2069d\u200fe\u061cf", "abcdef", false);
    check_filter("a\u2028b\u2029c\ufeffd\U000E0041e", "abcde", false);
    check_filter("e\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301x",
                 "e\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301x", false);
    check_filter("bad \xff\xc3 \xed\xa0\x80 utf", "bad   utf", false);
}

static void test_an_escape_without_end_does_not_silence_the_rest(void **state)
{
    (void)state;
    struct vl_text_filter f = {0};
    char in[600] = "\x1b]", out[600];
    memset(in + 2, 'x', 500);
    size_t n = vl_text_filter_run(&f, in, 502, out);
    assert_true(n > 200 && n < 260);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_of_an_answer_are_joined_and_come_before_its_end),
        cmocka_unit_test(test_a_caption_is_read_in_pieces_and_whole),
        cmocka_unit_test(test_room_is_given_back_and_the_writer_is_told),
        cmocka_unit_test(test_two_threads_lose_nothing),
        cmocka_unit_test(test_nothing_that_steers_a_terminal_gets_through),
        cmocka_unit_test(test_an_escape_without_end_does_not_silence_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
