/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The test source: a drawn world (pipelines/script.h) at any size and rate, with a script of faults. One
 * thread of its own that draws only what is wanted. Same URI, same pictures; a stream that goes on at
 * start_ns goes on in the same world.
 */
#include "base/clock.h"
#include "base/frame_socket.h"
#include "pipelines/script.h"
#include "pipelines/source.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

enum {
    MAX_FAULTS = 16,
    MAX_SIDE = 4096,
    GAP_SECONDS = 10,
    DROP_SECONDS = 4,
    JUMP_SECONDS = 3600,
    SEEK_SECONDS = 4096
};

enum fault_kind {
    FAULT_STALL,
    FAULT_HANG,
    FAULT_CRASH,
    FAULT_ERROR,
    FAULT_GAP,
    FAULT_DROP,
    FAULT_BACK,
    FAULT_AHEAD,
    FAULT_CUT,
    FAULT_CORRUPT, /* this one and the next last, all others strike once */
    FAULT_GEOMETRY
};
static const char *const fault_name[] = {"stall", "hang",  "crash", "error",   "gap",     "drop",
                                         "back",  "ahead", "cut",   "corrupt", "geometry"};

struct fault {
    enum fault_kind kind;
    int64_t at_ns;
    bool done;
};

struct test_source {
    bool crash; /* after the next picture */
    struct vl_script *script;
    struct vl_script_options options; /* of it; its name is not kept */
    char world[32];
    uint64_t n_cuts;
    int64_t stamp_ns; /* added to the times of the pictures */
    struct vl_source_limits limits;
    double fps;
    int64_t seconds;
    uint32_t width, height;
    struct fault fault[MAX_FAULTS];
    size_t n_faults;
    uint8_t *pixels; /* [height, width, 3] */
    uint64_t seq, noise;
    uint32_t flags; /* of the next frame */
    struct vl_source_out out;
    pthread_t thread;
    bool running, opened;
    atomic_int stopping;
    int stop_fd;
};

static const struct vl_param_desc test_params[] = {
    {"seed", "same seed, same pictures", 1, 0, 9007199254740992.0},
    {"seconds", "length; 0: endless", 0, 0, 1e9},
    {"size", "WxH of the pictures", 0, 1, 0},
    {"fps", "pictures a second", 10, 0.1, 240},
    {"event-rate", "chance of an event in a second", -1, 0, 1},
    {"move-share", "share of motions among events", -1, 0, 1},
    {"start", "objects at the start", -1, 0, VL_WORLD_MAX_OBJECTS},
    {"max-objects", "objects at most", -1, 0, VL_WORLD_MAX_OBJECTS},
    {"noise", "of the world's camera", -1, 0, 1},
    {"artefacts", "of a codec", -1, 0, 1},
    {"world", "seeded, or the name of a scripted one", 0, 1, 0},
    {"order", "forward, backward or shuffled", 0, 1, 0},
    {"at", "second of what a scripted world shows once", -1, 0, 1e6},
    {"every", "seconds until it is shown again; 0: never", 0, 0, 1e6},
    {"px", "pixels across, or a second", -1, 0, MAX_SIDE},
    {"flicker", "depth of it, of the lamp", 0, 0, 1},
    {"sigma", "of more noise, of 255", 0, 0, 128},
    {"fault", "kind@second, joined by commas", 0, 1, 0},
    {NULL, NULL, 0, 0, 0},
};

/* "test:", "test:?a=b&c=d" */
static int parse_query(const char *uri, struct vl_params *p, struct vl_error *err)
{
    const char *at = strncmp(uri, "test:", 5) ? NULL : uri + 5;
    if (!at || (*at && *at != '?'))
        return vl_error_set(err, -EINVAL, "'%.64s' is not a test URI: write test:?key=value&key=value", uri);
    at += *at == '?';
    while (*at) {
        char pair[256];
        size_t len = strcspn(at, "&");
        if (len >= sizeof(pair))
            return vl_error_set(err, -EINVAL, "an option of the test URI is over %zu bytes long",
                                sizeof(pair) - 1);
        memcpy(pair, at, len);
        pair[len] = '\0';
        at += len + (at[len] == '&');
        char *value = strchr(pair, '=');
        if (!value)
            return vl_error_set(err, -EINVAL, "'%.64s' in the test URI is not key=value", pair);
        *value++ = '\0';
        const struct vl_param_desc *d = test_params;
        while (d->key && strcmp(d->key, pair))
            d++;
        char *end = value;
        double v = strtod(value, &end);
        bool number = *value && !*end && isfinite(v);
        if (d->key && d->min <= d->max && !number)
            return vl_error_set(err, -EINVAL, "%s=%.64s in the test URI is not a number", pair, value);
        int r =
            d->key && d->min <= d->max ? vl_params_set_f64(p, pair, v) : vl_params_set_str(p, pair, value);
        if (r < 0)
            return vl_error_set(err, r, "too many options in the test URI");
    }
    return vl_params_check(p, test_params, err);
}

