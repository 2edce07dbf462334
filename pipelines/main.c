/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * vlmd-ingest: one source, one frame socket, one child process of the daemon. docs/ingest.md is its manual:
 * command line, credits, states and exit codes. The main thread sends frames and statuses and hears credit;
 * the source has a thread of its own. With --still it is one picture and one thread. It ends with _exit:
 * whatever a decoder's teardown does must not delay the last status.
 */
#include "base/clock.h"
#include "base/frame_socket.h"
#include "pipelines/confine.h"
#include "pipelines/feed.h"
#include "pipelines/source.h"
#include "pipelines/still.h"

#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

enum { EXIT_ENDED = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_CONFINE = 3 };
#define STATUS_NS VL_NSEC_PER_SEC
#define MIN_STATUS_NS                                                                                        \
    (50 * VL_NSEC_PER_MSEC) /* states may change with every frame; telling of them may not */

struct ingest {
    const struct vl_source_ops *ops;
    void *source;
    const char *uri;
    bool still; /* in place of a source */
    uint32_t want_side;
    int fd, input_fd, signal_fd;
    struct vl_source_limits limits;
    struct vl_feed_opts feed_opts;
    struct vl_confinement confinement;
    struct vl_feed *feed;
    struct vl_frame_socket *socket;
    /* the frame that waits for credit */
    bool pending, socket_full, seen;
    struct vl_frame_packet packet;
    int memfd;
    /* the last status */
    uint32_t state;
    int64_t status_ns;
};

static const char usage[] =
    "vlmd-ingest --fd=N --source=NAME [--uri=URI] [--input-fd=N] [--interval-ns=N] [--gate=none|change]\n"
    "            [--realtime] [--loop] [--start-ns=N] [--max-side=N] [--max-pixels=N] [--memory=BYTES]\n"
    "vlmd-ingest --fd=N --still --input-fd=N [--want-side=N] [--max-side=N] [--max-pixels=N] "
    "[--memory=BYTES]\n"
    "vlmd-ingest --list-sources | --confine-self-test\n"
    "Started by vlmd with its descriptors open; docs/ingest.md says what they are.\n";

static int complain(const char *what, const char *value)
{
    (void)fprintf(stderr, "vlmd-ingest: %s%s%s\n%s", what, value ? ": " : "", value ? value : "", usage);
    return EXIT_USAGE;
}

static bool parse_number(const char *text, int64_t min, int64_t max, int64_t *ret)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min || v > max)
        return false;
    *ret = v;
    return true;
}

