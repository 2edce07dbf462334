/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The products over packed weights. The bound of an output is scaled by the sum of its terms' magnitudes; a
 * row must also come out with the same bits from every function of a table. */
#include "kernels/layout.h"
#include "tests/checkkernel/checkkernel.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { GEMM = 4, GAP = 3, MAX_ROWS = 23 };

static enum vl_layout layout_of(int which)
{
    return (enum vl_layout)(which / 8);
}

static enum vl_dtype dtype_of(enum vl_layout layout)
{
    int t = 0;
    while (vl_dtype_info((enum vl_dtype)t)->packs_to != layout)
        t++;
    return (enum vl_dtype)t;
}

static any_fn pick(const struct vl_ukernels *k, int which)
{
    const struct vl_matmul_ukernels *m = &k->matmul[layout_of(which)];
    return which % 8 == GEMM ? (any_fn)m->gemm : (any_fn)m->gemv[which % 8];
}

struct product {
    size_t n, k, n_out, lda, ldy;
    float *a, *y;
    void *w;
    struct vl_tensor packed;
};

static void call(const struct vl_ukernels *k, int which, const struct product *p)
{
    const struct vl_matmul_ukernels *m = &k->matmul[layout_of(which)];
    if (which % 8 == GEMM)
        m->gemm(p->y, p->ldy, p->w, p->a, p->lda, p->n, p->k, p->n_out);
    else
        m->gemv[which % 8](p->y, p->ldy, p->w, p->a, p->lda, p->k, p->n_out);
}

/* Rows of activations and of results stand GAP apart; the last one ends flush. */
static size_t with_gaps(size_t rows, size_t n)
{
    return rows * n + (rows - 1) * GAP;
}

static struct product make(int which, size_t n, size_t k, size_t n_out, enum kind kind, enum guard_side side)
{
    enum vl_dtype t = dtype_of(layout_of(which));
    struct product p = {.n = n, .k = k, .n_out = n_out, .lda = k + GAP, .ldy = n_out + GAP};
    p.a = guard_floats(with_gaps(n, k), side, kind, 1e15f);
    p.y = guard_alloc(with_gaps(n, n_out) * sizeof(float), side);
    struct vl_tensor stored = vl_tensor_2d(NULL, t, (uint32_t)n_out, (uint32_t)k);
    size_t row_bytes = vl_dtype_row_bytes(t, k), size = 0;
    stored.data = guard_alloc(n_out * row_bytes, GUARD_BEHIND);
    float *row = guard_alloc(k * sizeof(float), GUARD_BEHIND);
    for (size_t j = 0; j < n_out; j++) {
        fill_floats(row, k, kind, 3e4f); /* f16 ends at 65504 */
        vl_dtype_info(t)->pack_row((char *)stored.data + j * row_bytes, row, k);
    }
    if (vl_layout_size(&stored, &size) < 0)
        abort();
    p.w = guard_alloc(size, side);
    vl_layout_pack(p.w, &stored, 0, (n_out + VL_PANEL - 1) / VL_PANEL);
    p.packed = vl_layout_tensor(&stored, p.w);
    return p;
}

static void compare(const struct check *c, const struct product *p, const float *want)
{
    float *w = guard_alloc(p->k * sizeof(float), GUARD_BEHIND);
    for (size_t j = 0; j < p->n_out; j++) {
        vl_layout_unpack_row(w, &p->packed, j);
        for (size_t r = 0; r < p->n; r++) {
            double sum = 0;
            for (size_t i = 0; i < p->k; i++)
                sum += fabs((double)w[i] * p->a[r * p->lda + i]);
            double bound = 0x1p-24 * (4 + 2 * sqrt((double)p->k)) * sum + FLT_MIN;
            expect_near(c, r * p->ldy + j, p->y[r * p->ldy + j], want[r * p->ldy + j], bound);
        }
    }
    for (size_t r = 0; r + 1 < p->n; r++) /* the gaps, sentinels on both sides */
        expect_same(c, p->y + r * p->ldy + p->n_out, want + r * p->ldy + p->n_out, GAP * sizeof(float));
}

