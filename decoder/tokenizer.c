/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Byte-level BPE (Radford et al. 2019, GPT-2; Sennrich et al. 2016) over a vocabulary out of a model file.
 * Process lifetime; encode is for the engine thread alone, because it has one set of working memory. Ids of
 * pairs are looked up by bisection in sorted tables, never by hashing, so a hostile vocabulary cannot make it
 * slow. The trap: `text` is GPT-2's alphabet, in which every byte has a printable code point; only special
 * tokens are plain text. */
#include "decoder/tokenizer.h"
#include "weights/weights.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };
enum { FLAG_SPECIAL = 1, FLAG_SILENT = 2, FLAG_END = 4, FLAG_BYTE = 8 };
enum { N_ALPHABET = 256 + 68, MAX_STAGES = 2, FIRST_TEXT = 1024, MAX_MERGES = 4 << 20 };
enum { MATCH_LIMIT = 10000000, DEPTH_LIMIT = 10000, HEAP_LIMIT_KIB = 16384 };

struct word { /* a token in the order of texts; head: its first 8 bytes, big endian, so that most comparisons
                 end there */
    uint64_t head;
    int32_t id;
};
struct merge {
    int32_t left, right, into;
    uint32_t rank;
};
struct symbol { /* of the piece being merged; a doubly linked list by index, id < 0: gone */
    int32_t id, prev, next;
};
struct candidate { /* key: rank, then place, so that the smallest is the next to merge */
    uint64_t key;
    uint32_t merge;
};
struct work {
    unsigned char *text, *trust; /* [text_cap] clean text, and whether each byte may be of a special token */
    struct symbol *symbol;       /* [text_cap] */
    struct candidate *heap;      /* [3 * text_cap] */
    size_t text_cap, n_heap;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};
struct vl_tokenizer {
    uint32_t n_vocab, n_merges, n_special, n_stages;
    char *text;
    uint32_t *at;          /* [n_vocab + 1] where each token begins in text */
    uint8_t *flags;        /* [n_vocab] */
    struct word *word;     /* [n_vocab] ascending by text, then id */
    struct merge *merge;   /* [n_merges] ascending by left, then right */
    uint32_t *first_merge; /* [n_vocab + 1] by left */
    int32_t *special;      /* [n_special] by first byte, then longest first */
    uint32_t first_special[257];
    uint16_t alphabet[256];      /* byte -> code point */
    int16_t byte_of[N_ALPHABET]; /* and back; -1: not in it */
    int32_t byte_id[256];        /* VL_TOKEN_NONE: the vocabulary has no token for it */
    int32_t bos, eos;
    bool add_bos;
    pcre2_code *stage[MAX_STAGES];
    struct work *work;
};

/* --- splitters --- */

/* Unicode's White_Space written out: PCRE2's \s also takes U+180E, the reference's does not. */
#define SPACE                                                                                                \
    "\\x09-\\x0D\\x20\\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define GPT2                                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|[" SPACE "]+(?![^" SPACE "])"

/* Applied one after the other, each to every piece of the one before; what lies between matches is a piece
 * too. */
static const struct splitter {
    const char *pre, *stage[MAX_STAGES];
} splitters[] = {
    {"smollm", {"\\p{N}", GPT2}},
};

static int compile(struct vl_tokenizer *t, const struct splitter *s, struct vl_error *err)
{
    for (int i = 0; i < MAX_STAGES && s->stage[i]; i++) {
        int code;
        PCRE2_SIZE at;
        t->stage[i] = pcre2_compile((PCRE2_SPTR)s->stage[i], PCRE2_ZERO_TERMINATED,
                                    PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE, &code, &at, NULL);
        if (!t->stage[i])
            return vl_error_set(err, -ENOMEM, "splitter '%s', regex %d: PCRE2 error %d at %zu", s->pre, i,
                                code, at);
        t->n_stages++;
    }
    t->work->match = pcre2_match_data_create(1, NULL);
    t->work->limits = pcre2_match_context_create(NULL);
    if (!t->work->match || !t->work->limits)
        return vl_error_set(err, -ENOMEM, "no memory for the splitter");
    (void)pcre2_set_match_limit(t->work->limits, MATCH_LIMIT); /* these three always return 0 */
    (void)pcre2_set_depth_limit(t->work->limits, DEPTH_LIMIT);
    (void)pcre2_set_heap_limit(t->work->limits, HEAP_LIMIT_KIB);
    return 0;
}

