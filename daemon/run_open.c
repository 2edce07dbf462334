/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Names on the command line of `vlmd run`: which are videos, which pictures, and what to say of those that
 * are neither. Twelve bytes are looked at, and compared; reading is the ingest child's.
 */
#include "daemon/run_args.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

enum { MAGIC_BYTES = 12 };
struct magic {
    const char *bytes;
    size_t offset, n;
};
static const struct magic pictures[] = {
    {"\xff\xd8\xff", 0, 3},      /* JPEG */
    {"\x89PNG\r\n\x1a\n", 0, 8}, /* PNG */
    {"WEBP", 8, 4},              /* in RIFF, as AVI is */
};
static const struct magic gguf = {"GGUF", 0, 4};

static bool begins_with(const char *head, size_t n, const struct magic *m)
{
    return n >= m->offset + m->n && !memcmp(head + m->offset, m->bytes, m->n);
}

static int classify(const char *name, int fd, enum vl_run_kind *ret, struct vl_error *err)
{
    char head[MAGIC_BYTES];
    ssize_t n = pread(fd, head, sizeof(head), 0);
    if (n < 0)
        return vl_error_set(err, -errno, "%s: %s", name, strerror(errno));
    if (begins_with(head, (size_t)n, &gguf))
        return vl_error_set(err, -EINVAL, "%s is a model, nothing to look at; give it as --model or --mmproj",
                            name);
    *ret = VL_RUN_STREAM;
    for (size_t i = 0; i < sizeof(pictures) / sizeof(*pictures); i++)
        if (begins_with(head, (size_t)n, &pictures[i]))
            *ret = VL_RUN_IMAGE;
    return 0;
}

/* "rtsp://cam" and the like: a word, a colon, two slashes. */
static bool is_address(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
    return n > 0 && !strncmp(name + n, "://", 3);
}

static int check_node(const char *name, const struct stat *st, struct vl_error *err)
{
    if (S_ISDIR(st->st_mode))
        return vl_error_set(err, -EISDIR, "%s is a folder; name one video, or pictures", name);
    if (S_ISCHR(st->st_mode))
        return vl_error_set(err, -ENOTSUP,
                            "%s is a device; cameras are not read yet: record a file and name that", name);
    if (!S_ISREG(st->st_mode))
        return vl_error_set(err, -ENOTSUP, "%s is not a regular file; a picture can come by '-'", name);
    if (st->st_size == 0)
        return vl_error_set(err, -EINVAL, "%s is empty", name);
    return 0;
}

int vl_run_open(const char *name, enum vl_run_kind *ret_kind, int *ret_fd, struct vl_error *err)
{
    struct stat st;
    if (!strcmp(name, "-")) {
        if (isatty(STDIN_FILENO))
            return vl_error_set(err, -EINVAL,
                                "-: standard input is a terminal; give it a picture: < photo.jpg");
        *ret_kind = VL_RUN_IMAGE;
        *ret_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        return *ret_fd < 0 ? vl_error_set(err, -errno, "standard input: %s", strerror(errno)) : 0;
    }
    if (!strncmp(name, "test:", 5)) {
        *ret_kind = VL_RUN_STREAM;
        *ret_fd = -1;
        return 0;
    }
    if (is_address(name))
        return vl_error_set(err, -ENOTSUP,
                            "%s: nothing is fetched from the network yet; name a file or a test: URI", name);
    vl_autofd fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && errno == EACCES)
        return vl_error_set(err, -errno, "%s: no permission to read it (ls -l shows whose it is)", name);
    if (fd < 0)
        return vl_error_set(err, -errno, "%s: %s", name, strerror(errno));
    if (fstat(fd, &st) < 0)
        return vl_error_set(err, -errno, "%s: %s", name, strerror(errno));
    int r = check_node(name, &st, err);
    if (r < 0 || (r = classify(name, fd, ret_kind, err)) < 0)
        return r;
    *ret_fd = vl_steal_fd(&fd);
    return 0;
}
