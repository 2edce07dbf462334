/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A language model that people use, SmolLM2-135M-Instruct as Q4_1: ids of 500 texts, greedy continuations and
 * perplexity against tokenizers and transformers (tests/reference/make_real_weights.py). Driven on decoder/,
 * which is all that a model without a picture needs. argv[1]: this folder; the model is where fetch.sh puts
 * it. The trap: our cache is f16 and sums have another order, so a continuation may part where the reference
 * itself hardly preferred its token; prompts.txt says by how much it did, and we go on with its choice then.
 */
#include "base/workers.h"
#include "decoder/tokenizer.h"
#include "decoder/transformer.h"
#include "kvcache/kv.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { MAX_IDS = 4096, MAX_PIECES = 8, WINDOW = 512, N_NEW = 32, MAX_LINE = 1 << 14 };
enum { SCRATCH = 512 << 20 };
/* The reference's best logit is ahead of its second by less than this where we may differ. */
#define TIE                0.01
#define MAX_PERPLEXITY_OFF 0.005 /* of the reference's */

static const char *folder;

struct rig {
    struct vl_workers *workers;
    struct vl_exec x;
    struct vl_arena arena;
    void *scratch, *memory;
    struct vl_weights *w;
    struct vl_tokenizer *t;
    struct vl_decoder d;
    struct vl_kv_pool *pool;
};

static void need(int r, const struct vl_error *err)
{
    if (r < 0)
        fail_msg("%s", err->msg);
}

static void load(struct rig *k, struct vl_error *err)
{
    vl_auto(vl_bind) b = NULL;
    size_t bytes;
    need(vl_tokenizer_new(&k->t, k->w, err), err);
    need(vl_decoder_init(&k->d, k->w, vl_tokenizer_n_vocab(k->t), err), err);
    assert_int_equal(vl_bind_new(&b, k->w, &k->x), 0);
    need(vl_decoder_bind(&k->d, k->w, b, err), err);
    need(vl_bind_load(b, &k->memory, &bytes, err), err);
}

static int rig_open(void **state)
{
    struct vl_error err = {0};
    struct rig *k = calloc(1, sizeof(*k));
    assert_non_null(k);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    assert_int_equal(vl_workers_new(&k->workers, cores > 1 ? (unsigned)(cores < 9 ? cores - 1 : 8) : 0), 0);
    k->x = (struct vl_exec){.ops = vl_backend_find("cpu"), .workers = k->workers, .scratch = &k->arena};
    need(k->x.ops->open(&k->x.device, NULL, &err), &err);
    assert_int_equal(k->x.ops->alloc(k->x.device, SCRATCH, false, &k->scratch), 0);
    vl_arena_init(&k->arena, k->scratch, SCRATCH);
    need(vl_weights_open(&k->w, getenv("VLMD_REAL_WEIGHTS"), &err), &err);
    load(k, &err);
    const struct vl_kv_geometry g = {.n_layers = k->d.n_layers,
                                     .n_kv_heads = k->d.n_kv_heads,
                                     .head_dim = k->d.head_dim,
                                     .page_slots = 64,
                                     .k_dtype = VL_F16,
                                     .v_dtype = VL_F16,
                                     .rope = &k->d.rope};
    need(vl_kv_pool_new(&k->pool, &k->x, &g, vl_kv_geometry_bytes(&g, 2 * WINDOW, 0, 1), NULL, &err), &err);
    *state = k;
    return 0;
}

static int rig_close(void **state)
{
    struct rig *k = *state;
    if (!k) /* open failed and has said so */
        return 0;
    k->pool = vl_kv_pool_unref(k->pool);
    vl_decoder_done(&k->d);
    k->x.ops->free(k->x.device, k->memory);
    k->x.ops->free(k->x.device, k->scratch);
    k->t = vl_tokenizer_unref(k->t);
    k->w = vl_weights_unref(k->w);
    k->x.ops->close(k->x.device);
    k->workers = vl_workers_unref(k->workers);
    free(k);
    return 0;
}

/* --- the files beside this one --- */

static FILE *open_file(const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    if (!f)
        fail_msg("%s is missing; run tests/reference/make_real_weights.py", path);
    return f;
}

static size_t unhex(char *s, char end)
{
    size_t n = 0;
    for (; s[2 * n] && s[2 * n] != end && s[2 * n] != ' '; n++) {
        char two[3] = {s[2 * n], s[2 * n + 1]};
        s[n] = (char)strtoul(two, NULL, 16);
    }
    return n;
}

