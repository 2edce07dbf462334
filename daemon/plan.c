/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * `vlmd plan`: what a model would take and how fast it would be with so many streams and questions, before a
 * weight is read. Bytes are exact, times are estimates (engine/inspect.h).
 */
#include "base/clock.h"
#include "base/log.h"
#include "daemon/log_sink.h"
#include "daemon/subcommand.h"
#include "engine/inspect.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { CAPTION_TOKENS = 16, MAX_FORKS = 64 }; /* a caption of some length, to have an example */
static const char help[] =
    "vlmd plan [--model F.gguf [--mmproj F.gguf]] [--streams N] [--questions N] [--json]\n"
    "Says what memory a model would take and how fast it would be here; loads no weight.\n\n"
    "  --model F|NAME, --mmproj F   in place of the default model\n"
    "  --streams N        watched at once; 1\n"
    "  --questions N      answered at once; 1\n"
    "  --config DIR|FILE, --system   as of vlmd itself\n"
    "  --json             one object; bytes, and times in microseconds\n\n"
    "Exit status: 0 done, 1 the model cannot be used, 2 wrong usage, 78 wrong configuration.\n";

struct plan_args {
    struct vl_config_from from;
    uint64_t n_streams, n_questions;
    bool json;
};

/* ---- for people ---- */

struct amount {
    char s[24];
};
static struct amount amount(uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    struct amount a;
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 1024 && u < 4; u++)
        v /= 1024;
    (void)snprintf(a.s, sizeof(a.s), "%.*f %s", u > 0 && v < 100 ? 1 : 0, v, unit[u]);
    return a;
}

static void row(const char *what, uint64_t each, uint64_t n)
{
    if (n == 1)
        (void)printf("  %-28s %12s\n", what, amount(each).s);
    else
        (void)printf("  %-28s %12s   %s each\n", what, amount(each * n).s, amount(each).s);
}

static double ms(int64_t ns)
{
    return (double)ns / (double)VL_NSEC_PER_MSEC;
}

/* Bytes that can be had without swapping; 0: not known. */
static uint64_t free_memory(void)
{
    uint64_t kib = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return 0;
    while (kib == 0 && fgets(line, sizeof(line), f))
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) != 1)
            kib = 0;
    (void)fclose(f); /* opened for reading */
    return kib << 10;
}

static void print_memory(const struct vl_plan *p, const struct plan_args *a)
{
    uint64_t has = free_memory(), windows = p->session_bytes * a->n_streams + p->fork_bytes * a->n_questions;
    (void)printf("memory\n");
    row("weights", p->weight_bytes, 1);
    row("room to compute in", p->scratch_bytes, 1);
    if (p->tokens_per_frame) {
        row("what streams remember", p->session_bytes, a->n_streams);
        row("questions about streams", p->fork_bytes, a->n_questions);
        row("other questions", p->kv_pool_bytes > windows ? p->kv_pool_bytes - windows : 0, 1);
    } else {
        row("questions", p->kv_pool_bytes, 1);
    }
    row("all", p->total_bytes, 1);
    if (has && p->total_bytes > has)
        (void)printf("  It does not fit: %s are free here. Fewer streams, or a smaller model.\n",
                     amount(has).s);
    else if (has)
        (void)printf("  It fits: %s are free here.\n", amount(has).s);
}

static void print_rates(const struct vl_plan *p, const struct plan_args *a)
{
    double look = ms(p->encode_ns) + ms(p->prefill_ns), said = look + CAPTION_TOKENS * ms(p->step_ns),
           n = (double)a->n_streams;
    (void)printf("\ntime here, estimated\n");
    if (p->tokens_per_frame) {
        (void)printf("  %-28s %9.1f ms\n", "to look at a frame", ms(p->encode_ns));
        (void)printf("  %-28s %9.1f ms\n", "to read it", ms(p->prefill_ns));
    }
    (void)printf("  %-28s %9.1f ms\n", "a token of an answer", ms(p->step_ns));
    if (p->tokens_per_frame == 0 || look <= 0)
        return;
    (void)printf("  %" PRIu64 " stream%s: %.2g looks a second%s, %.2g when each is captioned in %d tokens.\n",
                 a->n_streams, n > 1 ? "s" : "", 1000 / (n * look), n > 1 ? " each" : "", 1000 / (n * said),
                 CAPTION_TOKENS);
}

static int print_plan(const struct vl_plan *p, const struct plan_args *a)
{
    (void)printf("%s (%s, %s), %u tokens of context", p->name, p->arch, p->quantization, p->context_tokens);
    if (p->tokens_per_frame)
        (void)printf(", %u a frame, %u a still picture", p->tokens_per_frame, p->max_image_tokens);
    (void)printf("\n\n");
    print_memory(p, a);
    print_rates(p, a);
    return VL_EXIT_OK;
}

/* ---- for programs ---- */

static bool add_int(cJSON *o, const char *key, uint64_t value)
{
    char digits[24]; /* raw, since cJSON would write 1.7e+15 */
    (void)snprintf(digits, sizeof(digits), "%" PRIu64, value);
    return cJSON_AddRawToObject(o, key, digits) != NULL;
}

