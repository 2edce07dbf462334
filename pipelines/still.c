/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * From a descriptor to a sealed picture: magic, header, limits, decoder, seal, in this order. The file is
 * copied into memory of ours first: whoever passed it can still write to it, and a header must not change
 * between the check and the decoder.
 */
#include "pipelines/still.h"

#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    HEAD_BYTES = 64 << 10, /* where nearly every file says its size */
    MAX_SCANS = 64         /* each costs a pass over all blocks, however few bytes it is made of */
};

#ifdef VL_HAVE_JPEG
extern const struct vl_still_format vl_still_jpeg;
#else
static const struct vl_still_format vl_still_jpeg = {
    .name = "JPEG", .magic = "\xFF\xD8\xFF", .n_magic = 3, .library = "libjpeg"};
#endif
#ifdef VL_HAVE_PNG
extern const struct vl_still_format vl_still_png;
#else
static const struct vl_still_format vl_still_png = {
    .name = "PNG", .magic = "\x89PNG\r\n\x1A\n", .n_magic = 8, .library = "libpng"};
#endif
#ifdef VL_HAVE_WEBP
extern const struct vl_still_format vl_still_webp;
#else
static const struct vl_still_format vl_still_webp = {
    .name = "WebP", .magic = "RIFF????WEBP", .n_magic = 12, .library = "libwebp"};
#endif

/* Those that are not read are here so that they are refused by name. */
#define NOT_READ(n, m)                                                                                       \
    {                                                                                                        \
        .name = (n), .magic = (m), .n_magic = sizeof(m) - 1                                                  \
    }
static const struct vl_still_format not_read[] = {
    NOT_READ("GIF", "GIF8"),           NOT_READ("BMP", "BM"),
    NOT_READ("TIFF", "II*\0"),         NOT_READ("TIFF", "MM\0*"),
    NOT_READ("HEIC", "????ftyphei"),   NOT_READ("HEIC", "????ftypmif1"),
    NOT_READ("AVIF", "????ftypavi"),   NOT_READ("JPEG XL", "\xFF\x0A"),
    NOT_READ("JPEG XL", "????JXL \r"), NOT_READ("JPEG 2000", "????jP  \r"),
    NOT_READ("PDF", "%PDF-"),
};

static const struct vl_still_format *const formats[] = {&vl_still_jpeg, &vl_still_png, &vl_still_webp};
enum { N_FORMATS = sizeof(formats) / sizeof(*formats), N_NOT_READ = sizeof(not_read) / sizeof(*not_read) };

static bool matches(const struct vl_still_format *f, const uint8_t *p, size_t n)
{
    if (n < f->n_magic)
        return false;
    for (size_t i = 0; i < f->n_magic; i++)
        if (f->magic[i] != '?' && (uint8_t)f->magic[i] != p[i])
            return false;
    return true;
}

const struct vl_still_format *vl_still_format_of(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (matches(formats[i], p, n))
            return formats[i];
    for (size_t i = 0; i < N_NOT_READ; i++)
        if (matches(&not_read[i], p, n))
            return &not_read[i];
    return NULL;
}

void vl_still_list(void)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (formats[i]->look)
            (void)printf("still\t%s\n", formats[i]->name);
}

/* Its row, if this build can read it. */
static int find(const uint8_t *p, size_t n, const struct vl_still_format **ret, struct vl_error *err)
{
    const struct vl_still_format *f = vl_still_format_of(p, n);
    if (!f)
        return vl_error_set(err, -ENOTSUP, "this is no JPEG, PNG or WebP picture");
    if (!f->look && f->library)
        return vl_error_set(err, -ENOTSUP, "a %s picture, and this build was made without %s", f->name,
                            f->library);
    if (!f->look)
        return vl_error_set(err, -ENOTSUP, "%s is not read; give it as JPEG, PNG or WebP", f->name);
    *ret = f;
    return 0;
}

static int check_header(const struct vl_still_format *f, const struct vl_still_header *h,
                        const struct vl_still_limits *max, struct vl_error *err)
{
    if (h->width == 0 || h->height == 0)
        return vl_error_set(err, -EBADMSG, "this %s is %u x %u pixels", f->name, h->width, h->height);
    if (h->width > max->max_side || h->height > max->max_side ||
        (uint64_t)h->width * h->height > max->max_pixels)
        return vl_error_set(err, -EMSGSIZE, "this %s is %u x %u pixels; at most %u a side and %llu in all",
                            f->name, h->width, h->height, max->max_side, (unsigned long long)max->max_pixels);
    if (h->n_scans > MAX_SCANS)
        return vl_error_set(err, -EMSGSIZE, "this %s is made of more than %d scans", f->name, MAX_SCANS);
    return 0;
}

