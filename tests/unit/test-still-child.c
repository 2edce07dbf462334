/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Still pictures through the real child process and its supervisor. argv[1]: vlmd-ingest. */
#include "base/clock.h"
#include "daemon/still.h"
#include "tests/harness.h"
#include "tests/pictures.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1, WIDE = 1920, WANT = 512 };
#else
enum { SANITIZED = 0, WIDE = 7680, WANT = 2048 };
#endif
enum { HIGH = WIDE * 9 / 16 };

static const char *program;
static sd_event *event;
static struct vl_children *children;

struct outcome {
    bool done;
    struct vl_still *still;
    struct vl_frame *frame;
    struct vl_error err;
    int64_t took_ns;
};

static void on_done(void *user, struct vl_frame *f, const struct vl_error *err)
{
    struct outcome *o = user;
    assert_false(o->done);
    assert_int_equal(f == NULL, err != NULL);
    o->done = true;
    o->frame = f;
    if (err)
        o->err = *err;
    o->still = vl_still_unref(o->still); /* allowed here */
}

static void start_with(struct outcome *o, const char *exe, int fd, uint32_t want_side)
{
    struct vl_still_opts opts = {.program = exe, .fd = fd, .want_side = want_side};
    *o = (struct outcome){0};
    assert_int_equal(vl_still_new(&o->still, event, children, &opts, on_done, o), 0);
    assert_false(o->done);
}

static void wait_for(struct outcome *o)
{
    int64_t begin = vl_clock_monotonic_ns();
    while (!o->done && vl_clock_monotonic_ns() - begin < 60 * VL_NSEC_PER_SEC)
        assert_true(sd_event_run(event, 100000) >= 0);
    o->took_ns = vl_clock_monotonic_ns() - begin;
    if (!o->done)
        fail_msg("no word of it within 60 s");
    assert_int_equal(vl_children_count(children), 0);
}

static struct outcome read_fd(int fd, uint32_t want_side)
{
    struct outcome o;
    start_with(&o, program, fd, want_side);
    wait_for(&o);
    return o;
}

/* A memfd with what is in e, which is freed. */
static int memfd_of(struct encoded e)
{
    int fd = memfd_create("picture", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, e.p, e.n), (ssize_t)e.n);
    free(e.p);
    return fd; /* its offset is at the end, which must not matter */
}

static struct encoded copy_of(const char *text)
{
    struct encoded e = {(uint8_t *)strdup(text), strlen(text)};
    assert_non_null(e.p);
    return e;
}

static struct outcome read_bytes(struct encoded e)
{
    vl_autofd fd = memfd_of(e);
    return read_fd(fd, 0);
}

static void expect_error(struct outcome o, int code, const char *word)
{
    assert_null(o.frame);
    if (o.err.code != code || !strstr(o.err.msg, word))
        fail_msg("want %d and '%s', got %d: %s", code, word, o.err.code, o.err.msg);
}

static void test_refusals(void **state)
{
    (void)state;
    expect_error(read_bytes(copy_of("hello, world")), -ENOTSUP, "no JPEG");
    expect_error(read_bytes(copy_of("")), -EBADMSG, "empty");
    vl_autofd dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
              null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    expect_error(read_fd(dir, 0), -EINVAL, "regular");
    expect_error(read_fd(null, 0), -EINVAL, "regular");
    vl_autofd big = memfd_create("big", MFD_CLOEXEC);
    assert_int_equal(ftruncate(big, (64 << 20) + 1), 0);
    expect_error(read_fd(big, 0), -EMSGSIZE, "67108864");
}

