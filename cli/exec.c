/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The verbs that vlmd itself does, as another program in our place. */
#include "cli/exec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PATH = 4096 };

/* Beside our own program; a build that is not installed has it in daemon/. */
static bool find_beside(char *path, size_t size)
{
    static const char *const beside[] = {"vlmd", "../daemon/vlmd"};
    char self[MAX_PATH];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    for (size_t i = 0; slash && i < 2; i++) {
        int k = snprintf(path, size, "%.*s/%s", (int)(slash - self), self, beside[i]);
        if (k > 0 && (size_t)k < size && access(path, X_OK) == 0)
            return true;
    }
    return false;
}

static void exec_vlmd(char **argv)
{
    const char *given = getenv("VLMD");
    char path[2 * MAX_PATH];
    if (given && *given)
        (void)execv(given, argv);
    else if (find_beside(path, sizeof(path)))
        (void)execv(path, argv);
    else
        (void)execvp("vlmd", argv);
}

int vl_ctl_exec_vlmd(const struct vl_ctl *c, const char *word, int argc, char **argv)
{
    char **args = calloc((size_t)argc + 4, sizeof(*args));
    int n = 0;
    if (!args)
        return vl_ctl_failed(c, word, NULL, -ENOMEM);
    args[n++] = (char *)"vlmd";
    args[n++] = (char *)word;
    if (c->json)
        args[n++] = (char *)"--json";
    if (c->which == VL_BUS_SYSTEM)
        args[n++] = (char *)"--system";
    for (int i = 1; i < argc; i++)
        args[n++] = argv[i];
    exec_vlmd(args);
    (void)fprintf(stderr,
                  "vlmctl: cannot start vlmd: %s; it is looked for in $VLMD, beside vlmctl, and in PATH\n",
                  strerror(errno));
    free(args);
    return VL_EXIT_FAILED;
}
