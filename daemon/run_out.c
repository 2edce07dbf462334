/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The terminal's side of `vlmd run`. Every line is flushed as it is said, since somebody may be waiting for
 * it. Trap: the line of progress is wiped before anything else is written, on either stream, as both may be
 * the same terminal.
 */
#include "daemon/run_out.h"

#include "base/clock.h"
#include "daemon/subcommand.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MAX_ANSWER = 256 << 10 };

void vl_run_out_init(struct vl_run_out *o, const struct vl_run_args *a)
{
    *o = (struct vl_run_out){.a = a, .terminal = isatty(STDERR_FILENO) != 0};
}

void vl_run_out_done(struct vl_run_out *o)
{
    free(o->answer);
    o->answer = NULL;
}

/* ---- lines ---- */

static void wipe(struct vl_run_out *o)
{
    if (o->status_shown)
        (void)fputs("\r\033[K", stderr);
    o->status_shown = false;
}

static void flush(struct vl_run_out *o)
{
    if (fflush(stdout) < 0 || ferror(stdout))
        o->broken = true;
}

static bool wants_status(const struct vl_run_out *o)
{
    return o->terminal && !o->a->quiet && !o->a->json && !o->speaking;
}

struct clock_text {
    char s[32];
};
/* 00:01:05, with tenths when looks come more often than once a second. */
static struct clock_text clock_text(const struct vl_run_out *o, int64_t ns)
{
    struct clock_text t;
    int64_t sec = ns > 0 ? ns / VL_NSEC_PER_SEC : 0;
    int n = snprintf(t.s, sizeof(t.s), "%02" PRId64 ":%02d:%02d", sec / 3600, (int)(sec / 60 % 60),
                     (int)(sec % 60));
    if (o->a->every_usec % 1000000 && n > 0 && n < (int)sizeof(t.s))
        (void)snprintf(t.s + n, sizeof(t.s) - (size_t)n, ".%d", (int)(ns / (VL_NSEC_PER_SEC / 10) % 10));
    return t;
}

/* ---- records of --json ---- */

static bool add_int(cJSON *o, const char *key, int64_t value)
{
    char digits[24]; /* raw, since cJSON would write 1.7e+15 */
    (void)snprintf(digits, sizeof(digits), "%" PRId64, value);
    return cJSON_AddRawToObject(o, key, digits) != NULL;
}

static cJSON *record(const char *type)
{
    cJSON *r = cJSON_CreateObject();
    if (r && !cJSON_AddStringToObject(r, "type", type)) {
        cJSON_Delete(r);
        r = NULL;
    }
    return r;
}

/* Takes over r. A record that memory does not allow breaks the promise of the format: the run ends. */
static void print_record(struct vl_run_out *o, cJSON *r, bool whole)
{
    char *line = r && whole ? cJSON_PrintUnformatted(r) : NULL;
    cJSON_Delete(r);
    if (line)
        (void)puts(line);
    else
        o->broken = true;
    cJSON_free(line);
    flush(o);
}

static bool add_stats(cJSON *r, const struct vl_turn_stats *s)
{
    return add_int(r, "prompt_tokens", s->n_prompt) && add_int(r, "output_tokens", s->n_output) &&
           add_int(r, "pruned_tokens", s->n_pruned) &&
           add_int(r, "first_token_usec", s->first_token_ns / VL_NSEC_PER_USEC) &&
           add_int(r, "total_usec", s->total_ns / VL_NSEC_PER_USEC);
}

/* ---- progress ---- */

void vl_run_out_loading(struct vl_run_out *o, double fraction)
{
    if (o->a->json) {
        cJSON *r = record("progress");
        print_record(o, r,
                     r && cJSON_AddStringToObject(r, "phase", "loading") &&
                         cJSON_AddNumberToObject(r, "fraction", (int)(fraction * 100) / 100.0));
    } else if (wants_status(o)) {
        (void)fprintf(stderr, "\r\033[Kloading the model: %d %%", (int)(fraction * 100));
        o->status_shown = true;
    }
}

void vl_run_out_model(struct vl_run_out *o, const struct vl_engine_info *i)
{
    wipe(o);
    if (!o->a->json)
        return;
    cJSON *r = record("model");
    print_record(o, r,
                 r && cJSON_AddStringToObject(r, "name", i->model_name) &&
                     cJSON_AddStringToObject(r, "architecture", i->arch) &&
                     cJSON_AddStringToObject(r, "quantization", i->quantization) &&
                     add_int(r, "context_tokens", i->context_tokens) &&
                     add_int(r, "bytes", (int64_t)(i->weight_bytes + i->scratch_bytes + i->kv_pool_bytes)));
}

void vl_run_out_playing(struct vl_run_out *o, int64_t pts_ns, const struct vl_session_stats *s)
{
    if (o->a->json) {
        cJSON *r = record("progress");
        print_record(o, r,
                     r && cJSON_AddStringToObject(r, "phase", "playing") &&
                         add_int(r, "pts", pts_ns / VL_NSEC_PER_USEC) &&
                         add_int(r, "lag_usec", s->lag_ns / VL_NSEC_PER_USEC) &&
                         add_int(r, "frames", (int64_t)s->n_frames));
    } else if (wants_status(o)) {
        (void)fprintf(stderr, "\r\033[K%s  %" PRIu64 " looks, the last took %.1f s", clock_text(o, pts_ns).s,
                      s->n_frames, (double)s->lag_ns / (double)VL_NSEC_PER_SEC);
        o->status_shown = true;
    }
}

