/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Spans and times as people type them. The grammar is systemd's, the subset that a stream of seconds needs.
 */
#include "cli/vlmctl.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define USEC_PER_SEC UINT64_C(1000000)

static const struct {
    const char *name;
    uint64_t usec;
} units[] = {
    {"us", 1},
    {"ms", 1000},
    {"s", USEC_PER_SEC},
    {"sec", USEC_PER_SEC},
    {"seconds", USEC_PER_SEC},
    {"", USEC_PER_SEC},
    {"m", 60 * USEC_PER_SEC},
    {"min", 60 * USEC_PER_SEC},
    {"minutes", 60 * USEC_PER_SEC},
    {"h", 3600 * USEC_PER_SEC},
    {"hours", 3600 * USEC_PER_SEC},
    {"d", 86400 * USEC_PER_SEC},
    {"days", 86400 * USEC_PER_SEC},
};

static int unit_usec(const char *s, size_t n, uint64_t *ret)
{
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strlen(units[i].name) == n && !strncmp(units[i].name, s, n)) {
            *ret = units[i].usec;
            return 0;
        }
    return -EINVAL;
}

int vl_parse_span(const char *s, uint64_t *ret_usec)
{
    double total = 0;
    s += strspn(s, " ");
    if (!*s)
        return -EINVAL;
    while (*s) {
        char *end;
        if (!isdigit((unsigned char)*s) && *s != '.')
            return -EINVAL;
        double v = strtod(s, &end);
        if (end == s)
            return -EINVAL; /* a point without a digit */
        end += strspn(end, " ");
        size_t n = strspn(end, "abcdefghijklmnopqrstuvwxyz");
        uint64_t u;
        if (unit_usec(end, n, &u) < 0)
            return -EINVAL;
        total += v * (double)u;
        s = end + n;
        s += strspn(s, " ");
    }
    if (!(total < 9e15))
        return -EINVAL;
    *ret_usec = (uint64_t)total;
    return 0;
}

int vl_parse_time(const char *s, uint64_t now_usec, uint64_t *ret_usec)
{
    uint64_t span;
    if (*s == '@') {
        char *end;
        double v = strtod(s + 1, &end);
        if (end == s + 1 || *end || !(v >= 0 && v < 9e9))
            return -EINVAL;
        *ret_usec = (uint64_t)(v * 1e6);
        return 0;
    }
    if (!strcmp(s, "now")) {
        *ret_usec = now_usec;
        return 0;
    }
    static const char *const forms[] = {"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%H:%M:%S", "%H:%M"};
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        time_t now = (time_t)(now_usec / USEC_PER_SEC);
        struct tm tm;
        if (!localtime_r(&now, &tm))
            return -EINVAL;
        tm.tm_sec = 0;
        const char *end = strptime(s, forms[i], &tm);
        if (!end || *end)
            continue;
        tm.tm_isdst = -1;
        time_t t = mktime(&tm);
        if (t < 0)
            return -EINVAL;
        *ret_usec = (uint64_t)t * USEC_PER_SEC;
        return 0;
    }
    if (vl_parse_span(s, &span) < 0 || span > now_usec)
        return -EINVAL;
    *ret_usec = now_usec - span;
    return 0;
}

void vl_print_clock(uint64_t epoch_usec)
{
    time_t t = (time_t)(epoch_usec / USEC_PER_SEC);
    struct tm tm;
    char buf[32] = "--:--:--";
    if (localtime_r(&t, &tm))
        (void)strftime(buf, sizeof(buf), "%H:%M:%S", &tm);
    (void)fputs(buf, stdout);
}
