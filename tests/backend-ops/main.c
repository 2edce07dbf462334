/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Every op of every registered backend against the cpu backend with isa=c: over shapes and dtypes, rows apart
 * by padding, sentinels round every output. Results are compared by normalised mean squared error with a
 * bound that the case states. Each backend also runs with one helper thread, which must not change a bit,
 * and must refuse the bad shapes. The null backend computes nothing, so only its answers are looked at.
 */
#include "base/workers.h"
#include "kernels/backend.h"
#include "kernels/null/null.h"
#include "kernels/ukernels.h"
#include "tests/harness.h"

#include <math.h>
#include <string.h>

enum { SCRATCH = 4 << 20, GUARD = 64, MAX_BUFS = 16, SENTINEL = 0xA7 };

/* A tensor in backend memory and its image in host memory, padding and guards included. */
struct buf {
    struct vl_tensor dev, host;
    unsigned char *image;
    void *mem;
    size_t size;
};

struct env {
    struct vl_exec x;
    struct vl_arena arena;
    struct buf buf[MAX_BUFS];
    size_t n_bufs;
    struct test_rng rng;
    bool computes;
};

struct test_case {
    const char *name;
    int (*run)(struct env *e, const struct test_case *c); /* the op's answer; its result is buf 0 */
    enum vl_dtype dtype;
    uint32_t d[6];
    uint32_t pad; /* elements between rows */
    double bound; /* NMSE */
};

static void env_open(struct env *e, const struct vl_backend_ops *ops, const char *spec, struct vl_workers *w)
{
    struct vl_error err;
    void *mem;
    memset(e, 0, sizeof(*e));
    e->x = (struct vl_exec){.ops = ops, .scratch = &e->arena, .workers = w};
    e->computes = ops != &vl_backend_null;
    if (ops->open(&e->x.device, spec, &err) < 0)
        fail_msg("%s: %s", ops->name, err.msg);
    assert_int_equal(ops->alloc(e->x.device, SCRATCH, false, &mem), 0);
    vl_arena_init(&e->arena, mem, SCRATCH);
}

static void env_reset(struct env *e, uint64_t seed)
{
    for (size_t i = 0; i < e->n_bufs; i++) {
        e->x.ops->free(e->x.device, e->buf[i].mem);
        free(e->buf[i].image);
    }
    e->n_bufs = 0;
    e->rng = (struct test_rng){seed * 2654435761u + 1};
}

static void env_close(struct env *e)
{
    env_reset(e, 0);
    e->x.ops->close(e->x.device);
}

static void transfer(struct env *e, struct buf *b, bool up)
{
    struct vl_tensor host = vl_tensor_1d(b->image, VL_U8, (uint32_t)b->size);
    struct vl_tensor dev = vl_tensor_1d(b->mem, VL_U8, (uint32_t)b->size);
    assert_int_equal(e->x.ops->copy(&e->x, up ? &dev : &host, up ? &host : &dev), 0);
    assert_int_equal(e->x.ops->sync(&e->x), 0);
}

/* A tensor full of sentinels; n_dims is how many of dim are used. */
static struct buf *make(struct env *e, enum vl_dtype dtype, uint8_t n_dims, const uint32_t *dim, uint32_t pad)
{
    assert_true(e->n_bufs < MAX_BUFS);
    struct buf *b = &e->buf[e->n_bufs++];
    struct vl_tensor t = vl_tensor_of(NULL, dtype, n_dims, dim);
    size_t bytes = vl_dtype_row_bytes(dtype, dim[n_dims - 1] + pad * vl_dtype_info(dtype)->block_len);
    for (int i = n_dims - 2; i >= 0; i--) {
        t.stride[i] = bytes;
        bytes *= dim[i];
    }
    b->size = bytes + 2 * GUARD;
    b->image = malloc(b->size);
    assert_non_null(b->image);
    memset(b->image, SENTINEL, b->size);
    assert_int_equal(e->x.ops->alloc(e->x.device, b->size, false, &b->mem), 0);
    b->host = b->dev = t;
    b->host.data = b->image + GUARD;
    b->dev.data = (char *)b->mem + GUARD;
    transfer(e, b, true);
    return b;
}

static struct buf *make2(struct env *e, enum vl_dtype dtype, uint32_t d0, uint32_t d1, uint32_t pad)
{
    return make(e, dtype, 2, (const uint32_t[]){d0, d1}, pad);
}

static struct buf *make1(struct env *e, uint32_t n)
{
    return make(e, VL_F32, 1, &n, 0);
}

/* Random values, rounded to the dtype. */
static struct buf *fill(struct env *e, struct buf *b)
{
    uint32_t n = b->host.dim[b->host.n_dims - 1];
    float *row = malloc((size_t)n * sizeof(*row));
    assert_non_null(row);
    for (size_t r = 0; r < vl_tensor_n_rows(&b->host); r++) {
        for (uint32_t i = 0; i < n; i++)
            row[i] = test_randf(&e->rng) * 2;
        unsigned char *dst = vl_tensor_row(&b->host, r);
        if (b->host.dtype == VL_U8)
            for (uint32_t i = 0; i < n; i++)
                dst[i] = (unsigned char)test_randn(&e->rng, 256);
        else
            vl_dtype_info(b->host.dtype)->pack_row(dst, row, n);
    }
    free(row);
    transfer(e, b, true);
    return b;
}

