/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_DAEMON_CHILD_H
#define VL_DAEMON_CHILD_H
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

/* A process of ours: started with exactly the descriptors it needs, watched by pidfd, killed politely and
 * then not. It reaps itself: once its owner let go of it, it is ended and freed without anybody looking. Main
 * thread. */
struct vl_children; /* those alive; daemon lifetime */
struct vl_child;
enum { VL_CHILD_MAX_FDS = 2, VL_CHILD_FIRST_FD = 3 };

int vl_children_new(struct vl_children **ret, sd_event *event);
unsigned vl_children_count(const struct vl_children *c);
void vl_children_kill_all(struct vl_children *c);             /* SIGKILL, now */
struct vl_children *vl_children_unref(struct vl_children *c); /* kills and reaps what is left */

/* argv[0] is the program's path. fd[i] becomes VL_CHILD_FIRST_FD + i, standard input and output are
 * /dev/null, standard error is ours. exited is called once, from the event loop, when it has ended: si_code
 * and si_status as of waitid(2); the child is freed after it. */
int vl_child_spawn(struct vl_child **ret, struct vl_children *all, char *const argv[], const int *fd,
                   unsigned n_fds, void (*exited)(void *user, int why, int code), void *user);
/* SIGTERM to its process group, 0.2 s later SIGKILL. Again: no effect. */
void vl_child_end(struct vl_child *c);
/* Ends it, and exited will not be called. Accepts NULL, returns NULL. */
struct vl_child *vl_child_disown(struct vl_child *c);
#endif
