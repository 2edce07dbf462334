/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Tokens out of a model file. Texts are found by bisection, never by hashing, so that a hostile vocabulary
 * cannot make it slow. The trap: a token may be a part of a code point once it is bytes; its text in the file
 * never is. */
#include "decoder/vocabulary.h"
#include "decoder/tokenizer.h"
#include "weights/weights.h"

#include <string.h>

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

/* --- bytes and code points --- */

int vl_utf8_len(const unsigned char *p, size_t n)
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

static void init_alphabet(struct vl_vocabulary *v)
{
    uint16_t next = 256;
    memset(v->byte_of, 0xFF, sizeof(v->byte_of));
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        v->alphabet[b] = itself ? (uint16_t)b : next++;
        v->byte_of[v->alphabet[b]] = (int16_t)b;
    }
}

/* --- texts --- */

const char *vl_vocabulary_text(const struct vl_vocabulary *v, int32_t id, size_t *ret_len)
{
    *ret_len = v->at[id + 1] - v->at[id];
    return v->text + v->at[id];
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

static int compare_words(const void *a, const void *b, void *vocabulary)
{
    const struct vl_word *x = a, *y = b;
    if (x->head != y->head)
        return x->head < y->head ? -1 : 1;
    size_t n_x, n_y;
    const char *s = vl_vocabulary_text(vocabulary, x->id, &n_x),
               *u = vl_vocabulary_text(vocabulary, y->id, &n_y);
    int d = compare_text(s, n_x, u, n_y);
    return d ? d : (x->id > y->id) - (x->id < y->id);
}

int32_t vl_vocabulary_find(const struct vl_vocabulary *v, const char *text, size_t len)
{
    uint64_t head = head_of(text, len);
    size_t lo = 0, hi = v->n;
    while (lo < hi) { /* the first word that is not less */
        size_t mid = (lo + hi) / 2, n;
        const struct vl_word *m = &v->word[mid];
        bool less = m->head < head;
        if (m->head == head) {
            const char *s = vl_vocabulary_text(v, m->id, &n);
            less = compare_text(s, n, text, len) < 0;
        }
        lo = less ? mid + 1 : lo;
        hi = less ? hi : mid;
    }
    if (lo == v->n)
        return VL_TOKEN_NONE;
    size_t n;
    const char *s = vl_vocabulary_text(v, v->word[lo].id, &n);
    return compare_text(s, n, text, len) == 0 ? v->word[lo].id : VL_TOKEN_NONE;
}

const char *vl_vocabulary_quote(char out[40], const char *s, size_t n)
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
            int n = vl_utf8_len((const unsigned char *)s + i, len - i);
            if (n <= 0)
                return vl_error_set(err, -EINVAL, "%.60s: token %u is not valid UTF-8", vl_weights_name(w),
                                    id);
            i += (size_t)n;
        }
        *ret += len;
    }
    return 0;
}

static int load_texts(struct vl_vocabulary *v, const struct vl_weights *w, struct vl_error *err)
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
    v->n = it.n;
    v->at = calloc((size_t)it.n + 1, sizeof(*v->at));
    v->flags = calloc(it.n, sizeof(*v->flags));
    v->word = calloc(it.n, sizeof(*v->word));
    v->text = malloc(total ? total : 1);
    if (!v->at || !v->flags || !v->word || !v->text)
        return vl_error_set(err, -ENOMEM, "no memory for %u tokens", it.n);
    for (uint32_t id = 0; id < v->n; id++) {
        const char *s = vl_weights_next_str(&it, &len);
        memcpy(v->text + v->at[id], s, len);
        v->at[id + 1] = v->at[id] + (uint32_t)len; /* at most 2^20 * VL_PIECE_MAX < 2^32 */
        v->word[id] = (struct vl_word){head_of(s, len), (int32_t)id};
    }
    qsort_r(v->word, v->n, sizeof(*v->word), compare_words, v);
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

