/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl stream: add, set, list, show, remove. A file is opened here and handed over; the daemon opens no
 * path of ours. */
#include "cli/value.h"
#include "cli/vlmctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t NOT_SAID = UINT64_MAX;
struct spec {
    const char *name, *source, *model, *instruction, *gate, *reducer, *policy;
    uint64_t every, window, tokens_per_frame;
    bool no_captions, loop, realtime;
};
static const struct spec nothing_said = {.every = NOT_SAID, .window = NOT_SAID, .tokens_per_frame = NOT_SAID};

static int put_str(sd_bus_message *m, const char *key, const char *v)
{
    return v ? sd_bus_message_append(m, "{sv}", key, "s", v) : 0;
}

static int put_bool(sd_bus_message *m, const char *key, bool set, bool v)
{
    return set ? sd_bus_message_append(m, "{sv}", key, "b", (int)v) : 0;
}

static int put_model(sd_bus_message *m, const char *name)
{
    char *path = NULL;
    int r = name ? sd_bus_path_encode(VL_BUS_ROOT "/model", name, &path) : 0;
    if (r >= 0 && name)
        r = sd_bus_message_append(m, "{sv}", "Model", "o", path);
    free(path);
    return r;
}

static int put_span(sd_bus_message *m, const char *key, uint64_t usec)
{
    return usec != NOT_SAID ? sd_bus_message_append(m, "{sv}", key, "t", usec) : 0;
}

/* What Configure takes, too. */
static int put_settings(sd_bus_message *m, const struct spec *s)
{
    int r;
    if ((r = put_str(m, "Gate", s->gate)) < 0 || (r = put_str(m, "Reducer", s->reducer)) < 0 ||
        (r = put_str(m, "Policy", s->policy)) < 0 || (r = put_span(m, "SampleIntervalUSec", s->every)) < 0 ||
        (r = put_span(m, "WindowUSec", s->window)) < 0 || s->tokens_per_frame == NOT_SAID)
        return r;
    return sd_bus_message_append(m, "{sv}", "TokensPerFrame", "u", (uint32_t)s->tokens_per_frame);
}

static int put_spec(sd_bus_message *m, const struct spec *s, int fd)
{
    int r;
    if ((r = sd_bus_message_open_container(m, 'a', "{sv}")) < 0 || (r = put_str(m, "Name", s->name)) < 0)
        return r;
    r = fd >= 0 ? sd_bus_message_append(m, "{sv}", "Fd", "h", fd) : put_str(m, "Uri", s->source);
    if (r < 0 || (r = put_model(m, s->model)) < 0 || (r = put_str(m, "Instruction", s->instruction)) < 0 ||
        (r = put_settings(m, s)) < 0 || (r = put_bool(m, "Captions", s->no_captions, false)) < 0 ||
        (r = put_bool(m, "Loop", s->loop, true)) < 0 || (r = put_bool(m, "Realtime", s->realtime, true)) < 0)
        return r;
    return sd_bus_message_close_container(m);
}

/* "test:" and the like are addresses; everything else is a path. */
static bool is_uri(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789+.-");
    return n > 1 && s[n] == ':';
}

static int open_source(const struct vl_ctl *c, const char *source, int *ret)
{
    struct stat st;
    *ret = -1;
    if (is_uri(source))
        return 0;
    int fd = open(source, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return vl_ctl_failed(c, source, NULL, -errno);
    if (fstat(fd, &st) < 0 || S_ISDIR(st.st_mode)) {
        (void)close(fd);
        return vl_ctl_failed(c, source, NULL, -EISDIR);
    }
    *ret = fd;
    return 0;
}

static int add(struct vl_ctl *c, const struct spec *s)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *m = NULL, *reply = NULL;
    const char *path;
    int fd, code = open_source(c, s->source, &fd);
    if (code)
        return code;
    int r = sd_bus_message_new_method_call(c->bus, &m, VL_BUS_NAME, VL_BUS_ROOT, VL_IFACE("Manager"),
                                           "AddStream");
    if (r >= 0)
        r = put_spec(m, s, fd);
    if (r >= 0)
        r = sd_bus_call(c->bus, m, 0, &e, &reply);
    if (r >= 0)
        r = sd_bus_message_read(reply, "o", &path);
    if (r < 0)
        code = vl_ctl_failed(c, s->name, &e, r);
    else if (c->json)
        (void)printf("{\"name\":\"%s\",\"path\":\"%s\"}\n", s->name, path);
    if (fd >= 0)
        (void)close(fd);
    sd_bus_error_free(&e);
    (void)sd_bus_message_unref(m);
    (void)sd_bus_message_unref(reply);
    return code;
}

