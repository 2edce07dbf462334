/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * What the configuration means: which keys there are, of what kind, where they go. Reading is ini.c's. Every
 * error says file and line. Which models there are is config_model.c's.
 */
#include "daemon/config.h"

#include "base/log.h"
#include "base/params.h"
#include "daemon/ini.h"
#include "daemon/limits.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_PATH = 4096, MAX_KEYS = 32, MAX_FILES = 256 };

/* ---- kinds of values ---- */

int vl_config_bool(const char *s, bool *ret)
{
    static const char *const word[] = {"yes", "true", "on", "1", "no", "false", "off", "0"};
    for (size_t i = 0; i < 8; i++)
        if (!strcasecmp(s, word[i])) {
            *ret = i < 4;
            return 0;
        }
    return -EINVAL;
}

struct unit {
    const char *name;
    uint64_t usec;
};

/* A number with at most six decimals in units of `usec`, saturating nowhere: overflow is an error. */
static int number_usec(const char **s, uint64_t usec, uint64_t whole, uint64_t *ret)
{
    uint64_t total, part = 0, scale = usec;
    if (__builtin_mul_overflow(whole, usec, &total))
        return -EINVAL;
    for (; isdigit((unsigned char)**s); (*s)++) {
        scale /= 10;
        part += scale * (uint64_t)(**s - '0');
    }
    return __builtin_add_overflow(total, part, ret) ? -EINVAL : 0;
}

static const struct unit *unit_of(const char *s, size_t n)
{
    static const struct unit units[] = {{"us", 1},         {"usec", 1},        {"ms", 1000},
                                        {"msec", 1000},    {"", 1000000},      {"s", 1000000},
                                        {"sec", 1000000},  {"m", 60000000},    {"min", 60000000},
                                        {"h", 3600000000}, {"hr", 3600000000}, {"d", 86400000000}};
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
        if (strlen(units[i].name) == n && !strncmp(units[i].name, s, n))
            return &units[i];
    return NULL;
}

/* One "1.5min"; *s moves behind it. */
static int one_span(const char **s, uint64_t *ret)
{
    uint64_t whole = 0;
    const char *frac = NULL, *word;
    if (!isdigit((unsigned char)**s))
        return -EINVAL;
    for (; isdigit((unsigned char)**s); (*s)++)
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(**s - '0'), &whole))
            return -EINVAL;
    if (**s == '.') {
        frac = ++*s;
        *s += strspn(*s, "0123456789");
        if (*s == frac)
            return -EINVAL;
    }
    *s += strspn(*s, " \t");
    word = *s;
    *s += strspn(*s, "abcdefghijklmnopqrstuvwxyz");
    const struct unit *u = unit_of(word, (size_t)(*s - word));
    const char *digits = frac ? frac : "";
    return u ? number_usec(&digits, u->usec, whole, ret) : -EINVAL;
}

int vl_config_time_usec(const char *s, uint64_t *ret)
{
    uint64_t total = 0, part;
    s += strspn(s, " \t");
    do {
        if (one_span(&s, &part) < 0 || __builtin_add_overflow(total, part, &total))
            return -EINVAL;
        s += strspn(s, " \t");
    } while (*s);
    *ret = total;
    return 0;
}

