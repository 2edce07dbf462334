/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Where each pixel of a picture goes. Turning costs no second picture: the place of pixel (x, y) of the file
 * is origin + x * step_x + y * step_y for all eight orientations. The trap: a writable mapping forbids the
 * seal against writing, so the mapping goes first.
 */
#include "pipelines/picture.h"

#include "base/clock.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

enum { PIXEL = 3 };

/* --------------------------------------------------------------------------------------------- orientation
 */

static uint32_t tiff_number(const uint8_t *p, unsigned n, bool big)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint32_t)p[i] << 8 * (big ? n - 1 - i : i);
    return v;
}

unsigned vl_exif_orientation(const uint8_t *tiff, size_t n)
{
    enum { ENTRY = 12, TAG = 0x0112, SHORT = 3 };
    if (n < 8 || (memcmp(tiff, "II*\0", 4) != 0 && memcmp(tiff, "MM\0*", 4) != 0))
        return 1;
    bool big = tiff[0] == 'M';
    uint32_t at = tiff_number(tiff + 4, 4, big);
    if (at > n - 2)
        return 1;
    size_t n_entries = tiff_number(tiff + at, 2, big), room = (n - 2 - at) / ENTRY;
    const uint8_t *e = tiff + at + 2;
    for (size_t i = 0; i < n_entries && i < room; i++, e += ENTRY)
        if (tiff_number(e, 2, big) == TAG && tiff_number(e + 2, 2, big) == SHORT) {
            uint32_t v = tiff_number(e + 8, 2, big);
            return v >= 1 && v <= 8 ? v : 1;
        }
    return 1;
}

/* Exif counts 1 as it is, 2 mirrored, 3 upside down, 4 both; 5 to 8 likewise with rows and columns changed
 * over. */
static bool swaps(const struct vl_picture *p)
{
    return p->orientation >= 5;
}

static bool from_right(const struct vl_picture *p)
{
    return p->orientation == 2 || p->orientation == 3 || p->orientation == 7 || p->orientation == 8;
}

static bool from_bottom(const struct vl_picture *p)
{
    return p->orientation == 3 || p->orientation == 4 || p->orientation == 6 || p->orientation == 7;
}

/* How far apart two pixels lie that are neighbours in a row, and in a column, of the file. */
static void steps(const struct vl_picture *p, ptrdiff_t *ret_x, ptrdiff_t *ret_y)
{
    ptrdiff_t stride = (ptrdiff_t)PIXEL * (swaps(p) ? p->height : p->width);
    ptrdiff_t x = swaps(p) ? stride : PIXEL, y = swaps(p) ? PIXEL : stride;
    *ret_x = from_right(p) ? -x : x;
    *ret_y = from_bottom(p) ? -y : y;
}

/* Where the first pixel of n_rows rows of the file that begin with its first row has its place, seen from the
 * first byte of where they all are. */
static ptrdiff_t origin(const struct vl_picture *p, uint32_t n_rows)
{
    ptrdiff_t x, y;
    steps(p, &x, &y);
    return (x < 0 ? -x * (ptrdiff_t)(p->width - 1) : 0) + (y < 0 ? -y * (ptrdiff_t)(n_rows - 1) : 0);
}

/* -------------------------------------------------------------------------------------------- life of one
 */

int vl_picture_init(struct vl_picture *p, uint32_t width, uint32_t height, unsigned orientation,
                    struct vl_error *err)
{
    struct vl_picture made = {.width = width,
                              .height = height,
                              .orientation = orientation <= 8 ? orientation : 1,
                              .bytes = (size_t)PIXEL * width * height};
    vl_autofd memfd = memfd_create("vlmd-still", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    /* Its pages are there from the beginning: memory that is short is an error here and no signal later. */
    if (memfd < 0 || fallocate(memfd, 0, 0, (off_t)made.bytes) < 0)
        return vl_error_set(err, -ENOMEM, "no memory for %u x %u pixels", width, height);
    made.pixels = mmap(NULL, made.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (made.pixels == MAP_FAILED)
        return vl_error_set(err, -ENOMEM, "no memory for %u x %u pixels", width, height);
    made.memfd = vl_steal_fd(&memfd);
    *p = made;
    return 0;
}

/* A strip so low that its columns, where they become rows, are written while they are in the cache. */
static void put_strip(const struct vl_picture *p, uint8_t *to, const uint8_t *rows, uint32_t n)
{
    ptrdiff_t step_x, step_y;
    const size_t row = (size_t)PIXEL * p->width;
    steps(p, &step_x, &step_y);
    for (uint32_t x = 0; x < p->width; x++) {
        uint8_t *at = to + (ptrdiff_t)x * step_x;
        const uint8_t *from = rows + (size_t)PIXEL * x;
        for (uint32_t y = 0; y < n; y++, at += step_y, from += row)
            memcpy(at, from, PIXEL);
    }
}

void vl_picture_put(struct vl_picture *p, const uint8_t *rows, uint32_t n)
{
    ptrdiff_t step_x, step_y;
    const size_t row = (size_t)PIXEL * p->width;
    steps(p, &step_x, &step_y);
    uint8_t *to = p->pixels + origin(p, p->height) + (ptrdiff_t)p->n_rows * step_y;
    p->n_rows += n;
    for (uint32_t m; n > 0; n -= m, rows += m * row, to += (ptrdiff_t)m * step_y) {
        m = step_x == PIXEL ? 1 : n < VL_PICTURE_STRIP ? n : VL_PICTURE_STRIP;
        if (step_x == PIXEL)
            memcpy(to, rows, row);
        else
            put_strip(p, to, rows, m);
    }
}

int vl_picture_seal(struct vl_picture *p, uint32_t n_rows, struct vl_frame_packet *ret, int *ret_memfd)
{
    (void)munmap(p->pixels, p->bytes); /* ours since init */
    p->pixels = NULL;
    if (fcntl(p->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return -errno;
    ptrdiff_t offset = origin(p, p->height) - origin(p, n_rows);
    *ret = (struct vl_frame_packet){
        .format = VL_PIXFMT_RGB24,
        .matrix = VL_MATRIX_RGB,
        .range = VL_RANGE_FULL,
        .flags = n_rows < p->height ? VL_FRAME_CORRUPT : 0,
        .width = swaps(p) ? n_rows : p->width,
        .height = swaps(p) ? p->width : n_rows,
        .stride = {PIXEL * (swaps(p) ? p->height : p->width)},
        .offset = {(uint64_t)offset},
        .size = p->bytes,
        .wall_ns = vl_clock_wall_ns(),
    };
    *ret_memfd = vl_steal_fd(&p->memfd);
    return 0;
}

void vl_picture_done(struct vl_picture *p)
{
    if (p->bytes == 0)
        return;
    if (p->pixels)
        (void)munmap(p->pixels, p->bytes);
    vl_closep(&p->memfd);
    *p = (struct vl_picture){.memfd = -1};
}