static int parse_size(struct test_source *t, const char *text, struct vl_error *err)
{
    unsigned w = 0, h = 0;
    int used = 0;
    if (sscanf(text, "%5ux%5u%n", &w, &h, &used) != 2 || text[used] || w < 8 || h < 8 || w > MAX_SIDE ||
        h > MAX_SIDE)
        return vl_error_set(err, -EINVAL, "size=%.32s: write WxH, 8x8 to %dx%d", text, MAX_SIDE, MAX_SIDE);
    t->width = w;
    t->height = h;
    return 0;
}

static int parse_faults(struct test_source *t, const char *text, struct vl_error *err)
{
    while (*text) {
        char kind[16];
        double at = 0;
        int used = 0;
        enum { N = sizeof(fault_name) / sizeof(*fault_name) };
        size_t i = N;
        if (sscanf(text, "%15[a-z]@%lf%n", kind, &at, &used) == 2)
            for (i = 0; i < N && strcmp(kind, fault_name[i]); i++)
                ;
        if (i == N || (text[used] && text[used] != ',') || !(at >= 0 && at < 1e9))
            return vl_error_set(
                err, -EINVAL,
                "fault=%.64s: write kind@second, with stall hang crash error gap drop back ahead cut "
                "corrupt geometry",
                text);
        if (t->n_faults == MAX_FAULTS)
            return vl_error_set(err, -EINVAL, "more than %d faults", MAX_FAULTS);
        struct fault *f = &t->fault[t->n_faults++];
        *f = (struct fault){.kind = (enum fault_kind)i, .at_ns = (int64_t)llround(at * 1e9)};
        f->done = f->kind < FAULT_CORRUPT && t->limits.start_ns > 0 && f->at_ns <= t->limits.start_ns;
        t->n_cuts += f->done && f->kind == FAULT_CUT;
        text += used + (text[used] == ',');
    }
    return 0;
}

static void world_option(const struct vl_params *p, const char *key, float *inout)
{
    double v = *inout;
    (void)vl_params_f64(p, key, &v); /* checked: it is a number, or absent */
    *inout = (float)v;
}

/* The world behind the cuts so far. */
static int open_script(struct test_source *t, struct vl_error *err)
{
    struct vl_script_options o = t->options;
    struct vl_script *script = NULL;
    o.name = t->world;
    o.seeded.seed += t->n_cuts;
    int r = vl_script_new(&o, &script, err);
    if (r < 0)
        return r;
    (void)vl_script_unref(t->script);
    t->script = script;
    return 0;
}

static int parse_order(struct test_source *t, const char *text, struct vl_error *err)
{
    static const char *const name[] = {"forward", "backward", "shuffled"}; /* by enum vl_script_order */
    for (int32_t i = 0; i < 3; i++)
        if (!strcmp(text, name[i])) {
            t->options.order = i;
            return 0;
        }
    return vl_error_set(err, -EINVAL, "order=%.32s: write forward, backward or shuffled", text);
}

static int open_world(struct test_source *t, const struct vl_params *p, struct vl_error *err)
{
    double seed = 1, start = -1, most = -1;
    const char *world = vl_script_name(0), *order = "forward";
    (void)vl_params_f64(p, "seed", &seed);
    (void)vl_params_f64(p, "start", &start);
    (void)vl_params_f64(p, "max-objects", &most);
    (void)vl_params_str(p, "world", &world);
    (void)vl_params_str(p, "order", &order);
    t->options = vl_script_default_options((uint64_t)seed, t->width, t->height);
    struct vl_world_options *o = &t->options.seeded;
    world_option(p, "event-rate", &o->event_rate);
    world_option(p, "move-share", &o->move_share);
    world_option(p, "noise", &o->noise);
    world_option(p, "artefacts", &o->artefacts);
    if (start >= 0)
        o->n_start = (int32_t)start;
    if (most >= 0)
        o->max_objects = (int32_t)most;
    (void)vl_params_f64(p, "at", &t->options.at);
    (void)vl_params_f64(p, "every", &t->options.every);
    (void)vl_params_f64(p, "px", &t->options.px);
    (void)vl_params_f64(p, "flicker", &t->options.flicker);
    (void)vl_params_f64(p, "sigma", &t->options.sigma);
    (void)snprintf(t->world, sizeof(t->world), "%s", world);
    int r = parse_order(t, order, err);
    return r < 0 ? r : open_script(t, err);
}

