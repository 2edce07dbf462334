/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Text to ids and back: special tokens are found in trusted text, splitter.c cuts what lies between them, and
 * bpe.c merges the pieces. Process lifetime; encode is for the engine thread
 * alone, because it has one set of working memory. The trap: pieces of text are joined before they are split,
 * so trust is kept byte by byte. */
#include "decoder/tokenizer.h"
#include "decoder/bpe.h"
#include "decoder/splitter.h"
#include "weights/weights.h"

#include <string.h>

enum { FIRST_TEXT = 1024 };

struct work {
    unsigned char *text, *trust; /* [cap] clean text, and whether each byte may be of a special token */
    size_t cap;
    struct vl_bpe bpe;
};
struct vl_tokenizer {
    struct vl_vocabulary v;
    int32_t *special; /* [n_special] by first byte, then longest first */
    uint32_t n_special, first_special[257];
    struct vl_splitter *splitter;
    struct vl_splitter_habits habits;
    struct work *work;
};

/* --- the family --- */

static int load_splitter(struct vl_tokenizer *t, const struct vl_weights *w, struct vl_error *err)
{
    const char *pre = NULL;
    int r = vl_weights_get_str(w, "tokenizer.ggml.pre", &pre, err);
    if (r < 0)
        return r;
    r = vl_splitter_new(&t->splitter, r == 0 ? pre : NULL, err);
    if (r < 0)
        return vl_error_prefix(err, r, "%.60s", vl_weights_name(w));
    t->habits = vl_splitter_habits(t->splitter);
    return 0;
}

/* --- special tokens --- */

static int compare_specials(const void *a, const void *b, void *vocabulary)
{
    size_t n_x, n_y;
    int32_t id_x = *(const int32_t *)a, id_y = *(const int32_t *)b;
    const char *x = vl_vocabulary_text(vocabulary, id_x, &n_x),
               *y = vl_vocabulary_text(vocabulary, id_y, &n_y);
    if (x[0] != y[0])
        return (unsigned char)x[0] < (unsigned char)y[0] ? -1 : 1;
    if (n_x != n_y)
        return n_x > n_y ? -1 : 1;
    return id_x < id_y ? -1 : 1;
}

static int index_specials(struct vl_tokenizer *t, struct vl_error *err)
{
    struct vl_vocabulary *v = &t->v;
    t->special = calloc(v->n, sizeof(*t->special));
    if (!t->special)
        return vl_error_set(err, -ENOMEM, "no memory for %u tokens", v->n);
    for (uint32_t id = 0; id < v->n; id++)
        if ((v->flags[id] & VL_WORD_SPECIAL) && v->at[id + 1] > v->at[id])
            t->special[t->n_special++] = (int32_t)id;
    qsort_r(t->special, t->n_special, sizeof(*t->special), compare_specials, v);
    for (uint32_t i = 0; i < t->n_special; i++)
        t->first_special[(unsigned char)v->text[v->at[t->special[i]]] + 1]++;
    for (int b = 0; b < 256; b++)
        t->first_special[b + 1] += t->first_special[b];
    return 0;
}

/* --- life --- */

static struct work *work_free(struct work *k)
{
    if (!k)
        return NULL;
    free(k->text);
    free(k->trust);
    vl_bpe_done(&k->bpe);
    free(k);
    return NULL;
}

static int work_reserve(struct work *k, size_t n)
{
    int r = vl_bpe_reserve(&k->bpe, n);
    if (r < 0 || n <= k->cap)
        return r;
    free(k->text);
    free(k->trust);
    k->text = malloc(n);
    k->trust = malloc(n);
    k->cap = k->text && k->trust ? n : 0;
    return k->cap ? 0 : -ENOMEM;
}

int vl_tokenizer_new(struct vl_tokenizer **ret, const struct vl_weights *w, struct vl_error *err)
{
    const char *model;
    int r = vl_weights_need_str(w, "tokenizer.ggml.model", &model, err);
    if (r < 0)
        return r;
    if (strcmp(model, "gpt2") != 0)
        return vl_error_set(
            err, -ENOTSUP, "%.60s: tokenizer '%.40s' is not supported; this build has 'gpt2', byte-level BPE",
            vl_weights_name(w), model);
    vl_auto(vl_tokenizer) t = calloc(1, sizeof(*t));
    if (!t || !(t->work = calloc(1, sizeof(*t->work))))
        return vl_error_set(err, -ENOMEM, "no memory for a tokenizer");
    r = load_splitter(t, w, err);
    if (r == 0)
        r = vl_vocabulary_init(&t->v, w, t->habits.add_bos, err);
    if (r == 0)
        r = index_specials(t, err);
    if (r == 0)
        r = vl_bpe_init(&t->work->bpe, &t->v, w, err);
    if (r == 0 && (r = work_reserve(t->work, 3 * FIRST_TEXT)) < 0)
        (void)vl_error_set(err, r, "no memory for a tokenizer");
    if (r == 0)
        *ret = vl_steal(t);
    return r;
}

struct vl_tokenizer *vl_tokenizer_unref(struct vl_tokenizer *t)
{
    if (!t)
        return NULL;
    t->splitter = vl_splitter_unref(t->splitter);
    t->work = work_free(t->work);
    vl_vocabulary_done(&t->v);
    free(t->special);
    free(t);
    return NULL;
}

/* --- questions about tokens --- */

static bool has_flag(const struct vl_tokenizer *t, int32_t id, uint8_t flag)
{
    return id >= 0 && (uint32_t)id < t->v.n && (t->v.flags[id] & flag);
}

