/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* org.vlmd.Vision1.Manager, at the root object. Handlers unpack, check, make one call, reply. Main thread. */
#include "daemon/bus.h"

#include "base/clock.h"
#include "daemon/bus_error.h"
#include "daemon/chosen.h"
#include "daemon/config.h"
#include "daemon/options.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INTERFACE    VL_BUS_NAME ".Manager"
#define USEC_PER_SEC UINT64_C(1000000)
static const uint64_t ask_deadline = 60 * USEC_PER_SEC, ask_text_deadline = 20 * USEC_PER_SEC,
                      max_deadline = 3600 * USEC_PER_SEC, max_time = UINT64_C(1) << 53;
enum { DEFAULT_TOKENS = 256 };

/* ---- streams ---- */

/* Without vlmd-ingest no pixel comes in. */
static int check_reader(const struct vl_manager *m, sd_bus_error *e)
{
    return access(m->config->ingest_program, X_OK) < 0
               ? vl_bus_error_setf(e, VL_BUS_SOURCE_UNAVAILABLE, "%s: %s", m->config->ingest_program,
                                   strerror(errno))
               : 0;
}

static int add_stream(struct vl_manager *m, sd_bus_message *call, struct vl_stream_spec *spec,
                      sd_bus_error *e)
{
    vl_auto(vl_client) client = NULL;
    struct vl_daemon_model *model;
    struct vl_stream *s;
    int r = vl_stream_spec_read(call, spec, e);
    if (r < 0)
        return r;
    model = spec->model ? vl_manager_find_model(m, spec->model) : m->default_model;
    if (spec->model && !model)
        return vl_bus_error_setf(e, VL_BUS_NO_SUCH_MODEL, "there is no model '%.64s'", spec->model);
    if ((r = vl_daemon_model_check(m, model, true, e)) < 0 ||
        (r = vl_client_of(m->clients, call, &client)) < 0)
        return r;
    if (vl_manager_find_stream(m, spec->name))
        return vl_bus_error_setf(e, VL_BUS_STREAM_EXISTS, "there is a stream '%s' already", spec->name);
    if ((r = check_reader(m, e)) < 0 || (r = vl_daemon_model_want(m, model, true, e)) < 0)
        return r;
    r = vl_stream_new(&s, m, model, spec, client->uid, spec->lifetime == VL_LIFETIME_CLIENT ? client : NULL,
                      e);
    return r < 0 ? r : sd_bus_reply_method_return(call, "o", s->path);
}

static int method_add_stream(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_stream_spec spec;
    vl_stream_spec_init(&spec);
    int r = add_stream(user, call, &spec, e);
    vl_stream_spec_done(&spec);
    return vl_bus_named(e, r);
}

static int method_get_stream(sd_bus_message *call, void *user, sd_bus_error *e)
{
    const char *name;
    int r = sd_bus_message_read(call, "s", &name);
    if (r < 0)
        return r;
    const struct vl_stream *s = vl_manager_find_stream(user, name);
    if (!s)
        return vl_bus_error_setf(e, VL_BUS_NO_SUCH_STREAM, "there is no stream '%.64s'", name);
    return sd_bus_reply_method_return(call, "o", s->path);
}

/* ---- questions ---- */

static int method_get_query(sd_bus_message *call, void *user, sd_bus_error *e)
{
    const struct vl_manager *m = user;
    const char *token, *sender = sd_bus_message_get_sender(call);
    int r = sd_bus_message_read(call, "s", &token);
    if (r < 0)
        return r;
    for (const struct vl_query *q = m->queries; sender && q; q = q->next)
        if (!strcmp(q->client->name, sender) && !strcmp(q->token, token))
            return sd_bus_reply_method_return(call, "o", q->path);
    return vl_bus_error_setf(e, SD_BUS_ERROR_UNKNOWN_OBJECT, "you have no question '%.64s' here", token);
}

