/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BENCH_SWEEP_H
#define VL_BENCH_SWEEP_H
#include "bench/exam.h"

/* The exam under every saving there is: each registered reducer and KV policy at some percentages, on the
 * same scenes. Of a reducer it is percent of the model's tokens a frame; of a policy, of the bytes that the
 * default window comes to hold. Two passes. In the first, scenes are shared out to processes of one engine
 * thread each, and only what does not depend on time is counted. In the second one engine works at a time:
 * each setting in turn with the plain one, frame by frame, since what else the machine does would else be
 * measured. */
enum { VL_SWEEP_SCENES = 100, VL_SWEEP_TIMED = 3, VL_SWEEP_PERCENTS = 8 };
struct vl_sweep_opts {
    const char *model, *mmproj, *backend, *csv;
    uint32_t first, n_scenes, n_timed, n_jobs; /* n_jobs 0: one for each CPU */
    uint32_t n_seconds;                        /* of each scene, 0: all */
    uint32_t percent[VL_SWEEP_PERCENTS], n_percents;
    float event_rate;
};
void vl_sweep(const struct vl_sweep_opts *o);

/* ---- what is measured, for sweep_report.c ---- */

/* What a saving works on: frames as they arrive, a question's fork, or pages of the cache. */
enum vl_sweep_kind { VL_SWEEP_NONE, VL_SWEEP_ARRIVAL, VL_SWEEP_QUESTION, VL_SWEEP_POLICY };
struct vl_sweep_setting {
    enum vl_sweep_kind kind;
    const char *name;
    uint32_t percent;
    struct vl_exam_how how;
};

/* Each is a quotient of two sums over scenes. */
enum vl_sweep_mark {
    VL_SWEEP_ANSWERS, /* of all categories that need eyes */
    VL_SWEEP_TOP,     /* by the third of the picture in which the object asked about is */
    VL_SWEEP_MIDDLE,
    VL_SWEEP_BOTTOM,
    VL_SWEEP_CAPTIONS, /* fully right, of the seconds in which something happened */
    VL_SWEEP_FALSE,    /* captions a minute of the seconds in which nothing did */
    VL_SWEEP_KV,       /* bytes held behind a frame */
    VL_SWEEP_TOKENS,   /* that are looked at, of a frame */
    VL_SWEEP_SKIPPED,  /* frames for which the cache had no room */
    VL_SWEEP_CATEGORY, /* + enum vl_quiz_category */
    VL_SWEEP_MARKS = VL_SWEEP_CATEGORY + VL_QUIZ_N_CATEGORIES,
};
struct vl_sweep_score {
    double sum[VL_SWEEP_MARKS], of[VL_SWEEP_MARKS];
    double most_bytes; /* of the cache, held at once */
};

enum vl_sweep_time {
    VL_SWEEP_FRAME,  /* processor time from its arrival to its end, the reducer's work included */
    VL_SWEEP_ENCODE, /* of that; these three are wall time */
    VL_SWEEP_PREFILL,
    VL_SWEEP_DECODE,
    VL_SWEEP_ASK, /* processor time of a question, answer included */
    VL_SWEEP_TIMES,
};
/* Medians, and those of the plain setting that was measured in turn with it. */
struct vl_sweep_timing {
    uint32_t n[VL_SWEEP_TIMES];
    double ms[VL_SWEEP_TIMES], plain_ms[VL_SWEEP_TIMES];
    double low_ratio[VL_SWEEP_TIMES], high_ratio[VL_SWEEP_TIMES]; /* bootstrap, of ms / plain_ms */
};

struct vl_sweep_result {
    const struct vl_sweep_setting *setting; /* [n_settings], the first is the plain one */
    const struct vl_sweep_score *score;     /* [n_settings, n_scenes] */
    const struct vl_sweep_timing *timing;   /* [n_settings] */
    uint32_t n_settings, n_scenes;
    const char *about; /* one line: model, scenes, machine */
};
/* Writes the CSV; dies when it cannot. */
void vl_sweep_report(const struct vl_sweep_result *r, const char *path);

bool vl_sweep_is_saver(const char *name);            /* one of those that must be beaten */
int vl_sweep_by_value(const void *a, const void *b); /* of doubles */
#endif
