/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_CAPTION_FORMAT_H
#define VL_DAEMON_CAPTION_FORMAT_H
#include "daemon/captions.h"

/* How captions are written down. Each member returns allocated text, NULL when memory is out; "" when the
 * format has nothing to say. Pure functions. */
struct vl_caption_format {
    const char *name;
    char *(*head)(void);
    char *(*cue)(const struct vl_caption *c, uint64_t n /* 1, 2, ... in this file */);
    char *(*gap)(uint64_t n_lost);
    char *(*tail)(const char *status);
};
extern const struct vl_caption_format vl_caption_formats[]; /* ends with name == NULL */
#endif