/* One stream for now. */
static int read_streams(struct vl_manager *m, sd_bus_message *call, struct vl_query_opts *o, sd_bus_error *e)
{
    const char *path, *first = NULL;
    unsigned n = 0;
    int r = sd_bus_message_enter_container(call, 'a', "o");
    while (r >= 0 && (r = sd_bus_message_read(call, "o", &path)) > 0)
        first = n++ == 0 ? path : first;
    if (r < 0 || (r = sd_bus_message_exit_container(call)) < 0)
        return r;
    if (n != 1)
        return sd_bus_error_set(e, n ? VL_BUS_NOT_SUPPORTED : SD_BUS_ERROR_INVALID_ARGS,
                                "a question is about one stream");
    const struct vl_stream *s = vl_manager_stream_at(m, first);
    if ((r = vl_daemon_model_check(m, s ? s->model : m->default_model, false, e)) < 0)
        return r;
    if (!s)
        return vl_bus_error_setf(e, VL_BUS_NO_SUCH_STREAM, "there is no stream %.200s", first);
    if (s->session == 0 && !strcmp(s->reason, "model"))
        return vl_bus_error_setf(
            e, VL_BUS_MODEL_NOT_READY,
            "the model that watched stream '%s' is gone, and what it remembered; remove the "
            "stream and add it again",
            s->spec.name);
    if (s->session == 0)
        return vl_bus_error_setf(e, VL_BUS_SOURCE_UNAVAILABLE, "stream '%s' has no source", s->spec.name);
    o->model = s->model;
    o->session = s->session;
    return 0;
}

static int read_question(sd_bus_message *call, const char **ret, sd_bus_error *e)
{
    int r = sd_bus_message_read(call, "s", ret);
    if (r < 0)
        return r;
    if (!**ret)
        return sd_bus_error_set(e, SD_BUS_ERROR_INVALID_ARGS, "the question is empty");
    if (strlen(*ret) > VL_LIMIT_QUESTION_BYTES)
        return vl_bus_error_setf(e, VL_BUS_TOO_LARGE, "a question is at most %d bytes",
                                 VL_LIMIT_QUESTION_BYTES);
    return 0;
}

static int set_priority(struct vl_query_opts *o, const char *word, sd_bus_error *e)
{
    static const char *const name[] = {"low", "normal", "high"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(word, name[i])) {
            o->priority = i - 1;
            return 0;
        }
    return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "Priority is low, normal or high");
}

static int check_ranges(uint64_t since, uint64_t until, uint64_t deadline, uint32_t max_tokens,
                        double temperature, sd_bus_error *e)
{
    if (since > max_time || until > max_time || (until && since > until))
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION,
                                "Since and Until are microseconds since the epoch, in order");
    if (deadline == 0 || deadline > max_deadline)
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "DeadlineUSec is 1 us to 1 h");
    if (max_tokens == 0 || max_tokens > VL_ENGINE_MAX_TOKENS)
        return vl_bus_error_setf(e, VL_BUS_INVALID_OPTION, "MaxTokens is 1 to %d", VL_ENGINE_MAX_TOKENS);
    if (!isfinite(temperature) || temperature < 0 || temperature > 10)
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "Temperature is 0 to 10");
    return 0;
}

/* In the words of who asks: the name that a caller made the path of. */
static int no_such_model(const char *path, sd_bus_error *e)
{
    vl_autofree char *name = NULL;
    if (sd_bus_path_decode(path, VL_BUS_MODEL_PREFIX, &name) > 0)
        return vl_bus_error_setf(e, VL_BUS_NO_SUCH_MODEL, "there is no model '%.64s'", name);
    return vl_bus_error_setf(e, VL_BUS_NO_SUCH_MODEL, "there is no model %.200s", path);
}

/* path NULL: whichever it is. A question about a stream goes to the stream's model, any other to the default.
 */
static int choose_model(struct vl_manager *m, struct vl_query_opts *o, const char *path, sd_bus_error *e)
{
    if (!o->model) {
        o->model = path ? vl_manager_model_at(m, path) : m->default_model;
        if (path && !o->model)
            return no_such_model(path, e);
        return 0;
    }
    if (!path || !strcmp(path, o->model->path))
        return 0;
    return vl_bus_error_setf(e, VL_BUS_INVALID_OPTION,
                             "this stream is watched by model '%s', which Model is not",
                             o->model->config->name);
}

