/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The real vlmd-ingest as a child, and a parent who grants, waits, kills. argv[1]: the program. */
#include "base/clock.h"
#include "base/frame_socket.h"
#include "tests/harness.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

static const char *program;

struct child {
    pid_t pid;
    struct vl_frame_socket *s;
    bool realtime;
    /* what it said */
    struct vl_frame_status last;
    unsigned n_frames, n_gaps, n_corrupt, n_status;
    int64_t first_pts, last_pts;
    uint32_t width, height, seen_states; /* states: bits */
    uint64_t sum;                        /* of the pixels of the last frame */
};

static void spawn(struct child *c, const char *const extra[], uint32_t credit)
{
    int fd[2];
    memset(c, 0, sizeof(*c));
    c->first_pts = c->last_pts = -1;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd), 0);
    char *argv[24] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "--fd=3"};
    for (int i = 0; extra[i]; i++) {
        argv[2 + i] = (char *)(uintptr_t)extra[i];
        c->realtime |= !strcmp(extra[i], "--realtime");
    }
    posix_spawn_file_actions_t a;
    assert_int_equal(posix_spawn_file_actions_init(&a), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&a, fd[1], 3), 0);
    char *env[] = {(char *)(uintptr_t) "GST_PLUGIN_PATH=/nonexistent", NULL};
    assert_int_equal(posix_spawn(&c->pid, program, &a, NULL, argv, env), 0);
    assert_int_equal(posix_spawn_file_actions_destroy(&a), 0);
    vl_closep(&fd[1]);
    assert_int_equal(vl_frame_socket_new(&c->s, fd[0], &vl_frame_limits_default), 0);
    vl_frame_socket_grant_on_release(c->s, !c->realtime);
    assert_int_equal(vl_frame_socket_grant(c->s, &(struct vl_frame_credit){.n = credit}), 0);
}

static void look_at(struct child *c, const struct vl_frame *f)
{
    if (f->pts_ns <= c->last_pts)
        fail_msg("frame %u at %lld, the one before at %lld", c->n_frames, (long long)f->pts_ns,
                 (long long)c->last_pts);
    if (c->n_frames++ == 0)
        c->first_pts = f->pts_ns;
    c->last_pts = f->pts_ns;
    c->n_gaps += (f->flags & VL_FRAME_GAP) != 0;
    c->n_corrupt += (f->flags & VL_FRAME_CORRUPT) != 0;
    c->width = f->width;
    c->height = f->height;
    c->sum = 0;
    for (uint32_t y = 0; y < f->height; y++)
        for (uint32_t x = 0; x < f->width; x++)
            c->sum = c->sum * 31 + f->plane[0][(size_t)y * f->stride[0] + x];
}

/* Until the child closed the socket (true), or until_frames came, or ms have passed. */
static bool pump(struct child *c, unsigned until_frames, int ms)
{
    int64_t end = vl_clock_monotonic_ns() + ms * VL_NSEC_PER_MSEC;
    while (c->n_frames < until_frames && vl_clock_monotonic_ns() < end) {
        struct pollfd p = {.fd = vl_frame_socket_fd(c->s), .events = POLLIN};
        (void)poll(&p, 1, 50);
        for (;;) {
            struct vl_frame *f = NULL;
            struct vl_error err = {0};
            int r = vl_frame_socket_receive(c->s, &f, &c->last, &err);
            if (r == VL_FRAME_EMPTY)
                break;
            if (r == VL_FRAME_CLOSED)
                return true;
            if (r < 0)
                fail_msg("the child broke the protocol: %s", err.msg);
            if (r == VL_FRAME_STATUS) {
                c->n_status++;
                c->seen_states |= 1u << c->last.state;
                continue;
            }
            look_at(c, f);
            f = vl_frame_unref(f);
            if (c->realtime)
                assert_int_equal(vl_frame_socket_grant(c->s, &(struct vl_frame_credit){.n = 1}), 0);
        }
    }
    return false;
}

