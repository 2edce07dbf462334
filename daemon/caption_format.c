/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Caption formats: text, JSON lines, WebVTT (https://www.w3.org/TR/webvtt1/) and SubRip. Text of a model goes
 * into each of them, so each escapes or cannot be broken by one line without control characters. A cue of no
 * known length lasts a second.
 */
#include "daemon/caption_format.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define USEC_PER_SEC INT64_C(1000000)

static char *printed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *printed(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        s = NULL;
    va_end(ap);
    return s;
}

static char *nothing(void)
{
    return strdup("");
}

static char *no_tail(const char *status)
{
    (void)status;
    return strdup("");
}

static char *text_cue(const struct vl_caption *c, uint64_t n)
{
    (void)n;
    return printed("%s\n", c->text);
}

static char *text_gap(uint64_t n_lost)
{
    return printed("[%" PRIu64 " captions lost]\n", n_lost);
}

static bool add_int(cJSON *o, const char *key, int64_t value)
{
    char digits[24]; /* raw, since cJSON would write 1.7e+15 */
    (void)snprintf(digits, sizeof(digits), "%" PRId64, value);
    return cJSON_AddRawToObject(o, key, digits);
}

/* One object and a line feed; takes over o. */
static char *json_line(cJSON *o, bool ok)
{
    char *s = ok ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    char *line = s ? printed("%s\n", s) : NULL;
    cJSON_free(s);
    return line;
}

static char *jsonl_cue(const struct vl_caption *c, uint64_t n)
{
    cJSON *o = cJSON_CreateObject();
    (void)n;
    return json_line(o, o && add_int(o, "id", (int64_t)c->id) && add_int(o, "start", c->start_usec) &&
                            add_int(o, "end", c->end_usec) && add_int(o, "pts", c->pts_usec) &&
                            cJSON_AddStringToObject(o, "text", c->text));
}

static char *jsonl_gap(uint64_t n_lost)
{
    return printed("{\"gap\":%" PRIu64 "}\n", n_lost);
}

static char *jsonl_tail(const char *status)
{
    return printed("{\"status\":\"%s\"}\n", status);
}

struct stamp {
    char s[40];
};

static struct stamp stamp(int64_t usec, char point)
{
    struct stamp t;
    int64_t ms = usec > 0 ? usec / 1000 : 0;
    (void)snprintf(t.s, sizeof(t.s), "%02" PRId64 ":%02d:%02d%c%03d", ms / 3600000, (int)(ms / 60000 % 60),
                   (int)(ms / 1000 % 60), point, (int)(ms % 1000));
    return t;
}

static int64_t pts_end(const struct vl_caption *c)
{
    int64_t n = c->end_usec - c->start_usec;
    return c->pts_usec + (n > 0 ? n : USEC_PER_SEC);
}

/* WebVTT cue text: '&' and '<' are markup, and "-->" may not occur. */
static char *vtt_escaped(const char *s)
{
    char *ret = malloc(strlen(s) * 5 + 1), *at = ret;
    for (; ret && *s; s++) {
        const char *as = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : NULL;
        if (as)
            at = stpcpy(at, as);
        else
            *at++ = *s;
    }
    if (ret)
        *at = '\0';
    return ret;
}

static char *vtt_head(void)
{
    return strdup("WEBVTT\n\n");
}

static char *vtt_cue(const struct vl_caption *c, uint64_t n)
{
    vl_autofree char *text = vtt_escaped(c->text);
    (void)n;
    return text ? printed("%" PRIu64 "\n%s --> %s\n%s\n\n", c->id, stamp(c->pts_usec, '.').s,
                          stamp(pts_end(c), '.').s, text)
                : NULL;
}

static char *vtt_gap(uint64_t n_lost)
{
    return printed("NOTE %" PRIu64 " captions lost\n\n", n_lost);
}

static char *srt_cue(const struct vl_caption *c, uint64_t n)
{
    return printed("%" PRIu64 "\n%s --> %s\n%s\n\n", n, stamp(c->pts_usec, ',').s, stamp(pts_end(c), ',').s,
                   c->text);
}

/* SubRip has no comments, and a cue wants a time of its own; what follows a gap says so by itself in its
 * number. */
static char *srt_gap(uint64_t n_lost)
{
    (void)n_lost;
    return strdup("");
}

const struct vl_caption_format vl_caption_formats[] = {
    {"text", nothing, text_cue, text_gap, no_tail},
    {"jsonl", nothing, jsonl_cue, jsonl_gap, jsonl_tail},
    {"vtt", vtt_head, vtt_cue, vtt_gap, no_tail},
    {"srt", nothing, srt_cue, srt_gap, no_tail},
    {0},
};
