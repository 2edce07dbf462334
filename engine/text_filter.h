/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_ENGINE_TEXT_FILTER_H
#define VL_ENGINE_TEXT_FILTER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The one place through which all text of a model passes. What a frame shows may be hostile, and what the
 * model writes ends in terminals, files and web pages: terminal escapes, C0 and C1 controls (but tab and line
 * feed), bidi overrides and isolates, invisible tag characters, line separators, bytes that are no UTF-8, and
 * combining marks beyond eight in a row are left out, and so is white space before the first word. State is
 * carried between pieces, so that an escape sequence cut into tokens is still seen as one. */
struct vl_text_filter {
    bool one_line; /* line feed and tab become a space: captions */
    bool started;
    uint8_t escape, n_marks;
    uint16_t n_swallowed;
};
/* in: whole code points. out: at least n bytes, may be in. Returns how many were written. */
size_t vl_text_filter_run(struct vl_text_filter *f, const char *in, size_t n, char *out);
#endif
