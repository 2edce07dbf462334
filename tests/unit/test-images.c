/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Whose pictures are read next, with the real child. Pipes into which the test has not written yet stand for
 * readers that are busy. argv[1]: vlmd-ingest. */
#include "base/clock.h"
#include "daemon/images.h"
#include "tests/harness.h"
#include "tests/pictures.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

static const char *program;
static sd_event *event;
static struct vl_children *children;
static struct vl_image_queue *queue;

#ifdef VL_HAVE_PNG
static struct encoded picture; /* 3 x 2 */

/* One question: pipes, and what came of them. */
struct asked {
    struct vl_images *images;
    int writer[VL_LIMIT_IMAGES];
    uint32_t n;
    bool done;
    int code;
    char message[240];
};

static void on_done(void *user, const struct vl_error *err)
{
    struct asked *a = user;
    assert_false(a->done);
    a->done = true;
    a->code = err ? err->code : 0;
    (void)snprintf(a->message, sizeof(a->message), "%s", err ? err->msg : "");
    if (err)
        a->images = vl_images_unref(a->images); /* allowed here */
}

static void ask(struct asked *a, uid_t uid, uint32_t n)
{
    int reader[VL_LIMIT_IMAGES] = {0};
    *a = (struct asked){.n = n};
    for (uint32_t i = 0; i < n; i++) {
        int pair[2];
        assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
        reader[i] = pair[0];
        a->writer[i] = pair[1];
    }
    assert_int_equal(vl_images_new(&a->images, queue, uid, reader, n, on_done, a), 0);
    assert_false(a->done);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(close(reader[i]), 0); /* it has its own */
}

static void give(struct asked *a, uint32_t i, const void *p, size_t n)
{
    assert_int_equal(write(a->writer[i], p, n), (ssize_t)n);
    assert_int_equal(close(a->writer[i]), 0);
    a->writer[i] = -1;
}

static void drop(struct asked *a)
{
    a->images = vl_images_unref(a->images);
    for (uint32_t i = 0; i < a->n; i++)
        vl_closep(&a->writer[i]);
}

static void run_for(int ms)
{
    for (int64_t begin = vl_clock_monotonic_ns(); vl_clock_monotonic_ns() - begin < ms * VL_NSEC_PER_MSEC;)
        assert_true(sd_event_run(event, 10000) >= 0);
}

static void run_until(const bool *done)
{
    for (int64_t begin = vl_clock_monotonic_ns(); !*done;) {
        assert_true(sd_event_run(event, 10000) >= 0);
        assert_true(vl_clock_monotonic_ns() - begin < 60 * VL_NSEC_PER_SEC);
    }
}

static void run_until_children(unsigned n)
{
    for (int64_t begin = vl_clock_monotonic_ns(); vl_children_count(children) != n;) {
        assert_true(sd_event_run(event, 10000) >= 0);
        assert_true(vl_clock_monotonic_ns() - begin < 60 * VL_NSEC_PER_SEC);
    }
}

static void test_two_at_a_time_in_order(void **state)
{
    (void)state;
    struct asked a;
    uint32_t n;
    ask(&a, 1000, 5);
    run_for(200);
    assert_int_equal(vl_children_count(children), VL_LIMIT_IMAGE_READERS);
    for (uint32_t i = a.n; i-- > 0;)
        give(&a, i, picture.p, picture.n);
    run_until(&a.done);
    assert_int_equal(a.code, 0);
    struct vl_frame *const *frame = vl_images_frames(a.images, &n);
    assert_int_equal(n, 5);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(frame[i]->width, 3);
    drop(&a);
}

/* One user holds both readers with pictures to come; another is next as soon as one is free. */
static void test_users_take_turns(void **state)
{
    (void)state;
    struct asked many, other;
    ask(&many, 1000, 8);
    run_until_children(2);
    ask(&other, 1001, 1);
    give(&other, 0, picture.p, picture.n);
    give(&many, 0, picture.p, picture.n);
    run_until(&other.done);
    assert_int_equal(other.code, 0);
    assert_false(many.done);
    drop(&other);
    drop(&many);
    run_until_children(0);
}

static void test_the_one_that_is_bad_is_named(void **state)
{
    (void)state;
    struct asked a;
    ask(&a, 1000, 3);
    give(&a, 1, "hello, world....", 16);
    run_until(&a.done);
    assert_int_equal(a.code, -ENOTSUP);
    assert_int_equal(strncmp(a.message, "image 2: ", 9), 0);
    drop(&a);
    run_until_children(0); /* the reader of the first was ended */
}

static void test_no_program(void **state)
{
    (void)state;
    struct vl_image_queue *right = queue;
    struct asked a;
    assert_int_equal(vl_image_queue_new(&queue, event, children, "/nonexistent/vlmd-ingest"), 0);
    ask(&a, 1000, 2);
    run_until(&a.done);
    assert_int_equal(a.code, -ENOENT);
    drop(&a);
    queue = vl_image_queue_unref(queue);
    queue = right;
}

static unsigned n_open(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Nothing is left of what was dropped before, while and after it was read. */
static void test_dropped_at_any_time(void **state)
{
    (void)state;
    unsigned before = n_open();
    for (int ms = 0; ms <= 60; ms += 4) {
        struct asked a;
        ask(&a, 1000, 4);
        for (uint32_t i = 0; i < 3; i++)
            give(&a, i, picture.p, picture.n);
        if (ms)
            run_for(ms);
        drop(&a);
    }
    run_until_children(0);
    assert_int_equal(n_open(), before);
}
#endif

static int begin(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
#ifdef VL_HAVE_PNG
    static const uint8_t rgb[3 * 3 * 2];
    picture = picture_png(rgb, 9, 3, 2, &(struct png_how){.color_type = 2, .depth = 8});
#endif
    return sd_event_new(&event) < 0 || vl_children_new(&children, event) < 0 ||
           vl_image_queue_new(&queue, event, children, program) < 0;
}

static int end(void **state)
{
    (void)state;
    queue = vl_image_queue_unref(queue);
    children = vl_children_unref(children);
    event = sd_event_unref(event);
#ifdef VL_HAVE_PNG
    free(picture.p);
#endif
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    program = argv[1];
#ifdef VL_HAVE_PNG
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_at_a_time_in_order),       cmocka_unit_test(test_users_take_turns),
        cmocka_unit_test(test_the_one_that_is_bad_is_named), cmocka_unit_test(test_no_program),
        cmocka_unit_test(test_dropped_at_any_time),
    };
    return cmocka_run_group_tests_name("images", tests, begin, end);
#else
    (void)begin, (void)end;
    (void)printf("SKIPPED: this build reads no PNG\n");
    return 77;
#endif
}
