/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Encoders for tests. What cannot be encoded ends the test: it is the test that is wrong. */
#include "tests/pictures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef VL_HAVE_JPEG
#include <jpeglib.h>
#endif
#ifdef VL_HAVE_PNG
#include <png.h>
#endif
#ifdef VL_HAVE_WEBP
#include <webp/encode.h>
#endif

enum { TIFF_BYTES = 26 };

static void *need(void *p)
{
    if (!p)
        abort();
    return p;
}

static void append(struct encoded *e, const void *p, size_t n)
{
    e->p = need(realloc(e->p, e->n + n));
    memcpy(e->p + e->n, p, n);
    e->n += n;
}

uint8_t *picture_draw(uint32_t width, uint32_t height)
{
    static const uint8_t corner[2][2][3] = {{{220, 40, 40}, {40, 200, 60}}, {{50, 60, 230}, {240, 230, 40}}};
    uint8_t *rgb = need(malloc((size_t)3 * width * height)), *to = rgb;
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) {
                double u = width > 1 ? (double)x / (width - 1) : 0,
                       v = height > 1 ? (double)y / (height - 1) : 0;
                *to++ = (uint8_t)((1 - v) * ((1 - u) * corner[0][0][c] + u * corner[0][1][c]) +
                                  v * ((1 - u) * corner[1][0][c] + u * corner[1][1][c]) + 0.5);
            }
    return rgb;
}

#if defined(VL_HAVE_JPEG) || defined(VL_HAVE_PNG) || defined(VL_HAVE_WEBP)
/* A TIFF block of one entry. */
static void tiff(uint8_t ret[TIFF_BYTES], unsigned orientation, bool big)
{
    static const uint8_t little_endian[TIFF_BYTES] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1},
                         big_endian[TIFF_BYTES] = {'M', 'M',  0,    42, 0, 0, 0, 8, 0,
                                                   1,   0x01, 0x12, 0,  3, 0, 0, 0, 1};
    memcpy(ret, big ? big_endian : little_endian, TIFF_BYTES);
    ret[big ? 19 : 18] = (uint8_t)orientation;
}
#endif

#ifdef VL_HAVE_JPEG
static void inks_of(const uint8_t *rgb, uint8_t *cmyk, uint32_t width)
{
    for (uint32_t x = 0; x < width; x++) { /* inverted, without black: the lights themselves */
        memcpy(cmyk + 4 * x, rgb + 3 * x, 3);
        cmyk[4 * x + 3] = 255;
    }
}

static void grey_of(const uint8_t *rgb, uint8_t *grey, uint32_t width)
{
    for (uint32_t x = 0; x < width; x++)
        grey[x] = rgb[3 * x + 1];
}

static void set_up(struct jpeg_compress_struct *c, uint32_t width, uint32_t height,
                   const struct jpeg_how *how)
{
    static const jpeg_scan_info separate[] = {
        {1, {0}, 0, 63, 0, 0}, {1, {1}, 0, 63, 0, 0}, {1, {2}, 0, 63, 0, 0}};
    unsigned n = how->n_components ? how->n_components : 3;
    c->image_width = width;
    c->image_height = height;
    c->input_components = (int)n;
    c->in_color_space = n == 1 ? JCS_GRAYSCALE : n == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_set_defaults(c);
    if (n == 4)
        jpeg_set_colorspace(c, JCS_YCCK);
    jpeg_set_quality(c, 95, TRUE);
    for (int i = 0; i < c->num_components && !how->halved; i++)
        c->comp_info[i].h_samp_factor = c->comp_info[i].v_samp_factor = 1;
    c->restart_in_rows = (int)how->restart_rows;
    if (how->progressive)
        jpeg_simple_progression(c);
    if (how->separate) {
        c->scan_info = separate;
        c->num_scans = 3;
    }
}

