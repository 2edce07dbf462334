/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Every reducer there is, one line each. The conformance suite walks this table. */
#include "tokenprune/reducer.h"

extern const struct vl_reducer_ops vl_reducer_uniform;
extern const struct vl_reducer_ops vl_reducer_resolution;
extern const struct vl_reducer_ops vl_reducer_temporal_diff;
extern const struct vl_reducer_ops vl_reducer_tome_merge;
extern const struct vl_reducer_ops vl_reducer_diverse;
extern const struct vl_reducer_ops vl_reducer_crossget;
extern const struct vl_reducer_ops vl_reducer_hired;
extern const struct vl_reducer_ops vl_reducer_turbo;
extern const struct vl_reducer_ops vl_reducer_feather;
extern const struct vl_reducer_ops vl_reducer_zipvl;

/* clang-format off */
const struct vl_reducer_ops *const vl_reducers[] = {
    &vl_reducer_uniform,
    &vl_reducer_resolution,
    &vl_reducer_temporal_diff,
    &vl_reducer_tome_merge,
    &vl_reducer_diverse,
    &vl_reducer_crossget,
    &vl_reducer_hired,
    &vl_reducer_turbo,
    &vl_reducer_feather,
    &vl_reducer_zipvl,
    NULL,
};
/* clang-format on */
