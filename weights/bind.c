/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Binding by table. A binder lives as long as a model is being opened, on the thread that opens it; what it
 * binds lives as long as the model. The trap: pack and copy are only issued when they return, so the staging
 * memory is used again after sync and not before. */
#include "weights/bind.h"
#include "base/log.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN = 256 }; /* of each tensor in the block: a cache line, and what CUDA's copies like */

struct entry {
    struct vl_bind_row row; /* row.name is not used: the tensor has it */
    const struct vl_weights_tensor *t;
    struct vl_tensor stored; /* what goes to the backend, data NULL */
    size_t at, size;         /* in the block */
};
struct vl_bind {
    const struct vl_weights *w;
    struct vl_exec *x;
    struct entry *entry;
    size_t n, cap, total;
    bool *used; /* [n_tensors] */
    struct vl_bind_watch watch;
};

uint32_t vl_bind_llama_row(uint32_t row, uint32_t head_dim)
{
    uint32_t in_head = row % head_dim, half = in_head / (head_dim / 2), pair = in_head % (head_dim / 2);
    return row - in_head + 2 * pair + half;
}

int vl_bind_new(struct vl_bind **ret, const struct vl_weights *w, struct vl_exec *x)
{
    struct vl_bind *b = calloc(1, sizeof(*b));
    uint32_t n = vl_weights_n_tensors(w);
    if (!b || !(b->used = calloc(n ? n : 1, sizeof(*b->used)))) {
        free(b);
        return -ENOMEM;
    }
    b->w = w;
    b->x = x;
    *ret = b;
    return 0;
}

struct vl_bind *vl_bind_unref(struct vl_bind *b)
{
    if (!b)
        return NULL;
    free(b->used);
    free(b->entry);
    free(b);
    return NULL;
}

/* "blk.N.attn_q.weight" with the layer's number for N. A name that does not fit names no tensor. */
static void expand_name(char out[VL_WEIGHTS_MAX_NAME + 1], const char *pattern, uint32_t layer)
{
    const char *n = strchr(pattern, 'N');
    if (n)
        (void)snprintf(out, VL_WEIGHTS_MAX_NAME + 1, "%.*s%u%s", (int)(n - pattern), pattern, layer, n + 1);
    else
        (void)snprintf(out, VL_WEIGHTS_MAX_NAME + 1, "%s", pattern);
}

static uint8_t count_dims(const uint32_t dim[4])
{
    uint8_t n = 0;
    while (n < 4 && dim[n])
        n++;
    return n;
}

static void format_shape(char out[64], const uint32_t *dim, uint8_t n)
{
    int at = snprintf(out, 64, "[");
    for (uint8_t i = 0; i < n; i++)
        at += snprintf(out + at, 64 - (size_t)at, "%s%u", i ? ", " : "", dim[i]);
    (void)snprintf(out + at, 64 - (size_t)at, "]");
}

/* Equal but for ones in front: writers differ in whether they keep them. */
static bool same_shape(const uint32_t *a, uint8_t n_a, const uint32_t *b, uint8_t n_b)
{
    for (; n_a > 1 && a[0] == 1; n_a--)
        a++;
    for (; n_b > 1 && b[0] == 1; n_b--)
        b++;
    return n_a == n_b && memcmp(a, b, n_a * sizeof(*a)) == 0;
}

static int missing(const struct vl_bind *b, const char *name, const struct vl_bind_row *row,
                   struct vl_error *err)
{
    char need[64];
    format_shape(need, row->dim, count_dims(row->dim));
    return vl_error_set(err, -EINVAL, "%.60s: tensor '%s' %s is missing; wrong --model or --mmproj?",
                        vl_weights_name(b->w), name, need);
}

/* The shape that the backend sees: [n_out, k] for a weight. */
static int shape_of(const struct vl_bind_row *row, const struct vl_weights_tensor *t, struct vl_tensor *ret)
{
    uint8_t n = count_dims(row->dim);
    if (row->how == VL_BIND_F32) {
        *ret = vl_tensor_of(NULL, VL_F32, n, row->dim);
        return 0;
    }
    uint32_t k = 1;
    for (uint8_t i = 1; i < n; i++)
        if (__builtin_mul_overflow(k, row->dim[i], &k))
            return -EINVAL;
    *ret = vl_tensor_2d(NULL, t->dtype, row->dim[0], k);
    return 0;
}

