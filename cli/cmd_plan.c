/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl plan: without a daemon, so `vlmd plan` does it. */
#include "cli/exec.h"

static int plan(struct vl_ctl *c, int argc, char **argv)
{
    return vl_ctl_exec_vlmd(c, "plan", argc, argv);
}

const struct vl_verb vl_verb_plan = {
    .name = "plan",
    .usage = "  vlmctl plan [--model F [--mmproj F]] [--streams N] [--questions N]\n",
    .help = "What memory and time a model would take on this machine, before it is loaded.",
    .run = plan,
};
