/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * How vlmd-ingest gives up what it does not need before it reads a byte from outside. Main thread, once,
 * before any other thread is started. There is no way back.
 */
#ifndef VL_PIPELINES_CONFINE_H
#define VL_PIPELINES_CONFINE_H
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* First thing in main: closes every descriptor from 3 on but those in keep (n <= 16). */
int vl_confine_descriptors(const int *keep, size_t n, struct vl_error *err);

/* After the plugins are loaded: PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE 0, PR_SET_PDEATHSIG SIGKILL, RLIMIT_AS
 * `memory`, RLIMIT_NOFILE 64, RLIMIT_CORE 0, Landlock without a rule, and a seccomp allow-list: no open,
 * socket, exec, process, ptrace or executable memory; what is not on the list is EPERM. *ret_landlock: false
 * where the kernel has none, which is no failure: seccomp refuses the same calls. Any other failure is
 * negative, and then nothing may be read. */
int vl_confine(uint64_t memory, bool *ret_landlock, struct vl_error *err);

/* Tries what must now fail, a file and a socket among it, and prints "NAME: refused" or "NAME: ALLOWED" for
 * each on standard output. Returns how many were allowed: 0 is what it must be. */
int vl_confine_self_test(void);
#endif
