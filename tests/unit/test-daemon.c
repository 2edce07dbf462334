/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What of the daemon needs no bus: configuration text, limits, pipes, caption formats. */
#include "tests/harness.h"

#include "daemon/caption_format.h"
#include "daemon/config.h"
#include "daemon/ini.h"
#include "daemon/limits.h"
#include "daemon/memory.h"
#include "daemon/reply_pipe.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

struct heard {
    char text[512];
};

static int on_item(void *user, const struct vl_ini_item *item, struct vl_error *err)
{
    struct heard *h = user;
    size_t n = strlen(h->text);
    (void)err;
    (void)snprintf(h->text + n, sizeof(h->text) - n, "%u:%s.%s=%s;", item->line, item->section, item->key,
                   item->value);
    return 0;
}

static int parse(const char *text, struct heard *h, struct vl_error *err)
{
    h->text[0] = '\0';
    return vl_ini_parse("f", text, strlen(text), on_item, h, err);
}

static void ini_is_read_as_systemd_writes_it(void **state)
{
    (void)state;
    struct heard h;
    struct vl_error err = {0};
    assert_int_equal(
        parse("# c\n[A]\n x = 1 \r\n; c\n\ny=a\\\n# inside\n b\\\n\tc\n[B c]\nz=\nz = = \xc3\xa4", &h, &err),
        0);
    assert_string_equal(h.text, "3:A.x=1;6:A.y=a b c;11:B c.z=;12:B c.z== \xc3\xa4;");
    assert_int_equal(parse("", &h, &err), 0);
}

static void ini_errors_say_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *begins;
    } bad[] = {
        {"x=1\n", "f:1: a key before"},
        {"[A]\nx\n", "f:2: neither"},
        {"[A\n", "f:1: a section"},
        {"[]\n", "f:1: a section"},
        {"[A]x\n", "f:1: a section"},
        {"[A]\n=1\n", "f:2: no key"},
        {"[A]\nx=\xff\n", "f:2: byte 3 is not"},
        {"[A]\nx=\xed\xa0\x80\n", "f:2: byte 3 is not"},
        {"[A]\nx=\x01\n", "f:2: byte 3 is a"},
        {"[A]\nx=1\\", "f:2: the last line"},
    };
    struct heard h;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct vl_error err = {0};
        assert_int_equal(parse(bad[i].text, &h, &err), -EINVAL);
        if (strncmp(err.msg, bad[i].begins, strlen(bad[i].begins)) != 0)
            fail_msg("case %zu: '%s', wanted '%s...'", i, err.msg, bad[i].begins);
    }
    struct vl_error err = {0};
    assert_int_equal(vl_ini_parse("f", "[A]\nx=\0y\n", 9, on_item, &h, &err), -EINVAL);
    size_t n = VL_INI_MAX_LINE + 8;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, 'x', n);
    memcpy(text, "[A]\n", 4);
    assert_int_equal(vl_ini_parse("f", text, n, on_item, &h, &err), -EINVAL);
    free(text);
}

static void times_and_words(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t usec;
    } good[] = {{"1", 1000000},           {"1.5s", 1500000},  {"500ms", 500000}, {"2min", 120000000},
                {"1h 30min", 5400000000}, {" 3 s ", 3000000}, {"250us", 250},    {"0", 0},
                {"0.0000001s", 0}};
    static const char *const bad[] = {
        "", "s", "-1", "1 fortnight", "1.s", "99999999999999999999", "1e3", "1s,", "300000000000d"};
    uint64_t usec;
    bool b;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_int_equal(vl_config_time_usec(good[i].s, &usec), 0);
        assert_int_equal(usec, good[i].usec);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        if (vl_config_time_usec(bad[i], &usec) == 0)
            fail_msg("'%s' was taken for a time", bad[i]);
    assert_int_equal(vl_config_bool("Yes", &b), 0);
    assert_true(b);
    assert_int_equal(vl_config_bool("maybe", &b), -EINVAL);
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t bytes;
    } good[] = {{"1", 1},     {"512M", 512ull << 20},  {"4G", 4ull << 30}, {"16777215T", 16777215ull << 40},
                {"3K", 3072}, {"infinity", UINT64_MAX}};
    static const char *const bad[] = {
        "", "0", "M", "-1", "1.5G", "1 G", "1GB", "1g", "16777216T", "99999999999999999999", "0K"};
    uint64_t n;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_int_equal(vl_config_size(good[i].s, &n), 0);
        assert_true(n == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        if (vl_config_size(bad[i], &n) == 0)
            fail_msg("'%s' was taken for a size", bad[i]);
}

