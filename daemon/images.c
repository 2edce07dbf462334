/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Who is read next. Decided in one place, choose(), and only from the event loop, so that no callback comes
 * from inside a call of ours. The trap: every callback may unref any images, so the loop begins anew after
 * each.
 */
#include "daemon/images.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>

struct image {
    struct vl_images *of;
    int fd; /* until its child has it */
    struct vl_still *still;
};

struct vl_images {
    struct vl_image_queue *queue;
    struct vl_images *next;
    uid_t uid;
    uint32_t n, n_started, n_read;
    bool failed;
    uint64_t bytes;  /* of the frames */
    uint64_t served; /* the queue's turn at which it was last given a child */
    struct image image[VL_LIMIT_IMAGES];
    struct vl_frame *frame[VL_LIMIT_IMAGES];
    void (*done)(void *user, const struct vl_error *err);
    void *user;
};

struct vl_image_queue {
    struct vl_children *children;
    sd_event *event;
    sd_event_source *kick; /* once: look who is next */
    const char *program;
    struct vl_images *first; /* in the order they came */
    uint32_t n_reading;
    uint64_t held, turn; /* held: bytes of all frames */
};

static void look_again(struct vl_image_queue *q)
{
    (void)sd_event_source_set_enabled(q->kick, SD_EVENT_ONESHOT); /* one that exists cannot fail to be set */
}

/* ---- whose turn it is ---- */

static bool waits(const struct vl_images *i)
{
    return !i->failed && i->n_started < i->n;
}

static void account_of(const struct vl_image_queue *q, uid_t uid, uint32_t *ret_reading, uint64_t *ret_served)
{
    *ret_reading = 0;
    *ret_served = 0;
    for (const struct vl_images *i = q->first; i; i = i->next) {
        if (i->uid != uid)
            continue;
        for (uint32_t k = 0; k < i->n; k++)
            *ret_reading += i->image[k].still != NULL;
        if (i->served > *ret_served)
            *ret_served = i->served;
    }
}

/* The user with the fewest children goes first, of equals the one whose turn is longest ago, and of one
 * user's the oldest. When the frames that questions hold are many, the oldest of all alone is read on, and
 * nothing when it has been: it will be asked, answered, and let go of. */
static struct vl_images *choose(const struct vl_image_queue *q)
{
    struct vl_images *best = NULL;
    uint32_t best_reading = 0;
    uint64_t best_served = 0;
    if (q->held >= VL_LIMIT_IMAGE_HELD_BYTES)
        return q->first && waits(q->first) ? q->first : NULL;
    for (struct vl_images *i = q->first; i; i = i->next) {
        uint32_t reading;
        uint64_t served;
        if (!waits(i))
            continue;
        account_of(q, i->uid, &reading, &served);
        if (!best || reading < best_reading || (reading == best_reading && served < best_served)) {
            best = i;
            best_reading = reading;
            best_served = served;
        }
    }
    return best;
}

/* ---- one picture ---- */

static void fail(struct vl_images *i, const struct image *which, const struct vl_error *err)
{
    struct vl_error named = *err;
    i->failed = true;
    (void)vl_error_prefix(&named, err->code, "image %d", (int)(which - i->image) + 1);
    i->done(i->user, &named); /* i may be gone now */
}

static void on_read(void *user, struct vl_frame *f, const struct vl_error *err)
{
    struct image *image = user;
    struct vl_images *i = image->of;
    image->still = vl_still_unref(image->still);
    i->queue->n_reading--;
    look_again(i->queue);
    if (i->failed) {
        (void)vl_frame_unref(f); /* another of them was refused, and its owner keeps what is left */
        return;
    }
    if (err) {
        fail(i, image, err);
        return;
    }
    i->frame[image - i->image] = f;
    uint64_t bytes = (uint64_t)f->stride[0] * f->height;
    i->bytes += bytes;
    i->queue->held += bytes;
    if (++i->n_read == i->n)
        i->done(i->user, NULL); /* i may be gone now */
}