static int load_splitter(struct vl_tokenizer *t, const struct vl_weights *w, struct vl_error *err)
{
    const char *pre;
    int r = vl_weights_need_str(w, "tokenizer.ggml.pre", &pre, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof(splitters) / sizeof(*splitters); i++)
        if (strcmp(pre, splitters[i].pre) == 0)
            return compile(t, &splitters[i], err);
    return vl_error_set(err, -ENOTSUP,
                        "%.60s: splitter '%.40s' (tokenizer.ggml.pre) is not supported; this build has "
                        "'smollm'",
                        vl_weights_name(w), pre);
}

/* --- bytes and code points --- */

/* Length of the code point at p (n > 0), 0: no UTF-8 begins so, -1: it may, but ends too early to tell. */
static int utf8_len(const unsigned char *p, size_t n)
{
    unsigned char lo = 0x80, hi = 0xBF;
    int len = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;
    if (p[0] == 0xE0 || p[0] == 0xF0)
        lo = p[0] == 0xE0 ? 0xA0 : 0x90; /* no overlong forms */
    if (p[0] == 0xED || p[0] == 0xF4)
        hi = p[0] == 0xED ? 0x9F : 0x8F; /* no surrogates, nothing above U+10FFFF */
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n)
            return -1;
        if (p[i] < (i == 1 ? lo : 0x80) || p[i] > (i == 1 ? hi : 0xBF))
            return 0;
    }
    return len;
}

static uint32_t code_point(const unsigned char *p, int len)
{
    static const uint8_t mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t v = p[0] & mask[len];
    for (int i = 1; i < len; i++)
        v = v << 6 | (p[i] & 0x3F);
    return v;
}

static size_t put_code_point(char *out, uint32_t v) /* v < 0x800 */
{
    if (v < 0x80) {
        out[0] = (char)v;
        return 1;
    }
    out[0] = (char)(0xC0 | v >> 6);
    out[1] = (char)(0x80 | (v & 0x3F));
    return 2;
}

static void init_alphabet(struct vl_tokenizer *t)
{
    uint16_t next = 256;
    memset(t->byte_of, 0xFF, sizeof(t->byte_of));
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        t->alphabet[b] = itself ? (uint16_t)b : next++;
        t->byte_of[t->alphabet[b]] = (int16_t)b;
    }
}

/* Text from outside becomes valid UTF-8; out has room for 3 * n bytes. */
static size_t clean(unsigned char *out, const unsigned char *in, size_t n)
{
    size_t m = 0;
    for (size_t i = 0; i < n;) {
        int len = utf8_len(in + i, n - i);
        if (len > 0) {
            memcpy(out + m, in + i, (size_t)len);
            m += (size_t)len;
            i += (size_t)len;
        } else {
            memcpy(out + m, "\xEF\xBF\xBD", 3);
            m += 3;
            i++;
        }
    }
    return m;
}

/* --- the vocabulary --- */

static const char *text_of(const struct vl_tokenizer *t, int32_t id, size_t *ret_len)
{
    *ret_len = t->at[id + 1] - t->at[id];
    return t->text + t->at[id];
}

static uint64_t head_of(const char *s, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < 8; i++)
        v = v << 8 | (i < n ? (unsigned char)s[i] : 0);
    return v;
}

static int compare_text(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int d = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return d ? d : (n_a > n_b) - (n_a < n_b);
}

static int compare_words(const void *a, const void *b, void *tokenizer)
{
    const struct word *x = a, *y = b;
    if (x->head != y->head)
        return x->head < y->head ? -1 : 1;
    size_t n_x, n_y;
    const char *s = text_of(tokenizer, x->id, &n_x), *u = text_of(tokenizer, y->id, &n_y);
    int d = compare_text(s, n_x, u, n_y);
    return d ? d : (x->id > y->id) - (x->id < y->id);
}