static int run_matmul(struct env *e, const struct test_case *c)
{
    uint32_t n = c->d[0], n_out = c->d[1], k = c->d[2];
    struct buf *y = make2(e, VL_F32, n, n_out, c->pad), *a = fill(e, make2(e, VL_F32, n, k, c->pad));
    struct buf *stored = fill(e, make2(e, c->dtype, n_out, k, c->pad));
    struct vl_tensor w = {0};
    struct buf *mem = make1(e, (uint32_t)(e->x.ops->packed_size(e->x.device, &stored->host) / 4));
    w.data = mem->dev.data;
    assert_int_equal(e->x.ops->pack(&e->x, &w, &stored->host), 0);
    return e->x.ops->matmul(&e->x, &y->dev, &a->dev, &w);
}

static int run_gather(struct env *e, const struct test_case *c)
{
    uint32_t n = c->d[0], rows = c->d[1], d = c->d[2];
    struct buf *y = make2(e, VL_F32, n, d, c->pad), *table = make2(e, c->dtype, rows, d, c->pad);
    if (vl_dtype_info(c->dtype)->pack_row)
        fill(e, table);
    struct buf *index = make(e, VL_I32, 1, &n, 0);
    for (uint32_t i = 0; i < n; i++)
        ((int32_t *)index->host.data)[i] = (int32_t)test_randn(&e->rng, rows);
    transfer(e, index, true);
    struct vl_tensor w = table->dev;
    if (c->d[3]) { /* packed */
        w.data = make1(e, (uint32_t)(e->x.ops->packed_size(e->x.device, &table->host) / 4))->dev.data;
        assert_int_equal(e->x.ops->pack(&e->x, &w, &table->host), 0);
    }
    return e->x.ops->gather(&e->x, &y->dev, &w, &index->dev);
}

static int run_norm(struct env *e, const struct test_case *c)
{
    struct buf *y = make(e, VL_F32, 3, c->d, c->pad), *a = fill(e, make(e, VL_F32, 3, c->d, c->pad + 1));
    struct buf *w = fill(e, make1(e, c->d[2])), *b = fill(e, make1(e, c->d[2]));
    if (c->d[3])
        return e->x.ops->layer_norm(&e->x, &y->dev, &a->dev, &w->dev, &b->dev, 1e-6f);
    return e->x.ops->rms_norm(&e->x, &y->dev, &a->dev, &w->dev, 1e-5f);
}

static int run_norm_in_place(struct env *e, const struct test_case *c)
{
    struct buf *y = fill(e, make2(e, VL_F32, c->d[0], c->d[1], c->pad)), *w = fill(e, make1(e, c->d[1]));
    return e->x.ops->rms_norm(&e->x, &y->dev, &y->dev, &w->dev, 1e-5f);
}

static int run_rope(struct env *e, const struct test_case *c)
{
    uint32_t n = c->d[0], n_pairs = c->d[3];
    int64_t(*pos)[3] = calloc(n, sizeof(*pos));
    double *inv_freq = calloc(n_pairs, sizeof(*inv_freq));
    uint8_t *axis = calloc(n_pairs, 1);
    assert_true(pos && inv_freq && axis);
    for (uint32_t i = 0; i < n; i++)
        for (int j = 0; j < 3; j++)
            pos[i][j] = (int64_t)(test_rand(&e->rng) >> c->d[4]);
    for (uint32_t i = 0; i < n_pairs; i++) {
        inv_freq[i] = pow(1e5, -(double)i / n_pairs);
        axis[i] = (uint8_t)(i % 3);
    }
    struct buf *y = fill(e, make(e, VL_F32, 3, c->d, c->pad));
    const struct vl_rope rope = {n_pairs, inv_freq, axis};
    int r = e->x.ops->rope(&e->x, &y->dev, (const int64_t(*)[3])pos, &rope);
    free(pos);
    free(inv_freq);
    free(axis);
    return r;
}

static int run_silu_mul(struct env *e, const struct test_case *c)
{
    struct buf *y = make2(e, VL_F32, c->d[0], c->d[1], c->pad);
    struct buf *a = fill(e, make2(e, VL_F32, c->d[0], c->d[1], 2 * c->pad));
    struct buf *b = fill(e, make2(e, VL_F32, c->d[0], c->d[1], 0));
    return e->x.ops->silu_mul(&e->x, &y->dev, &a->dev, &b->dev);
}

static int run_gelu(struct env *e, const struct test_case *c)
{
    struct buf *y = make2(e, VL_F32, c->d[0], c->d[1], c->pad);
    struct buf *a = fill(e, make2(e, VL_F32, c->d[0], c->d[1], 2 * c->pad));
    return e->x.ops->gelu(&e->x, &y->dev, &a->dev);
}

static int run_add(struct env *e, const struct test_case *c)
{
    struct buf *y = fill(e, make2(e, VL_F32, c->d[0], c->d[1], c->pad));
    struct buf *b = fill(e, make2(e, VL_F32, c->d[2], c->d[1], 0));
    return e->x.ops->add(&e->x, &y->dev, &y->dev, &b->dev);
}

enum { MAX_PAGES = 64, MAX_Q = 512 };

