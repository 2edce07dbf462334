/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The change gate: is this picture different enough from the last one that was sent? It compares 64 x 64
 * means of luma, so sensor noise averages out, and looks at the whole and at the worst sixteenth of a side,
 * so a small object counts. It compares with the last picture *sent*, not with the one before: what drifts
 * slowly is seen in the end. Plain data; one thread.
 */
#ifndef VL_PIPELINES_GATE_H
#define VL_PIPELINES_GATE_H
#include "base/frame.h"

#include <stdbool.h>

enum { VL_GATE_SIDE = 64 };
struct vl_change_gate {
    uint8_t sent[VL_GATE_SIDE * VL_GATE_SIDE], now[VL_GATE_SIDE * VL_GATE_SIDE];
    bool has_sent;
    bool open; /* while things change the thresholds are halved, so that the end of a motion is seen too */
    int64_t sent_ns; /* media time of the last one sent */
    uint64_t n_gated;
};
void vl_change_gate_reset(
    struct vl_change_gate *g); /* after a gap or another geometry: the next picture passes */
/* Whether to send f; remembers it if so. One picture each 8 s of media time passes whatever it shows. */
bool vl_change_gate_pass(struct vl_change_gate *g, const struct vl_frame *f);
#endif
