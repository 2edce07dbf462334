/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl reducers and policies: without a daemon, so `vlmd reducers` and `vlmd policies` do it. */
#include "cli/exec.h"

static int reducers(struct vl_ctl *c, int argc, char **argv)
{
    return vl_ctl_exec_vlmd(c, "reducers", argc, argv);
}

static int policies(struct vl_ctl *c, int argc, char **argv)
{
    return vl_ctl_exec_vlmd(c, "policies", argc, argv);
}

const struct vl_verb vl_verb_reducers = {
    .name = "reducers",
    .usage = "  vlmctl reducers\n",
    .help = "What can leave out or merge visual tokens, and its options: --reducer NAME:KEY=VALUE,...",
    .run = reducers,
};
const struct vl_verb vl_verb_policies = {
    .name = "policies",
    .usage = "  vlmctl policies\n",
    .help = "What can decide which tokens leave a full window, and its options: --policy NAME:KEY=VALUE,...",
    .run = policies,
};
