/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A ring of what was said, and the pipes of those who read along. Each reader writes down for itself how many
 * cues it lost; the others never notice a slow one. Readers free themselves when their pipe is gone.
 */
#include "daemon/captions.h"

#include "daemon/caption_format.h"
#include "daemon/reply_pipe.h"

#include <stdio.h>
#include <string.h>

struct reader {
    struct vl_captions *of;
    struct reader *next;
    const struct vl_caption_format *format;
    struct vl_reply_pipe *pipe;
    uint64_t n_written, n_lost; /* n_lost: since the last one written */
    bool ended;
    uid_t uid;
};

struct vl_captions {
    sd_event *event;
    struct vl_limits *limits;
    struct reader *readers;
    uint64_t next_id;
    struct vl_caption ring[VL_LIMIT_CAPTIONS]; /* id modulo its size; text is owned */
};

int vl_captions_new(struct vl_captions **ret, sd_event *event, struct vl_limits *limits)
{
    struct vl_captions *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->event = event;
    c->limits = limits;
    c->next_id = 1;
    *ret = c;
    return 0;
}

static void reader_free(struct reader *r)
{
    struct reader **at = &r->of->readers;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    vl_limits_give(r->of->limits, VL_LIMIT_CAPTION_READERS, r->uid);
    (void)vl_reply_pipe_unref(r->pipe);
    free(r);
}

static void on_pipe_gone(void *user)
{
    reader_free(user);
}

/* Takes over text. A reader whose pipe broke is freed by its own event. */
static int put(struct reader *r, char *text, bool last)
{
    int n = text ? vl_reply_pipe_write(r->pipe, text, strlen(text), last) : VL_REPLY_PIPE_FULL;
    free(text);
    return n;
}

/* The word about what was lost, if anything was, and the cue: one text, so that they are written together or
 * not at all. */
static char *gap_and_cue(const struct reader *r, const struct vl_caption *c)
{
    char *cue = r->format->cue(c, r->n_written + r->n_lost + 1);
    if (r->n_lost == 0 || !cue)
        return cue;
    vl_autofree char *gap = r->format->gap(r->n_lost);
    char *both = NULL;
    if (!gap || asprintf(&both, "%s%s", gap, cue) < 0)
        both = NULL;
    free(cue);
    return both;
}

/* Whole cues or nothing; out of memory is a cue lost like any other. */
static void write_cue(struct reader *r, const struct vl_caption *c)
{
    if (r->ended)
        return;
    if (put(r, gap_and_cue(r, c), false) != 0) {
        r->n_lost++;
        return;
    }
    r->n_written += r->n_lost + 1;
    r->n_lost = 0;
}

static void end_reader(struct reader *r, const char *status)
{
    if (r->ended)
        return;
    r->ended = true;
    if (r->n_lost > 0)
        (void)put(r, r->format->gap(r->n_lost), true); /* a reader who has gone needs no word */
    (void)put(r, r->format->tail(status), true);
    if (vl_reply_pipe_finish(r->pipe))
        reader_free(r);
}

int vl_captions_add(struct vl_captions *c, const struct vl_caption *caption)
{
    char *text = strdup(caption->text);
    if (!text)
        return -ENOMEM;
    struct vl_caption *slot = &c->ring[c->next_id % VL_LIMIT_CAPTIONS];
    free((char *)slot->text);
    *slot = *caption;
    slot->id = c->next_id++;
    slot->text = text;
    for (struct reader *r = c->readers; r; r = r->next)
        write_cue(r, slot);
    return 0;
}

bool vl_captions_next(const struct vl_captions *c, uint64_t *inout_id, struct vl_caption *ret)
{
    uint64_t oldest = c->next_id > VL_LIMIT_CAPTIONS ? c->next_id - VL_LIMIT_CAPTIONS : 1;
    uint64_t id = *inout_id + 1 > oldest ? *inout_id + 1 : oldest;
    if (id >= c->next_id)
        return false;
    *ret = c->ring[id % VL_LIMIT_CAPTIONS];
    *inout_id = id;
    return true;
}

static const struct vl_caption_format *format_of(const char *name)
{
    for (const struct vl_caption_format *f = vl_caption_formats; f->name; f++)
        if (!strcmp(f->name, name))
            return f;
    return NULL;
}

int vl_captions_open(struct vl_captions *c, const char *format, int64_t since_usec, bool follow, uid_t uid,
                     int *ret_fd, struct vl_error *err)
{
    const struct vl_caption_format *f = format_of(format);
    if (!f)
        return vl_error_set(err, -EINVAL, "the format is one of text, jsonl, vtt, srt");
    int r = vl_limits_take(c->limits, VL_LIMIT_CAPTION_READERS, uid, 0, err);
    if (r != 0)
        return r;
    struct reader *reader = calloc(1, sizeof(*reader));
    if (!reader) {
        vl_limits_give(c->limits, VL_LIMIT_CAPTION_READERS, uid);
        return -ENOMEM;
    }
    *reader = (struct reader){.of = c, .next = c->readers, .format = f, .uid = uid};
    c->readers = reader;
    r = vl_reply_pipe_new(&reader->pipe, c->event, VL_LIMIT_PIPE_BYTES, on_pipe_gone, reader, ret_fd);
    if (r < 0) {
        reader_free(reader);
        return r;
    }
    (void)put(reader, f->head(), true); /* the pipe is empty */
    struct vl_caption cue;
    for (uint64_t id = 0; vl_captions_next(c, &id, &cue);)
        if (cue.start_usec >= since_usec)
            write_cue(reader, &cue);
    if (!follow)
        end_reader(reader, "ok");
    return 0;
}

void vl_captions_end(struct vl_captions *c, const char *status)
{
    for (struct reader *r = c->readers, *next; r; r = next) {
        next = r->next;
        end_reader(r, status);
    }
}

struct vl_captions *vl_captions_unref(struct vl_captions *c)
{
    if (!c)
        return NULL;
    while (c->readers)
        reader_free(c->readers);
    for (size_t i = 0; i < VL_LIMIT_CAPTIONS; i++)
        free((char *)c->ring[i].text);
    free(c);
    return NULL;
}
