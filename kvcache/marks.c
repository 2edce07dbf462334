/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Units never decrease along the slots, so what is oldest is what comes first. */
#include "kvcache/marks.h"

#include <string.h>

void vl_kv_marks_begin(struct vl_kv_marks *m, bool *gone, const struct vl_kv_token *tok, uint32_t n)
{
    *m = (struct vl_kv_marks){.tok = tok, .gone = gone, .n = n};
    memset(gone, 0, n * sizeof(*gone));
}

void vl_kv_mark(struct vl_kv_marks *m, uint32_t slot)
{
    if (m->tok[slot].pinned || m->gone[slot])
        return;
    m->gone[slot] = true;
    m->n_gone++;
}

static bool left(const struct vl_kv_marks *m, uint32_t slot, enum vl_kv_kind kind)
{
    return m->tok[slot].kind == kind && !m->tok[slot].pinned && !m->gone[slot];
}

uint32_t vl_kv_marks_units(const struct vl_kv_marks *m, enum vl_kv_kind kind)
{
    uint32_t units = 0;
    uint64_t last = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        if (!left(m, i, kind) || (units > 0 && m->tok[i].unit == last))
            continue;
        last = m->tok[i].unit;
        units++;
    }
    return units;
}

uint32_t vl_kv_marks_oldest(const struct vl_kv_marks *m, enum vl_kv_kind kind, uint64_t *ret_unit)
{
    uint32_t n_of_unit = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        if (!left(m, i, kind))
            continue;
        if (n_of_unit > 0 && m->tok[i].unit != *ret_unit)
            break;
        *ret_unit = m->tok[i].unit;
        n_of_unit++;
    }
    return n_of_unit;
}

void vl_kv_mark_until(struct vl_kv_marks *m, enum vl_kv_kind kind, uint64_t unit)
{
    for (uint32_t i = 0; i < m->n && m->tok[i].unit <= unit; i++)
        if (m->tok[i].kind == kind)
            vl_kv_mark(m, i);
}

void vl_kv_mark_window(struct vl_kv_marks *m, uint32_t window)
{
    uint64_t unit;
    for (uint32_t units = vl_kv_marks_units(m, VL_KV_VISUAL); units > window; units--)
        if (vl_kv_marks_oldest(m, VL_KV_VISUAL, &unit) > 0)
            vl_kv_mark_until(m, VL_KV_VISUAL, unit);
}

/* The words of the oldest unit, if they may go without a picture: how many went. */
static uint32_t mark_words(struct vl_kv_marks *m)
{
    uint64_t unit = 0, held = UINT64_MAX;
    (void)vl_kv_marks_oldest(m, VL_KV_VISUAL, &held);
    uint32_t n = vl_kv_marks_oldest(m, VL_KV_TEXT, &unit);
    if (n == 0 || unit >= held || unit >= m->tok[m->n - 1].unit)
        return 0;
    vl_kv_mark_until(m, VL_KV_TEXT, unit);
    return n;
}

void vl_kv_mark_text(struct vl_kv_marks *m, uint32_t text_tokens)
{
    uint32_t text = 0, n = 1;
    for (uint32_t i = 0; i < m->n; i++)
        text += left(m, i, VL_KV_TEXT);
    for (; text > text_tokens && n > 0; text -= n)
        n = mark_words(m);
}

void vl_kv_mark_text_wanted(struct vl_kv_marks *m, uint32_t n_wanted)
{
    while (m->n_gone < n_wanted && mark_words(m) > 0)
        ;
}

void vl_kv_mark_wanted(struct vl_kv_marks *m, uint32_t n_wanted)
{
    static const enum vl_kv_kind order[] = {VL_KV_VISUAL, VL_KV_TEXT};
    for (int k = 0; k < 2; k++) {
        uint64_t unit = 0;
        while (m->n_gone < n_wanted && vl_kv_marks_oldest(m, order[k], &unit) > 0)
            vl_kv_mark_until(m, order[k], unit);
    }
}

int vl_kv_marks_answer(const struct vl_kv_marks *m, uint32_t *ret_slots, uint32_t *ret_n)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n; i++)
        if (m->gone[i])
            ret_slots[n++] = i;
    *ret_n = n;
    return 0;
}

int vl_kv_option(const struct vl_params *p, const char *policy, const struct vl_param_desc *d, uint32_t *ret,
                 struct vl_error *err)
{
    double v = d->def;
    if (vl_params_f64(p, d->key, &v) < 0)
        return vl_error_set(err, -EINVAL, "%s: '%s' is a number", policy, d->key);
    *ret = (uint32_t)v;
    return 0;
}
