/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_PICTURE_H
#define VL_PIPELINES_PICTURE_H
#include "base/error.h"
#include "base/frame_socket.h"

#include <stddef.h>

/* An RGB24 picture being made in a memfd, to be sealed and sent. Decoders hand over rows from the top as the
 * file has them; each pixel is put where the camera's orientation (Exif, 1 to 8) says, so that nothing is
 * turned later. One owner; init, put, seal, done. */
enum { VL_PICTURE_STRIP = 32 }; /* rows that are best handed over at once */
struct vl_picture {
    uint32_t width, height; /* as the file has it, before it is turned */
    unsigned orientation;
    uint32_t n_rows; /* put so far */
    int memfd;
    uint8_t *pixels; /* mapped, bytes long */
    size_t bytes;
};

/* -ENOMEM. orientation 0 or above 8 is as good as 1. */
int vl_picture_init(struct vl_picture *p, uint32_t width, uint32_t height, unsigned orientation,
                    struct vl_error *err);
/* The next n rows of 3 * width bytes, one behind the other. */
void vl_picture_put(struct vl_picture *p, const uint8_t *rows, uint32_t n);
/* Keeps the first n_rows rows of the file, drops the rest, and seals. On success *ret describes the memfd,
 * which is the caller's. */
int vl_picture_seal(struct vl_picture *p, uint32_t n_rows, struct vl_frame_packet *ret, int *ret_memfd);
void vl_picture_done(struct vl_picture *p); /* accepts one that is zeroed, or sealed */

/* The orientation in a TIFF block as Exif has it, 1 to 8; 1 when there is none that can be read. */
unsigned vl_exif_orientation(const uint8_t *tiff, size_t n);
#endif