static bool add_usec(cJSON *o, const char *key, int64_t ns)
{
    return cJSON_AddNumberToObject(o, key, (double)(ns / VL_NSEC_PER_USEC)) != NULL;
}

static int print_json(const struct vl_plan *p, const struct plan_args *a)
{
    cJSON *o = cJSON_CreateObject();
    bool ok = o && cJSON_AddStringToObject(o, "name", p->name) &&
              cJSON_AddStringToObject(o, "architecture", p->arch) &&
              cJSON_AddStringToObject(o, "quantization", p->quantization) &&
              add_int(o, "context_tokens", p->context_tokens) &&
              add_int(o, "tokens_per_frame", p->tokens_per_frame) &&
              add_int(o, "max_image_tokens", p->max_image_tokens) && add_int(o, "streams", a->n_streams) &&
              add_int(o, "questions", a->n_questions) && add_int(o, "weight_bytes", p->weight_bytes) &&
              add_int(o, "scratch_bytes", p->scratch_bytes) && add_int(o, "stream_bytes", p->session_bytes) &&
              add_int(o, "question_bytes", p->fork_bytes) && add_int(o, "pool_bytes", p->kv_pool_bytes) &&
              add_int(o, "total_bytes", p->total_bytes) && add_usec(o, "encode_usec", p->encode_ns) &&
              add_usec(o, "prefill_usec", p->prefill_ns) && add_usec(o, "token_usec", p->step_ns);
    char *line = ok ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    if (line)
        (void)puts(line);
    else
        (void)fputs("vlmd plan: out of memory\n", stderr);
    cJSON_free(line);
    return line ? VL_EXIT_OK : VL_EXIT_FAILED;
}

/* ---- the command ---- */

/* 0: go on; else exit with *ret_code. */
static int parse(struct plan_args *a, int argc, char **argv, int *ret_code)
{
    enum { MODEL = 256, MMPROJ, STREAMS, QUESTIONS, CONFIG, SYSTEM, JSON, HELP };
    static const struct option options[] = {{"model", required_argument, NULL, MODEL},
                                            {"mmproj", required_argument, NULL, MMPROJ},
                                            {"streams", required_argument, NULL, STREAMS},
                                            {"questions", required_argument, NULL, QUESTIONS},
                                            {"config", required_argument, NULL, CONFIG},
                                            {"system", no_argument, NULL, SYSTEM},
                                            {"json", no_argument, NULL, JSON},
                                            {"help", no_argument, NULL, HELP},
                                            {0}};
    int o, r = 0;
    *ret_code = VL_EXIT_USAGE;
    while (r == 0 && (o = vl_subcommand_option("plan", argc, argv, options)) >= 0)
        switch (o) {
        case MODEL:
            a->from.text = optarg;
            break;
        case MMPROJ:
            a->from.projector = optarg;
            break;
        case STREAMS:
            r = vl_subcommand_number("plan", "--streams", optarg, VL_ENGINE_MAX_SESSIONS, &a->n_streams);
            break;
        case QUESTIONS:
            r = vl_subcommand_number("plan", "--questions", optarg, MAX_FORKS, &a->n_questions);
            break;
        case CONFIG:
            a->from.config = optarg;
            break;
        case SYSTEM:
            a->from.system = true;
            break;
        case JSON:
            a->json = true;
            break;
        case HELP:
            (void)fputs(help, stdout);
            *ret_code = VL_EXIT_OK;
            return -ECANCELED;
        default:
            r = -EINVAL;
        }
    if (r == 0 && optind < argc)
        r = vl_subcommand_usage("plan", "unexpected argument '%s'; files are given as --model F --mmproj F",
                                argv[optind]);
    if (r == 0 && (a->n_streams == 0 || a->n_questions == 0))
        r = vl_subcommand_usage("plan", "--streams and --questions are 1 or more");
    if (r == 0 && a->from.projector && !a->from.text)
        r = vl_subcommand_usage("plan", "--mmproj needs --model beside it");
    return r;
}

static int plan(int argc, char **argv)
{
    vl_auto(vl_config) config = NULL;
    const struct vl_model_config *model;
    struct plan_args a = {.n_streams = 1, .n_questions = 1};
    struct vl_plan p;
    struct vl_error err = {0};
    int code;
    vl_log_set_level(VL_LOG_WARNING);
    vl_log_sink_set(VL_LOG_TARGET_AUTO);
    if (parse(&a, argc, argv, &code) < 0 || (code = vl_subcommand_config("plan", &a.from, &config, &model)))
        return code;
    struct vl_engine_opts o = {.backend = config->backend,
                               .model = model->text,
                               .mmproj = model->projector,
                               .max_sessions = (uint32_t)a.n_streams,
                               .max_forks = (uint32_t)a.n_questions,
                               .n_workers = config->workers};
    int r = vl_plan(&p, &o, &err);
    if (r < 0) {
        (void)fprintf(stderr, "vlmd plan: %s\n", err.msg[0] ? err.msg : strerror(-r));
        return VL_EXIT_FAILED;
    }
    code = a.json ? print_json(&p, &a) : print_plan(&p, &a);
    return fflush(stdout) < 0 ? VL_EXIT_FAILED : code;
}

const struct vl_subcommand vl_subcommand_plan = {
    .name = "plan", .help = "says what memory and time a model would take here", .run = plan};
