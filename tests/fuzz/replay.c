/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Runs every file of the folders given as arguments through a fuzz target, cut at every length, too: a corpus
 * keeps its worth in builds without an engine. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIZE = 1 << 16 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    (void)data;
    (void)max_size;
    return size;
}

/* In a buffer of exactly its size, so that a sanitizer sees one byte too many. */
static void run(const uint8_t *data, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        return;
    memcpy(exact, data, n);
    (void)LLVMFuzzerTestOneInput(exact, n); /* always 0 */
    free(exact);
}

static int replay(const char *dir, const char *name)
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
    for (size_t cut = n % 8; cut <= n; cut += 8)
        run(data, cut);
    return 0;
}

int main(int argc, char **argv)
{
    int n = 0, bad = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **entry = NULL;
        int n_entries = scandir(argv[i], &entry, NULL, alphasort);
        for (int j = 0; j < n_entries; j++) {
            if (entry[j]->d_name[0] != '.') {
                bad += replay(argv[i], entry[j]->d_name) < 0;
                n++;
            }
            free(entry[j]);
        }
        free(entry);
    }
    (void)printf("%d files replayed, %d unreadable\n", n, bad);
    return n == 0 || bad;
}
