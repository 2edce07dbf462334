/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_INI_H
#define VL_DAEMON_INI_H
#include "base/error.h"

#include <stddef.h>

/* Configuration text as systemd writes it: [Section], Key=Value, '#' and ';' comment lines, '\' at the end of
 * a line goes on in the next with a space between. Strict: anything else is an error that begins "file:line:
 * ". */
struct vl_ini_item {
    const char *file;
    unsigned line; /* where the key stands */
    const char *section, *key, *value;
};
enum { VL_INI_MAX_BYTES = 1 << 20, VL_INI_MAX_LINE = 64 << 10 };
/* Strings of the item are valid during the call. A negative result ends the parse and is forwarded. */
typedef int (*vl_ini_fn)(void *user, const struct vl_ini_item *item, struct vl_error *err);

/* -EINVAL: syntax, NUL bytes, text that is not UTF-8. -EFBIG, -ENOMEM. file is for messages alone. */
int vl_ini_parse(const char *file, const char *text, size_t len, vl_ini_fn fn, void *user,
                 struct vl_error *err);
/* The same from a file; a regular one. -ENOENT and what open says. */
int vl_ini_read(const char *path, vl_ini_fn fn, void *user, struct vl_error *err);
#endif
