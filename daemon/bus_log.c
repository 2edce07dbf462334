/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* org.freedesktop.LogControl1 (man 5 org.freedesktop.LogControl1), so that `systemctl service-log-level vlmd
 * debug` works. Its properties can be written; on the system bus by root alone, since the vtable says nothing
 * else. */
#include "daemon/bus.h"

#include "base/log.h"
#include "daemon/log_sink.h"

#include <string.h>

static const char *const level_name[] = {"emerg",   "alert",  "crit", "err",
                                         "warning", "notice", "info", "debug"};

static int get_level(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)user, (void)e;
    return sd_bus_message_append(reply, "s", level_name[vl_log_get_level()]);
}

static int set_level(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *value, void *user, sd_bus_error *e)
{
    const char *name;
    int r = sd_bus_message_read(value, "s", &name);
    (void)bus, (void)path, (void)interface, (void)property, (void)user;
    for (int i = 0; r >= 0 && i <= VL_LOG_DEBUG; i++)
        if (!strcmp(name, level_name[i])) {
            vl_log_set_level(i < VL_LOG_ERR ? VL_LOG_ERR : (enum vl_log_level)i);
            return 0;
        }
    return r < 0 ? r
                 : sd_bus_error_set(e, SD_BUS_ERROR_INVALID_ARGS,
                                    "a level is one of err warning notice info debug");
}

static int get_target(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)user, (void)e;
    return sd_bus_message_append(reply, "s",
                                 vl_log_sink_get() == VL_LOG_TARGET_JOURNAL ? "journal" : "console");
}

static int set_target(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *value, void *user, sd_bus_error *e)
{
    const char *name;
    int r = sd_bus_message_read(value, "s", &name);
    (void)bus, (void)path, (void)interface, (void)property, (void)user;
    if (r < 0)
        return r;
    if (!strcmp(name, "auto"))
        vl_log_sink_set(VL_LOG_TARGET_AUTO);
    else if (!strcmp(name, "console"))
        vl_log_sink_set(VL_LOG_TARGET_CONSOLE);
    else if (!strcmp(name, "journal"))
        vl_log_sink_set(VL_LOG_TARGET_JOURNAL);
    else
        return sd_bus_error_set(e, SD_BUS_ERROR_INVALID_ARGS, "a target is one of auto console journal");
    return 0;
}

static int get_identifier(sd_bus *bus, const char *path, const char *interface, const char *property,
                          sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)user, (void)e;
    return sd_bus_message_append(reply, "s", "vlmd");
}

/* clang-format off */
static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_WRITABLE_PROPERTY("LogLevel", "s", get_level, set_level, 0, 0),
    SD_BUS_WRITABLE_PROPERTY("LogTarget", "s", get_target, set_target, 0, 0),
    SD_BUS_PROPERTY("SyslogIdentifier", "s", get_identifier, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_VTABLE_END,
};
/* clang-format on */

int vl_bus_log_add(sd_bus *bus, sd_bus_slot **ret)
{
    return sd_bus_add_object_vtable(bus, ret, "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1",
                                    vtable, NULL);
}
