/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * The reader of configuration files. Our own because GKeyFile would bring GLib into the daemon, which aborts
 * when memory runs out, and libinih truncates long lines. Works on a copy of the text, in one pass; a logical
 * line (with its continuations) is put together in one buffer. Fuzzed by tests/fuzz.
 */
#include "daemon/ini.h"

#include "base/cleanup.h"
#include "base/text.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

struct parser {
    const char *file, *at, *end;
    unsigned line;           /* of the text read last */
    char section[128], *buf; /* buf: VL_INI_MAX_LINE + 1 */
    size_t len;
};

static int check_text(struct parser *p, const char *s, size_t n, struct vl_error *err)
{
    for (size_t i = 0; i < n;) {
        size_t len = vl_text_len(s + i, n - i);
        if (len == 0 || s[i] == '\0')
            return vl_error_set(err, -EINVAL, "%s:%u: byte %zu is not UTF-8 text", p->file, p->line, i + 1);
        if (len == 1 && ((unsigned char)s[i] < 0x20 || s[i] == 0x7f) && s[i] != '\t')
            return vl_error_set(err, -EINVAL, "%s:%u: byte %zu is a control character", p->file, p->line,
                                i + 1);
        i += len;
    }
    return 0;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

static void trim(const char **s, size_t *n)
{
    while (*n > 0 && blank((*s)[0])) {
        (*s)++;
        (*n)--;
    }
    while (*n > 0 && blank((*s)[*n - 1]))
        (*n)--;
}

/* One physical line without its end. False at the end of the text. */
static bool next_physical(struct parser *p, const char **ret, size_t *ret_n)
{
    if (p->at == p->end)
        return false;
    const char *nl = memchr(p->at, '\n', (size_t)(p->end - p->at));
    const char *stop = nl ? nl : p->end;
    *ret = p->at;
    *ret_n = (size_t)(stop - p->at);
    if (*ret_n > 0 && (*ret)[*ret_n - 1] == '\r')
        (*ret_n)--;
    p->at = nl ? nl + 1 : p->end;
    p->line++;
    return true;
}

static int add(struct parser *p, const char *s, size_t n, struct vl_error *err)
{
    if (n > VL_INI_MAX_LINE - p->len)
        return vl_error_set(err, -EINVAL, "%s:%u: the line is longer than %d bytes", p->file, p->line,
                            VL_INI_MAX_LINE);
    memcpy(p->buf + p->len, s, n);
    p->len += n;
    return 0;
}

/* Puts the next line with its continuations in buf. Comment lines inside a continuation are left out, as
 * systemd does. 1: there is one, *ret_line is where it begins; 0: the end. */
static int next_logical(struct parser *p, unsigned *ret_line, struct vl_error *err)
{
    const char *s;
    size_t n;
    bool more = false;
    p->len = 0;
    while (next_physical(p, &s, &n)) {
        int r = check_text(p, s, n, err);
        if (r < 0)
            return r;
        if (!more)
            *ret_line = p->line;
        trim(&s, &n);
        if (n > 0 && (s[0] == '#' || s[0] == ';')) {
            if (more)
                continue;
            n = 0;
        }
        more = n > 0 && s[n - 1] == '\\';
        r = add(p, s, more ? n - 1 : n, err);
        if (r == 0 && more)
            r = add(p, " ", 1, err);
        if (r < 0)
            return r;
        if (!more)
            return 1;
    }
    if (more)
        return vl_error_set(err, -EINVAL, "%s:%u: the last line ends with '\\'", p->file, p->line);
    return 0;
}

static int set_section(struct parser *p, unsigned line, const char *s, size_t n, struct vl_error *err)
{
    if (n < 3 || s[n - 1] != ']' || memchr(s + 1, '[', n - 1) || memchr(s, ']', n - 1))
        return vl_error_set(err, -EINVAL, "%s:%u: a section is written [Name]", p->file, line);
    if (n - 2 >= sizeof(p->section))
        return vl_error_set(err, -EINVAL, "%s:%u: the section's name is too long", p->file, line);
    memcpy(p->section, s + 1, n - 2);
    p->section[n - 2] = '\0';
    return 0;
}

static int give_item(struct parser *p, unsigned line, size_t n, vl_ini_fn fn, void *user,
                     struct vl_error *err)
{
    char *eq = memchr(p->buf, '=', n);
    if (!eq)
        return vl_error_set(err, -EINVAL, "%s:%u: neither [Section] nor Key=Value", p->file, line);
    if (!p->section[0])
        return vl_error_set(err, -EINVAL, "%s:%u: a key before the first [Section]", p->file, line);
    const char *key = p->buf, *value = eq + 1;
    size_t n_key = (size_t)(eq - p->buf), n_value = n - n_key - 1;
    trim(&key, &n_key);
    trim(&value, &n_value);
    if (n_key == 0)
        return vl_error_set(err, -EINVAL, "%s:%u: no key before '='", p->file, line);
    p->buf[(size_t)(key - p->buf) + n_key] = '\0';
    p->buf[(size_t)(value - p->buf) + n_value] = '\0';
    struct vl_ini_item item = {
        .file = p->file, .line = line, .section = p->section, .key = key, .value = value};
    return fn(user, &item, err);
}

int vl_ini_parse(const char *file, const char *text, size_t len, vl_ini_fn fn, void *user,
                 struct vl_error *err)
{
    if (len > VL_INI_MAX_BYTES)
        return vl_error_set(err, -EFBIG, "%s: larger than %d bytes", file, VL_INI_MAX_BYTES);
    vl_autofree char *buf = malloc(VL_INI_MAX_LINE + 1);
    if (!buf)
        return vl_error_set(err, -ENOMEM, "%s: out of memory", file);
    struct parser p = {.file = file, .at = text, .end = text + len, .buf = buf};
    unsigned line = 0;
    int r;
    while ((r = next_logical(&p, &line, err)) > 0) {
        const char *s = buf;
        size_t n = p.len;
        trim(&s, &n); /* only blanks that a continuation left */
        if (n == 0)
            continue;
        r = s[0] == '[' ? set_section(&p, line, s, n, err)
                        : give_item(&p, line, (size_t)(s - buf) + n, fn, user, err);
        if (r < 0)
            return r;
    }
    return r;
}

int vl_ini_read(const char *path, vl_ini_fn fn, void *user, struct vl_error *err)
{
    vl_autofd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return vl_error_set(err, -errno, "%s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) < 0)
        return vl_error_set(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return vl_error_set(err, -EINVAL, "%s: not a regular file", path);
    vl_autofree char *text = malloc(VL_INI_MAX_BYTES + 1);
    if (!text)
        return vl_error_set(err, -ENOMEM, "%s: out of memory", path);
    size_t len = 0;
    while (len <= VL_INI_MAX_BYTES) {
        ssize_t n = read(fd, text + len, VL_INI_MAX_BYTES + 1 - len);
        if (n < 0)
            return vl_error_set(err, -errno, "%s: %s", path, strerror(errno));
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return vl_ini_parse(path, text, len, fn, user, err);
}