/* A program that is not there, one that says nothing, one that dies. */
static void test_other_programs(void **state)
{
    (void)state;
    struct outcome o = {0};
    vl_autofd fd = memfd_of(copy_of("x"));
    struct vl_still_opts opts = {.program = "/nonexistent/vlmd-ingest", .fd = fd};
    assert_int_equal(vl_still_new(&o.still, event, children, &opts, on_done, &o), -ENOENT);
    assert_null(o.still);
    start_with(&o, "/bin/true", fd, 0);
    wait_for(&o);
    expect_error(o, -EBADMSG, "no picture");
    start_with(&o, "/bin/false", fd, 0);
    wait_for(&o);
    expect_error(o, -EIO, "exit code");
}

/* Nobody writes to the pipe: dropped at once when its owner goes, and when nobody does, after 10 s. */
static void test_patience(void **state)
{
    (void)state;
    int pipe_fd[2];
    struct outcome o;
    assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
    vl_autofd reader = pipe_fd[0], writer = pipe_fd[1];
    start_with(&o, program, reader, 0);
    assert_true(sd_event_run(event, 100000) >= 0);
    o.still = vl_still_unref(o.still);
    for (int64_t begin = vl_clock_monotonic_ns(); vl_children_count(children) > 0;) {
        assert_true(sd_event_run(event, 10000) >= 0);
        assert_true(vl_clock_monotonic_ns() - begin < 9 * VL_NSEC_PER_SEC);
    }
    assert_false(o.done);
    o = read_fd(reader, 0);
    expect_error(o, -ETIMEDOUT, "10 s");
    assert_in_range(o.took_ns / VL_NSEC_PER_MSEC, 9900, 60000); /* late on a busy machine */
    (void)writer;
}

#ifdef VL_HAVE_PNG
static struct encoded noise(uint32_t w, uint32_t h)
{
    struct test_rng rng = test_rng_new("noise");
    uint8_t *rgb = malloc((size_t)3 * w * h);
    assert_non_null(rgb);
    for (size_t i = 0; i < (size_t)3 * w * h; i++)
        rgb[i] = (uint8_t)test_rand(&rng);
    struct encoded e = picture_png(rgb, (size_t)3 * w, w, h, &(struct png_how){.color_type = 2, .depth = 8});
    free(rgb);
    return e;
}

static void write_in_pieces(int fd, struct encoded e)
{
    for (size_t at = 0; at < e.n; at += 1000) {
        size_t n = e.n - at < 1000 ? e.n - at : 1000;
        assert_int_equal(write(fd, e.p + at, n), (ssize_t)n);
    }
}

/* Through a pipe, in pieces; non-blocking, as some clients' pipes are. */
static void test_pipe(void **state)
{
    (void)state;
    int pipe_fd[2];
    struct outcome o;
    struct encoded e = noise(300, 200); /* more than a pipe holds */
    assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
    assert_int_equal(fcntl(pipe_fd[0], F_SETFL, O_NONBLOCK), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        write_in_pieces(pipe_fd[1], e);
        _exit(0);
    }
    free(e.p);
    vl_autofd reader = pipe_fd[0];
    vl_closep(&pipe_fd[1]);
    start_with(&o, program, reader, 0);
    wait_for(&o);
    if (!o.frame)
        fail_msg("%s", o.err.msg);
    assert_int_equal(o.frame->width, 300);
    assert_int_equal(o.frame->height, 200);
    assert_int_equal(o.frame->format, VL_PIXFMT_RGB24);
    o.frame = vl_frame_unref(o.frame);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* A pipe without end: no more than 64 MiB of it are read. */
static void test_endless_pipe(void **state)
{
    (void)state;
    int pipe_fd[2];
    assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
    vl_autofd reader = pipe_fd[0];
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static const uint8_t head[] = "\x89PNG\r\n\x1A\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\2\0\0\0", zero[65536];
        (void)signal(SIGPIPE, SIG_DFL);
        vl_closep(&pipe_fd[0]);
        (void)!write(pipe_fd[1], head, sizeof(head));
        while (write(pipe_fd[1], zero, sizeof(zero)) > 0)
            ;
        _exit(0);
    }
    vl_closep(&pipe_fd[1]);
    expect_error(read_fd(reader, 0), -EMSGSIZE, "67108864");
    vl_closep(&reader);
    reader = -1;
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}
#endif

