/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Scripted worlds, played to a model for as long as it takes: what it saw, what it said, what it kept. Prints
 * a table of what was measured beside what is promised; the exit status is 1 when something did not hold.
 *
 *     build/tests/endurance/endurance --model M.gguf --mmproj P.gguf --ingest build/pipelines/vlmd-ingest
 * [TEST...]
 */
#include "tests/endurance/floors.h"
#include "tests/endurance/tests.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const struct endurance_test *const all[] = {endurance_sight, endurance_time, endurance_long};
enum { N_GROUPS = sizeof(all) / sizeof(*all) };

static const struct endurance_test *find(const char *name)
{
    for (size_t g = 0; g < N_GROUPS; g++)
        for (const struct endurance_test *t = all[g]; t->name; t++)
            if (!strcmp(t->name, name))
                return t;
    return NULL;
}

static int usage(void)
{
    (void)fprintf(stderr,
                  "usage: endurance --model FILE --mmproj FILE --ingest PROGRAM [--minutes N] [TEST...]\n");
    for (size_t g = 0; g < N_GROUPS; g++)
        for (const struct endurance_test *t = all[g]; t->name; t++)
            (void)fprintf(stderr, "  %-14s %s\n", t->name, t->what);
    return 2;
}

static void run(struct play *p, const struct endurance_test *t)
{
    (void)printf("%s: %s\n", t->name, t->what);
    t->run(p);
    play_close(p);
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"model", required_argument, NULL, 'm'},
                                          {"mmproj", required_argument, NULL, 'p'},
                                          {"ingest", required_argument, NULL, 'i'},
                                          {"minutes", required_argument, NULL, 'n'},
                                          {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) >= 0;)
        switch (c) {
        case 'm':
            play_setup.model = optarg;
            break;
        case 'p':
            play_setup.mmproj = optarg;
            break;
        case 'i':
            play_setup.ingest = optarg;
            break;
        case 'n':
            play_setup.minutes = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        default:
            return usage();
        }
    if (!play_setup.model || !play_setup.mmproj || !play_setup.ingest || play_setup.minutes < 4)
        return usage();
    for (int i = optind; i < argc; i++)
        if (!find(argv[i]))
            return usage();
    static struct play play;
    play_start(&play);
    for (int i = optind; i < argc; i++)
        run(&play, find(argv[i]));
    for (size_t g = 0; optind == argc && g < N_GROUPS; g++)
        for (const struct endurance_test *t = all[g]; t->name; t++)
            run(&play, t);
    play_stop(&play);
    return floors_held() ? 0 : 1;
}