static int32_t find(const struct vl_tokenizer *t, const char *text, size_t len)
{
    uint64_t head = head_of(text, len);
    size_t lo = 0, hi = t->n_vocab;
    while (lo < hi) { /* the first word that is not less */
        size_t mid = (lo + hi) / 2, n;
        const struct word *m = &t->word[mid];
        bool less = m->head < head;
        if (m->head == head) {
            const char *s = text_of(t, m->id, &n);
            less = compare_text(s, n, text, len) < 0;
        }
        lo = less ? mid + 1 : lo;
        hi = less ? hi : mid;
    }
    if (lo == t->n_vocab)
        return VL_TOKEN_NONE;
    size_t n;
    const char *s = text_of(t, t->word[lo].id, &n);
    return compare_text(s, n, text, len) == 0 ? t->word[lo].id : VL_TOKEN_NONE;
}

/* A token's text for a message: it came from the file. */
static const char *quote(char out[40], const char *s, size_t n)
{
    size_t m = 0;
    for (; m < n && m < 36; m++)
        out[m] = s[m] >= 0x20 && s[m] != 0x7F ? s[m] : '?';
    out[m] = '\0';
    return out;
}

/* *ret: bytes of all tokens together. */
static int measure_texts(struct vl_weights_strs it, const struct vl_weights *w, size_t *ret,
                         struct vl_error *err)
{
    *ret = 0;
    while (it.n_left) {
        size_t len;
        const char *s = vl_weights_next_str(&it, &len);
        uint32_t id = it.n - it.n_left - 1;
        if (len > VL_PIECE_MAX)
            return vl_error_set(err, -EINVAL, "%.60s: token %u has %zu bytes, the limit is %d",
                                vl_weights_name(w), id, len, VL_PIECE_MAX);
        for (size_t i = 0; i < len;) {
            int n = utf8_len((const unsigned char *)s + i, len - i);
            if (n <= 0)
                return vl_error_set(err, -EINVAL, "%.60s: token %u is not valid UTF-8", vl_weights_name(w),
                                    id);
            i += (size_t)n;
        }
        *ret += len;
    }
    return 0;
}

static int load_texts(struct vl_tokenizer *t, const struct vl_weights *w, struct vl_error *err)
{
    struct vl_weights_strs it = {0};
    size_t total, len;
    int r = vl_weights_get_strs(w, "tokenizer.ggml.tokens", &it, err);
    if (r < 0)
        return r;
    if (it.n == 0 || it.n > VL_TOKENIZER_MAX_VOCAB) /* 0: absent, too */
        return vl_error_set(err, -EINVAL, "%.60s: tokenizer.ggml.tokens has %u tokens, must have 1 to %d",
                            vl_weights_name(w), it.n, VL_TOKENIZER_MAX_VOCAB);
    r = measure_texts(it, w, &total, err);
    if (r < 0)
        return r;
    t->n_vocab = it.n;
    t->at = calloc((size_t)it.n + 1, sizeof(*t->at));
    t->flags = calloc(it.n, sizeof(*t->flags));
    t->word = calloc(it.n, sizeof(*t->word));
    t->text = malloc(total ? total : 1);
    if (!t->at || !t->flags || !t->word || !t->text)
        return vl_error_set(err, -ENOMEM, "no memory for %u tokens", it.n);
    for (uint32_t id = 0; id < t->n_vocab; id++) {
        const char *s = vl_weights_next_str(&it, &len);
        memcpy(t->text + t->at[id], s, len);
        t->at[id + 1] = t->at[id] + (uint32_t)len; /* at most 2^20 * VL_PIECE_MAX < 2^32 */
        t->word[id] = (struct word){head_of(s, len), (int32_t)id};
    }
    qsort_r(t->word, t->n_vocab, sizeof(*t->word), compare_words, t);
    return 0;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* "<0xNN>", or -1 */
static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>' || hex_digit(s[3]) < 0 || hex_digit(s[4]) < 0)
        return -1;
    return hex_digit(s[3]) * 16 + hex_digit(s[4]);
}

