/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Runs every file of the folders given as arguments through a fuzz target, cut at many lengths, too: a corpus
 * keeps its worth in builds without an engine. With "oom" as first argument each file is run again and again
 * with the first, the second, ... allocation failing. Linked with --wrap for the allocator. */
#include "tests/failing_malloc.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIZE = 1 << 16, MAX_ALLOCATIONS = 5000 };

/* --- allocations that fail --- */

static long left = -1; /* allocations until one fails; < 0: none does */
static bool failed;
static unsigned long n_failed;

bool test_allocation_fails(void)
{
    if (left < 0 || left-- > 0)
        return false;
    failed = true;
    n_failed++;
    return true;
}

/* --- replay --- */

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    (void)data;
    (void)max_size;
    return size;
}

/* In a buffer of exactly its size, so that a sanitizer sees one byte too many. */
static bool run(const uint8_t *data, size_t n, long fail_at)
{
    uint8_t *exact = __real_malloc(n ? n : 1);
    if (!exact)
        return false;
    memcpy(exact, data, n);
    left = fail_at;
    failed = false;
    (void)LLVMFuzzerTestOneInput(exact, n); /* always 0 */
    left = -1;
    free(exact);
    return failed;
}

static void run_file(const uint8_t *data, size_t n, bool oom)
{
    for (size_t cut = n % 8; cut <= n; cut += 8)
        (void)run(data, cut, -1);
    for (long i = 0; oom && i < MAX_ALLOCATIONS; i++)
        if (!run(data, n, i))
            break;
}

static int replay(const char *dir, const char *name, bool oom)
{
    static uint8_t data[MAX_SIZE];
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    if (!f) {
        perror(path);
        return -1;
    }
    size_t n = fread(data, 1, sizeof(data), f);
    (void)fclose(f);
    run_file(data, n, oom);
    return 0;
}

static int replay_folder(const char *dir, bool oom, int *inout_bad)
{
    struct dirent **entry = NULL;
    int n = 0, n_entries = scandir(dir, &entry, NULL, alphasort);
    for (int i = 0; i < n_entries; i++) {
        if (entry[i]->d_name[0] != '.') {
            *inout_bad += replay(dir, entry[i]->d_name, oom) < 0;
            n++;
        }
        free(entry[i]);
    }
    free(entry);
    return n;
}

int main(int argc, char **argv)
{
    bool oom = argc > 1 && strcmp(argv[1], "oom") == 0;
    int n = 0, bad = 0;
    for (int i = 1 + oom; i < argc; i++) { /* once without failures, so that what a target keeps is made */
        n += replay_folder(argv[i], false, &bad);
        if (oom)
            (void)replay_folder(argv[i], true, &bad);
    }
    (void)printf("%d files replayed, %d unreadable, %lu allocations failed\n", n, bad, n_failed);
    return n == 0 || bad || (oom && n_failed == 0);
}
