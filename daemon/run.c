/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * `vlmd run`: the daemon's engine and its supervision of ingest children, with a terminal in place of a bus.
 * One video, some pictures or nothing is looked at; questions are asked one after the other; then it ends.
 *
 * What to do next is decided in one place, settle(), after every event. A question for a moment of the video
 * holds back the frames after that moment until it is answered, so that the answer is about what came before;
 * at the video's own pace nothing can be held back and it is asked as soon as the moment has passed.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "base/params.h"
#include "daemon/chosen.h"
#include "daemon/ingest.h"
#include "daemon/log_sink.h"
#include "daemon/process.h"
#include "daemon/run_out.h"
#include "daemon/still.h"
#include "daemon/subcommand.h"

#include <signal.h>
#include <string.h>
#include <sys/epoll.h>

#define TICK_USEC UINT64_C(500000)
enum { MAX_EVENTS = 64, EXIT_SIGNAL = 128 };

struct run {
    const struct vl_run_args *a;
    const struct vl_config *config;
    const struct vl_model_config *model;
    struct vl_run_out out;
    sd_event *event;
    sd_event_source *engine_io, *tick, *sigint, *sigterm;
    struct vl_children *children;
    struct vl_engine *engine;
    bool ready;

    /* the video */
    uint64_t session;
    struct vl_mailbox *mailbox;
    struct vl_ingest *ingest;
    struct vl_frame *held[VL_INGEST_FILE_CREDIT]; /* came after the moment of a question */
    unsigned n_held;
    uint64_t n_put, heartbeat;
    bool lull;                       /* for this tick */
    int64_t put_pts_ns, seen_pts_ns; /* of the last frame; -1: none */
    struct vl_session_stats stats;
    bool source_over, mailbox_ended, ended; /* in this order: the child, what we hand on, the engine */
    int source_error;

    /* the pictures, read one after the other */
    struct vl_still *still;
    struct vl_frame *image[VL_ENGINE_MAX_IMAGES];
    uint32_t n_read;

    uint32_t next_ask;
    uint64_t turn; /* 0: no question is being answered */
    int code;
    bool over; /* the loop is about to end: nothing is begun any more */
};

static void finish(struct run *r, int code)
{
    r->code = code;
    r->over = true;
    (void)sd_event_exit(r->event, code); /* cannot fail in a loop that runs */
}

/* ---- questions ---- */

static void ask_next(struct run *r)
{
    struct vl_error err = {0};
    const struct vl_run_ask *ask = &r->a->ask[r->next_ask];
    struct vl_ask q = {.session = r->session,
                       .image = r->image,
                       .n_images = r->n_read,
                       .max_tokens = r->a->max_tokens,
                       .text = ask->text,
                       .sampling = r->a->sampling};
    struct vl_chosen chosen;
    int k = vl_chosen_read(&chosen, r->a->reduces_questions ? r->a->reducer : NULL, NULL, 0, &err);
    q.reducer = chosen.reducer[0] ? chosen.reducer : NULL;
    q.reducer_params = chosen.reducer_params;
    q.visual_budget = r->a->reduces_questions ? r->a->tokens_per_frame : 0;
    vl_run_out_question(&r->out, ask);
    if (k == 0)
        k = vl_engine_ask(r->engine, &q, &r->turn, &err);
    vl_chosen_done(&chosen);
    if (k == 0)
        return;
    vl_run_out_error(&r->out, "%s", err.msg[0] ? err.msg : k < 0 ? strerror(-k) : "the engine is busy");
    finish(r, VL_EXIT_FAILED);
}

static void on_answer(struct run *r, const struct vl_event *ev)
{
    vl_run_out_answer(&r->out, &r->a->ask[r->next_ask], ev, r->a->stream ? r->seen_pts_ns : -1);
    r->turn = 0;
    r->next_ask++;
    if (ev->status == VL_TURN_OK)
        return;
    vl_run_out_error(&r->out, "%s", ev->error.msg[0] ? ev->error.msg : "there is no answer");
    r->code = VL_EXIT_FAILED;
}

