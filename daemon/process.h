/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_PROCESS_H
#define VL_DAEMON_PROCESS_H

/* The first and the last of what a vlmd process does, whether it is a daemon or runs one command. Main
 * thread. */

/* Blocks SIGTERM and SIGINT (an sd_event source takes them up), ignores SIGPIPE, raises the limit of open
 * files. Before any thread. Negative errno. */
int vl_process_begin(void);
/* From now on the process has 0.8 s to hand things back in order; then it ends with code all the same. */
void vl_process_limit_end(int code);
#endif
