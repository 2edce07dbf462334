/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* vlmctl status: one screen. The daemon, the models that are not just lying there, then each stream: state,
 * frames, tokens, memory, latency, last caption. */
#include "cli/value.h"
#include "cli/vlmctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double mib(double bytes)
{
    return bytes / (1024.0 * 1024.0);
}

static void print_daemon(const cJSON *m)
{
    (void)printf("vlmd %s: %s\n", vl_value_str(m, "Version", "?"), vl_value_str(m, "State", "?"));
    (void)printf("  %s\n", vl_value_str(m, "StatusText", ""));
    const char *backend = vl_value_str(m, "Backend", "");
    (void)printf("  backend  %s\n", *backend ? backend : "none yet: no model is loaded");
    double budget = vl_value_num(m, "MemoryBudgetBytes", 0);
    (void)printf("  memory   %.1f MiB", mib(vl_value_num(m, "MemoryUsedBytes", 0)));
    if (budget > 0)
        (void)printf(" of %.1f MiB", mib(budget));
    (void)printf(", %.0f questions waiting\n", vl_value_num(m, "QueueDepth", 0));
}

static void print_models(const cJSON *models, const cJSON *manager)
{
    const cJSON *m;
    int n = 0;
    cJSON_ArrayForEach(m, models)
    {
        if (!strcmp(vl_value_str(m, "State", ""), "unloaded"))
            n++;
        else
            vl_value_print_model(m, manager);
    }
    if (n)
        (void)printf("  %d more model%s (vlmctl model list)\n", n, n == 1 ? "" : "s");
}

static void print_last_caption(struct vl_ctl *c, const char *name)
{
    char *path = NULL;
    sd_bus_message *reply = NULL;
    cJSON *list = NULL;
    if (vl_ctl_stream_path(c, name, &path))
        return;
    int r = sd_bus_call_method(c->bus, VL_BUS_NAME, path, VL_IFACE("Captions"), "GetRecent", NULL, &reply,
                               "t", (uint64_t)0);
    if (r >= 0 && vl_value_read(reply, &list) >= 0 && cJSON_GetArraySize(list)) {
        const cJSON *last = cJSON_GetArrayItem(list, cJSON_GetArraySize(list) - 1);
        (void)fputs("    said   ", stdout);
        vl_print_clock((uint64_t)cJSON_GetNumberValue(cJSON_GetArrayItem(last, 1)));
        (void)printf("  %s\n", cJSON_GetStringValue(cJSON_GetArrayItem(last, 3)));
    }
    cJSON_Delete(list);
    free(path);
    (void)sd_bus_message_unref(reply);
}

static void print_stream(struct vl_ctl *c, const cJSON *s)
{
    const cJSON *f = cJSON_GetObjectItemCaseSensitive(s, "Frames"),
                *t = cJSON_GetObjectItemCaseSensitive(s, "Tokens"),
                *work = cJSON_GetObjectItemCaseSensitive(s, "WorkUSec");
    const char *reason = vl_value_str(s, "StateReason", ""), *name = vl_value_str(s, "Name", "?");
    (void)printf("  %s: %s%s%s, %.0fx%.0f, one frame in %.3g s\n", name, vl_value_str(s, "State", "?"),
                 *reason ? ", " : "", reason, vl_value_num(s, "Width", 0), vl_value_num(s, "Height", 0),
                 vl_value_num(s, "SampleIntervalUSec", 0) / 1e6);
    (void)printf("    frames %.0f seen, %.0f skipped, %.0f gated, %.0f corrupt\n", vl_value_num(f, "seen", 0),
                 vl_value_num(f, "skipped", 0), vl_value_num(f, "gated", 0), vl_value_num(f, "corrupt", 0));
    (void)printf("    tokens %.0f visual kept, %.0f dropped, %.0f text; window %.0f tokens, KV %.2f MiB\n",
                 vl_value_num(t, "visual", 0), vl_value_num(t, "dropped", 0), vl_value_num(t, "text", 0),
                 vl_value_num(s, "WindowTokens", 0), mib(vl_value_num(s, "KVBytes", 0)));
    (void)printf("    lag    %.1f ms from frame to seen (encode %.1f, prefill %.1f, decode %.1f)\n",
                 vl_value_num(s, "LagUSec", 0) / 1e3, vl_value_num(work, "encode", 0) / 1e3,
                 vl_value_num(work, "prefill", 0) / 1e3, vl_value_num(work, "decode", 0) / 1e3);
    print_last_caption(c, name);
}

static int run(struct vl_ctl *c, int argc, char **argv)
{
    static const struct vl_opt none[] = {{NULL, VL_OPT_FLAG, NULL}};
    cJSON *manager = NULL, *models = NULL, *streams = NULL, *s;
    int n, code = vl_ctl_options(&vl_verb_status, argc, argv, none, &n);
    if (code)
        return code;
    if (n)
        return vl_ctl_usage(&vl_verb_status, "it takes no argument");
    if ((code = vl_ctl_connect(c)) ||
        (code = vl_value_properties(c, VL_BUS_ROOT, VL_IFACE("Manager"), &manager)) ||
        (code = vl_value_models(c, &models)) || (code = vl_value_streams(c, &streams)))
        goto out;
    if (c->json) {
        (void)cJSON_AddItemToObject(manager, "Streams", streams);
        (void)cJSON_AddItemToObject(manager, "Models", models);
        models = streams = NULL;
        code = vl_value_print(manager);
        goto out;
    }
    print_daemon(manager);
    print_models(models, manager);
    cJSON_ArrayForEach(s, streams) print_stream(c, s);
out:
    cJSON_Delete(manager);
    cJSON_Delete(models);
    cJSON_Delete(streams);
    return code;
}

const struct vl_verb vl_verb_status = {
    .name = "status",
    .usage = "  vlmctl status\n",
    .help = "One screen: models, memory, and each stream's state, counts and last caption.",
    .run = run,
};
