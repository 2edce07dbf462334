/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * WebP by libwebp: lossy, lossless, and of an animation the first frame on its canvas, black where it does
 * not reach. Alpha is left out of account. The trap: an animation's frame may be smaller than the canvas, and
 * libwebp is given the frame alone.
 */
#include "pipelines/still.h"

#include <stdbool.h>
#include <string.h>

#include <webp/decode.h>

enum { RIFF_HEAD = 12, CHUNK_HEAD = 8, VP8X_BYTES = 10, ANMF_BYTES = 16, FLAG_ANIMATION = 2 };

/* Where the picture is in the file, and where it lies on the canvas. */
struct parts {
    struct vl_still_header header;
    const uint8_t *bits; /* NULL: not in these bytes */
    size_t n_bits;
    uint32_t x, y, width, height;
};

static uint32_t le24(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
}

static uint32_t le32(const uint8_t *p)
{
    return le24(p) | (uint32_t)p[3] << 24;
}

static bool is(const uint8_t *chunk, const char *name)
{
    return !memcmp(chunk, name, 4);
}

/* The size in the bits themselves; 0 x 0 when it is not in these bytes. */
static void look_at_bits(const uint8_t *p, size_t n, struct vl_still_header *h)
{
    const uint8_t *b = p + CHUNK_HEAD;
    if (is(p, "VP8 ") && n >= CHUNK_HEAD + 10) {
        h->width = (b[6] | (uint32_t)b[7] << 8) & 0x3FFF;
        h->height = (b[8] | (uint32_t)b[9] << 8) & 0x3FFF;
    } else if (is(p, "VP8L") && n >= CHUNK_HEAD + 5) {
        uint32_t v = le32(b + 1);
        h->width = (v & 0x3FFF) + 1;
        h->height = (v >> 14 & 0x3FFF) + 1;
    }
}

static void look_at_frame(const uint8_t *b, size_t n, struct parts *ret)
{
    if (n < ANMF_BYTES || ret->bits)
        return;
    ret->x = 2 * le24(b);
    ret->y = 2 * le24(b + 3);
    ret->width = le24(b + 6) + 1;
    ret->height = le24(b + 9) + 1;
    ret->bits = b + ANMF_BYTES;
    ret->n_bits = n - ANMF_BYTES;
}

/* The chunks behind VP8X. */
static void look_at_chunks(const uint8_t *p, size_t n, size_t at, struct parts *ret)
{
    while (n - at >= CHUNK_HEAD) {
        size_t len = le32(p + at + 4), left = n - at - CHUNK_HEAD, have = len < left ? len : left;
        const uint8_t *b = p + at + CHUNK_HEAD;
        if (is(p + at, "ANMF"))
            look_at_frame(b, have, ret);
        if (is(p + at, "EXIF") && len <= left) {
            size_t skip = len > 6 && !memcmp(b, "Exif\0", 6) ? 6 : 0; /* some writers keep JPEG's prefix */
            ret->header.orientation = vl_exif_orientation(b + skip, len - skip);
        }
        if (len >= left)
            break;
        at += CHUNK_HEAD + len + len % 2;
        if (at > n)
            break;
    }
}

static int look(const uint8_t *p, size_t n, struct parts *ret, struct vl_error *err)
{
    *ret = (struct parts){.header = {.n_scans = 1}};
    if (n < RIFF_HEAD + CHUNK_HEAD + VP8X_BYTES)
        return VL_STILL_MORE;
    const uint8_t *first = p + RIFF_HEAD, *b = first + CHUNK_HEAD;
    if (!is(first, "VP8X")) {
        look_at_bits(first, n - RIFF_HEAD, &ret->header);
        if (!is(first, "VP8 ") && !is(first, "VP8L"))
            return vl_error_set(err, -EBADMSG, "this WebP does not begin with a picture");
    } else {
        ret->header.width = le24(b + 4) + 1;
        ret->header.height = le24(b + 7) + 1;
        look_at_chunks(p, n, RIFF_HEAD + CHUNK_HEAD + VP8X_BYTES, ret);
        if (b[0] & FLAG_ANIMATION)
            return 0;
    }
    ret->x = ret->y = 0;
    ret->width = ret->header.width;
    ret->height = ret->header.height;
    ret->bits = p;
    ret->n_bits = n;
    return 0;
}

static int webp_look(const uint8_t *p, size_t n, struct vl_still_header *ret, struct vl_error *err)
{
    struct parts parts;
    int r = look(p, n, &parts, err);
    *ret = parts.header;
    return r;
}

static int failure(int status, struct vl_error *err)
{
    switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
        return vl_error_set(err, -ENOMEM, "no memory for this WebP");
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return vl_error_set(err, -ENOTSUP, "this WebP is of a kind that libwebp does not read");
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return vl_error_set(err, -EBADMSG, "this WebP ends too early");
    default:
        return vl_error_set(err, -EBADMSG, "this WebP's bytes are damaged");
    }
}

/* libwebp's own view of the size must be the header's: the rows are laid out by it. */
static int decode(const struct parts *from, uint8_t *canvas, struct vl_error *err)
{
    WebPDecoderConfig config;
    const size_t stride = (size_t)3 * from->header.width;
    if (!WebPInitDecoderConfig(&config))
        return vl_error_set(err, -ENOTSUP, "libwebp is of another version than its header");
    int status = (int)WebPGetFeatures(from->bits, from->n_bits, &config.input);
    if (status != VP8_STATUS_OK)
        return failure(status, err);
    if (config.input.width != (int)from->width || config.input.height != (int)from->height)
        return vl_error_set(err, -EBADMSG, "this WebP says two different sizes");
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = canvas + from->y * stride + (size_t)3 * from->x;
    config.output.u.RGBA.stride = (int)stride;
    config.output.u.RGBA.size = stride * (from->height - 1) + (size_t)3 * from->width;
    status = (int)WebPDecode(from->bits, from->n_bits, &config);
    WebPFreeDecBuffer(&config.output);
    return status == VP8_STATUS_OK ? 0 : failure(status, err);
}

static int webp_read(const uint8_t *p, size_t n, const struct vl_still_header *h, uint32_t want_side,
                     struct vl_picture *out, uint32_t *ret_whole, struct vl_error *err)
{
    struct parts from;
    (void)want_side; /* there is no cheaper way to a smaller one */
    int r = look(p, n, &from, err);
    if (r != 0 || !from.bits)
        return vl_error_set(err, -EBADMSG, "this WebP holds no picture");
    if (from.width > h->width || from.x > h->width - from.width || from.height > h->height ||
        from.y > h->height - from.height)
        return vl_error_set(err, -EBADMSG, "this WebP's first frame does not lie on its canvas");
    vl_autofree uint8_t *canvas = calloc(h->height, (size_t)3 * h->width);
    if (!canvas)
        return vl_error_set(err, -ENOMEM, "no memory for %u x %u pixels", h->width, h->height);
    r = decode(&from, canvas, err);
    if (r == 0 && (r = vl_picture_init(out, h->width, h->height, h->orientation, err)) == 0)
        vl_picture_put(out, canvas, h->height);
    *ret_whole = out->n_rows;
    return r;
}

const struct vl_still_format vl_still_webp = {.name = "WebP",
                                              .magic = "RIFF????WEBP",
                                              .n_magic = RIFF_HEAD,
                                              .library = "libwebp",
                                              .look = webp_look,
                                              .read = webp_read};
