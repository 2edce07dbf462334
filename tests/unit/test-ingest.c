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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>

static const char *program;
enum { PATIENCE_MS = 60000 }; /* for what must happen, on a machine that is busy with something else */

struct child {
    pid_t pid;
    struct vl_frame_socket *s;
    bool realtime;
    /* what it said */
    struct vl_frame_status last;
    unsigned n_frames, n_gaps, n_corrupt, n_status;
    int64_t first_pts, last_pts;
    uint32_t width, height, matrix, range;
    long peak_kib;
    uint64_t sum; /* of the pixels of the last frame */
};

static void spawn_with(struct child *c, const char *const extra[], uint32_t credit, int input)
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
    /* Above what they become, so that one does not take the other's place. */
    vl_autofd theirs = fcntl(fd[1], F_DUPFD_CLOEXEC, 10),
              file = input < 0 ? -1 : fcntl(input, F_DUPFD_CLOEXEC, 10);
    vl_closep(&fd[1]);
    assert_int_equal(posix_spawn_file_actions_init(&a), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&a, theirs, 3), 0);
    if (file >= 0)
        assert_int_equal(posix_spawn_file_actions_adddup2(&a, file, 4), 0);
    char *env[] = {(char *)(uintptr_t) "GST_PLUGIN_PATH=/nonexistent", NULL};
    assert_int_equal(posix_spawn(&c->pid, program, &a, NULL, argv, env), 0);
    assert_int_equal(posix_spawn_file_actions_destroy(&a), 0);
    assert_int_equal(vl_frame_socket_new(&c->s, fd[0], &vl_frame_limits_default), 0);
    vl_frame_socket_grant_on_release(c->s, !c->realtime);
    assert_int_equal(vl_frame_socket_grant(c->s, &(struct vl_frame_credit){.n = credit}), 0);
}

