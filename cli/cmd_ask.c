/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl ask: the answer as it is spoken. Records come over a pipe; the last one says how it ended. */
#include "cli/value.h"
#include "cli/vlmctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct question {
    const char *stream, *text;
    uint64_t since, until, max_tokens, deadline, seed;
};

static int append_u64(sd_bus_message *m, const char *key, uint64_t v, char type)
{
    if (v == 0)
        return 0;
    return type == 'u' ? sd_bus_message_append(m, "{sv}", key, "u", (uint32_t)v)
                       : sd_bus_message_append(m, "{sv}", key, "t", v);
}

static int build(struct vl_ctl *c, const struct question *q, const char *path, sd_bus_message **ret)
{
    sd_bus_message *m = NULL;
    int r = sd_bus_message_new_method_call(c->bus, &m, VL_BUS_NAME, VL_BUS_ROOT, VL_IFACE("Manager"), "Ask");
    if (r >= 0 && (r = sd_bus_message_append(m, "aos", 1, path, q->text)) >= 0 &&
        (r = sd_bus_message_open_container(m, 'a', "{sv}")) >= 0 &&
        (r = sd_bus_message_append(m, "{sv}", "Format", "s", "jsonl")) >= 0 &&
        (r = append_u64(m, "Since", q->since, 't')) >= 0 &&
        (r = append_u64(m, "Until", q->until, 't')) >= 0 &&
        (r = append_u64(m, "MaxTokens", q->max_tokens, 'u')) >= 0 &&
        (r = append_u64(m, "DeadlineUSec", q->deadline, 't')) >= 0 &&
        (r = append_u64(m, "Seed", q->seed, 't')) >= 0)
        r = sd_bus_message_close_container(m);
    if (r < 0) {
        (void)sd_bus_message_unref(m);
        return r;
    }
    *ret = m;
    return 0;
}

/* Prints one record; *ret_code is set by the last one. The text may begin with the space that tokenizers put
 * there. */
static void take_record(const struct vl_ctl *c, const char *line, bool *started, int *ret_code)
{
    cJSON *o = cJSON_Parse(line);
    const char *text = vl_value_str(o, "text", NULL), *status = vl_value_str(o, "status", NULL);
    if (c->json) {
        (void)puts(line);
    } else if (text) {
        if (!*started)
            text += strspn(text, " ");
        (void)fputs(text, stdout);
        (void)fflush(stdout);
        *started |= *text != '\0';
    }
    if (status) {
        const char *error = vl_ctl_short_error(vl_value_str(o, "error", "")),
                   *message = vl_value_str(o, "message", status);
        *ret_code = !strcmp(status, "ok")           ? VL_EXIT_OK
                    : !strcmp(error, "NothingSeen") ? VL_EXIT_NOTHING_SEEN
                                                    : VL_EXIT_FAILED;
        if (!c->json && *started)
            (void)putchar('\n');
        if (*ret_code && !c->json)
            (void)fprintf(stderr, "vlmctl: %s (%s)\n", message, *error ? error : status);
    }
    cJSON_Delete(o);
}

static int print_answer(const struct vl_ctl *c, int fd)
{
    FILE *f = fdopen(fd, "r");
    if (!f)
        return vl_ctl_failed(c, "answer", NULL, -errno);
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    bool started = false;
    int code = -1;
    while ((n = getline(&line, &cap, f)) > 0) {
        line[strcspn(line, "\n")] = '\0';
        take_record(c, line, &started, &code);
    }
    free(line);
    (void)fclose(f);
    if (code >= 0)
        return code;
    (void)fputs("vlmctl: the answer broke off; vlmd has gone\n", stderr);
    return VL_EXIT_FAILED;
}

static int ask(struct vl_ctl *c, const struct question *q)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *m = NULL, *reply = NULL;
    char *path = NULL;
    int fd, code = vl_ctl_stream_path(c, q->stream, &path);
    if (code)
        return code;
    int r = build(c, q, path, &m);
    if (r >= 0)
        r = sd_bus_call(c->bus, m, 0, &e, &reply);
    if (r >= 0)
        r = sd_bus_message_read(reply, "oh", NULL, &fd);
    if (r >= 0)
        r = fd = dup(fd);
    code = r < 0 ? vl_ctl_failed(c, q->stream, &e, r) : print_answer(c, fd);
    free(path);
    sd_bus_error_free(&e);
    (void)sd_bus_message_unref(m);
    (void)sd_bus_message_unref(reply);
    return code;
}

static int run(struct vl_ctl *c, int argc, char **argv)
{
    struct question q = {0};
    const struct vl_opt opt[] = {
        {"--since", VL_OPT_TIME, &q.since},
        {"--until", VL_OPT_TIME, &q.until},
        {"--max-tokens", VL_OPT_NUMBER, &q.max_tokens},
        {"--deadline", VL_OPT_SPAN, &q.deadline},
        {"--seed", VL_OPT_NUMBER, &q.seed},
        {NULL, VL_OPT_FLAG, NULL},
    };
    int n, code = vl_ctl_options(&vl_verb_ask, argc, argv, opt, &n);
    if (code)
        return code;
    if (n != 2)
        return vl_ctl_usage(&vl_verb_ask, "name one stream and one question, the question in quotes");
    q.stream = argv[1];
    q.text = argv[2];
    code = vl_ctl_connect(c);
    return code ? code : ask(c, &q);
}

const struct vl_verb vl_verb_ask = {
    .name = "ask",
    .usage = "  vlmctl ask NAME \"QUESTION\" [--since T] [--until T] [--max-tokens N] [--deadline SPAN] "
             "[--seed N]\n",
    .help = "Asks about what the stream shows and has shown; a question never disturbs the captions.",
    .run = run,
};