/* Slots a row sees, now and then none. */
static void make_ranges(struct env *e, uint32_t (*seen)[2], uint32_t n_q, uint32_t n)
{
    for (uint32_t i = 0; i < n_q; i++) {
        seen[i][0] = test_randn(&e->rng, n / 2 + 1);
        seen[i][1] = i % 7 == 3 ? seen[i][0] : seen[i][0] + test_randn(&e->rng, n - seen[i][0] + 1);
    }
}

/* k and v cut into pages of so many slots; the view borrows page. */
static struct vl_kv_view make_view(const struct buf *k, const struct buf *v, uint32_t n, uint32_t slots,
                                   struct vl_kv_page page[MAX_PAGES])
{
    uint32_t n_pages = (n + slots - 1) / slots;
    assert_true(n_pages <= MAX_PAGES);
    for (uint32_t i = 0; i < n_pages; i++)
        page[i] = (struct vl_kv_page){.k = (char *)k->dev.data + i * slots * k->dev.stride[0],
                                      .v = v ? (char *)v->dev.data + i * slots * v->dev.stride[0] : NULL,
                                      .n_tokens = n - i * slots < slots ? n - i * slots : slots,
                                      .k_dtype = (uint8_t)k->dev.dtype,
                                      .v_dtype = (uint8_t)k->dev.dtype};
    return (struct vl_kv_view){page, n_pages, n, 0, k->dev.dim[1], k->dev.dim[2]};
}

/* d: queries, heads, head_dim, KV heads, tokens, page slots; every row sees its own range. */
static int run_attention(struct env *e, const struct test_case *c)
{
    uint32_t n_q = c->d[0], heads = c->d[1], d = c->d[2], kv_heads = c->d[3], n = c->d[4], slots = c->d[5];
    static struct vl_kv_page page[MAX_PAGES];
    static uint32_t seen[MAX_Q][2];
    struct buf *y = make(e, VL_F32, 3, c->d, c->pad), *q = fill(e, make(e, VL_F32, 3, c->d, c->pad));
    struct buf *lse = make2(e, VL_F32, n_q, heads, c->pad), *bias = fill(e, make1(e, n ? n : 1));
    const uint32_t kv_dim[] = {n ? n : 1, kv_heads, d};
    assert_true(n_q <= MAX_Q);
    struct buf *k = fill(e, make(e, c->dtype, 3, kv_dim, 0)), *v = fill(e, make(e, c->dtype, 3, kv_dim, 0));
    make_ranges(e, seen, n_q, n);
    const struct vl_kv_view kv = make_view(k, v, n, slots, page);
    const struct vl_attn_seq seq[] = {{&kv, 0, n_q / 3}, {&kv, n_q / 3, n_q - n_q / 3}};
    const struct vl_attn_params p = {1 / sqrtf((float)d), n_q % 2 ? (const uint32_t(*)[2])seen : NULL,
                                     n && n_q % 3 ? &bias->dev : NULL, &lse->dev};
    return e->x.ops->attention(&e->x, &y->dev, &q->dev, seq, 2, &p);
}

/* d: queries, heads, head_dim, KV heads, tokens, page slots. Without rotation where the heads are even. */
static int run_probe(struct env *e, const struct test_case *c)
{
    uint32_t n_q = c->d[0], d = c->d[2], kv_heads = c->d[3], n = c->d[4];
    static struct vl_kv_page page[MAX_PAGES];
    static uint32_t seen[MAX_Q][2];
    static int64_t pos[4096][3];
    static double freq[VL_ATTN_HEAD_DIM / 2];
    static const uint8_t axis[VL_ATTN_HEAD_DIM / 2] = {0, 1, 2, 0, 0, 2};
    struct buf *y = make2(e, VL_F32, kv_heads, n, c->pad), *q = fill(e, make(e, VL_F32, 3, c->d, c->pad));
    struct buf *bias = fill(e, make1(e, n ? n : 1));
    struct buf *k = fill(e, make(e, c->dtype, 3, (const uint32_t[]){n ? n : 1, kv_heads, d}, 0));
    assert_true(n_q <= MAX_Q && n <= 4096);
    make_ranges(e, seen, n_q, n);
    for (uint32_t i = 0; i < n; i++)
        for (int a = 0; a < 3; a++)
            pos[i][a] = (int64_t)test_randn(&e->rng, 1u << 30);
    for (uint32_t i = 0; i < d / 2; i++)
        freq[i] = pow(1e5, -2.0 * i / d);
    const struct vl_rope rope = {d / 2, freq, axis};
    const struct vl_kv_view kv = make_view(k, NULL, n, c->d[5], page);
    const struct vl_probe_params p = {.scale = 1 / sqrtf((float)d),
                                      .visible = n_q % 2 ? (const uint32_t(*)[2])seen : NULL,
                                      .key_bias = n && n_q % 3 ? &bias->dev : NULL,
                                      .key_pos = d % 2 ? NULL : (const int64_t(*)[3])pos,
                                      .rope = d % 2 ? NULL : &rope};
    return e->x.ops->probe(&e->x, &y->dev, &q->dev, &kv, &p);
}

