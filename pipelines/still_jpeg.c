/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * JPEG by libjpeg-turbo: baseline, progressive and arithmetic, grey, YCbCr, RGB, CMYK and YCCK. CMYK is taken
 * as Adobe writes it, inverted, which is what cameras' and editors' files are. The traps: libjpeg leaves by
 * longjmp, so all that must be given back is in struct reader; and its warnings are how a file that broke off
 * shows.
 */
#include "pipelines/still.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

enum {
    MAX_SCANS = 1000 /* the header's check has a lower one; this is for what slips by */
};
enum {
    M_SOF0 = 0xC0,
    M_DHT = 0xC4,
    M_JPG = 0xC8,
    M_DAC = 0xCC,
    M_SOF15 = 0xCF,
    M_RST0 = 0xD0,
    M_RST7 = 0xD7
};
enum { M_SOI = 0xD8, M_EOI = 0xD9, M_SOS = 0xDA, M_APP1 = 0xE1, M_TEM = 0x01 };

/* --------------------------------------------------------------------------------------------- the header
 */

static unsigned be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static bool is_sof(unsigned m)
{
    return m >= M_SOF0 && m <= M_SOF15 && m != M_DHT && m != M_JPG && m != M_DAC;
}

static bool stands_alone(unsigned m)
{
    return m == 0 || m == M_TEM || m == M_SOI || (m >= M_RST0 && m <= M_RST7);
}

/* The next marker from *at on, over entropy-coded bytes and whatever else is no marker; -1: none. */
static int next_marker(const uint8_t *p, size_t n, size_t *at)
{
    while (*at < n) {
        const uint8_t *ff = memchr(p + *at, 0xFF, n - *at);
        if (!ff)
            return -1;
        *at = (size_t)(ff - p);
        while (*at < n && p[*at] == 0xFF)
            ++*at;
        if (*at < n && !stands_alone(p[(*at)++]))
            return p[*at - 1];
    }
    return -1;
}

struct marks {
    struct vl_still_header header;
    unsigned n_components;
    unsigned n_begun; /* components that have had the scan all others only refine */
    bool sized;
};

static void look_at_scan(const uint8_t *body, size_t len, struct marks *k)
{
    size_t n = len ? body[0] : 0;
    k->header.n_scans++;
    if (len >= 4 + 2 * n && body[1 + 2 * n] == 0 && body[3 + 2 * n] >> 4 == 0)
        k->n_begun += (unsigned)n;
}

static void look_at_segment(unsigned marker, const uint8_t *body, size_t len, struct marks *k)
{
    struct vl_still_header *h = &k->header;
    if (is_sof(marker) && len >= 6 && !k->sized) {
        h->height = be16(body + 1);
        h->width = be16(body + 3);
        k->n_components = body[5];
        k->sized = true;
    } else if (marker == M_APP1 && len > 6 && !memcmp(body, "Exif\0", 6) && h->orientation == 0) {
        h->orientation = vl_exif_orientation(body + 6, len - 6);
    } else if (marker == M_SOS) {
        look_at_scan(body, len, k);
    }
}

static int look(const uint8_t *p, size_t n, struct marks *ret, struct vl_error *err)
{
    size_t at = 2;
    *ret = (struct marks){0};
    for (int m; (m = next_marker(p, n, &at)) >= 0 && m != M_EOI;) {
        size_t len = n - at >= 2 ? be16(p + at) : 0;
        if (n - at < 2 || len > n - at)
            break;
        if (len < 2)
            return vl_error_set(err, -EBADMSG, "this JPEG has a segment of %zu bytes at %zu", len, at);
        look_at_segment((unsigned)m, p + at + 2, len - 2, ret);
        at += len;
    }
    return ret->sized ? 0 : VL_STILL_MORE;
}

static int jpeg_look(const uint8_t *p, size_t n, struct vl_still_header *ret, struct vl_error *err)
{
    struct marks k;
    int r = look(p, n, &k, err);
    *ret = k.header;
    return r;
}

/* --------------------------------------------------------------------------------------------- the decoder
 */

struct reader {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    uint8_t *strip;
    uint32_t whole; /* rows before the first damage; UINT32_MAX: none seen */
    int code;       /* of a failure */
    char message[JMSG_LENGTH_MAX];
};

static int code_of(int msg)
{
    switch (msg) {
    case JERR_OUT_OF_MEMORY:
        return -ENOMEM;
    case JERR_CONVERSION_NOTIMPL:
    case JERR_SOF_UNSUPPORTED:
    case JERR_BAD_PRECISION:
    case JERR_ARITH_NOTIMPL:
    case JERR_CCIR601_NOTIMPL:
    case JERR_FRACT_SAMPLE_NOTIMPL:
    case JERR_NOTIMPL:
    case JERR_NOT_COMPILED:
        return -ENOTSUP;
    default:
        return -EBADMSG;
    }
}

static void on_error(j_common_ptr c)
{
    struct reader *r = (struct reader *)c;
    r->code = code_of(c->err->msg_code);
    c->err->format_message(c, r->message);
    longjmp(r->jump, 1);
}

