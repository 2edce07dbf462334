/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The command line of `vlmd run`. Options may stand anywhere; only --at belongs to the --ask behind it.
 */
#include "daemon/run_args.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/chosen.h"
#include "daemon/limits.h"
#include "daemon/subcommand.h"

#include <locale.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "vlmd run [FILE... | test:URI | -] [--ask \"QUESTION\"]... [OPTIONS]\n"
    "Looks at a video, at pictures, or at nothing, and answers; needs no daemon and no configuration.\n\n"
    "  vlmd run clip.mp4                                  says what it sees while it plays\n"
    "  vlmd run clip.mp4 --ask \"Who came in?\"             and answers at the end\n"
    "  vlmd run clip.mp4 --at 12s --ask \"Who is there?\"   and answers after 12 s of the clip\n"
    "  vlmd run photo.jpg --ask \"What does it say?\"       a picture, or several: JPEG, PNG, WebP\n"
    "  grim - | vlmd run - --ask \"What is on the screen?\"\n"
    "  vlmd run --model F.gguf --ask \"Name three fruits.\" text alone\n\n"
    "  --ask TEXT         a question; again: the next one\n"
    "  --at SPAN          the next --ask is asked at this time of the video, not at its end\n"
    "  --image FILE       a picture, also when it has an odd name\n"
    "  --model F.gguf|NAME   the model's language part, or one of the configuration; else the default one\n"
    "  --mmproj F.gguf    its vision part\n"
    "  --captions HOW     lines (with times; the default), text, vtt, srt, jsonl, or none\n"
    "  --every SPAN       one look each, by the time of the video; 1s\n"
    "  --window SPAN      how long a look stays in memory; the model's own\n"
    "  --gate none|change leave out looks that show nothing new; none\n"
    "  --tokens-per-frame N   visual tokens of a look, or of a view of a picture, that are read; all\n"
    "  --reducer NAME[:KEY=VALUE,...]   which of them: vlmd reducers lists them; those for questions\n"
    "                     work on each --ask; resolution when none is named\n"
    "  --policy NAME[:KEY=VALUE,...]    what leaves a full window: vlmd policies; sink_window\n"
    "  --instruction TEXT what the captions are to be about\n"
    "  --realtime         at the video's own pace, leaving out what the model has no time for; else at the\n"
    "                     model's pace, leaving out nothing\n"
    "  --max-tokens N     of each answer\n"
    "  --temperature X, --seed N   of answers; 0: always the likeliest word\n"
    "  --memory SIZE      what the model may take: 900M, 4G\n"
    "  --json             one JSON object a line (docs/run.md)\n"
    "  --quiet            no progress\n"
    "  --config DIR|FILE, --system, --ingest PROGRAM, --debug   as of vlmd itself\n\n"
    "Exit status: 0 all answered, 1 failed, 2 wrong usage, 78 wrong configuration, 130 interrupted.\n";

/* ---- values ---- */

static int size(const char *s, uint64_t *ret)
{
    uint64_t v;
    if (vl_config_size(s, &v) < 0 || v == 0)
        return vl_subcommand_usage("run", "--memory %s: not a size like 900M or 4G", s);
    *ret = v == UINT64_MAX ? 0 : v;
    return 0;
}

static int span(const char *name, const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
    if (vl_config_time_usec(s, ret) < 0)
        return vl_subcommand_usage("run", "%s %s: not a time like 500ms, 2s or 1min 30s", name, s);
    if (*ret < min || *ret > max)
        return vl_subcommand_usage("run", "%s %s: out of its range", name, s);
    return 0;
}

static int temperature(const char *s, float *ret)
{
    char *end;
    float v = strtof(s, &end);
    if (end == s || *end || !(v >= 0 && v <= 10))
        return vl_subcommand_usage("run", "--temperature %s: not a number from 0 to 10", s);
    *ret = v;
    return 0;
}

/* Models read UTF-8, and --json is to be JSON whatever a terminal sends. */
static bool is_utf8(const char *s)
{
    return mbstowcs(NULL, s, 0) != (size_t)-1;
}

