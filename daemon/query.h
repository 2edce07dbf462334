/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_QUERY_H
#define VL_DAEMON_QUERY_H
#include "daemon/manager.h"
#include "daemon/reply_pipe.h"

enum vl_query_state { VL_QUERY_QUEUED, VL_QUERY_ANSWERING, VL_QUERY_FINISHED };

/* One question and its answer, as its caller sees it. Running until it is finished, then kept for 30 s, or
 * until its caller has left the bus. Main thread. */
struct vl_query {
    struct vl_manager *m; /* borrowed, outlives it */
    struct vl_query *next;
    struct vl_client *client;
    struct vl_daemon_model *model; /* borrowed, outlives it */
    char *path, *token;
    uint64_t turn; /* of the model's engine */
    enum vl_query_state state;
    bool jsonl;
    struct vl_images *images; /* of AskImage: being read, then the engine's to look at */
    struct vl_query_opts
        *asks; /* what the engine is asked once they are read; with its own copies of question and reducer */
    struct vl_reply_pipe *pipe; /* Ask */
    sd_bus_message *call;       /* AskText: the call that waits */
    char *answer;               /* of AskText */
    size_t n_answer;
    int64_t deadline_ns;    /* CLOCK_MONOTONIC */
    int64_t read_ns;        /* how long its pictures took to be read */
    sd_event_source *timer; /* deadline while it runs, then when to forget it */
};

/* What all four ways to ask have in common. Strings are borrowed for the call. */
struct vl_query_opts {
    struct vl_daemon_model *model; /* it was wanted: there is an engine */
    uint64_t session;              /* 0: none, the images or the text alone */
    const int *image_fd;           /* [n_images], borrowed for the call */
    uint32_t n_images;
    const char *question, *token; /* token NULL: one is made up */
    int64_t since_ns, until_ns, deadline_ns /* a duration */;
    const char *reducer;       /* as it is written, checked; NULL: none said */
    uint32_t tokens_per_frame; /* 0: all */
    uint32_t max_tokens;
    int priority;
    bool jsonl;
    struct vl_sampling sampling;
};
/* ret_fd NULL: call is answered when the query ends (the methods that end in Text); else the caller of this
 * owns *ret_fd. Negative is what a method handler returns. */
int vl_query_new(struct vl_query **ret, struct vl_manager *m, sd_bus_message *call,
                 const struct vl_query_opts *o, int *ret_fd, sd_bus_error *e);
void vl_query_event(struct vl_query *q, const struct vl_event *ev);
void vl_query_cancel(struct vl_query *q); /* no effect on one that is finished */
/* The engine is no more. No effect on one that is finished. */
void vl_query_finish(struct vl_query *q, const char *status, const char *error, const char *message);
struct vl_query *
vl_query_unref(struct vl_query *q); /* one owner, the manager's list; a running one is cancelled */
uint32_t vl_query_position(const struct vl_query *q);
#endif
