/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The child, its frames, and the truth that runs beside them. */
#include "tests/endurance/play.h"

#include "base/clock.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { PATIENCE_MS = 120000 };

struct play_setup play_setup = {.minutes = 10};

struct play_opts play_defaults(const char *world, uint64_t seed, uint32_t seconds)
{
    return (struct play_opts){.world = world,
                              .seed = seed,
                              .seconds = seconds,
                              .event_rate = 0,
                              .move_share = 0.4f,
                              .n_start = -1,
                              .at = -1,
                              .px = -1};
}

double play_percent(uint32_t part, uint32_t n)
{
    return n ? 100.0 * part / n : 0;
}

void play_start(struct play *p)
{
    *p = (struct play){.child = -1, .rng = 1};
    vl_feed_open(&p->feed, &(struct vl_engine_opts){
                               .model = play_setup.model, .mmproj = play_setup.mmproj, .n_workers = 1});
}

void play_stop(struct play *p)
{
    play_close(p);
    vl_feed_close(&p->feed);
}

static void spawn(struct play *p, char *uri, bool gate)
{
    int fd[2], r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) < 0)
        vl_feed_die("no socket pair: %s", strerror(errno));
    char *argv[] = {(char *)(uintptr_t)play_setup.ingest,
                    (char *)(uintptr_t) "--fd=3",
                    (char *)(uintptr_t) "--source=test",
                    uri,
                    (char *)(uintptr_t)(gate ? "--gate=change" : "--gate=none"),
                    NULL};
    char *env[] = {NULL};
    vl_autofd theirs = fcntl(fd[1], F_DUPFD_CLOEXEC, 10); /* above what it becomes */
    vl_closep(&fd[1]);
    posix_spawn_file_actions_t a;
    r = posix_spawn_file_actions_init(&a);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(&a, theirs, 3);
    if (r == 0)
        r = posix_spawn(&p->child, play_setup.ingest, &a, NULL, argv, env);
    (void)posix_spawn_file_actions_destroy(&a);
    if (r != 0)
        vl_feed_die("cannot start %s: %s", play_setup.ingest, strerror(r));
    if (vl_frame_socket_new(&p->socket, fd[0], &vl_frame_limits_default) < 0)
        vl_feed_die("no frame socket");
    vl_frame_socket_grant_on_release(p->socket, 1);
    (void)vl_frame_socket_grant(p->socket, &(struct vl_frame_credit){.n = 1}); /* one is allowed */
}

static struct vl_script_options script_of(const struct play_opts *o, uint32_t width, uint32_t height)
{
    struct vl_script_options s = vl_script_default_options(o->seed, width, height);
    s.name = o->world;
    s.seeded.event_rate = o->event_rate;
    s.seeded.move_share = o->move_share;
    s.seeded.n_start = o->n_start;
    s.order = o->order;
    s.at = o->at;
    s.every = o->every;
    s.px = o->px;
    return s; /* flicker and sigma change no truth */
}

void play_open(struct play *p, const struct play_opts *o)
{
    static const char *const order[] = {"forward", "backward", "shuffled"};
    uint32_t width = o->width ? o->width : 256, height = o->height ? o->height : 144;
    struct vl_script_options script = script_of(o, width, height);
    struct vl_error err;
    char uri[1024], more[128] = "";
    play_close(p);
    if (o->n_start >= 0)
        (void)snprintf(more, sizeof(more), "&start=%d", o->n_start);
    if (o->fault)
        (void)snprintf(more + strlen(more), sizeof(more) - strlen(more), "&fault=%s", o->fault);
    if (o->at >= 0)
        (void)snprintf(more + strlen(more), sizeof(more) - strlen(more), "&at=%g", o->at);
    if (o->px >= 0)
        (void)snprintf(more + strlen(more), sizeof(more) - strlen(more), "&px=%g", o->px);
    (void)snprintf(uri, sizeof(uri),
                   "--uri=test:?world=%s&seed=%llu&seconds=%u&size=%ux%u&event-rate=%g&move-share=%g&order=%s"
                   "&every=%g&flicker=%g&sigma=%g%s",
                   o->world ? o->world : "seeded", (unsigned long long)o->seed, o->seconds, width, height,
                   (double)o->event_rate, (double)o->move_share, order[o->order], o->every, o->flicker,
                   o->sigma, more);
    if (vl_script_new(&script, &p->script, &err) < 0)
        vl_feed_die("%s", err.msg);
    vl_feed_begin(&p->feed, &(struct vl_session_opts){.max_caption_tokens = PLAY_MAX_TOKENS,
                                                      .captions = true,
                                                      .instruction = o->instruction,
                                                      .reducer = o->reducer,
                                                      .policy = o->policy,
                                                      .visual_budget = o->visual_budget,
                                                      .sampling = VL_SAMPLING_GREEDY});
    p->second = -1;
    p->n_history = p->n_frames = p->n_events = p->n_right = p->n_missed = p->n_false = 0;
    p->status = (struct vl_frame_status){0};
    spawn(p, uri, o->gate);
}

