/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Stream specifications: defaults, ranges, and their form as a dictionary. Lives as long as its stream; main
 * thread. Trap: *_changes works on a copy in the caller, so that a refused change leaves the stream as it
 * was.
 */
#include "daemon/spec.h"

#include "daemon/bus_error.h"
#include "daemon/chosen.h"
#include "daemon/ingest.h"
#include "daemon/limits.h"
#include "daemon/manager.h"
#include "daemon/options.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define USEC_PER_SEC UINT64_C(1000000)
static const uint64_t min_interval = 10000, max_interval = 3600 * USEC_PER_SEC,
                      max_window = 24 * 3600 * USEC_PER_SEC;

void vl_stream_spec_init(struct vl_stream_spec *s)
{
    *s = (struct vl_stream_spec){
        .fd = -1, .sample_interval_usec = USEC_PER_SEC, .gate = VL_GATE_NONE, .captions = true};
}

void vl_stream_spec_done(struct vl_stream_spec *s)
{
    free(s->name);
    free(s->uri);
    free(s->path);
    free(s->model);
    free(s->instruction);
    free(s->reducer);
    free(s->policy);
    vl_closep(&s->fd);
    vl_stream_spec_init(s);
}

/* s NULL: as it was. */
static int set_string(char **dest, const char *s)
{
    if (!s)
        return 0;
    char *copy = strdup(s);
    if (!copy)
        return -ENOMEM;
    free(*dest);
    *dest = copy;
    return 0;
}

int vl_stream_spec_copy(struct vl_stream_spec *ret, const struct vl_stream_spec *s)
{
    *ret = *s;
    ret->fd = -1;
    ret->name = ret->uri = ret->path = ret->model = ret->instruction = ret->reducer = ret->policy = NULL;
    int r = 0;
    if ((r = set_string(&ret->name, s->name)) < 0 || (r = set_string(&ret->uri, s->uri)) < 0 ||
        (r = set_string(&ret->path, s->path)) < 0 || (r = set_string(&ret->model, s->model)) < 0 ||
        (r = set_string(&ret->instruction, s->instruction)) < 0 ||
        (r = set_string(&ret->reducer, s->reducer)) < 0 || (r = set_string(&ret->policy, s->policy)) < 0)
        vl_stream_spec_done(ret);
    return r;
}

bool vl_stream_name_valid(const char *name)
{
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
    return n >= 1 && n <= 64 && name[n] == '\0';
}

static const char *const gate_names[] = {[VL_GATE_NONE] = "none", [VL_GATE_CHANGE] = "change"};

int vl_gate_from_name(const char *name, enum vl_gate *ret)
{
    for (enum vl_gate g = VL_GATE_NONE; g <= VL_GATE_CHANGE; g++)
        if (!strcmp(gate_names[g], name)) {
            *ret = g;
            return 0;
        }
    return -EINVAL;
}

