/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_SAMPLER_H
#define VL_PIPELINES_SAMPLER_H
#include <stdint.h>

/* Chooses frames by their presentation times, and makes of those times one line that only rises, however the
 * source stamps its pictures. Nothing is taken from caps: a rate of 0/1 or a variable one is the usual case.
 *
 * A stamp more than back_ns behind or step_ns ahead is not believed: that picture is put where the next was
 * due. Three of them in a row that agree with each other begin a new line, and the next frame taken says
 * VL_FRAME_GAP. Within those bounds, what does not rise is left out and counted.
 *
 * A frame is taken when it is the nearest to a point of the grid of intervals; after a hole of more than a
 * frame the grid begins anew, so two frames are never closer than the interval less one frame. Embedded, one
 * thread. */
struct vl_sampler {
    int64_t interval_ns, step_ns;
    int64_t start_ns; /* media time of the first frame */
    /* the line */
    int started, n_odd;
    uint32_t flags;    /* for the next frame taken */
    int64_t offset_ns; /* media = raw + offset */
    int64_t last_ns;   /* media time of the last picture, taken or not */
    int64_t odd_ns;    /* raw time of the last one that was not believed */
    int64_t delta_ns;  /* between the last two pictures */
    /* the grid */
    int64_t taken_ns, due_ns;
    uint64_t n_duplicate, n_restamped;
};
enum { VL_SAMPLE_SKIP = 1, VL_SAMPLE_DUPLICATE = 2 };
void vl_sampler_init(struct vl_sampler *s, int64_t interval_ns, int64_t step_ns, int64_t start_ns);
/* Counts from the last frame taken. */
void vl_sampler_set_interval(struct vl_sampler *s, int64_t interval_ns);
/* 0: take it, with its media time and VL_FRAME_GAP or 0 in *ret_flags. VL_SAMPLE_SKIP; VL_SAMPLE_DUPLICATE:
 * time did not rise. pts_ns VL_PTS_NONE: one picture after the last. */
int vl_sampler_offer(struct vl_sampler *s, int64_t pts_ns, int64_t *ret_media_ns, uint32_t *ret_flags);
#endif
