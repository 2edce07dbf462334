/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* Any bytes as a model file: opened, every key asked for as every type, every tensor read and bound. The
 * mutator walks the file as the format says and bends one length, count, type, dimension or offset. */
#include "tests/fuzz/fuzz.h"
#include "tests/gguf_writer.h"
#include "weights/bind.h"

#include <string.h>
#include <sys/mman.h>

static const char *const keys[] = {
    "general.architecture",
    "general.alignment",
    "general.name",
    "t.u32",
    "t.i32",
    "t.f32",
    "t.bool",
    "t.i32s",
    "t.f32s",
    "t.strs",
    "none",
    "",
    "split.count",
    "llama.block_count",
    "clip.projector_type",
    "clip.vision.image_mean",
};

static size_t walk_strings(const struct vl_weights *w, const char *key, struct vl_error *err)
{
    struct vl_weights_strs it;
    size_t len, total = 0;
    if (vl_weights_get_strs(w, key, &it, err) == 0)
        while (it.n_left) {
            const char *s = vl_weights_next_str(&it, &len);
            for (size_t j = 0; j < len; j++)
                total += (unsigned char)s[j];
        }
    return total;
}

/* One key as one type: as all types it would cost more than all the rest. err: NULL most of the time, because
 * messages do, too. */
static void ask(const struct vl_weights *w, const char *key, size_t type, struct vl_error *err)
{
    const char *s;
    uint32_t u, us[3], n = 0;
    int32_t i, is[3];
    float f, fs[3];
    bool b;
    size_t total = 0;
    switch (type % 10) {
    case 0:
        (void)vl_weights_get_u32(w, key, &u, err);
        break;
    case 1:
        (void)vl_weights_get_i32(w, key, &i, err);
        break;
    case 2:
        (void)vl_weights_get_f32(w, key, &f, err);
        break;
    case 3:
        (void)vl_weights_get_bool(w, key, &b, err);
        break;
    case 4:
        total += vl_weights_get_str(w, key, &s, err) == 0 ? strlen(s) : 0;
        break;
    case 5:
        (void)vl_weights_get_u32s(w, key, us, 3, err);
        break;
    case 6:
        (void)vl_weights_get_i32s(w, key, is, 3, err);
        break;
    case 7:
        (void)vl_weights_get_f32s(w, key, fs, 3, err);
        break;
    case 8:
        (void)vl_weights_array_len(w, key, &n, err);
        break;
    default:
        total += walk_strings(w, key, err);
    }
    FUZZ_CHECK(total < SIZE_MAX); /* so that the reads above are not thrown away */
}

/* Each tensor bound in the shape that the file gives it: the backend must say yes or no, and no more. */
static void bind(const struct vl_weights *w, struct vl_exec *x)
{
    struct vl_tensor out;
    struct vl_error err;
    void *memory;
    size_t bytes;
    vl_auto(vl_bind) b = NULL;
    if (vl_bind_new(&b, w, x) < 0)
        return;
    for (uint32_t i = 0; i < vl_weights_n_tensors(w) && i < 8; i++) {
        const struct vl_weights_tensor *t = vl_weights_tensor_at(w, i);
        struct vl_bind_row row = {t->name, i % 2 ? VL_BIND_F32 : VL_BIND_WEIGHT, {0}, .ret = &out};
        memcpy(row.dim, t->dim, t->n_dims * sizeof(*t->dim));
        if (strchr(t->name, 'N') || t->size > 4096)
            continue;
        (void)vl_bind_add(b, &row, 1, 0, &err);
    }
    if (vl_bind_bytes(b) < 1 << 20 && vl_bind_load(b, &memory, &bytes, &err) == 0)
        x->ops->free(x->device, memory);
}

