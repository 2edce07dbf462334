/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* A pair of files that is sound but for what the input bends: numbers, types and absence of keys, shapes and
 * formats of tensors, the text of keys. The pair is opened and rehearsed whole on the null backend. Tensors
 * take their shape from the numbers as they were bent, so that a bend goes past the first check that compares
 * the two; their bytes are holes in a sparse file. The input is a list of bends of four bytes: where, what,
 * and a value of two. */
#include "model/model_private.h"
#include "tests/fuzz/fuzz.h"
#include "tests/gguf_writer.h"

#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { U32 = 4, I32 = 5, F32 = 6, STR = 8, F32S = 9 };
enum { MAX_LAYERS = 3, MAX_BENDS = 16, N_WORDS = 24, MAX_IDS = 4096 };
#define MAX_FILE (UINT64_C(1) << 38) /* bytes, nearly all of them holes */

/* ---- keys ---- */

enum number {
    LAYERS,
    CONTEXT,
    WIDTH,
    FF,
    HEADS,
    KV_HEADS,
    KEY,
    VALUE,
    ROT,
    EPS,
    BASE, /* text */
    V_WIDTH,
    V_FF,
    V_HEADS,
    PATCH,
    IMAGE,
    SCALE,
    V_LAYERS,
    V_EPS,
    MEAN,
    STD, /* mmproj */
    N_NUMBERS
};
static const struct key {
    const char *name;
    uint8_t type;
    uint32_t u;
    float f;
} keys[N_NUMBERS] = {
    [LAYERS] = {"llama.block_count", U32, 2, 0},
    [CONTEXT] = {"llama.context_length", U32, 64, 0},
    [WIDTH] = {"llama.embedding_length", U32, 32, 0},
    [FF] = {"llama.feed_forward_length", U32, 64, 0},
    [HEADS] = {"llama.attention.head_count", U32, 4, 0},
    [KV_HEADS] = {"llama.attention.head_count_kv", U32, 2, 0},
    [KEY] = {"llama.attention.key_length", U32, 8, 0},
    [VALUE] = {"llama.attention.value_length", U32, 8, 0},
    [ROT] = {"llama.rope.dimension_count", U32, 8, 0},
    [EPS] = {"llama.attention.layer_norm_rms_epsilon", F32, 0, 1e-5f},
    [BASE] = {"llama.rope.freq_base", F32, 0, 10000},
    [V_WIDTH] = {"clip.vision.embedding_length", U32, 32, 0},
    [V_FF] = {"clip.vision.feed_forward_length", U32, 64, 0},
    [V_HEADS] = {"clip.vision.attention.head_count", U32, 4, 0},
    [PATCH] = {"clip.vision.patch_size", U32, 4, 0},
    [IMAGE] = {"clip.vision.image_size", U32, 16, 0},
    [SCALE] = {"clip.vision.projector.scale_factor", U32, 2, 0},
    [V_LAYERS] = {"clip.vision.block_count", U32, 2, 0},
    [V_EPS] = {"clip.vision.attention.layer_norm_epsilon", F32, 0, 1e-6f},
    [MEAN] = {"clip.vision.image_mean", F32S, 0, .5f},
    [STD] = {"clip.vision.image_std", F32S, 0, .5f},
};
static const uint32_t odd_u[] = {0,         1,
                                 2,         3,
                                 5,         6,
                                 7,         16,
                                 31,        33,
                                 63,        64,
                                 65,        127,
                                 128,       129,
                                 256,       257,
                                 511,       512,
                                 513,       1000,
                                 4095,      4096,
                                 4097,      8192,
                                 16384,     16385,
                                 65535,     65536,
                                 65537,     1u << 18,
                                 1u << 20,  1u << 24,
                                 1u << 30,  INT32_MAX,
                                 1u << 31,  UINT32_MAX - 1,
                                 UINT32_MAX};
static const float odd_f[] = {0,     -0.f,    1,       -1,     .5f, 1e-12f,   1e-13f,   1e-30f,
                              1e30f, FLT_MAX, FLT_MIN, 1e-45f, NAN, INFINITY, -INFINITY};

/* ---- tensors ---- */

