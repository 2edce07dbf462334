/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The two clocks. Nothing else in the tree calls clock_gettime. */
#include "base/clock.h"

#include <time.h>

static int64_t now_ns(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t); /* cannot fail for these two clocks */
    return t.tv_sec * VL_NSEC_PER_SEC + t.tv_nsec;
}

int64_t vl_clock_monotonic_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}

int64_t vl_clock_wall_ns(void)
{
    return now_ns(CLOCK_REALTIME);
}