static void put_file(const char *dir, const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void make_dir(const char *dir, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static uint64_t limit_in(const char *dir, const char *line)
{
    char proc[512];
    (void)snprintf(proc, sizeof(proc), "%s/proc", dir);
    put_file(dir, "proc", line);
    return vl_memory_limit(proc, dir);
}

static void memory_is_what_the_groups_above_allow(void **state)
{
    (void)state;
    char dir[] = "/tmp/vlmd-test-XXXXXX", remove[64];
    assert_non_null(mkdtemp(dir));
    uint64_t all = vl_memory_limit("/nowhere", "/nowhere");
    assert_true(all > 1 << 20 && all < UINT64_MAX);
    make_dir(dir, "a");
    make_dir(dir, "a/b");
    put_file(dir, "a/memory.max", "1000000\n");
    put_file(dir, "a/b/memory.max", "max\n");
    assert_true(limit_in(dir, "0::/a/b\n") == 1000000);
    put_file(dir, "a/b/memory.max", "5000\n");
    assert_true(limit_in(dir, "0::/a/b\n") == 5000);
    assert_true(limit_in(dir, "0::/a\n") == 1000000);
    assert_true(limit_in(dir, "0::/\n") == all);
    assert_true(limit_in(dir, "0::/gone/c\n") == all);
    assert_true(limit_in(dir, "4:memory:/a\n") == all);
    assert_true(limit_in(dir, "") == all);
    put_file(dir, "memory.max", "3000\n");
    assert_true(limit_in(dir, "0::/a/b\n") == 3000);
    (void)snprintf(remove, sizeof(remove), "rm -r %s", dir);
    assert_int_equal(system(remove), 0);
}

static void expect_pair(const struct vl_config *c, const char *name, const char *projector)
{
    const struct vl_model_config *m = vl_config_model(c, name);
    if (!m || !m->projector || strcmp(strrchr(m->projector, '/') + 1, projector) != 0)
        fail_msg("%s has %s, wanted %s", name, m ? m->projector : "no entry", projector);
}

static void pairs_in_a_folder_are_models(void **state)
{
    (void)state;
    static const char *const file[] = {"Cat-Q8_0.gguf",
                                       "mmproj-Cat-Q8_0-f16.gguf",
                                       "mmproj-Cat-Q8_0.gguf",
                                       "Dog-Q4_K_M.gguf",
                                       "mmproj-Dog-f16.gguf",
                                       "Dog.BF16.gguf",
                                       "Dog2.gguf",
                                       "mmproj-Dog22.gguf",
                                       "mmproj-alone.gguf",
                                       "Cow.gguf",
                                       "mmproj-Cow-Q8_0.gguf",
                                       "mmproj-Cow-f16.gguf",
                                       "Q8_0.gguf",
                                       ".gguf",
                                       "a.model"};
    vl_auto(vl_config) c = NULL;
    struct vl_config_from from = {0};
    struct vl_error err = {0};
    char dir[] = "/tmp/vlmd-test-XXXXXX", path[64], remove[64];
    assert_non_null(mkdtemp(dir));
    make_dir(dir, "models");
    (void)snprintf(path, sizeof(path), "%s/models", dir);
    for (size_t i = 0; i < sizeof(file) / sizeof(*file); i++)
        put_file(path, file[i], "");
    assert_int_equal(vl_config_new(&c), 0);
    c->dir = strdup(dir);
    assert_int_equal(vl_config_find_models(c, &from, &err), 0);
    expect_pair(c, "Cat-Q8_0", "mmproj-Cat-Q8_0.gguf");
    expect_pair(c, "Dog-Q4_K_M", "mmproj-Dog-f16.gguf");
    expect_pair(c, "Dog.BF16", "mmproj-Dog-f16.gguf");
    expect_pair(c, "Cow", "mmproj-Cow-Q8_0.gguf");
    for (size_t i = 0; i < c->n_models; i++)
        if (strstr(c->model[i].text, dir) && !strstr("Cat-Q8_0 Dog-Q4_K_M Dog.BF16 Cow", c->model[i].name))
            fail_msg("%s is no pair", c->model[i].name);
    (void)snprintf(remove, sizeof(remove), "rm -r %s", dir);
    assert_int_equal(system(remove), 0);
}

static int config(struct vl_config *c, const char *kind, const char *text, struct vl_error *err)
{
    char file[32];
    (void)snprintf(file, sizeof(file), "d/porch.%s", kind);
    return vl_config_parse(c, kind, file, text, strlen(text), true, err);
}

static void configuration(void **state)
{
    (void)state;
    vl_auto(vl_config) c = NULL;
    struct vl_error err = {0};
    assert_int_equal(vl_config_new(&c), 0);
    assert_int_equal(
        config(c, "conf", "[Manager]\nDefaultModel=porch\nMaxStreams=3\nWorkers=2\nBackend=cpu\n", &err), 0);
    assert_int_equal(c->max_streams, 3);
    assert_int_equal(config(c, "model", "[Model]\nText=a.gguf\nProjector=b.gguf\n", &err), 0);
    assert_int_equal(c->n_models, 1);
    assert_non_null(vl_config_model(c, "porch"));
    assert_string_equal(vl_config_model(c, "porch")->text, "a.gguf");
    assert_string_equal(vl_config_model(c, "porch")->projector, "b.gguf");
    assert_int_equal(vl_config_model(c, "porch")->preload, VL_PRELOAD_UNSAID);
    assert_int_equal(
        config(c, "stream",
               "[Stream]\nUri=test:?seed=1\nSampleInterval=500ms\nWindow=10s\nGate=change\nLoop=yes\n"
               "[Captions]\nEnabled=no\nInstruction=Say it.\n",
               &err),
        0);
    assert_int_equal(c->n_streams, 1);
    assert_string_equal(c->stream[0].name, "porch");
    assert_int_equal(vl_stream_spec_window_frames(&c->stream[0]), 20);
    assert_false(c->stream[0].captions);
    assert_int_equal(c->stream[0].gate, VL_GATE_CHANGE);
}

static void configuration_errors_explain_themselves(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *text, *part;
    } bad[] = {
        {"conf", "[Manager]\nMaxStream=3\n",
         "d/porch.conf:2: unknown key 'MaxStream' in [Manager]; did you mean 'MaxStreams'?"},
        {"conf", "[Manger]\nMaxStreams=3\n", "unknown section [Manger]; did you mean [Manager]?"},
        {"conf", "[Manager]\nMaxStreams=0\n", "d/porch.conf:2: MaxStreams= is '0'"},
        {"conf", "[Manager]\nMaxStreams=65\n", "d/porch.conf:2: "},
        {"conf", "[Manager]\nMemoryBudget=2GB\n", "d/porch.conf:2: MemoryBudget= is '2GB', not a size"},
        {"model", "[Model]\nText=a\nKVFormat=q8_0\n", "d/porch.model:3: KVFormat= is 'q8_0', not f16"},
        {"model", "[Model]\nText=a\nPreload=later\n", "d/porch.model:3: Preload="},
        {"conf", "[Manager]\nWorkers=4294967297\n", "d/porch.conf:2: "},
        {"model", "[Model]\nProjector=b\n", "needs Text="},
        {"model", "[Model]\nText=a\nContextTokens=100\n", "d/porch.model:3: ContextTokens= is '100'"},
        {"stream", "[Stream]\nLoop=yes\n", "needs one of Uri= and Path="},
        {"stream", "[Stream]\nUri=test:\nPath=/x\n", "needs one of Uri= and Path="},
        {"stream", "[Stream]\nUri=rtsp://x\n", "test:"},
        {"stream", "[Stream]\nUri=test:\nSampleInterval=1us\n", "interval"},
        {"stream", "[Stream]\nUri=test:\nSampleInterval=soon\n", "a time like"},
        {"stream", "[Stream]\nUri=test:\nGate=open\n", "none or change"},
        {"stream", "[Stream]\nUri=test:\nReducer=unifrom\n", "did you mean 'uniform'"},
        {"stream", "[Stream]\nUri=test:\nReducer=temporal_diff:refresh=0\n", "must lie between"},
        {"stream", "[Stream]\nUri=test:\nPolicy=sink_window:widow=3\n", "did you mean 'window'"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        vl_auto(vl_config) c = NULL;
        struct vl_error err = {0};
        assert_int_equal(vl_config_new(&c), 0);
        assert_int_equal(config(c, bad[i].kind, bad[i].text, &err), -EINVAL);
        if (!strstr(err.msg, bad[i].part))
            fail_msg("case %zu: '%s' does not say '%s'", i, err.msg, bad[i].part);
    }
}

static void limits_hold_from_both_sides(void **state)
{
    (void)state;
    vl_auto(vl_limits) l = NULL;
    struct vl_error err = {0};
    assert_int_equal(vl_limits_new(&l, 2, 64, false), 0);
    assert_int_equal(vl_limits_take(l, VL_LIMIT_STREAMS, 1, 0, &err), 0);
    assert_int_equal(vl_limits_take(l, VL_LIMIT_STREAMS, 1, 0, &err), 0);
    assert_int_equal(vl_limits_take(l, VL_LIMIT_STREAMS, 1, 0, &err), VL_LIMITS_OVER);
    vl_limits_give(l, VL_LIMIT_STREAMS, 1);
    assert_int_equal(vl_limits_take(l, VL_LIMIT_STREAMS, 1, 0, &err), 0);
    assert_int_equal(vl_limits_take(l, VL_LIMIT_QUERIES, 1, 8, &err), VL_LIMITS_OVER); /* of one connection */
    for (int i = 0; i < 32; i++)
        assert_int_equal(vl_limits_take(l, VL_LIMIT_QUERIES, 1, 0, &err), 0);
    assert_int_equal(vl_limits_take(l, VL_LIMIT_QUERIES, 1, 0, &err), VL_LIMITS_OVER);
    assert_non_null(strstr(err.msg, "32 questions"));
    for (int i = 0; i < 32; i++)
        assert_int_equal(vl_limits_take(l, VL_LIMIT_QUERIES, 2, 0, &err), 0);
    assert_int_equal(vl_limits_take(l, VL_LIMIT_QUERIES, 3, 0, &err), VL_LIMITS_OVER); /* all of them */
    assert_int_equal(vl_limits_used(l, VL_LIMIT_QUERIES), 64);
    vl_limits_give(l, VL_LIMIT_QUERIES, 9); /* who holds nothing gives nothing */
    assert_int_equal(vl_limits_used(l, VL_LIMIT_QUERIES), 64);
}

/* On a shared daemon whoever comes later finds room, however greedy those before were. */
static void limits_leave_room_for_newcomers(void **state)
{
    (void)state;
    vl_auto(vl_limits) l = NULL;
    uint32_t total = 0;
    assert_int_equal(vl_limits_new(&l, 8, 64, true), 0);
    for (uid_t uid = 1; uid <= 5; uid++) {
        uint32_t n = 0;
        while (vl_limits_take(l, VL_LIMIT_QUERIES, uid, 0, NULL) == 0)
            n++;
        assert_true(n >= 1);
        if (uid == 1)
            assert_int_equal(n, 32);
        total += n;
    }
    assert_int_equal(total, vl_limits_used(l, VL_LIMIT_QUERIES));
    assert_true(total < 64);
}

static void count_gone(void *user)
{
    ++*(int *)user;
}

static void turn(sd_event *event)
{
    while (sd_event_run(event, 0) > 0)
        ;
}

static void pipes_never_block(void **state)
{
    (void)state;
    vl_auto(vl_reply_pipe) p = NULL;
    sd_event *event = NULL;
    int gone = 0, fd, r;
    char piece[1000];
    size_t n_written = 0, n_read = 0;
    memset(piece, 'x', sizeof(piece));
    assert_true(sd_event_new(&event) >= 0);
    assert_int_equal(vl_reply_pipe_new(&p, event, 100000, count_gone, &gone, &fd), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    while ((r = vl_reply_pipe_write(p, piece, sizeof(piece), false)) == 0)
        n_written += sizeof(piece);
    assert_int_equal(r, VL_REPLY_PIPE_FULL);
    assert_in_range(n_written, 100000, 100000 + 65536 + 1000);
    assert_int_equal(vl_reply_pipe_write(p, "end", 3, true), 0);
    assert_false(vl_reply_pipe_finish(p));
    assert_int_equal(vl_reply_pipe_write(p, "x", 1, false), -EPIPE);
    while (gone == 0) {
        turn(event);
        struct pollfd poll_fd = {fd, POLLIN, 0};
        while (poll(&poll_fd, 1, 0) > 0 && poll_fd.revents & POLLIN)
            n_read += (size_t)read(fd, piece, sizeof(piece));
    }
    assert_int_equal(n_read, n_written + 3);
    p = vl_reply_pipe_unref(p);
    (void)close(fd);
    (void)sd_event_unref(event);
}

static void a_closed_pipe_is_heard_of_once(void **state)
{
    (void)state;
    vl_auto(vl_reply_pipe) p = NULL;
    sd_event *event = NULL;
    int gone = 0, fd;
    assert_true(sd_event_new(&event) >= 0);
    assert_int_equal(vl_reply_pipe_new(&p, event, 1000, count_gone, &gone, &fd), 0);
    turn(event);
    assert_int_equal(gone, 0);
    (void)close(fd);
    (void)vl_reply_pipe_write(p, "x", 1, false);
    turn(event);
    turn(event);
    assert_int_equal(gone, 1);
    assert_int_equal(vl_reply_pipe_write(p, "x", 1, false), -EPIPE);
    assert_true(vl_reply_pipe_finish(p));
    p = vl_reply_pipe_unref(p);
    (void)sd_event_unref(event);
}

static const struct vl_caption_format *format(const char *name)
{
    const struct vl_caption_format *f = vl_caption_formats;
    while (f->name && strcmp(f->name, name) != 0)
        f++;
    assert_non_null(f->name);
    return f;
}

static void check_cue(const char *name, const struct vl_caption *c, const char *want)
{
    char *got = format(name)->cue(c, 7);
    assert_string_equal(got, want);
    free(got);
}

static void captions_are_written_down(void **state)
{
    (void)state;
    struct vl_caption c = {.id = 5,
                           .start_usec = INT64_C(1763722000123456),
                           .end_usec = INT64_C(1763722001123456),
                           .pts_usec = INT64_C(3723004000),
                           .text = "a <b> --> \"c\" & d"};
    check_cue("text", &c, "a <b> --> \"c\" & d\n");
    check_cue("jsonl", &c,
              "{\"id\":5,\"start\":1763722000123456,\"end\":1763722001123456,\"pts\":3723004000,\"text\":"
              "\"a <b> --> \\\"c\\\" & d\"}\n");
    check_cue("vtt", &c, "5\n01:02:03.004 --> 01:02:04.004\na &lt;b&gt; --&gt; \"c\" &amp; d\n\n");
    check_cue("srt", &c, "7\n01:02:03,004 --> 01:02:04,004\na <b> --> \"c\" & d\n\n");
    c.pts_usec = -5;
    c.end_usec = 0;
    c.text = "";
    check_cue("srt", &c, "7\n00:00:00,000 --> 00:00:00,999\n\n\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ini_is_read_as_systemd_writes_it),
        cmocka_unit_test(ini_errors_say_the_line),
        cmocka_unit_test(times_and_words),
        cmocka_unit_test(sizes),
        cmocka_unit_test(memory_is_what_the_groups_above_allow),
        cmocka_unit_test(pairs_in_a_folder_are_models),
        cmocka_unit_test(configuration),
        cmocka_unit_test(configuration_errors_explain_themselves),
        cmocka_unit_test(limits_hold_from_both_sides),
        cmocka_unit_test(limits_leave_room_for_newcomers),
        cmocka_unit_test(pipes_never_block),
        cmocka_unit_test(a_closed_pipe_is_heard_of_once),
        cmocka_unit_test(captions_are_written_down),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
