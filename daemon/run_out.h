/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_RUN_OUT_H
#define VL_DAEMON_RUN_OUT_H
#include "daemon/run_args.h"

/* What `vlmd run` prints: for people, or with --json one object a line (docs/run.md). Captions and answers on
 * stdout, progress and trouble on stderr, progress on a terminal only. Embedded in its run; main thread. */
struct vl_run_out {
    const struct vl_run_args *a; /* borrowed */
    bool terminal;               /* stderr is one */
    bool status_shown;           /* the line of progress stands on the terminal */
    bool speaking;               /* an answer has begun */
    bool broken;                 /* nobody reads stdout any more */
    uint64_t n_captions;
    char *answer; /* --json: the pieces so far */
    size_t n_answer;
    char error[240]; /* what was told last; --json repeats it in the last record */
};
void vl_run_out_init(struct vl_run_out *o, const struct vl_run_args *a);
void vl_run_out_done(struct vl_run_out *o);

void vl_run_out_loading(struct vl_run_out *o, double fraction);
void vl_run_out_model(struct vl_run_out *o, const struct vl_engine_info *info);
void vl_run_out_playing(struct vl_run_out *o, int64_t pts_ns, const struct vl_session_stats *stats);
void vl_run_out_caption(struct vl_run_out *o, const struct vl_event *ev);
void vl_run_out_question(struct vl_run_out *o, const struct vl_run_ask *ask);
void vl_run_out_text(struct vl_run_out *o, const struct vl_event *ev);
/* The answer's end. pts_ns: of the last frame seen; negative: no video. */
void vl_run_out_answer(struct vl_run_out *o, const struct vl_run_ask *ask, const struct vl_event *ev,
                       int64_t pts_ns);
void vl_run_out_error(struct vl_run_out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void vl_run_out_end(struct vl_run_out *o, int code, const struct vl_session_stats *stats /* or NULL */);
#endif
