/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The supervisor of one ingest child.
 *
 *   spawn ─► connecting ──first frame──► running ──end──► ended
 *     ▲        │ 10 s, death, error        │ silence, death, error
 *     │        ▼                           ▼
 *     └─ retrying (0.5 s .. 30 s)      ◄─ killing (SIGTERM, 0.2 s, SIGKILL) ─► failed (a file)
 *
 * A sign of life is a frame, a status that waits for our credit, or a status whose n_in grew (gated frames
 * count in it). A child that is stopped or hung gives none of them. The decision what comes next is taken in
 * one place, decide(), once the child is reaped, from what is known by then: its last status, why we killed
 * it, how it died.
 */
#include "daemon/ingest.h"

#include "base/clock.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define CONNECT_NS     (10 * VL_NSEC_PER_SEC)
#define MIN_STALL_NS   (3 * VL_NSEC_PER_SEC)
#define STABLE_NS      (10 * VL_NSEC_PER_SEC) /* ran that long: the next back-off begins anew */
#define BACKOFF_MIN_NS (VL_NSEC_PER_SEC / 2)
#define BACKOFF_MAX_NS (30 * VL_NSEC_PER_SEC)
enum { MAX_PACKETS = 16 };

struct vl_ingest {
    sd_event *event;
    struct vl_children *children;
    struct vl_ingest_opts o;
    struct vl_ingest_events ev;
    enum vl_ingest_phase phase;
    struct vl_child *child;
    struct vl_frame_socket *socket;
    sd_event_source *io, *timer;   /* timer: start, deadline, stall */
    struct vl_frame_status status; /* the child's last */
    char word[24], detail[160];    /* why it is being killed, "" when it is not */
    int64_t started_ns, alive_ns, backoff_ns;
    int64_t last_pts_ns, last_frame_ns; /* last_frame_ns: monotonic, 0: none yet */
    bool gap;                           /* the next frame comes after a hole */
    struct vl_ingest_stats stats;
};

static void set_phase(struct vl_ingest *i, enum vl_ingest_phase phase, const char *reason, const char *detail)
{
    i->phase = phase;
    i->ev.phase(i->ev.user, phase, reason, detail);
}

static int64_t stall_ns(const struct vl_ingest *i)
{
    int64_t n = 3 * i->o.interval_ns;
    return n > MIN_STALL_NS ? n : MIN_STALL_NS;
}

static void arm(struct vl_ingest *i, int64_t at_ns)
{
    /* A timer that exists cannot fail to be set. */
    (void)sd_event_source_set_time(i->timer, (uint64_t)(at_ns / VL_NSEC_PER_USEC));
    (void)sd_event_source_set_enabled(i->timer, SD_EVENT_ONESHOT);
}

static void drop_socket(struct vl_ingest *i)
{
    i->io = sd_event_source_disable_unref(i->io);
    i->socket = vl_frame_socket_unref(i->socket);
}

/* Ends the child for a reason of ours; the rest happens when it is reaped. */
static void end_child(struct vl_ingest *i, const char *word, const char *detail)
{
    if (i->word[0])
        return;
    (void)snprintf(i->word, sizeof(i->word), "%s", word);
    (void)snprintf(i->detail, sizeof(i->detail), "%.*s", (int)sizeof(i->detail) - 1, detail);
    drop_socket(i);
    vl_child_end(i->child);
}

static void retry(struct vl_ingest *i, const char *word, const char *detail)
{
    int64_t now = vl_clock_monotonic_ns();
    uint32_t noise = 0;
    if (getrandom(&noise, sizeof(noise), GRND_NONBLOCK) < 0)
        noise = 0; /* no noise, no jitter */
    if (i->backoff_ns == 0 || (i->last_frame_ns > i->started_ns && now - i->started_ns > STABLE_NS))
        i->backoff_ns = BACKOFF_MIN_NS;
    int64_t wait = i->backoff_ns / 10 * 8 + i->backoff_ns / 10 * 4 * (int64_t)(noise >> 16) / 65536;
    i->backoff_ns = i->backoff_ns < BACKOFF_MAX_NS / 2 ? i->backoff_ns * 2 : BACKOFF_MAX_NS;
    arm(i, now + wait);
    set_phase(i, VL_INGEST_PHASE_RETRYING, word, detail);
}