int vl_config_size(const char *s, uint64_t *ret)
{
    static const char unit[] = "KMGT";
    uint64_t v = 0;
    if (!strcmp(s, "infinity")) {
        *ret = UINT64_MAX;
        return 0;
    }
    if (!isdigit((unsigned char)*s))
        return -EINVAL;
    for (; isdigit((unsigned char)*s); s++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return -EINVAL;
    const char *u = *s ? strchr(unit, *s) : NULL;
    if (*s && (!u || s[1]))
        return -EINVAL;
    for (ptrdiff_t i = u ? u - unit : -1; i >= 0; i--)
        if (__builtin_mul_overflow(v, 1024, &v))
            return -EINVAL;
    if (v == 0 || v == UINT64_MAX)
        return -EINVAL;
    *ret = v;
    return 0;
}

static int count(const char *s, uint32_t min, uint32_t max, uint32_t *ret)
{
    uint64_t v = 0;
    if (!*s || strlen(s) > 10)
        return -EINVAL;
    for (; *s; s++) {
        if (!isdigit((unsigned char)*s))
            return -EINVAL;
        v = v * 10 + (uint64_t)(*s - '0');
    }
    if (v < min || v > max)
        return -EINVAL;
    *ret = (uint32_t)v;
    return 0;
}

/* ---- the keys ---- */

enum kind { STRING, COUNT, TIME, BOOL, GATE, SIZE, PRELOAD, KV_FORMAT };
struct key {
    const char *section, *key;
    enum kind kind;
    size_t offset;
    uint32_t min, max; /* COUNT */
};

#define AT(type, member) offsetof(struct type, member)
static const struct key conf_keys[] = {
    {"Manager", "DefaultModel", STRING, AT(vl_config, default_model), 0, 0},
    {"Manager", "MemoryBudget", SIZE, AT(vl_config, memory_budget), 0, 0},
    {"Manager", "Backend", STRING, AT(vl_config, backend), 0, 0},
    {"Manager", "Workers", COUNT, AT(vl_config, workers), 0, 256},
    {"Manager", "MaxStreams", COUNT, AT(vl_config, max_streams), 1, VL_LIMIT_ALL_STREAMS},
    {"Manager", "MaxQueries", COUNT, AT(vl_config, max_queries), 1, VL_LIMIT_ALL_QUERIES},
    {0},
};
static const struct key model_keys[] = {
    {"Model", "Text", STRING, AT(vl_model_config, text), 0, 0},
    {"Model", "Projector", STRING, AT(vl_model_config, projector), 0, 0},
    {"Model", "ContextTokens", COUNT, AT(vl_model_config, context_tokens), 1024, 1 << 20},
    {"Model", "Preload", PRELOAD, AT(vl_model_config, preload), 0, 0},
    {"Model", "KVFormat", KV_FORMAT, 0, 0, 0},
    {0},
};
static const struct key stream_keys[] = {
    {"Stream", "Uri", STRING, AT(vl_stream_spec, uri), 0, 0},
    {"Stream", "Path", STRING, AT(vl_stream_spec, path), 0, 0},
    {"Stream", "Model", STRING, AT(vl_stream_spec, model), 0, 0},
    {"Stream", "SampleInterval", TIME, AT(vl_stream_spec, sample_interval_usec), 0, 0},
    {"Stream", "Window", TIME, AT(vl_stream_spec, window_usec), 0, 0},
    {"Stream", "Reducer", STRING, AT(vl_stream_spec, reducer), 0, 0},
    {"Stream", "Policy", STRING, AT(vl_stream_spec, policy), 0, 0},
    {"Stream", "TokensPerFrame", COUNT, AT(vl_stream_spec, tokens_per_frame), 0, UINT32_MAX},
    {"Stream", "Gate", GATE, AT(vl_stream_spec, gate), 0, 0},
    {"Stream", "Loop", BOOL, AT(vl_stream_spec, loop), 0, 0},
    {"Stream", "Realtime", BOOL, AT(vl_stream_spec, realtime), 0, 0},
    {"Captions", "Enabled", BOOL, AT(vl_stream_spec, captions), 0, 0},
    {"Captions", "Instruction", STRING, AT(vl_stream_spec, instruction), 0, 0},
    {0},
};

struct target {
    const struct key *keys;
    void *base;
    bool strict;
};

static int set_preload(const char *value, enum vl_preload *ret)
{
    bool yes;
    int r = vl_config_bool(value, &yes);
    if (r == 0)
        *ret = yes ? VL_PRELOAD_YES : VL_PRELOAD_NO;
    return r;
}

static int set_value(const struct key *k, void *base, const char *value, const char **ret_expected)
{
    void *at = (char *)base + k->offset;
    char *copy;
    switch (k->kind) {
    case STRING:
        copy = *value ? strdup(value) : NULL; /* Key= alone takes back what came before */
        if (*value && !copy)
            return -ENOMEM;
        free(*(char **)at);
        *(char **)at = copy;
        return 0;
    case COUNT:
        *ret_expected = "a whole number in its range";
        return count(value, k->min, k->max, at);
    case TIME:
        *ret_expected = "a time like 500ms, 2s, 10min";
        return vl_config_time_usec(value, at);
    case BOOL:
        *ret_expected = "yes or no";
        return vl_config_bool(value, at);
    case GATE:
        *ret_expected = "none or change";
        return vl_gate_from_name(value, at);
    case SIZE:
        *ret_expected = "a size like 512M or 4G, or infinity";
        return vl_config_size(value, at);
    case PRELOAD:
        *ret_expected = "yes or no";
        return set_preload(value, at);
    case KV_FORMAT:
        *ret_expected = "f16, the one format that keys and values are kept in";
        return strcmp(value, "f16") == 0 ? 0 : -EINVAL;
    }
    return -EINVAL;
}

static const char *nearest(const struct target *t, const char *section, const char *word)
{
    const char *known[MAX_KEYS] = {NULL};
    size_t n = 0;
    for (const struct key *k = t->keys; k->key && n < MAX_KEYS; k++)
        if (!section || !strcmp(section, k->section))
            known[n++] = section ? k->key : k->section;
    return vl_nearest(word, known, n);
}

static int unknown(const struct target *t, const struct vl_ini_item *item, bool section_known,
                   struct vl_error *err)
{
    struct vl_error text;
    const char *near =
        nearest(t, section_known ? item->section : NULL, section_known ? item->key : item->section);
    if (section_known)
        (void)vl_error_set(&text, -EINVAL, "%s:%u: unknown key '%.64s' in [%s]%s%s%s", item->file, item->line,
                           item->key, item->section, near ? "; did you mean '" : "", near ? near : "",
                           near ? "'?" : "");
    else
        (void)vl_error_set(&text, -EINVAL, "%s:%u: unknown section [%.64s]%s%s%s", item->file, item->line,
                           item->section, near ? "; did you mean [" : "", near ? near : "", near ? "]?" : "");
    if (t->strict)
        return vl_error_set(err, -EINVAL, "%s", text.msg);
    vl_log(VL_LOG_WARNING, "config", "%s", text.msg);
    return 0;
}

static int on_item(void *user, const struct vl_ini_item *item, struct vl_error *err)
{
    const struct target *t = user;
    bool section_known = false;
    for (const struct key *k = t->keys; k->key; k++) {
        if (strcmp(k->section, item->section) != 0)
            continue;
        section_known = true;
        if (strcmp(k->key, item->key) != 0)
            continue;
        const char *expected = "";
        int r = set_value(k, t->base, item->value, &expected);
        if (r == -ENOMEM)
            return vl_error_set(err, r, "%s:%u: out of memory", item->file, item->line);
        return r < 0 ? vl_error_set(err, -EINVAL, "%s:%u: %s= is '%.64s', not %s", item->file, item->line,
                                    item->key, item->value, expected)
                     : 0;
    }
    return unknown(t, item, section_known, err);
}

/* ---- life ---- */

int vl_config_new(struct vl_config **ret)
{
    struct vl_config *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->max_streams = 8;
    c->max_queries = VL_LIMIT_ALL_QUERIES;
    *ret = c;
    return 0;
}

static void model_done(struct vl_model_config *m)
{
    free(m->name);
    free(m->text);
    free(m->projector);
    *m = (struct vl_model_config){0};
}

const struct vl_model_config *vl_config_model(const struct vl_config *c, const char *name)
{
    for (size_t i = 0; i < c->n_models; i++)
        if (!strcmp(c->model[i].name, name))
            return &c->model[i];
    return NULL;
}

const struct vl_model_config *vl_config_default(const struct vl_config *c)
{
    return c->default_model ? vl_config_model(c, c->default_model) : NULL;
}

int vl_config_add_model(struct vl_config *c, struct vl_model_config *m, bool keep)
{
    struct vl_model_config *old = (struct vl_model_config *)vl_config_model(c, m->name), *all;
    if (old && keep) {
        model_done(m);
        return 0;
    }
    if (!old) {
        all = realloc(c->model, (c->n_models + 1) * sizeof(*all));
        if (!all)
            return -ENOMEM;
        c->model = all;
        old = &all[c->n_models++];
        *old = (struct vl_model_config){0};
    }
    model_done(old);
    *old = *m;
    *m = (struct vl_model_config){0};
    return 0;
}

struct vl_config *vl_config_unref(struct vl_config *c)
{
    if (!c)
        return NULL;
    for (size_t i = 0; i < c->n_streams; i++)
        vl_stream_spec_done(&c->stream[i]);
    free(c->stream);
    for (size_t i = 0; i < c->n_models; i++)
        model_done(&c->model[i]);
    free(c->model);
    free(c->dir);
    free(c->default_model);
    free(c->backend);
    free(c->ingest_program);
    free(c);
    return NULL;
}

/* ---- one file ---- */

/* "dir/porch.stream" → "porch" */
static char *stem(const char *file)
{
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file, *dot = strrchr(name, '.');
    return strndup(name, dot ? (size_t)(dot - name) : strlen(name));
}

static int add_stream(struct vl_config *c, struct vl_stream_spec *spec, const char *file,
                      struct vl_error *err)
{
    struct vl_error why = {0};
    if (c->n_streams >= MAX_FILES)
        return vl_error_set(err, -EINVAL, "%s: more than %d streams", file, MAX_FILES);
    if (!(spec->name = stem(file)))
        return -ENOMEM;
    if (!spec->uri == !spec->path)
        return vl_error_set(err, -EINVAL, "%s: [Stream] needs one of Uri= and Path=", file);
    if (vl_stream_spec_check(spec, &why) < 0)
        return vl_error_set(err, -EINVAL, "%s: %s", file, why.msg);
    struct vl_stream_spec *all = realloc(c->stream, (c->n_streams + 1) * sizeof(*all));
    if (!all)
        return -ENOMEM;
    c->stream = all;
    c->stream[c->n_streams++] = *spec;
    vl_stream_spec_init(spec);
    return 0;
}

/* From text, or when text is NULL from the file. */
static int parse(struct target *t, const char *file, const char *text, size_t len, struct vl_error *err)
{
    return text ? vl_ini_parse(file, text, len, on_item, t, err) : vl_ini_read(file, on_item, t, err);
}

static int parse_stream(struct vl_config *c, const char *file, const char *text, size_t len, bool strict,
                        struct vl_error *err)
{
    struct vl_stream_spec spec;
    vl_stream_spec_init(&spec);
    struct target t = {stream_keys, &spec, strict};
    int r = parse(&t, file, text, len, err);
    if (r == 0)
        r = add_stream(c, &spec, file, err);
    vl_stream_spec_done(&spec);
    return r;
}

static int parse_model(struct vl_config *c, const char *file, const char *text, size_t len, bool strict,
                       struct vl_error *err)
{
    struct vl_model_config m = {0};
    struct target t = {model_keys, &m, strict};
    int r = parse(&t, file, text, len, err);
    if (r == 0 && !m.text)
        r = vl_error_set(err, -EINVAL, "%s: [Model] needs Text=", file);
    if (r == 0 && c->n_models >= MAX_FILES)
        r = vl_error_set(err, -EINVAL, "%s: more than %d models", file, MAX_FILES);
    if (r == 0 && !(m.name = stem(file)))
        r = -ENOMEM;
    if (r == 0)
        r = vl_config_add_model(c, &m, false);
    model_done(&m);
    return r;
}

int vl_config_parse(struct vl_config *c, const char *kind, const char *file, const char *text, size_t len,
                    bool strict, struct vl_error *err)
{
    if (!strcmp(kind, "stream"))
        return parse_stream(c, file, text, len, strict, err);
    if (!strcmp(kind, "model"))
        return parse_model(c, file, text, len, strict, err);
    struct target t = {conf_keys, c, strict};
    return parse(&t, file, text, len, err);
}

/* ---- folders ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool ends_with(const char *name, const char *kind)
{
    const char *dot = strrchr(name, '.');
    return dot && dot != name && name[0] != '.' && !strcmp(dot + 1, kind);
}

static void free_names(char **name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(name[i]);
}

/* Names in dir that end in kind, sorted. A folder that is not there is empty. */
static int list_folder(const char *dir, const char *kind, char *ret[MAX_FILES], size_t *ret_n,
                       struct vl_error *err)
{
    DIR *d = opendir(dir);
    int r = 0;
    *ret_n = 0;
    if (!d)
        return errno == ENOENT || errno == ENOTDIR
                   ? 0
                   : vl_error_set(err, -errno, "%s: %s", dir, strerror(errno));
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        if (!ends_with(e->d_name, kind))
            continue;
        if (*ret_n == MAX_FILES)
            r = vl_error_set(err, -EINVAL, "%s: more than %d files", dir, MAX_FILES);
        else if (asprintf(&ret[*ret_n], "%s/%s", dir, e->d_name) < 0)
            r = -ENOMEM;
        else
            (*ret_n)++;
    }
    (void)closedir(d);
    qsort(ret, *ret_n, sizeof(*ret), by_name);
    return r;
}

