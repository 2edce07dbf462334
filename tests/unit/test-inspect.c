/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What a model is told to be, and what it would cost: against files whose making is known, and against what
 * an engine with the same options says of itself. */
#include "tests/harness.h"

#include "base/clock.h"
#include "engine/inspect.h"

#include <poll.h>
#include <string.h>

#define TEXT        GOLDEN_DIR "/smolvlm/odd-f16-text.gguf"
#define MMPROJ      GOLDEN_DIR "/smolvlm/odd-f16-mmproj.gguf"
#define EVEN_TEXT   GOLDEN_DIR "/smolvlm/even-q8_0-text.gguf"
#define EVEN_MMPROJ GOLDEN_DIR "/smolvlm/even-q8_0-mmproj.gguf"
#define CHANGE      GOLDEN_DIR "/smolvlm/change-f16-mmproj.gguf"

struct page {
    char text[16384]; /* "section: key: value\n" */
};

static void write_line(void *user, const char *section, const char *key, const char *value)
{
    struct page *p = user;
    size_t n = strlen(p->text);
    (void)snprintf(p->text + n, sizeof(p->text) - n, "%s: %s: %s\n", section, key, value);
}

static int inspect(struct page *p, const char *text, const char *mmproj, const char *backend,
                   struct vl_error *err)
{
    const struct vl_inspect_out out = {.user = p, .line = write_line};
    *p = (struct page){0};
    return vl_inspect(
        &(struct vl_engine_opts){.model = text, .mmproj = mmproj, .backend = backend, .n_workers = 1}, &out,
        err);
}

static void has(const struct page *p, const char *line)
{
    if (!strstr(p->text, line))
        fail_msg("no '%s' in\n%s", line, p->text);
}

static void test_a_good_pair_is_told_and_looks_at_a_picture(void **state)
{
    (void)state;
    static struct page a, b;
    struct vl_error err = {0};
    assert_int_equal(inspect(&a, TEXT, MMPROJ, "cpu:isa=c", &err), 0);
    has(&a, "text: file: odd-f16-text.gguf\n");
    has(&a, "text: architecture: llama\n");
    has(&a, "text: family: smolvlm\n");
    has(&a, "text: quantization: F16\n");
    has(&a, "text: context: 8192\n");
    has(&a, "projector: layers: 2\n");
    has(&a, "projector: tokens of a frame: 9\n");
    has(&a, "protocol: name: smolvlm\n");
    has(&a,
        "repaired: clip.vision.preproc_image_size: is 224, taken as 56: the vocabulary names 1 of 4 tiles");
    /* The bytes of Pillow's arithmetic on a fixed picture: the same everywhere and for ever. */
    has(&a, "image: pixels: e627f075a2e81183\n");
    has(&a, "image: tokens: ");
    assert_int_equal(inspect(&b, TEXT, MMPROJ, "cpu:isa=c", &err), 0);
    assert_string_equal(a.text, b.text);
    assert_null(strstr(a.text, "unsupported"));
    assert_null(strstr(a.text, "sees change"));
    const char *tokens = strstr(a.text, "image: tokens: ");
    assert_int_equal(inspect(&b, TEXT, CHANGE, "cpu:isa=c", &err), 0);
    has(&b, "projector: sees change: a frame is compared with the one before it\n");
    assert_non_null(tokens);
    assert_non_null(strstr(b.text, tokens)); /* of a picture alone */
}

static void test_text_alone(void **state)
{
    (void)state;
    static struct page p;
    struct vl_error err = {0};
    assert_int_equal(inspect(&p, TEXT, NULL, NULL, &err), 0);
    has(&p, "text: family: llama\n");
    has(&p, "protocol: name: smolvlm\n");
    assert_null(strstr(p.text, "projector:"));
    assert_null(strstr(p.text, "image: pixels"));
}

