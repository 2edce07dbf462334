/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Reducers and policies between their written form, in which people and files choose them, and the engine's
 * options. Main thread.
 */
#include "daemon/chosen.h"

#include <string.h>

static bool is_none(const char *reducer)
{
    return !*reducer || !strcmp(reducer, "none");
}

int vl_chosen_read(struct vl_chosen *ret, const char *reducer, const char *policy, uint32_t window_frames,
                   struct vl_error *err)
{
    double window = 0;
    int r = 0;
    *ret = (struct vl_chosen){.reducer = ""};
    if (reducer && !is_none(reducer))
        r = vl_params_parse(reducer, ret->reducer, sizeof(ret->reducer), &ret->reducer_params, err);
    if (r == 0 && policy && *policy)
        r = vl_params_parse(policy, ret->policy, sizeof(ret->policy), &ret->policy_params, err);
    if (r == 0 && !ret->policy_params)
        r = vl_params_new(&ret->policy_params);
    if (r < 0)
        return r;
    bool said = vl_params_f64(ret->policy_params, "window", &window) < 0 || window != 0;
    return window_frames && !said ? vl_params_set_f64(ret->policy_params, "window", window_frames) : 0;
}

void vl_chosen_done(struct vl_chosen *c)
{
    c->reducer_params = vl_params_unref(c->reducer_params);
    c->policy_params = vl_params_unref(c->policy_params);
}

uint32_t vl_chosen_window(const char *policy)
{
    vl_auto(vl_params) p = NULL;
    char name[VL_CHOSEN_NAME];
    double window = 0;
    if (policy && vl_params_parse(policy, name, sizeof(name), &p, NULL) == 0)
        (void)vl_params_f64(p, "window", &window); /* a word was refused when it was set */
    return window >= 1 && window <= UINT32_MAX ? (uint32_t)window : 0;
}

void vl_chosen_apply(const struct vl_chosen *c, struct vl_session_opts *o)
{
    o->reducer = c->reducer[0] ? c->reducer : NULL;
    o->policy = c->policy[0] ? c->policy : NULL;
    o->reducer_params = c->reducer_params;
    o->policy_params = c->policy_params;
}

static int check(enum vl_offer_kind kind, enum vl_offer_use use, const char *key, const char *text,
                 struct vl_error *err)
{
    vl_auto(vl_params) p = NULL;
    char name[VL_CHOSEN_NAME];
    struct vl_error why = {0};
    if (!text || !*text || (kind == VL_OFFER_REDUCER && is_none(text)))
        return 0;
    int r = vl_params_parse(text, name, sizeof(name), &p, &why);
    if (r == 0)
        r = vl_offer_check(kind, name, p, use, &why);
    return r < 0 ? vl_error_set(err, r, "%s: %s", key, why.msg) : 0;
}

int vl_chosen_check(enum vl_offer_kind kind, const char *key, const char *text, struct vl_error *err)
{
    return check(kind, VL_OFFER_ARRIVAL, key, text, err);
}

int vl_chosen_check_asked(bool stream, const char *key, const char *text, struct vl_error *err)
{
    return check(VL_OFFER_REDUCER, stream ? VL_OFFER_STREAM : VL_OFFER_PICTURES, key, text, err);
}

/* Of a reducer's text; false: there is none of that name. */
static bool find(const char *reducer, struct vl_offer *ret)
{
    size_t n = reducer ? strcspn(reducer, ":") : 0;
    for (size_t i = 0; n > 0 && vl_offer_get(VL_OFFER_REDUCER, i, ret) == 0; i++)
        if (strlen(ret->name) == n && !strncmp(ret->name, reducer, n))
            return true;
    return false;
}

bool vl_chosen_needs_budget(const char *reducer)
{
    struct vl_offer o;
    return find(reducer, &o) && o.needs_budget;
}

bool vl_chosen_needs_question(const char *reducer)
{
    struct vl_offer o;
    return find(reducer, &o) && o.needs_question;
}