/* Dimensions: a number, or what is computed of numbers. */
enum { VOCAB = N_NUMBERS, Q, KV, GRID2, SHUFFLED, THREE, NONE };
static const struct shape {
    const char *name; /* N: once for each layer */
    bool mmproj;
    uint8_t dim[4];
} shapes[] = {
    {"token_embd.weight", false, {VOCAB, WIDTH, NONE, NONE}},
    {"output_norm.weight", false, {WIDTH, NONE, NONE, NONE}},
    {"blk.N.attn_norm.weight", false, {WIDTH, NONE, NONE, NONE}},
    {"blk.N.attn_q.weight", false, {Q, WIDTH, NONE, NONE}},
    {"blk.N.attn_k.weight", false, {KV, WIDTH, NONE, NONE}},
    {"blk.N.attn_v.weight", false, {KV, WIDTH, NONE, NONE}},
    {"blk.N.attn_output.weight", false, {WIDTH, Q, NONE, NONE}},
    {"blk.N.ffn_norm.weight", false, {WIDTH, NONE, NONE, NONE}},
    {"blk.N.ffn_gate.weight", false, {FF, WIDTH, NONE, NONE}},
    {"blk.N.ffn_up.weight", false, {FF, WIDTH, NONE, NONE}},
    {"blk.N.ffn_down.weight", false, {WIDTH, FF, NONE, NONE}},
    {"v.patch_embd.weight", true, {V_WIDTH, THREE, PATCH, PATCH}},
    {"v.patch_embd.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.position_embd.weight", true, {GRID2, V_WIDTH, NONE, NONE}},
    {"v.post_ln.weight", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.post_ln.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.ln1.weight", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.ln1.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.attn_q.weight", true, {V_WIDTH, V_WIDTH, NONE, NONE}},
    {"v.blk.N.attn_q.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.attn_k.weight", true, {V_WIDTH, V_WIDTH, NONE, NONE}},
    {"v.blk.N.attn_k.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.attn_v.weight", true, {V_WIDTH, V_WIDTH, NONE, NONE}},
    {"v.blk.N.attn_v.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.attn_out.weight", true, {V_WIDTH, V_WIDTH, NONE, NONE}},
    {"v.blk.N.attn_out.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.ln2.weight", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.ln2.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"v.blk.N.ffn_up.weight", true, {V_FF, V_WIDTH, NONE, NONE}},
    {"v.blk.N.ffn_up.bias", true, {V_FF, NONE, NONE, NONE}},
    {"v.blk.N.ffn_down.weight", true, {V_WIDTH, V_FF, NONE, NONE}},
    {"v.blk.N.ffn_down.bias", true, {V_WIDTH, NONE, NONE, NONE}},
    {"mm.model.fc.weight", true, {WIDTH, SHUFFLED, NONE, NONE}},
    {"v.patch_embd.delta.weight", true, {V_WIDTH, THREE, PATCH, PATCH}},
};
enum { N_SHAPES = sizeof(shapes) / sizeof(*shapes) };

/* ---- the plan: what the input makes of all this ---- */

enum bend { AS_IT_IS, GONE, TYPE, SHAPE, DTYPE, N_BENDS };
struct plan {
    uint32_t u[N_NUMBERS];
    float f[N_NUMBERS];
    enum bend key[N_NUMBERS], tensor[N_SHAPES];
    uint16_t arg[N_SHAPES];
    uint32_t n_vocab;
    int32_t bos, kind; /* of the last word */
    uint8_t word, letter;
};

static void bend_key(struct plan *p, unsigned i, unsigned how, unsigned arg)
{
    if (how < 16)
        p->key[i] = how == 0 ? GONE : how == 1 ? TYPE : AS_IT_IS;
    else if (keys[i].type == U32)
        p->u[i] = how < 64   ? arg
                  : how < 96 ? p->u[i] + (int8_t)arg
                             : odd_u[arg % (sizeof(odd_u) / sizeof(*odd_u))];
    else
        p->f[i] = odd_f[arg % (sizeof(odd_f) / sizeof(*odd_f))];
}

static void bend(struct plan *p, const uint8_t b[4])
{
    unsigned where = b[0], arg = b[2] | (unsigned)b[3] << 8;
    if (where < N_NUMBERS) {
        bend_key(p, where, b[1], arg);
    } else if ((where -= N_NUMBERS) < N_SHAPES) {
        p->tensor[where] = b[1] % N_BENDS;
        p->arg[where] = (uint16_t)arg;
    } else if (where -= N_SHAPES, where % 4 == 0) {
        p->n_vocab = arg % 2 ? arg : odd_u[arg / 2 % (sizeof(odd_u) / sizeof(*odd_u))];
    } else if (where % 4 == 1) {
        p->bos = (int16_t)arg;
    } else if (where % 4 == 2) {
        p->kind = (int8_t)arg;
    } else {
        p->word = b[2];
        p->letter = b[3];
    }
}

static void make_plan(struct plan *p, const uint8_t *data, size_t size)
{
    *p = (struct plan){.n_vocab = N_WORDS, .bos = 0, .kind = 1, .word = 255};
    for (int i = 0; i < N_NUMBERS; i++) {
        p->u[i] = keys[i].u;
        p->f[i] = keys[i].f;
    }
    for (size_t i = 0; i + 4 <= size && i < 4 * MAX_BENDS; i += 4)
        bend(p, data + i);
}

