/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Confinement by the process itself: prctl, rlimits, Landlock, seccomp, in this order, because each takes
 * away what the one before needed. Nothing can undo it. The trap: a library that opens a file, or makes its
 * first socket, only when it meets the right stream; all that must be loaded is loaded before
 * (vl_source_ops.prepare).
 */
#include "pipelines/confine.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "confine.c: name the audit architecture of this machine"
#endif

int vl_confine_inherited(const int *keep, unsigned n_keep)
{
    if (clearenv() != 0)
        return -ENOMEM;
    unsigned from = 3;
    for (;;) { /* close the ranges between the kept ones, in rising order */
        unsigned next = UINT32_MAX;
        for (unsigned i = 0; i < n_keep; i++)
            if (keep[i] >= (int)from && (unsigned)keep[i] < next)
                next = (unsigned)keep[i];
        if (next > from && close_range(from, next == UINT32_MAX ? next : next - 1, 0) < 0)
            return -errno;
        if (next == UINT32_MAX)
            return 0;
        from = next + 1;
    }
}

static int limit(int what, uint64_t most)
{
    struct rlimit now;
    if (getrlimit((__rlimit_resource_t)what, &now) < 0)
        return -errno;
    if (now.rlim_max != RLIM_INFINITY && now.rlim_max < most)
        most = now.rlim_max;
    struct rlimit r = {.rlim_cur = most, .rlim_max = most};
    return setrlimit((__rlimit_resource_t)what, &r) < 0 ? -errno : 0;
}

static int confine_process(const struct vl_confinement *c, struct vl_error *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return vl_error_set(err, -errno, "prctl: %s", strerror(errno));
    int r = limit(RLIMIT_CORE, 0);
    if (r == 0)
        r = limit(RLIMIT_NOFILE, 64);
    if (r == 0)
        r = limit(RLIMIT_FSIZE, UINT64_C(256) << 20); /* memfds; nothing else can be written to */
    if (r == 0 && !SANITIZED && c->memory_bytes)
        r = limit(RLIMIT_AS, c->memory_bytes);
    return r < 0 ? vl_error_set(err, r, "setrlimit: %s", strerror(-r)) : 0;
}

/* linux/landlock.h of the build machine may be older than the kernel; this is the kernel's interface. */
struct landlock_rules {
    uint64_t fs, net, scoped;
};

/* Every right that this kernel knows to handle, and no rule that grants one. */
static int confine_paths(bool *ret_on, struct vl_error *err)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, 1UL /* ask for the version */);
    *ret_on = false;
    if (abi < 1)
        return 0; /* no Landlock in this kernel; seccomp still refuses open */
    const unsigned n_rights = abi >= 5 ? 16 : abi >= 3 ? 15 : abi == 2 ? 14 : 13;
    struct landlock_rules rules = {
        .fs = (UINT64_C(1) << n_rights) - 1, .net = abi >= 4 ? 3 : 0, .scoped = abi >= 6 ? 3 : 0};
    size_t size = abi >= 6   ? sizeof(rules)
                  : abi >= 4 ? offsetof(struct landlock_rules, scoped)
                             : sizeof(rules.fs);
    vl_autofd fd = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0UL);
    if (fd < 0 || syscall(SYS_landlock_restrict_self, fd, 0UL) < 0)
        return vl_error_set(err, -errno, "Landlock: %s", strerror(errno));
    *ret_on = true;
    return 0;
}

/* What decoding, threads, memory and the frame socket need. Each name a system call without a new file,
 * socket, process or right behind it. */
static const int allowed[] = {
    /* what is open */
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_lseek,
    SYS_close,
    SYS_fstat,
    SYS_fcntl,
    SYS_fadvise64,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_dup,
    SYS_dup3,
    SYS_sendmsg,
    SYS_sendto,
    SYS_recvmsg,
    SYS_recvfrom,
    SYS_shutdown,
    SYS_ppoll,
    SYS_pselect6,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_eventfd2,
    SYS_pipe2,
    SYS_memfd_create,
#ifdef SYS_poll
    SYS_poll,
    SYS_select,
    SYS_pipe,
    SYS_dup2,
    SYS_epoll_wait,
#endif
    /* memory */
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_mincore,
    SYS_membarrier,
    /* threads and signals of our own */
    SYS_futex,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_set_tid_address,
    SYS_rseq,
    SYS_gettid,
    SYS_getpid,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_getpriority,
    SYS_getcpu,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    SYS_restart_syscall,
    SYS_exit,
    SYS_exit_group,
    /* clocks, numbers, identity */
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_getrandom,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_getrusage,
    SYS_sysinfo,
    SYS_uname,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
#ifdef SYS_time
    SYS_time,
#endif
};

struct program {
    struct sock_filter line[256];
    unsigned short n;
};

static void emit(struct program *p, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
    p->line[p->n++] = (struct sock_filter){code, jt, jf, k};
}

enum { LOAD = BPF_LD | BPF_W | BPF_ABS, EQUAL = BPF_JMP | BPF_JEQ | BPF_K, ANY = BPF_JMP | BPF_JSET | BPF_K };
#define ARG(i)                                                                                               \
    ((uint32_t)(offsetof(struct seccomp_data, args) + 8 * (i))) /* low word; little endian machines */

