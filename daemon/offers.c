/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * `vlmd reducers` and `vlmd policies`: what may be chosen, and with which options. Read from the registries,
 * so nothing is listed twice.
 */
#include "engine/offers.h"
#include "daemon/subcommand.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

enum { NAME_WIDTH = 14, KEY_WIDTH = 14 };

struct list {
    const char *word, *help;
    enum vl_offer_kind kind;
    bool json;
};

static const char reducers_help[] =
    "vlmd reducers [--json]\n"
    "Lists what can leave out or merge visual tokens, and its options: --reducer NAME or\n"
    "--reducer NAME:KEY=VALUE,KEY=VALUE, most with --tokens-per-frame N beside it. Those that need a "
    "question\n"
    "work for that question alone; all others on every frame that arrives.\n";
static const char policies_help[] =
    "vlmd policies [--json]\n"
    "Lists what can decide which tokens leave a full window, and its options: --policy NAME or\n"
    "--policy NAME:KEY=VALUE,KEY=VALUE.\n";

/* ---- for people ---- */

static bool is_word(const struct vl_param_desc *d)
{
    return d->min > d->max;
}

static void print_option(const struct vl_param_desc *d)
{
    if (is_word(d))
        (void)printf("    %-*s  a word  %s\n", KEY_WIDTH, d->key, d->help);
    else
        (void)printf("    %-*s  %g (%g to %.10g)  %s\n", KEY_WIDTH, d->key, d->def, d->min, d->max, d->help);
}

static void print_offer(const struct vl_offer *o)
{
    (void)printf("%-*s  %s", NAME_WIDTH, o->name, o->paper);
    for (size_t i = 0; o->stage[i]; i++)
        (void)printf("%s%s", i ? ", " : "; ", o->stage[i]);
    (void)printf("%s%s\n", o->needs_question ? "; needs a question" : "",
                 o->needs_budget ? "; needs --tokens-per-frame" : "");
    for (const struct vl_param_desc *d = o->params; d->key; d++)
        print_option(d);
}

/* ---- for programs ---- */

static bool add_option(cJSON *options, const struct vl_param_desc *d)
{
    cJSON *o = cJSON_CreateObject();
    bool ok = o && cJSON_AddItemToArray(options, o) && cJSON_AddStringToObject(o, "name", d->key) &&
              cJSON_AddStringToObject(o, "type", is_word(d) ? "word" : "number") &&
              cJSON_AddStringToObject(o, "help", d->help);
    if (!ok || is_word(d))
        return ok;
    return cJSON_AddNumberToObject(o, "default", d->def) && cJSON_AddNumberToObject(o, "min", d->min) &&
           cJSON_AddNumberToObject(o, "max", d->max);
}

static bool add_stages(cJSON *o, const struct vl_offer *offer)
{
    cJSON *stages = cJSON_AddArrayToObject(o, "stages");
    bool ok = stages && cJSON_AddBoolToObject(o, "needs_question", offer->needs_question) &&
              cJSON_AddBoolToObject(o, "needs_budget", offer->needs_budget);
    for (size_t i = 0; ok && offer->stage[i]; i++)
        ok = cJSON_AddItemToArray(stages, cJSON_CreateString(offer->stage[i]));
    return ok;
}

static bool add_offer(cJSON *all, const struct list *l, const struct vl_offer *offer)
{
    cJSON *o = cJSON_CreateObject();
    bool ok = o && cJSON_AddItemToArray(all, o) && cJSON_AddStringToObject(o, "name", offer->name) &&
              cJSON_AddStringToObject(o, "paper", offer->paper) &&
              (l->kind == VL_OFFER_POLICY || add_stages(o, offer));
    cJSON *options = ok ? cJSON_AddArrayToObject(o, "options") : NULL;
    ok = options != NULL;
    for (const struct vl_param_desc *d = offer->params; ok && d->key; d++)
        ok = add_option(options, d);
    return ok;
}

static int print_json(const struct list *l)
{
    cJSON *all = cJSON_CreateArray();
    struct vl_offer o;
    bool ok = all != NULL;
    for (size_t i = 0; ok && vl_offer_get(l->kind, i, &o) == 0; i++)
        ok = add_offer(all, l, &o);
    char *line = ok ? cJSON_PrintUnformatted(all) : NULL;
    cJSON_Delete(all);
    if (line)
        (void)puts(line);
    else
        (void)fprintf(stderr, "vlmd %s: out of memory\n", l->word);
    cJSON_free(line);
    return line ? VL_EXIT_OK : VL_EXIT_FAILED;
}

/* ---- the commands ---- */

/* 0: go on; else exit with *ret_code. */
static int parse(struct list *l, int argc, char **argv, int *ret_code)
{
    enum { SYSTEM = 256, JSON, HELP };
    static const struct option options[] = {{"system", no_argument, NULL, SYSTEM},
                                            {"json", no_argument, NULL, JSON},
                                            {"help", no_argument, NULL, HELP},
                                            {0}};
    int o;
    *ret_code = VL_EXIT_USAGE;
    while ((o = vl_subcommand_option(l->word, argc, argv, options)) >= 0)
        switch (o) {
        case SYSTEM: /* the same for both */
            break;
        case JSON:
            l->json = true;
            break;
        case HELP:
            (void)fputs(l->help, stdout);
            *ret_code = VL_EXIT_OK;
            return -ECANCELED;
        default:
            return -EINVAL;
        }
    return optind < argc ? vl_subcommand_usage(l->word, "unexpected argument '%s'", argv[optind]) : 0;
}

static int print_list(struct list *l, int argc, char **argv)
{
    struct vl_offer o;
    int code;
    if (parse(l, argc, argv, &code) < 0)
        return code;
    code = VL_EXIT_OK;
    if (l->json)
        code = print_json(l);
    for (size_t i = 0; !l->json && vl_offer_get(l->kind, i, &o) == 0; i++)
        print_offer(&o);
    return fflush(stdout) < 0 ? VL_EXIT_FAILED : code;
}

static int reducers(int argc, char **argv)
{
    return print_list(&(struct list){"reducers", reducers_help, VL_OFFER_REDUCER, false}, argc, argv);
}

static int policies(int argc, char **argv)
{
    return print_list(&(struct list){"policies", policies_help, VL_OFFER_POLICY, false}, argc, argv);
}

const struct vl_subcommand vl_subcommand_reducers = {
    .name = "reducers", .help = "lists what can leave out visual tokens, with its options", .run = reducers};
const struct vl_subcommand vl_subcommand_policies = {
    .name = "policies", .help = "lists what can decide what leaves the window", .run = policies};
