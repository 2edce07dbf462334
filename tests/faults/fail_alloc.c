/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Preloaded into a program: the n-th allocation from now on fails, or all from there on; those of the program
 * itself, or its libraries' as well. Whoever tests it maps the same file, named by FAIL_ALLOC, and writes
 * into it at any time. Any thread; no lock. */
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct control {       /* as test_memory.py has it */
    atomic_llong left; /* allocations until one fails; < 0: none does */
    atomic_llong lasting, own, n_failed, n_calls;
};
static struct control *control;
static uintptr_t first, last; /* of the program's own code and data */

#define EXPORT __attribute__((visibility("default")))
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);

/* The first object is the program. */
static int find_program(struct dl_phdr_info *info, size_t size, void *user)
{
    (void)size, (void)user;
    first = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t at = info->dlpi_addr + p->p_vaddr;
        if (p->p_type != PT_LOAD)
            continue;
        first = at < first ? at : first;
        last = at + p->p_memsz > last ? at + p->p_memsz : last;
    }
    return 1;
}

__attribute__((constructor)) static void find_control(void)
{
    (void)dl_iterate_phdr(find_program, NULL); /* what find_program returns */
    const char *path = getenv("FAIL_ALLOC");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (p != MAP_FAILED)
        control = p;
}

static bool fails(const void *caller)
{
    const uintptr_t at = (uintptr_t)caller;
    if (!control || (atomic_load(&control->own) && (at < first || at >= last)))
        return false;
    atomic_fetch_add(&control->n_calls, 1);
    if (atomic_load(&control->left) < 0)
        return false;
    long long left = atomic_fetch_sub(&control->left, 1);
    if (left > 0)
        return false;
    if (left == 0 && atomic_load(&control->lasting))
        atomic_store(&control->left, 0);
    if (left < 0)
        return false;
    atomic_fetch_add(&control->n_failed, 1);
    errno = ENOMEM;
    return true;
}

EXPORT void *malloc(size_t n)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(n);
}

EXPORT void *calloc(size_t n, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

EXPORT void *realloc(void *p, size_t n)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n);
}

EXPORT void *memalign(size_t alignment, size_t n)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, n);
}

EXPORT void *aligned_alloc(size_t alignment, size_t n)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, n);
}

EXPORT int posix_memalign(void **ret, size_t alignment, size_t n)
{
    void *p = fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, n);
    if (!p)
        return ENOMEM;
    *ret = p;
    return 0;
}

EXPORT char *strdup(const char *s)
{
    if (fails(__builtin_return_address(0)))
        return NULL;
    size_t n = strlen(s) + 1;
    char *p = __libc_malloc(n);
    return p ? memcpy(p, s, n) : NULL;
}

EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || fails(__builtin_return_address(0)))
        return NULL;
    return __libc_realloc(p, bytes);
}
