/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Every KV policy there is, one line each; the first is the default. The conformance suite walks this table.
 */
#include "kvcache/policy.h"

extern const struct vl_kv_policy vl_kv_h2o;
extern const struct vl_kv_policy vl_kv_sink_window;
extern const struct vl_kv_policy vl_kv_visual_age;

const struct vl_kv_policy *const vl_kv_policies[] = {
    &vl_kv_sink_window,
    &vl_kv_visual_age,
    &vl_kv_h2o,
    NULL,
};