static void start(struct vl_image_queue *q, struct vl_images *i)
{
    struct image *image = &i->image[i->n_started++];
    const struct vl_still_opts o = {.program = q->program, .fd = image->fd, .want_side = VL_STILL_MODEL_SIDE};
    i->served = ++q->turn;
    int r = vl_still_new(&image->still, q->event, q->children, &o, on_read, image);
    vl_closep(&image->fd);
    image->fd = -1;
    if (r >= 0) {
        q->n_reading++;
        return;
    }
    struct vl_error err = {0};
    (void)vl_error_set(&err, r, "its reader cannot be started: %s", strerror(-r));
    fail(i, image, &err);
}

static int on_kick(sd_event_source *source, void *user)
{
    struct vl_image_queue *q = user;
    struct vl_images *i;
    (void)source;
    while (q->n_reading < VL_LIMIT_IMAGE_READERS && (i = choose(q)))
        start(q, i);
    return 0;
}

/* ---- all of them ---- */

int vl_image_queue_new(struct vl_image_queue **ret, sd_event *event, struct vl_children *children,
                       const char *program)
{
    vl_auto(vl_image_queue) q = calloc(1, sizeof(*q));
    if (!q)
        return -ENOMEM;
    *q = (struct vl_image_queue){.children = children, .event = event, .program = program};
    int r = sd_event_add_defer(event, &q->kick, on_kick, q);
    if (r < 0)
        return r;
    (void)sd_event_source_set_enabled(q->kick, SD_EVENT_OFF);
    *ret = vl_steal(q);
    return 0;
}

struct vl_image_queue *vl_image_queue_unref(struct vl_image_queue *q)
{
    if (!q)
        return NULL;
    (void)sd_event_source_disable_unref(q->kick);
    free(q);
    return NULL;
}

int vl_images_new(struct vl_images **ret, struct vl_image_queue *q, uid_t uid, const int *fd, uint32_t n,
                  void (*done)(void *user, const struct vl_error *err), void *user)
{
    vl_auto(vl_images) i = n >= 1 && n <= VL_LIMIT_IMAGES ? calloc(1, sizeof(*i)) : NULL;
    if (!i)
        return n >= 1 && n <= VL_LIMIT_IMAGES ? -ENOMEM : -EINVAL;
    *i = (struct vl_images){.queue = q, .uid = uid, .done = done, .user = user};
    struct vl_images **last = &q->first;
    while (*last)
        last = &(*last)->next;
    *last = i;
    for (; i->n < n; i->n++) {
        i->image[i->n] = (struct image){.of = i, .fd = fcntl(fd[i->n], F_DUPFD_CLOEXEC, 3)};
        if (i->image[i->n].fd < 0)
            return -errno;
    }
    look_again(q);
    *ret = vl_steal(i);
    return 0;
}

struct vl_frame *const *vl_images_frames(const struct vl_images *i, uint32_t *ret_n)
{
    *ret_n = i->n;
    return i->frame;
}

uint32_t vl_images_incomplete(const struct vl_images *i)
{
    uint32_t bits = 0;
    for (uint32_t k = 0; k < i->n; k++)
        if (i->frame[k] && i->frame[k]->flags & VL_FRAME_CORRUPT)
            bits |= UINT32_C(1) << k;
    return bits;
}

struct vl_images *vl_images_unref(struct vl_images *i)
{
    if (!i)
        return NULL;
    struct vl_images **at = &i->queue->first;
    while (*at != i)
        at = &(*at)->next;
    *at = i->next;
    for (uint32_t k = 0; k < i->n; k++) {
        i->queue->n_reading -= i->image[k].still != NULL;
        (void)vl_still_unref(i->image[k].still);
        (void)vl_frame_unref(i->frame[k]);
        vl_closep(&i->image[k].fd);
    }
    i->queue->held -= i->bytes;
    look_again(i->queue);
    free(i);
    return NULL;
}
