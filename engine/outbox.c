/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * One writer, one reader, two rings. Counters only rise; a ring's content is their difference.
 *
 * The trap is the order in which the reader looks: text first, then events. If no event was there after the
 * text's length had been read, all of that text belongs to what is under way, so a piece never holds the end
 * of one caption and the start of the next.
 */
#include "engine/outbox.h"

#include <assert.h>
#include <string.h>

void vl_outbox_init(struct vl_outbox *o, uint64_t session, uint64_t turn, bool *dirty)
{
    o->session = session;
    o->turn = turn;
    o->dirty = dirty;
    atomic_init(&o->n_put, 0);
    atomic_init(&o->n_read, 0);
    atomic_init(&o->text_put, 0);
    atomic_init(&o->text_freed, 0);
    atomic_init(&o->blocked, false);
    o->text_started = o->text_read = 0;
}

static bool has_room_now(struct vl_outbox *o, size_t n_events, size_t n_bytes)
{
    uint64_t events = atomic_load_explicit(&o->n_put, memory_order_relaxed) - atomic_load(&o->n_read);
    uint64_t bytes = atomic_load_explicit(&o->text_put, memory_order_relaxed) - atomic_load(&o->text_freed);
    return events + n_events <= VL_OUTBOX_EVENTS && bytes + n_bytes <= VL_OUTBOX_TEXT;
}

bool vl_outbox_has_room(struct vl_outbox *o, size_t n_events, size_t n_bytes)
{
    if (has_room_now(o, n_events, n_bytes))
        return true;
    /* Said before the second look, so that a reader who frees room between the two sees it. */
    atomic_store(&o->blocked, true);
    return has_room_now(o, n_events, n_bytes);
}

void vl_outbox_put_text(struct vl_outbox *o, const char *text, size_t n)
{
    uint64_t at = atomic_load_explicit(&o->text_put, memory_order_relaxed);
    assert(at - atomic_load(&o->text_freed) + n <= VL_OUTBOX_TEXT);
    for (size_t i = 0; i < n; i++)
        o->text[(at + i) % VL_OUTBOX_TEXT] = text[i];
    atomic_store_explicit(&o->text_put, at + n, memory_order_release);
    *o->dirty = true;
}

void vl_outbox_put_event(struct vl_outbox *o, const struct vl_event *ev)
{
    uint64_t at = atomic_load_explicit(&o->n_put, memory_order_relaxed);
    assert(at - atomic_load(&o->n_read) < VL_OUTBOX_EVENTS);
    uint64_t text_to = atomic_load_explicit(&o->text_put, memory_order_relaxed);
    o->ring[at % VL_OUTBOX_EVENTS] =
        (struct vl_outbox_event){.event = *ev, .text_from = o->text_started, .text_to = text_to};
    o->text_started = text_to;
    *o->dirty = true;
    atomic_store_explicit(&o->n_put, at + 1, memory_order_release);
}

void vl_outbox_drop_text(struct vl_outbox *o, const struct vl_event *empty_cap)
{
    uint64_t text_put = atomic_load_explicit(&o->text_put, memory_order_relaxed);
    if (o->text_started == text_put)
        return;
    o->text_started = text_put; /* the event's text is what came after: nothing */
    vl_outbox_put_event(o, empty_cap);
}

static size_t copy_text(const struct vl_outbox *o, uint64_t from, uint64_t to, char *text)
{
    for (uint64_t i = from; i < to; i++)
        text[i - from] = o->text[i % VL_OUTBOX_TEXT];
    text[to - from] = '\0';
    return (size_t)(to - from);
}

static void read_piece(struct vl_outbox *o, uint64_t to, struct vl_event *ret, char *text)
{
    *ret = (struct vl_event){.type = VL_EVENT_TEXT, .session = o->session, .turn = o->turn, .text = text};
    ret->len = copy_text(o, o->text_read, to, text);
    o->text_read = to;
    if (o->turn)
        atomic_store(&o->text_freed, to);
}

static void read_event(struct vl_outbox *o, const struct vl_outbox_event *rec, struct vl_event *ret,
                       char *text)
{
    *ret = rec->event;
    ret->session = o->session;
    ret->turn = o->turn;
    ret->text = text;
    ret->len = rec->event.type == VL_EVENT_CAPTION_DONE ? copy_text(o, rec->text_from, rec->text_to, text)
                                                        : copy_text(o, rec->text_to, rec->text_to, text);
    o->text_read = rec->text_to;
    atomic_store(&o->text_freed, rec->text_to);
    atomic_fetch_add(&o->n_read, 1);
}

bool vl_outbox_read(struct vl_outbox *o, struct vl_event *ret, char *text, bool *ret_unblocked)
{
    uint64_t text_put = atomic_load_explicit(&o->text_put, memory_order_acquire);
    uint64_t n_read = atomic_load_explicit(&o->n_read, memory_order_relaxed);
    if (n_read != atomic_load_explicit(&o->n_put, memory_order_acquire)) {
        const struct vl_outbox_event *rec = &o->ring[n_read % VL_OUTBOX_EVENTS];
        if (o->turn && o->text_read < rec->text_to)
            read_piece(o, rec->text_to, ret, text);
        else
            read_event(o, rec, ret, text);
    } else if (o->text_read < text_put) {
        read_piece(o, text_put, ret, text);
    } else {
        return false;
    }
    *ret_unblocked = atomic_exchange(&o->blocked, false);
    return true;
}
