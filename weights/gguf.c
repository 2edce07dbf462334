/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* The GGUF reader. The head of the file (keys, then the tensor table) is read into one growing buffer, and
 * every step asks need() for its bytes first, which compares with the file's size and never adds to a
 * position before that. Keys and tensors are sorted, so that duplicates are neighbours and a hostile file
 * cannot make a hash table slow. The trap: the buffer moves while it grows, so positions are kept, not
 * pointers. */
#include "weights/gguf.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

enum { SHORTEST_FILE = 24, SHORTEST_KEY = 14, SHORTEST_TENSOR = 33, MAX_KEY_LEN = 65535, MAX_DIMS = 4 };
enum { FIRST_READ = 64 << 10, DEFAULT_ALIGNMENT = 32 };
#define MAX_DIM (UINT64_C(1) << 31)

/* What is being read, for messages. */
struct place {
    const char *kind; /* "key" or "tensor" */
    uint64_t index;
    size_t name, name_len; /* name_len 0: not known yet */
};
struct cursor {
    int fd;
    uint64_t size;
    unsigned char *buf;
    size_t have, cap, pos;
    struct place in;
    struct vl_error *err;
};

static const uint8_t type_size[VL_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};

const char *vl_gguf_type_name(uint8_t type)
{
    static const char *const name[VL_GGUF_TYPE_COUNT] = {
        "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    return type < VL_GGUF_TYPE_COUNT ? name[type] : "unknown";
}

/* The name of what is being read, with anything unprintable masked: it came from the file. */
static void describe(const struct cursor *c, char out[88])
{
    char name[49];
    size_t n = c->in.name_len < sizeof(name) ? c->in.name_len : sizeof(name) - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = c->buf[c->in.name + i];
        name[i] = ch >= 0x20 && ch < 0x7F ? (char)ch : '?';
    }
    name[n] = '\0';
    if (!c->in.kind)
        (void)snprintf(out, 88, "header");
    else if (n)
        (void)snprintf(out, 88, "%s '%s'%s", c->in.kind, name, n < c->in.name_len ? "..." : "");
    else
        (void)snprintf(out, 88, "%s number %llu", c->in.kind, (unsigned long long)c->in.index);
}

__attribute__((format(printf, 4, 5))) static int fail(const struct cursor *c, int code, size_t at,
                                                      const char *fmt, ...)
{
    char what[88], why[160];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(why, sizeof(why), fmt, ap); /* cut if too long */
    va_end(ap);
    describe(c, what);
    return vl_error_set(c->err, code, "byte %zu, %s: %s", at, what, why);
}

/* Makes bytes [pos, pos + n) present. */
static int need(struct cursor *c, uint64_t n, const char *what)
{
    if (n > c->size - c->pos)
        return fail(c, -EBADMSG, c->pos, "%s takes %llu bytes, but the file ends at byte %llu", what,
                    (unsigned long long)n, (unsigned long long)c->size);
    if (n <= c->have - c->pos)
        return 0;
    uint64_t end = c->pos + n;
    if (end > VL_WEIGHTS_MAX_METADATA)
        return fail(c, -EBADMSG, c->pos, "metadata grows beyond %d bytes", VL_WEIGHTS_MAX_METADATA);
    uint64_t want = c->have * 2 > FIRST_READ ? c->have * 2 : FIRST_READ;
    want = want > c->size ? c->size : want;
    want = want > VL_WEIGHTS_MAX_METADATA ? VL_WEIGHTS_MAX_METADATA : want;
    want = want < end ? end : want;
    unsigned char *p = realloc(c->buf, (size_t)want);
    if (!p)
        return fail(c, -ENOMEM, c->pos, "no memory for %llu bytes of metadata", (unsigned long long)want);
    c->buf = p;
    while (c->have < want) {
        ssize_t r = pread(c->fd, c->buf + c->have, (size_t)want - c->have, (off_t)c->have);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return fail(c, -errno, c->have, "cannot read: %m");
        if (r == 0)
            return fail(c, -EBADMSG, c->have, "the file was cut short while it was read");
        c->have += (size_t)r;
    }
    return 0;
}

