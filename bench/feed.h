/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BENCH_FEED_H
#define VL_BENCH_FEED_H
#include "engine/engine.h"

/* One engine and one session that a benchmark drives by hand, at the model's pace: a picture goes in, and the
 * call returns when it has been seen. Trouble ends the program with what and why: a benchmark has no caller
 * who could do better. One thread. */
struct vl_feed {
    struct vl_engine *engine;
    struct vl_mailbox *box;
    uint64_t session;
    struct vl_session_stats stats; /* after the last frame that was seen */
    int64_t cpu_ns; /* of all threads, from the last frame's or question's arrival to its end: unlike time,
                     * it is the same on a busy machine */
    bool skipped;   /* the last frame was not seen */
    char caption[1200]; /* about the last frame */
    char answer[8192];  /* to the last question */
    struct vl_turn_stats turn;
    enum vl_turn_status status;
};
void vl_feed_open(struct vl_feed *f, const struct vl_engine_opts *o); /* returns when READY */
void vl_feed_begin(struct vl_feed *f,
                   const struct vl_session_opts *o); /* a new stream; the one before is closed */
/* RGB24 [height, width, 3], copied. The wall clock of the frame is now. A frame that
 * the engine passed over, say for want of room in the cache, is `skipped`. */
void vl_feed_show(struct vl_feed *f, const uint8_t *rgb, uint32_t width, uint32_t height, int64_t pts_ns);
void vl_feed_show_frame(struct vl_feed *f, struct vl_frame *frame); /* takes over the reference */
void vl_feed_ask(struct vl_feed *f, const char *question, uint32_t max_tokens);
void vl_feed_put(struct vl_feed *f, const struct vl_ask *ask); /* as ask, in all words but the session */
void vl_feed_close(struct vl_feed *f);
_Noreturn void vl_feed_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#endif
