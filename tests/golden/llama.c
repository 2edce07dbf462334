/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A tiny Llama that speaks ChatML, in a mix of seven formats, against what Hugging Face computed with the
 * weights read back from the file (tests/reference/make_llama.py): the prompt's ids exact, with the system
 * prompt that its template puts in front, logits within 1e-4 of their RMS and 16 greedy tokens equal, on the
 * C reference. */
#include "model/model_private.h"
#include "tests/golden/taps.h"

#define STEM GOLDEN_DIR "/llama/chatml-mixed"

enum { SCRATCH = 16 << 20, MAX_IDS = 256, N_LOGITS = 8 };

struct fixture {
    struct vl_exec x;
    struct vl_arena arena;
    void *mem;
    struct vl_model *m;
    const struct vl_model_desc *d;
    struct vl_kv_pool *pool;
    struct vl_kv *kv;
    struct test_taps want;
};

static void fixture_open(struct fixture *f)
{
    struct vl_error err = {0, ""};
    *f = (struct fixture){.want = test_taps_open(STEM ".taps"), .x = {.ops = vl_backend_find("cpu")}};
    assert_int_equal(f->x.ops->open(&f->x.device, "isa=c", &err), 0);
    assert_int_equal(f->x.ops->alloc(f->x.device, SCRATCH, false, &f->mem), 0);
    vl_arena_init(&f->arena, f->mem, SCRATCH);
    f->x.scratch = &f->arena;
    if (vl_model_new(&f->m, STEM "-text.gguf", NULL, &f->x, &err) < 0)
        fail_msg("%s", err.msg);
    f->d = vl_model_get_desc(f->m);
    struct vl_kv_geometry g = f->d->kv;
    g.k_dtype = g.v_dtype = VL_F32;
    assert_int_equal(vl_kv_pool_new(&f->pool, &f->x, &g, vl_kv_geometry_bytes(&g, MAX_IDS, 0, 1), NULL, &err),
                     0);
    assert_int_equal(vl_kv_new(&f->kv, f->pool, NULL, NULL, MAX_IDS, &err), 0);
}

static void fixture_close(struct fixture *f)
{
    vl_kv_unref(f->kv);
    vl_kv_pool_unref(f->pool);
    vl_model_unref(f->m);
    f->x.ops->free(f->x.device, f->mem);
    f->x.ops->close(f->x.device);
    test_taps_close(&f->want);
}

static const float *run(struct fixture *f, const int32_t *id, uint32_t n, uint32_t n_logits)
{
    const struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = n, .extent = n};
    struct vl_span span = {.kv = f->kv, .n = n, .n_logits = n_logits};
    const struct vl_batch b = {.id = id, .span = &span, .n_spans = 1, .n = n};
    struct vl_tensor logits;
    vl_arena_reset(&f->arena, 0);
    assert_int_equal(vl_kv_append(f->kv, &f->x, &s, &span.slot), 0);
    assert_int_equal(vl_model_arch(f->m)->run(f->m, &f->x, &b, &logits), 0);
    return logits.data;
}

static void check_logits(const struct fixture *f, const float *got)
{
    struct test_tap_entry e;
    const float *want = test_tap(&f->want, "logits", &e);
    const size_t n = (size_t)N_LOGITS * f->d->n_vocab;
    double max = 0, sum = 0;
    assert_int_equal(n, (size_t)e.dim[0] * e.dim[1]);
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        max = d > max || d != d ? d : max;
        sum += (double)want[i] * want[i];
    }
    (void)printf("  logits: max error %.2e of their RMS\n", max / sqrt(sum / (double)n));
    assert_true(max <= 1e-4 * sqrt(sum / (double)n));
}

static void test_reference(void **state)
{
    (void)state;
    struct fixture f;
    struct test_tap_entry e, g;
    int32_t id[MAX_IDS];
    struct vl_chunk c = {.id = id, .cap = MAX_IDS};
    fixture_open(&f);
    assert_string_equal(f.d->quantization, "Q4_0"); /* as its general.file_type says */
    const int32_t *want = test_tap(&f.want, "ids", &e), *greedy = test_tap(&f.want, "greedy", &g);
    assert_int_equal(vl_model_arch(f.m)->render_ask(f.m, NULL, 0, "Where is the <|image> now, 42?\n", &c), 0);
    assert_int_equal(c.n, e.dim[0]);
    assert_memory_equal(id, want, c.n * sizeof(*id));
    const float *logits = run(&f, id, c.n, N_LOGITS);
    check_logits(&f, logits);
    int32_t next = test_argmax(logits + (size_t)(N_LOGITS - 1) * f.d->n_vocab, f.d->n_vocab);
    for (uint32_t i = 0; i < g.dim[0]; i++) {
        assert_int_equal(next, greedy[i]);
        next = test_argmax(run(&f, &next, 1, 1), f.d->n_vocab);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