/* ---- the order of things ---- */

/* A question is for a moment before pts_ns. */
static bool due_before(const struct run *r, int64_t pts_ns)
{
    return r->next_ask < r->a->n_asks && r->a->ask[r->next_ask].at_ns < pts_ns;
}

static bool all_seen(const struct run *r)
{
    return r->lull || r->n_put <= r->stats.n_frames + r->stats.n_skipped + vl_mailbox_dropped(r->mailbox);
}

/* A frame that was given up is not always told of: an engine that did nothing from one tick to the next waits
 * for us. */
static bool look_for_lull(struct run *r)
{
    uint64_t n;
    bool idle;
    vl_engine_heartbeat(r->engine, &n, &idle);
    bool lull = idle && n == r->heartbeat;
    r->heartbeat = n;
    return lull;
}

static void put(struct run *r, struct vl_frame *f)
{
    r->n_put++;
    r->put_pts_ns = f->pts_ns;
    r->heartbeat = UINT64_MAX; /* idle counts from the next tick on: the engine has not seen it yet */
    (void)vl_mailbox_put(r->mailbox, f); /* one that was replaced is counted there */
}

static void put_held(struct run *r)
{
    while (r->n_held > 0 && !due_before(r, r->held[0]->pts_ns)) {
        put(r, r->held[0]);
        memmove(r->held, r->held + 1, --r->n_held * sizeof(*r->held));
    }
}

static void settle_stream(struct run *r)
{
    put_held(r);
    if (r->n_held > 0) {
        if (all_seen(r))
            ask_next(r);
    } else if (r->a->realtime && !r->source_over && due_before(r, r->put_pts_ns)) {
        ask_next(r);
    } else if (r->source_over && !r->mailbox_ended) {
        r->mailbox_ended = true;
        vl_mailbox_end(r->mailbox, r->source_error);
    }
}

/* What comes next, now that something has happened? */
static void settle(struct run *r)
{
    if (r->over)
        return;
    if (r->out.broken) {
        finish(r, VL_EXIT_FAILED);
        return;
    }
    if (!r->ready || r->turn || r->n_read < r->a->n_images)
        return;
    if (r->a->stream && !r->ended)
        settle_stream(r);
    else if (r->next_ask < r->a->n_asks)
        ask_next(r);
    else
        finish(r, r->code);
}

/* ---- the video ---- */

static void on_frame(void *user, struct vl_frame *f)
{
    struct run *r = user;
    bool hold = !r->a->realtime && r->n_held < VL_INGEST_FILE_CREDIT;
    if (hold && (r->n_held > 0 || due_before(r, f->pts_ns)))
        r->held[r->n_held++] = f;
    else
        put(r, f);
    settle(r);
}

/* A child that does not come to life is not tried again: somebody waits and can try himself. */
static void on_phase(void *user, enum vl_ingest_phase phase, const char *reason, const char *detail)
{
    struct run *r = user;
    if (r->source_over)
        return;
    if (phase == VL_INGEST_PHASE_ENDED) {
        r->source_over = true;
    } else if (phase == VL_INGEST_PHASE_FAILED || phase == VL_INGEST_PHASE_RETRYING) {
        vl_run_out_error(&r->out, "%s: %s%s%s", r->a->stream, reason, detail[0] ? ": " : "", detail);
        r->source_over = true;
        r->source_error = -EIO;
        r->code = VL_EXIT_FAILED;
    }
    settle(r);
}

