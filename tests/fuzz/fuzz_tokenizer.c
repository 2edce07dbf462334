/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Two targets in one, by the first byte: hostile text for a sound vocabulary with one of the splitters, and
 * hostile vocabularies. The text is cut into pieces, trusted and not, at bytes 0x01 and 0x02. */
#include "decoder/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/gguf_writer.h"
#include "weights/weights.h"

#include <stdio.h>
#include <string.h>

enum { MAX_TEXT = 4096, MAX_PIECES = 16, N_WORDS = 8, N_SPECIAL = 4, N_FAMILIES = 6 };

static int open_bytes(struct vl_tokenizer **ret, const void *p, size_t n)
{
    static int fd = -1;
    struct vl_error err;
    vl_auto(vl_weights) w = NULL;
    if (fd < 0)
        fd = gguf_memfd("", 0);
    FUZZ_CHECK(ftruncate(fd, (off_t)n) == 0 && pwrite(fd, p, n, 0) == (ssize_t)n);
    int r = vl_weights_open_fd(&w, fd, "fuzz", &err);
    return r < 0 ? r : vl_tokenizer_new(ret, w, &err);
}

/* All bytes, some words to merge, some special tokens. */
static struct vl_tokenizer *sound_vocabulary(unsigned family)
{
    static struct vl_tokenizer *opened[N_FAMILIES];
    static const char *const pre[N_FAMILIES] = {"smollm", "gpt-2", "qwen2", "qwen35", "llama-bpe", "default"};
    struct vl_tokenizer *t = opened[family];
    static char text[256 + N_WORDS + N_SPECIAL][24];
    static const char *const word[N_WORDS] = {
        "th", "the",  "\xC4\xA0\xC4\xA0", "\xC4\xA0\xC4\xA0\xC4\xA0\xC4\xA0",
        "aa", "aaaa", "\xC3\xA4\xC2\xBD", "\xC4\xA0the"};
    static const char *const merge[N_WORDS] = {
        "t h", "th e",  "\xC4\xA0 \xC4\xA0", "\xC4\xA0\xC4\xA0 \xC4\xA0\xC4\xA0",
        "a a", "aa aa", "\xC3\xA4 \xC2\xBD", "\xC4\xA0 the"};
    static const char *const special[N_SPECIAL] = {"<image>", "<end>", "<e", "\xC3\xA9\xC3\xA9"};
    const char *at[256 + N_WORDS + N_SPECIAL];
    int32_t type[256 + N_WORDS + N_SPECIAL];
    if (t)
        return t;
    unsigned next = 256, n = 0;
    for (unsigned b = 0; b < 256; b++) {
        unsigned c = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE ? b : next++;
        text[n][0] = (char)(c < 0x80 ? c : 0xC0 | c >> 6);
        text[n++][1] = (char)(c < 0x80 ? 0 : 0x80 | (c & 0x3F));
    }
    for (unsigned i = 0; i < N_WORDS; i++)
        (void)snprintf(text[n++], sizeof(text[0]), "%s", word[i]);
    for (unsigned i = 0; i < N_SPECIAL; i++)
        (void)snprintf(text[n++], sizeof(text[0]), "%s", special[i]);
    for (unsigned i = 0; i < n; i++) {
        at[i] = text[i];
        type[i] = i < 256 + N_WORDS ? 1 : i == n - 1 ? 4 : 3;
    }
    struct gguf_writer g;
    size_t size;
    gguf_init(&g);
    gguf_str(&g, "tokenizer.ggml.model", "gpt2");
    gguf_str(&g, "tokenizer.ggml.pre", pre[family]);
    gguf_strs(&g, "tokenizer.ggml.tokens", at, n);
    gguf_i32s(&g, "tokenizer.ggml.token_type", type, n);
    gguf_strs(&g, "tokenizer.ggml.merges", merge, N_WORDS);
    unsigned char *p = gguf_finish(&g, &size);
    gguf_done(&g);
    FUZZ_CHECK(open_bytes(&t, p, size) == 0);
    free(p);
    opened[family] = t;
    return t;
}

static size_t cut(const uint8_t *data, size_t size, struct vl_text_piece *piece)
{
    size_t n = 0, from = 0;
    bool trusted = false;
    for (size_t i = 0; i <= size && n < MAX_PIECES; i++) {
        if (i < size && data[i] > 2)
            continue;
        piece[n++] = (struct vl_text_piece){(const char *)data + from, i - from, trusted};
        trusted = i < size && data[i] == 1;
        from = i + 1;
    }
    return n;
}

/* Ids -> text -> ids. */
static void check_text(const struct vl_tokenizer *t, const uint8_t *data, size_t size, bool sound)
{
    static int32_t id[3 * MAX_TEXT], again[3 * MAX_TEXT];
    static char text[3 * MAX_TEXT + VL_DETOK_MAX];
    struct vl_text_piece piece[MAX_PIECES];
    struct vl_detok d = {0};
    uint32_t n = 0, m = 0;
    size_t at = 0, len, n_pieces = cut(data, size, piece);
    bool trusted = false;
    for (size_t i = 0; i < n_pieces; i++)
        trusted = trusted || piece[i].trusted;
    FUZZ_CHECK(vl_tokenizer_encode_pieces(t, piece, n_pieces, id, 3 * MAX_TEXT, &n) == 0);
    for (uint32_t i = 0; i < n && at <= 3 * MAX_TEXT; i++) {
        FUZZ_CHECK(trusted || !vl_tokenizer_is_special(t, id[i]));
        FUZZ_CHECK(vl_detok_push(t, &d, id[i], text + at, &len) == 0);
        FUZZ_CHECK(len <= VL_DETOK_MAX && d.n <= 3);
        at += len;
    }
    if (trusted || !sound)
        return;
    FUZZ_CHECK(d.n == 0 && at <= 3 * size);
    FUZZ_CHECK(vl_tokenizer_encode(t, text, at, false, again, 3 * MAX_TEXT, &m) == 0);
    FUZZ_CHECK(m == n && memcmp(id, again, n * sizeof(*id)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char sample[] = "the \x01<image>\x02 ab  aaaa1 \xE4\xBD\xA0";
    if (size == 0 || size > MAX_TEXT)
        return 0;
    if (data[0] != 'G') {
        check_text(sound_vocabulary(data[0] % N_FAMILIES), data, size, true);
        return 0;
    }
    vl_auto(vl_tokenizer) t = NULL;
    if (open_bytes(&t, data, size) == 0)
        check_text(t, (const uint8_t *)sample, sizeof(sample) - 1, false);
    return 0;
}
