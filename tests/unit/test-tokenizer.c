/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* decoder/tokenizer: ids against the `tokenizers` library (tests/reference/tokenizer_goldens.py), what user
 * text must not do, vocabularies that lie, round trips, and time. argv[1]: tests/golden/tokenizer. */
#include "decoder/tokenizer.h"
#include "tests/gguf_writer.h"
#include "tests/harness.h"
#include "weights/weights.h"

#include <string.h>
#include <time.h>

enum { MAX_PIECES = 8, MAX_IDS = 4096 };

static const char *golden;

static struct vl_tokenizer *open_golden(void)
{
    char path[512];
    struct vl_error err = {0};
    struct vl_tokenizer *t = NULL;
    vl_auto(vl_weights) w = NULL;
    (void)snprintf(path, sizeof(path), "%s/vocab.gguf", golden);
    if (vl_weights_open(&w, path, &err) < 0 || vl_tokenizer_new(&t, w, &err) < 0)
        fail_msg("%s; run tests/reference/tokenizer_goldens.py", err.msg);
    return t;
}

/* --- against the reference --- */

static int hex(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* "T:6869,U:20 5,7" in place. Returns the number of pieces; *ret_ids begins the ids. */
static size_t parse_pieces(char *line, struct vl_text_piece *piece, char **ret_ids)
{
    size_t n = 0;
    char *p = line;
    for (; n < MAX_PIECES; n++, p++) {
        bool trusted = *p == 'T';
        char *from = p += 2, *to = p;
        for (; *p != ',' && *p != ' '; p += 2)
            *to++ = (char)(hex(p[0]) * 16 + hex(p[1]));
        piece[n] = (struct vl_text_piece){from, (size_t)(to - from), trusted};
        if (*p == ' ')
            break;
    }
    *ret_ids = p + 1;
    return n + 1;
}

static void check_case(const struct vl_tokenizer *t, char *line, int number)
{
    struct vl_text_piece piece[MAX_PIECES];
    int32_t id[MAX_IDS], want;
    uint32_t n = 0, i = 0;
    char *p;
    size_t n_pieces = parse_pieces(line, piece, &p);
    assert_int_equal(vl_tokenizer_encode_pieces(t, piece, n_pieces, id, MAX_IDS, &n), 0);
    for (; *p && *p != '\n'; i++, p += *p == ',') {
        want = (int32_t)strtol(p, &p, 10);
        if (i >= n || id[i] != want)
            fail_msg("cases.txt line %d: id %u is %d, must be %d; replay: sed -n %dp %s/cases.txt", number, i,
                     i < n ? id[i] : -1, want, number, golden);
    }
    if (i != n)
        fail_msg("cases.txt line %d: %u ids, must be %u", number, n, i);
}

static void test_reference(void **state)
{
    (void)state;
    vl_auto(vl_tokenizer) t = open_golden();
    char path[512], line[1 << 14];
    int n = 0;
    (void)snprintf(path, sizeof(path), "%s/cases.txt", golden);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        check_case(t, line, ++n);
    (void)fclose(f);
    assert_true(n > 300);
}

/* Pieces of text as the splitter cuts them: with a vocabulary of bytes and merges that join everything inside
 * a piece, each piece of these texts is one id. */
static void check_splits(const struct vl_tokenizer *t, const char *text, const char *const *want)
{
    int32_t id[64];
    uint32_t n = 0;
    char got[VL_PIECE_MAX];
    size_t len;
    assert_int_equal(vl_tokenizer_encode(t, text, strlen(text), false, id, 64, &n), 0);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(vl_tokenizer_piece(t, id[i], got, &len), 0);
        if (!want[i] || len != strlen(want[i]) || memcmp(got, want[i], len) != 0)
            fail_msg("\"%s\": piece %u is \"%.*s\", must be \"%s\"", text, i, (int)len, got,
                     want[i] ? want[i] : "none");
    }
    assert_null(want[n]);
}

/* --- vocabularies made here --- */

