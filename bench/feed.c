/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Drives an engine by hand: waits for the one event that matters. */
#include "bench/feed.h"

#include "base/clock.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

_Noreturn void vl_feed_die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
    exit(1);
}

/* Waits so long for an event. False: none came. */
static bool wait_for(struct vl_feed *f, int ms, struct vl_event *ret)
{
    while (vl_engine_next_event(f->engine, ret) == VL_ENGINE_EMPTY) {
        struct pollfd p = {.fd = vl_engine_event_fd(f->engine), .events = POLLIN};
        if (poll(&p, 1, ms) == 0)
            return false;
    }
    if (ret->type == VL_EVENT_FAILED)
        vl_feed_die("%s", ret->error.msg);
    return true;
}

static struct vl_event next(struct vl_feed *f)
{
    struct vl_event ev;
    if (!wait_for(f, 120000, &ev))
        vl_feed_die("the engine has said nothing for two minutes");
    return ev;
}

void vl_feed_open(struct vl_feed *f, const struct vl_engine_opts *o)
{
    struct vl_error err;
    *f = (struct vl_feed){0};
    if (vl_engine_new(&f->engine, o, &err) < 0)
        vl_feed_die("%s", err.msg);
    while (next(f).type != VL_EVENT_READY)
        ;
}

static void end(struct vl_feed *f)
{
    if (f->session)
        (void)vl_engine_close_session(f->engine, f->session);
    f->box = vl_mailbox_unref(f->box);
    f->session = 0;
}

void vl_feed_begin(struct vl_feed *f, const struct vl_session_opts *o)
{
    struct vl_error err;
    end(f);
    f->stats = (struct vl_session_stats){0};
    if (vl_engine_open_session(f->engine, o, &f->session, &err) < 0)
        vl_feed_die("%s", err.msg);
    if (vl_mailbox_new(&f->box, 1, NULL, NULL) < 0 || vl_engine_watch(f->engine, f->session, f->box) < 0)
        vl_feed_die("cannot watch");
}

static void release(struct vl_frame *frame)
{
    free(frame->owner);
    free(frame);
}

static int64_t cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* every Linux has it */
    return t.tv_sec * VL_NSEC_PER_SEC + t.tv_nsec;
}

static struct vl_frame *copy_frame(const uint8_t *rgb, uint32_t width, uint32_t height, int64_t pts_ns)
{
    size_t size = (size_t)width * height * 3;
    struct vl_frame *frame = calloc(1, sizeof(*frame));
    uint8_t *copy = malloc(size);
    if (!frame || !copy)
        vl_feed_die("no memory for a frame");
    memcpy(copy, rgb, size);
    *frame = (struct vl_frame){.plane = {copy},
                               .stride = {width * 3},
                               .width = width,
                               .height = height,
                               .format = VL_PIXFMT_RGB24,
                               .pts_ns = pts_ns,
                               .wall_ns = vl_clock_wall_ns(),
                               .refs = 1,
                               .release = release,
                               .owner = copy};
    return frame;
}

/* The engine has let go of the frame, has nothing to do and nothing to say: it passed over it. */
static bool was_skipped(struct vl_feed *f, struct vl_frame *frame, struct vl_event *ret, bool *ret_got)
{
    enum { LOOK_EVERY_MS = 20 };
    uint64_t count;
    bool idle;
    if ((*ret_got = wait_for(f, LOOK_EVERY_MS, ret)) || atomic_load(&frame->refs) > 1)
        return false;
    vl_engine_heartbeat(f->engine, &count, &idle);
    return idle && !(*ret_got = wait_for(f, 0, ret));
}

void vl_feed_show(struct vl_feed *f, const uint8_t *rgb, uint32_t width, uint32_t height, int64_t pts_ns)
{
    vl_feed_show_frame(f, copy_frame(rgb, width, height, pts_ns));
}

void vl_feed_show_frame(struct vl_feed *f, struct vl_frame *frame)
{
    f->caption[0] = '\0';
    f->skipped = false;
    const int64_t t0 = vl_clock_monotonic_ns(), cpu0 = cpu_ns();
    (void)vl_mailbox_put(f->box, vl_frame_ref(frame));
    for (bool seen = false; !seen && !f->skipped;) {
        struct vl_event ev;
        bool got = false;
        f->skipped = was_skipped(f, frame, &ev, &got);
        if (!got && vl_clock_monotonic_ns() - t0 > 120 * VL_NSEC_PER_SEC)
            vl_feed_die("the engine has said nothing about a frame for two minutes");
        if (!got || ev.session != f->session)
            continue;
        if (ev.type == VL_EVENT_CAPTION_DONE)
            (void)snprintf(f->caption, sizeof(f->caption), "%s", ev.text);
        if (ev.type != VL_EVENT_FRAME_SEEN)
            continue;
        f->stats = ev.session_stats;
        seen = true;
    }
    f->cpu_ns = cpu_ns() - cpu0;
    (void)vl_frame_unref(frame);
}

void vl_feed_ask(struct vl_feed *f, const char *question, uint32_t max_tokens)
{
    vl_feed_put(f,
                &(struct vl_ask){.text = question, .max_tokens = max_tokens, .sampling = VL_SAMPLING_GREEDY});
}

void vl_feed_put(struct vl_feed *f, const struct vl_ask *ask)
{
    struct vl_ask q = *ask;
    struct vl_error err;
    uint64_t turn;
    q.session = f->session;
    if (vl_engine_ask(f->engine, &q, &turn, &err))
        vl_feed_die("%s", err.msg);
    const int64_t cpu0 = cpu_ns();
    f->answer[0] = '\0';
    for (;;) {
        struct vl_event ev = next(f);
        if (ev.turn != turn)
            continue;
        size_t n = strlen(f->answer);
        if (ev.type == VL_EVENT_TEXT)
            (void)snprintf(f->answer + n, sizeof(f->answer) - n, "%s", ev.text);
        if (ev.type == VL_EVENT_TURN_DONE) {
            f->status = ev.status;
            f->turn = ev.turn_stats;
            f->cpu_ns = cpu_ns() - cpu0;
            return;
        }
    }
}

void vl_feed_close(struct vl_feed *f)
{
    end(f);
    f->engine = vl_engine_unref(f->engine);
}
