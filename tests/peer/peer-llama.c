/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The same question to llama.cpp; not part of the build, peer.sh compiles it against libllama and libmtmd:
 *
 *     peer-llama TEXT.gguf MMPROJ.gguf PICTURE.rgb W H N_NEW OUT IDS PROMPT
 *     peer-llama IN.gguf OUT.gguf                    quantises to Q4_K_M
 *
 * IDS: what peer-ours wrote, so that both read the same. OUT.emb, OUT.log, OUT.gen as there; OUT.ids: PROMPT,
 * in which "<__media__>" stands for the picture's places, as its own tokenizer reads it. Where its
 * preprocessing makes more views than IDS has places, the last ones are taken, which are the overview. */
#include <llama.h>
#include <mtmd.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_IDS = 2048 };

struct peer {
    struct llama_model *m;
    struct llama_context *x;
    mtmd_context *v;
    const struct llama_vocab *vocab;
    int n_vocab, d_model, n_threads;
    int32_t id[MAX_IDS], own[MAX_IDS];
    int n, n_own, n_places, n_rows;
    float *row;
};

static void must(int ok, const char *what)
{
    if (ok)
        return;
    (void)fprintf(stderr, "peer-llama: %s\n", what);
    exit(1);
}

static double seconds(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double memory(const char *what)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
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
    must(f && fwrite(p, 1, n, f) == n && fclose(f) == 0, path);
}

static void quiet(enum ggml_log_level level, const char *text, void *user)
{
    (void)user;
    if (level == GGML_LOG_LEVEL_ERROR)
        (void)fputs(text, stderr);
}

static void load(struct peer *p, const char *text, const char *mmproj)
{
    struct llama_context_params c = llama_context_default_params();
    struct mtmd_context_params v = mtmd_context_params_default();
    must((p->m = llama_model_load_from_file(text, llama_model_default_params())) != NULL, text);
    c.n_ctx = 2 * MAX_IDS;
    c.n_batch = c.n_ubatch = MAX_IDS;
    c.n_threads = c.n_threads_batch = p->n_threads;
    must((p->x = llama_init_from_model(p->m, c)) != NULL, "no context");
    v.use_gpu = false;
    v.n_threads = p->n_threads;
    v.warmup = false;
    must((p->v = mtmd_init_from_file(mmproj, p->m, v)) != NULL, mmproj);
    p->vocab = llama_model_get_vocab(p->m);
    p->n_vocab = llama_vocab_n_tokens(p->vocab);
    p->d_model = llama_model_n_embd(p->m);
}

static void add_own(struct peer *p, const llama_token *id, int n)
{
    must(p->n_own + n <= MAX_IDS, "too many ids");
    for (int i = 0; i < n; i++)
        p->own[p->n_own++] = id ? id[i] : -1;
}

/* Rows of all views, in order, and the prompt as it makes it. */
static void encode(struct peer *p, const unsigned char *pixels, uint32_t w, uint32_t h, const char *prompt)
{
    mtmd_bitmap *bitmap = mtmd_bitmap_init(w, h, pixels);
    const mtmd_bitmap *bitmaps[] = {bitmap};
    mtmd_input_chunks *chunks = mtmd_input_chunks_init();
    struct mtmd_input_text text = {0};
    text.text = prompt;
    text.text_len = strlen(prompt);
    text.parse_special = true;
    must(mtmd_tokenize(p->v, chunks, &text, bitmaps, 1) == 0, "no chunks");
    for (size_t i = 0; i < mtmd_input_chunks_size(chunks); i++) {
        const mtmd_input_chunk *k = mtmd_input_chunks_get(chunks, i);
        int n = (int)mtmd_input_chunk_get_n_tokens(k);
        size_t n_text;
        bool image = mtmd_input_chunk_get_type(k) == MTMD_INPUT_CHUNK_TYPE_IMAGE;
        add_own(p, image ? NULL : mtmd_input_chunk_get_tokens_text(k, &n_text), n);
        if (!image)
            continue;
        size_t size = (size_t)p->d_model * sizeof(float);
        must(mtmd_encode_chunk(p->v, k) == 0, "encode");
        must((p->row = realloc(p->row, (size_t)(p->n_rows + n) * size)) != NULL, "memory");
        memcpy(p->row + (size_t)p->n_rows * p->d_model, mtmd_get_output_embd(p->v), (size_t)n * size);
        p->n_rows += n;
    }
    mtmd_input_chunks_free(chunks);
    mtmd_bitmap_free(bitmap);
}

static void read_ids(struct peer *p, const char *path)
{
    FILE *f = fopen(path, "rb");
    must(f != NULL, path);
    p->n = (int)fread(p->id, sizeof(*p->id), MAX_IDS, f);
    (void)fclose(f);
    for (int i = 0; i < p->n; i++)
        p->n_places += p->id[i] < 0;
    must(p->n_rows >= p->n_places, "fewer rows than places");
}

