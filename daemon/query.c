/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Questions: from the caller's message to the engine's turn and back into a pipe or a reply. Every query that
 * was accepted ends exactly once, in finish(); whatever comes later for its turn finds nobody and is dropped.
 * Trap: finish() may unref the pipe, so callers of it touch nothing of the pipe afterwards.
 */
#include "daemon/query.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/bus.h"
#include "daemon/bus_error.h"
#include "daemon/chosen.h"
#include "daemon/config.h"
#include "daemon/images.h"
#include "daemon/model.h"
#include "daemon/stream.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define KEEP_USEC UINT64_C(30000000)
#define DEADLINE_GRACE_NS                                                                                    \
    (VL_NSEC_PER_SEC / 4) /* the engine keeps the deadline; this is for when it cannot */

static int set_timer(struct vl_query *q, uint64_t usec);

/* ---- the end ---- */

/* ,"incomplete_images":[1,3] */
static void list_incomplete(uint32_t bits, char *buf, size_t size)
{
    int n = snprintf(buf, size, ",\"incomplete_images\":");
    for (uint32_t i = 0; i < VL_LIMIT_IMAGES; i++)
        if (bits >> i & 1)
            n += snprintf(buf + n, size - (size_t)n, "%c%u", bits & ((1u << i) - 1) ? ',' : '[', i + 1);
    (void)snprintf(buf + n, size - (size_t)n, "]");
}

static char *json_end(const struct vl_query_end *end)
{
    char stats[256], *error, *line = NULL;
    cJSON *o = cJSON_CreateObject();
    if (o && end->error) {
        (void)cJSON_AddStringToObject(o, "error", end->error); /* what does not fit in memory is left out */
        (void)cJSON_AddStringToObject(o, "message", end->message);
    }
    error = o && end->error ? cJSON_PrintUnformatted(o) : NULL;
    (void)snprintf(
        stats, sizeof(stats),
        "\"prompt_tokens\":%u,\"output_tokens\":%u,\"pruned_tokens\":%u,\"first_token_usec\":%" PRId64
        ",\"total_usec\":%" PRId64,
        end->stats.n_prompt, end->stats.n_output, end->stats.n_pruned,
        end->stats.first_token_ns / VL_NSEC_PER_USEC, end->stats.total_ns / VL_NSEC_PER_USEC);
    char since[48] = "", incomplete[64] = "";
    if (end->remembers)
        (void)snprintf(since, sizeof(since), ",\"remembers_since\":%" PRId64, end->remembers_since_usec);
    if (end->incomplete)
        list_incomplete(end->incomplete, incomplete, sizeof(incomplete));
    /* {"error":...} without its first brace goes on after our members */
    if (asprintf(&line, "{\"status\":\"%s\",%s%s%s%s%s\n", end->status, stats, since, incomplete,
                 error ? "," : "}", error ? error + 1 : "") < 0)
        line = NULL;
    cJSON_free(error);
    cJSON_Delete(o);
    return line;
}

static void close_pipe(struct vl_query *q, const struct vl_query_end *end)
{
    if (!q->pipe)
        return;
    vl_autofree char *line = q->jsonl ? json_end(end) : NULL;
    if (line)
        (void)vl_reply_pipe_write(q->pipe, line, strlen(line),
                                  true); /* a reader who has gone needs no word */
    if (vl_reply_pipe_finish(q->pipe))
        q->pipe = vl_reply_pipe_unref(q->pipe);
}

static int send_answer(struct vl_query *q, const struct vl_query_end *end)
{
    if (end->error)
        return sd_bus_reply_method_errorf(q->call, end->error, "%s", end->message);
    sd_bus_message *reply = NULL;
    int r = sd_bus_message_new_method_return(q->call, &reply);
    if (r >= 0)
        r = sd_bus_message_append(reply, "s", q->answer ? q->answer : "");
    if (r >= 0)
        r = vl_bus_append_query_end(reply, end, true);
    if (r >= 0)
        r = sd_bus_send(NULL, reply, NULL);
    (void)sd_bus_message_unref(reply);
    return r;
}

static void answer_call(struct vl_query *q, const struct vl_query_end *end)
{
    if (!q->call)
        return;
    if (send_answer(q, end) < 0) /* memory is short, or the bus is gone: the caller's own time-out is left */
        vl_log(VL_LOG_WARNING, "query", "an answer could not be sent");
    q->call = sd_bus_message_unref(q->call);
    free(q->answer);
    q->answer = NULL;
}