static int captions(struct vl_run_args *a, const char *how)
{
    a->no_captions = !strcmp(how, "none");
    a->format = NULL;
    if (a->no_captions || !strcmp(how, "lines"))
        return 0;
    for (const struct vl_caption_format *f = vl_caption_formats; f->name; f++)
        if (!strcmp(f->name, how)) {
            a->format = f;
            return 0;
        }
    return vl_subcommand_usage("run", "--captions %s: not one of lines, text, vtt, srt, jsonl, none", how);
}

static int instruction(struct vl_run_args *a, const char *text)
{
    if (!*text || strlen(text) > VL_LIMIT_INSTRUCTION_BYTES)
        return vl_subcommand_usage("run", "--instruction is 1 to %d bytes", VL_LIMIT_INSTRUCTION_BYTES);
    if (!is_utf8(text))
        return vl_subcommand_usage("run", "--instruction is not UTF-8");
    a->instruction = text;
    return 0;
}

/* Checked here, before a model is read for nothing. */
static int policy(struct vl_run_args *a, const char *text)
{
    struct vl_error err = {0};
    a->policy = text;
    return vl_chosen_check(VL_OFFER_POLICY, "--policy", text, &err) < 0
               ? vl_subcommand_usage("run", "%s", err.msg)
               : 0;
}

/* Of a video it works as looks arrive, if it can; else, as of pictures, on the fork of each question. */
static int reducer(struct vl_run_args *a)
{
    struct vl_error err = {0};
    int r = a->n_images ? -EINVAL : vl_chosen_check(VL_OFFER_REDUCER, "--reducer", a->reducer, &err);
    if (r < 0 && (a->n_images || (a->n_asks && vl_chosen_needs_question(a->reducer)))) {
        a->reduces_questions = true;
        r = vl_chosen_check_asked(!a->n_images, "--reducer", a->reducer, &err);
    }
    if (r < 0)
        return vl_subcommand_usage("run", "%s", err.msg);
    if (!a->tokens_per_frame && vl_chosen_needs_budget(a->reducer))
        return vl_subcommand_usage("run", "--reducer %s does nothing without --tokens-per-frame", a->reducer);
    return 0;
}

/* ---- what is looked at, and what is asked ---- */

static int add_image(struct vl_run_args *a, const char *name, int fd)
{
    if (a->n_images == VL_ENGINE_MAX_IMAGES) {
        vl_closep(&fd);
        return vl_subcommand_usage("run", "more than %d pictures", VL_ENGINE_MAX_IMAGES);
    }
    a->image[a->n_images] = name;
    a->image_fd[a->n_images++] = fd;
    return 0;
}

/* must_be_image: it stands behind --image, so whatever it is the picture reader is to say. */
static int add_source(struct vl_run_args *a, const char *name, bool must_be_image, int *ret_code)
{
    struct vl_error err = {0};
    enum vl_run_kind kind;
    int fd, r = vl_run_open(name, &kind, &fd, &err);
    if (r < 0) {
        (void)fprintf(stderr, "vlmd run: %s\n", err.msg);
        *ret_code = VL_EXIT_FAILED;
        return r;
    }
    if (kind == VL_RUN_IMAGE || (must_be_image && fd >= 0))
        return add_image(a, name, fd);
    if (a->stream || must_be_image) {
        vl_closep(&fd);
        return must_be_image ? vl_subcommand_usage("run", "%s is no picture", name)
                             : vl_subcommand_usage("run", "%s and %s: one video at a time", a->stream, name);
    }
    a->stream = name;
    a->stream_fd = fd;
    return 0;
}

/* In the order in which they will be asked. */
static int add_ask(struct vl_run_args *a, const char *text, int64_t at_ns)
{
    uint32_t i = a->n_asks;
    if (i == VL_RUN_MAX_ASKS)
        return vl_subcommand_usage("run", "more than %d questions", VL_RUN_MAX_ASKS);
    if (!*text || strlen(text) > VL_ENGINE_MAX_QUESTION)
        return vl_subcommand_usage("run", "a question is 1 to %d bytes", VL_ENGINE_MAX_QUESTION);
    if (!is_utf8(text))
        return vl_subcommand_usage("run", "question %u is not UTF-8", a->n_asks + 1);
    for (; i > 0 && a->ask[i - 1].at_ns > at_ns; i--)
        a->ask[i] = a->ask[i - 1];
    a->ask[i] = (struct vl_run_ask){text, at_ns};
    a->n_asks++;
    return 0;
}

