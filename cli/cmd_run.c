/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl run: without a daemon, so `vlmd run` does it. */
#include "cli/exec.h"

static int run(struct vl_ctl *c, int argc, char **argv)
{
    return vl_ctl_exec_vlmd(c, "run", argc, argv);
}

const struct vl_verb vl_verb_run = {
    .name = "run",
    .usage =
        "  vlmctl run [FILE... | test:URI | -] [[--at SPAN] --ask \"QUESTION\"]... [--model F --mmproj F]\n"
        "             [--captions lines|text|vtt|srt|jsonl|none] [--every SPAN] [--window SPAN] "
        "[--realtime]\n"
        "             [--instruction TEXT] [--tokens-per-frame N] [--reducer R[:KEY=VALUE,...]]\n"
        "             [--policy P[:KEY=VALUE,...]] [--max-tokens N] [--memory SIZE] [...]\n",
    .help =
        "Looks at a video, at pictures or at nothing and answers, without a daemon; vlmctl run --help says "
        "more.",
    .run = run,
};
