/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Every ukernel of every instruction set that this CPU grants against the C reference, after dav1d's
 * checkasm. One loop over the levels tests exactly the pointers that a level changed. Inputs and outputs end,
 * then begin, flush at pages that cannot be touched; lengths are awkward; values are even, zero, tiny, large
 * and of alternating size; the bound of a sum is scaled by its terms' magnitudes.
 *
 *   checkkernel [--only NAME] [--bench]     seed by VLMD_TEST_SEED
 */
#include "tests/checkkernel/checkkernel.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MAX_GUARDS = 64, SENTINEL = 0x5B };

const size_t check_lengths[15] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257};
struct test_rng check_rng;

static struct {
    void *map;
    size_t size;
} guards[MAX_GUARDS];
static size_t n_guards;
static uint64_t seed;
static unsigned n_failed, n_run;
static const struct check *current; /* for the signal handler */
static const char *current_level;

void *guard_alloc(size_t size, enum guard_side side)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (size + page - 1) / page * page;
    if (n_guards == MAX_GUARDS)
        abort();
    char *map = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || (inner && mprotect(map + page, inner, PROT_READ | PROT_WRITE) < 0))
        abort();
    guards[n_guards].map = map;
    guards[n_guards++].size = inner + 2 * page;
    (void)madvise(map + page, inner, MADV_HUGEPAGE); /* as the backend's memory is; for the benchmark */
    memset(map + page, SENTINEL, inner);
    return side == GUARD_BEHIND ? map + page + inner - size : map + page;
}

void guard_reset(void)
{
    while (n_guards > 0) {
        n_guards--;
        (void)munmap(guards[n_guards].map, guards[n_guards].size);
    }
}

void fill_floats(float *v, size_t n, enum kind kind, float large)
{
    for (size_t i = 0; i < n; i++) {
        float r = test_randf(&check_rng);
        switch (kind) {
        case KIND_ZERO:
            v[i] = 0;
            break;
        case KIND_TINY:
            v[i] = r * 1e-30f;
            break;
        case KIND_LARGE:
            v[i] = r * large;
            break;
        case KIND_ALTERNATING:
            v[i] = i % 2 ? r * 1e-3f : r * 1e3f;
            break;
        default:
            v[i] = r * 2;
            break;
        }
    }
}

float *guard_floats(size_t n, enum guard_side side, enum kind kind, float large)
{
    float *v = guard_alloc(n * sizeof(*v), side);
    fill_floats(v, n, kind, large);
    return v;
}

static void report(const struct check *c, size_t index, double got, double want, double bound)
{
    if (n_failed++ < 20)
        (void)printf("FAIL %s (%s): element %zu is %.9g, the C reference has %.9g, bound %.3g\n"
                     "     replay: VLMD_TEST_SEED=%llu checkkernel --only %s\n",
                     c->name, current_level, index, got, want, bound, (unsigned long long)seed, c->name);
}

void expect_near(const struct check *c, size_t index, double got, double want, double bound)
{
    if (got == want || (isnan(got) && isnan(want)))
        return;
    if (!(fabs(got - want) <= bound))
        report(c, index, got, want, bound);
}

void expect_same(const struct check *c, const void *got, const void *want, size_t n)
{
    const unsigned char *g = got, *w = want;
    for (size_t i = 0; i < n; i++)
        if (g[i] != w[i]) {
            report(c, i, g[i], w[i], 0);
            return;
        }
}

/* This thread's own time: other load on the machine does not count. */
static double thread_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

void measure(const char *name, const char *level, void (*run)(void *), void *arg, double units,
             const char *unit)
{
    uint64_t n = 1;
    double best = INFINITY;
    for (int round = 0; round < 7;) {
        double start = thread_ns();
        for (uint64_t i = 0; i < n; i++)
            run(arg);
        double ns = thread_ns() - start;
        if (ns < 3e7 && round == 0) {
            n *= 2;
            continue;
        }
        best = fmin(best, ns / (double)n);
        round++;
    }
    (void)printf("%-24s %-6s %14.0f ns %10.2f %s\n", name, level, best, units / best, unit);
}

static void on_fault(int sig)
{
    char msg[256];
    int n = snprintf(msg, sizeof(msg),
                     "FAIL %s (%s): signal %d, it touches memory it was not given\n"
                     "     replay: VLMD_TEST_SEED=%llu checkkernel --only %s\n",
                     current ? current->name : "?", current_level, sig, (unsigned long long)seed,
                     current ? current->name : "?");
    if (write(STDOUT_FILENO, msg, (size_t)n) < 0)
        _exit(2);
    _exit(1);
}

struct run {
    const char *only;
    bool bench;
    const char *level;
    const struct vl_ukernels *k, *below, *ref; /* below: of the level under it, NULL for C */
};

static void run_checks(const struct check *c, const struct run *r)
{
    for (; c->name[0]; c++) {
        any_fn fn = c->pick(r->k, c->which);
        if ((r->only && strcmp(r->only, c->name) != 0) || !fn ||
            (r->below && fn == c->pick(r->below, c->which)))
            continue;
        current = c;
        current_level = r->level;
        if (r->bench) {
            c->bench(c, r->k, r->level);
            continue;
        }
        check_rng = (struct test_rng){seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
        c->test(c, r->k, r->ref);
        guard_reset();
        n_run++;
    }
}

int main(int argc, char **argv)
{
    struct run r = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0) {
            r.bench = true;
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            r.only = argv[++i];
        } else {
            (void)fprintf(stderr, "usage: checkkernel [--only NAME] [--bench]\n");
            return 2;
        }
    }
    const char *env = getenv("VLMD_TEST_SEED");
    seed = env ? strtoull(env, NULL, 0) : 1;
    (void)printf("checkkernel: VLMD_TEST_SEED=%llu\n", (unsigned long long)seed);
    (void)signal(SIGSEGV, on_fault);
    (void)signal(SIGBUS, on_fault);
    static struct vl_ukernels ref, table[2];
    vl_ukernels_init(&ref, 0);
    unsigned have = vl_isa_detect();
    for (const struct vl_isa_level *l = vl_isa_levels; l->name; l++) {
        if ((l->isa & have) != l->isa) {
            (void)printf("skipped %s: this CPU does not grant it\n", l->name);
            continue;
        }
        size_t i = (size_t)(l - vl_isa_levels) % 2;
        vl_ukernels_init(&table[i], l->isa);
        r.level = l->name;
        r.k = &table[i];
        r.ref = &ref;
        run_checks(rows_checks, &r);
        run_checks(matmul_checks(), &r);
        run_checks(attn_checks, &r);
        r.below = &table[i];
    }
    if (!r.bench)
        (void)printf("%u ukernels, %u failures\n", n_run, n_failed);
    return n_failed > 0 || (!r.bench && n_run == 0);
}
