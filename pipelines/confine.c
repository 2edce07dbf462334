/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Confinement by the kernel's own means, without a library: rlimits, Landlock, seccomp. The list below is
 * what GStreamer's file decoding was seen to need, plus what glibc may use instead; everything else is EPERM,
 * so that a library which probes for a feature goes on without it.
 *
 * The trap: glibc starts threads by clone3, whose flags seccomp cannot see. It gets ENOSYS and falls back to
 * clone, which may make threads and nothing else.
 */
#include "pipelines/confine.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "vlmd-ingest does not know the system calls of this processor yet; add them to pipelines/confine.c"
#endif

/* linux/landlock.h of the build machine may be older than the kernel; these numbers are its interface. */
enum { LANDLOCK_VERSION = 1, LANDLOCK_MAX_FS_RIGHTS = 16 };
struct landlock_ruleset {
    uint64_t fs, net;
};

int vl_confine_descriptors(const int *keep, size_t n, struct vl_error *err)
{
    unsigned from = 3;
    if (n > 16)
        return -EINVAL;
    for (;;) {
        /* The smallest descriptor to keep that is not below `from` ends this range. */
        unsigned next = ~0u;
        for (size_t i = 0; i < n; i++)
            if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next)
                next = (unsigned)keep[i];
        if (from != next && syscall(SYS_close_range, from, next == ~0u ? ~0u : next - 1, 0u) < 0)
            return vl_error_set(err, -errno, "cannot close inherited descriptors: %s", strerror(errno));
        if (next == ~0u)
            return 0;
        from = next + 1;
    }
}

static int set_limit(int what, uint64_t v)
{
    struct rlimit l;
    if (getrlimit((__rlimit_resource_t)what, &l) < 0)
        return -errno;
    if (l.rlim_max != RLIM_INFINITY && l.rlim_max < v)
        v = l.rlim_max; /* tighter already */
    l = (struct rlimit){.rlim_cur = v, .rlim_max = v};
    return setrlimit((__rlimit_resource_t)what, &l) < 0 ? -errno : 0;
}

static int limits(uint64_t memory)
{
    int r;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return -errno;
    if ((r = set_limit(RLIMIT_CORE, 0)) < 0 || (r = set_limit(RLIMIT_NOFILE, 64)) < 0 ||
        (r = set_limit(RLIMIT_AS, memory)) < 0)
        return r;
    return 0;
}

/* All rights the kernel knows are handled and none is granted. 1: confined; 0: the kernel has no Landlock. */
static int landlock(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, LANDLOCK_VERSION);
    if (abi < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
    const unsigned n_rights = abi >= 5 ? 16 : abi >= 3 ? 15 : abi == 2 ? 14 : 13;
    struct landlock_ruleset rules = {.fs = (UINT64_C(1) << n_rights) - 1, .net = abi >= 4 ? 3 : 0};
    long fd = syscall(SYS_landlock_create_ruleset, &rules, abi >= 4 ? sizeof(rules) : sizeof(rules.fs), 0);
    if (fd < 0)
        return -errno;
    int r = syscall(SYS_landlock_restrict_self, (int)fd, 0) < 0 ? -errno : 1;
    (void)close((int)fd);
    return r;
}

/* Allowed whatever their arguments. */
static const int allowed[] = {
    /* the pictures: files that are open, the frame socket, memfds */
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv,
    SYS_pwritev,
    SYS_lseek,
    SYS_close,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_fcntl,
    SYS_dup,
    SYS_dup3,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_memfd_create,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendto,
    SYS_recvfrom,
    SYS_shutdown,
    SYS_getsockopt,
    SYS_socketpair,
    SYS_pipe2,
    SYS_eventfd2,
    SYS_fadvise64,
    SYS_close_range,
    /* memory, without execution: mmap and mprotect are below */
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_membarrier,
    SYS_mlock,
    SYS_munlock,
    /* threads: clone is below */
    SYS_futex,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_rseq,
    SYS_set_tid_address,
    SYS_exit,
    SYS_exit_group,
    SYS_gettid,
    SYS_getpid,
    SYS_getppid,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_getattr,
    SYS_sched_setattr,
    SYS_setpriority,
    SYS_getpriority,
    SYS_getcpu,
    /* signals, of one's own */
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    SYS_tgkill,
    SYS_tkill,
    SYS_signalfd4,
    SYS_restart_syscall,
    /* time and waiting */
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_ppoll,
    SYS_pselect6,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    /* questions without consequence */
    SYS_getrandom,
    SYS_uname,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getrusage,
    SYS_sysinfo,
    SYS_times,
    SYS_getrlimit,
    SYS_umask,
#if defined(__x86_64__)
    SYS_time,
    SYS_poll,
    SYS_select,
    SYS_epoll_wait,
    SYS_dup2,
    SYS_pipe,
    SYS_arch_prctl,
#endif
};

enum { MAX_FILTER = 512 };
struct filter {
    struct sock_filter op[MAX_FILTER];
    unsigned short n;
};

static void put(struct filter *f, unsigned short code, uint32_t k, uint8_t jt, uint8_t jf)
{
    if (f->n < MAX_FILTER)
        f->op[f->n++] = (struct sock_filter){.code = code, .jt = jt, .jf = jf, .k = k};
}