static uint32_t parse_ids(const char *p, int32_t *id)
{
    uint32_t n = 0;
    for (char *end; *p && *p != '\n'; p = *end ? end + 1 : end) {
        assert_true(n < MAX_IDS);
        id[n++] = (int32_t)strtol(p, &end, 10);
        if (end == p)
            fail_msg("not a list of ids: %.40s", p);
    }
    return n;
}

static uint32_t count_same(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b)
{
    uint32_t i = 0;
    for (; i < n_a && i < n_b && a[i] == b[i]; i++)
        ;
    return i;
}

/* --- tests --- */

static void test_ids(void **state)
{
    struct rig *k = *state;
    static int32_t want[MAX_IDS], got[MAX_IDS];
    static char line[MAX_LINE];
    int number = 0;
    FILE *f = open_file("strings.txt");
    while (fgets(line, sizeof(line), f)) {
        char *ids = strchr(line, ' ');
        uint32_t n = 0;
        assert_non_null(ids);
        uint32_t n_want = parse_ids(ids + 1, want);
        size_t len = unhex(line, ' ');
        number++;
        assert_int_equal(vl_tokenizer_encode(k->t, line, len, false, got, MAX_IDS, &n), 0);
        uint32_t same = count_same(got, n, want, n_want);
        if (same != n || same != n_want)
            fail_msg("strings.txt line %d: %u ids, must be %u; the first that differs is number %u", number,
                     n, n_want, same);
    }
    (void)fclose(f);
    assert_int_equal(number, 500);
}

/* Appends ids to kv and runs them. The logits live until the arena is reset. */
static const float *run(struct rig *k, struct vl_kv *kv, const int32_t *id, uint32_t n, uint32_t n_logits)
{
    const struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = n, .extent = n};
    struct vl_tensor logits;
    uint32_t slot = 0;
    assert_int_equal(vl_kv_append(kv, &k->x, &s, &slot), 0);
    const struct vl_span span = {.kv = kv, .slot = slot, .n = n, .n_logits = n_logits};
    const struct vl_batch b = {.id = id, .span = &span, .n_spans = 1, .n = n};
    assert_int_equal(vl_decoder_run(&k->d, &k->x, &b, &logits), 0);
    assert_int_equal(k->x.ops->sync(&k->x), 0);
    vl_kv_commit(kv);
    return logits.data;
}

static int32_t best(const struct rig *k, const float *logits)
{
    int32_t b = 0;
    for (uint32_t i = 1; i < k->d.n_vocab; i++)
        b = logits[i] > logits[b] ? (int32_t)i : b;
    return b;
}

/* Returns the number of tokens at which we chose otherwise, all of them ties. */
static unsigned check_greedy(struct rig *k, const int32_t *prompt, uint32_t n, const int32_t *want,
                             const double *gap, int number)
{
    vl_auto(vl_kv) kv = NULL;
    unsigned n_ties = 0;
    assert_int_equal(vl_kv_new(&kv, k->pool, NULL, NULL, WINDOW, NULL), 0);
    for (int i = 0; i < N_NEW; i++) {
        size_t mark = vl_arena_mark(&k->arena);
        const float *logits = run(k, kv, i ? &want[i - 1] : prompt, i ? 1 : n, 1);
        int32_t got = best(k, logits);
        if (got != want[i] && gap[i] >= TIE)
            fail_msg("prompts.txt line %d, token %d: %d, must be %d, which the reference prefers by %.3f; "
                     "our logits: "
                     "%.3f and %.3f",
                     number, i, got, want[i], gap[i], (double)logits[got], (double)logits[want[i]]);
        n_ties += got != want[i];
        vl_arena_reset(&k->arena, mark);
    }
    return n_ties;
}

static size_t parse_pieces(char *p, struct vl_text_piece *piece)
{
    size_t n = 0;
    for (;; n++) {
        assert_true(n < MAX_PIECES && (p[0] == 'T' || p[0] == 'U') && p[1] == ':');
        char *end = p + strcspn(p, ", ");
        bool more = *end == ',';
        bool trusted = p[0] == 'T';
        piece[n] = (struct vl_text_piece){p + 2, unhex(p + 2, ','), trusted};
        p = end + 1;
        if (!more)
            return n + 1;
    }
}

