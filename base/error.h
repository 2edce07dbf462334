/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_ERROR_H
#define VL_BASE_ERROR_H
#include <errno.h>
#include <stdarg.h>

/* Every fallible function returns int.
 *   0    done
 *   < 0  negative errno: something failed; forward it unchanged, never match on it
 *   > 0  an outcome listed in this function's own header (VL_KV_FULL, ...): handle it here, never forward it
 * Functions whose failure a person must read also take `struct vl_error *err` last; NULL is allowed. The
 * message says what, where and how to mend it. */
struct vl_error {
    int code;
    char msg[240];
};

/* Fills *err when it is not NULL and returns code, so that a check reads `return vl_error_set(err, -EINVAL,
 * ...)`. */
int vl_error_set(struct vl_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of a message that a callee wrote; keeps the code, which it returns. */
int vl_error_prefix(struct vl_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#endif
