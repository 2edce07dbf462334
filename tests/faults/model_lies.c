/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* F34 and F35: tiny pairs whose numbers lie, and pairs that are none. Each is refused by name, with the key
 * or the tensor in the message, before anything is read by it. tests/unit/test-model.c has more,
 * tests/fuzz/fuzz_mmproj.c the rest. */
#include "model/model_private.h"
#include "tests/golden/taps.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static char folder[] = "/tmp/vlmd-faults-XXXXXX", path[64];
#define ODD(what)  GOLDEN_DIR "/smolvlm/odd-f32-" what ".gguf"
#define EVEN(what) GOLDEN_DIR "/smolvlm/even-q8_0-" what ".gguf"

/* The file with the 4 bytes of a key's value changed; index: which element, when it is an array. */
static const char *bent(const char *from, const char *key, unsigned index, const void *value)
{
    static uint8_t data[1 << 20];
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, data, sizeof(data));
    assert_true(n > 0 && (size_t)n < sizeof(data) && close(fd) == 0);
    size_t len = strlen(key);
    uint64_t len64 = len;
    for (uint8_t *p = data; (p = memmem(p, (size_t)(data + n - p), key, len)); p++)
        if (memcmp(p - 8, &len64, 8) == 0) {
            uint32_t type;
            memcpy(&type, p + len, 4);
            memcpy(p + len + 4 + (type == 9 ? 12 + 4 * index : 0), value, 4);
            (void)snprintf(path, sizeof(path), "%s/bent.gguf", folder);
            fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            assert_true(write(fd, data, (size_t)n) == n && close(fd) == 0);
            return path;
        }
    fail_msg("%s has no key %s", from, key);
    return NULL;
}

static void refused(const char *text, const char *mmproj, const char *what, const char *words)
{
    struct vl_exec x = {.ops = vl_backend_find("null")};
    struct vl_error err = {0, ""};
    struct vl_model *m = NULL;
    assert_int_equal(x.ops->open(&x.device, NULL, &err), 0);
    int r = vl_model_new(&m, text, mmproj, &x, &err);
    x.ops->close(x.device);
    if (r != -EINVAL || !strstr(err.msg, words) || m)
        fail_msg("%s: answered %d '%s', expected %d '...%s...'", what, r, err.msg, -EINVAL, words);
}

static void test_F34_numbers_that_lie(void **state)
{
    (void)state;
    static const struct {
        const char *key, *words;
        uint32_t value;
    } u32[] = {
        {"llama.block_count", "llama.block_count", 1000000},
        {"llama.block_count", "llama.block_count", 0},
        {"llama.block_count", "llama.block_count", UINT32_MAX},
        {"llama.attention.head_count", "llama.attention.head_count", 0},
        {"llama.attention.head_count", "share", 3},
        {"llama.attention.head_count", "llama.attention.head_count", 1u << 31},
        {"llama.attention.head_count_kv", "share", 0},
        {"llama.attention.head_count_kv", "share", 8},
        {"llama.attention.key_length", "heads of 0", 0},
        {"llama.attention.key_length", "heads of 15", 15},
        {"llama.attention.key_length", "heads of", 1u << 16},
        {"llama.embedding_length", "llama.embedding_length", 0},
        {"llama.embedding_length", "takes 31", 31},
        {"llama.feed_forward_length", "llama.feed_forward_length", UINT32_MAX},
        {"llama.context_length", "llama.context_length", 0},
        {"llama.rope.dimension_count", "llama.rope.dimension_count", 0},
        {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.bos_token_id", 328},
        {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_id", UINT32_MAX},
        {"clip.vision.patch_size", "clip.vision.patch_size", 0},
        {"clip.vision.image_size", "clip.vision.image_size", 0},
        {"clip.vision.image_size", "clip.vision.image_size", 1000000},
        {"clip.vision.attention.head_count", "clip.vision.attention.head_count", 0},
        {"clip.vision.attention.head_count", "does not divide", 7},
        {"clip.vision.embedding_length", "clip.vision.embedding_length", 0},
        {"clip.vision.projector.scale_factor", "shuffled by 0", 0},
        {"clip.vision.projector.scale_factor", "shuffled by", UINT32_MAX},
    };
    static const struct {
        const char *key;
        unsigned index;
        float value;
    } f32[] = {
        {"llama.rope.freq_base", 0, 0},
        {"llama.rope.freq_base", 0, NAN},
        {"llama.rope.freq_base", 0, INFINITY},
        {"llama.rope.freq_base", 0, -1},
        {"llama.attention.layer_norm_rms_epsilon", 0, 0},
        {"llama.attention.layer_norm_rms_epsilon", 0, NAN},
        {"llama.attention.layer_norm_rms_epsilon", 0, -1e-5f},
        {"clip.vision.image_std", 1, 0},
        {"clip.vision.image_std", 2, INFINITY},
        {"clip.vision.image_mean", 0, NAN},
    };
    for (size_t i = 0; i < sizeof(u32) / sizeof(*u32); i++) {
        bool text = u32[i].key[0] != 'c';
        const char *file = bent(text ? ODD("text") : ODD("mmproj"), u32[i].key, 0, &u32[i].value);
        refused(text ? file : ODD("text"), text ? ODD("mmproj") : file, u32[i].key, u32[i].words);
    }
    for (size_t i = 0; i < sizeof(f32) / sizeof(*f32); i++) {
        bool text = f32[i].key[0] != 'c';
        const char *file = bent(text ? ODD("text") : ODD("mmproj"), f32[i].key, f32[i].index, &f32[i].value);
        refused(text ? file : ODD("text"), text ? ODD("mmproj") : file, f32[i].key,
                strncmp(f32[i].key, "clip.vision.image", 17) == 0 ? "clip.vision.image_" : f32[i].key);
    }
}

static void test_F35_pairs_that_are_none(void **state)
{
    (void)state;
    refused(ODD("text"), EVEN("mmproj"), "another width", "do not belong together");
    refused(EVEN("text"), ODD("mmproj"), "another width", "do not belong together");
    refused(ODD("mmproj"), ODD("text"), "swapped", "swapped?");
    refused(ODD("text"), ODD("text"), "the text model twice", "is a text model");
    refused(ODD("mmproj"), ODD("mmproj"), "the projector twice", "swapped?");
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_F34_numbers_that_lie),
        cmocka_unit_test(test_F35_pairs_that_are_none),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
