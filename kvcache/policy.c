/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Finds a policy by name: the names come from the configuration and the bus, so a typo explains itself. */
#include "kvcache/policy.h"

#include <string.h>

int vl_kv_policy_find(const struct vl_kv_policy **ret, const char *name, struct vl_error *err)
{
    enum { MAX_NAMES = 64 };
    const char *known[MAX_NAMES];
    size_t n = 0;
    for (; vl_kv_policies[n] && n < MAX_NAMES; n++) {
        if (!strcmp(vl_kv_policies[n]->name, name)) {
            *ret = vl_kv_policies[n];
            return 0;
        }
        known[n] = vl_kv_policies[n]->name;
    }
    const char *near = vl_nearest(name, known, n);
    return vl_error_set(err, -EINVAL, "unknown KV policy '%.60s'; did you mean '%s'?", name,
                        near ? near : vl_kv_policies[0]->name);
}
