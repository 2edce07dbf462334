/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * vlmd. Puts its objects on the bus, takes the name, and only then loads the model: a caller who activated us
 * gets an answer at once. Exit codes: 0 told to end, or the bus went away; 1 could not start; 64 wrong usage;
 * 78 wrong configuration (EX_CONFIG), which systemd does not try again. Bad input never ends it.
 */
#include "base/log.h"
#include "daemon/bus_error.h"
#include "daemon/config.h"
#include "daemon/log_sink.h"
#include "daemon/manager.h"
#include "daemon/process.h"
#include "daemon/service.h"
#include "daemon/subcommand.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

enum { EXIT_USAGE = 64, EXIT_CONFIG = 78 };

static const struct vl_subcommand *const commands[] = {&vl_subcommand_run,      &vl_subcommand_check,
                                                       &vl_subcommand_plan,     &vl_subcommand_reducers,
                                                       &vl_subcommand_policies, NULL};

struct args {
    struct vl_config_from from;
    const char *bus_address;
    bool check_config;
};

static const char help[] =
    "vlmd [OPTIONS]\n"
    "Watches video streams with a vision-language model and talks about them on D-Bus (org.vlmd.Vision1).\n\n"
    "  --system             on the system bus, configured in /etc/vlmd; else the user's bus and "
    "~/.config/vlmd\n"
    "  --bus-address=ADDR   on this bus\n"
    "  --config=DIR|FILE    configuration: vlmd.conf, vlmd.conf.d, models.d, streams.d\n"
    "  --model=F            language part of the model, in place of the configured one\n"
    "  --mmproj=F           its vision part\n"
    "  --no-preload         load a model only when somebody wants it\n"
    "  --ingest=PROGRAM     the vlmd-ingest to run\n"
    "  --check-config       read the configuration strictly, say what is wrong with it, and end\n"
    "  --debug              log more\n"
    "  --version, --help\n"
    "\nWithout a daemon (vlmd COMMAND --help says more):\n\n";

static void print_help(void)
{
    (void)fputs(help, stdout);
    for (const struct vl_subcommand *const *c = commands; *c; c++)
        (void)printf("  vlmd %-15s %s\n", (*c)->name, (*c)->help);
}

/* 0: go on; else exit with *ret_code. */
static int parse_args(int argc, char **argv, struct args *ret, int *ret_code)
{
    enum {
        SYSTEM = 256,
        BUS_ADDRESS,
        CONFIG,
        MODEL,
        MMPROJ,
        NO_PRELOAD,
        INGEST,
        CHECK_CONFIG,
        DEBUG,
        VERSION,
        HELP
    };
    static const struct option options[] = {
        {"system", no_argument, NULL, SYSTEM},       {"bus-address", required_argument, NULL, BUS_ADDRESS},
        {"config", required_argument, NULL, CONFIG}, {"model", required_argument, NULL, MODEL},
        {"mmproj", required_argument, NULL, MMPROJ}, {"no-preload", no_argument, NULL, NO_PRELOAD},
        {"ingest", required_argument, NULL, INGEST}, {"check-config", no_argument, NULL, CHECK_CONFIG},
        {"debug", no_argument, NULL, DEBUG},         {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},           {0},
    };
    int c;
    *ret_code = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0)
        switch (c) {
        case SYSTEM:
            ret->from.system = true;
            break;
        case BUS_ADDRESS:
            ret->bus_address = optarg;
            break;
        case CONFIG:
            ret->from.config = optarg;
            break;
        case MODEL:
            ret->from.text = optarg;
            break;
        case MMPROJ:
            ret->from.projector = optarg;
            break;
        case NO_PRELOAD:
            ret->from.no_preload = true;
            break;
        case INGEST:
            ret->from.ingest_program = optarg;
            break;
        case CHECK_CONFIG:
            ret->check_config = ret->from.strict = true;
            break;
        case DEBUG:
            vl_log_set_level(VL_LOG_DEBUG);
            break;
        case VERSION:
            (void)puts("vlmd " VLMD_VERSION);
            return 1;
        case HELP:
            print_help();
            return 1;
        default:
            *ret_code = EXIT_USAGE;
            return 1;
        }
    if (optind < argc) {
        (void)fprintf(stderr, "vlmd: unexpected argument '%s'; see vlmd --help\n", argv[optind]);
        *ret_code = EXIT_USAGE;
        return 1;
    }
    return 0;
}