static int check(const struct spec *s)
{
    if (s->tokens_per_frame != NOT_SAID && s->tokens_per_frame > UINT32_MAX)
        return vl_ctl_usage(&vl_verb_stream, "--tokens-per-frame %llu: out of its range",
                            (unsigned long long)s->tokens_per_frame);
    return 0;
}

static int cmd_add(struct vl_ctl *c, int argc, char **argv)
{
    struct spec s = nothing_said;
    const struct vl_opt opt[] = {
        {"--every", VL_OPT_SPAN, &s.every},
        {"--window", VL_OPT_SPAN, &s.window},
        {"--tokens-per-frame", VL_OPT_NUMBER, &s.tokens_per_frame},
        {"--model", VL_OPT_TEXT, &s.model},
        {"--instruction", VL_OPT_TEXT, &s.instruction},
        {"--gate", VL_OPT_TEXT, &s.gate},
        {"--reducer", VL_OPT_TEXT, &s.reducer},
        {"--policy", VL_OPT_TEXT, &s.policy},
        {"--no-captions", VL_OPT_FLAG, &s.no_captions},
        {"--loop", VL_OPT_FLAG, &s.loop},
        {"--realtime", VL_OPT_FLAG, &s.realtime},
        {NULL, VL_OPT_FLAG, NULL},
    };
    int n, code = vl_ctl_options(&vl_verb_stream, argc, argv, opt, &n);
    if (code)
        return code;
    if (n != 2)
        return vl_ctl_usage(&vl_verb_stream, "add needs a name and a file or test:");
    s.name = argv[1];
    s.source = argv[2];
    if ((code = check(&s)))
        return code;
    code = vl_ctl_connect(c);
    return code ? code : add(c, &s);
}

static int set(struct vl_ctl *c, const struct spec *s, const char *path)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *m = NULL;
    int code = 0;
    int r = sd_bus_message_new_method_call(c->bus, &m, VL_BUS_NAME, path, VL_IFACE("Stream"), "Configure");
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'a', "{sv}");
    if (r >= 0)
        r = put_settings(m, s);
    if (r >= 0)
        r = sd_bus_message_close_container(m);
    if (r >= 0)
        r = sd_bus_call(c->bus, m, 0, &e, NULL);
    if (r < 0)
        code = vl_ctl_failed(c, s->name, &e, r);
    sd_bus_error_free(&e);
    (void)sd_bus_message_unref(m);
    return code;
}

static int cmd_set(struct vl_ctl *c, int argc, char **argv)
{
    struct spec s = nothing_said;
    const struct vl_opt opt[] = {
        {"--every", VL_OPT_SPAN, &s.every},
        {"--window", VL_OPT_SPAN, &s.window},
        {"--tokens-per-frame", VL_OPT_NUMBER, &s.tokens_per_frame},
        {"--gate", VL_OPT_TEXT, &s.gate},
        {"--reducer", VL_OPT_TEXT, &s.reducer},
        {"--policy", VL_OPT_TEXT, &s.policy},
        {NULL, VL_OPT_FLAG, NULL},
    };
    char *path = NULL;
    int n, given = argc, code = vl_ctl_options(&vl_verb_stream, argc, argv, opt, &n);
    if (code)
        return code;
    if (n != 1 || given == 2)
        return vl_ctl_usage(&vl_verb_stream, "set needs one name and what is to change");
    s.name = argv[1];
    if ((code = check(&s)) || (code = vl_ctl_connect(c)) || (code = vl_ctl_stream_path(c, s.name, &path)))
        return code;
    code = set(c, &s, path);
    free(path);
    return code;
}

static void print_row(const cJSON *stream)
{
    const cJSON *frames = cJSON_GetObjectItemCaseSensitive(stream, "Frames");
    const char *reason = vl_value_str(stream, "StateReason", "");
    (void)printf("%-20s %-10s %4.0fx%-4.0f %8.0f seen %6.0f skipped  %s\n", vl_value_str(stream, "Name", "?"),
                 vl_value_str(stream, "State", "?"), vl_value_num(stream, "Width", 0),
                 vl_value_num(stream, "Height", 0), vl_value_num(frames, "seen", 0),
                 vl_value_num(frames, "skipped", 0), reason);
}