/* "word: sentence" of a child, of which only letters and '-' may pass as the word. */
static void split_reason(const char *reason, char *word, size_t size, const char **ret_detail)
{
    size_t n = strspn(reason, "abcdefghijklmnopqrstuvwxyz-");
    bool ok = n > 0 && n < size && (reason[n] == ':' || reason[n] == '\0');
    (void)snprintf(word, size, "%.*s", ok ? (int)n : 6, ok ? reason : "decode");
    *ret_detail = ok && reason[n] == ':' ? reason + n + 1 + (reason[n + 1] == ' ') : ok ? "" : reason;
}

/* The child is gone: what now? */
static void decide(struct vl_ingest *i, int why, int code)
{
    char word[24] = "", how[64] = "";
    const char *detail = "";
    bool final = !i->o.restart;
    if (i->word[0]) {
        (void)snprintf(word, sizeof(word), "%s", i->word);
        detail = i->detail;
    } else if (i->status.state == VL_INGEST_ENDED) {
        set_phase(i, VL_INGEST_PHASE_ENDED, "end-of-file", "");
        return;
    } else if (i->status.state == VL_INGEST_FAILED) {
        split_reason(i->status.reason, word, sizeof(word), &detail);
        final =
            final || i->status.code == -EINVAL; /* what it was asked for is wrong: it will be wrong again */
    } else if (why == CLD_EXITED) {
        (void)snprintf(word, sizeof(word), "refused"); /* it did not come as far as to say why */
        (void)snprintf(how, sizeof(how), "its ingest process ended with exit code %d", code);
        detail = how;
    } else {
        (void)snprintf(word, sizeof(word), "killed");
        (void)snprintf(how, sizeof(how), "its ingest process died of signal %d", code);
        detail = how;
    }
    if (final)
        set_phase(i, VL_INGEST_PHASE_FAILED, word, detail);
    else
        retry(i, word, detail);
}

static void settle_stats(struct vl_ingest *i)
{
    i->stats.n_in += i->status.n_in;
    i->stats.n_gated += i->status.n_gated;
    i->stats.n_corrupt += i->status.n_corrupt;
    i->status.n_in = i->status.n_gated = i->status.n_corrupt = 0;
}

static bool receive(struct vl_ingest *i);

static void on_child_exit(void *user, int why, int code)
{
    struct vl_ingest *i = user;
    i->child = NULL;
    while (i->socket && receive(i)) /* what it sent before it died still counts */
        ;
    drop_socket(i);
    (void)sd_event_source_set_enabled(i->timer, SD_EVENT_OFF);
    settle_stats(i);
    i->gap = true;
    decide(i, why, code);
}

/* A restarted child is told where media time goes on (--start-ns) and marks its first frame itself; what was
 * lost is a gap also when a child forgets to. */
static void put_in_order(struct vl_ingest *i, struct vl_frame *f)
{
    if (i->gap && i->last_frame_ns > 0)
        f->flags |= VL_FRAME_GAP;
    i->gap = false;
    i->last_pts_ns = f->pts_ns;
    i->last_frame_ns = vl_clock_monotonic_ns();
}

static void take_frame(struct vl_ingest *i, struct vl_frame *f)
{
    i->alive_ns = vl_clock_monotonic_ns();
    put_in_order(i, f);
    if (i->o.realtime) {
        struct vl_frame_credit c = {.n = 1};
        (void)vl_frame_socket_grant(i->socket, &c); /* a child that has gone is heard of by its pidfd */
    }
    i->ev.frame(i->ev.user, f);
    if (i->phase == VL_INGEST_PHASE_CONNECTING) {
        arm(i, i->alive_ns + stall_ns(i));
        set_phase(i, VL_INGEST_PHASE_RUNNING, "", "");
    }
}