static int run_patchify(struct env *e, const struct test_case *c)
{
    uint32_t patch = c->d[2], gh = c->d[0] / patch, gw = c->d[1] / patch;
    static const float mean[] = {0.5f, 0.48145466f, 0.4f}, std[] = {0.5f, -0.26862954f, 0.25f};
    struct buf *y = make2(e, VL_F32, gh * gw, 3 * patch * patch, c->pad);
    struct buf *img = fill(e, make(e, VL_U8, 3, (const uint32_t[]){c->d[0], c->d[1], 3}, 0));
    return e->x.ops->patchify(&e->x, &y->dev, &img->dev, patch, mean, std);
}

static int run_copy(struct env *e, const struct test_case *c)
{
    struct buf *y = make2(e, c->dtype, c->d[0], c->d[1], c->pad);
    struct buf *a = fill(e, make2(e, (enum vl_dtype)c->d[2], c->d[0], c->d[1], 0));
    return e->x.ops->copy(&e->x, &y->dev, &a->dev);
}

#define TIGHT 1e-11 /* f32 sums in another order: measured 1e-13 and below */
#define CASE(op, dtype, pad, ...)                                                                            \
    {                                                                                                        \
#op " " #__VA_ARGS__ " " #dtype, run_##op, dtype, {__VA_ARGS__ }, pad, TIGHT                         \
    }
#define WEIGHTS(op, pad, ...)                                                                                \
    CASE(op, VL_F32, pad, __VA_ARGS__), CASE(op, VL_F16, pad, __VA_ARGS__),                                  \
        CASE(op, VL_BF16, pad, __VA_ARGS__), BLOCKS(op, pad, __VA_ARGS__)
/* k of 32s only, and of 256s */
#define BLOCKS(op, pad, ...)                                                                                 \
    CASE(op, VL_Q8_0, pad, __VA_ARGS__), CASE(op, VL_Q4_0, pad, __VA_ARGS__),                                \
        CASE(op, VL_Q4_1, pad, __VA_ARGS__), CASE(op, VL_Q5_0, pad, __VA_ARGS__),                            \
        CASE(op, VL_Q5_1, pad, __VA_ARGS__), CASE(op, VL_IQ4_NL, pad, __VA_ARGS__)
#define K_BLOCKS(op, pad, ...)                                                                               \
    CASE(op, VL_Q4_K, pad, __VA_ARGS__), CASE(op, VL_Q5_K, pad, __VA_ARGS__),                                \
        CASE(op, VL_Q6_K, pad, __VA_ARGS__)

static const struct test_case cases[] = {
    WEIGHTS(matmul, 0, 1, 16, 32),
    WEIGHTS(matmul, 3, 1, 100, 64),
    WEIGHTS(matmul, 1, 2, 65, 320),
    WEIGHTS(matmul, 0, 3, 17, 96),
    WEIGHTS(matmul, 0, 4, 200, 256),
    WEIGHTS(matmul, 5, 7, 33, 288),
    WEIGHTS(matmul, 0, 8, 64, 576),
    WEIGHTS(matmul, 1, 9, 70, 544),
    WEIGHTS(matmul, 0, 64, 129, 192),
    WEIGHTS(matmul, 0, 200, 80, 64),
    K_BLOCKS(matmul, 0, 1, 100, 512),
    K_BLOCKS(matmul, 1, 5, 33, 256),
    K_BLOCKS(matmul, 0, 40, 129, 768),
    CASE(matmul, VL_F32, 0, 0, 16, 32),
    CASE(matmul, VL_F32, 0, 5, 3, 1),
    CASE(matmul, VL_F16, 2, 13, 31, 147),
    CASE(matmul, VL_BF16, 0, 1, 1, 7),
    WEIGHTS(gather, 2, 9, 37, 64, 0),
    WEIGHTS(gather, 0, 9, 37, 96, 1),
    K_BLOCKS(gather, 2, 9, 37, 256, 0),
    K_BLOCKS(gather, 0, 9, 37, 512, 1),
    CASE(norm, VL_F32, 0, 2, 3, 64, 0),
    CASE(norm, VL_F32, 3, 1, 5, 577, 0),
    CASE(norm, VL_F32, 1, 2, 20, 768, 1),
    CASE(norm, VL_F32, 0, 1, 1, 1, 0),
    CASE(norm, VL_F32, 0, 1, 3, 13, 1),
    CASE(norm_in_place, VL_F32, 0, 7, 100),
    CASE(rope, VL_F32, 0, 5, 3, 64, 32, 62),
    CASE(rope, VL_F32, 7, 9, 2, 20, 7, 52),
    CASE(rope, VL_F32, 0, 300, 9, 64, 32, 40),
    CASE(silu_mul, VL_F32, 0, 3, 100),
    CASE(silu_mul, VL_F32, 5, 40, 1537),
    CASE(gelu, VL_F32, 3, 40, 1001),
    CASE(gelu, VL_F32, 0, 1, 3),
    CASE(add, VL_F32, 0, 20, 77, 20),
    CASE(add, VL_F32, 3, 20, 1000, 1),
    CASE(attention, VL_F32, 0, 1, 3, 64, 1, 1, 16),
    CASE(attention, VL_F16, 0, 1, 9, 64, 3, 777, 32),
    CASE(attention, VL_BF16, 0, 3, 4, 128, 2, 65, 7),
    CASE(attention, VL_F16, 4, 33, 9, 64, 3, 200, 48),
    CASE(attention, VL_F32, 0, 130, 2, 64, 2, 130, 130),
    CASE(attention, VL_F16, 1, 5, 6, 20, 6, 64, 64),
    CASE(attention, VL_F16, 0, 7, 2, 33, 1, 129, 5),
    CASE(attention, VL_Q8_0, 0, 5, 4, 32, 2, 70, 32),
    CASE(attention, VL_F32, 0, 5, 2, 256, 1, 70, 32),
    CASE(attention, VL_F16, 0, 5, 2, 16, 1, 0, 32),
    CASE(probe, VL_F32, 0, 1, 3, 63, 1, 1, 16),
    CASE(probe, VL_F16, 2, 1, 9, 64, 3, 777, 32),
    CASE(probe, VL_BF16, 0, 3, 4, 128, 2, 65, 7),
    CASE(probe, VL_F16, 0, 33, 9, 65, 3, 1200, 48),
    CASE(probe, VL_F32, 1, 130, 2, 64, 2, 257, 256),
    CASE(probe, VL_F32, 0, 5, 2, 256, 1, 70, 32),
    CASE(probe, VL_F16, 0, 512, 4, 17, 4, 512, 512),
    CASE(probe, VL_Q8_0, 0, 7, 4, 32, 2, 70, 32),
    CASE(probe, VL_F16, 0, 5, 2, 16, 1, 0, 32),
    CASE(patchify, VL_F32, 0, 32, 32, 16),
    CASE(patchify, VL_F32, 5, 70, 45, 14),
    CASE(copy, VL_F32, 3, 9, 100, VL_F32),
    CASE(copy, VL_F16, 3, 9, 100, VL_F32),
    CASE(copy, VL_BF16, 0, 9, 333, VL_F32),
    CASE(copy, VL_F32, 0, 9, 333, VL_F16),
    CASE(copy, VL_F32, 1, 9, 33, VL_BF16),
    CASE(copy, VL_F16, 1, 3, 700, VL_BF16),
    CASE(copy, VL_BF16, 1, 3, 700, VL_F16),
    CASE(copy, VL_Q8_0, 1, 3, 64, VL_Q8_0),
    CASE(copy, VL_U8, 1, 3, 65, VL_U8),
};