enum { MAX_TOKENS = 1024 };
struct vocab {
    char text[MAX_TOKENS][64];
    const char *at[MAX_TOKENS];
    int32_t type[MAX_TOKENS];
    char merge[MAX_TOKENS][64];
    const char *merge_at[MAX_TOKENS];
    uint32_t n, n_merges;
    const char *model, *pre;
};

static void add_token(struct vocab *v, const char *text, int32_t type)
{
    (void)snprintf(v->text[v->n], sizeof(v->text[0]), "%s", text);
    v->at[v->n] = v->text[v->n];
    v->type[v->n++] = type;
}

/* Each prefix of the word becomes a token, merged letter by letter. Written in GPT-2's alphabet. */
static void add_word(struct vocab *v, const char *const *letter)
{
    char so_far[64] = "", next[64];
    for (int i = 0; letter[i]; i++) {
        (void)snprintf(next, sizeof(next), "%.40s%s", so_far, letter[i]);
        bool known = false;
        for (uint32_t j = 0; j < v->n; j++)
            known = known || strcmp(v->text[j], next) == 0;
        if (!known)
            add_token(v, next, 1);
        if (i && !known) {
            (void)snprintf(v->merge[v->n_merges], 64, "%.40s %s", so_far, letter[i]);
            v->merge_at[v->n_merges] = v->merge[v->n_merges];
            v->n_merges++;
        }
        memcpy(so_far, next, sizeof(so_far));
    }
}

static void add_bytes(struct vocab *v)
{
    unsigned next = 256;
    for (unsigned b = 0; b < 256; b++) {
        bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        unsigned c = itself ? b : next++;
        char s[3] = {(char)c};
        if (c >= 0x80) {
            s[0] = (char)(0xC0 | c >> 6);
            s[1] = (char)(0x80 | (c & 0x3F));
        }
        add_token(v, s, 1);
    }
}

static void write_vocab(const struct vocab *v, struct gguf_writer *g)
{
    gguf_init(g);
    if (v->model)
        gguf_str(g, "tokenizer.ggml.model", v->model);
    if (v->pre)
        gguf_str(g, "tokenizer.ggml.pre", v->pre);
    gguf_strs(g, "tokenizer.ggml.tokens", v->at, v->n);
    gguf_i32s(g, "tokenizer.ggml.token_type", v->type, v->n);
    gguf_strs(g, "tokenizer.ggml.merges", v->merge_at, v->n_merges);
}

static int open_written(struct vl_tokenizer **ret, struct gguf_writer *g, struct vl_error *err)
{
    size_t n;
    vl_autofree unsigned char *p = gguf_finish(g, &n);
    gguf_done(g);
    vl_autofd fd = gguf_memfd(p, n);
    vl_auto(vl_weights) w = NULL;
    int r = vl_weights_open_fd(&w, fd, "v.gguf", err);
    return r < 0 ? r : vl_tokenizer_new(ret, w, err);
}

#define WORD(...)                                                                                            \
    (const char *const[])                                                                                    \
    {                                                                                                        \
        __VA_ARGS__, NULL                                                                                    \
    }
#define SP  "\xC4\xA0" /* U+0120: a space */
#define NL  "\xC4\x8A" /* U+010A: a line feed */
#define TAB "\xC4\x89"

static struct vocab *new_vocab(void)
{
    struct vocab *v = calloc(1, sizeof(*v));
    assert_non_null(v);
    v->model = "gpt2";
    v->pre = "smollm";
    add_bytes(v);
    return v;
}