static void take_status(struct vl_ingest *i, const struct vl_frame_status *st)
{
    bool alive = st->state == VL_INGEST_WAITING_CREDIT || st->n_in > i->status.n_in;
    if (alive && i->phase == VL_INGEST_PHASE_RUNNING)
        i->alive_ns = vl_clock_monotonic_ns();
    i->status = *st;
    i->status.reason[sizeof(i->status.reason) - 1] = '\0';
}

/* One packet. False: nothing more for now, or the connection is over. */
static bool receive(struct vl_ingest *i)
{
    vl_auto(vl_frame) f = NULL;
    struct vl_frame_status st;
    struct vl_error err = {0};
    int r = vl_frame_socket_receive(i->socket, &f, &st, &err);
    if (r == 0) {
        take_frame(i, vl_steal(f));
        return true;
    }
    if (r == VL_FRAME_STATUS) {
        take_status(i, &st);
        return true;
    }
    if (r < 0 && i->child)
        end_child(i, r == -EMSGSIZE ? "limit" : "decode", err.msg[0] ? err.msg : strerror(-r));
    else if (r != VL_FRAME_EMPTY)
        drop_socket(i); /* closed: its exit follows, or the stall timer asks why not */
    return false;
}

static int on_socket(sd_event_source *s, int fd, uint32_t revents, void *user)
{
    struct vl_ingest *i = user;
    (void)s;
    (void)fd;
    (void)revents;
    for (int n = 0; n < MAX_PACKETS && i->socket && receive(i); n++)
        ;
    return 0;
}

static int grant_first(struct vl_ingest *i)
{
    struct vl_frame_credit c = {
        .n = VL_INGEST_FILE_CREDIT, .gate = i->o.gate, .interval_ns = i->o.interval_ns};
    if (i->o.realtime)
        c.n = vl_frame_limits_default.max_in_flight;
    else
        vl_frame_socket_grant_on_release(i->socket, 1);
    return vl_frame_socket_grant(i->socket, &c);
}

/* Where media time goes on after a child that died: real time passed meanwhile, unless the model sets the
 * pace. */
static int64_t start_pts(const struct vl_ingest *i)
{
    if (i->last_frame_ns == 0)
        return 0;
    return i->last_pts_ns + (i->o.realtime ? vl_clock_monotonic_ns() - i->last_frame_ns : i->o.interval_ns);
}

enum { MAX_ARGS = 12, ARG_BYTES = 64 };
/* docs/ingest.md. The long texts live in room, the rest is constant or borrowed. */
static void build_args(const struct vl_ingest *i, char room[3][ARG_BYTES], char *uri, size_t size,
                       const char *argv[MAX_ARGS])
{
    size_t n = 0;
    (void)snprintf(room[0], ARG_BYTES, "--interval-ns=%" PRId64, i->o.interval_ns);
    (void)snprintf(room[1], ARG_BYTES, "--gate=%s", i->o.gate == VL_GATE_CHANGE ? "change" : "none");
    (void)snprintf(room[2], ARG_BYTES, "--start-ns=%" PRId64, start_pts(i));
    (void)snprintf(uri, size, "--uri=%s", i->o.uri ? i->o.uri : "");
    argv[n++] = i->o.program;
    argv[n++] = "--fd=3";
    argv[n++] = i->o.uri ? "--source=test" : "--source=file";
    argv[n++] = i->o.uri ? uri : "--input-fd=4";
    argv[n++] = room[0];
    argv[n++] = room[1];
    if (i->last_frame_ns > 0)
        argv[n++] = room[2];
    if (i->o.realtime)
        argv[n++] = "--realtime";
    if (i->o.loop)
        argv[n++] = "--loop";
    argv[n] = NULL;
}

