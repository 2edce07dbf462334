/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The expressions of each family, run by PCRE2 without its JIT (the daemon forbids itself writable and
 * executable memory). They are applied one after the other, each to every piece of the one before; what lies
 * between matches is a piece too, and look-ahead sees the end of a piece as the end of all text. The trap:
 * \s means something else to every engine, so White_Space is written out. */
#include "decoder/splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

enum { MAX_STAGES = 4 };
enum { MATCH_LIMIT = 10000000, DEPTH_LIMIT = 10000, HEAP_LIMIT_KIB = 16384 };

struct vl_splitter {
    struct vl_splitter_habits habits;
    unsigned n_stages;
    pcre2_code *stage[MAX_STAGES];
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

/* Unicode's White_Space: PCRE2's \s also takes U+180E, the references' does not. */
#define SPACE                                                                                                \
    "\\x09-\\x0D\\x20\\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define GPT2                                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|[" SPACE "]+(?![^" SPACE "])"
/* What Qwen2, Llama 3 and their like share: letters with at most one sign before them, line feeds kept with
 * the signs and spaces before them. MARKS joins the letters, DIGITS says how many stand together. */
#define TIKTOKEN(MARKS, DIGITS)                                                                              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}" MARKS "]+|" DIGITS "| ?[^" SPACE            \
    "\\p{L}" MARKS "\\p{N}]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

static const struct family {
    const char *names; /* between blanks; the first one is told when a name is unknown */
    struct vl_splitter_habits habits;
    const char *stage[MAX_STAGES];
} families[] = {
    {" gpt-2 phi-2 mpt olmo granite-docling ", {0}, {GPT2}},
    {" smollm starcoder refact command-r exaone codeshell ", {0}, {"\\p{N}", GPT2}},
    {" qwen2 deepseek-r1-qwen ", {0}, {TIKTOKEN("", "\\p{N}")}},
    {" qwen35 ", {0}, {TIKTOKEN("\\p{M}", "\\p{N}")}},
    {" llama-bpe llama3 llama-v3 lfm2 pixtral falcon3 ",
     {.whole = true, .add_bos = true},
     {TIKTOKEN("", "\\p{N}{1,3}")}},
    {" default ", {0}, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

static const struct family *find_family(const char *name)
{
    char key[64];
    int n = snprintf(key, sizeof(key), " %s ", name);
    if (n <= 2 || n >= (int)sizeof(key) || strchr(name, ' '))
        return NULL;
    for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++)
        if (strstr(families[i].names, key))
            return &families[i];
    return NULL;
}

static int refuse(const char *name, struct vl_error *err)
{
    char list[128] = "";
    size_t n = 0;
    for (size_t i = 0; i < sizeof(families) / sizeof(*families) && n < sizeof(list); i++) {
        const char *first = families[i].names + 1;
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%.*s", n ? ", " : "", (int)strcspn(first, " "),
                              first);
    }
    return vl_error_set(err, -ENOTSUP,
                        "splitter '%.40s' (tokenizer.ggml.pre) is not supported; this build has %s and their "
                        "aliases",
                        name, list);
}

static int compile(struct vl_splitter *s, const struct family *f, struct vl_error *err)
{
    for (int i = 0; i < MAX_STAGES && f->stage[i]; i++) {
        int code;
        PCRE2_SIZE at;
        s->stage[i] = pcre2_compile((PCRE2_SPTR)f->stage[i], PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE, &code, &at, NULL);
        if (!s->stage[i])
            return vl_error_set(err, -ENOMEM, "splitter%s, regex %d: PCRE2 error %d at %zu", f->names, i,
                                code, at);
        s->n_stages++;
    }
    s->match = pcre2_match_data_create(1, NULL);
    s->limits = pcre2_match_context_create(NULL);
    if (!s->match || !s->limits)
        return vl_error_set(err, -ENOMEM, "no memory for a splitter");
    (void)pcre2_set_match_limit(s->limits, MATCH_LIMIT); /* these three always return 0 */
    (void)pcre2_set_depth_limit(s->limits, DEPTH_LIMIT);
    (void)pcre2_set_heap_limit(s->limits, HEAP_LIMIT_KIB);
    return 0;
}

int vl_splitter_new(struct vl_splitter **ret, const char *pre, struct vl_error *err)
{
    const struct family *f = find_family(pre ? pre : "default");
    if (!f)
        return refuse(pre, err);
    vl_auto(vl_splitter) s = calloc(1, sizeof(*s));
    if (!s)
        return vl_error_set(err, -ENOMEM, "no memory for a splitter");
    s->habits = f->habits;
    s->habits.guessed = !pre;
    int r = compile(s, f, err);
    if (r == 0)
        *ret = vl_steal(s);
    return r;
}

struct vl_splitter *vl_splitter_unref(struct vl_splitter *s)
{
    if (!s)
        return NULL;
    for (int i = 0; i < MAX_STAGES; i++)
        pcre2_code_free(s->stage[i]);
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->limits);
    free(s);
    return NULL;
}

struct vl_splitter_habits vl_splitter_habits(const struct vl_splitter *s)
{
    return s->habits;
}

struct run {
    struct vl_splitter *s;
    vl_splitter_fn fn;
    void *user;
};

/* Recurses once for each stage. The results of a match are read before the next stage overwrites them. */
static int split(const struct run *x, unsigned stage, const unsigned char *p, size_t len)
{
    struct vl_splitter *s = x->s;
    if (stage >= MAX_STAGES || stage == s->n_stages)
        return x->fn(x->user, p, len);
    PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->match);
    for (size_t done = 0; done < len;) {
        int m = pcre2_match(s->stage[stage], p, len, done, PCRE2_NO_UTF_CHECK, s->match, s->limits);
        if (m < 0 && m != PCRE2_ERROR_NOMATCH)
            return m == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EOVERFLOW;
        size_t from = m < 0 ? len : at[0], to = m < 0 ? len : at[1];
        int r = from > done ? split(x, stage + 1, p + done, from - done) : 0;
        if (r == 0 && to > from)
            r = split(x, stage + 1, p + from, to - from);
        if (r != 0)
            return r;
        done = to;
    }
    return 0;
}

int vl_splitter_run(struct vl_splitter *s, const unsigned char *text, size_t len, vl_splitter_fn fn,
                    void *user)
{
    const struct run x = {s, fn, user};
    return split(&x, 0, text, len);
}
