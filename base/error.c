/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Error messages: one fixed buffer, cut at its end, never allocated. They tell what files and strangers
 * wrote, so they are made fit to be shown. */
#include "base/error.h"

#include "base/text.h"

#include <stdio.h>
#include <string.h>

int vl_error_set(struct vl_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(err->msg, sizeof(err->msg), fmt, ap); /* a message that is too long is cut */
    va_end(ap);
    vl_text_clean(err->msg);
    err->code = code;
    return code;
}

int vl_error_prefix(struct vl_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char old[sizeof(err->msg)], head[sizeof(err->msg)];
    memcpy(old, err->msg, sizeof(old));
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(head, sizeof(head), fmt, ap);
    va_end(ap);
    (void)snprintf(err->msg, sizeof(err->msg), "%.100s: ", head);
    (void)strncat(err->msg, old, sizeof(err->msg) - strlen(err->msg) - 1); /* cut at the end, if at all */
    vl_text_clean(err->msg);
    err->code = code;
    return code;
}
