/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_TEXT_H
#define VL_BASE_TEXT_H
#include <stddef.h>

/* Length of the well-formed UTF-8 sequence at s, of which n >= 1 bytes are there; 0 if there is none. */
size_t vl_text_len(const char *s, size_t n);

/* Makes a message fit for a bus, a log and a terminal, whatever strangers wrote into it and wherever it was
 * cut: controls, line ends among them, bidi overrides and bytes that are no UTF-8 become question marks. */
void vl_text_clean(char *s);
#endif
