/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* One picture and one question through model/, as the engine does it, and everything that compare.py wants to
 * see; the picture as a stream's frame, or as a still with all its views:
 *
 *     peer-ours TEXT.gguf MMPROJ.gguf PICTURE.rgb W H N_NEW OUT frame|still
 *
 * OUT.ids (i32, -1 for a visual token's place), OUT.emb (f32 rows of the visual tokens), OUT.log (f32 logits
 * of every place), OUT.gen (i32, N_NEW greedy tokens); on stdout seconds and memory. $PEER_THREADS
 * threads, or one for each core. */
#include "base/clock.h"
#include "base/workers.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_IDS = 2048 };

struct peer {
    struct vl_exec x, ex;
    struct vl_arena arena, encode_arena;
    void *mem, *encode_mem;
    struct vl_workers *workers;
    struct vl_model *m;
    const struct vl_model_desc *d;
    const struct vl_arch *arch;
    struct vl_encode *e;
    struct vl_kv_pool *pool;
    struct vl_kv *kv;
    struct vl_visual_tokens tok;
    int32_t id[MAX_IDS];
    uint32_t n, n_placed;
    bool still;
};

static void must(int r, const char *what, const struct vl_error *err)
{
    if (r == 0)
        return;
    (void)fprintf(stderr, "peer-ours: %s: %d %s\n", what, r, err ? err->msg : "");
    exit(1);
}

static double seconds(void)
{
    return (double)vl_clock_monotonic_ns() * 1e-9;
}

/* "VmHWM" or "VmRSS" of this process, MiB */
static double memory(const char *what)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, what, strlen(what)) == 0)
            kib = strtod(line + strlen(what) + 1, NULL);
    if (f)
        (void)fclose(f);
    return kib / 1024;
}

static void save(const char *out, const char *end, const void *p, size_t n, const char *mode)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s.%s", out, end);
    FILE *f = fopen(path, mode);
    if (!f || fwrite(p, 1, n, f) != n || fclose(f) != 0)
        must(-1, path, NULL);
}

static void load(struct peer *p, const char *text, const char *mmproj)
{
    struct vl_error err = {0, ""};
    p->x = (struct vl_exec){.ops = vl_backend_find("cpu"), .workers = p->workers};
    must(p->x.ops->open(&p->x.device, NULL, &err), "cpu", &err);
    must(vl_model_new(&p->m, text, mmproj, &p->x, &err), "model", &err);
    p->d = vl_model_get_desc(p->m);
    p->arch = vl_model_arch(p->m);
    must(p->x.ops->alloc(p->x.device, p->d->run_scratch, false, &p->mem), "memory", NULL);
    size_t scratch = p->still ? p->d->still_scratch : p->d->encode_scratch;
    must(p->x.ops->alloc(p->x.device, scratch, false, &p->encode_mem), "memory", NULL);
    vl_arena_init(&p->arena, p->mem, p->d->run_scratch);
    vl_arena_init(&p->encode_arena, p->encode_mem, scratch);
    p->ex = p->x;
    p->x.scratch = &p->arena;
    p->ex.scratch = &p->encode_arena;
    size_t bytes = vl_kv_geometry_bytes(&p->d->kv, MAX_IDS, MAX_IDS, 2);
    must(vl_kv_pool_new(&p->pool, &p->x, &p->d->kv, bytes, NULL, &err), "cache", &err);
    must(vl_kv_new(&p->kv, p->pool, NULL, NULL, MAX_IDS, &err), "cache", &err);
    must(vl_encode_new(&p->e, p->m, &p->ex, p->still), "encoder", NULL);
}

static void encode(struct peer *p, const struct vl_unit *unit)
{
    must(p->arch->encode_begin(p->m, p->e, unit, 1), "picture", NULL);
    int r;
    while ((r = p->arch->encode_step(p->e, p->d->n_encode_layers, &p->tok)) == VL_ENCODE_MORE)
        ;
    must(r, "encode", NULL);
}

static void add_part(struct peer *p, enum vl_part part, const char *text)
{
    struct vl_chunk c = {.id = p->id, .n = p->n, .cap = MAX_IDS};
    must(p->arch->render(p->m, part, text, INT64_C(5000000000), &c), "prompt", NULL);
    p->n = c.n;
}

static void make_prompt(struct peer *p, const struct vl_unit *unit)
{
    struct vl_chunk c = {.id = p->id, .cap = MAX_IDS};
    if (p->still) {
        must(p->arch->render_ask(p->m, unit, 1, "What is it?", &c), "prompt", NULL);
        p->n = c.n;
        return;
    }
    add_part(p, VL_PART_SYSTEM, "Say what changed.");
    add_part(p, VL_PART_FRAME, NULL);
    add_part(p, VL_PART_CAPTION_END, NULL);
    add_part(p, VL_PART_QUESTION, "What is it?");
}