/* Every byte of an output that is not an element of it still holds the sentinel. */
static void check_sentinels(const struct test_case *c, const struct env *e, const struct buf *b)
{
    unsigned char *mask = calloc(b->size, 1);
    assert_non_null(mask);
    size_t row_bytes = vl_dtype_row_bytes(b->host.dtype, b->host.dim[b->host.n_dims - 1]);
    for (size_t r = 0; r < vl_tensor_n_rows(&b->host); r++)
        memset(mask + ((unsigned char *)vl_tensor_row(&b->host, r) - b->image), 1, row_bytes);
    for (size_t i = 0; i < b->size; i++)
        if (!mask[i] && b->image[i] != SENTINEL)
            fail_msg("%s: %s wrote outside its output, at byte %td of it", e->x.ops->name, c->name,
                     (ptrdiff_t)i - GUARD);
    free(mask);
}

static double nmse(const struct test_case *c, const struct buf *got, const struct buf *want)
{
    uint32_t n = got->host.dim[got->host.n_dims - 1];
    float *g = malloc((n + 1) * sizeof(*g)), *w = malloc((n + 1) * sizeof(*w));
    double err = 0, sum = 0;
    assert_true(g && w);
    for (size_t r = 0; r < vl_tensor_n_rows(&got->host); r++) {
        vl_dtype_info(got->host.dtype)->unpack_row(g, vl_tensor_row(&got->host, r), n);
        vl_dtype_info(want->host.dtype)->unpack_row(w, vl_tensor_row(&want->host, r), n);
        for (uint32_t i = 0; i < n; i++) {
            if (g[i] == w[i]) { /* infinities too */
                sum += isfinite(w[i]) ? (double)w[i] * w[i] : 0;
                continue;
            }
            if (!isfinite(g[i]) || !isfinite(w[i]))
                fail_msg("%s: row %zu element %u is %g, not %g", c->name, r, i, (double)g[i], (double)w[i]);
            err += ((double)g[i] - w[i]) * ((double)g[i] - w[i]);
            sum += (double)w[i] * w[i];
        }
    }
    free(g);
    free(w);
    return sum > 0 ? err / sum : err;
}

static int run_case(struct env *e, const struct test_case *c, uint64_t seed)
{
    env_reset(e, seed);
    int r = c->run(e, c);
    assert_int_equal(e->arena.used, 0);
    if (r == 0 && e->computes)
        for (size_t i = 0; i < e->n_bufs; i++)
            transfer(e, &e->buf[i], false);
    return r;
}

/* The log-sum-exp, where the case has one, is its third buffer. */
static void compare(const struct test_case *c, const struct env *e, const struct env *ref, size_t i)
{
    check_sentinels(c, e, &e->buf[i]);
    double d = nmse(c, &e->buf[i], &ref->buf[i]);
    if (!(d <= c->bound))
        fail_msg("%s: %s: nmse %g of output %zu, bound %g", e->x.ops->name, c->name, d, i, c->bound);
}

