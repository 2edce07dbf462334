/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_GATE_H
#define VL_PIPELINES_GATE_H
#include "base/frame.h"

#include <stdbool.h>

/* Leaves out pictures that look like the last one that passed. Both are reduced to a thumbnail of luma and
 * two colour differences; a picture passes when some block of it, or the whole, differs by more than a
 * threshold, or after 8 s. While things move the thresholds are lower, so that a slow end of a motion
 * is not cut off. Colour is in it because a thing may turn from one colour to another of the same luma.
 * Embedded, one thread. */
enum { VL_GATE_SIDE = 64 };
struct vl_change_gate {
    bool primed, moving;
    int64_t passed_ns;
    uint8_t sent[3][VL_GATE_SIDE * VL_GATE_SIDE]; /* y, u, v of the last that passed */
    uint8_t now[3][VL_GATE_SIDE * VL_GATE_SIDE];
    float mean, block; /* of the last picture that was looked at, for tests and tuning: 0..255 */
};
void vl_change_gate_init(struct vl_change_gate *g);
bool vl_change_gate_pass(struct vl_change_gate *g, const struct vl_frame *f, int64_t media_ns);
#endif