static int load_types(struct vl_vocabulary *v, const struct vl_weights *w, struct vl_error *err)
{
    vl_autofree int32_t *type = calloc(v->n, sizeof(*type));
    if (!type)
        return vl_error_set(err, -ENOMEM, "no memory for %u tokens", v->n);
    uint32_t n_scores;
    int r = vl_weights_array_len(w, "tokenizer.ggml.scores", &n_scores, err);
    if (r == 0 && n_scores != v->n)
        return vl_error_set(err, -EINVAL, "%.60s: tokenizer.ggml.scores has %u elements, must have %u",
                            vl_weights_name(w), n_scores, v->n);
    if (r >= 0)
        r = vl_weights_get_i32s(w, "tokenizer.ggml.token_type", type, v->n, err);
    if (r < 0)
        return r;
    for (uint32_t id = 0; id < v->n && r == 0; id++) { /* absent: all are normal */
        char name[40];
        size_t n;
        const char *s = vl_vocabulary_text(v, (int32_t)id, &n);
        if (type[id] < TYPE_NORMAL || type[id] > TYPE_BYTE)
            return vl_error_set(err, -EINVAL, "%.60s: token %u '%s' has type %d, must be 1 to 6",
                                vl_weights_name(w), id, vl_vocabulary_quote(name, s, n), type[id]);
        if (type[id] == TYPE_BYTE && byte_token(s, n) < 0)
            return vl_error_set(err, -EINVAL, "%.60s: byte token %u is '%s', must be like '<0x0A>'",
                                vl_weights_name(w), id, vl_vocabulary_quote(name, s, n));
        v->flags[id] |= type[id] == TYPE_BYTE ? VL_WORD_BYTE : 0;
        v->flags[id] |= type[id] >= TYPE_UNKNOWN && type[id] <= TYPE_USER ? VL_WORD_SPECIAL : 0;
        v->flags[id] |= type[id] == TYPE_UNKNOWN || type[id] == TYPE_CONTROL ? VL_WORD_SILENT : 0;
    }
    return 0;
}

/* --- ids that mean something --- */

static int load_id(const struct vl_vocabulary *v, const struct vl_weights *w, const char *key, int32_t *ret,
                   struct vl_error *err)
{
    uint32_t id = 0;
    int r = vl_weights_get_u32(w, key, &id, err);
    if (r == 0 && id >= v->n)
        return vl_error_set(err, -EINVAL, "%.60s: key '%s' is %u, but there are %u tokens",
                            vl_weights_name(w), key, id, v->n);
    *ret = r == 0 ? (int32_t)id : VL_TOKEN_NONE;
    return r < 0 ? r : 0;
}

static int load_ids(struct vl_vocabulary *v, const struct vl_weights *w, struct vl_error *err)
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
        int r = load_id(v, w, keys[i], &id[i], err);
        if (r < 0)
            return r;
    }
    v->bos = id[0];
    v->eos = id[1];
    for (int i = 1; i < 4; i++)
        if (id[i] >= 0)
            v->flags[id[i]] |= VL_WORD_END;
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        int32_t end = vl_vocabulary_find(v, ends[i], strlen(ends[i]));
        if (end >= 0)
            v->flags[end] |= VL_WORD_END;
    }
    int r = vl_weights_get_bool(w, "tokenizer.ggml.add_bos_token", &v->add_bos, err);
    v->add_bos = v->add_bos && v->bos >= 0;
    return r < 0 ? r : 0;
}

int vl_vocabulary_init(struct vl_vocabulary *v, const struct vl_weights *w, bool add_bos,
                       struct vl_error *err)
{
    *v = (struct vl_vocabulary){.bos = VL_TOKEN_NONE, .eos = VL_TOKEN_NONE, .add_bos = add_bos};
    init_alphabet(v);
    int r = load_texts(v, w, err);
    if (r == 0)
        r = load_types(v, w, err);
    return r < 0 ? r : load_ids(v, w, err);
}

void vl_vocabulary_done(struct vl_vocabulary *v)
{
    free(v->text);
    free(v->at);
    free(v->flags);
    free(v->word);
    *v = (struct vl_vocabulary){0};
}

/* --- tokens and bytes --- */

int32_t vl_vocabulary_find_bytes(const struct vl_vocabulary *v, const unsigned char *p, size_t len)
{
    char text[VL_PIECE_MAX + 2];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (n > VL_PIECE_MAX) /* longer than any token */
            return VL_TOKEN_NONE;
        n += put_code_point(text + n, v->alphabet[p[i]]);
    }
    int32_t id = vl_vocabulary_find(v, text, n);
    return id >= 0 && (v->flags[id] & (VL_WORD_SPECIAL | VL_WORD_BYTE)) ? VL_TOKEN_NONE : id;
}

int32_t vl_vocabulary_byte(const struct vl_vocabulary *v, uint8_t byte)
{
    return vl_vocabulary_find_bytes(v, &byte, 1);
}

size_t vl_vocabulary_bytes(const struct vl_vocabulary *v, int32_t id, char *ret)
{
    size_t n, m = 0;
    const char *s = vl_vocabulary_text(v, id, &n);
    if (v->flags[id] & VL_WORD_BYTE) {
        ret[0] = (char)byte_token(s, n);
        return 1;
    }
    if (v->flags[id] & VL_WORD_SPECIAL) {
        memcpy(ret, s, n);
        return n;
    }
    for (size_t i = 0; i < n;) {
        int len = vl_utf8_len((const unsigned char *)s + i, n - i); /* held valid by init */
        uint32_t c = code_point((const unsigned char *)s + i, len);
        if (c < VL_ALPHABET && v->byte_of[c] >= 0) {
            ret[m++] = (char)v->byte_of[c];
        } else { /* of an added token: itself */
            memcpy(ret + m, s + i, (size_t)len);
            m += (size_t)len;
        }
        i += (size_t)len;
    }
    return m;
}