static void test_what_cannot_be_used_says_why_last(void **state)
{
    (void)state;
    static struct page p;
    struct vl_error err = {0};
    assert_int_equal(inspect(&p, EVEN_TEXT, MMPROJ, NULL, &err), -EINVAL);
    has(&p, "text: file: even-q8_0-text.gguf\n");
    has(&p, "projector: file: odd-f16-mmproj.gguf\n");
    assert_non_null(strstr(err.msg, "do not belong together"));
    const char *last = strstr(p.text, "unsupported: reason: ");
    assert_non_null(last);
    assert_non_null(strstr(last, err.msg));
    assert_int_equal(inspect(&p, MMPROJ, TEXT, NULL, &err), -EINVAL);
    has(&p, "text: architecture: clip\n");
    has(&p, "swapped?");
    assert_int_equal(inspect(&p, "/nonexistent/x.gguf", NULL, NULL, &err), -ENOENT);
    has(&p, "unsupported: reason: ");
}

/* A plan is what the engine then takes. */
static void test_a_plan_is_what_the_engine_takes(void **state)
{
    (void)state;
    const struct {
        const char *text, *mmproj;
        uint32_t max_sessions, max_forks;
    } cases[] = {
        {TEXT, MMPROJ, 0, 0}, {EVEN_TEXT, EVEN_MMPROJ, 7, 2}, {EVEN_TEXT, NULL, 2, 3}, {TEXT, CHANGE, 3, 1}};
    for (int i = 0; i < 4; i++) {
        struct vl_engine_opts o = {.model = cases[i].text,
                                   .mmproj = cases[i].mmproj,
                                   .max_sessions = cases[i].max_sessions,
                                   .max_forks = cases[i].max_forks,
                                   .n_workers = 1};
        struct vl_plan p;
        struct vl_error err = {0};
        struct vl_engine *e;
        struct vl_event ev = {0};
        struct vl_engine_info info;
        if (vl_plan(&p, &o, &err) < 0)
            fail_msg("%s", err.msg);
        assert_int_equal(p.total_bytes, p.weight_bytes + p.scratch_bytes + p.kv_pool_bytes);
        o.max_bytes = (size_t)p.total_bytes; /* to the byte */
        assert_int_equal(vl_engine_new(&e, &o, &err), 0);
        while (ev.type != VL_EVENT_READY) {
            struct pollfd fd = {.fd = vl_engine_event_fd(e), .events = POLLIN};
            assert_int_equal(poll(&fd, 1, 60000), 1);
            while (ev.type != VL_EVENT_READY && vl_engine_next_event(e, &ev) == 0)
                if (ev.type == VL_EVENT_FAILED)
                    fail_msg("%s", ev.error.msg);
        }
        assert_int_equal(vl_engine_get_info(e, &info), 0);
        assert_int_equal(info.weight_bytes, p.weight_bytes);
        assert_int_equal(info.scratch_bytes, p.scratch_bytes);
        assert_true(info.kv_pool_bytes <= p.kv_pool_bytes && info.kv_pool_bytes > p.kv_pool_bytes / 10 * 9);
        assert_int_equal(info.tokens_per_frame, p.tokens_per_frame);
        assert_int_equal(info.max_image_tokens, p.max_image_tokens);
        assert_string_equal(info.model_name, p.name);
        assert_string_equal(info.quantization, p.quantization);
        assert_true(p.step_ns > 0 && p.step_flops > 0 && p.fork_bytes > 0);
        assert_true(!p.tokens_per_frame == !p.encode_ns && !p.tokens_per_frame == !p.session_bytes);
        (void)vl_engine_unref(e);
    }
    struct vl_plan p;
    struct vl_error err = {0};
    assert_int_equal(vl_plan(&p, &(struct vl_engine_opts){.model = EVEN_TEXT, .mmproj = MMPROJ}, &err),
                     -EINVAL);
    assert_non_null(strstr(err.msg, "do not belong together"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_pair_is_told_and_looks_at_a_picture),
        cmocka_unit_test(test_text_alone),
        cmocka_unit_test(test_what_cannot_be_used_says_why_last),
        cmocka_unit_test(test_a_plan_is_what_the_engine_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