static long peak_of_children(void)
{
    struct rusage used;
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &used), 0);
    return used.ru_maxrss;
}

/* A size that is too large costs no more than a text file does: no decoder was set up, no memory taken. */
static void test_bombs(void **state)
{
    (void)state;
    static const uint32_t side[] = {8192, 16384, 65500};
    struct outcome o = read_bytes(copy_of("hello, world"));
    expect_error(o, -ENOTSUP, "no JPEG");
    long base = peak_of_children();
    for (size_t i = 0; i < sizeof(side) / sizeof(*side); i++) {
#ifdef VL_HAVE_JPEG
        expect_error(read_bytes(picture_jpeg_bomb(side[i], side[i])), -EMSGSIZE, "8192");
#endif
#ifdef VL_HAVE_PNG
        expect_error(read_bytes(picture_png_bomb(side[i], side[i])), -EMSGSIZE, "8192");
#endif
#ifdef VL_HAVE_WEBP
        if (side[i] <= 16384)
            expect_error(read_bytes(picture_webp_bomb(side[i], side[i])), -EMSGSIZE, "8192");
#endif
    }
#ifdef VL_HAVE_JPEG
    uint8_t *rgb = picture_draw(64, 64);
    struct encoded e = picture_jpeg(rgb, 64, 64, &(struct jpeg_how){.progressive = true});
    expect_error(read_bytes(picture_jpeg_scans(e, 1000)), -EMSGSIZE, "scans");
    free(e.p);
    free(rgb);
#endif
    long rose = peak_of_children() - base;
    (void)printf("bombs: peak %ld KiB, %ld KiB over that of a text file\n", base + rose, rose);
    assert_true(rose <= 1024 || SANITIZED); /* what a sanitizer keeps says nothing */
}

#ifdef VL_HAVE_JPEG
/* The largest that is allowed, progressive with full chroma, is decoded within the child's limits. */
static void test_large(void **state)
{
    (void)state;
    uint8_t *rgb = picture_draw(WIDE, HIGH);
    struct encoded e =
        picture_jpeg(rgb, WIDE, HIGH, &(struct jpeg_how){.progressive = true, .orientation = 6});
    free(rgb);
    vl_autofd fd = memfd_of(e);
    struct outcome o = read_fd(fd, WANT);
    if (!o.frame)
        fail_msg("%s", o.err.msg);
    assert_int_equal(o.frame->width, HIGH / 2);
    assert_int_equal(o.frame->height, WIDE / 2);
    o.frame = vl_frame_unref(o.frame);
    o = read_fd(fd, 0);
    if (!o.frame)
        fail_msg("%s", o.err.msg);
    (void)printf("%d x %d: %lld ms, peak %ld KiB\n", WIDE, HIGH, (long long)(o.took_ns / VL_NSEC_PER_MSEC),
                 peak_of_children());
    assert_int_equal(o.frame->width, HIGH);
    assert_int_equal(o.frame->height, WIDE);
    o.frame = vl_frame_unref(o.frame);
}
#endif

static int begin(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    return sd_event_new(&event) < 0 || vl_children_new(&children, event) < 0;
}

static int end(void **state)
{
    (void)state;
    children = vl_children_unref(children);
    event = sd_event_unref(event);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    program = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bombs), /* first: it looks at the peak of memory */
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_other_programs),
        cmocka_unit_test(test_patience),
#ifdef VL_HAVE_PNG
        cmocka_unit_test(test_pipe),     cmocka_unit_test(test_endless_pipe),
#endif
#ifdef VL_HAVE_JPEG
        cmocka_unit_test(test_large),
#endif
    };
    return cmocka_run_group_tests_name("still-child", tests, begin, end);
}