static void write_segments(struct jpeg_compress_struct *c, const struct jpeg_how *how)
{
    static const uint8_t pad[65000];
    uint8_t exif[6 + TIFF_BYTES] = "Exif\0";
    for (unsigned left = how->n_pad, n; left > 0; left -= n) {
        n = left < sizeof(pad) ? left : (unsigned)sizeof(pad);
        jpeg_write_marker(c, JPEG_APP0 + 5, pad, n);
    }
    tiff(exif + 6, how->orientation, how->big_endian);
    if (how->orientation)
        jpeg_write_marker(c, JPEG_APP0 + 1, exif, sizeof(exif));
}

struct encoded picture_jpeg(const uint8_t *rgb, uint32_t width, uint32_t height, const struct jpeg_how *how)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    struct encoded e = {0};
    unsigned long n = 0;
    uint8_t *row = need(malloc((size_t)4 * width));
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &e.p, &n);
    set_up(&c, width, height, how);
    jpeg_start_compress(&c, TRUE);
    write_segments(&c, how);
    for (uint32_t y = 0; y < height; y++) {
        const uint8_t *from = rgb + (size_t)3 * width * y;
        if (how->n_components == 4)
            inks_of(from, row, width);
        else if (how->n_components == 1)
            grey_of(from, row, width);
        else
            memcpy(row, from, (size_t)3 * width);
        (void)jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    free(row);
    e.n = n;
    return e;
}

struct encoded picture_jpeg_scans(struct encoded progressive, unsigned n)
{
    struct encoded e = {0};
    size_t last = 0;
    unsigned have = 0;
    for (size_t i = 0; i + 1 < progressive.n; i++)
        if (progressive.p[i] == 0xFF && progressive.p[i + 1] == 0xDA) {
            last = i;
            have++;
        }
    append(&e, progressive.p, progressive.n - 2);
    for (; have < n; have++)
        append(&e, progressive.p + last, progressive.n - 2 - last);
    append(&e, "\xFF\xD9", 2);
    return e;
}
#endif

#ifdef VL_HAVE_PNG
static void png_append(png_structp png, png_bytep p, size_t n)
{
    append(png_get_io_ptr(png), p, n);
}

struct encoded picture_png(const uint8_t *rows, size_t row_bytes, uint32_t width, uint32_t height,
                           const struct png_how *how)
{
    struct encoded e = {0};
    png_color palette[256];
    uint8_t exif[TIFF_BYTES], alpha[256] = {0};
    png_structp png = need(png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL));
    png_infop info = need(png_create_info_struct(png));
    for (int i = 0; i < 256; i++)
        palette[i] = (png_color){(png_byte)i, (png_byte)(255 - i), (png_byte)(i * 7)};
    png_set_write_fn(png, &e, png_append, NULL);
    png_set_IHDR(png, info, width, height, how->depth, how->color_type,
                 how->interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (how->color_type == PNG_COLOR_TYPE_PALETTE)
        png_set_PLTE(png, info, palette, 1 << how->depth);
    if (how->transparent)
        png_set_tRNS(png, info, alpha, 1 << how->depth > 256 ? 256 : 1 << how->depth, &(png_color_16){0});
    tiff(exif, how->orientation, true);
    if (how->orientation)
        png_set_eXIf_1(png, info, TIFF_BYTES, exif);
    png_write_info(png, info);
    png_bytep *at = need(calloc(height, sizeof(*at)));
    for (uint32_t y = 0; y < height; y++)
        at[y] = (png_bytep)(uintptr_t)(rows + y * row_bytes);
    png_write_image(png, at);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    free(at);
    return e;
}
#endif