uint32_t vl_tokenizer_n_vocab(const struct vl_tokenizer *t)
{
    return t->v.n;
}

int32_t vl_tokenizer_bos(const struct vl_tokenizer *t)
{
    return t->v.bos;
}

int32_t vl_tokenizer_eos(const struct vl_tokenizer *t)
{
    return t->v.eos;
}

bool vl_tokenizer_add_bos(const struct vl_tokenizer *t)
{
    return t->v.add_bos;
}

const char *vl_tokenizer_doubt(const struct vl_tokenizer *t)
{
    return t->habits.guessed
               ? "the file does not name its splitter (tokenizer.ggml.pre), 'default' is used; what "
                 "the model says is likely wrong: get a file that was converted after May 2024"
               : NULL;
}

bool vl_tokenizer_is_end(const struct vl_tokenizer *t, int32_t id)
{
    return has_flag(t, id, VL_WORD_END);
}

bool vl_tokenizer_is_special(const struct vl_tokenizer *t, int32_t id)
{
    return has_flag(t, id, VL_WORD_SPECIAL);
}

int32_t vl_tokenizer_find(const struct vl_tokenizer *t, const char *text)
{
    return vl_vocabulary_find(&t->v, text, strlen(text));
}

/* --- encoding --- */

/* Text from outside becomes valid UTF-8; out has room for 3 * n bytes. */
static size_t clean(unsigned char *out, const unsigned char *in, size_t n)
{
    size_t m = 0;
    for (size_t i = 0; i < n;) {
        int len = vl_utf8_len(in + i, n - i);
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

struct encoding {
    const struct vl_tokenizer *t;
    struct vl_ids *ids;
};

static int encode_piece(void *user, const unsigned char *p, size_t len)
{
    const struct encoding *e = user;
    int32_t id = e->t->habits.whole ? vl_vocabulary_find_bytes(&e->t->v, p, len) : VL_TOKEN_NONE;
    return id >= 0 ? vl_ids_add(e->ids, id) : vl_bpe_encode(&e->t->work->bpe, p, len, e->ids);
}

static int encode_plain(const struct vl_tokenizer *t, const unsigned char *p, size_t len, struct vl_ids *ids)
{
    struct encoding e = {t, ids};
    return vl_splitter_run(t->splitter, p, len, encode_piece, &e);
}

/* The longest special token at this place, all of it in trusted text, or none. */
static int32_t special_at(const struct vl_tokenizer *t, size_t at, size_t len)
{
    const struct work *k = t->work;
    for (uint32_t i = t->first_special[k->text[at]]; i < t->first_special[k->text[at] + 1]; i++) {
        size_t n;
        const char *s = vl_vocabulary_text(&t->v, t->special[i], &n);
        if (n <= len - at && memcmp(k->text + at, s, n) == 0 && !memchr(k->trust + at, 0, n))
            return t->special[i];
    }
    return VL_TOKEN_NONE;
}

static int encode_text(const struct vl_tokenizer *t, size_t len, struct vl_ids *ids)
{
    const struct work *k = t->work;
    size_t raw = 0; /* text from here on has not been encoded */
    for (size_t at = 0; at < len;) {
        int32_t id = k->trust[at] ? special_at(t, at, len) : VL_TOKEN_NONE;
        if (id < 0) {
            at++;
            continue;
        }
        int r = encode_plain(t, k->text + raw, at - raw, ids);
        if (r == 0)
            r = vl_ids_add(ids, id);
        if (r != 0)
            return r;
        at += t->v.at[id + 1] - t->v.at[id];
        raw = at;
    }
    return encode_plain(t, k->text + raw, len - raw, ids);
}

int vl_tokenizer_encode_pieces(const struct vl_tokenizer *t, const struct vl_text_piece *piece,
                               size_t n_pieces, int32_t *ret_ids, uint32_t cap, uint32_t *ret_n)
{
    size_t total = 0, len = 0;
    for (size_t i = 0; i < n_pieces; i++)
        if (__builtin_add_overflow(total, piece[i].len, &total) || total > VL_TOKENIZER_MAX_TEXT)
            return -E2BIG;
    int r = work_reserve(t->work, 3 * total);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n_pieces; i++) {
        size_t n = clean(t->work->text + len, (const unsigned char *)piece[i].text, piece[i].len);
        memset(t->work->trust + len, piece[i].trusted, n);
        len += n;
    }
    struct vl_ids ids = {ret_ids, 0, cap};
    r = encode_text(t, len, &ids);
    if (r == 0)
        *ret_n = ids.n;
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
    if (id < 0 || (uint32_t)id >= t->v.n)
        return -EINVAL;
    *ret_len = vl_vocabulary_bytes(&t->v, id, ret);
    return 0;
}

int vl_detok_push(const struct vl_tokenizer *t, struct vl_detok *d, int32_t id, char ret[VL_DETOK_MAX],
                  size_t *ret_len)
{
    unsigned char in[3 + VL_PIECE_MAX];
    size_t n = 0, m = 0, i = 0;
    if (id < 0 || (uint32_t)id >= t->v.n)
        return -EINVAL;
    memcpy(in, d->pending, d->n);
    n = d->n;
    if (!has_flag(t, id, VL_WORD_SILENT))
        n += vl_vocabulary_bytes(&t->v, id, (char *)in + n);
    while (i < n) {
        int len = vl_utf8_len(in + i, n - i);
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