static void spawn(struct child *c, const char *const extra[], uint32_t credit)
{
    spawn_with(c, extra, credit, -1);
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
    c->matrix = f->matrix;
    c->range = f->range;
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

/* Until the child, which goes on, has said n times that it is in this state with so many pictures in. */
static void await_status(struct child *c, uint32_t state, uint64_t n_in, unsigned n)
{
    const int64_t end = vl_clock_monotonic_ns() + PATIENCE_MS * VL_NSEC_PER_MSEC;
    for (unsigned heard = c->n_status; n > 0;) {
        if (vl_clock_monotonic_ns() > end)
            fail_msg("its state is %u with %llu in, and not %u with %llu", c->last.state,
                     (unsigned long long)c->last.n_in, state, (unsigned long long)n_in);
        assert_false(pump(c, UINT32_MAX, 50));
        n -= c->n_status != heard && c->last.state == state && c->last.n_in >= n_in;
        heard = c->n_status;
    }
}

/* Its exit code, or 256 + the signal. */
static int reap(struct child *c)
{
    int st = 0;
    struct rusage used;
    c->s = vl_frame_socket_unref(c->s);
    assert_int_equal(wait4(c->pid, &st, 0, &used), c->pid);
    c->peak_kib = used.ru_maxrss;
    return WIFEXITED(st) ? WEXITSTATUS(st) : 256 + WTERMSIG(st);
}

static void test_runs_to_its_end(void **state)
{
    (void)state;
    struct child c;
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?seconds=8&size=64x48", NULL}, 1);
    assert_true(pump(&c, 100, PATIENCE_MS));
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
    assert_false(pump(&c, 12, PATIENCE_MS));
    uint64_t sum = c.sum;
    assert_int_equal(c.last_pts, 11 * VL_NSEC_PER_SEC);
    assert_int_equal(reap(&c), 0);
    spawn(&c, (const char *[]){"--source=test", uri, NULL}, 2);
    assert_true(pump(&c, 100, PATIENCE_MS));
    assert_in_range(c.last_pts, 7 * VL_NSEC_PER_SEC,
                    8 * VL_NSEC_PER_SEC); /* it may die before it sent the last */
    assert_int_equal(reap(&c), 256 + SIGABRT);
    spawn(&c, (const char *[]){"--source=test", uri, "--start-ns=7400000000", NULL}, 2);
    assert_false(pump(&c, 4, PATIENCE_MS));
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
    assert_true(pump(&c, 100, PATIENCE_MS));
    int64_t took = (vl_clock_monotonic_ns() - begin) / VL_NSEC_PER_MSEC;
    assert_true(took >= 850);
    assert_in_range(c.n_frames, 1, 10); /* newest wins where this machine is slow */
    assert_int_equal(reap(&c), 0);
}

static void test_waits_for_credit(void **state)
{
    (void)state;
    struct child c;
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48", NULL}, 0);
    await_status(&c, VL_INGEST_WAITING_CREDIT, 1, 1);
    assert_false(pump(&c, 1, 1000));
    assert_int_equal(c.n_frames, 0);
    assert_int_equal(c.last.state, VL_INGEST_WAITING_CREDIT);
    uint64_t n_in = c.last.n_in;
    assert_true(n_in > 0 && n_in < 30);
    assert_int_equal(
        vl_frame_socket_grant(c.s, &(struct vl_frame_credit){.n = 1, .interval_ns = 5 * VL_NSEC_PER_SEC}), 0);
    assert_false(pump(&c, 4, PATIENCE_MS));
    assert_int_equal(c.n_frames, 4);
    assert_in_range(c.last_pts, 11 * VL_NSEC_PER_SEC, 16 * VL_NSEC_PER_SEC);
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_true(pump(&c, 100, PATIENCE_MS));
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
    assert_true(pump(&c, 100, PATIENCE_MS));
    assert_int_equal(c.n_corrupt, 1);
    assert_int_equal(c.n_gaps, 1);
    assert_int_equal(c.width, 32);
    assert_int_equal(c.n_frames, 8); /* 0 to 5, 16, 17 */
    assert_int_equal(c.last.state, VL_INGEST_FAILED);
    assert_int_equal(c.last.code, -EBADMSG);
    assert_int_equal(strncmp(c.last.reason, "decode: ", 8), 0);
    assert_int_equal(reap(&c), 1);
    /* What no flag says: four seconds missing; a clock an hour ahead, and back again, which the sampler finds
     * out within three pictures. */
    spawn(&c,
          (const char *[]){"--source=test",
                           "--uri=test:?seconds=20&size=64x48&fault=drop@4,ahead@9.5,back@14.5", NULL},
          1);
    assert_true(pump(&c, 100, PATIENCE_MS));
    assert_int_equal(c.n_frames, 16);
    assert_int_equal(c.n_gaps, 2);
    assert_int_equal(c.last_pts, 19 * VL_NSEC_PER_SEC);
    assert_int_equal(reap(&c), 0);
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48&fault=stall@3", NULL}, 1);
    await_status(&c, VL_INGEST_RUNNING, 30, 2); /* it lives, and has nothing */
    assert_int_equal(c.n_frames, 3);
    assert_int_equal(c.last.n_in, 30);
    assert_int_equal(reap(&c), 0);
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48&fault=hang@3", NULL}, 1);
    assert_false(pump(&c, 1, PATIENCE_MS));
    assert_false(pump(&c, 100, 1000));
    assert_in_range(c.n_frames, 1, 3); /* the source is ahead of the socket */
    assert_int_equal(kill(c.pid, SIGKILL), 0);
    assert_int_equal(reap(&c), 256 + SIGKILL);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const uri[] = {
        "--uri=test:?sed=1",        "--uri=test:?seed=x",       "--uri=test:?size=4x4",
        "--uri=test:?size=64",      "--uri=test:?fault=burn@1", "--uri=test:?fault=gap",
        "--uri=test:?fps=0",        "--uri=test:?seed",         "--uri=/etc/passwd",
        "--uri=test:?size=9x99999", "--uri=test:?world=flat",   "--uri=test:?order=up",
        "--uri=test:?flicker=2"};
    for (size_t i = 0; i < sizeof(uri) / sizeof(*uri); i++) {
        struct child c;
        spawn(&c, (const char *[]){"--source=test", uri[i], NULL}, 1);
        assert_true(pump(&c, 1, PATIENCE_MS));
        assert_int_equal(c.last.state, VL_INGEST_FAILED);
        if (strncmp(c.last.reason, "refused: ", 9))
            fail_msg("%s: %s", uri[i], c.last.reason);
        assert_int_equal(reap(&c), 1);
    }
    struct child c;
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=640x480", "--max-side=320", NULL}, 1);
    assert_true(pump(&c, 1, PATIENCE_MS));
    assert_int_equal(strncmp(c.last.reason, "limit: ", 7), 0);
    assert_int_equal(reap(&c), 1);
    spawn(&c, (const char *[]){"--source=rtsp", NULL}, 1);
    assert_true(pump(&c, 1, PATIENCE_MS));
    assert_int_equal(reap(&c), 2);
}

/* Its own view of what it can still do, and ours of its environment. */
static void test_confinement(void **state)
{
    (void)state;
    struct child c;
    spawn(&c, (const char *[]){"--confine-self-test", NULL}, 0);
    assert_true(pump(&c, 1, PATIENCE_MS));
    assert_int_equal(reap(&c), 0);
    spawn(&c, (const char *[]){"--source=test", "--uri=test:?size=64x48", NULL}, 1);
    assert_false(pump(&c, 2, PATIENCE_MS));
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

/* ------------------------------------------------------------------------------------------------- files */

static bool has_files;
static char clips[] = "/tmp/vlmd-clips-XXXXXX";

/* A clip of n frames at 25 a second, or -1 where the encoder is not installed. */
static int clip(const char *name, int n, const char *caps, const char *encode)
{
    char path[64], command[512];
    (void)snprintf(path, sizeof(path), "%s/%s", clips, name);
    (void)snprintf(
        command, sizeof(command),
        "timeout 120 gst-launch-1.0 -q videotestsrc num-buffers=%d pattern=ball ! "
        "'video/x-raw,format=I420,width=320,height=240,framerate=25/1%s' ! %s ! filesink location=%s "
        ">/dev/null 2>&1",
        n, caps, encode, path);
    if (access(path, R_OK) < 0 && system(command) != 0) {
        (void)printf("SKIPPED: no clip %s, this does not run here: %s\n", name, command);
        (void)unlink(path);
        return -1;
    }
    return open(path, O_RDONLY | O_CLOEXEC);
}

static void watch_file(struct child *c, int fd, const char *const more[])
{
    const char *args[16] = {"--source=file", "--input-fd=4"};
    for (int i = 0; more && more[i]; i++)
        args[2 + i] = more[i];
    spawn_with(c, args, 1, fd);
}

static void test_clips(void **state)
{
    (void)state;
    static const struct {
        const char *name, *caps, *encode;
        uint32_t matrix;
    } clip_of[] = {
        {"a.mkv", "", "x264enc speed-preset=ultrafast key-int-max=25 ! h264parse ! matroskamux",
         VL_MATRIX_BT601},
        {"a.mp4", ",colorimetry=bt709", "x264enc speed-preset=ultrafast key-int-max=25 ! h264parse ! mp4mux",
         VL_MATRIX_BT709},
        {"a.webm", "", "vp8enc deadline=1 ! webmmux", VL_MATRIX_BT601},
        {"a9.webm", "", "vp9enc deadline=1 cpu-used=8 ! webmmux", VL_MATRIX_BT601},
        {"a.avi", "", "jpegenc ! avimux", VL_MATRIX_BT601},
        {"a3.avi", "", "avenc_msmpeg4 ! avimux", VL_MATRIX_BT601},
        {"a.ts", "", "x264enc speed-preset=ultrafast key-int-max=25 ! h264parse ! mpegtsmux",
         VL_MATRIX_BT601},
    };
    if (!has_files)
        skip();
    for (size_t i = 0; i < sizeof(clip_of) / sizeof(*clip_of); i++) {
        vl_autofd fd = clip(clip_of[i].name, 80, clip_of[i].caps, clip_of[i].encode);
        if (fd < 0)
            continue;
        struct child c;
        watch_file(&c, fd, NULL);
        if (!pump(&c, 1000, PATIENCE_MS) || c.n_frames != 4 || c.last.state != VL_INGEST_ENDED ||
            c.last.n_in != 80)
            fail_msg("%s: %u frames of %llu, state %u: %s", clip_of[i].name, c.n_frames,
                     (unsigned long long)c.last.n_in, c.last.state, c.last.reason);
        assert_int_equal(c.last_pts - c.first_pts, 3 * VL_NSEC_PER_SEC);
        assert_int_equal(c.width, 320);
        assert_int_equal(c.matrix, clip_of[i].matrix);
        assert_int_equal(c.range, i == 4 ? VL_RANGE_FULL : VL_RANGE_LIMITED);
        assert_int_equal(reap(&c), 0);
    }
}

static void test_loop_and_every_frame(void **state)
{
    (void)state;
    if (!has_files)
        skip();
    vl_autofd fd = clip("a.webm", 80, "", "vp8enc deadline=1 ! webmmux");
    if (fd < 0)
        skip();
    struct child c;
    watch_file(&c, fd, (const char *[]){"--interval-ns=0", NULL});
    assert_true(pump(&c, 1000, PATIENCE_MS));
    assert_int_equal(c.n_frames, 80);
    assert_int_equal(reap(&c), 0);
    watch_file(&c, fd, (const char *[]){"--loop", NULL});
    assert_false(pump(&c, 12, PATIENCE_MS)); /* 3.2 s a turn */
    assert_in_range(c.last_pts, 10900 * VL_NSEC_PER_MSEC, 11100 * VL_NSEC_PER_MSEC);
    assert_int_equal(c.n_gaps, 0);
    assert_int_equal(reap(&c), 0);
    watch_file(&c, fd, (const char *[]){"--realtime", "--interval-ns=500000000", NULL});
    int64_t begin = vl_clock_monotonic_ns();
    assert_true(pump(&c, 1000, PATIENCE_MS));
    assert_true(vl_clock_monotonic_ns() - begin >= 2900 * VL_NSEC_PER_MSEC);
    assert_in_range(c.n_frames, 1, 7);
    assert_int_equal(reap(&c), 0);
}

/* A part of a file in a memfd. */
static int part_of(int fd, off_t from, size_t len)
{
    int part = memfd_create("part", MFD_CLOEXEC);
    char *bytes = malloc(len + 1);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, len, from), len);
    assert_int_equal(write(part, bytes, len), len);
    free(bytes);
    return part;
}

