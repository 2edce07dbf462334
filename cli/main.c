/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * vlmctl: a D-Bus client of vlmd that uses the published interface and nothing else. Each verb is a file,
 * cmd_<verb>.c; this one reads the options before the verb, connects, and turns errors into sentences.
 */
#include "base/params.h"
#include "cli/vlmctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const struct vl_verb *const vl_verbs[] = {
    &vl_verb_status,   &vl_verb_stream,   &vl_verb_watch,      &vl_verb_captions,
    &vl_verb_ask,      &vl_verb_model,    &vl_verb_run,        &vl_verb_plan,
    &vl_verb_reducers, &vl_verb_policies, &vl_verb_completion, NULL,
};
enum { N_VERBS = sizeof(vl_verbs) / sizeof(vl_verbs[0]) - 1 };

static void help(FILE *f)
{
    (void)fputs("vlmctl talks to vlmd, the vision-language daemon.\n\n"
                "  vlmctl [--user | --system | --bus ADDRESS] [--json] VERB ...\n\n",
                f);
    for (size_t i = 0; i < N_VERBS; i++)
        (void)fprintf(f, "%s    %s\n\n", vl_verbs[i]->usage, vl_verbs[i]->help);
    (void)fputs("Times are spans (10s, 5min: that long ago), HH:MM[:SS], \"YYYY-MM-DD HH:MM\" or @SECONDS.\n"
                "Exit status: 0 done, 1 failed, 2 wrong usage, 3 nothing was seen in the time asked about.\n",
                f);
}

int vl_ctl_usage(const struct vl_verb *v, const char *fmt, ...)
{
    va_list ap;
    (void)fprintf(stderr, "vlmctl %s: ", v->name);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "\nUsage:\n%s", v->usage);
    return VL_EXIT_USAGE;
}

/* The bus's own refusal names its rules, which helps nobody. */
static bool refused_by_the_bus(const char *name, const char *msg)
{
    return !strcmp(name, SD_BUS_ERROR_ACCESS_DENIED) &&
           (!strncmp(msg, "Rejected send", 13) || !strncmp(msg, "Sender is not authorized", 24));
}

static const char *hint(const struct vl_ctl *c, const char *name, const char *msg)
{
    if (!name)
        return NULL;
    if (refused_by_the_bus(name, msg))
        return "only root and members of the group vlmd may do that; as root: adduser NAME vlmd, which "
               "holds from the next login";
    if (!strcmp(name, SD_BUS_ERROR_SERVICE_UNKNOWN) || !strcmp(name, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
        return c->which == VL_BUS_SYSTEM
                   ? "vlmd is not running on the system bus; as root: systemctl enable --now vlmd"
                   : "vlmd is not running on this bus; start it (systemctl --user start vlmd, or vlmd), "
                     "name another bus, or use vlmctl run, which needs none";
    if (!strcmp(name, SD_BUS_ERROR_NO_REPLY))
        return "vlmd did not reply in time";
    return NULL;
}

const char *vl_ctl_short_error(const char *name)
{
    static const char prefix[] = "org.vlmd.Vision1.Error.";
    return strncmp(name, prefix, sizeof(prefix) - 1) ? name : name + sizeof(prefix) - 1;
}

int vl_ctl_failed(const struct vl_ctl *c, const char *what, const sd_bus_error *e, int r)
{
    const char *name = e ? e->name : NULL, *msg = e && e->message ? e->message : strerror(-r);
    const char *h = hint(c, name, msg);
    if (name)
        name = vl_ctl_short_error(name);
    if (h)
        (void)fprintf(stderr, "vlmctl: %s: %s\n", what, h);
    else if (name)
        (void)fprintf(stderr, "vlmctl: %s: %s (%s)\n", what, msg, name);
    else
        (void)fprintf(stderr, "vlmctl: %s: %s\n", what, msg);
    return name && !strcmp(name, "NothingSeen") ? VL_EXIT_NOTHING_SEEN : VL_EXIT_FAILED;
}

static int open_address(sd_bus **ret, const char *address)
{
    sd_bus *b = NULL;
    int r = sd_bus_new(&b);
    if (r < 0)
        return r;
    if ((r = sd_bus_set_address(b, address)) < 0 || (r = sd_bus_set_bus_client(b, 1)) < 0 ||
        (r = sd_bus_start(b)) < 0) {
        (void)sd_bus_unref(b);
        return r;
    }
    *ret = b;
    return 0;
}

int vl_ctl_connect(struct vl_ctl *c)
{
    int r;
    if (c->address)
        r = open_address(&c->bus, c->address);
    else if (c->which == VL_BUS_SYSTEM)
        r = sd_bus_open_system(&c->bus);
    else
        r = sd_bus_open_user(&c->bus);
    if (r < 0) {
        (void)fprintf(stderr, "vlmctl: cannot connect to the %s bus: %s; vlmctl run needs none\n",
                      c->address                  ? c->address
                      : c->which == VL_BUS_SYSTEM ? "system"
                                                  : "session",
                      strerror(-r));
        return VL_EXIT_FAILED;
    }
    /* There may be a person, to type a password, which vlmd waits 2 min for. */
    (void)sd_bus_set_allow_interactive_authorization(c->bus, 1);
    (void)sd_bus_set_method_call_timeout(c->bus, UINT64_C(150000000));
    return 0;
}

int vl_ctl_stream_path(struct vl_ctl *c, const char *name, char **ret)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *m = NULL;
    const char *path;
    int code = 0;
    int r = sd_bus_call_method(c->bus, VL_BUS_NAME, VL_BUS_ROOT, VL_IFACE("Manager"), "GetStream", &e, &m,
                               "s", name);
    if (r >= 0)
        r = sd_bus_message_read(m, "o", &path);
    if (r < 0)
        code = vl_ctl_failed(c, name, &e, r);
    else if (!(*ret = strdup(path)))
        code = vl_ctl_failed(c, name, NULL, -ENOMEM);
    sd_bus_error_free(&e);
    (void)sd_bus_message_unref(m);
    return code;
}

static int read_value(const struct vl_verb *v, const struct vl_opt *o, const char *value)
{
    char *end;
    struct vl_opt_list *list;
    switch (o->kind) {
    case VL_OPT_TEXT:
        *(const char **)o->ret = value;
        return 0;
    case VL_OPT_SPAN:
        if (vl_parse_span(value, o->ret) < 0)
            return vl_ctl_usage(v, "%s %s: not a span of time; write 500ms, 10s, 2min or 1h", o->name, value);
        return 0;
    case VL_OPT_TIME:
        if (vl_parse_time(value, (uint64_t)time(NULL) * 1000000, o->ret) < 0)
            return vl_ctl_usage(v, "%s %s: not a time; write 10s (ago), 14:05 or @SECONDS", o->name, value);
        return 0;
    case VL_OPT_NUMBER:
        errno = 0;
        *(uint64_t *)o->ret = strtoull(value, &end, 10);
        if (errno || end == value || *end || *value == '-')
            return vl_ctl_usage(v, "%s %s: not a whole number", o->name, value);
        return 0;
    case VL_OPT_LIST:
        list = o->ret;
        if (list->n == VL_OPT_LIST_MAX)
            return vl_ctl_usage(v, "%s: at most %d of them", o->name, VL_OPT_LIST_MAX);
        list->item[list->n++] = value;
        return 0;
    case VL_OPT_FLAG:
        break;
    }
    return VL_EXIT_USAGE;
}

static const struct vl_opt *find_option(const struct vl_opt *opt, const char *arg, size_t n)
{
    for (; opt->name; opt++)
        if (strlen(opt->name) == n && !strncmp(opt->name, arg, n))
            return opt;
    return NULL;
}

static int unknown_option(const struct vl_verb *v, const struct vl_opt *opt, const char *arg)
{
    const char *known[32];
    size_t n = 0;
    for (; opt->name && n < 32; opt++)
        known[n++] = opt->name;
    const char *near = vl_nearest(arg, known, n);
    if (near)
        return vl_ctl_usage(v, "unknown option %s; did you mean %s?", arg, near);
    return vl_ctl_usage(v, "unknown option %s", arg);
}

int vl_ctl_options(const struct vl_verb *v, int argc, char **argv, const struct vl_opt *opt, int *ret_n)
{
    int n = 1, r;
    bool options = true;
    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        if (options && !strcmp(arg, "--")) {
            options = false;
        } else if (!options || strncmp(arg, "--", 2) != 0) {
            argv[n++] = arg;
        } else {
            char *eq = strchr(arg, '=');
            const struct vl_opt *o = find_option(opt, arg, eq ? (size_t)(eq - arg) : strlen(arg));
            if (!o)
                return unknown_option(v, opt, arg);
            if (o->kind == VL_OPT_FLAG) {
                *(bool *)o->ret = true;
                continue;
            }
            if (!eq && i + 1 >= argc)
                return vl_ctl_usage(v, "%s needs a value", o->name);
            if ((r = read_value(v, o, eq ? eq + 1 : argv[++i])))
                return r;
        }
    }
    *ret_n = n - 1;
    return 0;
}

