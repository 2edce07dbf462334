/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_LOG_H
#define VL_BASE_LOG_H
#include <stdarg.h>
#include <stddef.h>

/* syslog's numbers, so that the journal and LogControl1 need no table. */
enum vl_log_level {
    VL_LOG_ERR = 3,
    VL_LOG_WARNING = 4,
    VL_LOG_NOTICE = 5,
    VL_LOG_INFO = 6,
    VL_LOG_DEBUG = 7
};

/* One structured field of a line, e.g. {"VLMD_STREAM", "porch"}; both borrowed for the call. */
struct vl_log_field {
    const char *key, *value;
};

/* One sink, set by the program before it starts threads; the default writes "<level>topic: message" to
 * stderr. It is called on whichever thread logs and must not log itself. Captions, questions and answers are
 * never logged. */
typedef void (*vl_log_sink)(void *user, enum vl_log_level level, const char *topic, const char *msg,
                            const struct vl_log_field *field, size_t n_fields);
void vl_log_set_sink(vl_log_sink sink, void *user);
void vl_log_set_level(enum vl_log_level max); /* any thread; lines above it cost one load */
enum vl_log_level vl_log_get_level(void);

void vl_log(enum vl_log_level level, const char *topic, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void vl_log_with(enum vl_log_level level, const char *topic, const struct vl_log_field *field,
                 size_t n_fields, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
#endif