/* It plays to the end: so many pictures in, so many of them wanted. */
static void plays_whole(struct child *c, uint64_t n_in, unsigned n_frames)
{
    assert_true(pump(c, 1000, PATIENCE_MS));
    assert_int_equal(c->last.state, VL_INGEST_ENDED);
    assert_int_equal(c->last.n_in, n_in);
    assert_int_equal(c->n_frames, n_frames);
    assert_int_equal(reap(c), 0);
}

/* What a recorder writes while it is being read is read too. */
static void test_growing_file(void **state)
{
    (void)state;
    if (!has_files)
        skip();
    vl_autofd fd = clip("a.webm", 80, "", "vp8enc deadline=1 ! webmmux");
    if (fd < 0)
        skip();
    size_t len = (size_t)lseek(fd, 0, SEEK_END), half = len / 2;
    vl_autofd growing = part_of(fd, 0, half), rest = part_of(fd, (off_t)half, len - half);
    struct child c;
    spawn_with(&c, (const char *[]){"--source=file", "--input-fd=4", "--interval-ns=0", NULL}, 0, growing);
    await_status(&c, VL_INGEST_WAITING_CREDIT, 1, 1);
    off_t at = 0;
    assert_int_equal(lseek(growing, 0, SEEK_END), half);
    assert_int_equal(sendfile(growing, rest, &at, len - half), len - half);
    assert_int_equal(vl_frame_socket_grant(c.s, &(struct vl_frame_credit){.n = 1}), 0);
    plays_whole(&c, 80, 80);
}

