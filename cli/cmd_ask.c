/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl ask: of a stream, of pictures, or of the model alone; the answer as it is spoken. Records come over
 * a pipe; the last one says how it ended. Pictures are opened here, with the rights of who asks. */
#include "cli/value.h"
#include "cli/vlmctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_PICTURE = 64 << 20 /* the daemon takes no more */ };

struct question {
    const char *stream, *text; /* stream NULL: pictures, or the text alone */
    const char *model;         /* NULL: the stream's, or the default one */
    struct vl_opt_list image;  /* "-": standard input */
    int image_fd[VL_OPT_LIST_MAX];
    unsigned n_open;
    const char *reducer; /* NULL: none said */
    uint64_t since, until, max_tokens, tokens_per_frame, deadline, seed;
};

static int append_u64(sd_bus_message *m, const char *key, uint64_t v, char type)
{
    if (v == 0)
        return 0;
    return type == 'u' ? sd_bus_message_append(m, "{sv}", key, "u", (uint32_t)v)
                       : sd_bus_message_append(m, "{sv}", key, "t", v);
}

/* What the question is about: an array of one stream or of the pictures. */
static int append_subject(sd_bus_message *m, const struct question *q, const char *path)
{
    if (path)
        return sd_bus_message_append(m, "ao", 1, path);
    int r = sd_bus_message_open_container(m, 'a', "h");
    for (unsigned i = 0; r >= 0 && i < q->n_open; i++)
        r = sd_bus_message_append(m, "h", q->image_fd[i]);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_model(sd_bus_message *m, const char *name)
{
    char *path;
    if (!name)
        return 0;
    int r = sd_bus_path_encode(VL_BUS_ROOT "/model", name, &path);
    if (r < 0)
        return r;
    r = sd_bus_message_append(m, "{sv}", "Model", "o", path);
    free(path);
    return r;
}

static int build(struct vl_ctl *c, const struct question *q, const char *path, sd_bus_message **ret)
{
    sd_bus_message *m = NULL;
    int r = sd_bus_message_new_method_call(c->bus, &m, VL_BUS_NAME, VL_BUS_ROOT, VL_IFACE("Manager"),
                                           path ? "Ask" : "AskImage");
    if (r >= 0 && (r = append_subject(m, q, path)) >= 0 &&
        (r = sd_bus_message_append(m, "s", q->text)) >= 0 &&
        (r = sd_bus_message_open_container(m, 'a', "{sv}")) >= 0 &&
        (r = sd_bus_message_append(m, "{sv}", "Format", "s", "jsonl")) >= 0 &&
        (r = append_model(m, q->model)) >= 0 && (r = append_u64(m, "Since", q->since, 't')) >= 0 &&
        (r = append_u64(m, "Until", q->until, 't')) >= 0 &&
        (r = append_u64(m, "MaxTokens", q->max_tokens, 'u')) >= 0 &&
        (!q->reducer || (r = sd_bus_message_append(m, "{sv}", "Reducer", "s", q->reducer)) >= 0) &&
        (r = append_u64(m, "TokensPerFrame", q->tokens_per_frame, 'u')) >= 0 &&
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

static void warn_incomplete(const cJSON *end)
{
    const cJSON *number;
    cJSON_ArrayForEach(number, cJSON_GetObjectItemCaseSensitive(end, "incomplete_images"))(void)
        fprintf(stderr, "vlmctl: image %d breaks off; the answer is about what there is of it\n",
                (int)cJSON_GetNumberValue(number));
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
        if (!c->json)
            warn_incomplete(o);
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

/* All of standard input, in a memfd: who makes the picture may take longer than the daemon waits for it. */
static int read_stdin(int *ret)
{
    static char piece[1 << 16];
    size_t total = 0;
    ssize_t n;
    if (isatty(STDIN_FILENO)) {
        (void)fputs(
            "vlmctl: standard input is a terminal; send a picture into it: grim - | vlmctl ask - ...\n",
            stderr);
        return VL_EXIT_USAGE;
    }
    int fd = memfd_create("picture", MFD_CLOEXEC);
    if (fd < 0)
        return perror("vlmctl: memfd"), VL_EXIT_FAILED;
    while ((n = read(STDIN_FILENO, piece, sizeof(piece))) > 0 || (n < 0 && errno == EINTR)) {
        total += n > 0 ? (size_t)n : 0;
        if (total > MAX_PICTURE || (n > 0 && write(fd, piece, (size_t)n) != n))
            break;
    }
    if (n == 0) {
        *ret = fd;
        return VL_EXIT_OK;
    }
    (void)close(fd);
    if (total > MAX_PICTURE)
        (void)fprintf(stderr, "vlmctl: standard input holds more than %d bytes\n", MAX_PICTURE);
    else
        perror("vlmctl: standard input");
    return VL_EXIT_FAILED;
}

static int open_images(struct question *q)
{
    for (; q->n_open < q->image.n; q->n_open++) {
        const char *name = q->image.item[q->n_open];
        int *fd = &q->image_fd[q->n_open];
        if (!strcmp(name, "-")) {
            int code = read_stdin(fd);
            if (code)
                return code;
        } else if ((*fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY)) < 0) {
            (void)fprintf(stderr, "vlmctl: %s: %s\n", name, strerror(errno));
            return VL_EXIT_FAILED;
        }
    }
    return VL_EXIT_OK;
}

static int ask(struct vl_ctl *c, const struct question *q)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *m = NULL, *reply = NULL;
    char *path = NULL;
    int fd, code = q->stream ? vl_ctl_stream_path(c, q->stream, &path) : 0;
    if (code)
        return code;
    int r = build(c, q, path, &m);
    if (r >= 0)
        r = sd_bus_call(c->bus, m, 0, &e, &reply);
    if (r >= 0)
        r = sd_bus_message_read(reply, "oh", NULL, &fd);
    if (r >= 0)
        r = fd = dup(fd);
    code = r < 0 ? vl_ctl_failed(c, q->stream ? q->stream : "ask", &e, r) : print_answer(c, fd);
    free(path);
    sd_bus_error_free(&e);
    (void)sd_bus_message_unref(m);
    (void)sd_bus_message_unref(reply);
    return code;
}

/* From what is left of the command line. */
static int take_words(struct question *q, bool text_only, char **word, int n)
{
    bool no_stream = text_only || q->image.n > 0;
    if (text_only && q->image.n > 0)
        return vl_ctl_usage(&vl_verb_ask, "--text means without a picture");
    if (no_stream ? n != 1 : n != 2)
        return vl_ctl_usage(&vl_verb_ask, no_stream
                                              ? "ask one question, in quotes"
                                              : "name one stream and one question, the question in quotes");
    q->text = word[n - 1];
    if (!no_stream && !strcmp(word[0], "-")) {
        q->image.item[q->image.n++] = "-";
        no_stream = true;
    }
    if (no_stream && (q->since || q->until))
        return vl_ctl_usage(&vl_verb_ask, "--since and --until are about a stream");
    q->stream = no_stream ? NULL : word[0];
    return 0;
}

static int run(struct vl_ctl *c, int argc, char **argv)
{
    struct question q = {0};
    bool text_only = false;
    const struct vl_opt opt[] = {
        {"--image", VL_OPT_LIST, &q.image},
        {"--text", VL_OPT_FLAG, &text_only},
        {"--model", VL_OPT_TEXT, &q.model},
        {"--since", VL_OPT_TIME, &q.since},
        {"--until", VL_OPT_TIME, &q.until},
        {"--max-tokens", VL_OPT_NUMBER, &q.max_tokens},
        {"--reducer", VL_OPT_TEXT, &q.reducer},
        {"--tokens-per-frame", VL_OPT_NUMBER, &q.tokens_per_frame},
        {"--deadline", VL_OPT_SPAN, &q.deadline},
        {"--seed", VL_OPT_NUMBER, &q.seed},
        {NULL, VL_OPT_FLAG, NULL},
    };
    int n, code = vl_ctl_options(&vl_verb_ask, argc, argv, opt, &n);
    if (code)
        return code;
    if ((code = take_words(&q, text_only, argv + 1, n)))
        return code;
    if (q.max_tokens > UINT32_MAX || q.tokens_per_frame > UINT32_MAX)
        return vl_ctl_usage(&vl_verb_ask, "--max-tokens and --tokens-per-frame are below 2^32");
    code = open_images(&q);
    if (!code)
        code = vl_ctl_connect(c);
    if (!code)
        code = ask(c, &q);
    for (unsigned i = 0; i < q.n_open; i++)
        (void)close(q.image_fd[i]);
    return code;
}

const struct vl_verb vl_verb_ask = {
    .name = "ask",
    .usage = "  vlmctl ask NAME \"QUESTION\" [--since T] [--until T] [--max-tokens N] [--deadline SPAN] "
             "[--seed N]\n"
             "             [--reducer NAME[:KEY=VALUE,...]] [--tokens-per-frame N]\n"
             "  vlmctl ask --image FILE [--image FILE ...] \"QUESTION\" [--model NAME]   (JPEG, PNG, WebP)\n"
             "  vlmctl ask - \"QUESTION\"        (a picture from standard input)\n"
             "  vlmctl ask --text \"QUESTION\"   (no picture, the model alone)\n",
    .help =
        "Asks about what a stream shows and has shown, which never disturbs its captions, or about pictures.",
    .run = run,
};