/* Its exit code, or 256 + the signal. */
static int reap(struct child *c)
{
    int st = 0;
    c->s = vl_frame_socket_unref(c->s);
    assert_int_equal(waitpid(c->pid, &st, 0), c->pid);
    return WIFEXITED(st) ? WEXITSTATUS(st) : 256 + WTERMSIG(st);
}

static void test_runs_to_its_end(void **state)
{
    (void)state;
    struct child c;
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?seconds=8&size=64x48", NULL}, 1);
    assert_true(pump(&c, 100, 10000));
    assert_int_equal(c.n_frames, 8);
    assert_int_equal(c.last_pts, 7 * VL_NSEC_PER_SEC);
    assert_int_equal(c.last.state, VL_INGEST_ENDED);
    assert_string_equal(c.last.reason, "end-of-file");
    assert_int_equal(c.last.n_in, 80);
    assert_int_equal(c.width, 64);
    assert_int_equal(reap(&c), 0);
}

static void test_same_pictures_after_a_break(void **state)
{
    (void)state;
    static const char uri[] = "--uri=test:?seed=5&seconds=20&size=64x48&fault=crash@8";
    struct child c;
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?seed=5&seconds=20&size=64x48", NULL}, 2);
    assert_false(pump(&c, 12, 10000));
    uint64_t sum = c.sum;
    assert_int_equal(c.last_pts, 11 * VL_NSEC_PER_SEC);
    assert_int_equal(reap(&c), 0);
    spawn(&c, (const char *[]){"--source=test", uri, NULL}, 2);
    assert_true(pump(&c, 100, 10000));
    assert_int_equal(c.last_pts, 7 * VL_NSEC_PER_SEC);
    assert_int_equal(reap(&c), 256 + SIGABRT);
    spawn(&c, (const char *[]){"--source=test", uri, "--start-ns=8000000000", NULL}, 2);
    assert_false(pump(&c, 4, 10000));
    assert_int_equal(c.first_pts, 8 * VL_NSEC_PER_SEC);
    assert_int_equal(c.n_gaps, 1);
    assert_int_equal(c.sum, sum);
    assert_int_equal(reap(&c), 0);
}

static void test_realtime(void **state)
{
    (void)state;
    struct child c;
    int64_t begin = vl_clock_monotonic_ns();
    spawn(&c,
          (const char *[]){"--source=test", "--uri=test:?seconds=1&size=64x48", "--interval-ns=100000000",
                           "--realtime", NULL},
          4);
    assert_true(pump(&c, 100, 10000));
    int64_t took = (vl_clock_monotonic_ns() - begin) / VL_NSEC_PER_MSEC;
    assert_in_range(took, 850, 5000);
    assert_in_range(c.n_frames, 5, 10); /* newest wins where this machine is slow */
    assert_int_equal(reap(&c), 0);
}

static void test_waits_for_credit(void **state)
{
    (void)state;
    struct child c;
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48", NULL}, 0);
    assert_false(pump(&c, 1, 1500));
    assert_int_equal(c.n_frames, 0);
    assert_int_equal(c.last.state, VL_INGEST_WAITING_CREDIT);
    uint64_t n_in = c.last.n_in;
    assert_true(n_in > 0 && n_in < 30);
    assert_int_equal(
        vl_frame_socket_grant(c.s, &(struct vl_frame_credit){.n = 1, .interval_ns = 5 * VL_NSEC_PER_SEC}), 0);
    assert_false(pump(&c, 4, 5000));
    assert_int_equal(c.n_frames, 4);
    assert_in_range(c.last_pts, 11 * VL_NSEC_PER_SEC, 16 * VL_NSEC_PER_SEC);
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_true(pump(&c, 100, 2000));
    assert_int_equal(reap(&c), 0);
}