static void test_ops(void **state)
{
    (void)state;
    uint64_t seed = test_rng_new("backend-ops").s;
    vl_auto(vl_workers) pool = NULL;
    assert_int_equal(vl_workers_new(&pool, 1), 0);
    static struct env ref, one, two;
    env_open(&ref, vl_backend_find("cpu"), "isa=c", NULL);
    for (const struct vl_backend_ops *const *b = vl_backends; *b; b++) {
        env_open(&one, *b, NULL, NULL);
        env_open(&two, *b, NULL, pool);
        print_message("%s\n", (*b)->describe(one.x.device));
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            const struct test_case *c = &cases[i];
            int want = run_case(&ref, c, seed + i);
            if (want != 0 || run_case(&one, c, seed + i) != want || run_case(&two, c, seed + i) != want)
                fail_msg("%s: %s: answers differ, or are not 0", (*b)->name, c->name);
            if (!one.computes)
                continue;
            compare(c, &one, &ref, 0);
            if (c->run == run_attention)
                compare(c, &one, &ref, 2);
            for (size_t k = 0; k < one.n_bufs; k++)
                if (memcmp(one.buf[k].image, two.buf[k].image, one.buf[k].size) != 0)
                    fail_msg("%s: %s: one helper thread changed buffer %zu", (*b)->name, c->name, k);
        }
        env_close(&one);
        env_close(&two);
    }
    env_close(&ref);
}

/* However many rows go together, a row's product has the same bits. */
static void test_rows_are_independent(void **state)
{
    (void)state;
    enum { N = 23, N_OUT = 83 };
    static struct env e;
    static float all[N][N_OUT], part[N][N_OUT];
    env_open(&e, vl_backend_find("cpu"), NULL, NULL);
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        uint32_t k = f->block_len > 32 ? 768 : 608;
        if (f->packs_to == VL_LAYOUT_ROWS)
            continue;
        env_reset(&e, 5);
        struct buf *a = fill(&e, make2(&e, VL_F32, N, k, 0));
        struct buf *stored = fill(&e, make2(&e, (enum vl_dtype)t, N_OUT, k, 0));
        struct buf *mem = make1(&e, (uint32_t)(e.x.ops->packed_size(e.x.device, &stored->host) / 4));
        struct vl_tensor w = {.data = mem->dev.data}, y = vl_tensor_2d(all, VL_F32, N, N_OUT);
        assert_int_equal(e.x.ops->pack(&e.x, &w, &stored->host), 0);
        assert_int_equal(e.x.ops->matmul(&e.x, &y, &a->dev, &w), 0);
        for (uint32_t n = 1; n < N; n++)
            for (uint32_t first = 0; first < N; first += n) {
                uint32_t rows = N - first < n ? N - first : n;
                struct vl_tensor ap = vl_tensor_rows(&a->dev, first, rows);
                struct vl_tensor yp = vl_tensor_2d(part[first], VL_F32, rows, N_OUT);
                assert_int_equal(e.x.ops->matmul(&e.x, &yp, &ap, &w), 0);
                if (memcmp(part[first], all[first], rows * sizeof(all[0])) != 0)
                    fail_msg("%s: rows %u..%u differ when %u go together", f->name, first, first + rows, n);
            }
    }
    env_close(&e);
}

