/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What the verbs of vlmctl share: the connection, the options that stand before the verb, and printing. One
 * thread, process lifetime. Everything returns 0 or an exit code of enum vl_exit; what went wrong is already
 * on stderr.
 */
#ifndef VL_CLI_VLMCTL_H
#define VL_CLI_VLMCTL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

enum vl_exit { VL_EXIT_OK = 0, VL_EXIT_FAILED = 1, VL_EXIT_USAGE = 2, VL_EXIT_NOTHING_SEEN = 3 };

#define VL_BUS_NAME    "org.vlmd.Vision1"
#define VL_BUS_ROOT    "/org/vlmd/Vision1"
#define VL_IFACE(name) "org.vlmd.Vision1." name
#define VL_BUS_PROPS   "org.freedesktop.DBus.Properties"

struct vl_ctl {
    sd_bus *bus; /* opened by vl_ctl_connect */
    const char *address;
    enum { VL_BUS_USER, VL_BUS_SYSTEM } which;
    bool json, color;
};

/* One verb: `vlmctl VERB ...`; argv[0] is the verb. usage is one line a form, help one sentence. */
struct vl_verb {
    const char *name, *usage, *help;
    int (*run)(struct vl_ctl *c, int argc, char **argv);
};
extern const struct vl_verb vl_verb_status, vl_verb_stream, vl_verb_watch, vl_verb_captions, vl_verb_ask,
    vl_verb_model, vl_verb_run, vl_verb_plan, vl_verb_reducers, vl_verb_policies, vl_verb_completion;
extern const struct vl_verb *const vl_verbs[]; /* all, in the order of --help; ends with NULL */

int vl_ctl_connect(struct vl_ctl *c);
/* Prints "vlmctl: WHAT: message (Name)" from a bus error, or strerror(-r), with a hint where one helps. */
int vl_ctl_failed(const struct vl_ctl *c, const char *what, const sd_bus_error *e, int r);
/* A name without "org.vlmd.Vision1.Error." */
const char *vl_ctl_short_error(const char *name);
int vl_ctl_usage(const struct vl_verb *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The object path of a stream, by GetStream, so that a wrong name is the daemon's error with its hint. */
int vl_ctl_stream_path(struct vl_ctl *c, const char *name, char **ret);

/* An option that may be given several times. */
enum { VL_OPT_LIST_MAX = 8 };
struct vl_opt_list {
    const char *item[VL_OPT_LIST_MAX];
    unsigned n;
};
/* One option of a verb's table; ends with name NULL. */
struct vl_opt {
    const char *name; /* "--every" */
    enum vl_opt_kind { VL_OPT_FLAG, VL_OPT_TEXT, VL_OPT_SPAN, VL_OPT_TIME, VL_OPT_NUMBER, VL_OPT_LIST } kind;
    void *ret; /* bool *, const char **, uint64_t * (microseconds), uint64_t * (epoch, microseconds), uint64_t
                * *, struct vl_opt_list * */
};
/* Reads options wherever they stand, moves what is left to the front of argv (after argv[0]) and returns
 * their number in *ret_n. "--" ends the options. */
int vl_ctl_options(const struct vl_verb *v, int argc, char **argv, const struct vl_opt *opt, int *ret_n);

/* "90s", "2min 30s", "1h", "500ms": microseconds. -EINVAL. */
int vl_parse_span(const char *s, uint64_t *ret_usec);
/* A span means that long ago; "@1700000000", "14:05", "14:05:30", "2026-01-31 14:05": microseconds since the
 * epoch. */
int vl_parse_time(const char *s, uint64_t now_usec, uint64_t *ret_usec);

void vl_print_clock(uint64_t epoch_usec); /* HH:MM:SS in local time */
#endif
