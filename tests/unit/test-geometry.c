/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The published models' true sizes, in files whose tensors are holes: every shape passes the kernels' checks,
 * and the work of a frame is what their geometry says, counted here by hand. No weight is needed for that. */
#include "model/model_private.h"
#include "tests/gguf_writer.h"
#include "tests/harness.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>

struct geometry {
    const char *name;
    uint32_t width, layers, heads, kv_heads, ff, vocabulary, context;
    uint32_t eye_width, eye_layers, eye_heads, eye_ff, patch, image, shuffle, longest;
    uint32_t frame_tokens, max_views;
    double parameters; /* of both files, millions */
};
static const struct geometry models[] = {
    {"SmolVLM2-256M", 576, 30, 9, 3, 1536, 49280, 8192, 768, 12, 12, 3072, 16, 512, 4, 2048, 64, 17, 256.5},
    {"SmolVLM2-500M", 960, 32, 15, 5, 2560, 49280, 8192, 768, 12, 12, 3072, 16, 512, 4, 2048, 64, 17, 507.5},
    {"SmolVLM2-2.2B", 2048, 24, 32, 32, 8192, 49280, 16384, 1152, 27, 16, 4304, 14, 384, 3, 1536, 81, 17,
     2246.8},
};

/* ---- files ---- */

static char folder[] = "/tmp/vlmd-test-geometry-XXXXXX";
static char text_path[64], mmproj_path[64];

struct file {
    struct gguf_writer g;
    uint64_t end;
};

static void add(struct file *f, const char *name, bool f32, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    const uint64_t ne[4] = {a, b, c, d}; /* innermost first, 0: none */
    uint32_t n_dims = 0;
    uint64_t bytes = f32 ? 4 : 2;
    for (; n_dims < 4 && ne[n_dims]; n_dims++)
        bytes *= ne[n_dims];
    gguf_tensor_raw(&f->g, name, n_dims, ne, f32 ? 0 : 1, f->end, 0);
    f->end += (bytes + 31) / 32 * 32;
}

static void write_file(struct file *f, const char *path)
{
    size_t n;
    unsigned char *head = gguf_finish(&f->g, &n);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, head, n), n);
    assert_int_equal(ftruncate(fd, (off_t)(n + f->end)), 0);
    (void)close(fd);
    free(head);
    gguf_done(&f->g);
}

static void add_vocabulary(struct file *f, uint32_t n)
{
    static const char *const special[] = {"<image>",      "<fake_token_around_image>", "<global-img>",
                                          "<|im_start|>", "<end_of_utterance>",        "<row_4_col_4>"};
    static char text[1 << 20];
    const char **word = calloc(n, sizeof(*word));
    int32_t *type = calloc(n, sizeof(*type));
    char *at = text;
    for (uint32_t i = 0; i < n; i++, at += strlen(at) + 1) {
        if (i < 36)
            (void)snprintf(at, 32, "<row_%u_col_%u>", i / 6 + 1, i % 6 + 1);
        else if (i < 36 + 5)
            (void)snprintf(at, 32, "%s", special[i - 36]);
        else
            (void)snprintf(at, 32, "w%u", i);
        word[i] = at;
        type[i] = i < 36 + 5 ? 3 : 1;
    }
    static const char *const merges[] = {"w 1"};
    gguf_str(&f->g, "tokenizer.ggml.model", "gpt2");
    gguf_str(&f->g, "tokenizer.ggml.pre", "smollm");
    gguf_strs(&f->g, "tokenizer.ggml.tokens", word, n);
    gguf_i32s(&f->g, "tokenizer.ggml.token_type", type, n);
    gguf_strs(&f->g, "tokenizer.ggml.merges", merges, 0);
    gguf_u32(&f->g, "tokenizer.ggml.bos_token_id", 39);
    gguf_u32(&f->g, "tokenizer.ggml.eos_token_id", 40);
    free(word);
    free(type);
}

static void write_text(const struct geometry *m)
{
    struct file f = {0};
    const uint32_t c = m->width, kv = c / m->heads * m->kv_heads;
    char name[64];
    gguf_init(&f.g);
    gguf_str(&f.g, "general.architecture", "llama");
    gguf_str(&f.g, "general.name", m->name);
    gguf_u32(&f.g, "general.file_type", 1);
    gguf_u32(&f.g, "llama.block_count", m->layers);
    gguf_u32(&f.g, "llama.context_length", m->context);
    gguf_u32(&f.g, "llama.embedding_length", c);
    gguf_u32(&f.g, "llama.feed_forward_length", m->ff);
    gguf_u32(&f.g, "llama.attention.head_count", m->heads);
    gguf_u32(&f.g, "llama.attention.head_count_kv", m->kv_heads);
    gguf_f32(&f.g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    add_vocabulary(&f, m->vocabulary);
    add(&f, "token_embd.weight", false, c, m->vocabulary, 0, 0);
    add(&f, "output.weight", false, c, m->vocabulary, 0, 0);
    add(&f, "output_norm.weight", true, c, 0, 0, 0);
    for (uint32_t l = 0; l < m->layers; l++) {
        const struct {
            const char *part;
            uint32_t in, out;
        } parts[] = {{"attn_norm", c, 0},  {"ffn_norm", c, 0},     {"attn_q", c, c},
                     {"attn_k", c, kv},    {"attn_v", c, kv},      {"attn_output", c, c},
                     {"ffn_up", c, m->ff}, {"ffn_gate", c, m->ff}, {"ffn_down", m->ff, c}};
        for (int i = 0; i < 9; i++) {
            (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", l, parts[i].part);
            add(&f, name, !parts[i].out, parts[i].in, parts[i].out, 0, 0);
        }
    }
    write_file(&f, text_path);
}

static void add_linear(struct file *f, uint32_t layer, const char *part, uint32_t in, uint32_t out)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "v.blk.%u.%s.weight", layer, part);
    add(f, name, in == 0, in ? in : out, in ? out : 0, 0, 0);
    (void)snprintf(name, sizeof(name), "v.blk.%u.%s.bias", layer, part);
    add(f, name, true, out, 0, 0, 0);
}

