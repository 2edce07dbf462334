/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Sampling by presentation time. Media time is the stamps' differences added up, so it cannot jump unless we
 * let it. */
#include "pipelines/sampler.h"

#include "base/clock.h"

enum { NEW_LINE_AFTER = 3 }; /* doubtful stamps in a row that agree are the truth */

void vl_pts_sampler_init(struct vl_pts_sampler *s, int64_t interval_ns, bool live, int64_t start_ns)
{
    *s = (struct vl_pts_sampler){
        .interval_ns = interval_ns,
        .max_step_ns = (live ? 5 : 60) * VL_NSEC_PER_SEC,
        .start_ns = start_ns,
        .step = VL_NSEC_PER_SEC / 25,
    };
}

void vl_pts_sampler_set_interval(struct vl_pts_sampler *s, int64_t interval_ns)
{
    s->interval_ns = interval_ns;
    s->first_media = s->last_media;
    s->due = s->last_media + interval_ns;
}

void vl_pts_sampler_restart(struct vl_pts_sampler *s, bool gap)
{
    if (!s->started)
        return;
    s->start_ns = s->last_media + s->step;
    s->started = false;
    s->gap |= gap;
}

/* Grid points are first_media + k * interval; the next one after a picture that was taken. */
static void advance(struct vl_pts_sampler *s, int64_t media, int64_t slack)
{
    if (s->interval_ns > 0)
        s->due = s->first_media + ((media + slack - s->first_media) / s->interval_ns + 1) * s->interval_ns;
}

static int judge(struct vl_pts_sampler *s, int64_t media, int64_t *ret_media_ns, bool *ret_gap)
{
    /* A thirtieth of a second is 33333333 ns: the thirtieth picture is a little early. */
    int64_t slack = s->interval_ns / 100 < 5 * VL_NSEC_PER_MSEC ? s->interval_ns / 100 : 5 * VL_NSEC_PER_MSEC;
    s->last_media = media;
    if (s->interval_ns > 0 && media + slack < s->due)
        return VL_SAMPLE_SKIP;
    advance(s, media, slack);
    *ret_media_ns = media;
    *ret_gap = s->gap;
    s->gap = false;
    return VL_SAMPLE_TAKE;
}

static int begin(struct vl_pts_sampler *s, int64_t pts_ns, int64_t *ret_media_ns, bool *ret_gap)
{
    bool first = s->n_in == 1;
    s->started = true;
    s->last_pts = pts_ns;
    s->n_odd = 0;
    if (first) {
        s->first_media = s->start_ns;
        s->due = s->start_ns;
    }
    return judge(s, s->start_ns, ret_media_ns, ret_gap);
}

int vl_pts_sampler_push(struct vl_pts_sampler *s, int64_t pts_ns, int64_t *ret_media_ns, bool *ret_gap)
{
    s->n_in++;
    if (pts_ns < 0)
        pts_ns = s->started ? s->last_pts + s->step : 0;
    if (!s->started)
        return begin(s, pts_ns, ret_media_ns, ret_gap);
    int64_t step = 0;
    bool huge = __builtin_sub_overflow(pts_ns, s->last_pts, &step);
    if (!huge && step <= 0 && step >= -s->max_step_ns) {
        s->n_stray++; /* a repeat, or pictures out of order: never two moments */
        return VL_SAMPLE_SKIP;
    }
    if (huge || step > s->max_step_ns || step < 0) {
        if (++s->n_odd < NEW_LINE_AFTER) {
            s->n_stray++;
            return VL_SAMPLE_SKIP;
        }
        step = s->step; /* a new line of time: it goes on where the old one ended */
        s->gap = true;
    } else {
        s->step = step;
    }
    s->n_odd = 0;
    s->last_pts = pts_ns;
    return judge(s, s->last_media + step, ret_media_ns, ret_gap);
}
