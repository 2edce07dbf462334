/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What all reducers share: finding one by name, its memory, and asking it. Session lifetime, engine thread.
 */
#include "tokenprune/reducer.h"

#include "tokenprune/similarity.h"

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

/* What chooses: the rows packed, and a block of cosines. What applies: gathered rows and means. Each is given
 * back before the other begins. */
size_t vl_reducer_scratch(const struct vl_reducer_shape *s)
{
    enum { ALIGN = 4096, ROWS = 16, PER_TOKEN = 64 };
    size_t n = s->max_tokens, d = s->d_model;
    size_t choose = 4 * ((n + ROWS) * d + VL_SIMILARITY_BLOCK * (n + d));
    size_t apply = 8 * n * d;
    return (choose > apply ? choose : apply) + PER_TOKEN * n + ALIGN;
}

int vl_reducer_run(const struct vl_reducer *r, struct vl_exec *x, struct vl_visual_tokens *tok,
                   uint32_t budget)
{
    if (!r || !r->ops->after_projector)
        return 0;
    if (budget ? tok->n <= budget : !r->ops->own_measure)
        return 0;
    if (tok->n == 0 || tok->n > r->shape.max_tokens)
        return -EINVAL;
    budget = budget ? budget : tok->n;
    struct vl_kept kept = {.n = 0};
    int e = r->ops->after_projector(r->state, x, tok, budget, &kept);
    if (e == 0 && kept.n > budget)
        e = -EINVAL;
    return e < 0 ? e : vl_visual_tokens_apply(x, tok, &kept, r->host);
}
