/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* decoder/splitter: pieces against the `tokenizers` and `regex` libraries
 * (tests/reference/splitter_goldens.py), names, what comes with them, and time. argv[1]:
 * tests/golden/tokenizer. */
#include "decoder/splitter.h"
#include "tests/harness.h"

#include <string.h>
#include <time.h>

enum { MAX_FAMILIES = 16, MAX_CUTS = 512 };

static const char *golden;

struct cuts {
    size_t n, len[MAX_CUTS], total;
    const unsigned char *text;
};

static int note(void *user, const unsigned char *piece, size_t len)
{
    struct cuts *c = user;
    assert_true(c->n < MAX_CUTS && len > 0 && piece == c->text + c->total);
    c->len[c->n++] = len;
    c->total += len;
    return 0;
}

static struct vl_splitter *open_splitter(const char *pre)
{
    struct vl_splitter *s = NULL;
    struct vl_error err = {0};
    if (vl_splitter_new(&s, pre, &err) < 0)
        fail_msg("%s", err.msg);
    return s;
}

/* want: "3,1,4", in place */
static void check_cuts(struct vl_splitter *s, const char *name, const unsigned char *text, size_t len,
                       char *want, int line)
{
    struct cuts c = {.text = text};
    size_t i = 0;
    assert_int_equal(vl_splitter_run(s, text, len, note, &c), 0);
    for (char *p = want; *p; i++, p += *p == ',') {
        size_t n = strtoul(p, &p, 10);
        if (i >= c.n || c.len[i] != n)
            fail_msg("splits.txt line %d, %s: piece %zu has %zu bytes, must have %zu; see sed -n %dp "
                     "%s/splits.txt",
                     line, name, i, i < c.n ? c.len[i] : 0, n, line, golden);
    }
    if (i != c.n || c.total != len)
        fail_msg("splits.txt line %d, %s: %zu pieces, must be %zu", line, name, c.n, i);
}

static size_t unhex(char *s)
{
    size_t n = 0;
    for (; s[2 * n]; n++) {
        char two[3] = {s[2 * n], s[2 * n + 1]};
        s[n] = (char)strtoul(two, NULL, 16);
    }
    return n;
}

static void test_reference(void **state)
{
    (void)state;
    struct vl_splitter *s[MAX_FAMILIES] = {NULL};
    char path[512], line[1 << 13], names[256], *name[MAX_FAMILIES], *save;
    size_t n = 0, n_lines = 1;
    (void)snprintf(path, sizeof(path), "%s/splits.txt", golden);
    FILE *f = fopen(path, "re");
    if (!f || !fgets(names, sizeof(names), f))
        fail_msg("%s is missing; run tests/reference/splitter_goldens.py", path);
    for (char *p = strtok_r(names, " \n", &save); p && n < MAX_FAMILIES; p = strtok_r(NULL, " \n", &save)) {
        name[n] = p;
        s[n++] = open_splitter(p);
    }
    while (fgets(line, sizeof(line), f)) {
        char *text = strtok_r(line, " \n", &save), *want;
        n_lines++;
        size_t len = 0;
        for (size_t i = 0; i < n && (want = strtok_r(NULL, " \n", &save)); i++) {
            if (i == 0)
                len = unhex(text);
            check_cuts(s[i], name[i], (const unsigned char *)text, len, want, (int)n_lines);
        }
    }
    (void)fclose(f);
    assert_true(n == 6 && n_lines > 200);
    for (size_t i = 0; i < n; i++)
        s[i] = vl_splitter_unref(s[i]);
}

