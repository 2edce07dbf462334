/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * How a vlmd process begins and ends. Process state is all there is here: signals, limits, one timer.
 */
#include "daemon/process.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

enum { TAIL_USEC = 800000, MAX_FDS = 4096, MMAP_THRESHOLD = 256 << 10 };

/* All that clients can make us hold has a cap (limits.c); together the caps come to less than this, which is
 * more than the usual soft limit. Children lower it again for themselves. */
static void raise_fd_limit(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur >= MAX_FDS)
        return;
    l.rlim_cur = l.rlim_max < MAX_FDS ? l.rlim_max : MAX_FDS;
    (void)setrlimit(RLIMIT_NOFILE, &l); /* with fewer, requests are refused by name */
}

int vl_process_begin(void)
{
    sigset_t set;
    (void)signal(SIGPIPE, SIG_IGN);
    raise_fd_limit();
    /* Fixed, because glibc raises it to the largest block that was freed: one long message would be kept for
     * good. */
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD); /* without it we live, and hold more */
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
}

/* A load under way cannot be interrupted, and a quantum takes its time: handing memory back in order is worth
 * a moment, not more. */
static volatile sig_atomic_t tail_code;

static void on_tail_alarm(int sig)
{
    (void)sig;
    _exit(tail_code);
}

void vl_process_limit_end(int code)
{
    struct sigaction dead = {.sa_handler = on_tail_alarm};
    tail_code = code;
    struct itimerval after = {.it_value = {.tv_usec = TAIL_USEC}};
    sigset_t alarm_set;
    (void)sigemptyset(&alarm_set);
    (void)sigaddset(&alarm_set, SIGALRM);
    (void)sigprocmask(SIG_UNBLOCK, &alarm_set, NULL);
    (void)sigaction(SIGALRM, &dead, NULL);
    (void)setitimer(ITIMER_REAL, &after, NULL);
}