static void write_mmproj(const struct geometry *m)
{
    static const float half[] = {.5f, .5f, .5f};
    struct file f = {0};
    const uint32_t c = m->eye_width, grid = m->image / m->patch;
    gguf_init(&f.g);
    gguf_str(&f.g, "general.architecture", "clip");
    gguf_str(&f.g, "clip.projector_type", "idefics3");
    gguf_u32(&f.g, "clip.vision.embedding_length", c);
    gguf_u32(&f.g, "clip.vision.attention.head_count", m->eye_heads);
    gguf_u32(&f.g, "clip.vision.patch_size", m->patch);
    gguf_u32(&f.g, "clip.vision.image_size", m->image);
    gguf_u32(&f.g, "clip.vision.preproc_image_size", m->longest);
    gguf_u32(&f.g, "clip.vision.projector.scale_factor", m->shuffle);
    gguf_f32s(&f.g, "clip.vision.image_mean", half, 3);
    gguf_f32s(&f.g, "clip.vision.image_std", half, 3);
    add(&f, "v.patch_embd.weight", false, m->patch, m->patch, 3, c);
    add(&f, "v.patch_embd.bias", true, c, 0, 0, 0);
    add(&f, "v.position_embd.weight", true, c, grid * grid, 0, 0);
    add(&f, "v.post_ln.weight", true, c, 0, 0, 0);
    add(&f, "v.post_ln.bias", true, c, 0, 0, 0);
    for (uint32_t l = 0; l < m->eye_layers; l++) {
        static const char *const square[] = {"attn_q", "attn_k", "attn_v", "attn_out"};
        add_linear(&f, l, "ln1", 0, c);
        add_linear(&f, l, "ln2", 0, c);
        for (int i = 0; i < 4; i++)
            add_linear(&f, l, square[i], c, c);
        add_linear(&f, l, "ffn_up", c, m->eye_ff);
        add_linear(&f, l, "ffn_down", m->eye_ff, c);
    }
    add(&f, "mm.model.fc.weight", false, m->shuffle * m->shuffle * c, m->width, 0, 0);
    write_file(&f, mmproj_path);
}

/* ---- what is expected ---- */

static void near(const char *name, const char *what, double got, double want, double tolerance)
{
    (void)printf("  %-14s %-10s %.4g, by hand %.4g\n", name, what, got, want);
    if (!(fabs(got - want) <= tolerance * want))
        fail_msg("%s: %s is %g, by hand %g", name, what, got, want);
}

static double encode_flops(const struct geometry *m)
{
    const double n = (double)(m->image / m->patch) * (m->image / m->patch), c = m->eye_width;
    const double block = 4 * c * c + 2 * c * m->eye_ff, patches = 3.0 * m->patch * m->patch * c;
    const double project = m->frame_tokens * (double)m->shuffle * m->shuffle * c * m->width;
    return 2 * n * (m->eye_layers * block + patches) + 4 * n * n * c * m->eye_layers + 2 * project;
}

static double core_parameters(const struct geometry *m)
{
    const double c = m->width, kv = c / m->heads * m->kv_heads;
    return m->layers * (2 * c * c + 2 * c * kv + 3 * c * m->ff);
}

static void check_model(const struct geometry *m)
{
    struct vl_error err = {0, ""};
    vl_auto(vl_model) model = NULL;
    write_text(m);
    write_mmproj(m);
    if (vl_model_open(&model, text_path, mmproj_path, NULL, &err) < 0)
        fail_msg("%s: %s", m->name, err.msg);
    const struct vl_model_desc *d = vl_model_get_desc(model);
    assert_string_equal(d->name, m->name);
    assert_string_equal(d->quantization, "F16");
    assert_int_equal(d->frame_tokens, m->frame_tokens);
    assert_int_equal(d->max_image_tokens, m->max_views * m->frame_tokens);
    assert_int_equal(d->n_encode_layers, m->eye_layers);
    const double t = m->frame_tokens, attention = 2 * t * t * m->width * m->layers;
    near(m->name, "bytes", (double)d->weight_bytes, 2e6 * m->parameters, 0.01);
    near(m->name, "encode", (double)d->encode.flops, encode_flops(m), 0.001);
    near(m->name, "prefill", (double)d->prefill.flops, 2 * t * core_parameters(m) + attention, 0.01);
    near(m->name, "step", (double)d->step.flops,
         2 * (core_parameters(m) + (double)m->vocabulary * m->width) + 4 * t * m->width * m->layers, 0.01);
    vl_auto(vl_model) alone = NULL;
    if (vl_model_open(&alone, text_path, NULL, NULL, &err) < 0)
        fail_msg("%s alone: %s", m->name, err.msg);
    assert_int_equal(vl_model_get_desc(alone)->frame_tokens, 0);
}

static void test_published_sizes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++)
        check_model(&models[i]);
}

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(text_path, sizeof(text_path), "%s/text.gguf", folder);
    (void)snprintf(mmproj_path, sizeof(mmproj_path), "%s/mmproj.gguf", folder);
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    (void)unlink(text_path);
    (void)unlink(mmproj_path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published_sizes)};
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