static uint64_t dimension(const struct plan *p, unsigned which)
{
    const uint64_t side = p->u[PATCH] ? p->u[IMAGE] / p->u[PATCH] : 1;
    switch (which) {
    case VOCAB:
        return p->n_vocab;
    case Q:
        return (uint64_t)p->u[HEADS] * p->u[KEY];
    case KV:
        return (uint64_t)p->u[KV_HEADS] * p->u[KEY];
    case GRID2:
        return side * side;
    case SHUFFLED:
        return (uint64_t)p->u[SCALE] * p->u[SCALE] * p->u[V_WIDTH];
    case THREE:
        return 3;
    default:
        return p->u[which];
    }
}

/* ---- files ---- */

struct file {
    struct gguf_writer g; /* its memory is kept, so that a run whose allocations fail has it already */
    uint64_t end;         /* of the tensors' bytes */
    int fd;
    char path[64];
};
static struct file text, mmproj;
static char folder[] = "/tmp/vlmd-fuzz-mmproj-XXXXXX";

static void remove_files(void)
{
    (void)unlink(text.path);
    (void)unlink(mmproj.path);
    (void)rmdir(folder);
}

static void file_open(struct file *f, const char *name)
{
    gguf_init(&f->g);
    (void)snprintf(f->path, sizeof(f->path), "%s/%s", folder, name);
    f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    FUZZ_CHECK(f->fd >= 0);
}

static void file_clear(struct file *f)
{
    f->g.keys.n = f->g.tensors.n = f->g.data.n = 0;
    f->g.n_keys = f->g.n_tensors = 0;
    f->end = 0;
}

static void file_write(struct file *f)
{
    uint64_t counts[] = {f->g.n_tensors, f->g.n_keys};
    size_t head = 24 + f->g.keys.n + f->g.tensors.n;
    struct iovec v[] = {{"GGUF\3\0\0\0", 8},
                        {counts, 16},
                        {f->g.keys.data, f->g.keys.n},
                        {f->g.tensors.data, f->g.tensors.n}};
    uint64_t size = (head + 31) / 32 * 32 + f->end;
    FUZZ_CHECK(ftruncate(f->fd, 0) == 0 && ftruncate(f->fd, (off_t)(size < MAX_FILE ? size : MAX_FILE)) == 0);
    FUZZ_CHECK(pwritev(f->fd, v, 4, 0) == (ssize_t)head);
}

static void add_key(struct gguf_writer *g, const struct plan *p, unsigned i)
{
    const struct key *k = &keys[i];
    if (p->key[i] == GONE)
        return;
    if (p->key[i] == TYPE)
        gguf_i32(g, k->name, (int32_t)p->u[i]);
    else if (k->type == U32)
        gguf_u32(g, k->name, p->u[i]);
    else if (k->type == F32)
        gguf_f32(g, k->name, p->f[i]);
    else
        gguf_f32s(g, k->name, (const float[]){p->f[i], .5f, p->f[i]}, 3);
}

static uint64_t tensor_bytes(enum vl_dtype dtype, const uint64_t *ne, unsigned n)
{
    uint64_t bytes = ne[0] < 1u << 31 ? vl_dtype_row_bytes(dtype, (uint32_t)ne[0]) : MAX_FILE;
    for (unsigned i = 1; i < n; i++)
        if (__builtin_mul_overflow(bytes, ne[i], &bytes) || bytes > MAX_FILE)
            return MAX_FILE;
    return bytes;
}

static void add_tensor(struct file *f, const struct plan *p, unsigned i, unsigned layer)
{
    const struct shape *s = &shapes[i];
    enum vl_dtype dtype = s->dim[1] == NONE || s->dim[0] == GRID2 ? VL_F32 : VL_F16;
    uint64_t ne[4];
    char name[64];
    unsigned n = 0;
    while (n < 4 && s->dim[n] != NONE)
        n++;
    for (unsigned d = 0; d < n; d++)
        ne[n - 1 - d] = dimension(p, s->dim[d]);
    if (p->tensor[i] == GONE)
        return;
    if (p->tensor[i] == SHAPE && p->arg[i] % 8 < n)
        ne[p->arg[i] % 8] += (int8_t)(p->arg[i] >> 8);
    else if (p->tensor[i] == SHAPE)
        n = p->arg[i] / 256 % 2 ? 1 : n < 4 ? (ne[n] = 1, n + 1) : n;
    if (p->tensor[i] == DTYPE)
        dtype = p->arg[i] % VL_DTYPE_COUNT;
    const char *at = strchr(s->name, 'N');
    if (at)
        (void)snprintf(name, sizeof(name), "%.*s%u%s", (int)(at - s->name), s->name, layer, at + 1);
    else
        (void)snprintf(name, sizeof(name), "%s", s->name);
    gguf_tensor_raw(&f->g, name, n, ne, vl_dtype_info(dtype)->gguf_id, f->end, 0);
    f->end = f->end > MAX_FILE ? f->end : (f->end + tensor_bytes(dtype, ne, n) + 31) / 32 * 32;
}

