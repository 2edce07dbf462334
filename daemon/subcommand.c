/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What the subcommands share. */
#include "daemon/subcommand.h"

#include "base/params.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NEAR = 32, MAX_NAME = 64, MAX_PATH = 4096 };

int vl_subcommand_usage(const char *word, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)fprintf(stderr, "vlmd %s: ", word);
    (void)vfprintf(stderr, fmt, ap);
    (void)fprintf(stderr, " (vlmd %s --help)\n", word);
    va_end(ap);
    return -EINVAL;
}

static int refuse_option(const char *word, const char *arg, const struct option *all)
{
    const char *known[MAX_NEAR];
    char name[MAX_NAME];
    size_t n = 0, len = strcspn(arg, "=");
    for (; all[n].name && n < MAX_NEAR; n++)
        known[n] = all[n].name;
    (void)snprintf(name, sizeof(name), "%.*s", len < MAX_NAME ? (int)len : MAX_NAME - 1, arg);
    const char *bare = name + strspn(name, "-"), *near = vl_nearest(bare, known, n);
    if (near && !strcmp(near, bare))
        (void)vl_subcommand_usage(word, "%s takes no value", name);
    else if (near)
        (void)vl_subcommand_usage(word, "unknown option %s; did you mean --%s?", name, near);
    else
        (void)vl_subcommand_usage(word, "unknown option %s", name);
    return '?';
}

int vl_subcommand_option(const char *word, int argc, char **argv, const struct option *all)
{
    opterr = 0;
    int c = getopt_long(argc, argv, ":", all, NULL);
    if (c == ':')
        (void)vl_subcommand_usage(word, "%s needs a value", argv[optind - 1]);
    if (c == ':')
        return '?';
    return c == '?' ? refuse_option(word, argv[optind - 1], all) : c;
}

int vl_subcommand_number(const char *word, const char *name, const char *value, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(value, &end, 10);
    if (errno || !isdigit((unsigned char)*value) || *end || v > max)
        return vl_subcommand_usage(word, "%s %s: not a whole number in its range", name, value);
    *ret = v;
    return 0;
}

/* "--model smol": not a file, so a model that the configuration knows. */
static bool is_name(const char *text)
{
    size_t n = strlen(text);
    return !strchr(text, '/') && access(text, F_OK) < 0 && (n < 5 || strcmp(text + n - 5, ".gguf") != 0);
}

static int refuse_name(const char *word, const struct vl_config *c, const char *name)
{
    const char *known[MAX_NEAR];
    size_t n = 0;
    for (; n < c->n_models && n < MAX_NEAR; n++)
        known[n] = c->model[n].name;
    const char *near = vl_nearest(name, known, n);
    (void)fprintf(stderr, "vlmd %s: there is neither a file nor a model '%s'%s%s%s\n", word, name,
                  near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return VL_EXIT_FAILED;
}

static int refuse_none(const char *word, const struct vl_config *c)
{
    if (c->n_models > 0)
        (void)fprintf(stderr,
                      "vlmd %s: which model? --model NAME, or DefaultModel= in the configuration:", word);
    else
        (void)fprintf(stderr,
                      "vlmd %s: no model: give --model F.gguf and, to see, --mmproj F.gguf; the built-in "
                      "one is not installed",
                      word);
    for (size_t i = 0; i < c->n_models; i++)
        (void)fprintf(stderr, " %s", c->model[i].name);
    (void)fputc('\n', stderr);
    return VL_EXIT_FAILED;
}

/* A build that is not installed: the built-in pair lies in the source tree, of which the build is a folder.
 */
static bool find_in_tree(char text[MAX_PATH], char projector[MAX_PATH])
{
    char self[MAX_PATH / 2];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (!slash)
        return false;
    *slash = '\0';
    (void)snprintf(text, MAX_PATH, "%s/../../data/%s", self, VLMD_BUILTIN_TEXT);
    (void)snprintf(projector, MAX_PATH, "%s/../../data/%s", self, VLMD_BUILTIN_PROJECTOR);
    return access(text, R_OK) == 0 && access(projector, R_OK) == 0;
}

static int load_config(const char *word, const struct vl_config_from *from, struct vl_config **ret)
{
    struct vl_error err = {0};
    if (vl_config_load(ret, from, &err) == 0)
        return VL_EXIT_OK;
    (void)fprintf(stderr, "vlmd %s: %s\n", word, err.msg);
    return VL_EXIT_CONFIG;
}

int vl_subcommand_config(const char *word, const struct vl_config_from *from, struct vl_config **ret,
                         const struct vl_model_config **ret_model)
{
    struct vl_config_from f = *from;
    char text[MAX_PATH], projector[MAX_PATH];
    const char *name = f.text && is_name(f.text) ? f.text : NULL;
    if (name && f.projector) {
        (void)vl_subcommand_usage(word, "%s is no file; --mmproj goes with one", name);
        return VL_EXIT_USAGE;
    }
    if (name)
        f.text = NULL;
    int code = load_config(word, &f, ret);
    if (code == VL_EXIT_OK && !name && (*ret)->n_models == 0 && find_in_tree(text, projector)) {
        *ret = vl_config_unref(*ret);
        f.text = text;
        f.projector = projector;
        code = load_config(word, &f, ret);
    }
    if (code != VL_EXIT_OK)
        return code;
    *ret_model = name ? vl_config_model(*ret, name) : vl_config_default(*ret);
    if (*ret_model)
        return VL_EXIT_OK;
    return name ? refuse_name(word, *ret, name) : refuse_none(word, *ret);
}