static int load_folder(struct vl_config *c, const char *base, const char *sub, const char *kind, bool strict,
                       struct vl_error *err)
{
    char dir[MAX_PATH], *name[MAX_FILES];
    size_t n;
    if (snprintf(dir, sizeof(dir), "%s/%s", base, sub) >= (int)sizeof(dir))
        return vl_error_set(err, -EINVAL, "%s: the path is too long", base);
    int r = list_folder(dir, kind, name, &n, err);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = vl_config_parse(c, kind, name[i], NULL, 0, strict, err);
    free_names(name, n);
    return r;
}

static int load_main_file(struct vl_config *c, const char *path, bool must, bool strict, struct vl_error *err)
{
    if (access(path, F_OK) < 0 && errno == ENOENT && !must)
        return 0;
    return vl_config_parse(c, "conf", path, NULL, 0, strict, err);
}

static int set_dir(struct vl_config *c, const struct vl_config_from *from, char **ret_file)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME"), *given = from->config;
    struct stat st;
    int r;
    if (!given)
        given = getenv("VLMD_CONFIG");
    if (given && stat(given, &st) == 0 && S_ISREG(st.st_mode)) {
        const char *slash = strrchr(given, '/');
        c->dir = slash ? strndup(given, (size_t)(slash - given)) : strdup(".");
        *ret_file = strdup(given);
        return c->dir && *ret_file ? 0 : -ENOMEM;
    }
    if (given)
        r = asprintf(&c->dir, "%s", given);
    else if (from->system)
        r = asprintf(&c->dir, "/etc/vlmd");
    else if (xdg && xdg[0] == '/')
        r = asprintf(&c->dir, "%s/vlmd", xdg);
    else
        r = asprintf(&c->dir, "%s/.config/vlmd", home ? home : "");
    if (r < 0) {
        c->dir = NULL;
        return -ENOMEM;
    }
    return asprintf(ret_file, "%s/vlmd.conf", c->dir) < 0 ? -ENOMEM : 0;
}

