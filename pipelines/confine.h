/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_CONFINE_H
#define VL_PIPELINES_CONFINE_H
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* What a process that reads foreign bytes gives up, for good, before it reads the first: new privileges, core
 * dumps, most of its address space and descriptors, every path (Landlock), and every system call that
 * decoding does not need (seccomp). It keeps what is open and mapped, memory, threads, clocks and memfds. One
 * thread only may exist. */
struct vl_confinement {
    uint64_t memory_bytes; /* RLIMIT_AS; not in sanitizer builds, whose shadow alone is terabytes */
    bool landlock;         /* out: this kernel has it and it is on */
};
/* Empties the environment and closes every descriptor but 0, 1, 2 and keep[]; before libraries are set up. */
int vl_confine_inherited(const int *keep, unsigned n_keep);
int vl_confine(struct vl_confinement *c, struct vl_error *err);
/* Confines this process and prints one line for each thing that must fail: "refused WHAT" or "ALLOWED WHAT".
 * Returns how many were allowed, or a negative errno. */
int vl_confine_self_test(void);
#endif
