/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Pairs of files that must be refused, and by which words; and the repairs of files that are wrong in known
 * ways. Files are the tiny pairs, changed byte by byte. */
#include "model/model_private.h"
#include "tests/golden/taps.h"

#include <errno.h>

static char folder[] = "/tmp/vlmd-test-model-XXXXXX";
#define ODD_TEXT   GOLDEN_DIR "/smolvlm/odd-f16-text.gguf"
#define ODD_MMPROJ GOLDEN_DIR "/smolvlm/odd-f16-mmproj.gguf"
#define EVEN_TEXT  GOLDEN_DIR "/smolvlm/even-q8_0-text.gguf"
#define CHANGE     GOLDEN_DIR "/smolvlm/change-f16-mmproj.gguf"

struct bytes {
    uint8_t *data;
    size_t n;
};

static struct bytes read_bytes(const char *path)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    (void)fseek(f, 0, SEEK_END);
    struct bytes b = {.n = (size_t)ftell(f)};
    rewind(f);
    b.data = malloc(b.n);
    assert_int_equal(fread(b.data, 1, b.n, f), b.n);
    (void)fclose(f);
    return b;
}

/* Writes b under the test's folder and frees it. */
static const char *write_bytes(struct bytes b)
{
    static char path[64];
    (void)snprintf(path, sizeof(path), "%s/changed.gguf", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b.data, 1, b.n, f), b.n);
    (void)fclose(f);
    free(b.data);
    return path;
}

/* n bytes at `at` bytes after the end of the first occurrence of mark become `to`. */
static const char *changed(const char *path, const char *mark, size_t at, const void *to, size_t n)
{
    struct bytes b = read_bytes(path);
    size_t len = strlen(mark);
    uint8_t *p = memmem(b.data, b.n, mark, len);
    assert_non_null(p);
    memcpy(p + len + at, to, n);
    return write_bytes(b);
}

static const char *renamed(const char *path, const char *from, const char *to)
{
    struct bytes b = read_bytes(path);
    assert_int_equal(strlen(from), strlen(to));
    uint8_t *p = memmem(b.data, b.n, from, strlen(from));
    assert_non_null(p);
    memcpy(p, to, strlen(to));
    return write_bytes(b);
}

struct machine {
    struct vl_exec x;
    struct vl_arena arena;
    void *mem;
};

static void machine_open(struct machine *k)
{
    struct vl_error err;
    enum { SCRATCH = 8 << 20 };
    *k = (struct machine){.x = {.ops = vl_backend_find("cpu"), .scratch = &k->arena}};
    assert_int_equal(k->x.ops->open(&k->x.device, NULL, &err), 0);
    assert_int_equal(k->x.ops->alloc(k->x.device, SCRATCH, false, &k->mem), 0);
    vl_arena_init(&k->arena, k->mem, SCRATCH);
}

static void machine_close(struct machine *k)
{
    k->x.ops->free(k->x.device, k->mem);
    k->x.ops->close(k->x.device);
}

static void refused(const char *text, const char *mmproj, int code, const char *words)
{
    struct machine k;
    struct vl_error err = {0, ""};
    struct vl_model *m = NULL;
    machine_open(&k);
    int r = vl_model_new(&m, text, mmproj, &k.x, &err);
    machine_close(&k);
    if (r != code || !strstr(err.msg, words) || m)
        fail_msg("answered %d '%s', expected %d '...%s...'", r, err.msg, code, words);
}

static void test_pairs(void **state)
{
    (void)state;
    refused(ODD_MMPROJ, ODD_TEXT, -EINVAL, "swapped?");
    refused(ODD_TEXT, ODD_TEXT, -EINVAL, "odd-f16-text.gguf is a text model (llama), not a projector");
    refused(ODD_TEXT, EVEN_TEXT, -EINVAL, "even-q8_0-text.gguf is a text model");
    refused(ODD_MMPROJ, NULL, -EINVAL, "is a projector (mmproj) file, not a text model; the text file");
    refused(EVEN_TEXT, ODD_MMPROJ, -EINVAL, "do not belong together");
    refused("/nonexistent/model.gguf", ODD_MMPROJ, -ENOENT, "model.gguf");
    refused(write_bytes((struct bytes){malloc(1), 0}), ODD_MMPROJ, -EBADMSG, "changed.gguf");
    struct bytes half = read_bytes(ODD_TEXT);
    half.n /= 2;
    refused(write_bytes(half), ODD_MMPROJ, -EBADMSG, "changed.gguf");
}