static struct vl_exec *null_backend(void)
{
    static struct vl_exec x;
    struct vl_error err;
    if (!x.ops) {
        x.ops = vl_backend_find("null");
        FUZZ_CHECK(x.ops && x.ops->open(&x.device, NULL, &err) == 0);
    }
    return &x;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    struct vl_error err;
    char bytes[64];
    vl_auto(vl_weights) w = NULL;
    if (fd < 0)
        fd = gguf_memfd("", 0);
    FUZZ_CHECK(ftruncate(fd, (off_t)size) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    if (vl_weights_open_fd(&w, fd, "fuzz", &err) < 0)
        return 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        ask(w, keys[i], i + size, size % 16 == 0 ? &err : NULL);
    for (uint32_t i = 0; i < vl_weights_n_tensors(w); i++) {
        const struct vl_weights_tensor *t = vl_weights_tensor_at(w, i);
        size_t n = t->size < sizeof(bytes) ? (size_t)t->size : sizeof(bytes);
        FUZZ_CHECK(vl_weights_find(w, t->name) == t);
        FUZZ_CHECK(vl_weights_read(w, t, t->size - n, bytes, n, &err) == 0);
    }
    if (size % 4 == 0)
        bind(w, null_backend());
    return 0;
}

/* --- mutator --- */

enum { MAX_FIELDS = 256 };
struct fields { /* places of numbers that steer the parser, and their widths */
    size_t at[MAX_FIELDS];
    uint8_t width[MAX_FIELDS];
    size_t n;
};

static uint64_t load(const uint8_t *p, size_t width)
{
    uint64_t v = 0;
    for (size_t i = width; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

/* Notes a number and returns it; *pos goes past it, or past the end if it is not all there. */
static uint64_t field(struct fields *f, const uint8_t *d, size_t n, size_t *pos, uint8_t width)
{
    size_t at = *pos;
    *pos = at <= n && n - at >= width ? at + width : n + 1;
    if (*pos > n)
        return 0;
    if (f->n < MAX_FIELDS) {
        f->at[f->n] = at;
        f->width[f->n++] = width;
    }
    return load(d + at, width);
}

static void skip(size_t n, size_t *pos, uint64_t by)
{
    *pos = *pos <= n && by <= n - *pos ? *pos + (size_t)by : n + 1;
}

static void walk_value(struct fields *f, const uint8_t *d, size_t n, size_t *pos, uint64_t type)
{
    static const uint8_t size[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8)
        skip(n, pos, field(f, d, n, pos, 8));
    else if (type < 13 && size[type])
        (void)field(f, d, n, pos, size[type]);
    else
        *pos = n + 1;
}

static void walk(struct fields *f, const uint8_t *d, size_t n)
{
    size_t pos = 4;
    (void)field(f, d, n, &pos, 4);
    uint64_t n_tensors = field(f, d, n, &pos, 8), n_keys = field(f, d, n, &pos, 8);
    for (uint64_t i = 0; i < n_keys && pos <= n; i++) {
        skip(n, &pos, field(f, d, n, &pos, 8));
        uint64_t type = field(f, d, n, &pos, 4);
        if (type != 9) {
            walk_value(f, d, n, &pos, type);
            continue;
        }
        type = field(f, d, n, &pos, 4);
        for (uint64_t j = field(f, d, n, &pos, 8); j && pos <= n; j--)
            walk_value(f, d, n, &pos, type);
    }
    for (uint64_t i = 0; i < n_tensors && pos <= n; i++) {
        skip(n, &pos, field(f, d, n, &pos, 8));
        for (uint64_t j = field(f, d, n, &pos, 4); j && pos <= n; j--)
            (void)field(f, d, n, &pos, 8);
        (void)field(f, d, n, &pos, 4);
        (void)field(f, d, n, &pos, 8);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   2,
                                   3,
                                   8,
                                   9,
                                   12,
                                   31,
                                   32,
                                   33,
                                   63,
                                   64,
                                   255,
                                   256,
                                   65535,
                                   65536,
                                   1u << 24,
                                   1u << 30,
                                   INT32_MAX,
                                   UINT32_MAX,
                                   UINT64_C(1) << 31,
                                   UINT64_C(1) << 62,
                                   UINT64_C(1) << 63,
                                   INT64_MAX,
                                   UINT64_MAX,
                                   UINT64_MAX - 31};
    static struct fields f;
    f.n = 0;
    walk(&f, data, size);
    if (seed % 4 == 0 || f.n == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    size_t i = seed / 4 % f.n;
    uint64_t v = load(data + f.at[i], f.width[i]);
    unsigned how = seed / 1024 % 4;
    v = how == 0 ? v + 1 : how == 1 ? v - 1 : odd[seed / 4096 % (sizeof(odd) / sizeof(*odd))];
    for (size_t j = 0; j < f.width[i]; j++)
        data[f.at[i] + j] = (uint8_t)(v >> 8 * j);
    return size;
}
