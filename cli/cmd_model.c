/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl model: which models there are, and which of them is in memory. A sub-verb is a function and a row of
 * the table at the end. */
#include "cli/exec.h"
#include "cli/value.h"
#include "cli/vlmctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALL_USEC UINT64_C(600000000) /* disks are slow, and so are people who are asked for a password */
#define POLL_USEC 200000

static const struct vl_opt no_options[] = {{NULL, VL_OPT_FLAG, NULL}};

static int model_path(const struct vl_ctl *c, const char *name, char **ret)
{
    int r = sd_bus_path_encode(VL_BUS_ROOT "/model", name, ret);
    return r < 0 ? vl_ctl_failed(c, name, NULL, r) : 0;
}

/* One name, connected, and the path of its object; 0 or an exit code. */
static int open_model(struct vl_ctl *c, int argc, char **argv, const struct vl_opt *opt, char **ret)
{
    int n, code = vl_ctl_options(&vl_verb_model, argc, argv, opt, &n);
    if (code)
        return code;
    if (n != 1)
        return vl_ctl_usage(&vl_verb_model, "%s needs one name", argv[0]);
    code = vl_ctl_connect(c);
    return code ? code : model_path(c, argv[1], ret);
}

static int no_such_model(const char *name)
{
    (void)fprintf(stderr, "vlmctl: there is no model '%s'; vlmctl model list shows what there is\n", name);
    return VL_EXIT_FAILED;
}

static int model_failed(const struct vl_ctl *c, const char *name, const sd_bus_error *e, int r)
{
    bool unknown = sd_bus_error_has_name(e, SD_BUS_ERROR_UNKNOWN_OBJECT) ||
                   sd_bus_error_has_name(e, SD_BUS_ERROR_UNKNOWN_METHOD);
    return unknown ? no_such_model(name) : vl_ctl_failed(c, name, e, r);
}

/* ---- list, show ---- */

static int cmd_list(struct vl_ctl *c, int argc, char **argv)
{
    cJSON *models = NULL, *manager = NULL;
    const cJSON *m;
    int n, code = vl_ctl_options(&vl_verb_model, argc, argv, no_options, &n);
    if (code)
        return code;
    if (n)
        return vl_ctl_usage(&vl_verb_model, "list takes no name");
    if ((code = vl_ctl_connect(c)) || (code = vl_value_models(c, &models)) ||
        (code = vl_value_properties(c, VL_BUS_ROOT, VL_IFACE("Manager"), &manager)))
        goto out;
    if (c->json) {
        code = vl_value_print(models);
        goto out;
    }
    cJSON_ArrayForEach(m, models) vl_value_print_model(m, manager);
    if (!cJSON_GetArraySize(models))
        (void)puts("No models; put a GGUF file and its mmproj into a model folder and restart vlmd");
out:
    cJSON_Delete(models);
    cJSON_Delete(manager);
    return code;
}

static int cmd_show(struct vl_ctl *c, int argc, char **argv)
{
    cJSON *models = NULL;
    const cJSON *m, *found = NULL, *member;
    int n, code = vl_ctl_options(&vl_verb_model, argc, argv, no_options, &n);
    if (code)
        return code;
    if (n != 1)
        return vl_ctl_usage(&vl_verb_model, "show needs one name");
    if ((code = vl_ctl_connect(c)) || (code = vl_value_models(c, &models)))
        return code;
    cJSON_ArrayForEach(m, models) if (!strcmp(vl_value_str(m, "Name", ""), argv[1])) found = m;
    if (!found)
        code = no_such_model(argv[1]);
    else if (c->json)
        code = vl_value_print(found);
    else
        cJSON_ArrayForEach(member, found) vl_value_show(member, "");
    cJSON_Delete(models);
    return code;
}

/* ---- load, unload, default ---- */