/* nr is allowed when (argument & mask) == value, else errno. */
static void emit_if_arg(struct program *p, int nr, unsigned arg, uint32_t mask, uint32_t value, int error)
{
    emit(p, EQUAL, (uint32_t)nr, 0, 5);
    emit(p, LOAD, ARG(arg), 0, 0);
    emit(p, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
    emit(p, EQUAL, value, 0, 1);
    emit(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    emit(p, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error, 0, 0);
}

static int confine_calls(struct vl_error *err)
{
    struct program p = {.n = 0};
    emit(&p, LOAD, offsetof(struct seccomp_data, arch), 0, 0);
    emit(&p, EQUAL, ARCH, 1, 0);
    emit(&p, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
    emit(&p, LOAD, offsetof(struct seccomp_data, nr), 0, 0);
    /* Threads, not processes. clone3 hides its flags in memory; glibc falls back to clone at ENOSYS. */
    emit(&p, EQUAL, SYS_clone3, 0, 1);
    emit(&p, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS, 0, 0);
    emit_if_arg(&p, SYS_clone, 0, CLONE_THREAD, CLONE_THREAD, EPERM);
    /* Memory that is never executable. */
    emit_if_arg(&p, SYS_mmap, 2, PROT_EXEC, 0, EPERM);
    emit_if_arg(&p, SYS_mprotect, 2, PROT_EXEC, 0, EPERM);
    emit_if_arg(&p, SYS_prctl, 0, UINT32_MAX, PR_SET_NAME, EPERM);
    emit_if_arg(&p, SYS_socketpair, 0, UINT32_MAX, AF_UNIX, EPERM);
    /* fstat as glibc spells it, and reading a limit; both with a NULL or an empty path checked by the kernel
     */
    emit_if_arg(&p, SYS_newfstatat, 3, 0x1000 /* AT_EMPTY_PATH */, 0x1000, EPERM);
    emit_if_arg(&p, SYS_prlimit64, 2, UINT32_MAX, 0, EPERM);
    emit_if_arg(&p, SYS_ioctl, 1, UINT32_MAX, FIONREAD, ENOTTY);
    emit_if_arg(&p, SYS_tgkill, 0, UINT32_MAX, (uint32_t)getpid(), EPERM);
    for (size_t i = 0; i < sizeof(allowed) / sizeof(*allowed); i++) {
        emit(&p, EQUAL, (uint32_t)allowed[i], 0, 1);
        emit(&p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    }
    emit(&p, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM, 0, 0);
    struct sock_fprog prog = {.len = p.n, .filter = p.line};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog) != 0)
        return vl_error_set(err, -errno, "seccomp: %s", strerror(errno));
    return 0;
}

int vl_confine(struct vl_confinement *c, struct vl_error *err)
{
    int r = confine_process(c, err);
    if (r == 0)
        r = confine_paths(&c->landlock, err);
    if (r == 0)
        r = confine_calls(err);
    return r;
}

/* -------------------------------------------------------------------------------------------- the self-test
 */

static int n_allowed;

static void expect_failure(const char *what, long r)
{
    int error = errno;
    if (r >= 0)
        n_allowed++;
    (void)printf("%s %s%s%s\n", r < 0 ? "refused" : "ALLOWED", what, r < 0 ? ": " : "",
                 r < 0 ? strerror(error) : "");
}

static void try_paths(const char *by)
{
    char what[64];
    (void)snprintf(what, sizeof(what), "open /etc/passwd (%s)", by);
    expect_failure(what, open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    const uint64_t how[3] = {O_RDONLY | O_CLOEXEC, 0, 0};
    (void)snprintf(what, sizeof(what), "openat2 /etc/passwd (%s)", by);
    expect_failure(what, syscall(SYS_openat2, AT_FDCWD, "/etc/passwd", how, sizeof(how)));
    (void)snprintf(what, sizeof(what), "open / (%s)", by);
    expect_failure(what, open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    (void)snprintf(what, sizeof(what), "create /tmp/vlmd-escape (%s)", by);
    expect_failure(what, open("/tmp/vlmd-escape", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static void try_calls(void)
{
    expect_failure("socket AF_INET", socket(AF_INET, SOCK_STREAM, 0));
    expect_failure("socket AF_UNIX", socket(AF_UNIX, SOCK_STREAM, 0));
    expect_failure("socket AF_NETLINK", socket(AF_NETLINK, SOCK_RAW, 0));
    expect_failure("exec /bin/true", execve("/bin/true", (char *[]){"true", NULL}, (char *[]){NULL}));
    long child = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(0);
    expect_failure("fork", child);
    expect_failure("ptrace of the parent", ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
    expect_failure("signal to the parent", kill(getppid(), 0));
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect_failure("executable memory", map == MAP_FAILED ? -1 : 0);
    map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect_failure("memory made executable", mprotect(map, 4096, PROT_READ | PROT_EXEC));
    expect_failure("dumpable again", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
    struct rlimit l = {.rlim_cur = 1024, .rlim_max = 1024};
    expect_failure("a higher limit", setrlimit(RLIMIT_NOFILE, &l));
    expect_failure("64 descriptors", fcntl(0, F_DUPFD, 64));
}

int vl_confine_self_test(void)
{
    struct vl_error err = {0};
    struct vl_confinement c = {.memory_bytes = UINT64_C(768) << 20};
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    int r = confine_process(&c, &err);
    if (r == 0)
        r = confine_paths(&c.landlock, &err);
    if (r == 0 && c.landlock)
        try_paths("Landlock");
    if (r == 0)
        (void)printf("landlock %s\n", c.landlock ? "yes" : "no: this kernel has none");
    if (r == 0)
        r = confine_calls(&err);
    if (r < 0) {
        (void)fprintf(stderr, "%s\n", err.msg);
        return r;
    }
    try_paths("seccomp");
    try_calls();
    return n_allowed;
}