#ifdef VL_HAVE_WEBP
static void put24(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 3; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void chunk(struct encoded *e, const char *name, const void *p, size_t n)
{
    uint8_t size[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};
    append(e, name, 4);
    append(e, size, 4);
    append(e, p, n);
    append(e, "", n % 2);
}

static void finish_riff(struct encoded *e)
{
    put24(e->p + 4, (uint32_t)(e->n - 8));
}

static void begin_extended(struct encoded *e, uint8_t flags, uint32_t width, uint32_t height)
{
    uint8_t body[10] = {flags};
    put24(body + 4, width - 1);
    put24(body + 7, height - 1);
    append(e, "RIFF\0\0\0\0WEBP", 12);
    chunk(e, "VP8X", body, sizeof(body));
}

struct encoded picture_webp(const uint8_t *rgb, uint32_t width, uint32_t height, unsigned channels,
                            bool lossless)
{
    struct encoded e = {0};
    uint8_t *p = NULL;
    int w = (int)width, h = (int)height, stride = (int)(channels * width);
    size_t n = channels == 4 ? (lossless ? WebPEncodeLosslessRGBA(rgb, w, h, stride, &p)
                                         : WebPEncodeRGBA(rgb, w, h, stride, 95, &p))
                             : (lossless ? WebPEncodeLosslessRGB(rgb, w, h, stride, &p)
                                         : WebPEncodeRGB(rgb, w, h, stride, 95, &p));
    append(&e, need(p), n);
    WebPFree(p);
    return e;
}

struct encoded picture_webp_turned(struct encoded plain, uint32_t width, uint32_t height,
                                   unsigned orientation)
{
    struct encoded e = {0};
    uint8_t exif[TIFF_BYTES];
    begin_extended(&e, 8, width, height);
    append(&e, plain.p + 12, plain.n - 12);
    tiff(exif, orientation, false);
    chunk(&e, "EXIF", exif, sizeof(exif));
    finish_riff(&e);
    return e;
}

struct encoded picture_webp_animated(struct encoded plain, uint32_t width, uint32_t height, uint32_t x,
                                     uint32_t y, uint32_t canvas_width, uint32_t canvas_height)
{
    struct encoded e = {0}, frame = {0};
    uint8_t head[16] = {0}, anim[6] = {0};
    put24(head, x / 2);
    put24(head + 3, y / 2);
    put24(head + 6, width - 1);
    put24(head + 9, height - 1);
    append(&frame, head, sizeof(head));
    append(&frame, plain.p + 12, plain.n - 12);
    begin_extended(&e, 2, canvas_width, canvas_height);
    chunk(&e, "ANIM", anim, sizeof(anim));
    chunk(&e, "ANMF", frame.p, frame.n);
    chunk(&e, "ANMF", frame.p, frame.n);
    finish_riff(&e);
    free(frame.p);
    return e;
}
#endif

/* ------------------------------------------------------------------------------------- sizes without pixels
 */

struct encoded picture_png_bomb(uint32_t width, uint32_t height)
{
    static const uint8_t head[] = "\x89PNG\r\n\x1A\n\0\0\0\rIHDR";
    struct encoded e = {0};
    uint8_t body[13 + 4] = {0};
    for (int i = 0; i < 4; i++) {
        body[i] = (uint8_t)(width >> (24 - 8 * i));
        body[4 + i] = (uint8_t)(height >> (24 - 8 * i));
    }
    body[8] = 8;
    body[9] = 2;
    append(&e, head, sizeof(head) - 1);
    append(&e, body, sizeof(body)); /* the checksum is wrong, which must not matter before the size does */
    append(&e, "\0\0\0\0IEND\xAE\x42\x60\x82", 12);
    return e;
}

struct encoded picture_jpeg_bomb(uint32_t width, uint32_t height)
{
    struct encoded e = {0};
    uint8_t sof[] = {0xFF, 0xD8, 0xFF, 0xC2, 0, 17, 8, 0, 0, 0, 0, 3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0};
    sof[7] = (uint8_t)(height >> 8);
    sof[8] = (uint8_t)height;
    sof[9] = (uint8_t)(width >> 8);
    sof[10] = (uint8_t)width;
    append(&e, sof, sizeof(sof));
    append(&e, "\xFF\xDA\0\x0C\3\1\0\2\0\3\0\0\0\0\xFF\xD9", 16);
    return e;
}

struct encoded picture_webp_bomb(uint32_t width, uint32_t height)
{
    struct encoded e = {0};
    uint8_t body[] = "RIFF\x1E\0\0\0WEBPVP8L\x12\0\0\0\x2F\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    uint32_t v = (width - 1) | (height - 1) << 14;
    for (int i = 0; i < 4; i++)
        body[21 + i] = (uint8_t)(v >> 8 * i);
    append(&e, body, sizeof(body));
    return e;
}