/* Sound that goes on when the picture is over, but is stored to its end before the last pictures: fed from
 * front to back, a QuickTime demuxer takes the sound's end for the film's. */
static void test_sound_longer_than_pictures(void **state)
{
    (void)state;
    if (!has_files)
        skip();
    vl_autofd fd =
        clip("sound.mov", 80, "",
             "x264enc speed-preset=ultrafast key-int-max=25 ! h264parse ! queue ! m. audiotestsrc "
             "num-buffers=16 samplesperbuffer=1000 ! audio/x-raw,rate=8000,channels=1 ! alawenc ! queue "
             "! m. qtmux name=m interleave-time=1000000000");
    if (fd < 0)
        skip();
    size_t len = (size_t)lseek(fd, 0, SEEK_END), at = len;
    vl_autofd slow = part_of(fd, 0, len);
    char *bytes = malloc(len);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, len, 0), len);
    while (at > 4 && memcmp(bytes + at - 4, "mdhd", 4) != 0) /* the last one is the sound's */
        at--;
    assert_memory_equal(bytes + at + 12, "\0\0\x1f\x40", 4); /* 8,000 samples a second: 4,000 make 2 s 4 s */
    assert_int_equal(pwrite(slow, "\0\0\x0f\xa0", 4, (off_t)at + 12), 4);
    free(bytes);
    struct child c;
    watch_file(&c, slow, NULL);
    plays_whole(&c, 80, 4);
}