static int load_types(struct vl_tokenizer *t, const struct vl_weights *w, struct vl_error *err)
{
    vl_autofree int32_t *type = calloc(t->n_vocab, sizeof(*type));
    if (!type)
        return vl_error_set(err, -ENOMEM, "no memory for %u tokens", t->n_vocab);
    uint32_t n_scores;
    int r = vl_weights_array_len(w, "tokenizer.ggml.scores", &n_scores, err);
    if (r == 0 && n_scores != t->n_vocab)
        return vl_error_set(err, -EINVAL, "%.60s: tokenizer.ggml.scores has %u elements, must have %u",
                            vl_weights_name(w), n_scores, t->n_vocab);
    if (r >= 0)
        r = vl_weights_get_i32s(w, "tokenizer.ggml.token_type", type, t->n_vocab, err);
    if (r < 0)
        return r;
    for (uint32_t id = 0; id < t->n_vocab && r == 0; id++) { /* absent: all are normal */
        char name[40];
        size_t n;
        const char *s = text_of(t, (int32_t)id, &n);
        if (type[id] < TYPE_NORMAL || type[id] > TYPE_BYTE)
            return vl_error_set(err, -EINVAL, "%.60s: token %u '%s' has type %d, must be 1 to 6",
                                vl_weights_name(w), id, quote(name, s, n), type[id]);
        if (type[id] == TYPE_BYTE && byte_token(s, n) < 0)
            return vl_error_set(err, -EINVAL, "%.60s: byte token %u is '%s', must be like '<0x0A>'",
                                vl_weights_name(w), id, quote(name, s, n));
        t->flags[id] |= type[id] == TYPE_BYTE ? FLAG_BYTE : 0;
        t->flags[id] |= type[id] >= TYPE_UNKNOWN && type[id] <= TYPE_USER ? FLAG_SPECIAL : 0;
        t->flags[id] |= type[id] == TYPE_UNKNOWN || type[id] == TYPE_CONTROL ? FLAG_SILENT : 0;
    }
    return 0;
}

static int compare_specials(const void *a, const void *b, void *tokenizer)
{
    size_t n_x, n_y;
    const char *x = text_of(tokenizer, *(const int32_t *)a, &n_x),
               *y = text_of(tokenizer, *(const int32_t *)b, &n_y);
    if (x[0] != y[0])
        return (unsigned char)x[0] < (unsigned char)y[0] ? -1 : 1;
    if (n_x != n_y)
        return n_x > n_y ? -1 : 1;
    return *(const int32_t *)a < *(const int32_t *)b ? -1 : 1;
}

static int index_specials(struct vl_tokenizer *t, struct vl_error *err)
{
    t->special = calloc(t->n_vocab, sizeof(*t->special));
    if (!t->special)
        return vl_error_set(err, -ENOMEM, "no memory for %u tokens", t->n_vocab);
    for (uint32_t id = 0; id < t->n_vocab; id++)
        if ((t->flags[id] & FLAG_SPECIAL) && t->at[id + 1] > t->at[id])
            t->special[t->n_special++] = (int32_t)id;
    qsort_r(t->special, t->n_special, sizeof(*t->special), compare_specials, t);
    for (uint32_t i = 0; i < t->n_special; i++)
        t->first_special[(unsigned char)t->text[t->at[t->special[i]]] + 1]++;
    for (int b = 0; b < 256; b++)
        t->first_special[b + 1] += t->first_special[b];
    return 0;
}

static void index_bytes(struct vl_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char s[2];
        int32_t id = find(t, s, put_code_point(s, t->alphabet[b]));
        t->byte_id[b] = id >= 0 && (t->flags[id] & FLAG_SPECIAL) ? VL_TOKEN_NONE : id;
    }
}

/* --- merges --- */