static uint32_t load32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t load64(const unsigned char *p)
{
    return load32(p) | (uint64_t)load32(p + 4) << 32;
}

static int read_u32(struct cursor *c, uint32_t *ret, const char *what)
{
    int r = need(c, 4, what);
    if (r < 0)
        return r;
    *ret = load32(c->buf + c->pos);
    c->pos += 4;
    return 0;
}

static int read_u64(struct cursor *c, uint64_t *ret, const char *what)
{
    int r = need(c, 8, what);
    if (r < 0)
        return r;
    *ret = load64(c->buf + c->pos);
    c->pos += 8;
    return 0;
}

/* Leaves pos behind the string; *ret is where its bytes begin. */
static int read_str(struct cursor *c, uint64_t min, uint64_t max, uint32_t *ret, uint32_t *ret_len,
                    const char *what)
{
    uint64_t len = 0;
    int r = read_u64(c, &len, what);
    if (r < 0)
        return r;
    if (len < min || len > max)
        return fail(c, -EBADMSG, c->pos - 8, "%s is %llu bytes long, must be %llu to %llu", what,
                    (unsigned long long)len, (unsigned long long)min, (unsigned long long)max);
    r = need(c, len, what);
    if (r < 0)
        return r;
    *ret = (uint32_t)c->pos; /* below VL_WEIGHTS_MAX_METADATA */
    *ret_len = (uint32_t)len;
    c->pos += (size_t)len;
    return 0;
}

static int read_name(struct cursor *c, uint64_t max, uint32_t *ret, uint32_t *ret_len)
{
    int r = read_str(c, 1, max, ret, ret_len, "name");
    if (r < 0)
        return r;
    c->in.name = *ret;
    c->in.name_len = *ret_len;
    for (size_t i = *ret; i < *ret + *ret_len; i++)
        if (c->buf[i] < 0x21 || c->buf[i] > 0x7E)
            return fail(c, -EBADMSG, i, "the name holds byte 0x%02x, must be printable ASCII", c->buf[i]);
    return 0;
}

static int check_bools(struct cursor *c, uint64_t n)
{
    for (size_t i = c->pos; i < c->pos + n; i++)
        if (c->buf[i] > 1)
            return fail(c, -EBADMSG, i, "a bool is %u, must be 0 or 1", c->buf[i]);
    return 0;
}

static int read_array(struct cursor *c, struct vl_gguf_key *k)
{
    uint32_t elem = 0;
    uint64_t n = 0;
    int r = read_u32(c, &elem, "array type");
    if (r == 0)
        r = read_u64(c, &n, "array length");
    if (r < 0)
        return r;
    if (elem >= VL_GGUF_TYPE_COUNT)
        return fail(c, -EBADMSG, c->pos - 12, "array of type %u, which does not exist", elem);
    if (elem == VL_GGUF_ARRAY)
        return fail(c, -ENOTSUP, c->pos - 12, "array of arrays");
    if (n > VL_WEIGHTS_MAX_ARRAY || n > (c->size - c->pos) / type_size[elem])
        return fail(c, -EBADMSG, c->pos - 8,
                    "array of %llu elements, more than the file can hold or the limit of %d",
                    (unsigned long long)n, VL_WEIGHTS_MAX_ARRAY);
    k->elem = (uint8_t)elem;
    k->n = (uint32_t)n;
    k->value = (uint32_t)c->pos;
    uint32_t at = 0, len = 0;
    if (elem == VL_GGUF_STR) {
        for (uint64_t i = 0; i < n && r == 0; i++)
            r = read_str(c, 0, VL_WEIGHTS_MAX_STRING, &at, &len, "string");
        return r;
    }
    uint64_t bytes = n * type_size[elem];
    r = need(c, bytes, "array");
    if (r == 0 && elem == VL_GGUF_BOOL)
        r = check_bools(c, bytes);
    if (r == 0)
        c->pos += (size_t)bytes;
    return r;
}

