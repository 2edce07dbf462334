/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_SUBCOMMAND_H
#define VL_DAEMON_SUBCOMMAND_H
#include "daemon/config.h"

#include <getopt.h>

/* What the vlmd program does in place of being a daemon: `vlmd run ...` and its like. argv[0] is the word,
 * the rest its options; each has its own --help. Returns the exit code. */
struct vl_subcommand {
    const char *name, *help; /* help: one line */
    int (*run)(int argc, char **argv);
};
extern const struct vl_subcommand vl_subcommand_run, vl_subcommand_check, vl_subcommand_plan,
    vl_subcommand_reducers, vl_subcommand_policies;

/* Exit codes of all of them: people and scripts call them, not systemd. */
enum {
    VL_EXIT_OK = 0,
    VL_EXIT_FAILED = 1, /* the reason is on stderr */
    VL_EXIT_USAGE = 2,
    VL_EXIT_CONFIG = 78,      /* the configuration is wrong */
    VL_EXIT_INTERRUPTED = 130 /* by Ctrl-C; 143 by SIGTERM */
};

/* "vlmd WORD: ... (vlmd WORD --help)" on stderr. Returns -EINVAL. */
int vl_subcommand_usage(const char *word, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The next option, as getopt_long has it: its val, or -1 at their end. What is no option, or lacks its value,
 * is told as above, with the nearest there is: '?'. */
int vl_subcommand_option(const char *word, int argc, char **argv, const struct option *all);
/* A whole number up to max, of the option name; what is none is told as above. */
int vl_subcommand_number(const char *word, const char *name, const char *value, uint64_t max, uint64_t *ret);

/* The configuration and, borrowed from it, the model to use: that of from->text, which is a file or the name
 * of a configured model, else the default one. 0, or the exit code; the reason is on stderr. */
int vl_subcommand_config(const char *word, const struct vl_config_from *from, struct vl_config **ret,
                         const struct vl_model_config **ret_model);
#endif