static int open_session(struct run *r, struct vl_error *err)
{
    const struct vl_run_args *a = r->a;
    struct vl_chosen chosen;
    struct vl_session_opts o = {.visual_budget = a->reduces_questions ? 0 : a->tokens_per_frame,
                                .captions = !a->no_captions,
                                .instruction = a->instruction,
                                .sampling = VL_SAMPLING_GREEDY};
    uint64_t n_frames = a->window_usec / a->every_usec;
    if (a->window_usec && n_frames < 1)
        n_frames = 1;
    int k = vl_chosen_read(&chosen, a->reduces_questions ? NULL : a->reducer, a->policy,
                           n_frames < UINT32_MAX ? (uint32_t)n_frames : UINT32_MAX, err);
    vl_chosen_apply(&chosen, &o);
    if (k == 0)
        k = vl_engine_open_session(r->engine, &o, &r->session, err);
    vl_chosen_done(&chosen);
    return k < 0 ? k : vl_engine_watch(r->engine, r->session, r->mailbox);
}

static int open_ingest(struct run *r)
{
    bool uri = r->a->stream_fd < 0;
    struct vl_ingest_opts o = {.program = r->config->ingest_program,
                               .uri = uri ? r->a->stream : NULL,
                               .fd = r->a->stream_fd,
                               .interval_ns = (int64_t)r->a->every_usec * VL_NSEC_PER_USEC,
                               .gate = r->a->gate,
                               .realtime = r->a->realtime};
    struct vl_ingest_events ev = {.frame = on_frame, .phase = on_phase, .user = r};
    return vl_ingest_new(&r->ingest, r->event, r->children, &o, &ev);
}

static void open_stream(struct run *r)
{
    struct vl_error err = {0};
    int k = vl_mailbox_new(&r->mailbox, r->a->realtime ? 1 : VL_INGEST_FILE_CREDIT, NULL, NULL);
    if (k == 0)
        k = open_session(r, &err);
    if (k == 0)
        k = open_ingest(r);
    if (k == 0)
        return;
    vl_run_out_error(&r->out, "%s: %s", r->a->stream, err.msg[0] ? err.msg : strerror(-k));
    finish(r, VL_EXIT_FAILED);
}

static void on_stream_end(struct run *r, const struct vl_event *ev)
{
    r->ended = true;
    r->ingest = vl_ingest_unref(r->ingest);
    if (ev->error.code != 0 && !r->source_error) {
        vl_run_out_error(&r->out, "%s: %s", r->a->stream,
                         ev->error.msg[0] ? ev->error.msg : strerror(-ev->error.code));
        r->code = VL_EXIT_FAILED;
    }
    if (r->stats.n_frames > 0)
        return;
    if (r->code == VL_EXIT_OK)
        vl_run_out_error(&r->out, "%s: there was not one picture in it", r->a->stream);
    finish(r, VL_EXIT_FAILED); /* an answer about nothing would be made up */
}

static void on_stream(struct run *r, const struct vl_event *ev)
{
    switch (ev->type) {
    case VL_EVENT_CAPTION_DONE: /* its frame counts as seen with FRAME_SEEN alone */
        if (ev->len > 0)
            vl_run_out_caption(&r->out, ev);
        break;
    case VL_EVENT_FRAME_SEEN:
        r->stats = ev->session_stats;
        r->seen_pts_ns = ev->pts_ns;
        break;
    case VL_EVENT_ENDED:
        r->stats = ev->session_stats;
        on_stream_end(r, ev);
        break;
    case VL_EVENT_FAILED:
        vl_run_out_error(&r->out, "%s", ev->error.msg);
        finish(r, VL_EXIT_FAILED);
        break;
    default: /* pieces of a caption: the whole comes with CAPTION_DONE */
        break;
    }
}

/* ---- the pictures ---- */

static void read_next(struct run *r);

static void on_picture(void *user, struct vl_frame *f, const struct vl_error *err)
{
    struct run *r = user;
    r->still = vl_still_unref(r->still);
    if (!f) {
        vl_run_out_error(&r->out, "%s: %s", r->a->image[r->n_read], err->msg);
        finish(r, VL_EXIT_FAILED);
        return;
    }
    r->image[r->n_read++] = f;
    read_next(r);
    settle(r);
}

