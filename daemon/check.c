/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * `vlmd check`: what a pair of model files is made of and whether it can be used, told by the code that would
 * use it. What was found before a file turned out to be broken is told too.
 */
#include "base/log.h"
#include "daemon/log_sink.h"
#include "daemon/subcommand.h"
#include "engine/inspect.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "vlmd check TEXT.gguf [MMPROJ.gguf] [--json]\n"
    "Says what a model's files are made of, loads them, shows the model one picture, and says whether it "
    "can\n"
    "be used. Without MMPROJ: text alone.\n\n"
    "  --backend NAME   cpu, cpu:isa=avx2; the best there is\n"
    "  --json           one object: usable, error, findings with section, key and value\n\n"
    "Exit status: 0 it can be used, 1 it cannot, 2 wrong usage.\n";

struct check {
    const char *text, *mmproj, *backend;
    bool json;
    cJSON *findings;
    bool short_of_memory;
};

static void keep_line(void *user, const char *section, const char *key, const char *value)
{
    struct check *c = user;
    cJSON *o = cJSON_CreateObject();
    bool ok = o && cJSON_AddStringToObject(o, "section", section) && cJSON_AddStringToObject(o, "key", key) &&
              cJSON_AddStringToObject(o, "value", value) && cJSON_AddItemToArray(c->findings, o);
    if (!ok)
        cJSON_Delete(o);
    c->short_of_memory |= !ok;
}

static const char *member(const cJSON *finding, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(finding, key));
}

static bool in_section(const cJSON *finding, const char *section)
{
    return !strcmp(member(finding, "section"), section);
}

/* Section by section, in the order in which they were first heard of. */
static void print_findings(const cJSON *findings)
{
    const cJSON *f, *g;
    for (f = findings->child; f; f = f->next) {
        const char *section = member(f, "section");
        for (g = findings->child; g != f && !in_section(g, section); g = g->next)
            ;
        if (g != f)
            continue; /* was printed with the first of its section */
        (void)printf("%s\n", section);
        for (; g; g = g->next)
            if (in_section(g, section))
                (void)printf("  %-28s %s\n", member(g, "key"), member(g, "value"));
        (void)putchar('\n');
    }
}

static void print_page(const struct check *c, const char *error)
{
    print_findings(c->findings);
    if (error)
        (void)printf("not usable: %s\n", error);
    else
        (void)printf("usable%s\n", c->mmproj ? "" : ", for text alone: pictures need an mmproj file");
}

static bool print_json(struct check *c, const char *error)
{
    cJSON *all = cJSON_CreateObject();
    bool ok = all && cJSON_AddBoolToObject(all, "usable", !error) &&
              (!error || cJSON_AddStringToObject(all, "error", error)) &&
              cJSON_AddItemReferenceToObject(all, "findings", c->findings);
    char *line = ok ? cJSON_PrintUnformatted(all) : NULL;
    if (line)
        (void)puts(line);
    cJSON_free(line);
    cJSON_Delete(all);
    return line != NULL;
}

static int inspect(struct check *c)
{
    struct vl_engine_opts o = {.backend = c->backend, .model = c->text, .mmproj = c->mmproj};
    struct vl_inspect_out out = {.user = c, .line = keep_line};
    struct vl_error err = {0};
    int r = vl_inspect(&o, &out, &err);
    const char *error = r == 0 ? NULL : err.msg[0] ? err.msg : strerror(-r);
    bool ok = !c->short_of_memory;
    if (ok && c->json)
        ok = print_json(c, error);
    else if (ok)
        print_page(c, error);
    if (!ok)
        (void)fputs("vlmd check: out of memory\n", stderr);
    return ok && r == 0 ? VL_EXIT_OK : VL_EXIT_FAILED;
}

/* 0: go on; else exit with *ret_code. */
static int parse(struct check *c, int argc, char **argv, int *ret_code)
{
    enum { BACKEND = 256, JSON, HELP };
    static const struct option options[] = {{"backend", required_argument, NULL, BACKEND},
                                            {"json", no_argument, NULL, JSON},
                                            {"help", no_argument, NULL, HELP},
                                            {0}};
    int o;
    *ret_code = VL_EXIT_USAGE;
    while ((o = vl_subcommand_option("check", argc, argv, options)) >= 0)
        switch (o) {
        case BACKEND:
            c->backend = optarg;
            break;
        case JSON:
            c->json = true;
            break;
        case HELP:
            (void)fputs(help, stdout);
            *ret_code = VL_EXIT_OK;
            return -ECANCELED;
        default:
            return -EINVAL;
        }
    if (argc - optind < 1 || argc - optind > 2)
        return vl_subcommand_usage("check", "name the text file and, to see, the mmproj file");
    c->text = argv[optind];
    c->mmproj = argv[optind + 1]; /* argv ends with NULL */
    return 0;
}

static int check(int argc, char **argv)
{
    struct check c = {0};
    int code;
    vl_log_set_level(VL_LOG_WARNING);
    vl_log_sink_set(VL_LOG_TARGET_AUTO);
    if (parse(&c, argc, argv, &code) < 0)
        return code;
    c.findings = cJSON_CreateArray();
    c.short_of_memory = !c.findings;
    code = inspect(&c);
    cJSON_Delete(c.findings);
    return fflush(stdout) < 0 ? VL_EXIT_FAILED : code;
}

const struct vl_subcommand vl_subcommand_check = {
    .name = "check", .help = "says whether a model's files can be used, and what they are", .run = check};