/* pipe: there is one, and so a format. */
static int read_options(struct vl_manager *m, sd_bus_message *call, bool pipe, struct vl_query_opts *o,
                        sd_bus_error *e)
{
    const char *priority = "normal", *format = "text", *model = NULL;
    uint64_t since = 0, until = 0, seed = 0, deadline = pipe ? ask_deadline : ask_text_deadline;
    uint32_t max_tokens = DEFAULT_TOKENS;
    struct vl_error err = {0};
    double temperature = 0;
    struct vl_option option[] = {
        {"Since", 't', &since, false}, /* first two: of streams alone */
        {"Until", 't', &until, false},
        {"MaxTokens", 'u', &max_tokens, false},
        {"Reducer", 's', &o->reducer, false},
        {"TokensPerFrame", 'u', &o->tokens_per_frame, false},
        {"DeadlineUSec", 't', &deadline, false},
        {"Priority", 's', &priority, false},
        {"Temperature", 'd', &temperature, false},
        {"Seed", 't', &seed, false},
        {"Token", 's', &o->token, false},
        {"Model", 'o', &model, false},
        {"Format", 's', &format, false}, /* last: what answers without a pipe does not have it */
    };
    const size_t skip = o->session ? 0 : 2, n = sizeof(option) / sizeof(*option) - skip - (pipe ? 0 : 1);
    int r = vl_options_read(call, option + skip, n, e);
    if (r < 0 || (r = choose_model(m, o, model, e)) < 0 || (r = set_priority(o, priority, e)) < 0 ||
        (r = check_ranges(since, until, deadline, max_tokens, temperature, e)) < 0)
        return r;
    if (vl_chosen_check_asked(o->session != 0, "Reducer", o->reducer, &err) < 0)
        return vl_bus_error_setf(e, VL_BUS_INVALID_OPTION, "%s", err.msg);
    o->jsonl = !strcmp(format, "jsonl");
    if (!o->jsonl && strcmp(format, "text") != 0)
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "Format is text or jsonl");
    o->since_ns = (int64_t)since * VL_NSEC_PER_USEC;
    o->until_ns = (int64_t)until * VL_NSEC_PER_USEC;
    o->deadline_ns = (int64_t)deadline * VL_NSEC_PER_USEC;
    o->max_tokens = max_tokens;
    o->sampling = VL_SAMPLING_GREEDY;
    o->sampling.temperature = (float)temperature;
    o->sampling.seed = seed;
    return 0;
}

static int read_ask(struct vl_manager *m, sd_bus_message *call, bool pipe, struct vl_query_opts *o,
                    sd_bus_error *e)
{
    int r = read_streams(m, call, o, e);
    if (r < 0 || (r = read_question(call, &o->question, e)) < 0)
        return r;
    return read_options(m, call, pipe, o, e);
}

/* With the object and the pipe of a query that has begun. */
static int reply_query(struct vl_manager *m, sd_bus_message *call, const struct vl_query_opts *o,
                       sd_bus_error *e)
{
    struct vl_query *q;
    vl_autofd reader = -1;
    int r = vl_query_new(&q, m, call, o, &reader, e);
    if (r < 0)
        return vl_bus_named(e, r);
    r = sd_bus_reply_method_return(call, "oh", q->path, reader);
    if (r < 0)
        (void)vl_query_unref(q); /* nobody will hear of it */
    return vl_bus_named(e, r);
}

static int method_ask(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_query_opts o = {0};
    int r = read_ask(user, call, true, &o, e);
    return r < 0 ? vl_bus_named(e, r) : reply_query(user, call, &o, e);
}

static int method_ask_text(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_query_opts o = {0};
    struct vl_query *q;
    int r = read_ask(user, call, false, &o, e);
    if (r < 0 || (r = vl_query_new(&q, user, call, &o, NULL, e)) < 0)
        return vl_bus_named(e, r);
    return 1; /* answered when it ends */
}