/* Each run of places is one view. */
static void append(struct peer *p, uint32_t from, uint32_t to)
{
    static int64_t rel[MAX_IDS][3];
    for (uint32_t i = from, n; i < to; i += n) {
        for (n = 1; i + n < to && (p->id[i + n] < 0) == (p->id[i] < 0); n++)
            ;
        struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = n, .extent = n};
        uint32_t slot;
        if (p->id[i] < 0) {
            struct vl_visual_tokens view = p->tok;
            view.pos += p->n_placed;
            view.n = n;
            p->n_placed += n;
            must(p->arch->positions(p->m, &view, rel, &s.extent), "positions", NULL);
            s.kind = VL_KV_VISUAL;
            s.rel = (const int64_t(*)[3])rel;
        }
        must(vl_kv_append(p->kv, &p->x, &s, &slot), "append", NULL);
    }
}

/* Ids [from, to) with all their logits; to - from <= VL_MODEL_MAX_LOGITS. Returns the last row's best. */
static int32_t run(struct peer *p, uint32_t from, uint32_t to, uint32_t first_row, const char *out)
{
    struct vl_tensor rows = {0}, logits;
    if (first_row < p->tok.n)
        rows = vl_tensor_rows(&p->tok.feat, first_row, p->tok.n - first_row);
    const struct vl_span span = {.kv = p->kv, .slot = from, .n = to - from, .n_logits = to - from};
    const struct vl_batch b = {
        .id = p->id + from, .row = rows.data ? &rows : NULL, .span = &span, .n_spans = 1, .n = to - from};
    must(p->arch->run(p->m, &p->x, &b, &logits), "run", NULL);
    must(p->x.ops->sync(&p->x), "run", NULL);
    const float *row = logits.data;
    if (out)
        save(out, "log", row, (size_t)(to - from) * p->d->n_vocab * sizeof(*row), "abe");
    row += (size_t)(to - from - 1) * p->d->n_vocab;
    int32_t best = 0;
    for (uint32_t i = 1; i < p->d->n_vocab; i++)
        best = row[i] > row[best] ? (int32_t)i : best;
    vl_arena_reset(&p->arena, 0);
    return best;
}

static void answer(struct peer *p, unsigned n_new, const char *out)
{
    int32_t next = 0;
    uint32_t row = 0, n;
    append(p, 0, p->n);
    save(out, "log", NULL, 0, "wbe");
    for (uint32_t at = 0; at < p->n; at += n) {
        n = p->n - at < VL_MODEL_MAX_LOGITS ? p->n - at : VL_MODEL_MAX_LOGITS;
        next = run(p, at, at + n, row, out);
        for (uint32_t i = at; i < at + n; i++)
            row += p->id[i] < 0;
    }
    double t = seconds();
    save(out, "gen", NULL, 0, "wbe");
    for (unsigned i = 0; i < n_new && p->n < MAX_IDS; i++) {
        save(out, "gen", &next, sizeof(next), "abe");
        p->id[p->n++] = next;
        append(p, p->n - 1, p->n);
        next = run(p, p->n - 1, p->n, row, NULL);
    }
    (void)printf("step_ms %.2f\n", (seconds() - t) / n_new * 1e3);
}

int main(int argc, char **argv)
{
    static struct peer p;
    if (argc != 9) {
        (void)fprintf(stderr, "usage: peer-ours TEXT MMPROJ PICTURE.rgb W H N_NEW OUT frame|still\n");
        return 2;
    }
    uint32_t w = (uint32_t)atoi(argv[4]), h = (uint32_t)atoi(argv[5]);
    p.still = strcmp(argv[8], "still") == 0;
    uint8_t *pixels = malloc(3 * (size_t)w * h);
    FILE *f = fopen(argv[3], "rbe");
    if (!pixels || !f || fread(pixels, 3 * (size_t)w, h, f) != h)
        must(-1, argv[3], NULL);
    (void)fclose(f);
    struct vl_frame frame = {
        .plane = {pixels}, .stride = {3 * w}, .width = w, .height = h, .format = VL_PIXFMT_RGB24, .refs = 1};
    struct vl_frame *frames[] = {&frame};
    const struct vl_unit unit = {.frame = frames, .n_frames = 1, .still = p.still};
    const char *threads = getenv("PEER_THREADS"); /* NULL: one for each core */
    long n = threads ? atol(threads) : sysconf(_SC_NPROCESSORS_ONLN);
    must(vl_workers_new(&p.workers, n > 1 ? (unsigned)n - 1 : 0), "workers", NULL);
    double t = seconds();
    load(&p, argv[1], argv[2]);
    (void)printf("load_s %.3f\nload_rss_mib %.1f\n", seconds() - t, memory("VmRSS"));
    t = seconds();
    encode(&p, &unit);
    (void)printf("encode_s %.3f\n", seconds() - t);
    make_prompt(&p, &unit);
    save(argv[7], "ids", p.id, p.n * sizeof(*p.id), "wbe");
    save(argv[7], "emb", p.tok.feat.data, (size_t)p.tok.n * p.d->d_model * sizeof(float), "wbe");
    answer(&p, (unsigned)atoi(argv[6]), argv[7]);
    (void)printf("peak_rss_mib %.1f\nweight_mib %.1f\n", memory("VmHWM"),
                 (double)p.d->weight_bytes / (1 << 20));
    free(pixels);
    return 0; /* what is left goes with the process */
}