uint32_t vl_stream_spec_window_frames(const struct vl_stream_spec *s)
{
    uint64_t n = s->window_usec / s->sample_interval_usec;
    return s->window_usec == 0 ? 0 : n < 1 ? 1 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

int vl_stream_spec_check(const struct vl_stream_spec *s, struct vl_error *err)
{
    if (!s->name || !vl_stream_name_valid(s->name))
        return vl_error_set(err, -EINVAL, "Name is 1 to 64 of A-Z a-z 0-9 _ -");
    if (s->sample_interval_usec < min_interval || s->sample_interval_usec > max_interval)
        return vl_error_set(err, -EINVAL, "the sample interval is 10 ms to 1 h");
    if (s->window_usec > max_window)
        return vl_error_set(err, -EINVAL, "the window is at most 24 h");
    if (s->instruction && (!s->instruction[0] || strlen(s->instruction) > VL_LIMIT_INSTRUCTION_BYTES))
        return vl_error_set(err, -EINVAL, "Instruction is 1 to %d bytes", VL_LIMIT_INSTRUCTION_BYTES);
    int r = vl_chosen_check(VL_OFFER_REDUCER, "Reducer", s->reducer, err);
    if (r < 0 || (r = vl_chosen_check(VL_OFFER_POLICY, "Policy", s->policy, err)) < 0)
        return r;
    if (s->uri && (strncmp(s->uri, "test:", 5) != 0 || strlen(s->uri) > VL_INGEST_MAX_URI))
        return vl_error_set(
            err, -EINVAL,
            "Uri is test:?seed=N&seconds=N; a file is given as Fd, or as Path= in the configuration");
    return 0;
}

/* What the daemon can see of a video file without reading a byte of it. */
static int check_fd(int fd, sd_bus_error *e)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) < 0)
        return vl_bus_error_setf(e, VL_BUS_SOURCE_UNSUPPORTED, "Fd: %s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return sd_bus_error_set(e, VL_BUS_SOURCE_UNSUPPORTED, "Fd is not a regular file");
    if ((flags & O_ACCMODE) == O_WRONLY || flags & O_PATH)
        return sd_bus_error_set(e, VL_BUS_SOURCE_UNSUPPORTED, "Fd is not open for reading");
    if (st.st_size == 0)
        return sd_bus_error_set(e, VL_BUS_SOURCE_UNSUPPORTED, "the file is empty");
    return 0;
}

static int set_gate(struct vl_stream_spec *s, const char *name, sd_bus_error *e)
{
    if (name && vl_gate_from_name(name, &s->gate) < 0)
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "Gate is 'none' or 'change'");
    return 0;
}

static int check_all(const struct vl_stream_spec *s, sd_bus_error *e)
{
    struct vl_error err = {0};
    int r = vl_stream_spec_check(s, &err);
    return r < 0 ? vl_bus_error_from(e, r, &err) : 0;
}

static int take_source(struct vl_stream_spec *s, const char *uri, int fd, sd_bus_error *e)
{
    if (!uri == (fd < 0))
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "give one of Uri and Fd");
    if (uri && strncmp(uri, "test:", 5) != 0)
        return sd_bus_error_set(
            e, VL_BUS_SOURCE_UNSUPPORTED,
            "nothing is fetched from a network yet: only test: URIs; open a file yourself and pass it as Fd");
    if (fd < 0)
        return set_string(&s->uri, uri);
    int r = check_fd(fd, e);
    if (r < 0)
        return r;
    s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return s->fd < 0 ? -errno : 0;
}

static int take_model(struct vl_stream_spec *s, const char *path, sd_bus_error *e)
{
    int r = path ? sd_bus_path_decode(path, VL_BUS_MODEL_PREFIX, &s->model) : 1;
    return r == 0  ? vl_bus_error_setf(e, VL_BUS_NO_SUCH_MODEL, "there is no model %.200s", path)
           : r < 0 ? r
                   : 0;
}

static int take_lifetime(struct vl_stream_spec *s, const char *word, sd_bus_error *e)
{
    if (!strcmp(word, "daemon"))
        s->lifetime = VL_LIFETIME_DAEMON;
    else if (!strcmp(word, "client"))
        s->lifetime = VL_LIFETIME_CLIENT;
    else
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "Lifetime is 'daemon' or 'client'");
    return 0;
}