static int read_key(struct cursor *c, struct vl_gguf_key *k)
{
    uint32_t type = 0;
    int r = read_name(c, MAX_KEY_LEN, &k->name, &k->name_len);
    if (r == 0)
        r = read_u32(c, &type, "type");
    if (r < 0)
        return r;
    if (type >= VL_GGUF_TYPE_COUNT)
        return fail(c, -EBADMSG, c->pos - 4, "has type %u, which does not exist", type);
    k->type = (uint8_t)type;
    if (type == VL_GGUF_ARRAY)
        return read_array(c, k);
    if (type == VL_GGUF_STR)
        return read_str(c, 0, VL_WEIGHTS_MAX_STRING, &k->value, &k->n, "string");
    r = need(c, type_size[type], vl_gguf_type_name(k->type));
    if (r == 0 && type == VL_GGUF_BOOL)
        r = check_bools(c, 1);
    if (r < 0)
        return r;
    k->value = (uint32_t)c->pos;
    c->pos += type_size[type];
    return 0;
}

static int compare_bytes(const void *a, size_t n_a, const void *b, size_t n_b)
{
    int d = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return d ? d : (n_a > n_b) - (n_a < n_b);
}

static int compare_keys(const void *a, const void *b, void *head)
{
    const struct vl_gguf_key *x = a, *y = b;
    const unsigned char *base = head;
    return compare_bytes(base + x->name, x->name_len, base + y->name, y->name_len);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct vl_weights_tensor *)a)->name, ((const struct vl_weights_tensor *)b)->name);
}

static int read_keys(struct cursor *c, struct vl_gguf *g)
{
    g->key = calloc(g->n_keys ? g->n_keys : 1, sizeof(*g->key));
    if (!g->key)
        return fail(c, -ENOMEM, c->pos, "no memory for %u keys", g->n_keys);
    for (uint32_t i = 0; i < g->n_keys; i++) {
        c->in = (struct place){.kind = "key", .index = i};
        int r = read_key(c, &g->key[i]);
        if (r < 0)
            return r;
    }
    qsort_r(g->key, g->n_keys, sizeof(*g->key), compare_keys, c->buf);
    for (uint32_t i = 1; i < g->n_keys; i++)
        if (compare_keys(&g->key[i - 1], &g->key[i], c->buf) == 0) {
            c->in = (struct place){.kind = "key", .name = g->key[i].name, .name_len = g->key[i].name_len};
            return fail(c, -EBADMSG, g->key[i].name, "stands in the file twice");
        }
    c->in = (struct place){0};
    return 0;
}

/* Copies of the scalar strings, so that they can end in NUL. */
static int copy_strings(struct cursor *c, struct vl_gguf *g)
{
    size_t total = 0;
    for (uint32_t i = 0; i < g->n_keys; i++)
        total += g->key[i].type == VL_GGUF_STR ? (size_t)g->key[i].n + 1 : 0;
    char *p = malloc(total ? total : 1);
    if (!p)
        return fail(c, -ENOMEM, 0, "no memory for %zu bytes of strings", total);
    g->strings = p;
    for (uint32_t i = 0; i < g->n_keys; i++) {
        struct vl_gguf_key *k = &g->key[i];
        if (k->type != VL_GGUF_STR)
            continue;
        memcpy(p, c->buf + k->value, k->n);
        p[k->n] = '\0';
        k->str = p;
        p += k->n + 1;
    }
    return 0;
}

