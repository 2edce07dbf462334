/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_IMAGES_H
#define VL_DAEMON_IMAGES_H
#include "daemon/child.h"
#include "daemon/limits.h"
#include "daemon/still.h"

/* The pictures of questions on their way from descriptors to frames. At most VL_LIMIT_IMAGE_READERS children
 * read at a time in the whole daemon; users take turns, so that one who sends many, or pipes that say
 * nothing, holds up nobody else for longer than one picture takes. Main thread. */
struct vl_image_queue; /* daemon lifetime */
int vl_image_queue_new(struct vl_image_queue **ret, sd_event *event, struct vl_children *children,
                       const char *program /* vlmd-ingest; borrowed */);
struct vl_image_queue *vl_image_queue_unref(struct vl_image_queue *q); /* after all that wait in it */
VL_DEFINE_AUTO(vl_image_queue)

struct vl_images; /* of one question; one owner, shorter lived than the queue */
/* Duplicates fd[n], 1 <= n <= VL_LIMIT_IMAGES. done is called once, from the event loop and never from inside
 * new: with NULL when all of them are there, else with why one is not; its message begins with which, its
 * code is as of vl_still_new. The callee may unref the images inside done. */
int vl_images_new(struct vl_images **ret, struct vl_image_queue *q, uid_t uid, const int *fd, uint32_t n,
                  void (*done)(void *user, const struct vl_error *err), void *user);
/* Bit i: image i is one that broke off. */
uint32_t vl_images_incomplete(const struct vl_images *i);
/* After done said all is well: the frames in order, borrowed. */
struct vl_frame *const *vl_images_frames(const struct vl_images *i, uint32_t *ret_n);
struct vl_images *
vl_images_unref(struct vl_images *i); /* before done: its children end, done is not called */
VL_DEFINE_AUTO(vl_images)
#endif