static void add_tensors(const struct plan *p)
{
    for (unsigned i = 0; i < N_SHAPES; i++) {
        const unsigned layers = p->u[shapes[i].mmproj ? V_LAYERS : LAYERS];
        const unsigned n = !strchr(shapes[i].name, 'N') ? 1 : layers < MAX_LAYERS ? layers : MAX_LAYERS;
        for (unsigned l = 0; l < n; l++)
            add_tensor(shapes[i].mmproj ? &mmproj : &text, p, i, l);
    }
}

static void add_vocabulary(struct gguf_writer *g, const struct plan *p)
{
    static const char *const words[N_WORDS] = {"<|endoftext|>",
                                               "<|im_start|>",
                                               "<|im_end|>",
                                               "<image>",
                                               "<fake_token_around_image>",
                                               "<global-img>",
                                               "<end_of_utterance>",
                                               "S",
                                               "y",
                                               "s",
                                               "t",
                                               "e",
                                               "m",
                                               "U",
                                               "r",
                                               ":",
                                               "a",
                                               "i",
                                               "n",
                                               "Sy",
                                               "st",
                                               "\xC4\xA0",
                                               "\xC4\x8A",
                                               "0"};
    static const char *const merges[] = {"S y", "s t"};
    char bent[32];
    const char *word[N_WORDS];
    int32_t type[N_WORDS];
    const uint64_t n = p->n_vocab < N_WORDS ? p->n_vocab : N_WORDS;
    for (unsigned i = 0; i < N_WORDS; i++) {
        word[i] = words[i];
        type[i] = i < 7 ? 3 : 1;
    }
    type[N_WORDS - 1] = p->kind;
    if (p->word < N_WORDS) {
        (void)snprintf(bent, sizeof(bent), "%s", words[p->word]);
        bent[p->letter % (strlen(bent) + 1)] ^= (char)(p->letter / 2);
        word[p->word] = bent;
    }
    gguf_str(g, "tokenizer.ggml.model", "gpt2");
    gguf_str(g, "tokenizer.ggml.pre", "smollm");
    gguf_strs(g, "tokenizer.ggml.tokens", word, n);
    gguf_i32s(g, "tokenizer.ggml.token_type", type, n);
    gguf_strs(g, "tokenizer.ggml.merges", merges, 2);
    gguf_u32(g, "tokenizer.ggml.bos_token_id", (uint32_t)p->bos);
    gguf_u32(g, "tokenizer.ggml.eos_token_id", 6);
}

static void write_pair(const struct plan *p)
{
    file_clear(&text);
    file_clear(&mmproj);
    gguf_str(&text.g, "general.architecture", "llama");
    gguf_str(&mmproj.g, "general.architecture", "clip");
    gguf_str(&mmproj.g, "clip.projector_type", "idefics3");
    for (unsigned i = 0; i < N_NUMBERS; i++)
        add_key(i < V_WIDTH ? &text.g : &mmproj.g, p, i);
    add_vocabulary(&text.g, p);
    add_tensors(p);
    file_write(&text);
    file_write(&mmproj);
}

/* ---- the run ---- */

static void render(const struct vl_model *m)
{
    static int32_t id[MAX_IDS];
    const struct vl_arch *a = vl_model_arch(m);
    for (int part = VL_PART_SYSTEM; part <= VL_PART_REPLY_END; part++) {
        struct vl_chunk c = {.id = id, .cap = MAX_IDS};
        if (a->render(m, (enum vl_part)part, "System <image> a", INT64_MAX, &c) == 0)
            for (uint32_t i = 0; i < c.n; i++)
                FUZZ_CHECK(id[i] >= -1 && id[i] < (int32_t)vl_model_get_desc(m)->n_vocab);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vl_exec x;
    static struct plan p;
    struct vl_error err = {0, ""};
    if (!x.ops) {
        FUZZ_CHECK(mkdtemp(folder) && atexit(remove_files) == 0);
        file_open(&text, "text.gguf");
        file_open(&mmproj, "mmproj.gguf");
        x.ops = vl_backend_find("null");
        FUZZ_CHECK(x.ops && x.ops->open(&x.device, NULL, &err) == 0);
    }
    make_plan(&p, data, size);
    write_pair(&p);
    vl_auto(vl_model) m = NULL;
    int r = vl_model_new(&m, text.path, mmproj.path, &x, &err);
    FUZZ_CHECK(r == 0 ? m != NULL : r < 0 && err.msg[0]);
    FUZZ_CHECK(size >= 4 || r == 0 || r == -ENOMEM); /* what is not bent is sound */
    if (r == 0)
        render(m);
    return 0;
}