/* What no backend may accept, the null backend neither. */
static void test_bad_shapes(void **state)
{
    (void)state;
    static float data[64 * 64];
    static struct env e;
    for (const struct vl_backend_ops *const *b = vl_backends; *b; b++) {
        env_open(&e, *b, NULL, NULL);
        struct vl_exec *x = &e.x;
        struct vl_tensor m44 = vl_tensor_2d(data, VL_F32, 4, 4), m48 = vl_tensor_2d(data, VL_F32, 4, 8);
        struct vl_tensor v4 = vl_tensor_1d(data, VL_F32, 4), v8 = vl_tensor_1d(data, VL_F32, 8);
        struct vl_tensor h = vl_tensor_2d(data, VL_F16, 4, 4), w = m48,
                         odd = vl_tensor_2d(data, VL_I32, 4, 4);
        struct vl_tensor t3 = vl_tensor_3d(data, VL_F32, 4, 2, 8), u = vl_tensor_3d(data, VL_U8, 8, 8, 3);
        w.layout = VL_LAYOUT_F32;
        assert_int_equal((*b)->matmul(x, &m44, &m48, &m48), -EINVAL); /* not packed */
        assert_int_equal((*b)->matmul(x, &m44, &m44, &w), -EINVAL);
        assert_int_equal((*b)->matmul(x, &m48, &m48, &w), -EINVAL);
        assert_int_equal((*b)->matmul(x, &h, &m48, &w), -EINVAL);
        assert_int_equal((*b)->rms_norm(x, &m44, &m48, &v8, 0), -EINVAL);
        assert_int_equal((*b)->rms_norm(x, &m48, &m48, &v4, 0), -EINVAL);
        assert_int_equal((*b)->layer_norm(x, &m48, &m48, &v8, &v4, 0), -EINVAL);
        assert_int_equal((*b)->gelu(x, &m48, &m44), -EINVAL);
        assert_int_equal((*b)->gelu(x, &h, &h), -EINVAL);
        assert_int_equal((*b)->silu_mul(x, &m48, &m48, &m44), -EINVAL);
        assert_int_equal((*b)->add(x, &m48, &m48, &v4), -EINVAL);
        assert_int_equal((*b)->gather(x, &m48, &m48, &v4), -EINVAL); /* the index is not i32 */
        assert_int_equal((*b)->copy(x, &m44, &odd), -EINVAL);
        assert_int_equal((*b)->pack(x, &h, &odd), -EINVAL);
        assert_int_equal((*b)->patchify(x, &m48, &u, 4, data, data), -EINVAL);
        const double f[8] = {1};
        const uint8_t axis[8] = {0, 3};
        const int64_t pos[4][3] = {{0}};
        assert_int_equal((*b)->rope(x, &t3, pos, &(struct vl_rope){5, f, axis}), -EINVAL);
        assert_int_equal((*b)->rope(x, &t3, pos, &(struct vl_rope){2, f, axis}), -EINVAL);
        struct vl_kv_page page = {.k = data, .v = data, .n_tokens = 3};
        struct vl_kv_view kv = {&page, 1, 4, 0, 2, 8};
        struct vl_attn_seq seq = {&kv, 0, 4};
        struct vl_attn_params p = {1, NULL, NULL, NULL};
        assert_int_equal((*b)->attention(x, &t3, &t3, &seq, 1, &p), -EINVAL); /* fewer tokens than said */
        kv.n_tokens = 3;
        const uint32_t seen[4][2] = {{0, 1}, {0, 2}, {0, 3}, {0, 4}};
        p.visible = seen;
        assert_int_equal((*b)->attention(x, &t3, &t3, &seq, 1, &p), -EINVAL);
        p.visible = NULL;
        struct vl_tensor mass = vl_tensor_2d(data, VL_F32, 2, 3);
        struct vl_probe_params probe = {.scale = 1, .visible = seen};
        assert_int_equal((*b)->probe(x, &mass, &t3, &kv, &probe), -EINVAL);
        probe.visible = NULL;
        assert_int_equal((*b)->probe(x, &m44, &t3, &kv, &probe), -EINVAL);
        probe.rope = &(struct vl_rope){2, f, axis}; /* and no positions */
        assert_int_equal((*b)->probe(x, &mass, &t3, &kv, &probe), -EINVAL);
        probe.key_pos = pos;
        assert_int_equal((*b)->probe(x, &mass, &t3, &kv, &probe), -EINVAL); /* axis 3 */
        seq.n_queries = 5;
        assert_int_equal((*b)->attention(x, &t3, &t3, &seq, 1, &p), -EINVAL);
        env_close(&e);
    }
}

/* Against a plain sum in double over keys before rotation; the cpu's own C path among the backends. */
static void test_probe_is_attention(void **state)
{
    (void)state;
    enum { N_Q = 5, HEADS = 6, KV_HEADS = 2, D = 32, N = 700, SLOTS = 48 };
    static struct env e;
    static float got[KV_HEADS][N], k_raw[N][KV_HEADS][D], q_rot[N_Q][HEADS][D];
    static double want[KV_HEADS][N], s[N];
    static int64_t pos[N][3], q_pos[N_Q][3];
    static const uint8_t axis[D / 2] = {0};
    static double freq[D / 2];
    static struct vl_kv_page page[MAX_PAGES];
    for (int i = 0; i < D / 2; i++)
        freq[i] = pow(1e4, -2.0 * i / D);
    const struct vl_rope rope = {D / 2, freq, axis};
    for (int spec = 0; spec < 2; spec++) {
        env_open(&e, vl_backend_find("cpu"), spec ? "isa=c" : NULL, NULL);
        env_reset(&e, 3);
        struct buf *k = fill(&e, make(&e, VL_F32, 3, (const uint32_t[]){N, KV_HEADS, D}, 0));
        struct buf *q = fill(&e, make(&e, VL_F32, 3, (const uint32_t[]){N_Q, HEADS, D}, 0));
        uint32_t seen[N_Q][2] = {{0, N}, {3, 3}, {1, 2}, {100, 600}, {0, N - 1}};
        for (int i = 0; i < N; i++) /* far away, where single precision would be off */
            pos[i][0] = pos[i][1] = pos[i][2] = 100000000 + 3 * i;
        for (int i = 0; i < N_Q; i++)
            q_pos[i][0] = 100000000 + 3 * N + i;
        memcpy(k_raw, k->dev.data, sizeof(k_raw));
        memcpy(q_rot, q->dev.data, sizeof(q_rot));
        assert_int_equal(e.x.ops->rope(&e.x, &k->dev, (const int64_t(*)[3])pos, &rope), 0);
        struct vl_tensor qr = vl_tensor_3d(q_rot, VL_F32, N_Q, HEADS, D);
        assert_int_equal(e.x.ops->rope(&e.x, &qr, (const int64_t(*)[3])q_pos, &rope), 0);
        struct vl_kv_view kv = make_view(k, NULL, N, SLOTS, page);
        struct vl_tensor ret = vl_tensor_2d(got, VL_F32, KV_HEADS, N);
        for (int undo = 0; undo < 2; undo++) {
            const float *keys = undo ? &k_raw[0][0][0] : (const float *)k->dev.data,
                        *rows = undo ? (const float *)q->dev.data : &q_rot[0][0][0];
            memset(want, 0, sizeof(want));
            for (int i = 0; i < N_Q * HEADS; i++) {
                double sum = 0, top = -INFINITY;
                int head = i % HEADS / (HEADS / KV_HEADS);
                for (uint32_t j = seen[i / HEADS][0]; j < seen[i / HEADS][1]; j++) {
                    s[j] = 0;
                    for (int c = 0; c < D; c++)
                        s[j] += 0.2 * (double)rows[i * D + c] * keys[(j * KV_HEADS + head) * D + c];
                    top = fmax(top, s[j]);
                }
                for (uint32_t j = seen[i / HEADS][0]; j < seen[i / HEADS][1]; j++)
                    sum += exp(s[j] - top);
                for (uint32_t j = seen[i / HEADS][0]; j < seen[i / HEADS][1]; j++)
                    want[head][j] += exp(s[j] - top) / sum / (HEADS / KV_HEADS);
            }
            const struct vl_probe_params p = {.scale = 0.2f,
                                              .visible = (const uint32_t(*)[2])seen,
                                              .key_pos = undo ? (const int64_t(*)[3])pos : NULL,
                                              .rope = undo ? &rope : NULL};
            const struct vl_tensor *qs = undo ? &q->dev : &qr;
            assert_int_equal(e.x.ops->probe(&e.x, &ret, qs, &kv, &p), 0);
            for (int h = 0; h < KV_HEADS; h++) {
                double all = 0;
                for (int j = 0; j < N; j++) {
                    all += got[h][j];
                    if (fabs(got[h][j] - want[h][j]) > 2e-6)
                        fail_msg("undo %d, head %d, slot %d: %g, not %g", undo, h, j, (double)got[h][j],
                                 want[h][j]);
                }
                assert_true(fabs(all - 4) < 1e-5); /* one row sees nothing */
            }
        }
        env_close(&e);
    }
}

