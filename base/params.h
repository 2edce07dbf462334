/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_PARAMS_H
#define VL_BASE_PARAMS_H
#include "base/cleanup.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Options of a policy or source, already typed: the daemon fills it from a{sv} or from the configuration
 * file, the policy reads it. Keys and strings are copied. Not thread-safe; made before it crosses threads,
 * then read only. */
struct vl_params;

/* What a policy takes; a table ends with key == NULL. A string option has min > max. */
struct vl_param_desc {
    const char *key, *help;
    double def, min, max;
};

enum { VL_PARAMS_MAX = 32 };
int vl_params_new(struct vl_params **ret);
int vl_params_copy(struct vl_params **ret, const struct vl_params *p);      /* p NULL: an empty set */
bool vl_params_equal(const struct vl_params *a, const struct vl_params *b); /* NULL: an empty set */
int vl_params_set_f64(struct vl_params *p, const char *key,
                      double v); /* the last value counts. -ENOSPC over the cap */
int vl_params_set_str(struct vl_params *p, const char *key, const char *v);

/* The written form, "name" or "name:key=value,key=value", as in `--reducer` and `Policy=`: the name is copied
 * to ret_name [cap], numbers and words to *ret (NULL when there are none). -EINVAL says what is wrong. */
int vl_params_parse(const char *text, char *ret_name, size_t cap, struct vl_params **ret,
                    struct vl_error *err);

/* Every key must be in desc, of its kind and in its range: -EINVAL names the key and the nearest known one.
 */
int vl_params_check(const struct vl_params *p, const struct vl_param_desc *desc, struct vl_error *err);

/* Leaves *inout alone when the key is absent (p may be NULL). -EINVAL when it is of the other kind. A string
 * is borrowed from p. */
int vl_params_f64(const struct vl_params *p, const char *key, double *inout);
int vl_params_str(const struct vl_params *p, const char *key, const char **inout);
struct vl_params *vl_params_unref(struct vl_params *p); /* one owner */
VL_DEFINE_AUTO(vl_params)

/* The known word most like `word`: for error messages, so that a typo explains itself. NULL when nothing is
 * near. */
const char *vl_nearest(const char *word, const char *const *known, size_t n);
#endif
