/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_CLI_EXEC_H
#define VL_CLI_EXEC_H
#include "cli/vlmctl.h"

/* Becomes `vlmd WORD ...`, for what needs no daemon: argv[1 ...] go through unread, --json and --system as
 * vlmctl took them. Looked for in this order: VLMD in the environment, beside ourselves, PATH. Returns only
 * when it cannot. */
int vl_ctl_exec_vlmd(const struct vl_ctl *c, const char *word, int argc, char **argv);
#endif