/* A long context costs no scratch by its length times its rows. */
static void test_probe_scratch(void **state)
{
    (void)state;
    static struct env e;
    static struct vl_kv_page page[300];
    for (uint32_t i = 0; i < 300; i++)
        page[i] = (struct vl_kv_page){.n_tokens = 45, .k_dtype = VL_F16, .v_dtype = VL_F16};
    const struct vl_kv_view kv = {page, 300, 13500, 0, 3, 64};
    struct vl_tensor q = vl_tensor_3d(NULL, VL_F32, 64, 9, 64), ret = vl_tensor_2d(NULL, VL_F32, 3, 13500);
    env_open(&e, &vl_backend_null, NULL, NULL);
    assert_int_equal(e.x.ops->probe(&e.x, &ret, &q, &kv, &(struct vl_probe_params){.scale = 1}), 0);
    assert_int_equal(e.arena.used, 0);
    assert_true(e.arena.peak > 0 && e.arena.peak < 300 << 10);
    assert_int_equal(vl_null_counts(e.x.device)->n[VL_OP_PROBE], 1);
    assert_int_equal(vl_null_counts(e.x.device)->flops[VL_OP_PROBE], 4ull * 64 * 13500 * 9 * 64);
    env_close(&e);
}

static void test_null_counts(void **state)
{
    (void)state;
    static struct env e;
    env_open(&e, &vl_backend_null, NULL, NULL);
    struct vl_tensor a, y, stored = vl_tensor_2d(NULL, VL_Q8_0, 24, 64), w = {0};
    assert_int_equal(vl_scratch_2d(&e.x, &a, VL_F32, 3, 64), 0);
    assert_int_equal(vl_scratch_2d(&e.x, &y, VL_F32, 3, 24), 0);
    assert_int_equal(e.x.ops->pack(&e.x, &w, &stored), 0);
    assert_int_equal(e.x.ops->matmul(&e.x, &y, &a, &w), 0);
    const struct vl_null_counts *c = vl_null_counts(e.x.device);
    assert_int_equal(c->n[VL_OP_MATMUL], 1);
    assert_int_equal(c->flops[VL_OP_MATMUL], 2 * 3 * 64 * 24);
    assert_int_equal(c->bytes[VL_OP_MATMUL], 4 * 3 * 64 + 4 * 3 * 24 + 32 * 64 * 34 / 32);
    assert_true(e.arena.peak >= 4 * 3 * (64 + 24));
    for (int t = 0; t < VL_DTYPE_COUNT; t++) { /* a dry run asks for what the real one takes */
        stored = vl_tensor_2d(NULL, (enum vl_dtype)t, 33, 512);
        size_t n = e.x.ops->packed_size(e.x.device, &stored);
        assert_int_equal(n, vl_backend_find("cpu")->packed_size(NULL, &stored));
        if (vl_dtype_info((enum vl_dtype)t)->packs_to == VL_LAYOUT_ROWS)
            assert_int_equal(n, 0);
        else
            assert_true(n >= vl_tensor_bytes(&stored) / 33 * 48);
    }
    env_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops),           cmocka_unit_test(test_rows_are_independent),
        cmocka_unit_test(test_bad_shapes),    cmocka_unit_test(test_probe_is_attention),
        cmocka_unit_test(test_probe_scratch), cmocka_unit_test(test_null_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
