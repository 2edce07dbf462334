/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What all reducers share: finding one by name, its memory, and asking it. Session lifetime, engine thread.
 */
#include "tokenprune/reducer.h"

#include <stdlib.h>
#include <string.h>

int vl_reducer_find(const struct vl_reducer_ops **ret, const char *name, struct vl_error *err)
{
    enum { MAX_NAMES = 64 };
    const char *known[MAX_NAMES];
    size_t n = 0;
    for (; vl_reducers[n] && n < MAX_NAMES; n++) {
        if (!strcmp(vl_reducers[n]->name, name)) {
            *ret = vl_reducers[n];
            return 0;
        }
        known[n] = vl_reducers[n]->name;
    }
    const char *near = vl_nearest(name, known, n);
    return vl_error_set(err, -EINVAL, "unknown reducer '%.60s'; did you mean '%s'?", name,
                        near ? near : known[0]);
}

int vl_reducer_init(struct vl_reducer *r, const struct vl_reducer_ops *ops, const struct vl_params *p,
                    const struct vl_reducer_shape *shape, struct vl_error *err)
{
    int e = vl_params_check(p, ops->params, err);
    if (e < 0)
        return e;
    struct vl_reducer made = {.ops = ops, .shape = *shape};
    made.state = calloc(1, ops->state_size(p, shape));
    made.host = calloc(shape->max_tokens, VL_REDUCER_HOST * sizeof(*made.host));
    e = made.state && made.host ? ops->init(made.state, p, shape, err)
                                : vl_error_set(err, -ENOMEM, "no memory for reducer %s", ops->name);
    if (e < 0) {
        vl_reducer_done(&made);
        return e;
    }
    *r = made;
    return 0;
}

void vl_reducer_done(struct vl_reducer *r)
{
    free(r->state);
    free(r->host);
    *r = (struct vl_reducer){.ops = NULL};
}

int vl_reducer_run(const struct vl_reducer *r, struct vl_exec *x, struct vl_visual_tokens *tok,
                   uint32_t budget)
{
    if (!r || !r->ops->after_projector || tok->n <= budget)
        return 0;
    if (budget == 0 || tok->n > r->shape.max_tokens)
        return -EINVAL;
    struct vl_kept kept = {.n = 0};
    int e = r->ops->after_projector(r->state, x, tok, budget, &kept);
    if (e == 0 && kept.n > budget)
        e = -EINVAL;
    return e < 0 ? e : vl_visual_tokens_apply(x, tok, &kept, r->host);
}