static void one(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref, size_t n,
                size_t len, size_t n_out, enum kind kind, enum guard_side side)
{
    struct product p = make(c->which, n, len, n_out, kind, side), q = p;
    size_t size = with_gaps(n, n_out) * sizeof(float);
    q.y = guard_alloc(size, side);
    call(k, c->which, &p);
    call(ref, c->which, &q);
    compare(c, &p, q.y);
    bool is_ref = pick(k, c->which) == pick(ref, c->which); /* here for the memory it touches */
    for (size_t r = 0; r < n && !is_ref; r++) {             /* alone, by the gemv of one row */
        struct product alone = p;
        alone.n = 1;
        alone.a += r * p.lda;
        alone.y = q.y;
        call(k, c->which / 8 * 8, &alone);
        expect_same(c, p.y + r * p.ldy, q.y, n_out * sizeof(float));
    }
    guard_reset();
}

static void test(const struct check *c, const struct vl_ukernels *k, const struct vl_ukernels *ref)
{
    static const size_t outs[] = {1, 7, 8, 9, 16, 17, 33, 48, 64, 65, 100, 129};
    static const size_t rows[] = {1, 2, 5, 6, 7, 9, 13, MAX_ROWS};
    size_t unit = vl_dtype_info(dtype_of(layout_of(c->which)))->block_len;
    for (size_t li = 0; li < N_LENGTHS + 2; li++)
        for (int kind = 0; kind < KIND_COUNT; kind++)
            for (int side = 0; side < 2; side++) {
                size_t len = li < N_LENGTHS ? check_lengths[li] : li == N_LENGTHS ? 576 : 1100;
                if (unit > 32)
                    len = (1 + li % 3) * unit;
                else
                    len = unit > 1 && len > 34 ? len / unit * unit : len * unit;
                size_t pick_out = test_randn(&check_rng, sizeof(outs) / sizeof(outs[0]));
                size_t n = c->which % 8 == GEMM ? rows[test_randn(&check_rng, sizeof(rows) / sizeof(rows[0]))]
                                                : (size_t)1 << c->which % 8;
                one(c, k, ref, n, len, outs[pick_out], (enum kind)kind, (enum guard_side)side);
            }
}

struct bench_arg {
    int which;
    const struct vl_ukernels *k;
    struct product p;
};

static void bench_once(void *arg)
{
    const struct bench_arg *b = arg;
    call(b->k, b->which, &b->p);
}

/* The gemm on a piece of the encoder's MLP, as FLOP/ns; the gemv over 64 MiB of weights, as bytes/ns of
 * them. */
static void bench(const struct check *c, const struct vl_ukernels *k, const char *level)
{
    bool gemm = c->which % 8 == GEMM, slow = strcmp(level, "c") == 0;
    size_t len = 768, n = gemm ? 192 : (size_t)1 << c->which % 8;
    size_t bytes = vl_layout_panel_bytes(layout_of(c->which), len);
    size_t n_out = gemm || slow ? 64 : (64 << 20) / bytes * VL_PANEL;
    struct bench_arg b = {c->which, k, make(c->which, n, len, n_out, KIND_EVEN, GUARD_BEHIND)};
    double flops = 2.0 * (double)n * (double)len * (double)n_out,
           all = (double)bytes * (double)n_out / VL_PANEL;
    measure(c->name, level, bench_once, &b, gemm ? flops : all, gemm ? "FLOP/ns" : "bytes/ns");
    guard_reset();
}

/* Every layout of the registry by every function of its table, and an empty name at the end. */
const struct check *matmul_checks(void)
{
    static struct check checks[(VL_LAYOUT_COUNT - 1) * (GEMM + 1) + 1];
    static const char *const name[] = {"gemv1", "gemv2", "gemv4", "gemv8", "gemm"};
    struct check *c = checks;
    for (int l = VL_LAYOUT_ROWS + 1; l < VL_LAYOUT_COUNT; l++)
        for (int i = 0; i <= GEMM; i++, c++) {
            *c = (struct check){"", pick, test, bench, l * 8 + i};
            (void)snprintf(c->name, sizeof(c->name), "%s_%s", name[i],
                           vl_layout_info((enum vl_layout)l)->name);
        }
    return checks;
}