static void read_next(struct run *r)
{
    if (r->n_read == r->a->n_images)
        return;
    struct vl_still_opts o = {.program = r->config->ingest_program,
                              .fd = r->a->image_fd[r->n_read],
                              .want_side = VL_STILL_MODEL_SIDE};
    int k = vl_still_new(&r->still, r->event, r->children, &o, on_picture, r);
    if (k == 0)
        return;
    vl_run_out_error(&r->out, "%s: %s", r->a->image[r->n_read], strerror(-k));
    finish(r, VL_EXIT_FAILED);
}

/* ---- the engine ---- */

static void on_model(struct run *r, const struct vl_event *ev)
{
    struct vl_engine_info info;
    if (ev->type == VL_EVENT_FAILED) {
        vl_run_out_error(&r->out, "%s", ev->error.msg);
        finish(r, VL_EXIT_FAILED);
    } else if (ev->type == VL_EVENT_READY && vl_engine_get_info(r->engine, &info) == 0) {
        r->ready = true;
        vl_run_out_model(&r->out, &info);
        if (r->a->stream)
            open_stream(r);
    }
}

static void dispatch(struct run *r, const struct vl_event *ev)
{
    if (ev->turn == 0 && ev->session == 0)
        on_model(r, ev);
    else if (ev->turn == 0)
        on_stream(r, ev);
    else if (ev->turn != r->turn)
        return;
    else if (ev->type == VL_EVENT_TEXT)
        vl_run_out_text(&r->out, ev);
    else if (ev->type == VL_EVENT_TURN_DONE)
        on_answer(r, ev);
}

static int on_engine(sd_event_source *s, int fd, uint32_t revents, void *user)
{
    struct run *r = user;
    struct vl_event ev;
    (void)s;
    (void)fd;
    (void)revents;
    for (int n = 0; n < MAX_EVENTS && !r->over && vl_engine_next_event(r->engine, &ev) == 0; n++) {
        dispatch(r, &ev);
        settle(r);
    }
    return 0;
}

static int on_tick(sd_event_source *s, uint64_t usec, void *user)
{
    struct run *r = user;
    (void)usec;
    if (!r->ready)
        vl_run_out_loading(&r->out, vl_engine_load_progress(r->engine));
    else if (r->session && !r->ended && !r->turn && r->seen_pts_ns >= 0)
        vl_run_out_playing(&r->out, r->seen_pts_ns, &r->stats);
    r->lull = look_for_lull(r);
    settle(r);
    r->lull = false;
    return sd_event_source_set_time_relative(s, TICK_USEC);
}

static int on_signal(sd_event_source *s, const struct signalfd_siginfo *si, void *user)
{
    (void)s;
    finish(user, EXIT_SIGNAL + (int)si->ssi_signo);
    return 0;
}

/* ---- life ---- */

static int open_engine(struct run *r, struct vl_error *err)
{
    uint64_t budget = r->config->memory_budget; /* of the configuration, unless the command line has one */
    struct vl_engine_opts o = {.backend = r->config->backend,
                               .model = r->model->text,
                               .mmproj = r->model->projector,
                               .max_bytes = r->a->max_bytes        ? r->a->max_bytes
                                            : budget == UINT64_MAX ? 0
                                                                   : budget,
                               .max_sessions = 1,
                               .max_queue = 1,
                               .max_forks = 1,
                               .n_workers = r->config->workers};
    return vl_engine_new(&r->engine, &o, err);
}

static int open_loop(struct run *r, struct vl_error *err)
{
    int k = sd_event_new(&r->event);
    if (k < 0 || (k = sd_event_add_signal(r->event, &r->sigint, SIGINT, on_signal, r)) < 0 ||
        (k = sd_event_add_signal(r->event, &r->sigterm, SIGTERM, on_signal, r)) < 0 ||
        (k = vl_children_new(&r->children, r->event)) < 0)
        return vl_error_set(err, k, "cannot make an event loop: %s", strerror(-k));
    if ((k = open_engine(r, err)) < 0)
        return k;
    if ((k = sd_event_add_io(r->event, &r->engine_io, vl_engine_event_fd(r->engine), EPOLLIN, on_engine, r)) <
            0 ||
        (k = sd_event_add_time_relative(r->event, &r->tick, CLOCK_MONOTONIC, TICK_USEC, 10000, on_tick, r)) <
            0 ||
        (k = sd_event_source_set_enabled(r->tick, SD_EVENT_ON)) < 0)
        return vl_error_set(err, k, "cannot watch the engine: %s", strerror(-k));
    return 0;
}

