/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_MODEL_H
#define VL_DAEMON_MODEL_H
#include "daemon/config.h"
#include "daemon/manager.h"

enum vl_daemon_model_state {
    VL_DAEMON_MODEL_UNLOADED,
    VL_DAEMON_MODEL_LOADING,
    VL_DAEMON_MODEL_READY,
    VL_DAEMON_MODEL_FAILED,
    VL_DAEMON_MODEL_STATE_COUNT
};
enum { VL_DAEMON_MODEL_MAX_CALLS = 16 }; /* of Load that wait for an answer at once */

/* One model that is offered and, while it is loaded, the engine that runs it. Lives as long as the daemon, in
 * the manager's list; main thread. */
struct vl_daemon_model {
    struct vl_manager *m; /* borrowed, outlives it */
    struct vl_daemon_model *next;
    const struct vl_model_config *config; /* borrowed from main */
    char *path;                           /* of its bus object */
    enum vl_daemon_model_state state;
    struct vl_engine *engine; /* NULL: neither loading nor ready */
    bool granted;             /* while it is loading: its files are good and its memory is set aside */
    struct vl_engine_info info;
    struct vl_error error; /* why FAILED */
    double progress;       /* as announced */
    uint64_t beats;        /* of the engine, when the watchdog last looked */
    bool changed;          /* its properties are to be announced */
    sd_bus_message *call[VL_DAEMON_MODEL_MAX_CALLS];
    unsigned n_calls;
    sd_event_source *events, *ticks; /* of the engine; of the progress while it loads */
    sd_bus_slot *slot;
};

/* An engine that was told to stop and is not gone yet. In the manager's list; main thread. */
struct vl_leaving;

/* Appends to the manager's list. */
int vl_daemon_model_new(struct vl_daemon_model **ret, struct vl_manager *m,
                        const struct vl_model_config *config);
struct vl_daemon_model *vl_daemon_model_unref(struct vl_daemon_model *d); /* waits for its engine */

/* Starts to load it unless it is loaded or loading; what comes of it shows as its state. Negative: it failed
 * at once, which is its state too. */
int vl_daemon_model_load(struct vl_daemon_model *d, struct vl_error *err);
/* call is answered when it is known whether the model can be loaded. Negative is what a method handler
 * returns.
 */
int vl_daemon_model_answer_load(struct vl_daemon_model *d, sd_bus_message *call, sd_bus_error *e);
/* Ends what uses it, by name, and gives its memory back; call (NULL: none) is answered then. Negative is what
 * a method handler returns. */
int vl_daemon_model_unload(struct vl_daemon_model *d, sd_bus_message *call);
/* 0, or the named error of a daemon that stops, of a model that failed, of none (d NULL), or of one that does
 * not see where eyes are needed. Loads nothing. */
int vl_daemon_model_check(const struct vl_manager *m, const struct vl_daemon_model *d, bool eyes,
                          sd_bus_error *e);
/* For who wants to use it: loads it if need be. 0: it is there, or will be and the engine keeps what it is
 * asked; else the named error of the above. */
int vl_daemon_model_want(struct vl_manager *m, struct vl_daemon_model *d, bool eyes, sd_bus_error *e);
struct vl_leaving *vl_leaving_unref(struct vl_leaving *l); /* waits for the engine */

bool vl_daemon_model_sees(
    const struct vl_daemon_model *d); /* it has eyes; before it is loaded: it is to have */
double vl_daemon_model_progress(const struct vl_daemon_model *d); /* 0 to 1 */
uint64_t vl_daemon_model_bytes(const struct vl_daemon_model *d);  /* 0: not loaded */
const char *vl_daemon_model_state_name(enum vl_daemon_model_state s);
/* Why it failed, as one short word; "" when it did not. */
const char *vl_daemon_model_reason(const struct vl_daemon_model *d);
#endif