static int load_files(struct vl_config *c, const struct vl_config_from *from, struct vl_error *err)
{
    vl_autofree char *file = NULL;
    struct stat st;
    int r = set_dir(c, from, &file);
    if (r < 0)
        return r;
    if (from->config && stat(from->config, &st) < 0)
        return vl_error_set(err, -errno, "%s: %s", from->config, strerror(errno));
    if (from->system && !from->config)
        r = load_folder(c, VLMD_VENDOR_DIR, "vlmd.conf.d", "conf", from->strict, err);
    if (r < 0 || (r = load_main_file(c, file, false, from->strict, err)) < 0 ||
        (r = load_folder(c, c->dir, "vlmd.conf.d", "conf", from->strict, err)) < 0 ||
        (r = load_folder(c, c->dir, "models.d", "model", from->strict, err)) < 0)
        return r;
    return load_folder(c, c->dir, "streams.d", "stream", from->strict, err);
}

/* ---- the rest ---- */

static int set_string(char **dest, const char *s)
{
    free(*dest);
    *dest = s ? strdup(s) : NULL;
    return s && !*dest ? -ENOMEM : 0;
}

/* Beside our own program (a build that is not installed has it in pipelines/), else where it is installed. */
static int find_ingest(struct vl_config *c)
{
    static const char *const beside[] = {"vlmd-ingest", "../pipelines/vlmd-ingest"};
    char self[MAX_PATH], path[2 * MAX_PATH];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    for (size_t i = 0; slash && i < 2; i++) {
        (void)snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - self), self, beside[i]);
        if (access(path, X_OK) == 0)
            return set_string(&c->ingest_program, path);
    }
    return set_string(&c->ingest_program, VLMD_INGEST);
}

int vl_config_load(struct vl_config **ret, const struct vl_config_from *from, struct vl_error *err)
{
    vl_auto(vl_config) c = NULL;
    int r = vl_config_new(&c);
    if (r < 0)
        return r;
    c->system = from->system;
    c->no_preload = from->no_preload;
    if ((r = load_files(c, from, err)) < 0 || (r = vl_config_find_models(c, from, err)) < 0)
        return r;
    if (c->backend && !strcmp(c->backend, "auto"))
        (void)set_string(&c->backend, NULL); /* freeing cannot fail */
    r = from->ingest_program ? set_string(&c->ingest_program, from->ingest_program) : find_ingest(c);
    if (r < 0)
        return r;
    *ret = vl_steal(c);
    return 0;
}
