/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_CLOCK_H
#define VL_BASE_CLOCK_H
#include <stdint.h>
#define VL_NSEC_PER_SEC  INT64_C(1000000000)
#define VL_NSEC_PER_MSEC INT64_C(1000000)
#define VL_NSEC_PER_USEC INT64_C(1000)
int64_t vl_clock_monotonic_ns(void); /* every interval and timer */
int64_t vl_clock_wall_ns(void);      /* CLOCK_REALTIME: a label for people, never a timer */
#endif
