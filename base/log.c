/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The log: a level, one sink, structured fields. Whoever handles an error logs it, once. */
#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>

static void to_stderr(void *user, enum vl_log_level level, const char *topic, const char *msg,
                      const struct vl_log_field *field, size_t n_fields)
{
    (void)user;
    char tail[160] = "";
    int at = 0;
    for (size_t i = 0; i < n_fields && at < (int)sizeof(tail) - 1; i++)
        at += snprintf(tail + at, sizeof(tail) - (size_t)at, " [%s=%s]", field[i].key, field[i].value);
    (void)fprintf(stderr, "<%d>%s: %s%s\n", (int)level, topic, msg, tail);
}

static vl_log_sink the_sink = to_stderr;
static void *the_user;
static atomic_int the_level = VL_LOG_INFO;

void vl_log_set_sink(vl_log_sink sink, void *user)
{
    the_sink = sink ? sink : to_stderr;
    the_user = user;
}

void vl_log_set_level(enum vl_log_level max)
{
    atomic_store_explicit(&the_level, (int)max, memory_order_relaxed);
}

enum vl_log_level vl_log_get_level(void)
{
    return (enum vl_log_level)atomic_load_explicit(&the_level, memory_order_relaxed);
}

static void vlog(enum vl_log_level level, const char *topic, const struct vl_log_field *field,
                 size_t n_fields, const char *fmt, va_list ap)
{
    char msg[1024];
    (void)vsnprintf(msg, sizeof(msg), fmt, ap); /* a line that is too long is cut */
    the_sink(the_user, level, topic, msg, field, n_fields);
}

void vl_log(enum vl_log_level level, const char *topic, const char *fmt, ...)
{
    if (level > vl_log_get_level())
        return;
    va_list ap;
    va_start(ap, fmt);
    vlog(level, topic, NULL, 0, fmt, ap);
    va_end(ap);
}

void vl_log_with(enum vl_log_level level, const char *topic, const struct vl_log_field *field,
                 size_t n_fields, const char *fmt, ...)
{
    if (level > vl_log_get_level())
        return;
    va_list ap;
    va_start(ap, fmt);
    vlog(level, topic, field, n_fields, fmt, ap);
    va_end(ap);
}
