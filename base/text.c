/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What text must be before others see it. */
#include "base/text.h"

#include <stdbool.h>
#include <string.h>

/* Unicode 15, table 3-7. */
size_t vl_text_len(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t len = s[0] < 0x80                   ? 1
                 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
                 : (s[0] & 0xf0) == 0xe0       ? 3
                 : (s[0] & 0xf8) == 0xf0       ? 4
                                               : 0;
    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
        s[0] > 0xf4 || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return len;
}

/* C0, DEL, C1, U+202A to U+202E, U+2066 to U+2069. */
static bool is_control(const unsigned char *s, size_t len)
{
    if (len == 1)
        return s[0] < 0x20 || s[0] == 0x7f;
    if (len == 2)
        return s[0] == 0xc2 && s[1] < 0xa0;
    return len == 3 && s[0] == 0xe2 &&
           ((s[1] == 0x80 && s[2] >= 0xaa && s[2] <= 0xae) || (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9));
}

void vl_text_clean(char *s)
{
    size_t n = strlen(s), to = 0;
    for (size_t at = 0, len; at < n; at += len ? len : 1) {
        len = vl_text_len(s + at, n - at);
        if (len == 0 || is_control((const unsigned char *)s + at, len)) {
            s[to++] = '?';
            continue;
        }
        memmove(s + to, s + at, len);
        to += len;
    }
    s[to] = '\0';
}
