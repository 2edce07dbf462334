/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The change gate: thumbnails of 64 x 64 cells, compared in blocks of 4 x 4 cells, each half over the next:
 * what is small is whole in one of them wherever it lies. */
#include "pipelines/gate.h"

#include "base/clock.h"

#include <string.h>

#define REFRESH_NS (8 * VL_NSEC_PER_SEC)
/* Mean absolute differences, 0..255: of the block that changed most, and of the whole picture. In the drawn
 * world at full noise and artefacts a still second reaches 8.4 and 3.8, the faintest event 33 in its block,
 * and things a twentieth of the picture wide 16.
 */
#define BLOCK_ENTER 14.0f
#define MEAN_ENTER  6.0f
#define MOVING      0.7f /* of both, while things move */
enum { BLOCK = 4, STEP = BLOCK / 2, N_BLOCKS = (VL_GATE_SIDE - BLOCK) / STEP + 1, TAPS = 4 };

void vl_change_gate_init(struct vl_change_gate *g)
{
    memset(g, 0, sizeof(*g));
}

/* y, u, v at one pixel, whatever the format. Nearest chroma; u and v are 128 where there is no colour. */
static void pixel_yuv(const struct vl_frame *f, uint32_t x, uint32_t y, int yuv[3])
{
    const uint8_t *p = f->plane[0] + (size_t)y * f->stride[0];
    yuv[1] = yuv[2] = 128;
    if (f->format == VL_PIXFMT_RGB24) {
        int r = p[3 * x], g = p[3 * x + 1], b = p[3 * x + 2];
        yuv[0] = (77 * r + 150 * g + 29 * b) >> 8;
        yuv[1] += (b - yuv[0]) / 2;
        yuv[2] += (r - yuv[0]) * 5 / 7;
        return;
    }
    yuv[0] = p[x];
    size_t cx = x / 2, cy = y / 2;
    if (f->format == VL_PIXFMT_NV12) {
        yuv[1] = f->plane[1][cy * f->stride[1] + 2 * cx];
        yuv[2] = f->plane[1][cy * f->stride[1] + 2 * cx + 1];
    } else if (f->format == VL_PIXFMT_I420) {
        yuv[1] = f->plane[1][cy * f->stride[1] + cx];
        yuv[2] = f->plane[2][cy * f->stride[2] + cx];
    }
}

/* Mean of up to 4 x 4 pixels spread over each cell: enough to average noise away, and the same cost at any
 * size. */
static void thumbnail(const struct vl_frame *f, uint8_t out[3][VL_GATE_SIDE * VL_GATE_SIDE])
{
    enum { GRID = VL_GATE_SIDE * TAPS };
    for (uint32_t cy = 0; cy < VL_GATE_SIDE; cy++)
        for (uint32_t cx = 0; cx < VL_GATE_SIDE; cx++) {
            int sum[3] = {0, 0, 0};
            for (uint32_t t = 0; t < TAPS * TAPS; t++) {
                uint64_t gx = cx * TAPS + t % TAPS, gy = cy * TAPS + t / TAPS;
                int yuv[3];
                pixel_yuv(f, (uint32_t)((2 * gx + 1) * f->width / (2 * GRID)),
                          (uint32_t)((2 * gy + 1) * f->height / (2 * GRID)), yuv);
                for (int c = 0; c < 3; c++)
                    sum[c] += yuv[c];
            }
            for (int c = 0; c < 3; c++)
                out[c][cy * VL_GATE_SIDE + cx] = (uint8_t)(sum[c] / (TAPS * TAPS));
        }
}

/* Colour differences count in full: a turned colour is often all that there is. */
static void compare(struct vl_change_gate *g)
{
    float total = 0, most = 0;
    for (int by = 0; by < N_BLOCKS; by++)
        for (int bx = 0; bx < N_BLOCKS; bx++) {
            int sum[3] = {0, 0, 0};
            for (int c = 0; c < 3; c++)
                for (int y = 0; y < BLOCK; y++)
                    for (int x = 0; x < BLOCK; x++) {
                        int at = (by * STEP + y) * VL_GATE_SIDE + bx * STEP + x;
                        sum[c] += abs((int)g->now[c][at] - (int)g->sent[c][at]);
                    }
            int worst = sum[0] > sum[1] ? sum[0] : sum[1];
            worst = sum[2] > worst ? sum[2] : worst;
            float mean = (float)worst / (BLOCK * BLOCK);
            total += mean;
            most = mean > most ? mean : most;
        }
    g->mean = total / (N_BLOCKS * N_BLOCKS);
    g->block = most;
}

bool vl_change_gate_pass(struct vl_change_gate *g, const struct vl_frame *f, int64_t media_ns)
{
    thumbnail(f, g->now);
    compare(g);
    float scale = g->moving ? MOVING : 1.0f;
    bool changed = g->block > BLOCK_ENTER * scale || g->mean > MEAN_ENTER * scale;
    g->moving = g->primed && changed;
    if (g->primed && !changed && media_ns - g->passed_ns < REFRESH_NS)
        return false;
    g->primed = true;
    g->passed_ns = media_ns;
    memcpy(g->sent, g->now, sizeof(g->sent));
    return true;
}