/* F29: whatever is left of a file ends in a named error or in the frames it has. */
static void test_cut_files(void **state)
{
    (void)state;
    if (!has_files)
        skip();
    static const struct {
        const char *name, *encode;
        int step;
    } of[] = {{"a.webm", "vp8enc deadline=1 ! webmmux", 1},
              {"a.mp4", "x264enc speed-preset=ultrafast key-int-max=25 ! h264parse ! mp4mux", 5}};
    for (size_t k = 0; k < 2; k++) {
        vl_autofd fd = clip(of[k].name, 80, k ? ",colorimetry=bt709" : "", of[k].encode);
        if (fd < 0)
            continue;
        off_t size = lseek(fd, 0, SEEK_END);
        for (int i = 0; i < 16; i += of[k].step) {
            vl_autofd cut = part_of(fd, 0, (size_t)(size * i / 16));
            struct child c;
            watch_file(&c, cut, NULL);
            if (!pump(&c, 1000, PATIENCE_MS))
                fail_msg("%s cut at %d/16 hangs after %u frames", of[k].name, i, c.n_frames);
            bool ended = c.last.state == VL_INGEST_ENDED && c.n_frames > 0;
            bool failed = c.last.state == VL_INGEST_FAILED && !strncmp(c.last.reason, "decode: ", 8);
            if (!ended && !failed)
                fail_msg("%s cut at %d/16: state %u, %u frames: %s", of[k].name, i, c.last.state, c.n_frames,
                         c.last.reason);
            assert_int_equal(reap(&c), failed);
        }
    }
}

static void refused_file(int fd, const char *word)
{
    struct child c;
    watch_file(&c, fd, NULL);
    assert_true(pump(&c, 1, PATIENCE_MS));
    assert_int_equal(c.last.state, VL_INGEST_FAILED);
    if (strncmp(c.last.reason, word, strlen(word)))
        fail_msg("want %s, got %s", word, c.last.reason);
    assert_int_equal(reap(&c), 1);
}

static void test_no_video(void **state)
{
    (void)state;
    if (!has_files)
        skip();
    static const char text[] = "This is a text, and not a video at all.\nIt has several lines.\n";
    vl_autofd words = memfd_create("text", MFD_CLOEXEC);
    for (int i = 0; i < 200; i++)
        assert_int_equal(write(words, text, sizeof(text) - 1), sizeof(text) - 1);
    refused_file(words, "refused: ");
    vl_autofd zeros = memfd_create("zeros", MFD_CLOEXEC);
    assert_int_equal(ftruncate(zeros, 1 << 20), 0);
    refused_file(zeros, "decode: ");
    vl_autofd folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    refused_file(folder, "refused: ");
    vl_autofd device = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    refused_file(device, "refused: ");
    vl_autofd sound = clip("a.wav", 10, "", "fakesink audiotestsrc num-buffers=50 ! wavenc");
    if (sound >= 0)
        refused_file(sound, "refused: ");
}

struct bits {
    uint8_t byte[64];
    size_t n;
};

static void put_bits(struct bits *b, uint32_t value, int n)
{
    for (int i = n - 1; i >= 0; i--, b->n++)
        b->byte[b->n / 8] |= (uint8_t)((value >> i & 1) << (7 - b->n % 8));
}

static void put_ue(struct bits *b, uint32_t value) /* Exp-Golomb, H.264 9.1 */
{
    int n = 32 - __builtin_clz(value + 1);
    put_bits(b, 0, n - 1);
    put_bits(b, value + 1, n);
}

/* F23: a real clip whose sequence parameter set says 8192 x 8192 and 16 reference frames. A decoder would
 * take 4.6 GB; it is refused before there is one. */
