/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_OPTIONS_H
#define VL_DAEMON_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>
#include <systemd/sd-bus.h>

/* One key that an option dictionary a{sv} may hold. dest is written only when the key is there: const char *
 * (borrowed from the message), uint32_t, uint64_t, double, int (b as 0 or 1, h borrowed from the message). */
struct vl_option {
    const char *key;
    char type; /* s u t d b h */
    void *dest;
    bool seen;
};

/* Reads the dictionary that comes next in m. Unknown key, wrong type, twice the same: InvalidOption, which
 * names it and the nearest known one. Negative is what a method handler returns. */
int vl_options_read(sd_bus_message *m, struct vl_option *option, size_t n, sd_bus_error *e);
#endif
