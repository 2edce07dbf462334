/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * PNG by libpng: every colour type and depth to 8-bit RGB; palettes and grey are expanded, of 16 bits the
 * upper 8 stay, alpha and gamma are left out of account. The trap: libpng leaves by longjmp, so all that must
 * be given back is in struct reader.
 */
#include "pipelines/still.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

enum { SIGNATURE = 8, CHUNK_HEAD = 8, CHUNK_CRC = 4, IHDR_BYTES = 13 };
enum { MAX_CHUNK = 8 << 20 /* of what libpng itself keeps of a chunk */ };

/* --------------------------------------------------------------------------------------------- the header
 */

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int png_look(const uint8_t *p, size_t n, struct vl_still_header *ret, struct vl_error *err)
{
    size_t at = SIGNATURE;
    *ret = (struct vl_still_header){.n_scans = 1};
    if (n - at < CHUNK_HEAD + IHDR_BYTES)
        return VL_STILL_MORE;
    if (memcmp(p + at + 4, "IHDR", 4) != 0 || be32(p + at) != IHDR_BYTES)
        return vl_error_set(err, -EBADMSG, "this PNG does not begin with its header");
    ret->width = be32(p + at + CHUNK_HEAD);
    ret->height = be32(p + at + CHUNK_HEAD + 4);
    while (n - at >= CHUNK_HEAD) { /* on to what may say how the camera was held */
        size_t len = be32(p + at), left = n - at - CHUNK_HEAD;
        if (!memcmp(p + at + 4, "eXIf", 4) && len <= left)
            ret->orientation = vl_exif_orientation(p + at + CHUNK_HEAD, len);
        if (left < CHUNK_CRC || len > left - CHUNK_CRC)
            break;
        at += CHUNK_HEAD + len + CHUNK_CRC;
    }
    return 0;
}

/* --------------------------------------------------------------------------------------------- the decoder
 */

struct reader {
    png_structp png;
    png_infop info;
    const uint8_t *p;
    size_t n, at;
    uint8_t *rows;    /* a strip, or with interlacing the whole picture */
    uint32_t n_ready; /* of the strip, not yet put */
    int code;
    char message[96];
};

static void on_error(png_structp png, png_const_charp message)
{
    struct reader *r = png_get_error_ptr(png);
    (void)snprintf(r->message, sizeof(r->message), "%s", message);
    r->code = -EBADMSG;
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png, (void)message; /* about colour profiles and the like, none of which we use */
}

static void on_read(png_structp png, png_bytep to, size_t len)
{
    struct reader *r = png_get_io_ptr(png);
    if (len > r->n - r->at)
        png_error(png, "it ends too early");
    memcpy(to, r->p + r->at, len);
    r->at += len;
}

static void ask_for_rgb(struct reader *r)
{
    png_set_expand(r->png);
    png_set_strip_16(r->png);
    png_set_strip_alpha(r->png);
    png_set_gray_to_rgb(r->png);
}

static int start(struct reader *r, const struct vl_still_header *h, int *ret_passes, struct vl_error *err)
{
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, h->width, h->height);
    png_set_chunk_malloc_max(r->png, MAX_CHUNK);
    /* What says nothing about RGB is passed over unread: of some chunks libpng takes all the memory they
     * claim to need. -1: each that it knows, but not tRNS. */
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(r->png, r->info);
    ask_for_rgb(r);
    *ret_passes = png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    size_t row = (size_t)3 * h->width;
    if (png_get_rowbytes(r->png, r->info) != row)
        return vl_error_set(err, -ENOTSUP, "this PNG does not become RGB");
    r->rows = calloc(*ret_passes > 1 ? h->height : VL_PICTURE_STRIP, row);
    return r->rows ? 0 : vl_error_set(err, -ENOMEM, "no memory for %u x %u pixels", h->width, h->height);
}

static void read_interlaced(struct reader *r, int passes, struct vl_picture *out)
{
    size_t row = (size_t)3 * out->width;
    for (int pass = 0; pass < passes; pass++)
        for (uint32_t y = 0; y < out->height; y++)
            png_read_row(r->png, r->rows + y * row, NULL);
    vl_picture_put(out, r->rows, out->height);
}

static void put_ready(struct reader *r, struct vl_picture *out)
{
    if (r->n_ready) /* else there may be no picture either */
        vl_picture_put(out, r->rows, r->n_ready);
    r->n_ready = 0;
}

static void read_rows(struct reader *r, struct vl_picture *out)
{
    size_t row = (size_t)3 * out->width;
    while (out->n_rows < out->height) {
        uint32_t left = out->height - out->n_rows, n = left < VL_PICTURE_STRIP ? left : VL_PICTURE_STRIP;
        for (; r->n_ready < n; r->n_ready++)
            png_read_row(r->png, r->rows + r->n_ready * row, NULL);
        put_ready(r, out);
    }
}

static int decode(struct reader *r, const struct vl_still_header *h, struct vl_picture *out,
                  struct vl_error *err)
{
    int passes = 1;
    if (setjmp(png_jmpbuf(r->png)))
        return vl_error_set(err, r->code, "this PNG: %s", r->message);
    int e = start(r, h, &passes, err);
    if (e == 0)
        e = vl_picture_init(out, h->width, h->height, h->orientation, err);
    if (e == 0 && passes > 1)
        read_interlaced(r, passes, out);
    else if (e == 0)
        read_rows(r, out);
    return e;
}

static int png_read(const uint8_t *p, size_t n, const struct vl_still_header *h, uint32_t want_side,
                    struct vl_picture *out, uint32_t *ret_whole, struct vl_error *err)
{
    struct reader r = {.p = p, .n = n};
    (void)want_side; /* there is no cheaper way to a smaller one */
    int e = -ENOMEM;
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning);
    r.info = r.png ? png_create_info_struct(r.png) : NULL;
    if (r.info)
        e = decode(&r, h, out, err);
    else
        (void)vl_error_set(err, e, "no memory for a PNG decoder");
    put_ready(&r, out); /* what came before it broke off */
    *ret_whole = out->n_rows;
    if (r.png)
        png_destroy_read_struct(&r.png, &r.info, NULL);
    free(r.rows);
    return e;
}

const struct vl_still_format vl_still_png = {.name = "PNG",
                                             .magic = "\x89PNG\r\n\x1A\n",
                                             .n_magic = SIGNATURE,
                                             .library = "libpng",
                                             .look = png_look,
                                             .read = png_read};