/* ---- what was asked for ---- */

static void print_formatted(struct vl_run_out *o, const struct vl_caption *c)
{
    const struct vl_caption_format *f = o->a->format;
    vl_autofree char *head = c->id == 1 ? f->head() : NULL;
    vl_autofree char *cue = f->cue(c, c->id);
    if (head)
        (void)fputs(head, stdout);
    if (cue)
        (void)fputs(cue, stdout);
    o->broken = o->broken || !cue;
}

void vl_run_out_caption(struct vl_run_out *o, const struct vl_event *ev)
{
    int64_t start = ev->wall_ns / VL_NSEC_PER_USEC, n = (ev->pts_end_ns - ev->pts_ns) / VL_NSEC_PER_USEC;
    struct vl_caption c = {.id = ++o->n_captions,
                           .start_usec = start,
                           .end_usec = start + (n > 0 ? n : 0),
                           .pts_usec = ev->pts_ns / VL_NSEC_PER_USEC,
                           .text = ev->text};
    wipe(o);
    if (o->a->json) {
        cJSON *r = record("caption");
        print_record(o, r,
                     r && add_int(r, "id", (int64_t)c.id) && add_int(r, "pts", c.pts_usec) &&
                         add_int(r, "pts_end", c.pts_usec + (n > 0 ? n : 0)) &&
                         cJSON_AddStringToObject(r, "text", c.text));
        return;
    }
    if (o->a->format)
        print_formatted(o, &c);
    else
        (void)printf("%s  %s\n", clock_text(o, ev->pts_ns).s, c.text);
    flush(o);
}

/* One question and nothing else on stdout: the answer alone, as a filter would print it. */
static bool answer_alone(const struct vl_run_args *a)
{
    return a->n_asks == 1 && (!a->stream || a->no_captions);
}

void vl_run_out_question(struct vl_run_out *o, const struct vl_run_ask *ask)
{
    o->speaking = false;
    o->n_answer = 0;
    wipe(o);
    if (o->a->json || answer_alone(o->a))
        return;
    (void)printf("> %s\n", ask->text);
    flush(o);
}

static void keep(struct vl_run_out *o, const char *text, size_t n)
{
    char *more = o->n_answer + n <= MAX_ANSWER ? realloc(o->answer, o->n_answer + n + 1) : NULL;
    if (!more) {
        o->broken = true;
        return;
    }
    o->answer = more;
    memcpy(o->answer + o->n_answer, text, n + 1);
    o->n_answer += n;
}

/* The text may begin with the space that tokenizers put there. */
void vl_run_out_text(struct vl_run_out *o, const struct vl_event *ev)
{
    const char *text = ev->text;
    if (!o->speaking)
        text += strspn(text, " ");
    if (!*text)
        return;
    wipe(o);
    o->speaking = true;
    if (o->a->json) {
        keep(o, text, strlen(text));
        return;
    }
    (void)fputs(text, stdout);
    flush(o);
}

static const char *status_name(enum vl_turn_status s)
{
    static const char *const name[] = {[VL_TURN_OK] = "ok",
                                       [VL_TURN_CANCELLED] = "cancelled",
                                       [VL_TURN_DEADLINE] = "deadline",
                                       [VL_TURN_NOTHING_SEEN] = "nothing-seen",
                                       [VL_TURN_FAILED] = "failed"};
    return name[s];
}

void vl_run_out_answer(struct vl_run_out *o, const struct vl_run_ask *ask, const struct vl_event *ev,
                       int64_t pts_ns)
{
    if (o->a->json) {
        cJSON *r = record("answer");
        bool ok = r && cJSON_AddStringToObject(r, "question", ask->text) &&
                  cJSON_AddStringToObject(r, "text", o->n_answer ? o->answer : "") &&
                  cJSON_AddStringToObject(r, "status", status_name(ev->status)) &&
                  (pts_ns < 0 || add_int(r, "pts", pts_ns / VL_NSEC_PER_USEC)) &&
                  add_stats(r, &ev->turn_stats);
        print_record(o, r, ok);
    } else {
        (void)putchar('\n');
        flush(o);
    }
    o->speaking = false;
}

/* ---- trouble, and the end ---- */

void vl_run_out_error(struct vl_run_out *o, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(o->error, sizeof(o->error), fmt, ap);
    va_end(ap);
    wipe(o);
    if (o->speaking && !o->a->json) {
        (void)putchar('\n');
        flush(o);
    }
    o->speaking = false;
    (void)fprintf(stderr, "vlmd run: %s\n", o->error);
}

static const char *end_name(int code)
{
    return code == VL_EXIT_OK ? "ok" : code > 128 ? "interrupted" : "failed";
}

void vl_run_out_end(struct vl_run_out *o, int code, const struct vl_session_stats *s)
{
    wipe(o);
    if (o->a->json) {
        cJSON *r = record("end");
        bool ok = r && cJSON_AddStringToObject(r, "status", end_name(code));
        if (ok && s)
            ok = add_int(r, "frames", (int64_t)s->n_frames) && add_int(r, "skipped", (int64_t)s->n_skipped);
        if (ok && code == VL_EXIT_FAILED)
            ok = cJSON_AddStringToObject(r, "message", o->error) != NULL;
        print_record(o, r, ok);
        return;
    }
    if (o->a->format && o->n_captions == 0) { /* an empty file of its kind is still one */
        vl_autofree char *head = o->a->format->head();
        (void)fputs(head ? head : "", stdout);
    }
    if (o->speaking)
        (void)putchar('\n');
    flush(o);
}
