/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
#ifndef VL_BASE_NOTES_H
#define VL_BASE_NOTES_H

/* Where findings go that are no errors: what a file is made of, what was mended in it, what was left out. The
 * strings are good during the call. */
struct vl_notes {
    void *user;
    void (*note)(void *user, const char *section, const char *key, const char *value);
};
/* notes NULL: nobody wants to know. The value is cut at 255 bytes. */
void vl_note(const struct vl_notes *notes, const char *section, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
#endif