static const struct vl_gguf_key *find(const struct vl_gguf *g, const unsigned char *head, const char *name)
{
    size_t lo = 0, hi = g->n_keys, len = strlen(name);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int d = compare_bytes(name, len, head + g->key[mid].name, g->key[mid].name_len);
        if (d == 0)
            return &g->key[mid];
        if (d < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const struct vl_gguf_key *vl_gguf_find(const struct vl_gguf *g, const char *name)
{
    return find(g, g->head, name);
}

static int read_alignment(struct cursor *c, const struct vl_gguf *g, uint32_t *ret)
{
    const struct vl_gguf_key *k = find(g, c->buf, "general.alignment");
    *ret = DEFAULT_ALIGNMENT;
    if (!k)
        return 0;
    c->in = (struct place){.kind = "key", .name = k->name, .name_len = k->name_len};
    if (k->type != VL_GGUF_U32)
        return fail(c, -EBADMSG, k->value, "is of type %s, must be u32", vl_gguf_type_name(k->type));
    uint32_t a = load32(c->buf + k->value);
    if (a < 8 || a > VL_WEIGHTS_MAX_ALIGNMENT || (a & (a - 1)))
        return fail(c, -EBADMSG, k->value, "is %u, must be a power of two from 8 to %d", a,
                    VL_WEIGHTS_MAX_ALIGNMENT);
    *ret = a;
    return 0;
}

/* ggml's names of all ids, so that "not supported" can be told from "corrupt". */
static const char *const format_name[] = {
    "F32",   "F16",    "Q4_0",  "Q4_1", NULL,   NULL,      "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8",    "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16",  NULL,     NULL,
    NULL,    "TQ1_0",  "TQ2_0", NULL,   NULL,   NULL,      "MXFP4",  "NVFP4",   "Q1_0",  "Q2_0"};
enum { N_FORMAT_NAMES = sizeof(format_name) / sizeof(*format_name) };

/* The formats that weights may have, in words. */
static void list_formats(char *out, size_t size)
{
    size_t n = 0;
    out[0] = '\0';
    for (int t = 0; t < VL_DTYPE_COUNT && n < size; t++) {
        const struct vl_dtype_info *f = vl_dtype_info((enum vl_dtype)t);
        if (f->packs_to != VL_LAYOUT_ROWS && f->gguf_id < N_FORMAT_NAMES)
            n += (size_t)snprintf(out + n, size - n, "%s%s", n ? " " : "", format_name[f->gguf_id]);
    }
}

static int refuse_type(struct cursor *c, uint32_t id)
{
    char known[112];
    size_t at = c->pos - 4;
    list_formats(known, sizeof(known));
    if (id < N_FORMAT_NAMES && format_name[id])
        return fail(c, -ENOTSUP, at, "format %s is not supported; supported: %s", format_name[id], known);
    if (id < N_FORMAT_NAMES)
        return fail(c, -ENOTSUP, at, "format id %u was withdrawn from GGUF; convert the model again", id);
    if (id >= 133 && id < 512)
        return fail(c, -ENOTSUP, at, "format id %u is private to ik_llama.cpp; supported: %s", id, known);
    return fail(c, -EBADMSG, at, "format id %u does not exist", id);
}

static int read_type(struct cursor *c, enum vl_dtype *ret)
{
    uint32_t id = 0;
    int r = read_u32(c, &id, "format");
    if (r < 0)
        return r;
    if (id != UINT32_MAX) /* the registry's mark for "never stored" */
        for (int t = 0; t < VL_DTYPE_COUNT; t++)
            if (vl_dtype_info((enum vl_dtype)t)->gguf_id == id) {
                *ret = (enum vl_dtype)t;
                return 0;
            }
    return refuse_type(c, id);
}

static int read_dims(struct cursor *c, struct vl_weights_tensor *t)
{
    uint32_t n = 0;
    uint64_t ne = 0;
    int r = read_u32(c, &n, "number of dimensions");
    if (r < 0)
        return r;
    if (n < 1 || n > MAX_DIMS)
        return fail(c, -EBADMSG, c->pos - 4, "has %u dimensions, must be 1 to %d", n, MAX_DIMS);
    t->n_dims = (uint8_t)n;
    for (uint32_t i = 0; i < MAX_DIMS; i++)
        t->dim[i] = 1;
    for (uint32_t i = 0; i < n; i++) {
        r = read_u64(c, &ne, "dimension");
        if (r < 0)
            return r;
        if (ne < 1 || ne > MAX_DIM)
            return fail(c, -EBADMSG, c->pos - 8, "dimension %u is %llu, must be 1 to 2^31", i,
                        (unsigned long long)ne);
        t->dim[n - 1 - i] = (uint32_t)ne;
    }
    return 0;
}

static int check_size(struct cursor *c, struct vl_weights_tensor *t)
{
    const struct vl_dtype_info *info = vl_dtype_info(t->dtype);
    uint32_t ne0 = t->dim[t->n_dims - 1];
    if (ne0 % info->block_len)
        return fail(c, -EBADMSG, c->pos, "rows of %u elements do not divide into %s's blocks of %u", ne0,
                    info->name, info->block_len);
    t->size = (uint64_t)(ne0 / info->block_len) * info->block_bytes;
    for (int i = 0; i + 1 < t->n_dims; i++)
        if (__builtin_mul_overflow(t->size, t->dim[i], &t->size))
            return fail(c, -EBADMSG, c->pos, "its dimensions multiply to more than 64 bits");
    return 0;
}

/* inout_sum: the padded sizes of all tensors so far, which is where this one must begin. */
static int read_tensor(struct cursor *c, struct vl_weights_tensor *t, uint32_t alignment, uint64_t *inout_sum)
{
    uint32_t name = 0, len = 0;
    int r = read_name(c, VL_WEIGHTS_MAX_NAME, &name, &len);
    if (r < 0)
        return r;
    memcpy(t->name, c->buf + name, len);
    r = read_dims(c, t);
    if (r == 0)
        r = read_type(c, &t->dtype);
    if (r == 0)
        r = check_size(c, t);
    if (r == 0)
        r = read_u64(c, &t->offset, "offset");
    if (r < 0)
        return r;
    if (t->offset != *inout_sum)
        return fail(c, -EBADMSG, c->pos - 8,
                    "its data begins at %llu, must follow the tensor before it at %llu",
                    (unsigned long long)t->offset, (unsigned long long)*inout_sum);
    uint64_t end;
    if (__builtin_add_overflow(t->offset, t->size, &end) || end > UINT64_MAX - alignment)
        return fail(c, -EBADMSG, c->pos - 8, "its end lies beyond 64 bits");
    *inout_sum = (end + alignment - 1) / alignment * alignment;
    return 0;
}

static int read_tensors(struct cursor *c, struct vl_gguf *g, uint32_t alignment)
{
    uint64_t sum = 0;
    g->tensor = calloc(g->n_tensors ? g->n_tensors : 1, sizeof(*g->tensor));
    if (!g->tensor)
        return fail(c, -ENOMEM, c->pos, "no memory for %u tensors", g->n_tensors);
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        c->in = (struct place){.kind = "tensor", .index = i};
        int r = read_tensor(c, &g->tensor[i], alignment, &sum);
        if (r < 0)
            return r;
    }
    return 0;
}

/* From offsets in the data section to offsets in the file, all of which must be there. The padding behind the
 * last tensor may be missing. */
static int place_tensors(struct cursor *c, struct vl_gguf *g, uint32_t alignment)
{
    uint64_t data = ((uint64_t)c->pos + alignment - 1) / alignment * alignment;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        struct vl_weights_tensor *t = &g->tensor[i];
        if (__builtin_add_overflow(t->offset, data, &t->offset) || t->offset > c->size ||
            t->size > c->size - t->offset)
            return vl_error_set(
                c->err, -EBADMSG,
                "tensor '%s': its %llu bytes from byte %llu on reach beyond the end at byte %llu; the "
                "file is incomplete",
                t->name, (unsigned long long)t->size, (unsigned long long)t->offset,
                (unsigned long long)c->size);
    }
    qsort(g->tensor, g->n_tensors, sizeof(*g->tensor), compare_tensors);
    for (uint32_t i = 1; i < g->n_tensors; i++)
        if (strcmp(g->tensor[i - 1].name, g->tensor[i].name) == 0)
            return vl_error_set(c->err, -EBADMSG, "byte %zu, tensor '%s': stands in the tensor table twice",
                                c->pos, g->tensor[i].name);
    return 0;
}