static int compare_merges(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    if (x->right != y->right)
        return x->right < y->right ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* "left right" -> ids; the space is the first from byte 1 on. */
static int parse_merge(const struct vl_tokenizer *t, const char *s, size_t n, struct merge *ret)
{
    char joined[2 * VL_PIECE_MAX];
    const char *space = n > 2 ? memchr(s + 1, ' ', n - 1) : NULL;
    size_t left = space ? (size_t)(space - s) : 0, right = space ? n - left - 1 : 0;
    if (!right || left > VL_PIECE_MAX || right > VL_PIECE_MAX)
        return -EINVAL;
    memcpy(joined, s, left);
    memcpy(joined + left, space + 1, right);
    ret->left = find(t, s, left);
    ret->right = find(t, space + 1, right);
    ret->into = find(t, joined, left + right);
    return ret->left < 0 || ret->right < 0 || ret->into < 0 || (t->flags[ret->into] & FLAG_SPECIAL) ? -EINVAL
                                                                                                    : 0;
}

static int load_merges(struct vl_tokenizer *t, const struct vl_weights *w, struct vl_error *err)
{
    struct vl_weights_strs it = {0};
    int r = vl_weights_get_strs(w, "tokenizer.ggml.merges", &it, err);
    if (r < 0)
        return r;
    if (r == VL_WEIGHTS_ABSENT || it.n > MAX_MERGES)
        return vl_error_set(err, -EINVAL, "%.60s: tokenizer.ggml.merges is missing or longer than %d",
                            vl_weights_name(w), MAX_MERGES);
    t->merge = calloc(it.n ? it.n : 1, sizeof(*t->merge));
    t->first_merge = calloc((size_t)t->n_vocab + 1, sizeof(*t->first_merge));
    if (!t->merge || !t->first_merge)
        return vl_error_set(err, -ENOMEM, "no memory for %u merges", it.n);
    for (uint32_t i = 0; i < it.n; i++) {
        char name[40];
        size_t n;
        const char *s = vl_weights_next_str(&it, &n);
        t->merge[i].rank = i;
        if (parse_merge(t, s, n, &t->merge[i]) < 0)
            return vl_error_set(
                err, -EINVAL,
                "%.60s: merge %u '%s' does not join two tokens of the vocabulary into a third that "
                "is not special",
                vl_weights_name(w), i, quote(name, s, n));
    }
    qsort(t->merge, it.n, sizeof(*t->merge), compare_merges);
    for (uint32_t i = 0; i < it.n; i++) { /* of merges that stand there twice the first counts */
        const struct merge *last = t->n_merges ? &t->merge[t->n_merges - 1] : NULL;
        if (!last || last->left != t->merge[i].left || last->right != t->merge[i].right)
            t->merge[t->n_merges++] = t->merge[i];
    }
    for (uint32_t i = 0; i < t->n_merges; i++)
        t->first_merge[t->merge[i].left + 1]++;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        t->first_merge[i + 1] += t->first_merge[i];
    return 0;
}

/* Index of the merge of this pair, or n_merges. */
static uint32_t find_merge(const struct vl_tokenizer *t, int32_t left, int32_t right)
{
    uint32_t lo = t->first_merge[left], hi = t->first_merge[left + 1], end = hi;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (t->merge[mid].right < right)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < end && t->merge[lo].right == right ? lo : t->n_merges;
}

/* --- ids that mean something --- */

static int load_id(const struct vl_tokenizer *t, const struct vl_weights *w, const char *key, int32_t *ret,
                   struct vl_error *err)
{
    uint32_t v = 0;
    int r = vl_weights_get_u32(w, key, &v, err);
    if (r == 0 && v >= t->n_vocab)
        return vl_error_set(err, -EINVAL, "%.60s: key '%s' is %u, but there are %u tokens",
                            vl_weights_name(w), key, v, t->n_vocab);
    *ret = r == 0 ? (int32_t)v : VL_TOKEN_NONE;
    return r < 0 ? r : 0;
}

static int load_ids(struct vl_tokenizer *t, const struct vl_weights *w, struct vl_error *err)
{
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id",     "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id",     "tokenizer.ggml.eom_token_id",
                                       "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"};
    static const char *const ends[] = {"<|eot_id|>", "<|im_end|>",    "<|end|>",         "<|return|>",
                                       "<|call|>",   "<end_of_turn>", "<|endoftext|>",   "</s>",
                                       "<|eom_id|>", "<EOT>",         "<|end_of_text|>", "<end_of_utterance>",
                                       "<eos>"};
    int32_t id[6];
    for (int i = 0; i < 6; i++) {
        int r = load_id(t, w, keys[i], &id[i], err);
        if (r < 0)
            return r;
    }
    t->bos = id[0];
    t->eos = id[1];
    for (int i = 1; i < 4; i++)
        if (id[i] >= 0)
            t->flags[id[i]] |= FLAG_END;
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        int32_t end = find(t, ends[i], strlen(ends[i]));
        if (end >= 0)
            t->flags[end] |= FLAG_END;
    }
    int r = vl_weights_get_bool(w, "tokenizer.ggml.add_bos_token", &t->add_bos, err);
    return r < 0 ? r : 0;
}