/* Only what says that pixels are not what they were. Of several scans a later one merely refines. */
static void on_message(j_common_ptr c, int level)
{
    struct reader *r = (struct reader *)c;
    if (level >= 0 || r->whole != UINT32_MAX)
        return;
    int msg = c->err->msg_code;
    if (msg != JWRN_HIT_MARKER && msg != JWRN_HUFF_BAD_CODE && msg != JWRN_ARITH_BAD_CODE &&
        msg != JWRN_MUST_RESYNC)
        return;
    if (!r->c.progressive_mode && r->c.comps_in_scan == r->c.num_components)
        r->whole = r->c.input_iMCU_row * (uint32_t)(r->c.max_v_samp_factor * DCTSIZE) / r->c.scale_denom;
    else if (r->c.Ss == 0 && r->c.Ah == 0)
        r->whole = 0;
}

static void on_progress(j_common_ptr c)
{
    struct reader *r = (struct reader *)c;
    if (r->c.input_scan_number <= MAX_SCANS)
        return;
    r->code = -EMSGSIZE;
    (void)snprintf(r->message, sizeof(r->message), "more than %d scans", MAX_SCANS);
    longjmp(r->jump, 1);
}

static unsigned denominator(const struct vl_still_header *h, uint32_t want_side)
{
    uint32_t longest = h->width > h->height ? h->width : h->height;
    unsigned d = 8;
    while (d > 1 && (want_side == 0 || (longest + d - 1) / d < want_side))
        d /= 2;
    return d;
}

static uint8_t blend(unsigned ink, unsigned paper)
{
    unsigned v = ink * paper + 128;
    return (uint8_t)(((v >> 8) + v) >> 8);
}

/* In place, from four inverted inks to three lights: a light passes its own ink and the black. */
static void inks_to_light(uint8_t *row, uint32_t width)
{
    for (uint32_t x = 0; x < width; x++) {
        unsigned paper = row[4 * x + 3];
        for (unsigned i = 0; i < 3; i++)
            row[3 * x + i] = (uint8_t)(paper - blend(255u - row[4 * x + i], paper));
    }
}

/* Up to a strip of rows, one behind the other. */
static uint32_t read_strip(struct reader *r)
{
    uint32_t n = 0;
    while (n < VL_PICTURE_STRIP && r->c.output_scanline < r->c.output_height) {
        JSAMPROW row = r->strip + (size_t)3 * n * r->c.output_width;
        if (jpeg_read_scanlines(&r->c, &row, 1) != 1)
            break; /* memory is no source that suspends */
        if (r->c.out_color_space == JCS_CMYK)
            inks_to_light(row, r->c.output_width);
        n++;
    }
    return n;
}

static int start(struct reader *r, const uint8_t *p, size_t n, const struct vl_still_header *h,
                 uint32_t want_side, struct vl_error *err)
{
    jpeg_create_decompress(&r->c);
    r->c.progress = &r->progress;
    jpeg_mem_src(&r->c, p, n);
    (void)jpeg_read_header(&r->c, TRUE); /* with TRUE it answers or leaves */
    if (r->c.image_width != h->width || r->c.image_height != h->height)
        return vl_error_set(err, -EBADMSG, "this JPEG says two different sizes");
    bool inks = r->c.jpeg_color_space == JCS_CMYK || r->c.jpeg_color_space == JCS_YCCK;
    r->c.out_color_space = inks ? JCS_CMYK : JCS_RGB;
    r->c.scale_num = 1;
    r->c.scale_denom = denominator(h, want_side);
    (void)jpeg_start_decompress(&r->c); /* does not suspend */
    /* One pixel of four inks more, for the last row of a strip. */
    r->strip = malloc((size_t)3 * VL_PICTURE_STRIP * r->c.output_width + r->c.output_width);
    return r->strip ? 0 : vl_error_set(err, -ENOMEM, "no memory for a strip of %u pixels", r->c.output_width);
}

static int decode(struct reader *r, const uint8_t *p, size_t n, const struct vl_still_header *h,
                  uint32_t want_side, struct vl_picture *out, struct vl_error *err)
{
    if (setjmp(r->jump))
        return vl_error_set(err, r->code, "this JPEG: %s", r->message);
    int e = start(r, p, n, h, want_side, err);
    if (e == 0)
        e = vl_picture_init(out, r->c.output_width, r->c.output_height, h->orientation, err);
    for (uint32_t got; e == 0 && (got = read_strip(r)) > 0;)
        vl_picture_put(out, r->strip, got);
    return e;
}

static int jpeg_read(const uint8_t *p, size_t n, const struct vl_still_header *h, uint32_t want_side,
                     struct vl_picture *out, uint32_t *ret_whole, struct vl_error *err)
{
    struct reader r = {.whole = UINT32_MAX};
    struct marks k;
    int e = look(p, n, &k, err);
    if (e != 0)
        return e; /* it was 0 when h was made */
    r.c.err = jpeg_std_error(&r.errors);
    r.errors.error_exit = on_error;
    r.errors.emit_message = on_message;
    r.progress.progress_monitor = on_progress;
    e = decode(&r, p, n, h, want_side, out, err);
    uint32_t whole = r.whole < out->n_rows ? r.whole : out->n_rows;
    *ret_whole = k.n_begun >= k.n_components ? whole : 0; /* cut between two scans, which libjpeg forgives */
    jpeg_destroy_decompress(&r.c); /* accepts one that was not created: it is all zero then */
    free(r.strip);
    return e;
}

const struct vl_still_format vl_still_jpeg = {.name = "JPEG",
                                              .magic = "\xFF\xD8\xFF",
                                              .n_magic = 3,
                                              .library = "libjpeg",
                                              .look = jpeg_look,
                                              .read = jpeg_read};