void play_close(struct play *p)
{
    p->socket = vl_frame_socket_unref(p->socket);
    p->script = vl_script_unref(p->script);
    if (p->child <= 0)
        return;
    (void)kill(p->child, SIGKILL);
    (void)waitpid(p->child, NULL, 0); /* ours, and it is dead */
    p->child = -1;
}

/* The next frame, or NULL at the end of the stream. */
static struct vl_frame *receive(struct play *p)
{
    for (;;) {
        struct vl_frame *frame = NULL;
        struct vl_error err;
        int r = vl_frame_socket_receive(p->socket, &frame, &p->status, &err);
        struct pollfd fd = {.fd = vl_frame_socket_fd(p->socket), .events = POLLIN};
        if (r == 0)
            return frame;
        if (r < 0)
            vl_feed_die("the child broke the protocol: %s", err.msg);
        if (r == VL_FRAME_STATUS && p->status.state == VL_INGEST_FAILED)
            vl_feed_die("the stream failed: %s", p->status.reason);
        if (r == VL_FRAME_CLOSED)
            return NULL;
        if (r == VL_FRAME_EMPTY && poll(&fd, 1, PATIENCE_MS) == 0)
            vl_feed_die("no frame from vlmd-ingest in %d s", PATIENCE_MS / 1000);
    }
}

/* The truth of every second up to this one; a gap begins a new history. */
static void remember(struct play *p, int64_t second, bool gap)
{
    if (gap) {
        p->n_history = 0;
        p->second = second - 1;
    }
    for (int64_t s = p->second + 1; s <= second; s++) {
        vl_script_seek(p->script, s);
        if (p->n_history == PLAY_HISTORY)
            memmove(p->history, p->history + 1, --p->n_history * sizeof(*p->history));
        p->history[p->n_history++] = *vl_script_truth(p->script);
    }
    p->second = second;
}

bool play_next(struct play *p)
{
    struct vl_frame *frame = receive(p);
    if (!frame)
        return false;
    p->flags = frame->flags;
    p->wall_ns = frame->wall_ns;
    remember(p, frame->pts_ns / VL_NSEC_PER_SEC, p->n_frames > 0 && (frame->flags & VL_FRAME_GAP));
    vl_feed_show_frame(&p->feed, frame);
    p->want[0] = '\0';
    if (p->n_history > 1) /* what is there from the start is no news */
        vl_quiz_caption(&play_truth(p)->event, p->want);
    const char *said = p->feed.caption;
    bool right = vl_quiz_same_text(said, p->want);
    p->n_frames++;
    p->n_events += p->want[0] != '\0';
    p->n_right += p->want[0] && right;
    p->n_missed += p->want[0] && !said[0];
    p->n_false += !p->want[0] && said[0];
    return true;
}

void play_all(struct play *p)
{
    while (play_next(p))
        ;
}

const struct vl_world_truth *play_truth(const struct play *p)
{
    return &p->history[p->n_history - 1];
}

bool play_ask(struct play *p, const char *want, const char *fmt, ...)
{
    char question[VL_QUIZ_TEXT_SIZE];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(question, sizeof(question), fmt, ap);
    va_end(ap);
    vl_feed_ask(&p->feed, question, PLAY_MAX_TOKENS);
    if (p->feed.status != VL_TURN_OK)
        vl_feed_die("second %lld: '%s' was not answered (%d)", (long long)p->second, question,
                    (int)p->feed.status);
    return vl_quiz_same_text(p->feed.answer, want);
}

int play_quiz(struct play *p, enum vl_quiz_category category)
{
    struct vl_quiz_item item;
    for (int try = 0; try < 4; try++)
        if (vl_quiz_ask(&p->rng, p->history, p->n_history, category, VL_QUIZ_CONTRACT, &item) == 0)
            return play_ask(p, item.answer, "%s", item.question);
    return -1;
}
