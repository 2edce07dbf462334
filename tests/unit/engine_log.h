/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_ENGINE_LOG_H
#define VL_TESTS_ENGINE_LOG_H
/* What came out of an engine, in order. */
#include "tests/harness.h"

#include "engine/engine.h"

#include <string.h>

enum { MAX_CAPTIONS = 256, MAX_TURNS = 128, TEXT = 8192 };

struct log {
    struct vl_engine *e;
    bool ready, failed;
    uint32_t n_ready, n_loading;
    struct vl_error error; /* of FAILED */
    uint64_t failed_session;
    uint32_t n_captions, n_seen, n_ended, n_failed;
    int end_code;
    char caption[MAX_CAPTIONS][64];
    int64_t caption_pts[MAX_CAPTIONS];
    struct vl_session_stats stats; /* of the last event with any */
    struct {
        uint32_t n_ends, n_text; /* bytes */
        enum vl_turn_status status;
        struct vl_event end;
        char text[TEXT];
    } turn[MAX_TURNS]; /* by id */
};

static inline void note_turn(struct log *l, const struct vl_event *ev)
{
    assert_true(ev->turn < MAX_TURNS);
    char *text = l->turn[ev->turn].text;
    if (ev->type == VL_EVENT_TEXT) {
        assert_int_equal(l->turn[ev->turn].n_ends, 0); /* nothing after the end */
        assert_true(strlen(text) + ev->len < TEXT);
        strcat(text, ev->text);
        l->turn[ev->turn].n_text = (uint32_t)strlen(text);
        return;
    }
    assert_int_equal(ev->type, VL_EVENT_TURN_DONE);
    l->turn[ev->turn].n_ends++;
    l->turn[ev->turn].status = ev->status;
    l->turn[ev->turn].end = *ev;
}

static inline void note(struct log *l, const struct vl_event *ev)
{
    if (ev->turn) {
        note_turn(l, ev);
        return;
    }
    switch (ev->type) {
    case VL_EVENT_LOADING:
        l->n_loading++;
        break;
    case VL_EVENT_READY:
        l->ready = true;
        l->n_ready++;
        break;
    case VL_EVENT_FAILED:
        l->failed = true;
        l->n_failed++;
        l->failed_session = ev->session;
        l->error = ev->error;
        break;
    case VL_EVENT_CAPTION_DONE:
        assert_true(l->n_captions < MAX_CAPTIONS);
        (void)snprintf(l->caption[l->n_captions], sizeof(l->caption[0]), "%s", ev->text);
        l->caption_pts[l->n_captions++] = ev->pts_ns;
        break;
    case VL_EVENT_FRAME_SEEN:
        l->n_seen++;
        l->stats = ev->session_stats;
        break;
    case VL_EVENT_ENDED:
        l->n_ended++;
        l->end_code = ev->error.code;
        l->stats = ev->session_stats;
        break;
    default:
        break;
    }
}
#endif