static int read_count(struct cursor *c, const char *what, uint64_t shortest, uint64_t max, uint32_t *ret)
{
    uint64_t n = 0;
    int r = read_u64(c, &n, what);
    if (r < 0)
        return r;
    uint64_t fits = (c->size - SHORTEST_FILE) / shortest;
    if (n > fits || n > max)
        return fail(c, -EBADMSG, c->pos - 8, "counts %llu %ss; the file can hold %llu, the limit is %llu",
                    (unsigned long long)n, what, (unsigned long long)fits, (unsigned long long)max);
    *ret = (uint32_t)n;
    return 0;
}

/* What people give in place of a GGUF file, by how it begins. */
static int refuse_stranger(struct cursor *c)
{
    static const struct {
        const char *bytes;
        size_t at, n;
        const char *what;
    } known[] = {
        {"{\"", 8, 2, "a safetensors file; convert it with llama.cpp's convert_hf_to_gguf.py"},
        {"PK\x03\x04", 0, 4, "a PyTorch checkpoint or a zip; convert it with convert_hf_to_gguf.py"},
        {"version https://git-lfs", 0, 23, "a pointer of Git LFS, not the file; fetch it with git lfs pull"},
        {"<!", 0, 2, "a web page; download the file itself, not the page about it"},
        {"<html", 0, 5, "a web page; download the file itself, not the page about it"},
        {"{", 0, 1, "JSON; it describes a model, the GGUF file is another"},
        {"tjgg", 0, 4, "of a format older than GGUF; convert the model again"},
        {"lmgg", 0, 4, "of a format older than GGUF; convert the model again"},
        {"fmgg", 0, 4, "of a format older than GGUF; convert the model again"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (!memcmp(c->buf + known[i].at, known[i].bytes, known[i].n))
            return vl_error_set(c->err, -ENOTSUP, "not a GGUF file but %s", known[i].what);
    return fail(c, -EBADMSG, 0, "begins with %02x %02x %02x %02x; a GGUF file begins with 47 47 55 46",
                c->buf[0], c->buf[1], c->buf[2], c->buf[3]);
}

static int read_start(struct cursor *c, struct vl_gguf *g)
{
    uint32_t version = 0;
    if (c->size < SHORTEST_FILE)
        return fail(c, -EBADMSG, 0, "the file has %llu bytes; no GGUF file has fewer than %d",
                    (unsigned long long)c->size, SHORTEST_FILE);
    int r = need(c, SHORTEST_FILE, "start");
    if (r < 0)
        return r;
    if (memcmp(c->buf, "GGUF", 4) != 0)
        return refuse_stranger(c);
    c->pos = 4;
    r = read_u32(c, &version, "version");
    if (r < 0)
        return r;
    if ((version & 0xFFFF) == 0)
        return fail(c, -ENOTSUP, 4,
                    "made for big-endian machines; convert the model again without --bigendian");
    if (version != 2 && version != 3)
        return fail(c, -ENOTSUP, 4, "GGUF version %u; this build reads 2 and 3", version);
    r = read_count(c, "tensor", SHORTEST_TENSOR, VL_WEIGHTS_MAX_TENSORS, &g->n_tensors);
    return r < 0 ? r : read_count(c, "key", SHORTEST_KEY, VL_WEIGHTS_MAX_KEYS, &g->n_keys);
}

static int refuse_split(struct cursor *c, const struct vl_gguf *g)
{
    const struct vl_gguf_key *k = find(g, c->buf, "split.count");
    if (!k || k->type != VL_GGUF_U16 || (c->buf[k->value] | c->buf[k->value + 1] << 8) <= 1)
        return 0;
    return vl_error_set(
        c->err, -ENOTSUP,
        "one part of a model split over several files; join them with llama-gguf-split --merge");
}

int vl_gguf_parse(struct vl_gguf *ret, int fd, uint64_t size, struct vl_error *err)
{
    struct cursor c = {.fd = fd, .size = size, .err = err};
    struct vl_gguf g = {0};
    uint32_t alignment = DEFAULT_ALIGNMENT;
    int r = read_start(&c, &g);
    if (r == 0)
        r = read_keys(&c, &g);
    if (r == 0)
        r = read_alignment(&c, &g, &alignment);
    if (r == 0)
        r = refuse_split(&c, &g);
    if (r == 0)
        r = read_tensors(&c, &g, alignment);
    if (r == 0)
        r = place_tensors(&c, &g, alignment);
    if (r == 0)
        r = copy_strings(&c, &g);
    g.head = c.buf;
    if (r < 0)
        vl_gguf_done(&g);
    else
        *ret = g;
    return r;
}

void vl_gguf_done(struct vl_gguf *g)
{
    free(g->head);
    free(g->key);
    free(g->tensor);
    free(g->strings);
    *g = (struct vl_gguf){0};
}