static int spawn(struct vl_ingest *i)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return -errno;
    vl_autofd ours = pair[0], theirs = pair[1];
    char room[3][ARG_BYTES], uri[VL_INGEST_MAX_URI + 8];
    const char *argv[MAX_ARGS];
    build_args(i, room, uri, sizeof(uri), argv);
    int fd[VL_CHILD_MAX_FDS] = {theirs, i->o.fd};
    int r = vl_frame_socket_new(&i->socket, ours, &vl_frame_limits_default);
    if (r < 0)
        return r;
    (void)vl_steal_fd(&ours); /* the socket's now */
    if ((r = grant_first(i)) < 0)
        return r;
    r = sd_event_add_io(i->event, &i->io, vl_frame_socket_fd(i->socket), EPOLLIN, on_socket, i);
    if (r < 0)
        return r;
    return vl_child_spawn(&i->child, i->children, (char *const *)argv, fd, i->o.fd >= 0 ? 2 : 1,
                          on_child_exit, i);
}

static void start(struct vl_ingest *i)
{
    i->started_ns = i->alive_ns = vl_clock_monotonic_ns();
    i->word[0] = '\0';
    i->status = (struct vl_frame_status){0};
    if (i->phase == VL_INGEST_PHASE_RETRYING)
        i->stats.n_restarts++;
    int r = spawn(i);
    if (r < 0) {
        drop_socket(i);
        retry(i, "limit", strerror(-r)); /* out of descriptors or processes: that may pass, for files too */
        return;
    }
    arm(i, i->started_ns + CONNECT_NS);
    set_phase(i, VL_INGEST_PHASE_CONNECTING, "", "");
}

/* The one timer: what it means is what phase we are in. */
static int on_timer(sd_event_source *s, uint64_t usec, void *user)
{
    struct vl_ingest *i = user;
    (void)s;
    (void)usec;
    if (!i->child) {
        start(i);
        return 0;
    }
    if (i->phase == VL_INGEST_PHASE_CONNECTING) {
        end_child(i, "timeout", "no frame within 10 s of its start");
        return 0;
    }
    int64_t due = i->alive_ns + stall_ns(i);
    if (vl_clock_monotonic_ns() < due) {
        arm(i, due);
        return 0;
    }
    end_child(i, "timeout", "its ingest process gave no sign of life");
    set_phase(i, VL_INGEST_PHASE_STALLED, "timeout", i->detail);
    return 0;
}

int vl_ingest_new(struct vl_ingest **ret, sd_event *event, struct vl_children *children,
                  const struct vl_ingest_opts *o, const struct vl_ingest_events *ev)
{
    struct vl_ingest *i = calloc(1, sizeof(*i));
    if (!i)
        return -ENOMEM;
    *i = (struct vl_ingest){.event = event, .children = children, .o = *o, .ev = *ev};
    int r = sd_event_add_time(event, &i->timer, CLOCK_MONOTONIC, 0, 1000, on_timer, i);
    if (r < 0) {
        free(i);
        return r;
    }
    *ret = i;
    return 0;
}

void vl_ingest_configure(struct vl_ingest *i, int64_t interval_ns, enum vl_gate gate)
{
    struct vl_frame_credit c = {.n = 0, .gate = gate, .interval_ns = interval_ns};
    i->o.interval_ns = interval_ns;
    i->o.gate = gate;
    if (i->socket)
        (void)vl_frame_socket_grant(i->socket, &c); /* a child that has gone is heard of by its pidfd */
}

void vl_ingest_get_stats(const struct vl_ingest *i, struct vl_ingest_stats *ret)
{
    *ret = i->stats;
    ret->n_in += i->status.n_in;
    ret->n_gated += i->status.n_gated;
    ret->n_corrupt += i->status.n_corrupt;
}

struct vl_ingest *vl_ingest_unref(struct vl_ingest *i)
{
    if (!i)
        return NULL;
    drop_socket(i);
    i->child = vl_child_disown(i->child);
    (void)sd_event_source_disable_unref(i->timer);
    free(i);
    return NULL;
}
