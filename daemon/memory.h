/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_MEMORY_H
#define VL_DAEMON_MEMORY_H
#include <stdint.h>

/* The memory that this process may come to hold: what the machine has, or a control group above us allows
 * when that is less. proc_cgroup: /proc/self/cgroup, and root: where the groups of version 2 are mounted;
 * both are arguments for the unit test. What cannot be read does not count. */
uint64_t vl_memory_limit(const char *proc_cgroup, const char *root);
/* The budget of models when none is configured: four fifths of it, the rest is for streams' children, frames
 * on their way, and others. */
uint64_t vl_memory_default_budget(void);
#endif
