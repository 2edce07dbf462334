/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Findings as text: one buffer on the stack, never allocated. */
#include "base/notes.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

void vl_note(const struct vl_notes *notes, const char *section, const char *key, const char *fmt, ...)
{
    char value[256];
    if (!notes)
        return;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(value, sizeof(value), fmt, ap); /* what is too long is cut */
    va_end(ap);
    notes->note(notes->user, section, key, value);
}