static void load(struct filter *f, size_t offset)
{
    put(f, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(struct filter *f, uint32_t action)
{
    put(f, BPF_RET | BPF_K, action, 0, 0);
}

/* The system call `nr` is allowed when no bit of `forbidden` is set in the low word of its argument, and
 * those of `required` are. */
static void allow_by_bits(struct filter *f, int nr, unsigned arg, uint32_t required, uint32_t forbidden)
{
    put(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 7);
    load(f, offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t));
    put(f, BPF_JMP | BPF_JSET | BPF_K, forbidden, 3, 0);
    put(f, BPF_ALU | BPF_AND | BPF_K, required, 0, 0);
    put(f, BPF_JMP | BPF_JEQ | BPF_K, required, 0, 1);
    answer(f, SECCOMP_RET_ALLOW);
    answer(f, SECCOMP_RET_ERRNO | EPERM);
    load(f, offsetof(struct seccomp_data, nr));
}

/* ... when its argument is one of two numbers. */
static void allow_by_value(struct filter *f, int nr, unsigned arg, uint32_t a, uint32_t b)
{
    put(f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 6);
    load(f, offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t));
    put(f, BPF_JMP | BPF_JEQ | BPF_K, a, 1, 0);
    put(f, BPF_JMP | BPF_JEQ | BPF_K, b, 0, 1);
    answer(f, SECCOMP_RET_ALLOW);
    answer(f, SECCOMP_RET_ERRNO | EPERM);
    load(f, offsetof(struct seccomp_data, nr));
}

static int seccomp(void)
{
    struct filter f = {.n = 0};
    load(&f, offsetof(struct seccomp_data, arch));
    put(&f, BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
    answer(&f, SECCOMP_RET_KILL_PROCESS);
    load(&f, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        put(&f, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[i], 0, 1);
        answer(&f, SECCOMP_RET_ALLOW);
    }
    allow_by_bits(&f, SYS_mmap, 2, 0, PROT_EXEC);
    allow_by_bits(&f, SYS_mprotect, 2, 0, PROT_EXEC);
    allow_by_bits(&f, SYS_clone, 0, CLONE_THREAD | CLONE_VM | CLONE_SIGHAND,
                  CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET);
    allow_by_value(&f, SYS_prctl, 0, PR_SET_NAME, PR_GET_NAME);
    allow_by_value(&f, SYS_ioctl, 1, FIONREAD, 0x5401 /* TCGETS: isatty */);
    allow_by_value(&f, SYS_prlimit64, 2, 0, 0); /* asking, not setting */
    put(&f, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
    answer(&f, SECCOMP_RET_ERRNO | ENOSYS);
    answer(&f, SECCOMP_RET_ERRNO | EPERM);
    if (f.n >= MAX_FILTER)
        return -E2BIG;
    const struct sock_fprog prog = {.len = f.n, .filter = f.op};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog) == 0 ? 0 : -errno;
}

int vl_confine(uint64_t memory, bool *ret_landlock, struct vl_error *err)
{
    int r = limits(memory);
    if (r < 0)
        return vl_error_set(err, r, "cannot set process limits: %s", strerror(-r));
    if ((r = landlock()) < 0)
        return vl_error_set(err, r, "cannot confine the file system by Landlock: %s", strerror(-r));
    bool has_landlock = r > 0;
    if ((r = seccomp()) < 0)
        return vl_error_set(err, r, "cannot filter system calls by seccomp: %s", strerror(-r));
    *ret_landlock = has_landlock;
    return 0;
}

static long try_open(void)
{
    return syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static long try_openat2(void)
{
    const uint64_t how[3] = {O_RDONLY | O_CLOEXEC, 0, 0};
    return syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", how, sizeof(how));
}

static long try_create(void)
{
    return syscall(SYS_openat, AT_FDCWD, "/tmp/vlmd-ingest-was-here", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

static long try_inet(void)
{
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static long try_unix(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static long try_exec(void)
{
    char *const argv[] = {(char *)"true", NULL};
    return syscall(SYS_execve, "/bin/true", argv, NULL);
}

static long try_process(void)
{
    long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        syscall(SYS_exit_group, 0);
    return pid;
}

static long try_ptrace(void)
{
    return syscall(SYS_ptrace, PTRACE_TRACEME, 0, NULL, NULL);
}

static long try_kill(void)
{
    return syscall(SYS_kill, getppid(), 0);
}

static long try_executable_memory(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? -1 : 0;
}

static long try_descriptors(void)
{
    struct rlimit l = {.rlim_cur = 1024, .rlim_max = 1024};
    return setrlimit(RLIMIT_NOFILE, &l);
}

int vl_confine_self_test(void)
{
    static const struct {
        const char *name;
        long (*try)(void);
    } tests[] = {
        {"open /etc/passwd", try_open},     {"openat2 /etc/passwd", try_openat2},
        {"create a file", try_create},      {"internet socket", try_inet},
        {"unix socket", try_unix},          {"execute a program", try_exec},
        {"start a process", try_process},   {"ptrace", try_ptrace},
        {"signal the parent", try_kill},    {"executable memory", try_executable_memory},
        {"raise a limit", try_descriptors},
    };
    int n_allowed = 0;
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        bool refused = tests[i].try() < 0;
        n_allowed += !refused;
        (void)printf("%s: %s\n", tests[i].name, refused ? "refused" : "ALLOWED");
    }
    (void)fflush(stdout);
    return n_allowed;
}
