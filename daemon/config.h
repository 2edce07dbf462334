/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_CONFIG_H
#define VL_DAEMON_CONFIG_H
#include "base/cleanup.h"
#include "base/error.h"
#include "daemon/spec.h"

#include <stdbool.h>

/* One model that is offered. At the start the default one is loaded, and who asks for it. */
enum vl_preload { VL_PRELOAD_UNSAID, VL_PRELOAD_NO, VL_PRELOAD_YES };
struct vl_model_config {
    char *name;
    char *text, *projector;  /* its files; projector NULL: text alone */
    uint32_t context_tokens; /* 0: the model's own */
    enum vl_preload preload;
};

/* What the files and the command line say. Read once at start; process lifetime. Strings are owned. */
struct vl_config {
    bool system;      /* the system bus and its folders, else the user's */
    bool no_preload;  /* no model is loaded before somebody wants it */
    char *dir;        /* where vlmd.conf, models.d and streams.d are */
    char *backend;    /* NULL: the best there is */
    uint32_t workers; /* 0: one per CPU we may use */
    uint32_t max_streams, max_queries;
    uint64_t memory_budget;        /* bytes; 0: not said, UINT64_MAX: none */
    struct vl_model_config *model; /* names are unique */
    size_t n_models;
    char *default_model;           /* a name of these; NULL: there is none, or more than one to choose from */
    struct vl_stream_spec *stream; /* of streams.d, in order of their names */
    size_t n_streams;
    char *ingest_program; /* path of vlmd-ingest */
};

/* Where to look, from the command line; NULL members: not said. */
struct vl_config_from {
    bool system;
    bool strict;                  /* an unknown key is an error; else a warning is logged */
    const char *config;           /* a folder, or the file vlmd.conf itself with its folders beside it */
    const char *text, *projector; /* the model "default", in place of DefaultModel= */
    bool no_preload;
    const char *ingest_program;
};
/* -EINVAL and the like: err begins with file:line. A folder or file that is not there is empty, unless config
 * names it. */
int vl_config_load(struct vl_config **ret, const struct vl_config_from *from, struct vl_error *err);
struct vl_config *vl_config_unref(struct vl_config *c);
VL_DEFINE_AUTO(vl_config)

const struct vl_model_config *vl_config_model(const struct vl_config *c, const char *name); /* NULL: none */
const struct vl_model_config *vl_config_default(const struct vl_config *c);                 /* NULL: none */

/* Takes over what *m owns. One of that name that is there already is replaced, or with keep stays. -ENOMEM.
 */
int vl_config_add_model(struct vl_config *c, struct vl_model_config *m, bool keep);
/* The second half of loading: finds the files of the models there are, adds those of the command line, the
 * built-in one and the pairs in the model folders, and chooses the default. */
int vl_config_find_models(struct vl_config *c, const struct vl_config_from *from, struct vl_error *err);

/* One file's text into *c, by its kind; for the fuzzer and the unit test. kind: the file name's ending,
 * "conf", "model" or "stream". */
int vl_config_parse(struct vl_config *c, const char *kind, const char *file, const char *text, size_t len,
                    bool strict, struct vl_error *err);
int vl_config_new(struct vl_config **ret); /* the defaults */

/* "1.5s", "2min", "500ms", "1h 30min"; a bare number is seconds. -EINVAL. */
int vl_config_time_usec(const char *s, uint64_t *ret);
int vl_config_bool(const char *s, bool *ret);     /* yes no true false on off 1 0 */
int vl_config_size(const char *s, uint64_t *ret); /* 512M, 4G; UINT64_MAX: "infinity". -EINVAL */
#endif