static int check_row(struct vl_bind *b, const struct vl_bind_row *row, const char *name, struct entry *ret,
                     struct vl_error *err)
{
    const struct vl_weights_tensor *t = ret->t;
    uint8_t n = count_dims(row->dim);
    char found[64], need[64];
    if (n == 0 || !same_shape(t->dim, t->n_dims, row->dim, n)) {
        format_shape(found, t->dim, t->n_dims);
        format_shape(need, row->dim, n);
        return vl_error_set(err, -EINVAL, "%.60s: tensor '%s' is %s, must be %s; wrong --model or --mmproj?",
                            vl_weights_name(b->w), name, found, need);
    }
    if (vl_dtype_info(t->dtype)->packs_to == VL_LAYOUT_ROWS)
        return vl_error_set(err, -EINVAL, "%.60s: tensor '%s' holds %s, which are no weights",
                            vl_weights_name(b->w), name, vl_dtype_info(t->dtype)->name);
    if (shape_of(row, t, &ret->stored) < 0)
        return vl_error_set(err, -EINVAL, "%.60s: tensor '%s' is too large", vl_weights_name(b->w), name);
    return 0;
}

static int add_entry(struct vl_bind *b, const struct entry *e)
{
    if (b->n == b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 64;
        struct entry *p = reallocarray(b->entry, cap, sizeof(*p));
        if (!p)
            return -ENOMEM;
        b->entry = p;
        b->cap = cap;
    }
    b->entry[b->n++] = *e;
    return 0;
}

static int add_row(struct vl_bind *b, const struct vl_bind_row *row, uint32_t layer, struct vl_error *err)
{
    char name[VL_WEIGHTS_MAX_NAME + 1];
    expand_name(name, row->name, layer);
    struct entry e = {.row = *row, .t = vl_weights_find(b->w, name), .at = b->total};
    *row->ret = (struct vl_tensor){0};
    if (!e.t)
        return row->optional ? 0 : missing(b, name, row, err);
    int r = check_row(b, row, name, &e, err);
    if (r < 0)
        return r;
    e.size = row->how == VL_BIND_F32 ? vl_tensor_bytes(&e.stored)
                                     : b->x->ops->packed_size(b->x->device, &e.stored);
    size_t total;
    if (__builtin_add_overflow(b->total, e.size, &total) || total > SIZE_MAX - ALIGN)
        return vl_error_set(err, -ENOMEM, "%.60s: the model is larger than memory can be",
                            vl_weights_name(b->w));
    r = add_entry(b, &e);
    if (r < 0)
        return vl_error_set(err, r, "%.60s: no memory", vl_weights_name(b->w));
    b->total = (total + ALIGN - 1) / ALIGN * ALIGN;
    b->used[e.t - vl_weights_tensor_at(b->w, 0)] = true;
    return 0;
}

int vl_bind_add(struct vl_bind *b, const struct vl_bind_row *row, size_t n_rows, uint32_t layer,
                struct vl_error *err)
{
    for (size_t i = 0; i < n_rows; i++) {
        int r = add_row(b, &row[i], layer, err);
        if (r < 0)
            return r;
    }
    return 0;
}

size_t vl_bind_bytes(const struct vl_bind *b)
{
    return b->total;
}

void vl_bind_set_watch(struct vl_bind *b, const struct vl_bind_watch *watch)
{
    b->watch = *watch;
}