/* Until it is loaded. Whoever interrupts this leaves it loading. */
static int follow_load(struct vl_ctl *c, const char *name, const char *path)
{
    bool tty = isatty(STDERR_FILENO);
    for (;;) {
        cJSON *m = NULL;
        int code = vl_value_properties(c, path, VL_IFACE("Model"), &m);
        if (code)
            return code;
        const char *state = vl_value_str(m, "State", "");
        bool loading = !strcmp(state, "loading"), ready = !strcmp(state, "ready");
        if (tty)
            (void)fprintf(stderr, "\rloading %s %3.0f %%%s", name,
                          100 * (ready ? 1 : vl_value_num(m, "LoadProgress", 0)), loading ? "" : "\n");
        if (!loading && !ready)
            (void)fprintf(stderr, "vlmctl: %s: %s\n", name, vl_value_str(m, "Error", state));
        if (ready && c->json)
            (void)vl_value_print(m);
        cJSON_Delete(m);
        if (!loading)
            return ready ? VL_EXIT_OK : VL_EXIT_FAILED;
        (void)usleep(POLL_USEC);
    }
}

static int call_with_force(struct vl_ctl *c, const char *path, const char *method, bool force,
                           sd_bus_error *e)
{
    sd_bus_message *m = NULL;
    int r = sd_bus_message_new_method_call(c->bus, &m, VL_BUS_NAME, path, VL_IFACE("Model"), method);
    if (r >= 0)
        r = force ? sd_bus_message_append(m, "a{sv}", 1, "Force", "b", 1)
                  : sd_bus_message_append(m, "a{sv}", 0);
    if (r >= 0)
        r = sd_bus_call(c->bus, m, CALL_USEC, e, NULL);
    (void)sd_bus_message_unref(m);
    return r;
}

static int cmd_load(struct vl_ctl *c, int argc, char **argv)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    char *path = NULL;
    int code = open_model(c, argc, argv, no_options, &path);
    if (code == 0) {
        int r = call_with_force(c, path, "Load", false, &e);
        code = r < 0 ? model_failed(c, argv[1], &e, r) : follow_load(c, argv[1], path);
    }
    sd_bus_error_free(&e);
    free(path);
    return code;
}

static int cmd_unload(struct vl_ctl *c, int argc, char **argv)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    char *path = NULL;
    bool force = false;
    const struct vl_opt opt[] = {{"--force", VL_OPT_FLAG, &force}, {NULL, VL_OPT_FLAG, NULL}};
    int code = open_model(c, argc, argv, opt, &path);
    if (code == 0) {
        int r = call_with_force(c, path, "Unload", force, &e);
        code = r < 0 ? model_failed(c, argv[1], &e, r) : 0;
    }
    sd_bus_error_free(&e);
    free(path);
    return code;
}

static int cmd_default(struct vl_ctl *c, int argc, char **argv)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    char *path = NULL;
    int code = open_model(c, argc, argv, no_options, &path);
    if (code == 0) {
        int r = sd_bus_call_method(c->bus, VL_BUS_NAME, VL_BUS_ROOT, VL_IFACE("Manager"), "SetDefaultModel",
                                   &e, NULL, "o", path);
        code = r < 0 ? vl_ctl_failed(c, argv[1], &e, r) : 0;
    }
    sd_bus_error_free(&e);
    free(path);
    return code;
}

/* Needs no daemon: a program of its own reads the files, with our rights. */
static int cmd_check(struct vl_ctl *c, int argc, char **argv)
{
    return vl_ctl_exec_vlmd(c, "check", argc, argv);
}

/* ---- the verb ---- */

static const struct sub {
    const char *name;
    int (*run)(struct vl_ctl *c, int argc, char **argv);
} subs[] = {
    {"list", cmd_list},     {"show", cmd_show},       {"load", cmd_load},
    {"unload", cmd_unload}, {"default", cmd_default}, {"check", cmd_check},
};

static int run(struct vl_ctl *c, int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof(subs) / sizeof(*subs); i++)
        if (!strcmp(argv[1], subs[i].name))
            return subs[i].run(c, argc - 1, argv + 1);
    return argc > 1 ? vl_ctl_usage(&vl_verb_model, "there is no '%s'", argv[1])
                    : vl_ctl_usage(&vl_verb_model, "say what to do");
}

const struct vl_verb vl_verb_model = {
    .name = "model",
    .usage = "  vlmctl model list\n"
             "  vlmctl model show NAME\n"
             "  vlmctl model load NAME\n"
             "  vlmctl model unload NAME [--force]\n"
             "  vlmctl model default NAME\n"
             "  vlmctl model check F.gguf [MMPROJ.gguf]\n",
    .help =
        "Models: which there are, and which is in memory. An interrupted load goes on in the daemon; "
        "unload --force\n    also ends the streams and questions that use it; default is for questions and "
        "streams that name none.",
    .run = run,
};
