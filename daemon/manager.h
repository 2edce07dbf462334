/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_MANAGER_H
#define VL_DAEMON_MANAGER_H
#include "base/budget.h"
#include "daemon/child.h"
#include "daemon/client.h"
#include "daemon/limits.h"
#include "engine/engine.h"

#include <systemd/sd-bus.h>

#define VL_BUS_NAME          "org.vlmd.Vision1"
#define VL_BUS_PATH          "/org/vlmd/Vision1"
#define VL_BUS_STREAM_PREFIX VL_BUS_PATH "/stream"
#define VL_BUS_QUERY_PREFIX  VL_BUS_PATH "/query"
#define VL_BUS_MODEL_PREFIX  VL_BUS_PATH "/model"

struct vl_access;
struct vl_config;
struct vl_image_queue;
struct vl_stream;
struct vl_query;
struct vl_daemon_model;
struct vl_leaving;

/* What the default model is like, until the daemon stops. */
enum vl_manager_state {
    VL_MANAGER_LOADING,
    VL_MANAGER_READY,
    VL_MANAGER_IDLE,     /* it is not loaded; who asks for it has it loaded */
    VL_MANAGER_NO_MODEL, /* there is none, or its file is not there */
    VL_MANAGER_FAILED,   /* it cannot be used */
    VL_MANAGER_STOPPING,
    VL_MANAGER_STATE_COUNT
};

/* Everything the main thread owns, in one place; daemon lifetime. Streams and queries are lists linked
 * through themselves, capped by limits. */
struct vl_manager {
    sd_event *event;
    sd_bus *bus;
    const struct vl_config *config; /* borrowed from main */
    struct vl_clients *clients;
    struct vl_limits *limits;
    struct vl_access *access; /* who may call what */
    struct vl_children *children;
    struct vl_image_queue *images;                  /* pictures of questions, on their way to be frames */
    struct vl_daemon_model *models, *default_model; /* NULL: none */
    struct vl_leaving *leaving;
    struct vl_budget budget; /* of all engines */
    struct vl_stream *streams;
    struct vl_query *queries; /* newest first */
    enum vl_manager_state state;
    struct vl_error no_model; /* why there is no default model */
    uint64_t next_query;      /* number of the next token we make up */
    int64_t mean_turn_ns;     /* how long answers took lately, for Busy's text; 0: not known */
    sd_event_source *emit;    /* changed properties, at most twice a second */
    bool changed;             /* our own properties did */
    int64_t emitted_ns;
    sd_bus_slot *slot[4];
    void (*state_changed)(void *user); /* the service tells systemd; borrowed, daemon lifetime */
    void *user;
};

/* Objects on a bus that is connected already. Does not take the name. */
int vl_manager_new(struct vl_manager **ret, sd_event *event, sd_bus *bus, const struct vl_config *config,
                   struct vl_error *err);
/* Starts to load what is to be loaded at the start, and the configured streams; a model's own failures show
 * as its State. -EINVAL: the configuration asks for what does not exist. */
int vl_manager_start(struct vl_manager *m, struct vl_error *err);
/* Refuses new work, ends the children, lets answers finish. Idle when vl_manager_busy says no more. */
void vl_manager_stop(struct vl_manager *m);
bool vl_manager_busy(const struct vl_manager *m);
void vl_manager_cancel_all(struct vl_manager *m); /* every running query ends as cancelled */
struct vl_manager *vl_manager_unref(struct vl_manager *m);
VL_DEFINE_AUTO(vl_manager)

const char *vl_manager_state_name(enum vl_manager_state s);
/* One line for people: STATUS= and StatusText. Returns buf. */
char *vl_manager_status_text(const struct vl_manager *m, char *buf, size_t size);
/* A property changed of the manager (NULL) or of a stream: PropertiesChanged follows, coalesced. */
void vl_manager_changed(struct vl_manager *m, struct vl_stream *s);

/* What models tell: a property or the state changed; an event for a stream or a question; the engine is no
 * more, and with it what streams remembered and questions waited for. */
void vl_manager_model_changed(struct vl_manager *m, struct vl_daemon_model *d);
void vl_manager_engine_event(struct vl_manager *m, struct vl_daemon_model *d, const struct vl_event *ev);
void vl_manager_model_gone(struct vl_manager *m, struct vl_daemon_model *d, const char *status,
                           const char *error, const char *message);
void vl_manager_set_default(struct vl_manager *m, struct vl_daemon_model *d);
struct vl_daemon_model *vl_manager_find_model(const struct vl_manager *m, const char *name);
struct vl_daemon_model *vl_manager_model_at(const struct vl_manager *m, const char *path);
struct vl_stream *vl_manager_find_stream(const struct vl_manager *m, const char *name);
struct vl_stream *vl_manager_stream_at(const struct vl_manager *m, const char *path);
#endif
