/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * How much memory there is for us. Read once at start: a limit that followed the free memory of the moment
 * would make the same configuration work on one day and not on the next.
 */
#include "daemon/memory.h"

#include "base/cleanup.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MAX_PATH = 4096 };

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t physical(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : UINT64_MAX;
}

static bool read_line(const char *path, char *line, int size)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(line, size, f);
    if (f)
        (void)fclose(f); /* nothing was written */
    if (ok)
        line[strcspn(line, "\n")] = '\0';
    return ok;
}

/* "max", or bytes. */
static uint64_t limit_of(const char *root, const char *group)
{
    char path[2 * MAX_PATH + 16], line[64];
    uint64_t n;
    (void)snprintf(path, sizeof(path), "%s%s/memory.max", root, group);
    return read_line(path, line, sizeof(line)) && sscanf(line, "%" SCNu64, &n) == 1 ? n : UINT64_MAX;
}

uint64_t vl_memory_limit(const char *proc_cgroup, const char *root)
{
    char line[MAX_PATH], *group = line + strlen("0::"), *slash;
    uint64_t limit = physical();
    if (!read_line(proc_cgroup, line, sizeof(line)) || strncmp(line, "0::/", 4) != 0)
        return limit; /* groups of version 1, or none */
    for (; (slash = strrchr(group, '/')); *slash = '\0')
        limit = smaller(limit, limit_of(root, group));
    return smaller(limit, limit_of(root, "")); /* what the root of a container allows */
}

uint64_t vl_memory_default_budget(void)
{
    uint64_t limit = vl_memory_limit("/proc/self/cgroup", "/sys/fs/cgroup");
    return limit == UINT64_MAX ? 0 : limit / 5 * 4;
}