static void test_families(void **state)
{
    (void)state;
    const size_t value = 4 + 8; /* type and length of a string */
    refused(
        changed(ODD_TEXT, "general.architecture", value, "qwen9", 5), ODD_MMPROJ, -ENOTSUP,
        "text 'qwen9' with projector 'idefics3' are not supported; supported: smolvlm (llama + idefics3), "
        "llama (llama alone)");
    refused(ODD_TEXT, changed(ODD_MMPROJ, "clip.projector_type", value, "gemma\n44", 8), -ENOTSUP,
            "projector 'gemma?44'");
    refused(ODD_TEXT, renamed(ODD_MMPROJ, "clip.projector_type", "clip.projector_typo"), -EINVAL,
            "clip.projector_type is missing");
    refused(renamed(ODD_TEXT, "<image>", "<imagf>"), ODD_MMPROJ, -EINVAL, "no special token <image>");
    refused(renamed(ODD_TEXT, "<global-img>", "<global-IMG>"), ODD_MMPROJ, -EINVAL, "<global-img>");
    refused(
        changed(ODD_TEXT, "general.architecture", value, "qwen9", 5), NULL, -ENOTSUP,
        "text 'qwen9' alone are not supported; supported: smolvlm (llama + idefics3), llama (llama alone)");
    refused(renamed(ODD_TEXT, "<|im_start|>", "<|im_stort|>"), NULL, -ENOTSUP,
            "no way to talk to it is known");
}

static void test_values(void **state)
{
    (void)state;
    const uint32_t none = 0, three = 3, many = 100000;
    const float not_a_number = NAN, no_std[3] = {.5f, 0, .5f};
    static const struct {
        bool text;
        const char *key, *words;
        int which;
    } u32[] = {
        {true, "llama.block_count", "llama.block_count", 0},
        {true, "llama.block_count", "blk.2.", 1},
        {true, "llama.attention.head_count", "head", 1},
        {true, "llama.attention.head_count_kv", "head", 1},
        {true, "llama.embedding_length", "embedding_length", 2},
        {true, "llama.attention.key_length", "keys", 1},
        {true, "llama.rope.dimension_count", "dimension_count", 1},
        {false, "clip.vision.patch_size", "patch_size", 0},
        {false, "clip.vision.image_size", "image_size", 2},
        {false, "clip.vision.image_size", "grid", 1},
        {false, "clip.vision.attention.head_count", "heads", 1},
        {false, "clip.vision.embedding_length", "", 1},
        {false, "clip.vision.projector.scale_factor", "shuffled by 0", 0},
    };
    const uint32_t *values[] = {&none, &three, &many};
    for (size_t i = 0; i < sizeof(u32) / sizeof(u32[0]); i++) {
        /* The whole key: the length of the next string must not be mistaken for it. */
        const char *file =
            changed(u32[i].text ? ODD_TEXT : ODD_MMPROJ, u32[i].key, 4, values[u32[i].which], 4);
        refused(u32[i].text ? file : ODD_TEXT, u32[i].text ? ODD_MMPROJ : file, -EINVAL, u32[i].words);
    }
    refused(changed(ODD_TEXT, "llama.attention.layer_norm_rms_epsilon", 4, &not_a_number, 4), ODD_MMPROJ,
            -EINVAL, "epsilon");
    refused(changed(ODD_TEXT, "llama.rope.freq_base", 4, &not_a_number, 4), ODD_MMPROJ, -EINVAL, "freq_base");
    refused(ODD_TEXT, changed(ODD_MMPROJ, "clip.vision.image_std", 4 + 4 + 8, no_std, 12), -EINVAL,
            "image_std");
    refused(renamed(ODD_TEXT, "blk.1.attn_q.weight", "blk.1.attn_x.weight"), ODD_MMPROJ, -EINVAL,
            "blk.1.attn_q.weight");
    refused(ODD_TEXT, renamed(ODD_MMPROJ, "v.post_ln.bias", "v.post_ln.bios"), -EINVAL, "v.post_ln.bias");
}

/* ---- repairs ---- */