static void test_faults(void **state)
{
    (void)state;
    struct child c;
    spawn(&c,
          (const char *[]){"--source=test",
                           "--uri=test:?seconds=20&size=64x48&fault=corrupt@2,geometry@4,gap@6,error@18",
                           NULL},
          1);
    assert_true(pump(&c, 100, 10000));
    assert_int_equal(c.n_corrupt, 1);
    assert_int_equal(c.n_gaps, 1);
    assert_int_equal(c.width, 32);
    assert_int_equal(c.n_frames, 8); /* 0 to 5, 16, 17 */
    assert_int_equal(c.last.state, VL_INGEST_FAILED);
    assert_int_equal(c.last.code, -EBADMSG);
    assert_int_equal(strncmp(c.last.reason, "decode: ", 8), 0);
    assert_int_equal(reap(&c), 1);
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48&fault=stall@3", NULL}, 1);
    assert_false(pump(&c, 100, 2500));
    assert_int_equal(c.n_frames, 3);
    assert_int_equal(c.last.state, VL_INGEST_RUNNING);
    assert_int_equal(c.last.n_in, 30);
    assert_true(c.n_status >= 3); /* it lives, and has nothing */
    assert_int_equal(reap(&c), 0);
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48&fault=hang@3", NULL}, 1);
    assert_false(pump(&c, 100, 1500));
    assert_in_range(c.n_frames, 1, 3); /* the source is ahead of the socket */
    assert_int_equal(kill(c.pid, SIGKILL), 0);
    assert_int_equal(reap(&c), 256 + SIGKILL);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const uri[] = {
        "--uri=test:?sed=1",        "--uri=test:?seed=x",      "--uri=test:?size=4x4", "--uri=test:?size=64",
        "--uri=test:?fault=burn@1", "--uri=test:?fault=gap",   "--uri=test:?fps=0",    "--uri=test:?seed",
        "--uri=/etc/passwd",        "--uri=test:?size=9x99999"};
    for (size_t i = 0; i < sizeof(uri) / sizeof(*uri); i++) {
        struct child c;
        spawn(&c, (const char *[]){"--source=test", uri[i], NULL}, 1);
        assert_true(pump(&c, 1, 10000));
        assert_int_equal(c.last.state, VL_INGEST_FAILED);
        if (strncmp(c.last.reason, "refused: ", 9))
            fail_msg("%s: %s", uri[i], c.last.reason);
        assert_int_equal(reap(&c), 1);
    }
    struct child c;
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=640x480", "--max-side=320", NULL}, 1);
    assert_true(pump(&c, 1, 10000));
    assert_int_equal(strncmp(c.last.reason, "limit: ", 7), 0);
    assert_int_equal(reap(&c), 1);
    spawn(&c, (const char *[]){"--source=rtsp", NULL}, 1);
    assert_true(pump(&c, 1, 10000));
    assert_int_equal(reap(&c), 2);
}

/* Its own view of what it can still do, and ours of its environment. */
static void test_confinement(void **state)
{
    (void)state;
    struct child c;
    spawn(&c, (const char *[]){"--confine-self-test", NULL}, 0);
    assert_true(pump(&c, 1, 10000));
    assert_int_equal(reap(&c), 0);
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48", NULL}, 1);
    assert_false(pump(&c, 2, 10000));
    char path[64], line[256];
    (void)snprintf(path, sizeof(path), "/proc/%d/status", c.pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    int seen = 0;
    while (fgets(line, sizeof(line), f))
        seen += !strcmp(line, "NoNewPrivs:\t1\n") || !strcmp(line, "Seccomp:\t2\n");
    (void)fclose(f);
    assert_int_equal(seen, 2);
    assert_int_equal(reap(&c), 0);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    program = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_confinement),      cmocka_unit_test(test_runs_to_its_end),
        cmocka_unit_test(test_realtime),         cmocka_unit_test(test_same_pictures_after_a_break),
        cmocka_unit_test(test_waits_for_credit), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