/* A shortage passes, a wrong configuration does not. */
static int exit_code(int r)
{
    return r == -ENOMEM || r == -EMFILE || r == -ENFILE ? 1 : EXIT_CONFIG;
}

static int open_bus(sd_bus **ret, const struct args *a)
{
    if (!a->bus_address)
        return a->from.system ? sd_bus_open_system(ret) : sd_bus_open_user(ret);
    sd_bus *bus = NULL;
    int r = sd_bus_new(&bus);
    if (r >= 0)
        r = sd_bus_set_address(bus, a->bus_address);
    if (r >= 0)
        r = sd_bus_set_bus_client(bus, 1);
    if (r >= 0)
        r = sd_bus_negotiate_fds(bus, 1);
    if (r >= 0)
        r = sd_bus_start(bus);
    if (r < 0) {
        (void)sd_bus_unref(bus);
        return r;
    }
    *ret = bus;
    return 0;
}

static int on_disconnected(sd_bus_message *m, void *user, sd_bus_error *e)
{
    (void)m, (void)e;
    vl_log(VL_LOG_NOTICE, "service", "the bus went away");
    vl_service_stop(user);
    return 0;
}

static int run_loop(sd_event *event, sd_bus *bus, struct vl_manager *m)
{
    vl_auto(vl_service) service = NULL;
    struct vl_error err = {0};
    int r = vl_service_new(&service, m);
    if (r >= 0)
        r = sd_bus_match_signal(bus, NULL, "org.freedesktop.DBus.Local", NULL, "org.freedesktop.DBus.Local",
                                "Disconnected", on_disconnected, service);
    if (r < 0) {
        vl_log(VL_LOG_ERR, "service", "cannot start: %s", strerror(-r));
        return 1;
    }
    r = sd_bus_request_name(bus, VL_BUS_NAME, 0);
    if (r < 0) {
        vl_log(VL_LOG_ERR, "service",
               r == -EEXIST ? "another vlmd is on this bus" : "cannot take the bus name: %s", strerror(-r));
        return 1;
    }
    r = vl_manager_start(m, &err);
    if (r < 0) {
        vl_log(VL_LOG_ERR, "config", "%s", err.msg[0] ? err.msg : strerror(-r));
        return exit_code(r);
    }
    r = sd_event_loop(event) < 0 ? 1 : 0;
    vl_process_limit_end(r);
    vl_manager_cancel_all(m); /* what did not finish in time hears of it */
    (void)sd_bus_flush(bus);  /* a bus that is gone has nothing to flush */
    return r;
}

static int run(const struct args *a, const struct vl_config *config)
{
    vl_auto(vl_manager) m = NULL;
    sd_event *event = NULL;
    sd_bus *bus = NULL;
    struct vl_error err = {0};
    int code = 1, r = sd_event_default(&event);
    if (r >= 0)
        r = open_bus(&bus, a);
    if (r >= 0)
        r = sd_bus_attach_event(bus, event, SD_EVENT_PRIORITY_NORMAL);
    if (r < 0)
        vl_log(VL_LOG_ERR, "service", "cannot connect to the bus: %s", strerror(-r));
    else if ((r = vl_manager_new(&m, event, bus, config, &err)) < 0)
        vl_log(VL_LOG_ERR, "service", "%s", err.msg);
    else
        code = run_loop(event, bus, m);
    if (r == -ENOMEM)
        bus = NULL; /* libsystemd 252 aborts when it frees a bus to which it had no memory to add an object */
    m = vl_manager_unref(m);
    (void)sd_bus_flush_close_unref(bus);
    (void)sd_event_unref(event);
    return code;
}

int main(int argc, char **argv)
{
    vl_auto(vl_config) config = NULL;
    struct args a = {0};
    struct vl_error err = {0};
    int code;
    for (const struct vl_subcommand *const *c = commands; argc > 1 && *c; c++)
        if (!strcmp((*c)->name, argv[1]))
            return (*c)->run(argc - 1, argv + 1);
    if (parse_args(argc, argv, &a, &code))
        return code;
    vl_log_sink_set(VL_LOG_TARGET_AUTO);
    if (vl_process_begin() < 0 || vl_bus_error_register() < 0)
        return 1;
    int r = vl_config_load(&config, &a.from, &err);
    if (r < 0) {
        vl_log(VL_LOG_ERR, "config", "%s", err.msg[0] ? err.msg : strerror(-r));
        return exit_code(r);
    }
    return a.check_config ? 0 : run(&a, config);
}