static void test_splits(void **state)
{
    (void)state;
    vl_autofree struct vocab *v = new_vocab();
    vl_auto(vl_tokenizer) t = NULL;
    struct vl_error err = {0};
    struct gguf_writer g;
    add_word(v, WORD(SP, SP));
    add_word(v, WORD("d", "o", "n"));
    add_word(v, WORD("'", "t"));
    add_word(v, WORD(SP, "D", "O", "N"));
    add_word(v, WORD(NL, NL, SP));
    add_word(v, WORD(SP, "y"));
    add_word(v, WORD(SP, "x"));
    add_word(v, WORD(SP, "b"));
    add_word(v, WORD(SP, NL));
    add_word(v, WORD(SP, TAB));
    add_word(v, WORD(".", "."));
    /* what must not be joined, because a split lies between */
    add_word(v, WORD("2", "2"));
    add_word(v, WORD("a", "1"));
    add_word(v, WORD("1", "b"));
    add_word(v, WORD("'", "T"));
    add_word(v, WORD(SP, SP, "1"));
    add_word(v, WORD(NL, NL));
    write_vocab(v, &g);
    if (open_written(&t, &g, &err) < 0)
        fail_msg("%s", err.msg);
    check_splits(t, "a  1", WORD("a", "  ", "1"));
    check_splits(t, "a1b22", WORD("a", "1", "b", "2", "2"));
    check_splits(t, "don't DON'T", WORD("don", "'t", " DON", "'", "T"));
    check_splits(t, "x\n\n  y", WORD("x", "\n\n ", " y"));
    check_splits(t, "..\n\nz", WORD("..", "\n", "\n", "z"));
    check_splits(t, "a \t b", WORD("a", " \t", " b"));
    check_splits(t, " \n x", WORD(" \n", " x"));
}

/* The smallest hostile vocabularies: F34. */
static void change_nothing(struct vocab *v)
{
    (void)v;
}
static void other_model(struct vocab *v)
{
    v->model = "llama";
}
static void other_splitter(struct vocab *v)
{
    v->pre = "tekken";
}
static void no_tokens(struct vocab *v)
{
    v->n = 0;
}
static void bad_type(struct vocab *v)
{
    v->type[3] = 7;
}
static void bad_byte(struct vocab *v)
{
    add_token(v, "<0x-1>", 6);
}
static void bad_utf8(struct vocab *v)
{
    add_token(v, "ab\xFF", 1);
}
static void merge_of(struct vocab *v, const char *merge)
{
    v->merge_at[v->n_merges++] = merge;
}
static void merge_unknown(struct vocab *v)
{
    merge_of(v, "a zz");
}
static void merge_result(struct vocab *v)
{
    merge_of(v, "a b");
}
static void merge_no_space(struct vocab *v)
{
    merge_of(v, "ab");
}
static void merge_empty(struct vocab *v)
{
    merge_of(v, "");
}
static void merge_half(struct vocab *v)
{
    merge_of(v, "a ");
}
static void merge_special(struct vocab *v)
{
    add_token(v, "<i", 1);
    add_token(v, "<i>", 3);
    merge_of(v, "< i");
    merge_of(v, "<i >");
}

static const struct {
    const char *name;
    void (*change)(struct vocab *v);
    int r;
    const char *says;
} hostile[] = {
    {"a good one", change_nothing, 0, ""},
    {"other model", other_model, -ENOTSUP, "tokenizer 'llama' is not supported"},
    {"other splitter", other_splitter, -ENOTSUP, "v.gguf: splitter 'tekken'"},
    {"no tokens", no_tokens, -EINVAL, "has 0 tokens"},
    {"type 7", bad_type, -EINVAL, "has type 7, must be 1 to 6"},
    {"byte token <0x-1>", bad_byte, -EINVAL, "byte token 256 is '<0x-1>'"},
    {"invalid UTF-8", bad_utf8, -EINVAL, "token 256 is not valid UTF-8"},
    {"merge of an unknown token", merge_unknown, -EINVAL, "merge 0 'a zz'"},
    {"merge into an unknown token", merge_result, -EINVAL, "merge 0 'a b'"},
    {"merge without a space", merge_no_space, -EINVAL, "merge 0 'ab'"},
    {"empty merge", merge_empty, -EINVAL, "merge 0 ''"},
    {"half a merge", merge_half, -EINVAL, "merge 0 'a '"},
    {"merge into a special token", merge_special, -EINVAL, "merge 1 '<i >'"},
};