/* Of a frame it would make more views than one, so that only the text on both sides is its own. */
static void save_own_ids(struct peer *p, const char *prompt, const char *out)
{
    if (p->n_rows == p->n_places) {
        save(out, "ids", p->own, (size_t)p->n_own * sizeof(*p->own), "wb");
        return;
    }
    static int32_t id[MAX_IDS];
    const char *at = strstr(prompt, "<__media__>"), *rest = at ? at + strlen("<__media__>") : NULL;
    must(at != NULL, "no <__media__> in the prompt");
    int n = llama_tokenize(p->vocab, prompt, (int)(at - prompt), id, MAX_IDS, false, true);
    must(n > 0, "tokenize");
    for (int i = 0; i < p->n_places; i++)
        id[n++] = -1;
    int m = llama_tokenize(p->vocab, rest, (int)strlen(rest), id + n, MAX_IDS - n, false, true);
    must(m > 0, "tokenize");
    save(out, "ids", id, (size_t)(n + m) * sizeof(*id), "wb");
}

/* Ids [from, to), all places or none, with their logits. */
static void decode(struct peer *p, int from, int to, const float *rows, const char *out)
{
    int n = to - from;
    struct llama_batch b = llama_batch_init(n, rows ? p->d_model : 0, 1);
    if (rows)
        memcpy(b.embd, rows, (size_t)n * p->d_model * sizeof(*rows));
    else
        memcpy(b.token, p->id + from, (size_t)n * sizeof(*p->id));
    b.n_tokens = n;
    for (int i = 0; i < n; i++) {
        b.pos[i] = from + i;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = 0;
        b.logits[i] = 1;
    }
    must(llama_decode(p->x, b) == 0, "decode");
    for (int i = 0; out && i < n; i++)
        save(out, "log", llama_get_logits_ith(p->x, i), (size_t)p->n_vocab * sizeof(float), "ab");
    llama_batch_free(b);
}

static int32_t best(struct peer *p)
{
    const float *row = llama_get_logits_ith(p->x, -1);
    int32_t k = 0;
    for (int i = 1; i < p->n_vocab; i++)
        k = row[i] > row[k] ? i : k;
    return k;
}

static void answer(struct peer *p, int n_new, const char *out)
{
    const float *row = p->row + (size_t)(p->n_rows - p->n_places) * p->d_model;
    save(out, "log", NULL, 0, "wb");
    save(out, "gen", NULL, 0, "wb");
    for (int at = 0, to; at < p->n; at = to) {
        for (to = at + 1; to < p->n && (p->id[to] < 0) == (p->id[at] < 0); to++)
            ;
        decode(p, at, to, p->id[at] < 0 ? row : NULL, out);
        row += p->id[at] < 0 ? (size_t)(to - at) * p->d_model : 0;
    }
    double t = seconds();
    for (int i = 0; i < n_new; i++) {
        int32_t next = best(p);
        save(out, "gen", &next, sizeof(next), "ab");
        p->id[p->n++] = next;
        decode(p, p->n - 1, p->n, NULL, NULL);
    }
    (void)printf("step_ms %.2f\n", (seconds() - t) / n_new * 1e3);
}

static int quantise(const char *in, const char *out)
{
    struct llama_model_quantize_params q = llama_model_quantize_default_params();
    q.ftype = LLAMA_FTYPE_MOSTLY_Q4_K_M;
    return llama_model_quantize(in, out, &q) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct peer p;
    if (argc == 3)
        return quantise(argv[1], argv[2]);
    must(argc == 10, "usage: peer-llama TEXT MMPROJ PICTURE.rgb W H N_NEW OUT IDS PROMPT");
    uint32_t w = (uint32_t)atoi(argv[4]), h = (uint32_t)atoi(argv[5]);
    unsigned char *pixels = malloc(3 * (size_t)w * h);
    FILE *f = fopen(argv[3], "rb");
    must(pixels && f && fread(pixels, 3 * (size_t)w, h, f) == h, argv[3]);
    (void)fclose(f);
    llama_log_set(quiet, NULL);
    mtmd_log_set(quiet, NULL);
    llama_backend_init();
    const char *threads = getenv("PEER_THREADS"); /* NULL: one for each core */
    p.n_threads = threads ? atoi(threads) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    double t = seconds();
    load(&p, argv[1], argv[2]);
    (void)printf("load_s %.3f\nload_rss_mib %.1f\n", seconds() - t, memory("VmRSS"));
    t = seconds();
    encode(&p, pixels, w, h, argv[9]);
    (void)printf("encode_s %.3f\nrows %d\n", seconds() - t, p.n_rows);
    read_ids(&p, argv[8]);
    save_own_ids(&p, argv[9], argv[7]);
    save(argv[7], "emb", p.row + (size_t)(p.n_rows - p.n_places) * p.d_model,
         (size_t)p.n_places * p.d_model * sizeof(float), "wb");
    answer(&p, atoi(argv[6]), argv[7]);
    (void)printf("peak_rss_mib %.1f\n", memory("VmHWM"));
    return 0;
}