static void test_greedy(void **state)
{
    struct rig *k = *state;
    static char line[MAX_LINE];
    static int32_t prompt[MAX_IDS], want[MAX_IDS], got[MAX_IDS];
    unsigned n_ties = 0, number = 0;
    FILE *f = open_file("prompts.txt");
    while (fgets(line, sizeof(line), f)) {
        struct vl_text_piece piece[MAX_PIECES];
        double gap[N_NEW];
        uint32_t n = 0;
        char *save, *pieces = strtok_r(line, " ", &save), *p;
        uint32_t n_prompt = parse_ids(strtok_r(NULL, " ", &save), prompt);
        assert_int_equal(parse_ids(strtok_r(NULL, " ", &save), want), N_NEW);
        p = strtok_r(NULL, " \n", &save);
        for (int i = 0; i < N_NEW; i++, p += *p == ',')
            gap[i] = strtod(p, &p);
        number++;
        assert_int_equal(
            vl_tokenizer_encode_pieces(k->t, piece, parse_pieces(pieces, piece), got, MAX_IDS, &n), 0);
        assert_int_equal(n, n_prompt);
        assert_memory_equal(got, prompt, n * sizeof(*got));
        n_ties += check_greedy(k, prompt, n, want, gap, (int)number);
    }
    (void)fclose(f);
    assert_int_equal(number, 10);
    (void)printf("320 tokens, %u differ where the reference is undecided\n", n_ties);
}

/* -log p of id under the logits */
static double surprise(const struct rig *k, const float *logits, int32_t id)
{
    double sum = 0, max = (double)logits[best(k, logits)];
    for (uint32_t i = 0; i < k->d.n_vocab; i++)
        sum += exp((double)logits[i] - max);
    return log(sum) + max - (double)logits[id];
}

static void test_perplexity(void **state)
{
    struct rig *k = *state;
    static char text[1 << 16];
    static int32_t id[MAX_IDS];
    double want = 0, nll = 0;
    uint32_t n = 0, n_scored = 0, n_want = 0;
    FILE *f = open_file("expected.txt");
    assert_int_equal(fscanf(f, "%lf perplexity of %u", &want, &n_want), 2);
    (void)fclose(f);
    f = open_file("passage.txt");
    size_t len = fread(text, 1, sizeof(text), f);
    (void)fclose(f);
    assert_int_equal(vl_tokenizer_encode(k->t, text, len, false, id, MAX_IDS, &n), 0);
    for (uint32_t at = 0; at + WINDOW <= n; at += WINDOW) {
        vl_auto(vl_kv) kv = NULL;
        size_t mark = vl_arena_mark(&k->arena);
        assert_int_equal(vl_kv_new(&kv, k->pool, NULL, NULL, WINDOW, NULL), 0);
        const float *logits = run(k, kv, id + at, WINDOW, WINDOW);
        for (uint32_t i = 0; i + 1 < WINDOW; i++, n_scored++)
            nll += surprise(k, logits + (size_t)i * k->d.n_vocab, id[at + i + 1]);
        vl_arena_reset(&k->arena, mark);
    }
    assert_int_equal(n_scored, n_want);
    double got = exp(nll / n_scored), off = got / want - 1;
    (void)printf("perplexity %.4f, reference %.4f: %+.3f %%\n", got, want, 100 * off);
    if (!(fabs(off) <= MAX_PERPLEXITY_OFF))
        fail_msg("perplexity %.4f, the reference's is %.4f", got, want);
}

/* Where fetch.sh puts it. */
static void find_model(char *path, size_t cap)
{
    const char *cache = getenv("VLMD_TEST_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    static const char name[] = "SmolLM2-135M-Instruct.Q4_1.gguf";
    if (cache)
        (void)snprintf(path, cap, "%s/%s", cache, name);
    else if (xdg && *xdg)
        (void)snprintf(path, cap, "%s/vlmd-tests/%s", xdg, name);
    else
        (void)snprintf(path, cap, "%s/.cache/vlmd-tests/%s", home ? home : "", name);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_perplexity),
    };
    char path[512];
    folder = argc > 1 ? argv[1] : "tests/real-weights";
    find_model(path, sizeof(path));
    (void)setenv("VLMD_REAL_WEIGHTS", path, 0);
    if (access(getenv("VLMD_REAL_WEIGHTS"), R_OK) != 0) {
        (void)fprintf(stderr, "skipped: no %s; tests/real-weights/fetch.sh gets it\n",
                      getenv("VLMD_REAL_WEIGHTS"));
        return 77;
    }
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
