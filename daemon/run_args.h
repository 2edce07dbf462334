/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_RUN_ARGS_H
#define VL_DAEMON_RUN_ARGS_H
#include "base/sampling.h"
#include "daemon/caption_format.h"
#include "daemon/config.h"
#include "engine/engine.h"

/* What `vlmd run` is told to do. Strings are argv's. */
enum { VL_RUN_MAX_ASKS = 64 };
#define VL_RUN_AT_END INT64_MAX
struct vl_run_ask {
    const char *text;
    int64_t at_ns; /* media time after which it is asked, rising from ask to ask; VL_RUN_AT_END */
};
struct vl_run_args {
    struct vl_config_from from;
    const char *stream; /* a video file or a test: URI; NULL: none */
    int stream_fd;      /* -1: a URI */
    const char *image[VL_ENGINE_MAX_IMAGES];
    int image_fd[VL_ENGINE_MAX_IMAGES];
    uint32_t n_images; /* 0 with a stream */
    struct vl_run_ask ask[VL_RUN_MAX_ASKS];
    uint32_t n_asks;
    const struct vl_caption_format *format; /* NULL: a line each, with its time */
    bool no_captions, json, quiet, realtime;
    const char *instruction, *reducer, *policy; /* NULL: not said */
    uint32_t tokens_per_frame;                  /* 0: all */
    bool reduces_questions;                     /* both are of questions, and not of looks as they arrive */
    uint64_t every_usec, window_usec;           /* window 0: the model's own */
    enum vl_gate gate;
    uint32_t max_tokens;
    uint64_t max_bytes;          /* 0: no limit */
    struct vl_sampling sampling; /* of answers */
};
/* 0: go on; else the process ends with *ret_code, and what there was to say has been said. To be done in
 * both cases. */
int vl_run_args_parse(struct vl_run_args *ret, int argc, char **argv, int *ret_code);
void vl_run_args_done(struct vl_run_args *a);

/* What a name on the command line stands for; pictures are told from videos by their first bytes. */
enum vl_run_kind { VL_RUN_STREAM, VL_RUN_IMAGE };
/* *ret_fd is the caller's; -1 of a test: URI. "-" is standard input, a picture. err says what to give
 * instead. */
int vl_run_open(const char *name, enum vl_run_kind *ret_kind, int *ret_fd, struct vl_error *err);
#endif