static void test_size_bomb(void **state)
{
    (void)state;
    if (!has_files)
        skip();
    vl_autofd fd =
        clip("a.h264", 30, "",
             "x264enc speed-preset=ultrafast key-int-max=5 ! video/x-h264,stream-format=byte-stream,"
             "profile=constrained-baseline");
    if (fd < 0)
        skip();
    struct bits sps = {.n = 0};
    put_bits(&sps, 0x67, 8);
    put_bits(&sps, 77, 8);  /* main */
    put_bits(&sps, 0, 8);   /* constraints */
    put_bits(&sps, 62, 8);  /* level 6.2 */
    put_ue(&sps, 0);        /* its id */
    put_ue(&sps, 0);        /* log2_max_frame_num - 4 */
    put_ue(&sps, 2);        /* picture order count type */
    put_ue(&sps, 16);       /* reference frames */
    put_bits(&sps, 0, 1);   /* gaps */
    put_ue(&sps, 511);      /* macroblocks of width - 1 */
    put_ue(&sps, 511);      /* and of height */
    put_bits(&sps, 0xc, 4); /* frames only, direct inference, no cropping, no VUI */
    put_bits(&sps, 1, 1);
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc((size_t)size);
    assert_non_null(bytes);
    assert_int_equal(pread(fd, bytes, (size_t)size, 0), size);
    vl_autofd bomb = memfd_create("bomb", MFD_CLOEXEC);
    int n_sps = 0;
    for (off_t at = 0; at < size;) { /* from start code to start code */
        off_t next = at + 3;
        while (next < size && (next + 3 > size || bytes[next] || bytes[next + 1] || bytes[next + 2] != 1))
            next++;
        bool start = at + 3 < size && !bytes[at] && !bytes[at + 1] && bytes[at + 2] == 1;
        if (start && (bytes[at + 3] & 31) == 7) {
            n_sps++;
            assert_int_equal(write(bomb, bytes + at, 3), 3);
            assert_int_equal(write(bomb, sps.byte, (sps.n + 7) / 8), (sps.n + 7) / 8);
            assert_int_equal(write(bomb, "", 1), 1);
        } else {
            assert_int_equal(write(bomb, bytes + at, (size_t)(next - at)), next - at);
        }
        at = next;
    }
    free(bytes);
    assert_true(n_sps > 0);
    struct child c;
    watch_file(&c, bomb, NULL);
    assert_true(pump(&c, 1, PATIENCE_MS));
    assert_int_equal(c.n_frames, 0);
    assert_int_equal(c.last.state, VL_INGEST_FAILED);
    if (strncmp(c.last.reason, "limit: pictures of 8192x8192 ", 29))
        fail_msg("want limit, got %s", c.last.reason);
    assert_int_equal(reap(&c), 1);
    (void)printf("size bomb: peak %ld KiB\n", c.peak_kib);
    assert_true(c.peak_kib <= 150 * 1024);
}

static int files_begin(void **state)
{
    (void)state;
    char command[256];
    (void)snprintf(command, sizeof(command),
                   "%s --list-sources | grep -q ^file && command -v gst-launch-1.0 >/dev/null", program);
    has_files = system(command) == 0 && mkdtemp(clips);
    if (!has_files)
        (void)printf("SKIPPED: files; this build has no such source, or gst-launch-1.0 is not installed\n");
    return 0;
}

static int files_end(void **state)
{
    (void)state;
    char command[64];
    (void)snprintf(command, sizeof(command), "rm -rf %s", clips);
    return has_files ? system(command) : 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    program = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_confinement),
        cmocka_unit_test(test_runs_to_its_end),
        cmocka_unit_test(test_realtime),
        cmocka_unit_test(test_same_pictures_after_a_break),
        cmocka_unit_test(test_waits_for_credit),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_clips),
        cmocka_unit_test(test_loop_and_every_frame),
        cmocka_unit_test(test_growing_file),
        cmocka_unit_test(test_sound_longer_than_pictures),
        cmocka_unit_test(test_cut_files),
        cmocka_unit_test(test_no_video),
        cmocka_unit_test(test_size_bomb),
    };
    return cmocka_run_group_tests(tests, files_begin, files_end);
}