static int test_open(void *state, const char *uri, int fd, const struct vl_source_limits *limits,
                     struct vl_error *err)
{
    struct test_source *t = state;
    vl_closep(&fd); /* it reads nothing */
    t->limits = *limits;
    /* The world's events fall on whole seconds, and so do the pictures that a model knows. */
    t->limits.start_ns = (limits->start_ns + VL_NSEC_PER_SEC - 1) / VL_NSEC_PER_SEC * VL_NSEC_PER_SEC;
    t->stop_fd = -1;
    t->opened = true;
    t->width = 640;
    t->height = 360;
    t->fps = 10;
    vl_auto(vl_params) p = NULL;
    int r = vl_params_new(&p);
    if (r < 0)
        return r;
    r = parse_query(uri ? uri : "test:", p, err);
    if (r < 0)
        return r;
    const char *size = NULL, *fault = NULL;
    double seconds = 0;
    (void)vl_params_f64(p, "fps", &t->fps);
    (void)vl_params_f64(p, "seconds", &seconds);
    (void)vl_params_str(p, "size", &size);
    (void)vl_params_str(p, "fault", &fault);
    t->seconds = (int64_t)ceil(seconds);
    if (size && (r = parse_size(t, size, err)) < 0)
        return r;
    if (fault && (r = parse_faults(t, fault, err)) < 0)
        return r;
    if (t->width > limits->max_side || t->height > limits->max_side ||
        (uint64_t)t->width * t->height > limits->max_pixels)
        return vl_error_set(err, -EMSGSIZE, "pictures of %ux%u are over the limit", t->width, t->height);
    if ((r = open_world(t, p, err)) < 0)
        return r;
    t->pixels = malloc((size_t)t->width * t->height * 3);
    t->stop_fd = eventfd(0, EFD_CLOEXEC);
    return !t->pixels ? -ENOMEM : t->stop_fd < 0 ? -errno : 0;
}

static void fill_noise(struct test_source *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        t->noise = t->noise * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        t->pixels[i] = (uint8_t)(t->noise >> 56);
    }
}

/* The picture of media time pts: a whole second as the training sees it, between two seconds on the way. */
static int draw(struct test_source *t, int64_t pts_ns, bool corrupt, bool half)
{
    uint32_t w = half ? t->width / 2 : t->width, h = half ? t->height / 2 : t->height;
    w = w < 8 ? 8 : w;
    h = h < 8 ? 8 : h;
    int64_t second = (pts_ns + VL_NSEC_PER_SEC - 1) / VL_NSEC_PER_SEC;
    for (int64_t at; (at = vl_script_truth(t->script)->second) < second && !atomic_load(&t->stopping);)
        vl_script_seek(t->script, at + SEEK_SECONDS < second ? at + SEEK_SECONDS : second);
    struct vl_frame f = {.plane = {t->pixels},
                         .stride = {3 * w},
                         .width = w,
                         .height = h,
                         .format = VL_PIXFMT_RGB24,
                         .matrix = VL_MATRIX_RGB,
                         .range = VL_RANGE_FULL,
                         .flags = t->flags | (corrupt ? VL_FRAME_CORRUPT : 0) |
                                  (vl_script_is_cut(t->script, second) ? VL_FRAME_GAP : 0),
                         .pts_ns = pts_ns + t->stamp_ns,
                         .wall_ns = vl_clock_wall_ns(),
                         .seq = t->seq};
    t->flags = 0;
    if (corrupt) {
        fill_noise(t, (size_t)w * h * 3);
    } else {
        int r = vl_script_draw(t->script, pts_ns, (int)w, (int)h, 3 * (size_t)w, t->pixels);
        if (r < 0)
            return r;
    }
    t->out.frame(t->out.user, &f);
    return 0;
}

static void wait_stop(struct test_source *t)
{
    struct pollfd p = {.fd = t->stop_fd, .events = POLLIN};
    while (!atomic_load(&t->stopping))
        (void)poll(&p, 1, -1); /* interrupted or not, the flag decides */
}

/* What happens at this moment and lasts no longer. *pts_ns moves over a gap. True: the source is at its end.
 */