/* What can be said before the rest of the file is read: 0 so far nothing against it. */
static int check_head(const uint8_t *p, size_t n, const struct vl_still_limits *max, struct vl_error *err)
{
    const struct vl_still_format *f = NULL;
    struct vl_still_header h = {0};
    int r = find(p, n, &f, err);
    if (r == 0 && (r = f->look(p, n, &h, err)) == 0)
        r = check_header(f, &h, max, err);
    return r == VL_STILL_MORE ? 0 : r;
}

/* A file that broke off or was damaged is used from its top down to there, when that is half of it or more:
 * less says too little of what it showed. */
static bool enough(const struct vl_picture *p, uint32_t whole)
{
    return p->pixels && whole > 0 && whole >= p->height / 2 + p->height % 2;
}

int vl_still_decode(const uint8_t *p, size_t n, const struct vl_still_limits *max,
                    struct vl_frame_packet *ret, int *ret_memfd, struct vl_error *err)
{
    const struct vl_still_format *f = NULL;
    struct vl_still_header h = {0};
    struct vl_picture picture = {0};
    uint32_t whole = 0;
    int r = find(p, n, &f, err);
    if (r < 0)
        return r;
    r = f->look(p, n, &h, err);
    if (r == VL_STILL_MORE)
        return vl_error_set(err, -EBADMSG, "this %s ends within its header", f->name);
    if (r < 0 || (r = check_header(f, &h, max, err)) < 0)
        return r;
    r = f->read(p, n, &h, max->want_side, &picture, &whole, err);
    if (r == -EBADMSG && enough(&picture, whole))
        r = 0;
    if (r == 0 && !enough(&picture, whole))
        r = vl_error_set(err, -EBADMSG, "this %s breaks off after %u of %u rows", f->name, whole,
                         picture.height);
    if (r == 0 && (r = vl_picture_seal(&picture, whole, ret, ret_memfd)) < 0)
        r = vl_error_set(err, r, "the picture could not be sealed: %s", strerror(-r));
    vl_picture_done(&picture);
    return r;
}

/* ----------------------------------------------------------------------------------------- the file's bytes
 */

struct bytes {
    uint8_t *data;
    size_t n, room;
};

static int grow(struct bytes *b, size_t most)
{
    size_t room = b->room ? b->room * 2 : HEAD_BYTES;
    if (room > most)
        room = most;
    uint8_t *data = realloc(b->data, room);
    if (!data)
        return -ENOMEM;
    b->data = data;
    b->room = room;
    return 0;
}

/* Some more bytes: how many, 0 at the end. A pipe that its owner made non-blocking is waited for. */
static ssize_t read_some(int fd, bool regular, struct bytes *b)
{
    for (;;) {
        ssize_t n = regular ? pread(fd, b->data + b->n, b->room - b->n, (off_t)b->n)
                            : read(fd, b->data + b->n, b->room - b->n);
        if (n >= 0)
            return n;
        if (errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            (void)poll(&p, 1, -1); /* a signal only makes it turn once more */
        } else if (errno != EINTR) {
            return -errno;
        }
    }
}

static int read_all(int fd, bool regular, const struct vl_still_limits *max, struct bytes *b,
                    struct vl_error *err)
{
    bool looked = false;
    for (;;) {
        /* One byte more than is allowed, to see that there is one. */
        if (b->n == b->room && grow(b, max->max_bytes + 1) < 0)
            return vl_error_set(err, -ENOMEM, "no memory for the file");
        ssize_t n = read_some(fd, regular, b);
        if (n < 0)
            return vl_error_set(err, -EIO, "the file cannot be read: %s", strerror((int)-n));
        b->n += (size_t)n;
        if (b->n > max->max_bytes)
            return vl_error_set(err, -EMSGSIZE, "the file holds more than %zu bytes", max->max_bytes);
        if (!looked && (n == 0 || b->n >= HEAD_BYTES)) {
            int r =
                b->n ? check_head(b->data, b->n, max, err) : vl_error_set(err, -EBADMSG, "the file is empty");
            if (r < 0)
                return r;
            looked = true;
        }
        if (n == 0)
            return 0;
    }
}

int vl_still_read(int fd, const struct vl_still_limits *max, struct vl_frame_packet *ret, int *ret_memfd,
                  struct vl_error *err)
{
    struct bytes b = {0};
    struct stat st;
    if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode)))
        return vl_error_set(err, -EINVAL, "neither a regular file nor a pipe");
    if (S_ISREG(st.st_mode) && st.st_size > 0 && (uint64_t)st.st_size > max->max_bytes)
        return vl_error_set(err, -EMSGSIZE, "the file holds more than %zu bytes", max->max_bytes);
    int r = read_all(fd, S_ISREG(st.st_mode), max, &b, err);
    if (r == 0)
        r = vl_still_decode(b.data, b.n, max, ret, ret_memfd, err);
    free(b.data);
    return r;
}