static int check(struct vl_run_args *a)
{
    bool stream = a->stream != NULL;
    if (stream && a->n_images)
        return vl_subcommand_usage("run", "%s is a video and %s a picture: one or the other", a->stream,
                                   a->image[0]);
    if (!stream && a->n_asks && a->ask[0].at_ns != VL_RUN_AT_END)
        return vl_subcommand_usage("run", "--at needs a video");
    if (!stream && (a->format || a->no_captions || a->realtime || a->instruction))
        return vl_subcommand_usage("run", "--captions, --realtime and --instruction need a video");
    if (!stream && a->policy)
        return vl_subcommand_usage("run", "--policy needs a video");
    if (!stream && !a->n_images && (a->reducer || a->tokens_per_frame))
        return vl_subcommand_usage("run", "--reducer and --tokens-per-frame need a video or a picture");
    if (reducer(a) != 0)
        return VL_EXIT_USAGE;
    if (a->from.projector && !a->from.text)
        return vl_subcommand_usage("run", "--mmproj needs --model beside it");
    if (a->n_images && !a->n_asks)
        return add_ask(a, "Describe the picture.", VL_RUN_AT_END);
    if (!stream && !a->n_asks)
        return vl_subcommand_usage("run", "nothing to look at and nothing asked: name a file, or --ask");
    if (a->format && (a->n_asks || a->json))
        return vl_subcommand_usage("run", "--captions %s leaves no place for %s: use --json, or lines",
                                   a->format->name, a->n_asks ? "answers" : "other records");
    if (stream && a->no_captions && !a->n_asks)
        return vl_subcommand_usage("run", "--captions none, and nothing asked: --ask");
    return 0;
}

/* ---- the command line ---- */

enum {
    ASK = 256,
    AT,
    IMAGE,
    MODEL,
    MMPROJ,
    CAPTIONS,
    EVERY,
    WINDOW,
    GATE,
    TOKENS_PER_FRAME,
    REDUCER,
    POLICY,
    INSTRUCTION,
    REALTIME,
    MAX_TOKENS,
    TEMPERATURE,
    SEED,
    MEMORY,
    JSON,
    QUIET,
    CONFIG,
    SYSTEM,
    INGEST,
    DEBUG,
    HELP
};
static const struct option options[] = {
    {"ask", required_argument, NULL, ASK},
    {"at", required_argument, NULL, AT},
    {"image", required_argument, NULL, IMAGE},
    {"model", required_argument, NULL, MODEL},
    {"mmproj", required_argument, NULL, MMPROJ},
    {"captions", required_argument, NULL, CAPTIONS},
    {"every", required_argument, NULL, EVERY},
    {"window", required_argument, NULL, WINDOW},
    {"gate", required_argument, NULL, GATE},
    {"tokens-per-frame", required_argument, NULL, TOKENS_PER_FRAME},
    {"reducer", required_argument, NULL, REDUCER},
    {"policy", required_argument, NULL, POLICY},
    {"instruction", required_argument, NULL, INSTRUCTION},
    {"realtime", no_argument, NULL, REALTIME},
    {"max-tokens", required_argument, NULL, MAX_TOKENS},
    {"temperature", required_argument, NULL, TEMPERATURE},
    {"seed", required_argument, NULL, SEED},
    {"memory", required_argument, NULL, MEMORY},
    {"json", no_argument, NULL, JSON},
    {"quiet", no_argument, NULL, QUIET},
    {"config", required_argument, NULL, CONFIG},
    {"system", no_argument, NULL, SYSTEM},
    {"ingest", required_argument, NULL, INGEST},
    {"debug", no_argument, NULL, DEBUG},
    {"help", no_argument, NULL, HELP},
    {0},
};