static void forget_oldest(struct vl_manager *m, const struct vl_query *but)
{
    struct vl_query *oldest = NULL;
    unsigned n = 0;
    for (struct vl_query *q = m->queries; q; q = q->next)
        if (q->state == VL_QUERY_FINISHED && q != but) {
            if (!oldest || !q->pipe || oldest->pipe) /* of those first whose reader has had all */
                oldest = q;
            n++;
        }
    if (n > VL_LIMIT_QUERIES_KEPT)
        (void)vl_query_unref(oldest);
}

static void finish(struct vl_query *q, const struct vl_query_end *how)
{
    struct vl_query_end whole = *how;
    const struct vl_query_end *end = &whole;
    if (q->state == VL_QUERY_FINISHED)
        return;
    if (q->images)
        whole.incomplete = vl_images_incomplete(q->images);
    q->state = VL_QUERY_FINISHED;
    vl_limits_give(q->m->limits, VL_LIMIT_QUERIES, q->client->uid);
    q->client->n_queries--;
    q->images = vl_images_unref(q->images);
    close_pipe(q, end);
    answer_call(q, end);
    if (!q->client->gone)
        (void)vl_bus_query_emit_finished(q, end); /* the pipe and the reply carry the same */
    if (set_timer(q, KEEP_USEC) < 0)
        vl_log(VL_LOG_WARNING, "query", "no timer: it is kept until its caller leaves");
    forget_oldest(q->m, q);
}

void vl_query_finish(struct vl_query *q, const char *status, const char *error, const char *message)
{
    struct vl_query_end end = {.status = status, .error = error, .message = message};
    finish(q, &end);
}

static void cancel_turn(struct vl_query *q)
{
    if (q->model->engine && q->turn)                       /* while pictures are read there is none */
        (void)vl_engine_cancel(q->model->engine, q->turn); /* too late is no error */
}

/* What was wanted while the model loads and did not come in time has another cause than a slow answer. */
static void late(struct vl_query *q, const struct vl_turn_stats *stats)
{
    char text[320];
    struct vl_query_end end = {.status = "deadline",
                               .error = VL_BUS_DEADLINE_EXCEEDED,
                               .message = "there was no time for the whole answer"};
    if (stats)
        end.stats = *stats;
    if (q->model->state == VL_DAEMON_MODEL_LOADING) {
        (void)snprintf(text, sizeof(text),
                       "model '%s' is still loading (%.0f %%); ask again later or with a longer deadline",
                       q->model->config->name, 100 * vl_daemon_model_progress(q->model));
        end.error = VL_BUS_MODEL_NOT_READY;
        end.message = text;
    }
    finish(q, &end);
}

void vl_query_cancel(struct vl_query *q)
{
    if (q->state == VL_QUERY_FINISHED)
        return;
    cancel_turn(q);
    vl_query_finish(q, "cancelled", VL_BUS_CANCELLED, "cancelled");
}

static void on_pipe_gone(void *user)
{
    struct vl_query *q = user;
    q->pipe = vl_reply_pipe_unref(q->pipe);
    vl_query_cancel(q);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *user)
{
    struct vl_query *q = user;
    (void)s;
    (void)usec;
    if (q->state == VL_QUERY_FINISHED) {
        if (!q->pipe || set_timer(q, KEEP_USEC) < 0) /* else its reader has not had all of it yet */
            (void)vl_query_unref(q);
        return 0;
    }
    cancel_turn(q);
    late(q, NULL);
    return 0;
}

static int set_timer(struct vl_query *q, uint64_t usec)
{
    q->timer = sd_event_source_disable_unref(q->timer);
    return sd_event_add_time_relative(q->m->event, &q->timer, CLOCK_MONOTONIC, usec, 10000, on_timer, q);
}

/* ---- what the engine says ---- */

static void slow_reader(struct vl_query *q)
{
    cancel_turn(q);
    vl_query_finish(q, "failed", VL_BUS_SLOW_READER, "the reader is 256 KiB behind");
}

static void write_piece(struct vl_query *q, const struct vl_event *ev)
{
    int r;
    if (q->jsonl) {
        cJSON *o = cJSON_CreateObject();
        char *text = o && cJSON_AddStringToObject(o, "text", ev->text) ? cJSON_PrintUnformatted(o) : NULL;
        vl_autofree char *line = NULL;
        r = text && asprintf(&line, "%s\n", text) >= 0 ? 0 : -ENOMEM;
        if (r == 0)
            r = vl_reply_pipe_write(q->pipe, line, strlen(line), false);
        cJSON_free(text);
        cJSON_Delete(o);
    } else {
        r = vl_reply_pipe_write(q->pipe, ev->text, ev->len, false);
    }
    if (r == VL_REPLY_PIPE_FULL)
        slow_reader(q);
    else if (r == -ENOMEM)
        vl_query_finish(q, "failed", VL_BUS_NO_MEMORY, "out of memory");
    /* a reader who has gone is heard of by the pipe's own event */
}