/* --- working memory --- */

static void work_free(struct work *k)
{
    if (!k)
        return;
    free(k->text);
    free(k->trust);
    free(k->symbol);
    free(k->heap);
    pcre2_match_data_free(k->match);
    pcre2_match_context_free(k->limits);
    free(k);
}

static int work_grow(struct work *k, size_t n)
{
    if (n <= k->text_cap)
        return 0;
    free(k->text);
    free(k->trust);
    free(k->symbol);
    free(k->heap);
    k->text = malloc(n);
    k->trust = malloc(n);
    k->symbol = malloc(n * sizeof(*k->symbol)); /* n <= 3 * VL_TOKENIZER_MAX_TEXT */
    k->heap = malloc(3 * n * sizeof(*k->heap));
    bool ok = k->text && k->trust && k->symbol && k->heap;
    k->text_cap = ok ? n : 0;
    return ok ? 0 : -ENOMEM;
}

int vl_tokenizer_new(struct vl_tokenizer **ret, const struct vl_weights *w, struct vl_error *err)
{
    const char *model;
    int r = vl_weights_need_str(w, "tokenizer.ggml.model", &model, err);
    if (r < 0)
        return r;
    if (strcmp(model, "gpt2") != 0)
        return vl_error_set(err, -ENOTSUP,
                            "%.60s: tokenizer '%.40s' is not supported; this build has 'gpt2', byte-level "
                            "BPE",
                            vl_weights_name(w), model);
    vl_auto(vl_tokenizer) t = calloc(1, sizeof(*t));
    if (!t || !(t->work = calloc(1, sizeof(*t->work))) || work_grow(t->work, 3 * FIRST_TEXT) < 0)
        return vl_error_set(err, -ENOMEM, "no memory for a tokenizer");
    init_alphabet(t);
    r = load_splitter(t, w, err);
    if (r == 0)
        r = load_texts(t, w, err);
    if (r == 0)
        r = load_types(t, w, err);
    if (r == 0)
        r = index_specials(t, err);
    if (r == 0)
        r = load_merges(t, w, err);
    if (r == 0)
        r = load_ids(t, w, err);
    if (r < 0)
        return r;
    index_bytes(t);
    *ret = vl_steal(t);
    return 0;
}

struct vl_tokenizer *vl_tokenizer_unref(struct vl_tokenizer *t)
{
    if (!t)
        return NULL;
    for (int i = 0; i < MAX_STAGES; i++)
        pcre2_code_free(t->stage[i]);
    work_free(t->work);
    free(t->text);
    free(t->at);
    free(t->flags);
    free(t->word);
    free(t->merge);
    free(t->first_merge);
    free(t->special);
    free(t);
    return NULL;
}

/* --- questions about tokens --- */

static bool is_id(const struct vl_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n_vocab;
}

uint32_t vl_tokenizer_n_vocab(const struct vl_tokenizer *t)
{
    return t->n_vocab;
}

int32_t vl_tokenizer_bos(const struct vl_tokenizer *t)
{
    return t->bos;
}

int32_t vl_tokenizer_eos(const struct vl_tokenizer *t)
{
    return t->eos;
}

bool vl_tokenizer_add_bos(const struct vl_tokenizer *t)
{
    return t->add_bos;
}

bool vl_tokenizer_is_end(const struct vl_tokenizer *t, int32_t id)
{
    return is_id(t, id) && (t->flags[id] & FLAG_END);
}

bool vl_tokenizer_is_special(const struct vl_tokenizer *t, int32_t id)
{
    return is_id(t, id) && (t->flags[id] & FLAG_SPECIAL);
}

int32_t vl_tokenizer_find(const struct vl_tokenizer *t, const char *text)
{
    return find(t, text, strlen(text));
}

/* --- encoding --- */

struct output {
    int32_t *id;
    uint32_t n, cap;
};

static int emit(struct output *o, int32_t id)
{
    if (o->n == o->cap)
        return VL_TOKENIZER_FULL;
    o->id[o->n++] = id;
    return 0;
}