int vl_stream_spec_read(sd_bus_message *m, struct vl_stream_spec *s, sd_bus_error *e)
{
    const char *name = NULL, *uri = NULL, *model = NULL, *instruction = NULL, *reducer = NULL, *policy = NULL,
               *gate = NULL, *lifetime = "daemon";
    int fd = -1, captions = s->captions, loop = 0, realtime = 0;
    struct vl_option option[] = {
        {"Name", 's', &name, false},
        {"Uri", 's', &uri, false},
        {"Fd", 'h', &fd, false},
        {"Model", 'o', &model, false},
        {"SampleIntervalUSec", 't', &s->sample_interval_usec, false},
        {"WindowUSec", 't', &s->window_usec, false},
        {"TokensPerFrame", 'u', &s->tokens_per_frame, false},
        {"Instruction", 's', &instruction, false},
        {"Reducer", 's', &reducer, false},
        {"Policy", 's', &policy, false},
        {"Gate", 's', &gate, false},
        {"Captions", 'b', &captions, false},
        {"Loop", 'b', &loop, false},
        {"Realtime", 'b', &realtime, false},
        {"Lifetime", 's', &lifetime, false},
    };
    int r = vl_options_read(m, option, sizeof(option) / sizeof(*option), e);
    if (r < 0)
        return r;
    s->captions = captions;
    s->loop = loop;
    s->realtime = realtime;
    if ((r = set_string(&s->name, name)) < 0 || (r = set_string(&s->instruction, instruction)) < 0 ||
        (r = set_string(&s->reducer, reducer)) < 0 || (r = set_string(&s->policy, policy)) < 0 ||
        (r = set_gate(s, gate, e)) < 0 || (r = take_lifetime(s, lifetime, e)) < 0 ||
        (r = take_model(s, model, e)) < 0 || (r = take_source(s, uri, fd, e)) < 0)
        return r;
    return check_all(s, e);
}

int vl_stream_spec_read_changes(sd_bus_message *m, struct vl_stream_spec *s, sd_bus_error *e)
{
    const char *reducer = NULL, *policy = NULL, *gate = NULL;
    struct vl_option option[] = {
        {"SampleIntervalUSec", 't', &s->sample_interval_usec, false},
        {"WindowUSec", 't', &s->window_usec, false},
        {"TokensPerFrame", 'u', &s->tokens_per_frame, false},
        {"Gate", 's', &gate, false},
        {"Reducer", 's', &reducer, false},
        {"Policy", 's', &policy, false},
    };
    int r = vl_options_read(m, option, sizeof(option) / sizeof(*option), e);
    if (r < 0 || (r = set_string(&s->reducer, reducer)) < 0 || (r = set_string(&s->policy, policy)) < 0 ||
        (r = set_gate(s, gate, e)) < 0)
        return r;
    return check_all(s, e);
}

static int append_string(sd_bus_message *m, const char *key, const char *value)
{
    return value ? sd_bus_message_append(m, "{sv}", key, "s", value) : 0;
}

static int append_model(sd_bus_message *m, const char *name)
{
    vl_autofree char *path = NULL;
    int r = name ? sd_bus_path_encode(VL_BUS_MODEL_PREFIX, name, &path) : 0;
    return r < 0 || !name ? r : sd_bus_message_append(m, "{sv}", "Model", "o", path);
}

int vl_stream_spec_append(sd_bus_message *m, const struct vl_stream_spec *s)
{
    int r = sd_bus_message_open_container(m, 'a', "{sv}");
    if (r < 0 || (r = append_string(m, "Name", s->name)) < 0 || (r = append_string(m, "Uri", s->uri)) < 0 ||
        (r = append_string(m, "Path", s->path)) < 0 || (r = append_model(m, s->model)) < 0 ||
        (r = append_string(m, "Instruction", s->instruction)) < 0 ||
        (r = append_string(m, "Reducer", s->reducer)) < 0 ||
        (r = append_string(m, "Policy", s->policy)) < 0 ||
        (r = append_string(m, "Gate", gate_names[s->gate])) < 0 ||
        (r = append_string(m, "Lifetime", s->lifetime == VL_LIFETIME_CLIENT ? "client" : "daemon")) < 0)
        return r;
    r = sd_bus_message_append(m, "{sv}{sv}{sv}{sv}{sv}{sv}", "SampleIntervalUSec", "t",
                              s->sample_interval_usec, "WindowUSec", "t", s->window_usec, "TokensPerFrame",
                              "u", s->tokens_per_frame, "Captions", "b", (int)s->captions, "Loop", "b",
                              (int)s->loop, "Realtime", "b", (int)s->realtime);
    return r < 0 ? r : sd_bus_message_close_container(m);
}