static void keep_piece(struct vl_query *q, const struct vl_event *ev)
{
    char *answer =
        q->n_answer + ev->len <= VL_LIMIT_ANSWER_BYTES ? realloc(q->answer, q->n_answer + ev->len + 1) : NULL;
    if (!answer) {
        cancel_turn(q);
        vl_query_finish(q, "failed", VL_BUS_NO_MEMORY, "the answer does not fit in memory; use Ask");
        return;
    }
    memcpy(answer + q->n_answer, ev->text, ev->len);
    q->answer = answer;
    q->n_answer += ev->len;
    answer[q->n_answer] = '\0';
}

static void on_text(struct vl_query *q, const struct vl_event *ev)
{
    if (q->state == VL_QUERY_FINISHED || ev->len == 0)
        return;
    q->state = VL_QUERY_ANSWERING;
    if (q->pipe)
        write_piece(q, ev);
    else if (q->call)
        keep_piece(q, ev);
}

static void nothing_seen(struct vl_query *q, const struct vl_event *ev)
{
    int64_t since = ev->session_stats.oldest_wall_ns;
    char text[160] = "no frame of this stream is in view";
    time_t sec = (time_t)(since / VL_NSEC_PER_SEC);
    struct tm tm;
    if (since > 0 && gmtime_r(&sec, &tm))
        (void)strftime(text, sizeof(text),
                       "no frame of that time is in view; the stream remembers since %Y-%m-%dT%H:%M:%SZ",
                       &tm);
    struct vl_query_end end = {.status = "failed",
                               .error = VL_BUS_NOTHING_SEEN,
                               .message = text,
                               .remembers = true,
                               .remembers_since_usec = since / VL_NSEC_PER_USEC};
    finish(q, &end);
}

/* The engine counts since it was asked, the caller since he asked. */
static struct vl_turn_stats stats_of(const struct vl_query *q, const struct vl_event *ev)
{
    struct vl_turn_stats s = ev->turn_stats;
    s.queued_ns += q->read_ns;
    s.total_ns += q->read_ns;
    s.first_token_ns += s.first_token_ns ? q->read_ns : 0;
    return s;
}

static void failed(struct vl_query *q, const struct vl_event *ev)
{
    sd_bus_error e = SD_BUS_ERROR_NULL;
    int code = ev->error.code < 0 ? ev->error.code : -EIO;
    if (q->model->state == VL_DAEMON_MODEL_LOADING) /* it failed: the engine's own word of it is under way */
        (void)sd_bus_error_set(&e, vl_bus_model_error(code), ev->error.msg);
    else
        (void)vl_bus_error_from(&e, code, &ev->error);
    struct vl_query_end end = {
        .status = "failed", .error = e.name, .message = e.message, .stats = stats_of(q, ev)};
    finish(q, &end);
    sd_bus_error_free(&e);
}

static void note_time(struct vl_manager *m, int64_t total_ns)
{
    m->mean_turn_ns = m->mean_turn_ns ? m->mean_turn_ns + (total_ns - m->mean_turn_ns) / 8 : total_ns;
}

static void on_done(struct vl_query *q, const struct vl_event *ev)
{
    struct vl_query_end end = {.stats = stats_of(q, ev)};
    switch (ev->status) {
    case VL_TURN_OK:
        note_time(q->m, ev->turn_stats.total_ns);
        end.status = "ok";
        break;
    case VL_TURN_CANCELLED:
        end.status = "cancelled";
        end.error = VL_BUS_CANCELLED;
        end.message = "cancelled";
        break;
    case VL_TURN_DEADLINE:
        late(q, &end.stats);
        return;
    case VL_TURN_NOTHING_SEEN:
        nothing_seen(q, ev);
        return;
    default:
        failed(q, ev);
        return;
    }
    finish(q, &end);
}

void vl_query_event(struct vl_query *q, const struct vl_event *ev)
{
    if (ev->type == VL_EVENT_TEXT)
        on_text(q, ev);
    else if (ev->type == VL_EVENT_TURN_DONE)
        on_done(q, ev);
}

