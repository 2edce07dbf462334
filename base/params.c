/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A small typed dictionary. Options come a handful at a time, so a linear table is the whole mechanism. */
#include "base/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    char *key, *str; /* str NULL: a number */
    double num;
};
struct vl_params {
    size_t n;
    struct entry entry[VL_PARAMS_MAX];
};

int vl_params_new(struct vl_params **ret)
{
    struct vl_params *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    *ret = p;
    return 0;
}

struct vl_params *vl_params_unref(struct vl_params *p)
{
    for (size_t i = 0; p && i < p->n; i++) {
        free(p->entry[i].key);
        free(p->entry[i].str);
    }
    free(p);
    return NULL;
}

static const struct entry *find(const struct vl_params *p, const char *key)
{
    for (size_t i = 0; p && i < p->n; i++)
        if (!strcmp(p->entry[i].key, key))
            return &p->entry[i];
    return NULL;
}

static int set(struct vl_params *p, const char *key, const char *str, double num)
{
    char *copy = NULL;
    if (str && !(copy = strdup(str)))
        return -ENOMEM;
    struct entry *e = (struct entry *)find(p, key);
    if (!e) {
        char *k = p->n < VL_PARAMS_MAX ? strdup(key) : NULL;
        if (!k) {
            free(copy);
            return p->n < VL_PARAMS_MAX ? -ENOMEM : -ENOSPC;
        }
        e = &p->entry[p->n++];
        *e = (struct entry){.key = k};
    }
    free(e->str);
    e->str = copy;
    e->num = num;
    return 0;
}

int vl_params_set_f64(struct vl_params *p, const char *key, double v)
{
    return set(p, key, NULL, v);
}

int vl_params_set_str(struct vl_params *p, const char *key, const char *v)
{
    return set(p, key, v, 0);
}

int vl_params_copy(struct vl_params **ret, const struct vl_params *p)
{
    vl_auto(vl_params) c = NULL;
    int r = vl_params_new(&c);
    for (size_t i = 0; r == 0 && p && i < p->n; i++)
        r = set(c, p->entry[i].key, p->entry[i].str, p->entry[i].num);
    if (r < 0)
        return r;
    *ret = vl_steal(c);
    return 0;
}

bool vl_params_equal(const struct vl_params *a, const struct vl_params *b)
{
    if ((a ? a->n : 0) != (b ? b->n : 0))
        return false;
    for (size_t i = 0; a && i < a->n; i++) {
        const struct entry *x = &a->entry[i], *y = find(b, x->key);
        if (!y || !x->str != !y->str || x->num != y->num || (x->str && strcmp(x->str, y->str)))
            return false;
    }
    return true;
}

int vl_params_f64(const struct vl_params *p, const char *key, double *inout)
{
    const struct entry *e = find(p, key);
    if (e && e->str)
        return -EINVAL;
    if (e)
        *inout = e->num;
    return 0;
}

int vl_params_str(const struct vl_params *p, const char *key, const char **inout)
{
    const struct entry *e = find(p, key);
    if (e && !e->str)
        return -EINVAL;
    if (e)
        *inout = e->str;
    return 0;
}

static int parse_pair(struct vl_params *p, char *pair, struct vl_error *err)
{
    char *value = strchr(pair, '='), *end;
    if (!value || value == pair || !value[1])
        return vl_error_set(err, -EINVAL, "'%.60s' is not an option; write KEY=VALUE", pair);
    *value++ = '\0';
    double number = strtod(value, &end);
    int r = *end ? vl_params_set_str(p, pair, value) : vl_params_set_f64(p, pair, number);
    return r < 0 ? vl_error_set(err, r, "option '%.60s': %s", pair,
                                r == -ENOSPC ? "there are too many" : "no memory")
                 : 0;
}

int vl_params_parse(const char *text, char *ret_name, size_t cap, struct vl_params **ret,
                    struct vl_error *err)
{
    enum { MAX_TEXT = 1024 };
    size_t n_name = strcspn(text, ":");
    if (n_name == 0 || n_name >= cap || strlen(text) > MAX_TEXT)
        return vl_error_set(err, -EINVAL, "'%.60s' names nothing; write NAME or NAME:KEY=VALUE,KEY=VALUE",
                            text);
    vl_auto(vl_params) p = NULL;
    char options[MAX_TEXT + 1], *save = NULL;
    int r = 0;
    (void)snprintf(options, sizeof(options), "%s", text[n_name] ? text + n_name + 1 : "");
    if (options[0])
        r = vl_params_new(&p);
    for (char *pair = strtok_r(options, ",", &save); r == 0 && pair; pair = strtok_r(NULL, ",", &save))
        r = parse_pair(p, pair, err);
    if (r < 0)
        return r;
    memcpy(ret_name, text, n_name);
    ret_name[n_name] = '\0';
    *ret = vl_steal(p);
    return 0;
}

/* Damerau's distance without transpositions, two rows, words cut at 63 bytes. */
static size_t distance(const char *a, const char *b)
{
    size_t na = strnlen(a, 63), nb = strnlen(b, 63), row[64];
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diag = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = diag + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diag = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}

const char *vl_nearest(const char *word, const char *const *known, size_t n)
{
    const char *best = NULL;
    size_t d_best = strnlen(word, 63) / 2 + 2;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, known[i]);
        if (d < d_best) {
            d_best = d;
            best = known[i];
        }
    }
    return best;
}

static const struct vl_param_desc *describe(const struct vl_param_desc *desc, const char *key)
{
    for (; desc && desc->key; desc++)
        if (!strcmp(desc->key, key))
            return desc;
    return NULL;
}

static int unknown(const char *key, const struct vl_param_desc *desc, struct vl_error *err)
{
    const char *known[VL_PARAMS_MAX];
    size_t n = 0;
    for (; desc && desc->key && n < VL_PARAMS_MAX; desc++)
        known[n++] = desc->key;
    const char *near = vl_nearest(key, known, n);
    if (near)
        return vl_error_set(err, -EINVAL, "unknown option '%.60s'; did you mean '%s'?", key, near);
    return vl_error_set(err, -EINVAL, "unknown option '%.60s'", key);
}

int vl_params_check(const struct vl_params *p, const struct vl_param_desc *desc, struct vl_error *err)
{
    for (size_t i = 0; p && i < p->n; i++) {
        const struct entry *e = &p->entry[i];
        const struct vl_param_desc *d = describe(desc, e->key);
        if (!d)
            return unknown(e->key, desc, err);
        bool wants_str = d->min > d->max;
        if (wants_str != (e->str != NULL))
            return vl_error_set(err, -EINVAL, "option '%s' takes a %s", e->key,
                                wants_str ? "word" : "number");
        if (!wants_str && !(e->num >= d->min && e->num <= d->max))
            return vl_error_set(err, -EINVAL, "option '%s' is %g; it must lie between %g and %g", e->key,
                                e->num, d->min, d->max);
    }
    return 0;
}