/* Those that say how; the rest says what. */
static int take_setting(struct vl_run_args *a, int c, const char *value)
{
    uint64_t v = 0;
    int r = 0;
    switch (c) {
    case CAPTIONS:
        return captions(a, value);
    case EVERY:
        return span("--every", value, 10000, UINT64_C(3600000000), &a->every_usec);
    case WINDOW:
        return span("--window", value, 1, UINT64_C(86400000000), &a->window_usec);
    case GATE:
        return vl_gate_from_name(value, &a->gate) < 0
                   ? vl_subcommand_usage("run", "--gate %s: not none or change", value)
                   : 0;
    case TOKENS_PER_FRAME:
        r = vl_subcommand_number("run", "--tokens-per-frame", value, UINT32_MAX, &v);
        a->tokens_per_frame = (uint32_t)v;
        return r;
    case REDUCER:
        a->reducer = value;
        return 0;
    case POLICY:
        return policy(a, value);
    case INSTRUCTION:
        return instruction(a, value);
    case MAX_TOKENS:
        r = vl_subcommand_number("run", "--max-tokens", value, VL_ENGINE_MAX_TOKENS, &v);
        a->max_tokens = (uint32_t)v;
        return r;
    case TEMPERATURE:
        return temperature(value, &a->sampling.temperature);
    case SEED:
        return vl_subcommand_number("run", "--seed", value, UINT64_MAX, &a->sampling.seed);
    case MEMORY:
        return size(value, &a->max_bytes);
    case REALTIME:
        a->realtime = true;
        return 0;
    case JSON:
        a->json = true;
        return 0;
    case QUIET:
        a->quiet = true;
        return 0;
    case DEBUG:
        vl_log_set_level(VL_LOG_DEBUG);
        return 0;
    default: /* it has been said what is wrong */
        return -EINVAL;
    }
}

static int take_option(struct vl_run_args *a, int c, const char *value, int64_t *at_ns, int *ret_code)
{
    uint64_t usec = 0;
    int r = 0;
    switch (c) {
    case ASK:
        r = add_ask(a, value, *at_ns);
        *at_ns = VL_RUN_AT_END;
        return r;
    case AT:
        r = span("--at", value, 0, UINT64_C(86400000000), &usec);
        *at_ns = (int64_t)usec * VL_NSEC_PER_USEC;
        return r;
    case IMAGE:
        return add_source(a, value, true, ret_code);
    case MODEL:
        a->from.text = value;
        return 0;
    case MMPROJ:
        a->from.projector = value;
        return 0;
    case CONFIG:
        a->from.config = value;
        return 0;
    case SYSTEM:
        a->from.system = true;
        return 0;
    case INGEST:
        a->from.ingest_program = value;
        return 0;
    default:
        return take_setting(a, c, value);
    }
}

int vl_run_args_parse(struct vl_run_args *ret, int argc, char **argv, int *ret_code)
{
    int64_t at_ns = VL_RUN_AT_END;
    int c, r = 0;
    *ret = (struct vl_run_args){
        .stream_fd = -1, .every_usec = 1000000, .gate = VL_GATE_NONE, .sampling = VL_SAMPLING_GREEDY};
    *ret_code = VL_EXIT_USAGE;
    (void)setlocale(LC_CTYPE,
                    "C.UTF-8"); /* glibc has it built in; without it only ASCII is UTF-8 to is_utf8 */
    while (r == 0 && (c = vl_subcommand_option("run", argc, argv, options)) >= 0) {
        if (c == HELP) {
            (void)fputs(help, stdout);
            *ret_code = VL_EXIT_OK;
            return -ECANCELED;
        }
        r = take_option(ret, c, optarg, &at_ns, ret_code);
    }
    for (; r == 0 && optind < argc; optind++)
        r = add_source(ret, argv[optind], false, ret_code);
    if (r == 0 && at_ns != VL_RUN_AT_END)
        r = vl_subcommand_usage("run", "--at stands before its --ask");
    return r < 0 ? r : check(ret);
}

void vl_run_args_done(struct vl_run_args *a)
{
    vl_closep(&a->stream_fd);
    for (uint32_t i = 0; i < a->n_images; i++)
        vl_closep(&a->image_fd[i]);
}