static int cmd_list(struct vl_ctl *c, int argc, char **argv)
{
    static const struct vl_opt none[] = {{NULL, VL_OPT_FLAG, NULL}};
    cJSON *streams = NULL;
    int n, code = vl_ctl_options(&vl_verb_stream, argc, argv, none, &n);
    if (code)
        return code;
    if (n)
        return vl_ctl_usage(&vl_verb_stream, "list takes no name");
    if ((code = vl_ctl_connect(c)) || (code = vl_value_streams(c, &streams)))
        return code;
    if (c->json) {
        code = vl_value_print(streams);
    } else {
        const cJSON *s;
        cJSON_ArrayForEach(s, streams) print_row(s);
        if (!cJSON_GetArraySize(streams))
            (void)puts("No streams; add one with: vlmctl stream add NAME FILE");
    }
    cJSON_Delete(streams);
    return code;
}

static int cmd_show(struct vl_ctl *c, int argc, char **argv)
{
    static const struct vl_opt none[] = {{NULL, VL_OPT_FLAG, NULL}};
    char *path = NULL;
    cJSON *all = NULL, *conf = NULL;
    int n, code = vl_ctl_options(&vl_verb_stream, argc, argv, none, &n);
    if (code)
        return code;
    if (n != 1)
        return vl_ctl_usage(&vl_verb_stream, "show needs one name");
    if ((code = vl_ctl_connect(c)) || (code = vl_ctl_stream_path(c, argv[1], &path)))
        return code;
    if (!(code = vl_value_properties(c, path, VL_IFACE("Stream"), &all)) &&
        !(code = vl_value_call(c, path, VL_IFACE("Stream"), "GetConfiguration", &conf))) {
        (void)cJSON_AddItemToObject(all, "Configuration", conf);
        conf = NULL;
        if (c->json) {
            code = vl_value_print(all);
        } else {
            const cJSON *m;
            cJSON_ArrayForEach(m, all) vl_value_show(m, "");
        }
    }
    cJSON_Delete(all);
    cJSON_Delete(conf);
    free(path);
    return code;
}

static int cmd_remove(struct vl_ctl *c, int argc, char **argv)
{
    static const struct vl_opt none[] = {{NULL, VL_OPT_FLAG, NULL}};
    sd_bus_error e = SD_BUS_ERROR_NULL;
    char *path = NULL;
    int n, code = vl_ctl_options(&vl_verb_stream, argc, argv, none, &n);
    if (code)
        return code;
    if (n != 1)
        return vl_ctl_usage(&vl_verb_stream, "remove needs one name");
    if ((code = vl_ctl_connect(c)) || (code = vl_ctl_stream_path(c, argv[1], &path)))
        return code;
    int r = sd_bus_call_method(c->bus, VL_BUS_NAME, path, VL_IFACE("Stream"), "Remove", &e, NULL, NULL);
    if (r < 0)
        code = vl_ctl_failed(c, argv[1], &e, r);
    sd_bus_error_free(&e);
    free(path);
    return code;
}

static int run(struct vl_ctl *c, int argc, char **argv)
{
    const char *sub = argc > 1 ? argv[1] : "";
    if (!strcmp(sub, "add"))
        return cmd_add(c, argc - 1, argv + 1);
    if (!strcmp(sub, "set"))
        return cmd_set(c, argc - 1, argv + 1);
    if (!strcmp(sub, "list"))
        return cmd_list(c, argc - 1, argv + 1);
    if (!strcmp(sub, "show"))
        return cmd_show(c, argc - 1, argv + 1);
    if (!strcmp(sub, "remove"))
        return cmd_remove(c, argc - 1, argv + 1);
    return vl_ctl_usage(&vl_verb_stream, "say add, set, list, show or remove");
}

const struct vl_verb vl_verb_stream = {
    .name = "stream",
    .usage = "  vlmctl stream add NAME FILE|test:[?seed=N&seconds=N] [--every SPAN] [--window SPAN] "
             "[--realtime] [--loop]\n"
             "                [--model NAME] [--instruction TEXT] [--no-captions] [--gate none|change]\n"
             "                [--tokens-per-frame N] [--reducer R[:KEY=VALUE,...]] "
             "[--policy P[:KEY=VALUE,...]]\n"
             "  vlmctl stream set NAME [--every SPAN] [--window SPAN] [--gate none|change] "
             "[--tokens-per-frame N]\n"
             "                [--reducer R[:KEY=VALUE,...]|none] [--policy P[:KEY=VALUE,...]]\n"
             "  vlmctl stream list\n"
             "  vlmctl stream show NAME\n"
             "  vlmctl stream remove NAME\n",
    .help = "Streams: a file, or the drawn world of test:. A file is watched at the model's pace unless "
            "--realtime. vlmctl reducers and vlmctl policies list what there is to choose.",
    .run = run,
};