static void heap_push(struct work *k, struct candidate c)
{
    size_t i = k->n_heap++;
    for (; i && k->heap[(i - 1) / 2].key > c.key; i = (i - 1) / 2)
        k->heap[i] = k->heap[(i - 1) / 2];
    k->heap[i] = c;
}

static struct candidate heap_pop(struct work *k)
{
    struct candidate top = k->heap[0], last = k->heap[--k->n_heap];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < k->n_heap; i = child) {
        if (child + 1 < k->n_heap && k->heap[child + 1].key < k->heap[child].key)
            child++;
        if (k->heap[child].key >= last.key)
            break;
        k->heap[i] = k->heap[child];
    }
    k->heap[i] = last;
    return top;
}

static void propose(const struct vl_tokenizer *t, int32_t left)
{
    struct work *k = t->work;
    if (left < 0 || k->symbol[left].next < 0)
        return;
    uint32_t m = find_merge(t, k->symbol[left].id, k->symbol[k->symbol[left].next].id);
    if (m < t->n_merges)
        heap_push(k, (struct candidate){(uint64_t)t->merge[m].rank << 32 | (uint32_t)left, m});
}

/* Merges the pair at c's place, unless one of the two has become something else since. */
static void apply(const struct vl_tokenizer *t, const struct candidate *c)
{
    struct symbol *s = t->work->symbol;
    const struct merge *m = &t->merge[c->merge];
    int32_t left = (int32_t)(c->key & UINT32_MAX), right = s[left].next;
    if (s[left].id != m->left || right < 0 || s[right].id != m->right)
        return;
    s[left].id = m->into;
    s[left].next = s[right].next;
    s[right].id = VL_TOKEN_NONE;
    if (s[left].next >= 0)
        s[s[left].next].prev = left;
    propose(t, s[left].prev);
    propose(t, left);
}

static int encode_piece(const struct vl_tokenizer *t, const unsigned char *p, size_t len, struct output *o)
{
    struct work *k = t->work;
    int32_t n = 0;
    for (size_t i = 0; i < len; i++)
        if (t->byte_id[p[i]] >= 0) {
            k->symbol[n] = (struct symbol){t->byte_id[p[i]], n - 1, n + 1};
            n++;
        }
    if (n == 0)
        return 0;
    k->symbol[n - 1].next = -1;
    k->n_heap = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        propose(t, i);
    while (k->n_heap) {
        struct candidate c = heap_pop(k);
        apply(t, &c);
    }
    int r = 0;
    for (int32_t i = 0; i >= 0 && r == 0; i = k->symbol[i].next)
        r = emit(o, k->symbol[i].id);
    return r;
}

/* The piece stands alone: look-ahead sees its end as the end of all text. */
static int split(const struct vl_tokenizer *t, unsigned stage, const unsigned char *p, size_t len,
                 struct output *o)
{
    if (stage == t->n_stages)
        return encode_piece(t, p, len, o);
    PCRE2_SIZE *at = pcre2_get_ovector_pointer(t->work->match);
    for (size_t done = 0; done < len;) {
        int m =
            pcre2_match(t->stage[stage], p, len, done, PCRE2_NO_UTF_CHECK, t->work->match, t->work->limits);
        if (m < 0 && m != PCRE2_ERROR_NOMATCH)
            return m == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EOVERFLOW;
        size_t from = m < 0 ? len : at[0], to = m < 0 ? len : at[1];
        int r = from > done ? split(t, stage + 1, p + done, from - done, o) : 0;
        if (r == 0 && to > from)
            r = split(t, stage + 1, p + from, to - from, o);
        if (r != 0)
            return r;
        done = to;
    }
    return 0;
}

/* The longest special token at this place, all of it in trusted text, or none. */
static int32_t special_at(const struct vl_tokenizer *t, size_t at, size_t len)
{
    const struct work *k = t->work;
    for (uint32_t i = t->first_special[k->text[at]]; i < t->first_special[k->text[at] + 1]; i++) {
        size_t n;
        const char *s = text_of(t, t->special[i], &n);
        if (n <= len - at && memcmp(k->text + at, s, n) == 0 && !memchr(k->trust + at, 0, n))
            return t->special[i];
    }
    return VL_TOKEN_NONE;
}

