/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_LOG_SINK_H
#define VL_DAEMON_LOG_SINK_H
/* Where the daemon's log goes: to the journal with its fields when standard error is connected to it, else to
 * standard error. Captions, questions and answers are never logged. */
enum vl_log_target { VL_LOG_TARGET_AUTO, VL_LOG_TARGET_CONSOLE, VL_LOG_TARGET_JOURNAL };
void vl_log_sink_set(enum vl_log_target t); /* main thread; AUTO decides by $JOURNAL_STREAM */
enum vl_log_target vl_log_sink_get(void);   /* never AUTO */
#endif