/* Aliases, and what else a family says. */
static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *pre, *like; /* text that tells the families apart: "12 34.." */
        bool whole, add_bos;
    } known[] = {
        {"gpt-2", "2,3,2,", false, false},
        {"phi-2", "2,3,2,", false, false},
        {"mpt", "2,3,2,", false, false},
        {"olmo", "2,3,2,", false, false},
        {"smollm", "1,1,1,1,1,2,", false, false},
        {"starcoder", "1,1,1,1,1,2,", false, false},
        {"refact", "1,1,1,1,1,2,", false, false},
        {"command-r", "1,1,1,1,1,2,", false, false},
        {"exaone", "1,1,1,1,1,2,", false, false},
        {"qwen2", "1,1,1,1,1,2,", false, false},
        {"deepseek-r1-qwen", "1,1,1,1,1,2,", false, false},
        {"qwen35", "1,1,1,1,1,2,", false, false},
        {"llama-bpe", "2,1,2,2,", true, true},
        {"llama3", "2,1,2,2,", true, true},
        {"lfm2", "2,1,2,2,", true, true},
        {"pixtral", "2,1,2,2,", true, true},
        {"falcon3", "2,1,2,2,", true, true},
        {"default", "2,1,2,2,", false, false},
    };
    static const unsigned char text[] = "12 34..";
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        vl_auto(vl_splitter) s = open_splitter(known[i].pre);
        struct cuts c = {.text = text};
        char got[64];
        size_t n = 0;
        assert_int_equal(vl_splitter_run(s, text, sizeof(text) - 1, note, &c), 0);
        for (size_t j = 0; j < c.n; j++)
            n += (size_t)snprintf(got + n, sizeof(got) - n, "%zu,", c.len[j]);
        if (strcmp(got, known[i].like) != 0)
            fail_msg("%s cuts \"%s\" into %s must be %s", known[i].pre, text, got, known[i].like);
        assert_int_equal(vl_splitter_habits(s).whole, known[i].whole);
        assert_int_equal(vl_splitter_habits(s).add_bos, known[i].add_bos);
        assert_false(vl_splitter_habits(s).guessed);
    }
    vl_auto(vl_splitter) missing = open_splitter(NULL);
    assert_true(vl_splitter_habits(missing).guessed);
}

static void test_unknown(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "tekken", "",
        " ",      "qwen",
        "qwen2 ", "gpt-2 phi-2",
        "QWEN2",  "a name that is longer than any of ours is and longer than the room for it"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct vl_splitter *s = NULL;
        struct vl_error err = {0};
        char want[64];
        (void)snprintf(want, sizeof(want), "splitter '%.40s'", bad[i]);
        assert_int_equal(vl_splitter_new(&s, bad[i], &err), -ENOTSUP);
        assert_null(s);
        if (!strstr(err.msg, want) || !strstr(err.msg, "gpt-2, smollm, qwen2, qwen35, llama-bpe, default"))
            fail_msg("\"%s\" does not name '%s' and what there is", err.msg, bad[i]);
    }
}

static int stop_at_b(void *user, const unsigned char *piece, size_t len)
{
    (void)len;
    ++*(int *)user;
    return *piece == 'b' ? 7 : 0;
}

static void test_stop(void **state)
{
    (void)state;
    vl_auto(vl_splitter) s = open_splitter("smollm");
    int n = 0;
    assert_int_equal(vl_splitter_run(s, (const unsigned char *)"a1b2", 4, stop_at_b, &n), 7);
    assert_int_equal(n, 3);
    assert_int_equal(vl_splitter_run(s, (const unsigned char *)"", 0, stop_at_b, &n), 0);
    assert_int_equal(n, 3);
}

static int count(void *user, const unsigned char *piece, size_t len)
{
    (void)piece;
    *(size_t *)user += len;
    return 0;
}

/* Sanitizers cost about ten times, and PCRE2 is not built with them. */
static void test_time(void **state)
{
    (void)state;
    enum { N = 256 << 10, MAX_MS = 3000 };
    static const char *const family[] = {"gpt-2", "smollm", "qwen2", "qwen35", "llama-bpe", "default"};
    static const char *const unit[] = {"a",     " ", "\n",       "1",    "'",   " \n",
                                       "\r\n ", ".", "\xCC\x81", "the ", "  x", "\xC2\xA0"};
    vl_autofree unsigned char *text = malloc(N);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof(family) / sizeof(*family); i++) {
        vl_auto(vl_splitter) s = open_splitter(family[i]);
        for (size_t j = 0; j < sizeof(unit) / sizeof(*unit); j++) {
            size_t m = strlen(unit[j]), n = N / m * m, total = 0;
            for (size_t k = 0; k < n; k++)
                text[k] = (unsigned char)unit[j][k % m];
            clock_t start = clock();
            assert_int_equal(vl_splitter_run(s, text, n, count, &total), 0);
            long ms = (long)((clock() - start) * 1000 / CLOCKS_PER_SEC);
            assert_int_equal(total, n);
            if (ms > MAX_MS)
                fail_msg("%s: 256 KiB of '%s' take %ld ms of CPU, more than %d", family[i], unit[j], ms,
                         MAX_MS);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference), cmocka_unit_test(test_names), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_stop),      cmocka_unit_test(test_time),
    };
    golden = argc > 1 ? argv[1] : "tests/golden/tokenizer";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