static int encode_text(const struct vl_tokenizer *t, size_t len, struct output *o)
{
    const struct work *k = t->work;
    size_t raw = 0; /* text from here on has not been encoded */
    for (size_t at = 0; at < len;) {
        int32_t id = k->trust[at] ? special_at(t, at, len) : VL_TOKEN_NONE;
        if (id < 0) {
            at++;
            continue;
        }
        int r = split(t, 0, k->text + raw, at - raw, o);
        if (r == 0)
            r = emit(o, id);
        if (r != 0)
            return r;
        at += t->at[id + 1] - t->at[id];
        raw = at;
    }
    return split(t, 0, k->text + raw, len - raw, o);
}

int vl_tokenizer_encode_pieces(const struct vl_tokenizer *t, const struct vl_text_piece *piece,
                               size_t n_pieces, int32_t *ret_ids, uint32_t cap, uint32_t *ret_n)
{
    size_t total = 0, len = 0;
    for (size_t i = 0; i < n_pieces; i++)
        if (__builtin_add_overflow(total, piece[i].len, &total) || total > VL_TOKENIZER_MAX_TEXT)
            return -E2BIG;
    int r = work_grow(t->work, 3 * total);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n_pieces; i++) {
        size_t n = clean(t->work->text + len, (const unsigned char *)piece[i].text, piece[i].len);
        memset(t->work->trust + len, piece[i].trusted, n);
        len += n;
    }
    struct output o = {ret_ids, 0, cap};
    r = encode_text(t, len, &o);
    if (r == 0)
        *ret_n = o.n;
    return r;
}

int vl_tokenizer_encode(const struct vl_tokenizer *t, const char *text, size_t len, bool parse_special,
                        int32_t *ret_ids, uint32_t cap, uint32_t *ret_n)
{
    const struct vl_text_piece piece = {text, len, parse_special};
    return vl_tokenizer_encode_pieces(t, &piece, 1, ret_ids, cap, ret_n);
}

/* --- and back --- */

int vl_tokenizer_piece(const struct vl_tokenizer *t, int32_t id, char ret[VL_PIECE_MAX], size_t *ret_len)
{
    if (!is_id(t, id))
        return -EINVAL;
    size_t n, m = 0;
    const char *s = text_of(t, id, &n);
    if (t->flags[id] & FLAG_BYTE) {
        ret[m++] = (char)byte_token(s, n);
    } else if (t->flags[id] & FLAG_SPECIAL) {
        memcpy(ret, s, n);
        m = n;
    } else {
        for (size_t i = 0; i < n;) {
            int len = utf8_len((const unsigned char *)s + i, n - i); /* held valid at open */
            uint32_t v = code_point((const unsigned char *)s + i, len);
            if (v < N_ALPHABET && t->byte_of[v] >= 0)
                ret[m++] = (char)t->byte_of[v];
            else
                for (int j = 0; j < len; j++)
                    ret[m++] = s[i + (size_t)j];
            i += (size_t)len;
        }
    }
    *ret_len = m;
    return 0;
}

int vl_detok_push(const struct vl_tokenizer *t, struct vl_detok *d, int32_t id, char ret[VL_DETOK_MAX],
                  size_t *ret_len)
{
    unsigned char in[3 + VL_PIECE_MAX];
    size_t n = 0, m = 0, i = 0;
    if (!is_id(t, id))
        return -EINVAL;
    memcpy(in, d->pending, d->n);
    if (!(t->flags[id] & FLAG_SILENT))
        (void)vl_tokenizer_piece(t, id, (char *)in + d->n, &n); /* the id is one */
    n += d->n;
    while (i < n) {
        int len = utf8_len(in + i, n - i);
        if (len < 0)
            break;
        memcpy(ret + m, len ? (const char *)in + i : "\xEF\xBF\xBD", len ? (size_t)len : 3);
        m += len ? (size_t)len : 3;
        i += len ? (size_t)len : 1;
    }
    memcpy(d->pending, in + i, n - i);
    d->n = (uint8_t)(n - i);
    *ret_len = m;
    return 0;
}

void vl_detok_flush(struct vl_detok *d, char ret[VL_DETOK_MAX], size_t *ret_len)
{
    if (d->n)
        memcpy(ret, "\xEF\xBF\xBD", 3);
    *ret_len = d->n ? 3 : 0;
    d->n = 0;
}
