/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Writes the seeds of the gguf and tokenizer targets: make_seeds tests/fuzz/corpus. Run by hand when the
 * format or the targets change; the output is checked in. */
#include "base/cleanup.h"
#include "tests/gguf_writer.h"

#include <stdio.h>
#include <string.h>

static const char *root;

static void save_bytes(const char *name, const void *p, size_t n)
{
    char path[1024];
    (void)snprintf(path, sizeof(path), "%s/%s", root, name);
    FILE *f = fopen(path, "we");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0)
        perror(path);
}

static void save(const char *name, struct gguf_writer *w)
{
    size_t n;
    vl_autofree unsigned char *p = gguf_finish(w, &n);
    save_bytes(name, p, n);
    gguf_done(w);
}

static void every_type(void)
{
    struct gguf_writer w;
    static const uint8_t scalar[][3] = {{0, 1}, {1, 1}, {2, 2}, {3, 2}, {10, 8}, {11, 8}, {12, 8}};
    char key[8];
    gguf_init(&w);
    gguf_str(&w, "general.architecture", "test");
    gguf_u32(&w, "general.alignment", 8);
    gguf_u32(&w, "t.u32", 7);
    gguf_i32(&w, "t.i32", -7);
    gguf_f32(&w, "t.f32", 0.5f);
    gguf_bool(&w, "t.bool", true);
    for (size_t i = 0; i < sizeof(scalar) / sizeof(*scalar); i++) {
        (void)snprintf(key, sizeof(key), "t.%u", scalar[i][0]);
        gguf_key(&w, key, scalar[i][0]);
        gguf_bytes(&w.keys, NULL, scalar[i][1]);
    }
    gguf_i32s(&w, "t.i32s", (const int32_t[]){1, 2, 3}, 3);
    gguf_f32s(&w, "t.f32s", (const float[]){1, 2}, 2);
    gguf_strs(&w, "t.strs", (const char *const[]){"a", "", "bc"}, 3);
    gguf_key(&w, "t.bools", 9);
    gguf_put32(&w.keys, 7);
    gguf_put64(&w.keys, 2);
    gguf_bytes(&w.keys, "\1\0", 2);
    save("gguf/types.gguf", &w);
}

static void tensors(void)
{
    struct gguf_writer w;
    gguf_init(&w);
    gguf_str(&w, "general.architecture", "llama");
    gguf_u32(&w, "llama.block_count", 1);
    gguf_tensor(&w, "token_embd.weight", VL_Q8_0, 2, (const uint32_t[]){2, 32}, NULL);
    gguf_tensor(&w, "blk.0.attn_norm.weight", VL_F32, 1, (const uint32_t[]){4}, NULL);
    gguf_tensor(&w, "half", VL_F16, 2, (const uint32_t[]){2, 3}, NULL);
    gguf_tensor(&w, "brain", VL_BF16, 3, (const uint32_t[]){1, 2, 3}, NULL);
    gguf_tensor(&w, "ids", VL_I32, 1, (const uint32_t[]){2}, NULL);
    gguf_tensor(&w, "conv", VL_F32, 4, (const uint32_t[]){2, 1, 2, 2}, NULL);
    save("gguf/tensors.gguf", &w);
}

static void projector(void)
{
    struct gguf_writer w;
    gguf_init(&w);
    gguf_str(&w, "general.architecture", "clip");
    gguf_str(&w, "clip.projector_type", "idefics3");
    gguf_bool(&w, "clip.has_vision_encoder", true);
    gguf_u32(&w, "clip.vision.image_size", 8);
    gguf_f32s(&w, "clip.vision.image_mean", (const float[]){.5f, .5f, .5f}, 3);
    gguf_tensor(&w, "mm.model.fc.weight", VL_F16, 2, (const uint32_t[]){2, 4}, NULL);
    save("gguf/projector.gguf", &w);
}

static void empty(void)
{
    struct gguf_writer w;
    gguf_init(&w);
    save("gguf/empty.gguf", &w);
}

static void vocabulary(void)
{
    static const char *const text[] = {"a",
                                       "b",
                                       "ab",
                                       "\xC4\xA0",
                                       ("\xC4\xA0"
                                        "ab"),
                                       "<image>",
                                       "<0x0A>",
                                       "<unk>",
                                       "x"};
    static const int32_t type[] = {1, 1, 1, 1, 1, 3, 6, 2, 4};
    static const char *const merge[] = {"a b", "\xC4\xA0 ab"};
    struct gguf_writer w;
    gguf_init(&w);
    gguf_str(&w, "tokenizer.ggml.model", "gpt2");
    gguf_str(&w, "tokenizer.ggml.pre", "smollm");
    gguf_strs(&w, "tokenizer.ggml.tokens", text, sizeof(text) / sizeof(*text));
    gguf_i32s(&w, "tokenizer.ggml.token_type", type, sizeof(type) / sizeof(*type));
    gguf_strs(&w, "tokenizer.ggml.merges", merge, 2);
    gguf_u32(&w, "tokenizer.ggml.bos_token_id", 5);
    gguf_u32(&w, "tokenizer.ggml.eos_token_id", 7);
    gguf_bool(&w, "tokenizer.ggml.add_bos_token", false);
    save("tokenizer/vocabulary.gguf", &w);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name, *text;
    } texts[] = {
        {"tokenizer/words", "the the  aaaa don't DON'T a1b22"},
        {"tokenizer/specials", "<image>\1<image>x\2<end>\1<im\1age><e\1\xC3\xA9\xC3\xA9"},
        {"tokenizer/spaces", "a  1\n\n  y \t b\xC2\xA0\xE3\x80\x80\xC2\x85 \xE1\xA0\x8E"},
        {"tokenizer/whole", "d the aaaa IT'S 1234567 x!?\r\n \r\n\1<end>\2 the"},
        {"tokenizer/default", "e$ the <=> 12345 ((a)) it's... \xD9\xA1\xD9\xA2"},
        {"tokenizer/digits", "`a1b22 the 7're \xC2\xBD"},
        {"tokenizer/broken", "\xFF\xC3\xE2\x82\xF0\x9F\x98\xED\xA0\x80\xC0\xAF\xE4\xBD"},
    };
    if (argc != 2)
        return 1;
    root = argv[1];
    every_type();
    tensors();
    projector();
    empty();
    vocabulary();
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        save_bytes(texts[i].name, texts[i].text, strlen(texts[i].text));
    return 0;
}
