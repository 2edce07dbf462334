/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_TESTS_PICTURES_H
#define VL_TESTS_PICTURES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Encoded pictures for tests, made on the spot by the encoders of the libraries that vlmd decodes with, so
 * that none need be checked in. What they return is the caller's, by free. Those of a library that this build
 * lacks (VL_HAVE_JPEG, VL_HAVE_PNG, VL_HAVE_WEBP) do not exist. */
struct encoded {
    uint8_t *p;
    size_t n;
};

/* A smooth picture with another colour in each corner, [height, width, 3]. */
uint8_t *picture_draw(uint32_t width, uint32_t height);

struct jpeg_how {
    unsigned n_components;                                       /* 1 grey, 3, 4 CMYK as Adobe has it; 0: 3 */
    bool progressive, halved /* chroma */, big_endian, separate; /* one component a scan */
    unsigned orientation, restart_rows, n_pad; /* orientation 0: no Exif; n_pad: bytes of other segments */
};
struct encoded picture_jpeg(const uint8_t *rgb, uint32_t width, uint32_t height, const struct jpeg_how *how);
/* The last scan of a progressive one, so often as to make n in all. */
struct encoded picture_jpeg_scans(struct encoded progressive, unsigned n);

struct png_how {
    int color_type, depth;        /* as libpng has them; rows come in that form */
    bool interlaced, transparent; /* transparent: a tRNS chunk */
    unsigned orientation;
};
struct encoded picture_png(const uint8_t *rows, size_t row_bytes, uint32_t width, uint32_t height,
                           const struct png_how *how);
/* A PNG or JPEG or WebP with a size in its header and next to nothing behind it. */
struct encoded picture_png_bomb(uint32_t width, uint32_t height);
struct encoded picture_jpeg_bomb(uint32_t width, uint32_t height);
struct encoded picture_webp_bomb(uint32_t width, uint32_t height);

/* rgb has channels of 3, or of 4 with alpha. */
struct encoded picture_webp(const uint8_t *rgb, uint32_t width, uint32_t height, unsigned channels,
                            bool lossless);
/* Around a plain one: VP8X with its size as canvas, and Exif. */
struct encoded picture_webp_turned(struct encoded plain, uint32_t width, uint32_t height,
                                   unsigned orientation);
/* Two frames on a larger canvas, both the plain one at (x, y), which are even. */
struct encoded picture_webp_animated(struct encoded plain, uint32_t width, uint32_t height, uint32_t x,
                                     uint32_t y, uint32_t canvas_width, uint32_t canvas_height);
#endif
