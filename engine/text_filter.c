/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A state machine over code points. Escape sequences are those of ECMA-48: CSI (parameters, then one final
 * byte) and the strings OSC, DCS, SOS, PM, APC (up to BEL or ST). A string that never ends is given up after
 * 256 code points, so that one stray ESC does not silence the rest of an answer.
 */
#include "engine/text_filter.h"

enum { TEXT, ESC, CSI, STRING, STRING_ESC };
enum { MAX_SWALLOWED = 256, MAX_MARKS = 8 };

/* Length of the well-formed UTF-8 sequence at s, 0 if there is none (RFC 3629: no surrogates, no overlongs).
 */
static size_t decode(const unsigned char *s, size_t n, uint32_t *ret)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (len == 0 || len > n)
        return 0;
    uint32_t c = len == 1 ? s[0] : s[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3F);
    }
    if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return 0;
    *ret = c;
    return len;
}

static bool in_ranges(uint32_t c, const uint32_t (*range)[2], size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (c >= range[i][0] && c <= range[i][1])
            return true;
    return false;
}

static bool is_unwanted(uint32_t c)
{
    static const uint32_t range[][2] = {
        {0x00, 0x08},     {0x0B, 0x1F},     {0x7F, 0x9F},     {0x061C, 0x061C}, {0x200E, 0x200F},
        {0x2028, 0x202E}, {0x2066, 0x206F}, {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE0FFF},
    };
    return in_ranges(c, range, sizeof(range) / sizeof(range[0])) || (c & 0xFFFE) == 0xFFFE;
}

static bool is_mark(uint32_t c)
{
    static const uint32_t range[][2] = {
        {0x0300, 0x036F}, {0x0483, 0x0489}, {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF},
        {0x200C, 0x200D}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F},
    };
    return in_ranges(c, range, sizeof(range) / sizeof(range[0]));
}

/* Inside an escape sequence: moves on, swallowing c. */
static void escape_step(struct vl_text_filter *f, uint32_t c)
{
    bool string_start = c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_';
    switch (f->escape) {
    case ESC:
        f->escape = c == '[' ? CSI : string_start ? STRING : c >= 0x20 && c <= 0x2F ? ESC : TEXT;
        break;
    case CSI:
        f->escape = c >= 0x20 && c <= 0x3F ? CSI : TEXT;
        break;
    case STRING:
        f->escape = c == 0x07 || c == 0x9C ? TEXT : c == 0x1B ? STRING_ESC : STRING;
        break;
    default:
        f->escape = c == '\\' ? TEXT : STRING;
    }
    if (++f->n_swallowed >= MAX_SWALLOWED)
        f->escape = TEXT;
}

/* Does c start an escape sequence? The C1 forms are one code point. */
static bool escape_starts(struct vl_text_filter *f, uint32_t c)
{
    bool string = c == 0x90 || c == 0x98 || c == 0x9D || c == 0x9E || c == 0x9F;
    f->escape = c == 0x1B ? ESC : c == 0x9B ? CSI : string ? STRING : TEXT;
    f->n_swallowed = 0;
    return f->escape != TEXT;
}

static bool keep(struct vl_text_filter *f, uint32_t c)
{
    if (f->escape != TEXT) {
        escape_step(f, c);
        return false;
    }
    if (escape_starts(f, c) || is_unwanted(c))
        return false;
    f->n_marks = is_mark(c) ? f->n_marks + (f->n_marks <= MAX_MARKS) : 0;
    return f->n_marks <= MAX_MARKS;
}

size_t vl_text_filter_run(struct vl_text_filter *f, const char *in, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c;
        len = decode((const unsigned char *)in + i, n - i, &c);
        if (len == 0) {
            len = 1;
            continue;
        }
        if (!keep(f, c) || (!f->started && (c == ' ' || c == '\n' || c == '\t')))
            continue;
        f->started = true;
        for (size_t k = 0; k < len; k++)
            out[n_out++] = f->one_line && (c == '\n' || c == '\t') ? ' ' : in[i + k];
    }
    return n_out;
}