static void test_hostile(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(hostile) / sizeof(*hostile); i++) {
        vl_autofree struct vocab *v = new_vocab();
        vl_auto(vl_tokenizer) t = NULL;
        struct vl_error err = {0};
        struct gguf_writer g;
        hostile[i].change(v);
        write_vocab(v, &g);
        int r = open_written(&t, &g, &err);
        if (r != hostile[i].r || !strstr(err.msg, hostile[i].says))
            fail_msg("%s: returned %d, \"%s\"; must return %d and say \"%s\"", hostile[i].name, r, err.msg,
                     hostile[i].r, hostile[i].says);
    }
}

static void test_hostile_keys(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t v;
        const char *says;
    } bad[] = {{"tokenizer.ggml.bos_token_id", 256,
                "key 'tokenizer.ggml.bos_token_id' is 256, but there are 256 tokens"},
               {"tokenizer.ggml.eos_token_id", UINT32_MAX, "key 'tokenizer.ggml.eos_token_id' is 4294967295"},
               {"tokenizer.ggml.scores", 1, "must be an array"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        vl_autofree struct vocab *v = new_vocab();
        vl_auto(vl_tokenizer) t = NULL;
        struct vl_error err = {0};
        struct gguf_writer g;
        write_vocab(v, &g);
        gguf_u32(&g, bad[i].key, bad[i].v);
        assert_int_equal(open_written(&t, &g, &err), -EINVAL);
        if (!strstr(err.msg, bad[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err.msg, bad[i].says);
    }
    vl_autofree struct vocab *v = new_vocab();
    vl_auto(vl_tokenizer) t = NULL;
    struct vl_error err = {0};
    struct gguf_writer g;
    write_vocab(v, &g);
    gguf_f32s(&g, "tokenizer.ggml.scores", (const float[]){1}, 1);
    assert_int_equal(open_written(&t, &g, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "scores has 1 elements, must have 256"));
}

/* --- special tokens and ends --- */

static void test_special(void **state)
{
    (void)state;
    vl_auto(vl_tokenizer) t = open_golden();
    int32_t id[64], image = vl_tokenizer_find(t, "<image>");
    uint32_t n = 0;
    assert_true(image >= 0 && vl_tokenizer_is_special(t, image));
    assert_int_equal(vl_tokenizer_find(t, "<imag>"), VL_TOKEN_NONE);
    assert_int_equal(vl_tokenizer_encode(t, "<image>", 7, true, id, 64, &n), 0);
    assert_true(n == 1 && id[0] == image);
    assert_int_equal(vl_tokenizer_encode(t, "<image>", 7, false, id, 64, &n), 0);
    for (uint32_t i = 0; i < n; i++)
        assert_false(vl_tokenizer_is_special(t, id[i]));
    assert_true(n > 1);
    assert_int_equal(vl_tokenizer_bos(t), vl_tokenizer_find(t, "<|im_start|>"));
    assert_int_equal(vl_tokenizer_eos(t), vl_tokenizer_find(t, "<end_of_utterance>"));
    assert_false(vl_tokenizer_add_bos(t));
    assert_true(vl_tokenizer_is_end(t, vl_tokenizer_find(t, "<end_of_utterance>")));
    assert_true(vl_tokenizer_is_end(t, vl_tokenizer_find(t, "<|im_end|>")));
    assert_true(vl_tokenizer_is_end(t, vl_tokenizer_find(t, "<|endoftext|>")));
    assert_false(vl_tokenizer_is_end(t, image));
    assert_false(vl_tokenizer_is_end(t, VL_TOKEN_NONE));
    assert_false(vl_tokenizer_is_end(t, INT32_MAX));
}

static void test_limits(void **state)
{
    (void)state;
    vl_auto(vl_tokenizer) t = open_golden();
    int32_t id[4] = {-7, -7, -7, -7};
    uint32_t n = 99;
    assert_int_equal(vl_tokenizer_encode(t, "1234", 4, false, id, 4, &n), 0);
    assert_int_equal(n, 4);
    n = 99;
    assert_int_equal(vl_tokenizer_encode(t, "1234", 4, false, id, 3, &n), VL_TOKENIZER_FULL);
    assert_int_equal(vl_tokenizer_encode(t, "1234", 4, false, NULL, 0, &n), VL_TOKENIZER_FULL);
    assert_int_equal(n, 99);
    assert_int_equal(vl_tokenizer_encode(t, "", 0, false, NULL, 0, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(vl_tokenizer_encode(t, "x", VL_TOKENIZER_MAX_TEXT + 1, false, id, 4, &n), -E2BIG);
    const struct vl_text_piece huge[2] = {{"x", SIZE_MAX, false}, {"x", 2, false}};
    assert_int_equal(vl_tokenizer_encode_pieces(t, huge, 2, id, 4, &n), -E2BIG);
}

/* Hostile text: nothing special comes out of it, everything comes back, and time is bounded (F38). */
static void check_text(const struct vl_tokenizer *t, const char *text, size_t len, bool valid)
{
    enum { CAP = 3 * (16 << 10) };
    static int32_t id[CAP];
    static char out[CAP + VL_DETOK_MAX];
    struct vl_detok d = {0};
    uint32_t n = 0;
    size_t at = 0, m;
    assert_int_equal(vl_tokenizer_encode(t, text, len, false, id, CAP, &n), 0);
    for (uint32_t i = 0; i < n; i++) {
        assert_false(vl_tokenizer_is_special(t, id[i]));
        assert_int_equal(vl_detok_push(t, &d, id[i], out + at, &m), 0);
        assert_true((at += m) <= CAP);
    }
    vl_detok_flush(&d, out + at, &m);
    assert_int_equal(m, 0);
    if (valid) {
        assert_int_equal(at, len);
        assert_memory_equal(out, text, len);
    }
}

static void fill(char *s, size_t n, const char *unit)
{
    for (size_t i = 0; i < n; i++)
        s[i] = unit[i % strlen(unit)];
}

/* There and back; sanitizers cost about ten times. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MAX_MS = 500 };
#elif defined(__has_feature)
enum { MAX_MS = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ? 500 : 50 };
#else
enum { MAX_MS = 50 };
#endif

static void test_hostile_text(void **state)
{
    (void)state;
    enum { N = 16 << 10 };
    vl_auto(vl_tokenizer) t = open_golden();
    static char s[N];
    static const char *const unit[] = {"a", " ",   "\n",   "1",       "<",        ".",
                                       "'", " \n", "the ", "<image>", "\xCC\x81", "\xE4\xBD\xA0\xF0"};
    for (size_t i = 0; i < sizeof(unit) / sizeof(*unit); i++) {
        fill(s, N, unit[i]);
        clock_t start = clock();
        check_text(t, s, N, i + 1 < sizeof(unit) / sizeof(*unit) && N % strlen(unit[i]) == 0);
        long ms = (long)((clock() - start) * 1000 / CLOCKS_PER_SEC);
        if (ms > MAX_MS)
            fail_msg("16 KiB of '%s' take %ld ms of CPU, more than %d", unit[i], ms, MAX_MS);
    }
    for (int b = 0; b < 256; b++) {
        memset(s, b, 64);
        check_text(t, s, 64, b < 0x80);
    }
}

static void test_random_text(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("random text");
    vl_auto(vl_tokenizer) t = open_golden();
    for (int i = 0; i < 2000; i++) {
        char s[64];
        size_t n = test_randn(&rng, sizeof(s)), m = 0;
        bool valid = i % 2;
        for (size_t j = 0; j < n; j++)
            s[j] = (char)test_rand(&rng);
        if (valid)
            for (m = 0; m + 4 <= n;) { /* code points of 1 to 3 bytes */
                uint32_t v = test_randn(&rng, 3) ? test_randn(&rng, 0x80) : test_randn(&rng, 0x800);
                if (v < 0x80)
                    s[m++] = (char)v;
                else {
                    s[m++] = (char)(0xC0 | v >> 6);
                    s[m++] = (char)(0x80 | (v & 0x3F));
                }
            }
        check_text(t, s, valid ? m : n, valid);
    }
}

/* --- detokenizing --- */

/* The token of one byte, of those that stand for themselves in the alphabet. */
static void push(const struct vl_tokenizer *t, struct vl_detok *d, uint8_t byte, char *out, size_t *at)
{
    size_t m;
    char s[3] = {(char)byte};
    assert_true(byte >= 0xAE || (byte >= 0x21 && byte <= 0x7E));
    if (byte >= 0x80) {
        s[0] = (char)(0xC0 | byte >> 6);
        s[1] = (char)(0x80 | (byte & 0x3F));
    }
    int32_t id = vl_tokenizer_find(t, s);
    assert_int_equal(vl_detok_push(t, d, id, out + *at, &m), 0);
    *at += m;
}

static void test_detok(void **state)
{
    (void)state;
    vl_auto(vl_tokenizer) t = open_golden();
    struct vl_detok d = {0};
    static char out[2 * VL_DETOK_MAX];
    size_t at = 0, m;
    /* U+1F3F7 is F0 9F 8F B7, of which 9F and 8F are not themselves in the alphabet: use U+3C3FF = F0 BC 8F
     * BF ... */
    push(t, &d, 0xE4, out, &at);
    assert_int_equal(d.n, 1);
    push(t, &d, 0xBD, out, &at);
    assert_int_equal(at, 0);
    push(t, &d, 0xBF, out, &at);
    assert_int_equal(at, 3);
    assert_memory_equal(out, "\xE4\xBD\xBF", 3);
    /* a prefix that nothing completes, then a letter */
    push(t, &d, 0xF0, out, &at);
    push(t, &d, 0xBF, out, &at);
    assert_int_equal(at, 3);
    push(t, &d, 'a', out, &at);
    assert_int_equal(at, 3 + 3 + 3 + 1);
    assert_memory_equal(out + 3,
                        "\xEF\xBF\xBD\xEF\xBF\xBD"
                        "a",
                        7);
    /* control tokens are silent and do not disturb what waits */
    push(t, &d, 0xC3, out, &at);
    assert_int_equal(vl_detok_push(t, &d, vl_tokenizer_find(t, "<image>"), out + at, &m), 0);
    assert_int_equal(m, 0);
    push(t, &d, 0xBF, out, &at);
    assert_memory_equal(out + 10, "\xC3\xBF", 2);
    push(t, &d, 0xE4, out, &at);
    vl_detok_flush(&d, out, &m);
    assert_int_equal(m, 3);
    assert_memory_equal(out, "\xEF\xBF\xBD", 3);
    assert_int_equal(d.n, 0);
    assert_int_equal(vl_detok_push(t, &d, -1, out, &m), -EINVAL);
    assert_int_equal(vl_detok_push(t, &d, (int32_t)vl_tokenizer_n_vocab(t), out, &m), -EINVAL);
}

/* A byte that the vocabulary lacks is dropped; added tokens that are not special in meaning keep their text.
 */
static void test_odd_vocabulary(void **state)
{
    (void)state;
    vl_autofree struct vocab *v = new_vocab();
    vl_auto(vl_tokenizer) t = NULL;
    struct vl_error err = {0};
    struct gguf_writer g;
    (void)strcpy(v->text['b'], "\xE4\xBD\xA0"); /* not of the alphabet: itself */
    add_token(v, "caf\xC3\xA9", 4);
    add_token(v, "<0x0A>", 6);
    write_vocab(v, &g);
    if (open_written(&t, &g, &err) < 0)
        fail_msg("%s", err.msg);
    int32_t id[8];
    uint32_t n = 0;
    char s[VL_PIECE_MAX];
    size_t len;
    assert_int_equal(vl_tokenizer_encode(t, "abc", 3, false, id, 8, &n), 0);
    assert_int_equal(n, 2);
    assert_int_equal(vl_tokenizer_piece(t, 'b', s, &len), 0);
    assert_memory_equal(s, "\xE4\xBD\xA0", len);
    assert_int_equal(vl_tokenizer_encode(t, "xcaf\xC3\xA9", 6, true, id, 8, &n), 0);
    assert_true(n == 2 && id[1] == 256);
    assert_int_equal(vl_tokenizer_piece(t, 256, s, &len), 0);
    assert_int_equal(len, 5);
    assert_int_equal(vl_tokenizer_piece(t, 257, s, &len), 0);
    assert_true(len == 1 && s[0] == '\n');
}

/* One family: the ids of "abc de" with a token "abc" to which no merges lead, and what is said of bos. */
static void check_family(const char *pre, const int *add_bos, int bos, uint32_t n_ids, bool want_bos)
{
    vl_autofree struct vocab *v = new_vocab();
    vl_auto(vl_tokenizer) t = NULL;
    struct vl_error err = {0};
    struct gguf_writer g;
    v->pre = pre;
    add_token(v, "abc", 1);
    add_token(v, SP "de", 3); /* special: no text that a user types */
    write_vocab(v, &g);
    if (bos >= 0)
        gguf_u32(&g, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    if (add_bos)
        gguf_bool(&g, "tokenizer.ggml.add_bos_token", *add_bos);
    if (open_written(&t, &g, &err) < 0)
        fail_msg("%s", err.msg);
    int32_t id[8];
    uint32_t n = 0;
    assert_int_equal(vl_tokenizer_encode(t, "abc de", 6, false, id, 8, &n), 0);
    assert_int_equal(n, n_ids);
    assert_int_equal(id[0] == 256, n_ids == 4);
    assert_int_equal(vl_tokenizer_add_bos(t), want_bos);
    assert_int_equal(vl_tokenizer_doubt(t) != NULL, pre == NULL);
}

static void test_families(void **state)
{
    (void)state;
    static const int yes = 1, no = 0;
    check_family("smollm", NULL, 5, 6, false);
    check_family("smollm", &yes, 5, 6, true);
    check_family("qwen2", NULL, 5, 6, false);
    check_family("llama-bpe", NULL, 5, 4, true); /* "abc" whole, then " ", "d", "e" */
    check_family("llama-bpe", &no, 5, 4, false);
    check_family("llama-bpe", NULL, -1, 4, false);
    check_family("default", NULL, 5, 6, false);
    check_family(NULL, NULL, 5, 6, false);
}

/* A piece and a token at the limit of a token's length, and one beyond. */
static void test_longest_whole(void **state)
{
    (void)state;
    static char text[VL_PIECE_MAX + 2];
    vl_autofree struct vocab *v = new_vocab();
    vl_auto(vl_tokenizer) t = NULL;
    struct vl_error err = {0};
    struct gguf_writer g;
    memset(text, 'a', VL_PIECE_MAX);
    v->pre = "llama-bpe";
    v->at[v->n] = text;
    v->type[v->n++] = 1;
    write_vocab(v, &g);
    if (open_written(&t, &g, &err) < 0)
        fail_msg("%s", err.msg);
    static int32_t id[VL_PIECE_MAX + 1];
    uint32_t n = 0;
    assert_int_equal(vl_tokenizer_encode(t, text, VL_PIECE_MAX, false, id, VL_PIECE_MAX + 1, &n), 0);
    assert_true(n == 1 && id[0] == 256);
    text[VL_PIECE_MAX] = 'a';
    assert_int_equal(vl_tokenizer_encode(t, text, VL_PIECE_MAX + 1, false, id, VL_PIECE_MAX + 1, &n), 0);
    assert_int_equal(n, VL_PIECE_MAX + 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),    cmocka_unit_test(test_splits),
        cmocka_unit_test(test_hostile),      cmocka_unit_test(test_hostile_keys),
        cmocka_unit_test(test_special),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_hostile_text), cmocka_unit_test(test_random_text),
        cmocka_unit_test(test_detok),        cmocka_unit_test(test_odd_vocabulary),
        cmocka_unit_test(test_families),     cmocka_unit_test(test_longest_whole),
    };
    golden = argc > 1 ? argv[1] : "tests/golden/tokenizer";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
