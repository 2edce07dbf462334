/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl watch: captions as they come and changes of state, on a terminal, until the stream is over. */
#include "cli/value.h"
#include "cli/vlmctl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* After a stream's end its captions end by themselves; this is for when not. */
enum { LAST_WORDS_MS = 30000 };

struct watch {
    struct vl_ctl *c;
    const char *name;
    bool over;   /* the source has ended; what the pipe still holds is printed */
    cJSON *last; /* what a signal said about that, printed after the last captions; or NULL */
    char line[8192];
    size_t n;
};

static void print_media_clock(double pts_usec)
{
    unsigned long s = pts_usec > 0 ? (unsigned long)(pts_usec / 1e6) : 0;
    (void)printf("  %lu:%02lu:%02lu  ", s / 3600, s / 60 % 60, s % 60);
}

static void print_record(const struct watch *w, const char *line)
{
    if (w->c->json) {
        (void)puts(line);
        return;
    }
    cJSON *o = cJSON_Parse(line);
    const char *text = vl_value_str(o, "text", NULL);
    if (text) {
        vl_print_clock((uint64_t)vl_value_num(o, "start", 0));
        print_media_clock(vl_value_num(o, "pts", 0));
        (void)puts(text);
    } else if (cJSON_HasObjectItem(o, "gap")) {
        (void)printf("(%.0f captions were lost: this terminal was too slow)\n", vl_value_num(o, "gap", 0));
    }
    cJSON_Delete(o);
}

/* Reads what the pipe holds and prints whole lines. 0 at its end. */
static int read_pipe(struct watch *w, int fd)
{
    ssize_t n = read(fd, w->line + w->n, sizeof(w->line) - 1 - w->n);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : -errno;
    if (n == 0)
        return 0;
    w->n += (size_t)n;
    w->line[w->n] = '\0';
    char *at = w->line, *nl;
    while ((nl = strchr(at, '\n'))) {
        *nl = '\0';
        print_record(w, at);
        at = nl + 1;
    }
    w->n = strlen(at);
    memmove(w->line, at, w->n + 1);
    if (w->n == sizeof(w->line) - 1)
        w->n = 0; /* a line that no caption of ours can be; forget it */
    (void)fflush(stdout);
    return 1;
}

static bool is_over(const char *state)
{
    return !strcmp(state, "ended") || !strcmp(state, "failed");
}

static void print_state(const struct watch *w, const char *state, const cJSON *properties)
{
    const char *reason = vl_value_str(properties, "StateReason", "");
    if (!w->c->json)
        (void)printf("-- %s: %s%s%s\n", w->name, state, *reason ? ", " : "", reason);
}

static int on_changed(sd_bus_message *m, void *user, sd_bus_error *e)
{
    (void)e;
    struct watch *w = user;
    cJSON *changed = NULL;
    if (sd_bus_message_skip(m, "s") >= 0 && vl_value_read(m, &changed) >= 0) {
        const char *state = vl_value_str(changed, "State", NULL);
        if (state && is_over(state)) {
            w->over = true;
            cJSON_Delete(w->last);
            w->last = changed;
            return 0;
        }
        if (state)
            print_state(w, state, changed);
    }
    cJSON_Delete(changed);
    return 0;
}

static int loop(struct watch *w, int fd)
{
    for (;;) {
        int r;
        while ((r = sd_bus_process(w->c->bus, NULL)) > 0)
            ;
        if (r < 0)
            return vl_ctl_failed(w->c, w->name, NULL, r);
        struct pollfd p[] = {{.fd = fd, .events = POLLIN},
                             {.fd = sd_bus_get_fd(w->c->bus), .events = (short)sd_bus_get_events(w->c->bus)}};
        int n = poll(p, 2, w->over ? LAST_WORDS_MS : -1);
        if (n < 0 && errno != EINTR)
            return vl_ctl_failed(w->c, w->name, NULL, -errno);
        if (n == 0)
            return VL_EXIT_OK;
        if (p[0].revents && (r = read_pipe(w, fd)) <= 0)
            return r < 0 ? vl_ctl_failed(w->c, w->name, NULL, r) : VL_EXIT_OK;
    }
}

/* A stream that is over already changes no more: its state is asked for. That it is over is said after its
 * last captions, however the two came in. */
static int follow(struct watch *w, const char *path, int fd)
{
    cJSON *all = NULL;
    int code = vl_value_properties(w->c, path, VL_IFACE("Stream"), &all);
    const char *state = vl_value_str(all, "State", "");
    w->over = is_over(state);
    if (!code)
        code = loop(w, fd);
    const cJSON *last = w->last ? w->last : all;
    if (!code && w->over)
        print_state(w, vl_value_str(last, "State", ""), last);
    cJSON_Delete(w->last);
    cJSON_Delete(all);
    return code;
}

static int watch(struct watch *w)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    char *path = NULL;
    int fd, code = vl_ctl_stream_path(w->c, w->name, &path);
    if (code)
        return code;
    int r = sd_bus_match_signal(w->c->bus, NULL, VL_BUS_NAME, path, VL_BUS_PROPS, "PropertiesChanged",
                                on_changed, w);
    if (r >= 0)
        r = sd_bus_call_method(w->c->bus, VL_BUS_NAME, path, VL_IFACE("Captions"), "Open", &e, &reply,
                               "sa{sv}", "jsonl", 2, "Since", "t", (uint64_t)time(NULL) * 1000000, "Follow",
                               "b", 1);
    if (r >= 0)
        r = sd_bus_message_read(reply, "h", &fd);
    code = r < 0 ? vl_ctl_failed(w->c, w->name, &e, r) : follow(w, path, fd);
    free(path);
    sd_bus_error_free(&e);
    (void)sd_bus_message_unref(reply);
    return code;
}

static int run(struct vl_ctl *c, int argc, char **argv)
{
    static const struct vl_opt none[] = {{NULL, VL_OPT_FLAG, NULL}};
    struct watch w = {.c = c};
    int n, code = vl_ctl_options(&vl_verb_watch, argc, argv, none, &n);
    if (code)
        return code;
    if (n != 1)
        return vl_ctl_usage(&vl_verb_watch, "name one stream");
    w.name = argv[1];
    code = vl_ctl_connect(c);
    return code ? code : watch(&w);
}

const struct vl_verb vl_verb_watch = {
    .name = "watch",
    .usage = "  vlmctl watch NAME\n",
    .help = "Prints captions as they come, with the time of day and the time in the stream, until the stream "
            "ends.",
    .run = run,
};