enum { OPT_LIST = 256, OPT_SELF_TEST, OPT_HELP };
static const struct option options[] = {
    {"fd", required_argument, NULL, 'f'},
    {"source", required_argument, NULL, 's'},
    {"uri", required_argument, NULL, 'u'},
    {"input-fd", required_argument, NULL, 'i'},
    {"interval-ns", required_argument, NULL, 'n'},
    {"gate", required_argument, NULL, 'g'},
    {"realtime", no_argument, NULL, 'r'},
    {"loop", no_argument, NULL, 'l'},
    {"start-ns", required_argument, NULL, 'S'},
    {"max-side", required_argument, NULL, 'M'},
    {"max-pixels", required_argument, NULL, 'P'},
    {"memory", required_argument, NULL, 'm'},
    {"still", no_argument, NULL, 't'},
    {"want-side", required_argument, NULL, 'w'},
    {"list-sources", no_argument, NULL, OPT_LIST},
    {"confine-self-test", no_argument, NULL, OPT_SELF_TEST},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* One option; 0, or an exit code. */
static int set_option(struct ingest *g, int opt, const char *arg)
{
    int64_t v = 0;
    bool ok = true;
    switch (opt) {
    case 'f':
        ok = parse_number(arg, 0, INT32_MAX, &v);
        g->fd = (int)v;
        break;
    case 'i':
        ok = parse_number(arg, 0, INT32_MAX, &v);
        g->input_fd = (int)v;
        break;
    case 's':
        g->ops = vl_source_find(arg);
        ok = g->ops != NULL;
        break;
    case 'u':
        g->uri = arg;
        break;
    case 'n':
        ok = parse_number(arg, 0, 3600 * VL_NSEC_PER_SEC, &g->feed_opts.interval_ns);
        break;
    case 'g':
        ok = !strcmp(arg, "none") || !strcmp(arg, "change");
        g->feed_opts.gate = !strcmp(arg, "change") ? VL_GATE_CHANGE : VL_GATE_NONE;
        break;
    case 'r':
        g->feed_opts.realtime = true;
        break;
    case 'l':
        g->limits.loop = 1;
        break;
    case 'S':
        ok = parse_number(arg, 0, VL_FRAME_MAX_PTS_NS, &g->limits.start_ns);
        break;
    case 'M':
        ok = parse_number(arg, 1, UINT16_MAX, &v);
        g->limits.max_side = (uint32_t)v;
        break;
    case 'P':
        ok = parse_number(arg, 1, INT64_C(1) << 32, &v);
        g->limits.max_pixels = (uint64_t)v;
        break;
    case 't':
        g->still = true;
        break;
    case 'w':
        ok = parse_number(arg, 0, UINT16_MAX, &v);
        g->want_side = (uint32_t)v;
        break;
    case 'm':
        ok = parse_number(arg, INT64_C(64) << 20, INT64_C(1) << 40, &v);
        g->confinement.memory_bytes = (uint64_t)v;
        break;
    default:
        return complain("unknown option", NULL);
    }
    return ok ? 0 : complain("this value cannot be used", arg);
}

static int list_sources(void)
{
    for (const struct vl_source_ops *const *s = vl_sources; *s; s++)
        (void)printf("%s\t%s\n", (*s)->scheme, (*s)->help);
    vl_still_list();
    return EXIT_ENDED;
}

/* -1: go on; else the exit code. */
static int parse(struct ingest *g, int argc, char **argv)
{
    for (int opt; (opt = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (opt == OPT_LIST)
            return list_sources();
        if (opt == OPT_SELF_TEST)
            return vl_confine_self_test() == 0 ? EXIT_ENDED : EXIT_FAILED;
        if (opt == OPT_HELP) {
            (void)fputs(usage, stdout);
            return EXIT_ENDED;
        }
        int r = set_option(g, opt, optarg);
        if (r != 0)
            return r;
    }
    if (optind < argc)
        return complain("unknown argument", argv[optind]);
    if (g->fd < 0 || !g->ops == !g->still)
        return complain("--fd and one of --source and --still are required", NULL);
    if (g->still && g->input_fd < 0)
        return complain("--still needs --input-fd", NULL);
    return -1;
}

/* ------------------------------------------------------------------------------------------------ statuses
 */

static void send_status(struct ingest *g, uint32_t state, int code, const char *reason)
{
    struct vl_feed_counts n = {0};
    if (g->feed)
        n = vl_feed_counts(g->feed);
    struct vl_frame_status st = {
        .state = state, .code = code, .n_in = n.n_in, .n_gated = n.n_gated, .n_corrupt = n.n_corrupt};
    (void)snprintf(st.reason, sizeof(st.reason), "%s", reason);
    g->state = state;
    g->status_ns = vl_clock_monotonic_ns();
    (void)vl_frame_socket_send_status(g->socket, &st); /* a parent that reads nothing learns nothing */
}

/* interface.md's words for what went wrong. */
static const char *word_of(int code)
{
    switch (-code) {
    case EMSGSIZE:
    case ENOMEM:
        return "limit";
    case EBADMSG:
        return "decode";
    case EIO:
    case ENODEV:
        return "device-gone";
    default:
        return "refused";
    }
}

static int fail(struct ingest *g, int code, const struct vl_error *err)
{
    char reason[160];
    (void)snprintf(reason, sizeof(reason), "%s: %.140s", word_of(code),
                   err->msg[0] ? err->msg : strerror(-code));
    send_status(g, VL_INGEST_FAILED, code, reason);
    return EXIT_FAILED;
}

static void tell(struct ingest *g)
{
    uint32_t state = VL_INGEST_RUNNING;
    if (g->pending || vl_feed_counts(g->feed).waiting)
        state = VL_INGEST_WAITING_CREDIT;
    else if (!g->seen)
        state = VL_INGEST_CONNECTING;
    int64_t since = vl_clock_monotonic_ns() - g->status_ns;
    if (since >= STATUS_NS || (state != g->state && since >= MIN_STATUS_NS))
        send_status(g, state, 0, g->confinement.landlock ? "" : "note: this kernel has no Landlock");
}

/* ---------------------------------------------------------------------------------------------- frames out
 */

/* -1: go on; else the exit code. */
static int send_pending(struct ingest *g)
{
    if (!g->pending)
        return -1;
    if (!g->feed_opts.realtime)
        g->packet.wall_ns = vl_clock_wall_ns(); /* at the model's pace it is seen when it is asked for */
    int r = vl_frame_socket_send(g->socket, &g->packet, g->memfd);
    g->socket_full = r == -EAGAIN;
    if (r == VL_FRAME_NO_CREDIT || r == -EAGAIN)
        return -1;
    if (r < 0)
        return r == -EPIPE ? EXIT_ENDED : fail(g, r, &(struct vl_error){.msg = "the frame socket broke"});
    g->pending = false;
    vl_closep(&g->memfd);
    g->memfd = -1;
    vl_feed_sent(g->feed);
    return -1;
}

/* Takes what the source has; a newer frame takes the place of one that still waits. -1: go on; else the exit
 * code. */
static int take_frames(struct ingest *g)
{
    for (;;) {
        struct vl_frame_packet packet;
        struct vl_error err = {0};
        int memfd = -1, r = vl_feed_next(g->feed, &packet, &memfd, &err);
        if (r == VL_FEED_EMPTY)
            return -1;
        if (r == VL_FEED_ENDED) {
            if (g->pending)
                return -1; /* it is asked again once that one went out */
            if (err.code < 0)
                return fail(g, err.code, &err);
            send_status(g, VL_INGEST_ENDED, 0, "end-of-file");
            return EXIT_ENDED;
        }
        if (g->pending) {
            packet.flags |= g->packet.flags & VL_FRAME_GAP;
            vl_closep(&g->memfd);
            vl_feed_sent(g->feed);
        }
        g->seen = true;
        g->pending = true;
        g->packet = packet;
        g->memfd = memfd;
        r = send_pending(g);
        if (r >= 0)
            return r;
    }
}

static int read_credit(struct ingest *g)
{
    for (;;) {
        struct vl_frame_credit c;
        int r = vl_frame_socket_read_credit(g->socket, &c);
        if (r == VL_FRAME_EMPTY)
            return -1;
        if (r != 0)
            return EXIT_ENDED; /* the parent closed it, or is not one of ours */
        vl_feed_configure(g->feed, (enum vl_gate)c.gate, c.interval_ns);
    }
}

static int loop(struct ingest *g)
{
    for (;;) {
        struct pollfd p[3] = {
            {.fd = g->signal_fd, .events = POLLIN},
            {.fd = vl_frame_socket_fd(g->socket), .events = (short)(POLLIN | (g->socket_full ? POLLOUT : 0))},
            {.fd = vl_feed_fd(g->feed), .events = POLLIN},
        };
        (void)poll(p, 3, 100); /* often enough to tell of a state that changed without an event */
        if (p[0].revents)
            return EXIT_ENDED;
        int r = p[1].revents ? read_credit(g) : -1;
        if (r < 0)
            r = send_pending(g);
        if (r < 0)
            r = take_frames(g);
        if (r >= 0)
            return r;
        tell(g);
    }
}

/* --------------------------------------------------------------------------------------------------- start
 */

/* With the socket open and confined: from here on every failure is a status. */
static int watch(struct ingest *g)
{
    struct vl_error err = {0};
    g->feed_opts.step_ns = g->ops->max_step_ns;
    g->feed_opts.start_ns = g->limits.start_ns;
    int r = vl_feed_new(&g->feed, &g->feed_opts);
    if (r < 0)
        return fail(g, r, &err);
    send_status(g, VL_INGEST_CONNECTING, 0,
                g->confinement.landlock ? "" : "note: this kernel has no Landlock");
    g->source = calloc(1, g->ops->state_size);
    if (!g->source)
        return fail(g, -ENOMEM, &err);
    r = g->ops->open(g->source, g->uri, g->input_fd, &g->limits, &err);
    if (r < 0)
        return fail(g, r, &err);
    struct vl_source_out out = vl_feed_out(g->feed);
    r = g->ops->start(g->source, &out);
    if (r < 0)
        return fail(g, r, &err);
    return loop(g);
}

/* One picture, once there is credit for it. The default action of SIGTERM ends it. */
static int still(struct ingest *g)
{
    const struct vl_still_limits max = {.max_side = g->limits.max_side,
                                        .want_side = g->want_side,
                                        .max_pixels = g->limits.max_pixels,
                                        .max_bytes = VL_STILL_MAX_BYTES};
    struct vl_error err = {0};
    send_status(g, VL_INGEST_CONNECTING, 0,
                g->confinement.landlock ? "" : "note: this kernel has no Landlock");
    int r = vl_still_read(g->input_fd, &max, &g->packet, &g->memfd, &err);
    if (r < 0)
        return fail(g, r, &err);
    for (;;) {
        struct vl_frame_credit c;
        struct pollfd p = {.fd = vl_frame_socket_fd(g->socket), .events = POLLIN};
        while ((r = vl_frame_socket_read_credit(g->socket, &c)) == 0)
            ;
        if (r != VL_FRAME_EMPTY)
            return EXIT_ENDED; /* the parent closed it, or is not one of ours */
        if ((r = vl_frame_socket_send(g->socket, &g->packet, g->memfd)) == 0)
            break;
        if (r == -EAGAIN)
            p.events |= POLLOUT;
        else if (r < 0)
            return r == -EPIPE ? EXIT_ENDED : fail(g, r, &(struct vl_error){.msg = "the frame socket broke"});
        (void)poll(&p, 1, -1); /* a signal only makes it turn once more */
    }
    send_status(g, VL_INGEST_ENDED, 0, "end-of-file");
    return EXIT_ENDED;
}

static int catch_term(struct ingest *g)
{
    sigset_t term;
    (void)sigemptyset(&term); /* cannot fail, nor can the next two */
    (void)sigaddset(&term, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &term, NULL);
    g->signal_fd = signalfd(-1, &term, SFD_CLOEXEC | SFD_NONBLOCK);
    return g->signal_fd < 0 ? -errno : 0;
}

static int run(struct ingest *g)
{
    struct vl_error err = {0};
    int keep[2] = {g->fd, g->input_fd};
    int r = vl_confine_inherited(keep, 2);
    if (r < 0)
        return complain("inherited things could not be closed", strerror(-r));
    r = vl_frame_socket_new(&g->socket, g->fd, &vl_frame_limits_default);
    if (r < 0)
        return complain("--fd is not a frame socket", strerror(-r));
    struct stat st;
    if (g->input_fd >= 0 && fstat(g->input_fd, &st) < 0)
        return complain("--input-fd is not open", strerror(errno));
    if (!g->still && (r = catch_term(g)) < 0)
        return complain("no signalfd", strerror(-r));
    if (!g->still && g->ops->prepare && (r = g->ops->prepare(&err)) < 0)
        return fail(g, r, &err);
    r = vl_confine(&g->confinement, &err);
    if (r < 0) {
        (void)fprintf(stderr, "vlmd-ingest: cannot confine itself: %s\n", err.msg);
        (void)fail(g, r, &err);
        return EXIT_CONFINE;
    }
    return g->still ? still(g) : watch(g);
}

int main(int argc, char **argv)
{
    struct ingest g = {
        .fd = -1,
        .input_fd = -1,
        .signal_fd = -1,
        .memfd = -1,
        .limits = {.max_side = vl_frame_limits_default.max_side,
                   .max_pixels = vl_frame_limits_default.max_pixels},
        .feed_opts = {.interval_ns = VL_NSEC_PER_SEC, .gate = VL_GATE_NONE},
        .confinement = {.memory_bytes = UINT64_C(768) << 20},
    };
    int r = parse(&g, argc, argv);
    if (r < 0)
        r = run(&g);
    (void)fflush(NULL); /* _exit does not; what cannot be written is lost with us */
    _exit(r);
}
