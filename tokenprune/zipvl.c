/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * zipvl: in each layer of a question's fork only the fewest visual tokens that together received `tau` of the
 * attention that the question pays to visual tokens (ZipVL, He et al. 2024). How many they are thus follows
 * from the layer: little in one where attention is narrow, nearly all in one where it is spread. This is the
 * paper's second version, which evicts the others from that layer's cache; the first one kept them at fewer
 * bits.
 *
 * What ours changes: probabilities are summed over the last 64 words of the question rather than over recent
 * and random ones, all of which see all visual tokens, so that the sum needs no division by how many could;
 * text is never left out; and what one layer leaves out, others still see. A budget is a bound on top.
 *
 * It does not pay on a CPU: a probe in every layer makes the question take 1.4 (8 frames in view) to 1.6
 * times as long (32), of SmolVLM 256M's shape, and a reply of usual length does not win it back. It is no
 * default.
 *
 * Measured on the built-in model (docs/measurements/quality-2026-11-26.md): with a fifth of the tokens
 * answers are as right as with all, but a question takes 1.2 times as long, since choosing costs more than so
 * short a window gives back. It does not beat `uniform` and `resolution` at the same time of a question.
 */
#include "tokenprune/choice.h"

struct state {
    double tau;
    struct vl_choice c;
};

static const struct vl_param_desc params[] = {
    {"tau", "share of the attention paid to visual tokens that is kept in each layer; 1: all", 0.975, 0.1, 1},
    {NULL, NULL, 0, 0, 0},
};

static size_t state_size(const struct vl_params *p, const struct vl_reducer_shape *s)
{
    (void)p;
    return sizeof(struct state) + vl_choice_size(s);
}

static int init(void *state, const struct vl_params *p, const struct vl_reducer_shape *s,
                struct vl_error *err)
{
    struct state *z = state;
    *z = (struct state){.tau = 0.975};
    int r = vl_params_f64(p, "tau", &z->tau);
    if (r < 0)
        return vl_error_set(err, r, "zipvl: tau is a number");
    vl_choice_init(&z->c, z + 1, s);
    return 0;
}

static void reset(void *state)
{
    (void)state; /* every layer is answered on its own */
}

static bool probe(const void *state, unsigned layer, unsigned n_layers, struct vl_reducer_probe *ret)
{
    const struct state *z = state;
    (void)layer;
    (void)n_layers;
    *ret = (struct vl_reducer_probe){.n_queries = 64, .this_layer = true};
    return z->tau < 1;
}

/* The shortest beginning of order that has the mass. */
static uint32_t count_mass(const struct state *z, uint32_t n)
{
    double all = 0, sum = 0;
    uint32_t k = 0;
    for (uint32_t i = 0; i < n; i++)
        all += (double)z->c.score[i];
    if (!(all > 0))
        return n; /* nothing is known */
    while (k < n && (k == 0 || sum < z->tau * all))
        sum += (double)z->c.score[z->c.order[k++]];
    return k;
}

static int in_decoder(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                      const struct vl_tensor *score, uint32_t budget, struct vl_kept *ret)
{
    struct state *z = state;
    (void)layer;
    int r = vl_choice_begin(&z->c, tok, tok->n);
    if (r == 0)
        r = vl_choice_scores(&z->c, x, score, tok->n);
    if (r < 0)
        return r;
    vl_choice_rank(z->c.order, z->c.score, tok->n);
    const uint32_t n = count_mass(z, tok->n);
    vl_choice_fill(&z->c, tok->n, budget && budget < n ? budget : n);
    return vl_choice_answer(&z->c, x, tok->n, ret);
}

extern const struct vl_reducer_ops vl_reducer_zipvl;
const struct vl_reducer_ops vl_reducer_zipvl = {
    .name = "zipvl",
    .paper = "ZipVL (v2, eviction), He et al. 2024",
    .params = params,
    .needs_question = true,
    .own_measure = true,
    .state_size = state_size,
    .init = init,
    .reset = reset,
    .probe = probe,
    .in_decoder = in_decoder,
};