uint32_t vl_query_position(const struct vl_query *q)
{
    uint32_t n = 0;
    for (const struct vl_query *older = q->next; q->state == VL_QUERY_QUEUED && older; older = older->next)
        n += older->state == VL_QUERY_QUEUED;
    return n;
}

/* ---- the beginning ---- */

static bool token_valid(const char *t)
{
    size_t n = strspn(t, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
    return n >= 1 && n <= 64 && t[n] == '\0';
}

/* ".../query/1_42/TOKEN" for a caller called ":1.42". */
static int make_path(struct vl_query *q, const char *token, sd_bus_error *e)
{
    char made_up[32], sender[80];
    (void)snprintf(made_up, sizeof(made_up), "q%" PRIu64, q->m->next_query);
    if (token && !token_valid(token))
        return sd_bus_error_set(e, VL_BUS_INVALID_OPTION, "Token is 1 to 64 of A-Z a-z 0-9 _");
    (void)snprintf(sender, sizeof(sender), "%s", q->client->name + (q->client->name[0] == ':'));
    for (char *c = sender; *c; c++)
        if (*c == '.')
            *c = '_';
    q->token = strdup(token ? token : made_up);
    if (!q->token || asprintf(&q->path, VL_BUS_QUERY_PREFIX "/%s/%s", sender, q->token) < 0) {
        q->path = NULL;
        return -ENOMEM;
    }
    for (const struct vl_query *o = q->m->queries; o; o = o->next)
        if (o != q && !strcmp(o->path, q->path))
            return sd_bus_error_set(e, VL_BUS_INVALID_OPTION,
                                    "Token belongs to a question that is still here");
    q->m->next_query++;
    return 0;
}

static int busy(struct vl_manager *m, const char *why, sd_bus_error *e)
{
    uint32_t n = vl_limits_used(m->limits, VL_LIMIT_QUERIES);
    if (m->mean_turn_ns == 0)
        return vl_bus_error_setf(e, VL_BUS_BUSY, "%s; try again", why);
    int64_t ms = m->mean_turn_ns / VL_NSEC_PER_MSEC * (n ? n : 1);
    return vl_bus_error_setf(e, VL_BUS_BUSY, "%s; try again in about %" PRId64 ".%" PRId64 " s", why,
                             ms / 1000, ms / 100 % 10);
}

static int ask(struct vl_query *q, const struct vl_query_opts *o, sd_bus_error *e)
{
    struct vl_error err = {0};
    struct vl_chosen chosen;
    int r = vl_chosen_read(&chosen, o->reducer, NULL, 0, &err);
    struct vl_ask a = {
        .session = o->session,
        .max_tokens = o->max_tokens,
        .visual_budget = o->tokens_per_frame,
        .reducer = chosen.reducer[0] ? chosen.reducer : NULL,
        .reducer_params = chosen.reducer_params,
        .text = o->question,
        .since_ns = o->since_ns,
        .until_ns = o->until_ns,
        .deadline_ns = q->deadline_ns,
        .priority = o->priority,
        .sampling = o->sampling,
    };
    if (q->images)
        a.image = vl_images_frames(q->images, &a.n_images);
    if (r == 0)
        r = vl_engine_ask(q->model->engine, &a, &q->turn, &err);
    vl_chosen_done(&chosen);
    if (r == VL_ENGINE_BUSY)
        return busy(q->m, "the engine's queue is full", e);
    return r < 0 ? vl_bus_error_from(e, r, &err) : 0;
}

/* ---- pictures ---- */

static const char *image_error(int code)
{
    switch (-code) {
    case EMSGSIZE:
        return VL_BUS_TOO_LARGE;
    case ENOTSUP:
        return VL_BUS_NOT_SUPPORTED;
    case EBADMSG:
    case EINVAL:
        return SD_BUS_ERROR_INVALID_ARGS;
    case ETIMEDOUT:
        return VL_BUS_DEADLINE_EXCEEDED;
    case ENOMEM:
        return VL_BUS_NO_MEMORY;
    case EAGAIN:
    case EMFILE:
    case ENFILE:
        return VL_BUS_NO_RESOURCES;
    default:
        return VL_BUS_SOURCE_UNAVAILABLE;
    }
}

static void on_images(void *user, const struct vl_error *err)
{
    struct vl_query *q = user;
    sd_bus_error e = SD_BUS_ERROR_NULL;
    q->read_ns = vl_clock_monotonic_ns() - (q->deadline_ns - q->asks->deadline_ns);
    if (q->m->state == VL_MANAGER_STOPPING)
        vl_query_finish(q, "cancelled", VL_BUS_CANCELLED, "the daemon is stopping");
    else if (err)
        vl_query_finish(q, "failed", image_error(err->code), err->msg);
    else if (ask(q, q->asks, &e) < 0)
        vl_query_finish(q, "failed", e.name, e.message);
    sd_bus_error_free(&e);
}

/* The engine is asked once they are read; until then the query is queued. */
static int read_images(struct vl_query *q, const struct vl_query_opts *o, sd_bus_error *e)
{
    const size_t n = strlen(o->question) + 1, n_reducer = o->reducer ? strlen(o->reducer) + 1 : 0;
    q->asks = calloc(1, sizeof(*q->asks) + n + n_reducer);
    if (!q->asks)
        return vl_bus_error_from(e, -ENOMEM, NULL);
    *q->asks = *o;
    q->asks->question = strcpy((char *)(q->asks + 1), o->question);
    if (o->reducer)
        q->asks->reducer = strcpy((char *)(q->asks + 1) + n, o->reducer);
    q->asks->token = NULL; /* borrowed, and not needed again */
    q->asks->image_fd = NULL;
    int r = vl_images_new(&q->images, q->m->images, q->client->uid, o->image_fd, o->n_images, on_images, q);
    return r < 0 ? vl_bus_error_from(e, r, NULL) : 0;
}

static int build(struct vl_query *q, sd_bus_message *call, const struct vl_query_opts *o, int *ret_fd,
                 sd_bus_error *e)
{
    vl_autofd reader = -1;
    int r = make_path(q, o->token, e);
    if (r < 0)
        return r;
    if (ret_fd) {
        r = vl_reply_pipe_new(&q->pipe, q->m->event, VL_LIMIT_PIPE_BYTES, on_pipe_gone, q, &reader);
        if (r < 0)
            return vl_bus_error_from(e, r, NULL);
    } else {
        q->call = sd_bus_message_ref(call);
    }
    q->deadline_ns = vl_clock_monotonic_ns() + o->deadline_ns;
    r = set_timer(q, (uint64_t)((o->deadline_ns + DEADLINE_GRACE_NS) / VL_NSEC_PER_USEC));
    if (r < 0 || (r = o->n_images ? read_images(q, o, e) : ask(q, o, e)) < 0)
        return r;
    if (ret_fd)
        *ret_fd = vl_steal_fd(&reader);
    return 0;
}

static void query_free(struct vl_query *q)
{
    struct vl_query **at = &q->m->queries;
    while (*at && *at != q)
        at = &(*at)->next;
    if (*at)
        *at = q->next;
    (void)vl_images_unref(q->images);
    free(q->asks);
    (void)vl_reply_pipe_unref(q->pipe);
    (void)sd_bus_message_unref(q->call);
    (void)sd_event_source_disable_unref(q->timer);
    (void)vl_client_unref(q->client);
    free(q->answer);
    free(q->token);
    free(q->path);
    free(q);
}

static int charge(struct vl_manager *m, struct vl_client *c, sd_bus_error *e)
{
    struct vl_error err = {0};
    int r = vl_limits_take(m->limits, VL_LIMIT_QUERIES, c->uid, c->n_queries, &err);
    if (r != 0)
        return r > 0 ? busy(m, err.msg, e) : vl_bus_error_from(e, r, &err);
    c->n_queries++;
    return 0;
}

int vl_query_new(struct vl_query **ret, struct vl_manager *m, sd_bus_message *call,
                 const struct vl_query_opts *o, int *ret_fd, sd_bus_error *e)
{
    vl_auto(vl_client) client = NULL;
    int r = vl_client_of(m->clients, call, &client);
    if (r < 0 || (r = charge(m, client, e)) < 0)
        return r;
    struct vl_query *q = calloc(1, sizeof(*q));
    if (q) {
        *q = (struct vl_query){.m = m,
                               .next = m->queries,
                               .client = vl_client_ref(client),
                               .model = o->model,
                               .jsonl = o->jsonl};
        m->queries = q;
        r = build(q, call, o, ret_fd, e);
    } else {
        r = -ENOMEM;
    }
    if (r < 0) {
        if (q)
            query_free(q);
        client->n_queries--;
        vl_limits_give(m->limits, VL_LIMIT_QUERIES, client->uid);
        return r;
    }
    *ret = q;
    return 0;
}

struct vl_query *vl_query_unref(struct vl_query *q)
{
    if (!q)
        return NULL;
    vl_query_cancel(q);
    query_free(q);
    return NULL;
}
