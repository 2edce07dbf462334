/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_ENGINE_DRIVER_H
#define VL_TESTS_ENGINE_DRIVER_H
/* Drives an engine with the scripted model, and reads what comes out of it. */
#include "tests/harness.h"

#include "base/clock.h"
#include "tests/unit/engine_log.h"
#include "tests/unit/scripted_model.h"

#include <poll.h>

#define HOUR (3600 * VL_NSEC_PER_SEC)

static atomic_int n_live_frames;

static inline void release_frame(struct vl_frame *f)
{
    free((void *)f->plane[0]);
    free(f);
    atomic_fetch_sub(&n_live_frames, 1);
}

static inline struct vl_frame *new_frame(uint8_t value, double pts, uint32_t flags)
{
    struct vl_frame *f = calloc(1, sizeof(*f));
    uint8_t *p = malloc(8 * 8 * 3);
    assert_true(f && p);
    memset(p, value, 8 * 8 * 3);
    *f = (struct vl_frame){.plane = {p},
                           .stride = {24},
                           .width = 8,
                           .height = 8,
                           .format = VL_PIXFMT_RGB24,
                           .flags = flags,
                           .pts_ns = (int64_t)(pts * 1e9),
                           .wall_ns = (int64_t)((1000 + pts) * 1e9),
                           .refs = 1,
                           .release = release_frame};
    atomic_fetch_add(&n_live_frames, 1);
    return f;
}

/* ---- steps ---- */

/* From now on each layer and each run of the model waits: pump lets one go when all that the last led to was
 * read, step lets some go, and stop opens for good. */
static inline void go_by_steps(void)
{
    atomic_store(&scripted_gate, SCRIPTED_SHUT);
}

static inline void go_freely(void)
{
    atomic_store(&scripted_gate, SCRIPTED_OPEN);
}

static inline void let_one_go(void)
{
    int gate = SCRIPTED_WAITS;
    (void)atomic_compare_exchange_strong(&scripted_gate, &gate, SCRIPTED_GO);
}

/* The end of what hangs: nothing that works takes this long, on any machine. */
static inline int64_t give_up_at(void)
{
    return vl_clock_monotonic_ns() + 60 * VL_NSEC_PER_SEC;
}

/* Until a layer or a run waits. */
static inline void await_step(void)
{
    const int64_t end = give_up_at();
    while (atomic_load(&scripted_gate) != SCRIPTED_WAITS) {
        if (vl_clock_monotonic_ns() > end)
            fail_msg("waited for the model to compute anything");
        (void)usleep(100);
    }
}

/* Lets n layers or runs go, of an engine that has as much to do. The last may be under way. */
static inline void step(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        await_step();
        let_one_go();
    }
}

/* Reads until *n reaches want. */
static inline void pump(struct log *l, const uint32_t *n, uint32_t want)
{
    const int64_t end = give_up_at();
    struct vl_event ev;
    for (;;) {
        const int gate = atomic_load(&scripted_gate);
        while (*n < want && vl_engine_next_event(l->e, &ev) == 0)
            note(l, &ev);
        if (*n >= want)
            return;
        if (vl_clock_monotonic_ns() > end)
            fail_msg("waited for %u, have %u: %u seen, %u captions, failed %d '%s'", want, *n, l->n_seen,
                     l->n_captions, l->failed, l->error.msg);
        if (gate == SCRIPTED_WAITS)
            let_one_go();
        struct pollfd p = {.fd = vl_engine_event_fd(l->e), .events = POLLIN};
        (void)poll(&p, 1, gate == SCRIPTED_OPEN ? 100 : 1);
    }
}

static inline void pump_turn(struct log *l, uint64_t turn)
{
    pump(l, &l->turn[turn].n_ends, 1);
    assert_int_equal(l->turn[turn].n_ends, 1);
}

/* Until an answer has begun. */
static inline void pump_text(struct log *l, uint64_t turn)
{
    pump(l, &l->turn[turn].n_text, 1);
}

/* Whatever else comes within ms. */
static inline void drain(struct log *l, int ms)
{
    int64_t end = vl_clock_monotonic_ns() + ms * VL_NSEC_PER_MSEC;
    struct vl_event ev;
    while (vl_clock_monotonic_ns() < end) {
        while (vl_engine_next_event(l->e, &ev) == 0)
            note(l, &ev);
        struct pollfd p = {.fd = vl_engine_event_fd(l->e), .events = POLLIN};
        (void)poll(&p, 1, 5);
    }
}

/* ---- driving ---- */

static inline struct log *start_with(const struct vl_engine_opts *o)
{
    struct log *l = calloc(1, sizeof(*l));
    assert_non_null(l);
    atomic_store(&scripted_delay_us, 0);
    atomic_store(&scripted_encode_fails, 0);
    atomic_store(&scripted_ahead_ns, 0);
    go_freely();
    struct vl_error err = {0};
    if (vl_engine_new(&l->e, o, &err) < 0)
        fail_msg("%s", err.msg);
    return l;
}

static inline struct log *start(void)
{
    return start_with(&(struct vl_engine_opts){.model = "good", .n_workers = 1});
}

static inline void stop(struct log *l)
{
    go_freely();
    l->e = vl_engine_unref(l->e);
    free(l);
    assert_int_equal(atomic_load(&n_live_frames), 0);
}

static const struct vl_session_opts plain = {.max_caption_tokens = 16,
                                             .captions = true,
                                             .instruction = "look",
                                             .sampling = {.top_p = 1, .repeat_penalty = 1}};

static inline uint64_t open_session(struct log *l, const struct vl_session_opts *o)
{
    uint64_t id = 0;
    struct vl_error err = {0};
    if (vl_engine_open_session(l->e, o, &id, &err) < 0)
        fail_msg("%s", err.msg);
    return id;
}

static inline struct vl_mailbox *watch(struct log *l, uint64_t session, size_t depth)
{
    struct vl_mailbox *m = NULL;
    assert_int_equal(vl_mailbox_new(&m, depth, NULL, NULL), 0);
    assert_int_equal(vl_engine_watch(l->e, session, m), 0);
    return m;
}

/* Shows frames of these values one second apart from pts on, each when the last was seen. */
static inline void show(struct log *l, struct vl_mailbox *m, double pts, const uint8_t *value, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        (void)vl_mailbox_put(m, new_frame(value[i], pts + i, 0));
        pump(l, &l->n_seen, l->n_seen + 1);
    }
}

static inline uint64_t ask_with(struct log *l, const struct vl_ask *q)
{
    uint64_t id = 0;
    struct vl_error err = {0};
    int r = vl_engine_ask(l->e, q, &id, &err);
    if (r)
        fail_msg("%d %s", r, err.msg);
    return id;
}

static inline uint64_t ask(struct log *l, uint64_t session, const char *text)
{
    return ask_with(l, &(struct vl_ask){.session = session, .text = text, .max_tokens = 200});
}

static inline void expect_answer(struct log *l, uint64_t turn, const char *text)
{
    pump_turn(l, turn);
    assert_int_equal(l->turn[turn].status, VL_TURN_OK);
    assert_string_equal(l->turn[turn].text, text);
}
#endif