/* Host memory that each tensor passes through: as it is stored, as f32, with its rows moved. */
struct staging {
    void *stored, *floats, *moved;
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int staging_init(struct staging *s, const struct vl_bind *b)
{
    size_t stored = 1, floats = 1, moved = 1;
    for (size_t i = 0; i < b->n; i++) {
        const struct entry *e = &b->entry[i];
        bool f32 = e->row.how == VL_BIND_F32;
        stored = max_size(stored, (size_t)e->t->size);
        floats = max_size(floats, f32 ? e->size : 0);
        moved = max_size(moved, !e->row.from_row ? 0 : f32 ? e->size : (size_t)e->t->size);
    }
    *s = (struct staging){malloc(stored), malloc(floats), malloc(moved)};
    return s->stored && s->floats && s->moved ? 0 : -ENOMEM;
}

static void staging_done(struct staging *s)
{
    free(s->stored);
    free(s->floats);
    free(s->moved);
}

static void unpack(const struct entry *e, float *dst, const char *src)
{
    const struct vl_dtype_info *info = vl_dtype_info(e->t->dtype);
    size_t n_rows = vl_tensor_n_rows(&e->stored), len = e->stored.dim[e->stored.n_dims - 1];
    size_t bytes = vl_dtype_row_bytes(e->t->dtype, len);
    for (size_t i = 0; i < n_rows; i++)
        info->unpack_row(dst + i * len, src + i * bytes, len);
}

static void move_rows(const struct entry *e, char *dst, const char *src, size_t row_bytes)
{
    for (uint32_t i = 0; i < e->row.dim[0]; i++) {
        uint32_t from = e->row.from_row(i, e->row.arg);
        assert(from < e->row.dim[0]);
        memcpy(dst + i * row_bytes, src + from * row_bytes, row_bytes);
    }
}

/* Reads the tensor and brings it into the form that the backend takes: *ret points into the staging memory.
 */
static int prepare(const struct vl_bind *b, const struct entry *e, const struct staging *s, void **ret,
                   struct vl_error *err)
{
    size_t size = (size_t)e->t->size;
    int r = vl_weights_read(b->w, e->t, 0, s->stored, size, err);
    if (r < 0)
        return r;
    *ret = s->stored;
    if (e->row.how == VL_BIND_F32) {
        unpack(e, s->floats, s->stored);
        *ret = s->floats;
        size = e->size;
    }
    if (e->row.from_row) {
        move_rows(e, s->moved, *ret, size / e->row.dim[0]);
        *ret = s->moved;
    }
    return 0;
}

/* On the null backend nothing is read, so nothing needs memory to be read through. */
static bool is_dry(const struct vl_bind *b)
{
    return strcmp(b->x->ops->name, "null") == 0;
}

static int load_entry(const struct vl_bind *b, const struct entry *e, const struct staging *s, char *block,
                      struct vl_error *err)
{
    const bool dry = is_dry(b);
    struct vl_tensor from = e->stored, to = e->stored;
    to.data = block + e->at;
    int r = dry ? 0 : prepare(b, e, s, &from.data, err);
    if (r < 0)
        return r;
    if (e->row.how == VL_BIND_WEIGHT)
        r = b->x->ops->pack(b->x, &to, &from);
    else if (!dry)
        r = b->x->ops->copy(b->x, &to, &from);
    if (r == 0)
        r = b->x->ops->sync(b->x);
    if (r < 0)
        return vl_error_set(err, r, "%.60s: tensor '%s': backend %s cannot take it", vl_weights_name(b->w),
                            e->t->name, b->x->ops->name);
    *e->row.ret = to;
    r = b->watch.loaded ? b->watch.loaded(b->watch.user, e->size) : 0;
    return r < 0 ? vl_error_set(err, r, "%.60s: the load was stopped", vl_weights_name(b->w)) : 0;
}

static void tell_unused(const struct vl_bind *b)
{
    for (uint32_t i = 0; i < vl_weights_n_tensors(b->w); i++) {
        const struct vl_weights_tensor *t = vl_weights_tensor_at(b->w, i);
        if (b->used[i])
            continue;
        vl_log(VL_LOG_DEBUG, "weights", "%s: tensor '%s' is not used", vl_weights_name(b->w), t->name);
        if (b->watch.unused)
            b->watch.unused(b->watch.user, t);
    }
}

int vl_bind_load(struct vl_bind *b, void **ret_memory, size_t *ret_bytes, struct vl_error *err)
{
    struct staging s = {0};
    void *block;
    int r = b->x->ops->alloc(b->x->device, b->total ? b->total : ALIGN, false, &block);
    if (r < 0)
        return vl_error_set(err, r, "%.60s: the backend has no %zu bytes for it", vl_weights_name(b->w),
                            b->total);
    r = is_dry(b) ? 0 : staging_init(&s, b);
    if (r < 0)
        (void)vl_error_set(err, r, "%.60s: no memory to read it through", vl_weights_name(b->w));
    for (size_t i = 0; i < b->n && r == 0; i++)
        r = load_entry(b, &b->entry[i], &s, block, err);
    staging_done(&s);
    if (r < 0) {
        for (size_t i = 0; i < b->n; i++)
            *b->entry[i].row.ret = (struct vl_tensor){0};
        b->x->ops->free(b->x->device, block);
        return r;
    }
    tell_unused(b);
    *ret_memory = block;
    *ret_bytes = b->total;
    return 0;
}