static bool strike(struct test_source *t, int64_t *pts_ns, struct vl_error *err)
{
    for (size_t i = 0; i < t->n_faults; i++) {
        struct fault *f = &t->fault[i];
        if (f->done || f->kind >= FAULT_CORRUPT || *pts_ns < f->at_ns)
            continue;
        f->done = true;
        if (f->kind == FAULT_CRASH)
            t->crash = true;
        if (f->kind == FAULT_HANG)
            (void)raise(SIGSTOP);
        if (f->kind == FAULT_STALL)
            wait_stop(t);
        if (f->kind == FAULT_ERROR)
            return vl_error_set(err, -EBADMSG, "an error that the test URI asked for") < 0;
        if (f->kind == FAULT_GAP) {
            *pts_ns += GAP_SECONDS * VL_NSEC_PER_SEC;
            t->flags |= VL_FRAME_GAP;
        }
        if (f->kind == FAULT_DROP)
            *pts_ns += DROP_SECONDS * VL_NSEC_PER_SEC;
        if (f->kind == FAULT_BACK || f->kind == FAULT_AHEAD)
            t->stamp_ns += (f->kind == FAULT_BACK ? -JUMP_SECONDS : JUMP_SECONDS) * VL_NSEC_PER_SEC;
        t->n_cuts += f->kind == FAULT_CUT;
        if (f->kind == FAULT_CUT && open_script(t, err) < 0)
            return true;
    }
    return false;
}

static bool lasting(const struct test_source *t, enum fault_kind kind, int64_t pts_ns, int64_t for_ns)
{
    for (size_t i = 0; i < t->n_faults; i++)
        if (t->fault[i].kind == kind && pts_ns >= t->fault[i].at_ns && pts_ns - t->fault[i].at_ns < for_ns)
            return true;
    return false;
}

static void *test_run(void *arg)
{
    struct test_source *t = arg;
    struct vl_error err = {0};
    int r = 0;
    int64_t base = t->limits.start_ns, shift = 0;
    for (uint64_t k = 0; !atomic_load(&t->stopping); k++) {
        int64_t pts = base + shift + (int64_t)llround((double)k * 1e9 / t->fps), before = pts;
        if (strike(t, &pts, &err)) {
            r = err.code;
            break;
        }
        shift += pts - before;
        if (atomic_load(&t->stopping))
            return NULL;
        if (t->seconds && pts >= t->seconds * VL_NSEC_PER_SEC)
            break;
        int wanted = t->out.want(t->out.user, pts + t->stamp_ns);
        if (wanted < 0)
            return NULL;
        t->seq++;
        if (wanted == 0)
            continue;
        r = draw(t, pts, lasting(t, FAULT_CORRUPT, pts, VL_NSEC_PER_SEC),
                 lasting(t, FAULT_GEOMETRY, pts, INT64_MAX));
        if (r < 0) {
            (void)vl_error_set(&err, r, "a picture could not be drawn: %s", strerror(-r));
            break;
        }
        /* What the script asks for; the process is the child's own. At the model's pace the pictures before
         * this one are out by now: whoever starts it again begins behind the fault and does not meet it for
         * ever. */
        if (t->crash)
            abort();
    }
    if (!atomic_load(&t->stopping))
        t->out.end(t->out.user, r, &err);
    return NULL;
}

static int test_start(void *state, const struct vl_source_out *out)
{
    struct test_source *t = state;
    t->out = *out;
    int r = pthread_create(&t->thread, NULL, test_run, t);
    t->running = r == 0;
    return -r;
}

static void test_stop(void *state)
{
    struct test_source *t = state;
    if (!t->running)
        return;
    atomic_store(&t->stopping, 1);
    (void)eventfd_write(t->stop_fd, 1); /* cannot overflow: written once */
    (void)pthread_join(t->thread, NULL);
    t->running = false;
}

static void test_close(void *state)
{
    struct test_source *t = state;
    if (!t->opened)
        return;
    t->script = vl_script_unref(t->script);
    free(t->pixels);
    t->pixels = NULL;
    vl_closep(&t->stop_fd);
    t->opened = false;
}

const struct vl_source_ops vl_source_test = {
    .scheme = "test",
    .help =
        "drawn worlds, with scripted faults: test:?world=blink&seed=1&seconds=60&size=640x360&fault=gap@5",
    .params = test_params,
    .state_size = sizeof(struct test_source),
    .max_step_ns = 20 * VL_NSEC_PER_SEC, /* its own gaps are 10 s */
    .open = test_open,
    .start = test_start,
    .stop = test_stop,
    .close = test_close,
};