/* ---- questions about pictures, and about nothing but themselves ---- */

/* What can be seen of a picture without reading a byte of it. */
static int check_image(int fd, uint32_t i, sd_bus_error *e)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    const char *why = NULL;
    if (flags < 0 || fstat(fd, &st) < 0)
        why = strerror(errno);
    else if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
        why = "neither a regular file nor a pipe";
    else if (flags & O_PATH || (flags & O_ACCMODE) == O_WRONLY)
        why = "not open for reading";
    if (why)
        return sd_bus_error_setf(e, SD_BUS_ERROR_INVALID_ARGS, "image %u: %s", i + 1, why);
    if (st.st_size > VL_LIMIT_IMAGE_BYTES)
        return sd_bus_error_setf(e, VL_BUS_TOO_LARGE, "image %u: the file holds more than %d bytes", i + 1,
                                 VL_LIMIT_IMAGE_BYTES);
    return 0;
}

/* Descriptors stay the message's. */
static int read_images(sd_bus_message *call, int fd[VL_LIMIT_IMAGES], uint32_t *ret_n, sd_bus_error *e)
{
    uint32_t n = 0;
    int one, r = sd_bus_message_enter_container(call, 'a', "h");
    while (r >= 0 && (r = sd_bus_message_read(call, "h", &one)) > 0) {
        if (n == VL_LIMIT_IMAGES)
            return sd_bus_error_setf(e, VL_BUS_TOO_LARGE, "a question is about at most %d images",
                                     VL_LIMIT_IMAGES);
        if ((r = check_image(one, n, e)) < 0)
            return r;
        fd[n++] = one;
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(call);
    *ret_n = n;
    return r;
}

static int read_ask_image(struct vl_manager *m, sd_bus_message *call, bool pipe, int fd[VL_LIMIT_IMAGES],
                          struct vl_query_opts *o, sd_bus_error *e)
{
    o->image_fd = fd;
    int r = read_images(call, fd, &o->n_images, e);
    if (r < 0 || (r = read_question(call, &o->question, e)) < 0 ||
        (r = read_options(m, call, pipe, o, e)) < 0 || (o->n_images && (r = check_reader(m, e)) < 0))
        return r;
    return vl_daemon_model_want(m, o->model, o->n_images > 0, e);
}

static int method_ask_image(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_query_opts o = {0};
    int fd[VL_LIMIT_IMAGES];
    int r = read_ask_image(user, call, true, fd, &o, e);
    return r < 0 ? vl_bus_named(e, r) : reply_query(user, call, &o, e);
}

static int method_ask_image_text(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_query_opts o = {0};
    struct vl_query *q;
    int fd[VL_LIMIT_IMAGES];
    int r = read_ask_image(user, call, false, fd, &o, e);
    if (r < 0 || (r = vl_query_new(&q, user, call, &o, NULL, e)) < 0)
        return vl_bus_named(e, r);
    return 1; /* answered when it ends */
}

/* ---- models ---- */

static int method_set_default_model(sd_bus_message *call, void *user, sd_bus_error *e)
{
    struct vl_manager *m = user;
    const char *path;
    int r = sd_bus_message_read(call, "o", &path);
    if (r < 0)
        return r;
    struct vl_daemon_model *d = vl_manager_model_at(m, path);
    if (!d)
        return no_such_model(path, e);
    if (d->state == VL_DAEMON_MODEL_FAILED)
        return sd_bus_error_set(e, vl_bus_model_error(d->error.code), d->error.msg);
    vl_manager_set_default(m, d);
    return sd_bus_reply_method_return(call, NULL);
}

/* ---- properties ---- */

static int get_version(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)user, (void)e;
    return sd_bus_message_append(reply, "s", VLMD_VERSION);
}

static const char *const features[] = {
    "captions",    "questions", "source:test",
#if VLMD_HAVE_FILES
    "source:file",
#endif
#ifdef VL_HAVE_JPEG
    "image:jpeg",
#endif
#ifdef VL_HAVE_PNG
    "image:png",
#endif
#ifdef VL_HAVE_WEBP
    "image:webp",
#endif
    NULL,
};

