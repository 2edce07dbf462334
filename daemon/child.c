/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Processes of ours. Death is heard of through a pidfd, so no SIGCHLD and no race with a pid used again. Each
 * child leads a process group, so what it starts goes with it. The environment is built from nothing: it gets
 * what it cannot do without, and no variable that loads code.
 */
#include "daemon/child.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define KILL_AFTER_USEC UINT64_C(200000)
enum { MAX_ENV = 8 };

struct vl_children {
    sd_event *event;
    struct vl_child *first;
    unsigned n;
};

struct vl_child {
    struct vl_children *all;
    struct vl_child *next;
    pid_t pid;
    int pidfd;
    bool ending;
    sd_event_source *io, *timer;
    void (*exited)(void *user, int why, int code);
    void *user;
};

int vl_children_new(struct vl_children **ret, sd_event *event)
{
    struct vl_children *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->event = event;
    *ret = c;
    return 0;
}

unsigned vl_children_count(const struct vl_children *c)
{
    return c->n;
}

static void child_free(struct vl_child *c)
{
    struct vl_child **at = &c->all->first;
    while (*at && *at != c)
        at = &(*at)->next;
    if (*at) {
        *at = c->next;
        c->all->n--;
    }
    (void)sd_event_source_disable_unref(c->io);
    (void)sd_event_source_disable_unref(c->timer);
    vl_closep(&c->pidfd);
    free(c);
}

static void signal_group(const struct vl_child *c, int sig)
{
    /* Not reaped yet, so the number is still its own. The group exists from before exec
     * (POSIX_SPAWN_SETPGROUP). */
    if (kill(-c->pid, sig) < 0)
        (void)kill(c->pid, sig); /* gone already: its exit is on the way */
}

void vl_children_kill_all(struct vl_children *all)
{
    for (struct vl_child *c = all->first; c; c = c->next)
        signal_group(c, SIGKILL);
}

struct vl_children *vl_children_unref(struct vl_children *all)
{
    if (!all)
        return NULL;
    vl_children_kill_all(all);
    while (all->first) {
        (void)waitid(P_PID, (id_t)all->first->pid, &(siginfo_t){0},
                     WEXITED); /* killed: a matter of milliseconds */
        child_free(all->first);
    }
    free(all);
    return NULL;
}

static int on_death(sd_event_source *s, int fd, uint32_t revents, void *user)
{
    struct vl_child *c = user;
    siginfo_t si = {0};
    (void)s;
    (void)fd;
    (void)revents;
    if (waitid(P_PID, (id_t)c->pid, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
        return 0;
    (void)kill(-c->pid, SIGKILL); /* what it may have left in its group */
    void (*exited)(void *, int, int) = c->exited;
    void *owner = c->user;
    child_free(c);
    if (exited)
        exited(owner, si.si_code, si.si_status);
    return 0;
}

static int on_kill_timer(sd_event_source *s, uint64_t usec, void *user)
{
    (void)s;
    (void)usec;
    signal_group(user, SIGKILL);
    return 0;
}

void vl_child_end(struct vl_child *c)
{
    if (c->ending)
        return;
    c->ending = true;
    signal_group(c, SIGTERM);
    if (sd_event_add_time_relative(c->all->event, &c->timer, CLOCK_MONOTONIC, KILL_AFTER_USEC, 10000,
                                   on_kill_timer, c) < 0)
        signal_group(c, SIGKILL); /* no timer, no patience */
}

struct vl_child *vl_child_disown(struct vl_child *c)
{
    if (!c)
        return NULL;
    c->exited = NULL;
    vl_child_end(c);
    return NULL;
}

/* Names that pass from our environment: the sanitizers' own, of test builds. */
static bool passes(const char *entry)
{
    static const char *const name[] = {"ASAN_OPTIONS=", "LSAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS="};
    for (size_t i = 0; i < sizeof(name) / sizeof(*name); i++)
        if (!strncmp(entry, name[i], strlen(name[i])))
            return true;
    return false;
}

static void build_environment(char *ret[MAX_ENV])
{
    size_t n = 0;
    ret[n++] = (char *)"LANG=C.UTF-8";
    for (char **e = environ; *e && n < MAX_ENV - 1; e++)
        if (passes(*e))
            ret[n++] = *e;
    ret[n] = NULL;
}

/* File actions and attributes; the spawn itself. Every descriptor of ours is close-on-exec, so what is not
 * named here does not arrive; what a library might have opened without the flag is closed by closefrom. */
static int spawn(pid_t *ret, char *const argv[], const int *fd, unsigned n_fds)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char *env[MAX_ENV];
    build_environment(env);
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    int r = posix_spawn_file_actions_init(&actions);
    if (r != 0)
        return -r;
    if ((r = posix_spawnattr_init(&attr)) != 0) {
        (void)posix_spawn_file_actions_destroy(&actions);
        return -r;
    }
    r = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    r = r ? r : posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    for (unsigned i = 0; r == 0 && i < n_fds; i++)
        r = posix_spawn_file_actions_adddup2(&actions, fd[i], VL_CHILD_FIRST_FD + (int)i);
    r = r ? r : posix_spawn_file_actions_addclosefrom_np(&actions, VL_CHILD_FIRST_FD + (int)n_fds);
    r = r ? r : posix_spawnattr_setpgroup(&attr, 0);
    r = r ? r : posix_spawnattr_setsigmask(&attr, &none);
    r = r ? r : posix_spawnattr_setsigdefault(&attr, &all);
    r = r ? r
          : posix_spawnattr_setflags(&attr,
                                     POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = r ? r : posix_spawn(ret, argv[0], &actions, &attr, argv, env);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attr);
    return -r;
}

/* A descriptor that has the number of another's place would be overwritten by its dup2: move all out of the
 * way. */
static int move_up(const int *fd, unsigned n_fds, int *ret)
{
    for (unsigned i = 0; i < n_fds; i++)
        if ((ret[i] = fcntl(fd[i], F_DUPFD_CLOEXEC, VL_CHILD_FIRST_FD + VL_CHILD_MAX_FDS)) < 0)
            return -errno;
    return 0;
}

int vl_child_spawn(struct vl_child **ret, struct vl_children *all, char *const argv[], const int *fd,
                   unsigned n_fds, void (*exited)(void *user, int why, int code), void *user)
{
    int up[VL_CHILD_MAX_FDS] = {-1, -1};
    struct vl_child *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    *c = (struct vl_child){.all = all, .next = all->first, .pidfd = -1, .exited = exited, .user = user};
    int r = n_fds <= VL_CHILD_MAX_FDS ? move_up(fd, n_fds, up) : -EINVAL;
    if (r == 0)
        r = spawn(&c->pid, argv, up, n_fds);
    for (unsigned i = 0; i < VL_CHILD_MAX_FDS; i++)
        vl_closep(&up[i]);
    if (r < 0) {
        free(c);
        return r;
    }
    all->first = c;
    all->n++;
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    r = c->pidfd < 0 ? -errno : sd_event_add_io(all->event, &c->io, c->pidfd, EPOLLIN, on_death, c);
    if (r < 0) {
        signal_group(c, SIGKILL);
        (void)waitid(P_PID, (id_t)c->pid, &(siginfo_t){0}, WEXITED);
        child_free(c);
        return r;
    }
    *ret = c;
    return 0;
}
