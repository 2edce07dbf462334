/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Which pictures are looked at, by their presentation time and before anything is converted: one in each
 * interval, on a grid that does not drift, whatever the rate, also of sources without one. Sources lie about
 * time: single stamps that are off are left out, and a lasting step becomes a new line of time with a gap.
 * Plain data; one thread.
 */
#ifndef VL_PIPELINES_SAMPLER_H
#define VL_PIPELINES_SAMPLER_H
#include <stdbool.h>
#include <stdint.h>

struct vl_pts_sampler {
    int64_t interval_ns; /* 0: every picture */
    int64_t max_step_ns; /* a stamp further ahead than this is doubted */
    int64_t start_ns;    /* media time of the first picture */
    bool started, gap;
    int64_t last_pts, step, last_media, first_media, due;
    uint32_t n_odd; /* doubtful stamps in a row */
    uint64_t n_in,
        n_stray; /* pictures seen; left out because their stamp was no later than the last, or doubtful */
};
enum { VL_SAMPLE_SKIP = 0, VL_SAMPLE_TAKE = 1 };

/* live: a step of more than 5 s ahead is doubted, of a file one of more than 60 s. start_ns: of a stream that
 * goes on. */
void vl_pts_sampler_init(struct vl_pts_sampler *s, int64_t interval_ns, bool live, int64_t start_ns);
void vl_pts_sampler_set_interval(struct vl_pts_sampler *s, int64_t interval_ns);
/* pts_ns < 0: the picture has no stamp, and is taken to follow the last at the last step. On VL_SAMPLE_TAKE
 * *ret_media_ns is its media time, strictly rising, and *ret_gap says that time before it is missing. */
int vl_pts_sampler_push(struct vl_pts_sampler *s, int64_t pts_ns, int64_t *ret_media_ns, bool *ret_gap);
/* The source starts its stamps again (a loop, a new connection): media time goes on after the last picture.
 * gap: time is missing between. */
void vl_pts_sampler_restart(struct vl_pts_sampler *s, bool gap);
#endif