/* Visual tokens of one picture, by malloc. */
static float *encode_of(const char *mmproj, int w, int h, uint32_t *ret_n, uint32_t *ret_layers)
{
    struct machine k;
    struct vl_error err = {0, ""};
    uint8_t *pixels = test_picture(w, h);
    struct vl_frame frame = test_frame_rgb(pixels, w, h), *frames[] = {&frame};
    const struct vl_unit unit = {.frame = frames, .n_frames = 1};
    struct vl_visual_tokens tok;
    vl_auto(vl_model) m = NULL;
    vl_auto(vl_encode) e = NULL;
    machine_open(&k);
    if (vl_model_new(&m, ODD_TEXT, mmproj, &k.x, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(vl_encode_new(&e, m, &k.x, false), 0);
    assert_int_equal(vl_model_arch(m)->encode_begin(m, e, &unit, 1), 0);
    assert_int_equal(vl_model_arch(m)->encode_step(e, 1000, &tok), 0);
    *ret_n = tok.n * tok.feat.dim[1];
    *ret_layers = vl_model_get_desc(m)->n_encode_layers;
    float *ret = malloc(*ret_n * sizeof(*ret));
    memcpy(ret, tok.feat.data, *ret_n * sizeof(*ret));
    free(pixels);
    e = vl_encode_unref(e);
    m = vl_model_unref(m);
    machine_close(&k);
    return ret;
}

static float *encode(const char *mmproj, uint32_t *ret_n, uint32_t *ret_layers)
{
    return encode_of(mmproj, 70, 40, ret_n, ret_layers);
}

static void same_as_good(const char *mmproj)
{
    uint32_t n_good, n, layers;
    float *good = encode(ODD_MMPROJ, &n_good, &layers), *got = encode(mmproj, &n, &layers);
    assert_int_equal(n, n_good);
    assert_memory_equal(got, good, n * sizeof(*got));
    free(good);
    free(got);
}

/* The names of the two feed-forward matrices exchanged, as converters of 2023 wrote them; the file keeps its
 * length, since each name comes as often as the other. */
static const char *swapped_ffn(void)
{
    struct bytes in = read_bytes(ODD_MMPROJ), out = {malloc(in.n), 0};
    for (size_t i = 0; i < in.n;) {
        uint64_t len = 0;
        const uint8_t *name = in.data + i + 8;
        if (i + 40 < in.n)
            memcpy(&len, in.data + i, 8);
        bool up = false, down = false;
        if (len > 12 && len < 40 && memcmp(name, "v.blk.", 6) == 0) {
            up = memcmp(name + 8, "ffn_up.", 7) == 0;
            down = memcmp(name + 8, "ffn_down.", 9) == 0;
        }
        if (!up && !down) {
            out.data[out.n++] = in.data[i++];
            continue;
        }
        const char *other = up ? "ffn_down." : "ffn_up.";
        size_t skip = 8 + (up ? 7 : 9), rest = (size_t)len - skip;
        uint64_t new_len = 8 + strlen(other) + rest;
        memcpy(out.data + out.n, &new_len, 8);
        memcpy(out.data + out.n + 8, name, 8);
        memcpy(out.data + out.n + 16, other, strlen(other));
        memcpy(out.data + out.n + 16 + strlen(other), name + skip, rest);
        out.n += 8 + new_len;
        i += 8 + len;
    }
    assert_int_equal(out.n, in.n);
    free(in.data);
    return write_bytes(out);
}

static void test_repairs(void **state)
{
    (void)state;
    const float eps = 1e-3f;
    const uint32_t many = 77;
    same_as_good(swapped_ffn());
    /* Converters wrote 1e-5 where the model has 1e-6, the text model's width for the encoder's, and depths of
     * their own: none of it is believed. */
    same_as_good(changed(ODD_MMPROJ, "clip.vision.attention.layer_norm_epsilon", 4, &eps, 4));
    same_as_good(changed(ODD_MMPROJ, "clip.vision.feed_forward_length", 4, &many, 4));
    same_as_good(changed(ODD_MMPROJ, "clip.vision.block_count", 4, &many, 4));
    uint32_t n, layers;
    free(encode(renamed(ODD_MMPROJ, "v.blk.1.ln1.weight", "v.blk.x.ln1.weight"), &n, &layers));
    assert_int_equal(layers, 1);
}

/* An encoder whose edge is odd, and a square frame, which is made one pixel longer on its way there. */
static void test_odd_edge(void **state)
{
    (void)state;
    const uint32_t edge = 57; /* nine patches of six, and three pixels that no patch has */
    uint32_t n, layers;
    free(encode_of(changed(ODD_MMPROJ, "clip.vision.image_size", 4, &edge, 4), 64, 64, &n, &layers));
    assert_true(n > 0);
}

/* ---- what a file may have ---- */

/* The optional tensor: of patch_embd's shape and of a format that weights have, or not there. */
static void test_change(void **state)
{
    (void)state;
    static const char name[] = "v.patch_embd.delta.weight";
    const uint64_t fewer = 5;
    const uint32_t i32 = 26; /* behind n_dims, four dimensions */
    refused(ODD_TEXT, changed(CHANGE, name, 4, &fewer, 8), -EINVAL,
            "v.patch_embd.delta.weight' is [32, 3, 6, 5], must be [32, 3, 6, 6]");
    refused(ODD_TEXT, changed(CHANGE, name, 4 + 4 * 8, &i32, 4), -EINVAL,
            "v.patch_embd.delta.weight' holds i32, which are no weights");
    same_as_good(CHANGE); /* a first look */
    same_as_good(renamed(CHANGE, name, "v.patch_embd.delta.weighs"));
}

/* ---- whatever the files say ---- */

/* A place in the file's head: often just behind the name of a key or a tensor, where numbers lie. */
static size_t somewhere(const struct bytes *b, struct test_rng *rng)
{
    static const char *const marks[] = {"llama.", "clip.", "blk.", "general.", "tokenizer."};
    size_t head = b->n < 30000 ? b->n : 30000, at = test_randn(rng, (uint32_t)head);
    const char *mark = marks[test_randn(rng, 5)];
    const uint8_t *p = memmem(b->data + at, head - at, mark, strlen(mark));
    if (!p || test_randn(rng, 4) == 0)
        return at;
    at = (size_t)(p - b->data) + test_randn(rng, 64);
    return at < head ? at : head - 1;
}

static const char *mutated(const char *path, struct test_rng *rng)
{
    static const uint8_t values[] = {0, 1, 2, 3, 4, 7, 0x7f, 0x80, 0xff};
    struct bytes b = read_bytes(path);
    for (uint32_t i = 1 + test_randn(rng, 3); i > 0; i--)
        b.data[somewhere(&b, rng)] =
            test_randn(rng, 2) ? values[test_randn(rng, 9)] : (uint8_t)test_rand(rng);
    return write_bytes(b);
}

/* One frame and one token of whatever was accepted. */
static void use(struct vl_model *m, struct vl_exec *x)
{
    const struct vl_model_desc *d = vl_model_get_desc(m);
    const struct vl_arch *arch = vl_model_arch(m);
    uint8_t *pixels = test_picture(20, 30);
    struct vl_frame frame = test_frame_rgb(pixels, 20, 30), *frames[] = {&frame};
    const struct vl_unit unit = {.frame = frames, .n_frames = 1};
    const struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = 1, .extent = 1};
    vl_auto(vl_encode) e = NULL;
    vl_auto(vl_kv_pool) pool = NULL;
    vl_auto(vl_kv) kv = NULL;
    struct vl_visual_tokens tok;
    assert_int_equal(vl_encode_new(&e, m, x, false), 0);
    assert_int_equal(arch->encode_begin(m, e, &unit, 1), 0);
    assert_int_equal(arch->encode_step(e, 1000, &tok), 0);
    assert_int_equal(vl_kv_pool_new(&pool, x, &d->kv, 1 << 20, NULL, NULL), 0);
    assert_int_equal(vl_kv_new(&kv, pool, NULL, NULL, 16, NULL), 0);
    const int32_t id = (int32_t)d->n_vocab - 1;
    struct vl_span span = {.kv = kv, .n = 1, .n_logits = 1};
    const struct vl_batch b = {.id = &id, .span = &span, .n_spans = 1, .n = 1};
    struct vl_tensor logits;
    assert_int_equal(vl_kv_append(kv, x, &s, &span.slot), 0);
    assert_int_equal(arch->run(m, x, &b, &logits), 0);
    free(pixels);
}

/* Refused with words, or as good as any other. */
static void test_mutations(void **state)
{
    (void)state;
    struct test_rng rng = test_rng_new("mutations");
    struct machine k;
    unsigned n_taken = 0;
    machine_open(&k);
    for (int i = 0; i < 400; i++) {
        struct vl_error err = {0, ""};
        vl_auto(vl_model) m = NULL;
        const char *file = mutated(i & 1 ? ODD_TEXT : ODD_MMPROJ, &rng);
        int r = vl_model_new(&m, i & 1 ? file : ODD_TEXT, i & 1 ? ODD_MMPROJ : file, &k.x, &err);
        assert_true(r == 0 || (r < 0 && err.msg[0]));
        if (r == 0) {
            use(m, &k.x);
            n_taken++;
        }
        vl_arena_reset(&k.arena, 0);
    }
    machine_close(&k);
    (void)printf("%u of 400 were taken\n", n_taken);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/changed.gguf", folder);
    (void)remove(path);
    return remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),     cmocka_unit_test(test_families), cmocka_unit_test(test_values),
        cmocka_unit_test(test_repairs),   cmocka_unit_test(test_odd_edge), cmocka_unit_test(test_change),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
