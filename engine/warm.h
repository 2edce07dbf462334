/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_WARM_H
#define VL_ENGINE_WARM_H
#include "engine/machine.h"

#include <stdatomic.h>

/* One pass of all that the engine does, on a model just loaded: pages are touched and code is read before the
 * first real question, and a model that cannot run is found out here. Ends early when *stop becomes true
 * (-ECANCELED). Engine thread. */
int vl_warm_up(struct vl_machine *m, const atomic_bool *stop, struct vl_error *err);
#endif