static int run_verb(struct vl_ctl *c, int argc, char **argv)
{
    const char *known[N_VERBS];
    for (size_t i = 0; i < N_VERBS; i++) {
        known[i] = vl_verbs[i]->name;
        if (!strcmp(argv[0], known[i]))
            return vl_verbs[i]->run(c, argc, argv);
    }
    const char *near = vl_nearest(argv[0], known, N_VERBS);
    (void)fprintf(stderr, "vlmctl: unknown verb '%s'", argv[0]);
    if (near)
        (void)fprintf(stderr, "; did you mean '%s'?", near);
    (void)fputs("\nvlmctl --help lists them.\n", stderr);
    return VL_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct vl_ctl c = {.color = isatty(STDOUT_FILENO) != 0};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (!strcmp(argv[i], "--json"))
            c.json = true;
        else if (!strcmp(argv[i], "--user"))
            c.which = VL_BUS_USER;
        else if (!strcmp(argv[i], "--system"))
            c.which = VL_BUS_SYSTEM;
        else if (!strcmp(argv[i], "--bus") && i + 1 < argc)
            c.address = argv[++i];
        else if (!strcmp(argv[i], "--version"))
            return printf("vlmctl %s\n", VLMD_VERSION) < 0;
        else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return help(stdout), VL_EXIT_OK;
        else
            return fprintf(stderr, "vlmctl: unknown option %s; vlmctl --help lists them\n", argv[i]),
                   VL_EXIT_USAGE;
    }
    if (i == argc)
        return help(stderr), VL_EXIT_USAGE;
    /* --json may also stand behind the verb, where people put it. */
    int n = i;
    for (int j = i; j < argc; j++) {
        if (!strcmp(argv[j], "--json"))
            c.json = true;
        else
            argv[n++] = argv[j];
    }
    argv[n] = NULL;
    int r = run_verb(&c, n - i, argv + i);
    if ((fflush(stdout) != 0 || ferror(stdout)) && r == VL_EXIT_OK) {
        (void)fprintf(stderr, "vlmctl: the output could not be written: %s\n", strerror(errno));
        r = VL_EXIT_FAILED;
    }
    (void)sd_bus_flush_close_unref(c.bus);
    return r;
}
