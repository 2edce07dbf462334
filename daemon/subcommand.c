/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What the subcommands share. */
#include "daemon/subcommand.h"

#include <ctype.h>
#include <stdio.h>

int vl_subcommand_usage(const char *word, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)fprintf(stderr, "vlmd %s: ", word);
    (void)vfprintf(stderr, fmt, ap);
    (void)fprintf(stderr, "; see vlmd %s --help\n", word);
    va_end(ap);
    return -EINVAL;
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

int vl_subcommand_model(const struct vl_config *c, const char **ret_text, const char **ret_projector,
                        struct vl_error *err)
{
    const struct vl_model_config *m = vl_config_default(c);
    if (!m)
        return vl_error_set(err, -ENOENT,
                            "no model: give --model F.gguf and, to see, --mmproj F.gguf; the built-in one is "
                            "not installed");
    *ret_text = m->text;
    *ret_projector = m->projector;
    return 0;
}
