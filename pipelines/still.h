/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_PIPELINES_STILL_H
#define VL_PIPELINES_STILL_H
#include "pipelines/picture.h"

/* Encoded still pictures: one file a format, and the table in still.c. What a picture claims to be is read
 * from its header by our own few lines and held against the limits before a decoder is set up. */
struct vl_still_limits {
    uint32_t max_side, want_side; /* want_side: may be shrunk to this longest side while decoding; 0: not */
    uint64_t max_pixels;
    size_t max_bytes; /* of the file */
};

struct vl_still_header {
    uint32_t width, height;
    unsigned orientation; /* Exif; 0: not said */
    uint32_t n_scans;     /* passes over the whole picture that decoding will take */
};

enum { VL_STILL_MORE = 1, VL_STILL_MAX_BYTES = 64 << 20 };
struct vl_still_format {
    const char *name;
    /* The first bytes of a file: as many as magic is long, a '?' stands for any. */
    const char *magic;
    size_t n_magic;
    const char *library; /* it takes; NULL: none would help, no build reads it */
    /* Fills *ret from the first n bytes. VL_STILL_MORE: the size is not in these. -EBADMSG. NULL: this build
     * cannot. */
    int (*look)(const uint8_t *p, size_t n, struct vl_still_header *ret, struct vl_error *err);
    /* Decodes the whole file: begins *out, which is zeroed, and puts its rows. *ret_whole: how many of the
     * rows, from the top, are as they should be; on failure, too. -EBADMSG: the bytes; -ENOTSUP: a variant
     * that is not read; -ENOMEM. */
    int (*read)(const uint8_t *p, size_t n, const struct vl_still_header *h, uint32_t want_side,
                struct vl_picture *out, uint32_t *ret_whole, struct vl_error *err);
};

/* The table's row for these first bytes, or NULL. */
const struct vl_still_format *vl_still_format_of(const uint8_t *p, size_t n);
/* One encoded picture becomes a sealed memfd, the caller's, and the packet that describes it. -ENOTSUP,
 * -EMSGSIZE over a limit, -EBADMSG, -ENOMEM. */
int vl_still_decode(const uint8_t *p, size_t n, const struct vl_still_limits *max,
                    struct vl_frame_packet *ret, int *ret_memfd, struct vl_error *err);
/* The same from a regular file (from its start) or a pipe (to its end). Blocks. -EIO: reading failed. */
int vl_still_read(int fd, const struct vl_still_limits *max, struct vl_frame_packet *ret, int *ret_memfd,
                  struct vl_error *err);
/* A line a format of this build, for people. */
void vl_still_list(void);
#endif
