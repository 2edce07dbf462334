/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Thumbnails by plain means over the luma plane; of RGB the green channel stands for luma, which is good
 * enough to tell change from none. */
#include "pipelines/gate.h"

#include "base/clock.h"

#include <string.h>

enum {
    BLOCK = 4, /* cells of a block's side: 16 x 16 blocks */
    MEAN_OPEN = 3,
    BLOCK_OPEN = 6 /* levels of 255; noise of 2 % gives about 1.5 */
};
static const int64_t refresh_ns = 8 * VL_NSEC_PER_SEC;

void vl_change_gate_reset(struct vl_change_gate *g)
{
    g->has_sent = false;
    g->open = false;
}

/* Mean of one cell. Pictures smaller than the grid repeat pixels. */
static uint8_t cell(const struct vl_frame *f, uint32_t cx, uint32_t cy)
{
    const uint32_t step = f->format == VL_PIXFMT_RGB24 ? 3 : 1, first = f->format == VL_PIXFMT_RGB24 ? 1 : 0;
    uint32_t x0 = cx * f->width / VL_GATE_SIDE, x1 = (cx + 1) * f->width / VL_GATE_SIDE;
    uint32_t y0 = cy * f->height / VL_GATE_SIDE, y1 = (cy + 1) * f->height / VL_GATE_SIDE;
    x1 = x1 > x0 ? x1 : x0 + 1;
    y1 = y1 > y0 ? y1 : y0 + 1;
    uint64_t sum = 0;
    for (uint32_t y = y0; y < y1; y++) {
        const uint8_t *row = f->plane[0] + (size_t)y * f->stride[0] + first;
        for (uint32_t x = x0; x < x1; x++)
            sum += row[(size_t)x * step];
    }
    return (uint8_t)(sum / ((uint64_t)(x1 - x0) * (y1 - y0)));
}

static void thumbnail(const struct vl_frame *f, uint8_t *ret)
{
    for (uint32_t y = 0; y < VL_GATE_SIDE; y++)
        for (uint32_t x = 0; x < VL_GATE_SIDE; x++)
            ret[y * VL_GATE_SIDE + x] = cell(f, x, y);
}

static uint32_t block_difference(const struct vl_change_gate *g, uint32_t bx, uint32_t by)
{
    uint32_t sum = 0;
    for (uint32_t y = by * BLOCK; y < (by + 1) * BLOCK; y++)
        for (uint32_t x = bx * BLOCK; x < (bx + 1) * BLOCK; x++) {
            int d = g->now[y * VL_GATE_SIDE + x] - g->sent[y * VL_GATE_SIDE + x];
            sum += (uint32_t)(d < 0 ? -d : d);
        }
    return sum;
}

static bool differs(const struct vl_change_gate *g)
{
    const uint32_t n_blocks = VL_GATE_SIDE / BLOCK, cells = BLOCK * BLOCK, half = g->open ? 2 : 1;
    uint32_t sum = 0, worst = 0;
    for (uint32_t by = 0; by < n_blocks; by++)
        for (uint32_t bx = 0; bx < n_blocks; bx++) {
            uint32_t d = block_difference(g, bx, by);
            sum += d;
            worst = d > worst ? d : worst;
        }
    return sum * half > MEAN_OPEN * VL_GATE_SIDE * VL_GATE_SIDE || worst * half > BLOCK_OPEN * cells;
}

bool vl_change_gate_pass(struct vl_change_gate *g, const struct vl_frame *f)
{
    thumbnail(f, g->now);
    bool changed = !g->has_sent || differs(g),
         due = f->pts_ns - g->sent_ns >= refresh_ns || f->pts_ns < g->sent_ns;
    g->open = g->has_sent && changed;
    if (!changed && !due) {
        g->n_gated++;
        return false;
    }
    memcpy(g->sent, g->now, sizeof(g->sent));
    g->has_sent = true;
    g->sent_ns = f->pts_ns;
    return true;
}