static void close_all(struct run *r)
{
    for (unsigned i = 0; i < r->n_held; i++)
        (void)vl_frame_unref(r->held[i]);
    (void)vl_still_unref(r->still);
    for (uint32_t i = 0; i < r->n_read; i++)
        (void)vl_frame_unref(r->image[i]);
    (void)vl_ingest_unref(r->ingest);
    (void)sd_event_source_disable_unref(r->engine_io);
    (void)sd_event_source_disable_unref(r->tick);
    (void)sd_event_source_disable_unref(r->sigint);
    (void)sd_event_source_disable_unref(r->sigterm);
    (void)vl_engine_unref(r->engine);
    (void)vl_mailbox_unref(r->mailbox);
    (void)vl_children_unref(r->children);
    (void)sd_event_unref(r->event);
    vl_run_out_done(&r->out);
}

/* What can be told before anything is loaded. */
static int check(struct run *r, struct vl_error *err)
{
    const char *ingest = r->config->ingest_program;
    bool sees = r->a->stream || r->a->n_images;
    if (!sees)
        return 0;
    if (!r->model->projector)
        return vl_error_set(
            err, -EINVAL,
            "%s cannot see by itself: add --mmproj F.gguf, the file that is offered beside it "
            "with 'mmproj' in its name",
            r->model->text);
    if (r->a->stream_fd >= 0 && !VLMD_HAVE_FILES)
        return vl_error_set(
            err, -ENOTSUP,
            "%s: this vlmd was built without GStreamer and reads no video files; pictures and "
            "test: URIs it does",
            r->a->stream);
    if (access(ingest, X_OK) < 0)
        return vl_error_set(err, -errno,
                            "%s: %s; vlmd-ingest reads videos and pictures for vlmd: install it there, or "
                            "name it by --ingest",
                            ingest, strerror(errno));
    return 0;
}

static int run(const struct vl_run_args *a, const struct vl_config *config,
               const struct vl_model_config *model)
{
    struct run r = {.a = a, .config = config, .model = model, .put_pts_ns = -1, .seen_pts_ns = -1};
    struct vl_error err = {0};
    vl_run_out_init(&r.out, a);
    int k = check(&r, &err);
    if (k == 0)
        k = open_loop(&r, &err);
    if (k < 0) {
        vl_run_out_error(&r.out, "%s", err.msg);
        r.code = VL_EXIT_FAILED;
    } else {
        read_next(&r);
        r.code = sd_event_loop(r.event) < 0 ? VL_EXIT_FAILED : r.code;
    }
    vl_run_out_end(&r.out, r.code, a->stream ? &r.stats : NULL);
    if (r.out.broken && r.code == VL_EXIT_OK)
        r.code = VL_EXIT_FAILED;
    vl_process_limit_end(r.code);
    close_all(&r);
    return r.code;
}

static int run_command(int argc, char **argv)
{
    vl_auto(vl_config) config = NULL;
    const struct vl_model_config *model;
    struct vl_run_args a;
    int code;
    vl_log_set_level(VL_LOG_WARNING);
    int k = vl_run_args_parse(&a, argc, argv, &code);
    vl_log_sink_set(VL_LOG_TARGET_AUTO);
    if (k == 0)
        code =
            vl_process_begin() < 0 ? VL_EXIT_FAILED : vl_subcommand_config("run", &a.from, &config, &model);
    if (k == 0 && code == VL_EXIT_OK)
        code = run(&a, config, model);
    vl_run_args_done(&a);
    return code;
}

const struct vl_subcommand vl_subcommand_run = {
    .name = "run", .help = "looks at a video or pictures on a terminal, and answers", .run = run_command};
