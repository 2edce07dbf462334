/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The two registries seen from above. */
#include "engine/offers.h"

#include "kvcache/policy.h"
#include "tokenprune/reducer.h"

static size_t n_offers(enum vl_offer_kind kind)
{
    size_t n = 0;
    while (kind == VL_OFFER_REDUCER ? vl_reducers[n] != NULL : vl_kv_policies[n] != NULL)
        n++;
    return n;
}

static struct vl_offer offer_reducer(const struct vl_reducer_ops *o)
{
    struct vl_offer ret = {.name = o->name,
                           .paper = o->paper,
                           .params = o->params,
                           .needs_question = o->needs_question,
                           .needs_budget = !o->own_measure && !o->in_encoder && !o->in_decoder};
    size_t n = 0;
    if (o->view)
        ret.stage[n++] = "before the encoder";
    if (o->in_encoder)
        ret.stage[n++] = "in the encoder";
    if (o->after_projector)
        ret.stage[n++] = "after the projector";
    if (o->in_decoder)
        ret.stage[n++] = "in the decoder";
    return ret;
}

int vl_offer_get(enum vl_offer_kind kind, size_t i, struct vl_offer *ret)
{
    if (i >= n_offers(kind))
        return -ENOENT;
    if (kind == VL_OFFER_REDUCER)
        *ret = offer_reducer(vl_reducers[i]);
    else
        *ret = (struct vl_offer){.name = vl_kv_policies[i]->name,
                                 .paper = vl_kv_policies[i]->paper,
                                 .params = vl_kv_policies[i]->params};
    return 0;
}

static int check_use(const struct vl_reducer_ops *o, enum vl_offer_use use, struct vl_error *err)
{
    if (use == VL_OFFER_ARRIVAL && o->needs_question)
        return vl_error_set(err, -EINVAL, "reducer '%s' needs a question, and frames arrive with none",
                            o->name);
    if (use == VL_OFFER_PICTURES && o->needs_question)
        return vl_error_set(err, -EINVAL,
                            "reducer '%s' needs a stream to ask about; pictures take one of arrival, such as "
                            "'uniform'",
                            o->name);
    if (use == VL_OFFER_STREAM && !o->in_decoder)
        return vl_error_set(err, -EINVAL,
                            "reducer '%s' is for frames as they arrive; a question about a stream takes one "
                            "that needs a question, such as 'feather'",
                            o->name);
    return 0;
}

int vl_offer_check(enum vl_offer_kind kind, const char *name, const struct vl_params *p,
                   enum vl_offer_use use, struct vl_error *err)
{
    const struct vl_reducer_ops *reducer = NULL;
    const struct vl_kv_policy *policy = NULL;
    int r = kind == VL_OFFER_REDUCER ? vl_reducer_find(&reducer, name, err)
                                     : vl_kv_policy_find(&policy, name, err);
    if (r == 0 && reducer)
        r = check_use(reducer, use, err);
    return r < 0 ? r : vl_params_check(p, reducer ? reducer->params : policy->params, err);
}
