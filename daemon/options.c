/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Option dictionaries, read strictly: a typo in an option must not pass in silence. Main thread. */
#include "daemon/options.h"

#include "base/params.h"
#include "daemon/bus_error.h"

#include <errno.h>
#include <string.h>

enum { MAX_OPTIONS = 32 };

static int unknown(const struct vl_option *option, size_t n, const char *key, sd_bus_error *e)
{
    const char *known[MAX_OPTIONS];
    for (size_t i = 0; i < n && i < MAX_OPTIONS; i++)
        known[i] = option[i].key;
    const char *near = vl_nearest(key, known, n < MAX_OPTIONS ? n : MAX_OPTIONS);
    if (near)
        return vl_bus_error_setf(e, VL_BUS_INVALID_OPTION, "unknown option '%.64s'; did you mean '%s'?", key,
                                 near);
    return vl_bus_error_setf(e, VL_BUS_INVALID_OPTION, "unknown option '%.64s'", key);
}

static int read_value(sd_bus_message *m, struct vl_option *o, sd_bus_error *e)
{
    const char want[2] = {o->type, '\0'};
    char type;
    const char *contents;
    int r = sd_bus_message_peek_type(m, &type, &contents);
    if (r < 0)
        return r;
    if (!contents || strcmp(contents, want) != 0)
        return vl_bus_error_setf(e, VL_BUS_INVALID_OPTION, "option '%s' is of type '%.16s', not '%s'", o->key,
                                 contents ? contents : "?", want);
    if (o->seen)
        return vl_bus_error_setf(e, VL_BUS_INVALID_OPTION, "option '%s' is there twice", o->key);
    o->seen = true;
    return sd_bus_message_read(m, "v", want, o->dest);
}

static int read_entry(sd_bus_message *m, struct vl_option *option, size_t n, sd_bus_error *e)
{
    const char *key;
    int r = sd_bus_message_read(m, "s", &key);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(option[i].key, key))
            return read_value(m, &option[i], e);
    return unknown(option, n, key, e);
}

int vl_options_read(sd_bus_message *m, struct vl_option *option, size_t n, sd_bus_error *e)
{
    int r = sd_bus_message_enter_container(m, 'a', "{sv}");
    while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
        r = read_entry(m, option, n, e);
        if (r >= 0)
            r = sd_bus_message_exit_container(m);
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    return r < 0 ? r : 0;
}
