/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Presentation times, as sources really stamp them, become a grid of samples. See sampler.h for the rules. */
#include "pipelines/sampler.h"

#include "base/clock.h"
#include "base/frame.h"
#include "pipelines/source.h"

#include <stdbool.h>
#include <string.h>

#define BACK_NS      (5 * VL_NSEC_PER_SEC)
#define NEW_LINE_NS  (5 * VL_NSEC_PER_SEC) /* how near to each other odd stamps must be to agree */
#define FIRST_DELTA  (40 * VL_NSEC_PER_MSEC)
#define MAX_MEDIA_NS (INT64_MAX / 4) /* 73 years; sums below cannot overflow */
enum { N_NEW_LINE = 3 };

void vl_sampler_init(struct vl_sampler *s, int64_t interval_ns, int64_t step_ns, int64_t start_ns)
{
    memset(s, 0, sizeof(*s));
    s->interval_ns = interval_ns;
    s->step_ns = step_ns;
    s->start_ns = start_ns;
    s->delta_ns = FIRST_DELTA;
    s->flags = start_ns ? VL_FRAME_GAP : 0;
}

void vl_sampler_set_interval(struct vl_sampler *s, int64_t interval_ns)
{
    s->interval_ns = interval_ns;
    s->due_ns = s->taken_ns + interval_ns;
}

/* A line that begins within seconds of the start is left as the media has it; any other begins at the start.
 */
static int64_t begin(struct vl_sampler *s, int64_t pts_ns)
{
    int64_t media = s->start_ns;
    if (pts_ns >= media && pts_ns - media < BACK_NS)
        media = pts_ns;
    s->started = 1;
    s->offset_ns = 0;
    if (pts_ns != VL_PTS_NONE)
        s->offset_ns = media - pts_ns; /* pts_ns > INT64_MIN and media is small, so this fits */
    s->due_ns = media;
    return media;
}

/* Where the stamp says the picture is; false: that cannot be believed. */
static bool on_line(const struct vl_sampler *s, int64_t pts_ns, int64_t *ret_media_ns)
{
    int64_t media;
    if (__builtin_add_overflow(pts_ns, s->offset_ns, &media) || media > MAX_MEDIA_NS || media < -MAX_MEDIA_NS)
        return false;
    if (media - s->last_ns > s->step_ns || s->last_ns - media > BACK_NS)
        return false;
    *ret_media_ns = media;
    return true;
}

static int64_t off_line(struct vl_sampler *s, int64_t pts_ns)
{
    int64_t media = s->last_ns + s->delta_ns, step;
    bool agrees =
        s->n_odd > 0 && !__builtin_sub_overflow(pts_ns, s->odd_ns, &step) && step > 0 && step <= NEW_LINE_NS;
    s->n_odd = agrees ? s->n_odd + 1 : 1;
    s->odd_ns = pts_ns;
    s->n_restamped++;
    int64_t offset;
    if (s->n_odd >= N_NEW_LINE && !__builtin_sub_overflow(media, pts_ns, &offset)) {
        s->offset_ns = offset;
        s->flags |= VL_FRAME_GAP;
        s->n_odd = 0;
    }
    return media;
}

/* Whether the picture at media is the one for the grid's next point; frame_ns is the time between pictures.
 */
static bool is_due(struct vl_sampler *s, int64_t media, int64_t frame_ns)
{
    if (s->interval_ns == 0)
        return true;
    int64_t half = (frame_ns < s->interval_ns ? frame_ns : s->interval_ns) / 2;
    if (media + half <= s->due_ns && media < s->due_ns)
        return false;
    int64_t base = media - s->due_ns > frame_ns ? media : s->due_ns;
    s->due_ns = base + s->interval_ns;
    if (s->due_ns <= media)
        s->due_ns += (media - s->due_ns) / s->interval_ns * s->interval_ns + s->interval_ns;
    return true;
}

int vl_sampler_offer(struct vl_sampler *s, int64_t pts_ns, int64_t *ret_media_ns, uint32_t *ret_flags)
{
    int64_t media, frame_ns = s->delta_ns;
    if (!s->started) {
        media = begin(s, pts_ns);
    } else {
        if (pts_ns == VL_PTS_NONE)
            media = s->last_ns + s->delta_ns;
        else if (on_line(s, pts_ns, &media))
            s->n_odd = 0;
        else
            media = off_line(s, pts_ns);
        if (media <= s->last_ns) {
            s->n_duplicate++;
            return VL_SAMPLE_DUPLICATE;
        }
        if (media - s->last_ns < frame_ns)
            frame_ns = media - s->last_ns;
        s->delta_ns = media - s->last_ns;
    }
    s->last_ns = media;
    if (!is_due(s, media, frame_ns))
        return VL_SAMPLE_SKIP;
    s->taken_ns = media;
    *ret_media_ns = media;
    *ret_flags = s->flags;
    s->flags = 0;
    return 0;
}