static int get_features(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *user, sd_bus_error *e)
{
    (void)bus, (void)path, (void)interface, (void)property, (void)user, (void)e;
    return sd_bus_message_append_strv(reply, (char **)(uintptr_t)features);
}

static int get_backend(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_manager *m = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    const char *kernels = m->default_model ? m->default_model->info.kernels : NULL;
    return sd_bus_message_append(reply, "s", kernels ? kernels : "");
}

static int get_state(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_manager *m = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "s", vl_manager_state_name(m->state));
}

static int get_status_text(sd_bus *bus, const char *path, const char *interface, const char *property,
                           sd_bus_message *reply, void *user, sd_bus_error *e)
{
    char text[400];
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "s", vl_manager_status_text(user, text, sizeof(text)));
}

static int get_default_model(sd_bus *bus, const char *path, const char *interface, const char *property,
                             sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_manager *m = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "o", m->default_model ? m->default_model->path : "/");
}

static int get_memory(sd_bus *bus, const char *path, const char *interface, const char *property,
                      sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_manager *m = user;
    uint64_t n = !strcmp(property, "MemoryBudgetBytes") ? m->budget.limit : vl_budget_used(&m->budget);
    (void)bus, (void)path, (void)interface, (void)e;
    return sd_bus_message_append(reply, "t", n);
}

static int get_queue_depth(sd_bus *bus, const char *path, const char *interface, const char *property,
                           sd_bus_message *reply, void *user, sd_bus_error *e)
{
    const struct vl_manager *m = user;
    (void)bus, (void)path, (void)interface, (void)property, (void)e;
    return sd_bus_message_append(reply, "u", vl_limits_used(m->limits, VL_LIMIT_QUERIES));
}

int vl_bus_manager_emit(struct vl_manager *m)
{
    return sd_bus_emit_properties_changed(m->bus, VL_BUS_PATH, INTERFACE, "State", "Backend", "DefaultModel",
                                          NULL);
}

/* clang-format off */
static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("AddStream", SD_BUS_ARGS("a{sv}", spec), SD_BUS_RESULT("o", stream), method_add_stream,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("GetStream", SD_BUS_ARGS("s", name), SD_BUS_RESULT("o", stream), method_get_stream,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("GetQuery", SD_BUS_ARGS("s", token), SD_BUS_RESULT("o", query), method_get_query,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Ask", SD_BUS_ARGS("ao", streams, "s", question, "a{sv}", options),
                            SD_BUS_RESULT("o", query, "h", tokens), method_ask, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("AskText", SD_BUS_ARGS("ao", streams, "s", question, "a{sv}", options),
                            SD_BUS_RESULT("s", answer, "a{sv}", details), method_ask_text, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("AskImage", SD_BUS_ARGS("ah", images, "s", question, "a{sv}", options),
                            SD_BUS_RESULT("o", query, "h", tokens), method_ask_image, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("AskImageText", SD_BUS_ARGS("ah", images, "s", question, "a{sv}", options),
                            SD_BUS_RESULT("s", answer, "a{sv}", details), method_ask_image_text, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("SetDefaultModel", SD_BUS_ARGS("o", model), SD_BUS_NO_RESULT, method_set_default_model,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Version", "s", get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("Features", "as", get_features, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("Backend", "s", get_backend, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("State", "s", get_state, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("StatusText", "s", get_status_text, 0, 0),
    SD_BUS_PROPERTY("DefaultModel", "o", get_default_model, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
    SD_BUS_PROPERTY("MemoryBudgetBytes", "t", get_memory, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("MemoryUsedBytes", "t", get_memory, 0, 0),
    SD_BUS_PROPERTY("QueueDepth", "u", get_queue_depth, 0, 0),
    SD_BUS_VTABLE_END,
};
/* clang-format on */

int vl_bus_manager_add(struct vl_manager *m, sd_bus_slot **ret)
{
    return sd_bus_add_object_vtable(m->bus, ret, VL_BUS_PATH, INTERFACE, vtable, m);
}
