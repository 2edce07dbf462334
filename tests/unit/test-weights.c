/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* weights/: the GGUF reader on good, cut and hostile files, typed access, and binding. Every file is made
 * here. */
#include "kernels/quant/quant.h"
#include "tests/gguf_writer.h"
#include "tests/harness.h"
#include "weights/bind.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* --- a good file --- */

static void write_good(struct gguf_writer *w)
{
    static const char *const words[] = {"a", "", "with\xFF byte"};
    float v[64];
    uint16_t h[6];
    unsigned char q[2 * VL_Q8_0_BYTES];
    for (int i = 0; i < 64; i++)
        v[i] = (float)i;
    vl_f16_pack(h, v, 6);
    vl_q8_0_pack(q, v, 64);
    gguf_init(w);
    gguf_str(w, "general.architecture", "test");
    gguf_u32(w, "t.u32", 4000000000u);
    gguf_i32(w, "t.i32", -5);
    gguf_f32(w, "t.f32", 1.5f);
    gguf_f32(w, "t.nan", NAN);
    gguf_bool(w, "t.bool", true);
    gguf_i32s(w, "t.i32s", (const int32_t[]){1, -2, 3}, 3);
    gguf_f32s(w, "t.f32s", (const float[]){.5f, .25f}, 2);
    gguf_strs(w, "t.strs", words, 3);
    gguf_tensor(w, "vec", VL_F32, 1, (const uint32_t[]){5}, v);
    gguf_tensor(w, "half", VL_F16, 2, (const uint32_t[]){2, 3}, h);
    gguf_tensor(w, "quant", VL_Q8_0, 2, (const uint32_t[]){2, 32}, q);
}

static int open_bytes(struct vl_weights **ret, const void *p, size_t n, struct vl_error *err)
{
    vl_autofd fd = gguf_memfd(p, n);
    return vl_weights_open_fd(ret, fd, "dir/t.gguf", err);
}

static int open_written(struct vl_weights **ret, struct gguf_writer *w, struct vl_error *err)
{
    size_t n;
    vl_autofree unsigned char *p = gguf_finish(w, &n);
    int r = open_bytes(ret, p, n, err);
    gguf_done(w);
    return r;
}

static void test_getters(void **state)
{
    (void)state;
    struct gguf_writer g;
    struct vl_error err = {0};
    vl_auto(vl_weights) w = NULL;
    write_good(&g);
    if (open_written(&w, &g, &err) < 0)
        fail_msg("%s", err.msg);
    uint32_t u = 0, n = 0;
    int32_t i = 0, is[3];
    float f = 0, fs[2];
    bool b = false;
    const char *s = NULL;
    assert_string_equal(vl_weights_name(w), "t.gguf");
    assert_int_equal(vl_weights_get_u32(w, "t.u32", &u, &err), 0);
    assert_true(u == 4000000000u);
    assert_int_equal(vl_weights_get_i32(w, "t.i32", &i, &err), 0);
    assert_int_equal(i, -5);
    assert_int_equal(vl_weights_get_f32(w, "t.f32", &f, &err), 0);
    assert_true(f == 1.5f);
    assert_int_equal(vl_weights_get_bool(w, "t.bool", &b, &err), 0);
    assert_true(b);
    assert_int_equal(vl_weights_get_str(w, "general.architecture", &s, &err), 0);
    assert_string_equal(s, "test");
    assert_int_equal(vl_weights_get_i32s(w, "t.i32s", is, 3, &err), 0);
    assert_int_equal(is[1], -2);
    assert_int_equal(vl_weights_get_f32s(w, "t.f32s", fs, 2, &err), 0);
    assert_true(fs[1] == .25f);
    assert_int_equal(vl_weights_array_len(w, "t.strs", &n, &err), 0);
    assert_int_equal(n, 3);
    assert_true(vl_weights_is_array(w, "t.i32s"));
    assert_false(vl_weights_is_array(w, "t.i32"));

    struct vl_weights_strs it;
    size_t len;
    assert_int_equal(vl_weights_get_strs(w, "t.strs", &it, &err), 0);
    assert_memory_equal(vl_weights_next_str(&it, &len), "a", 1);
    assert_int_equal(len, 1);
    (void)vl_weights_next_str(&it, &len);
    assert_int_equal(len, 0);
    assert_memory_equal(vl_weights_next_str(&it, &len), "with\xFF byte", 10);
    assert_int_equal(it.n_left, 0);
}

static void test_getters_refuse(void **state)
{
    (void)state;
    struct gguf_writer g;
    struct vl_error err = {0};
    vl_auto(vl_weights) w = NULL;
    write_good(&g);
    gguf_key(&g, "t.zero", 8);
    gguf_put64(&g.keys, 3);
    gguf_bytes(&g.keys, "a\0b", 3);
    assert_int_equal(open_written(&w, &g, &err), 0);
    uint32_t u = 7;
    int32_t is[3];
    float f = 0;
    const char *s = NULL;
    struct vl_weights_strs it;
    assert_int_equal(vl_weights_get_u32(w, "none", &u, &err), VL_WEIGHTS_ABSENT);
    assert_int_equal(vl_weights_get_u32(w, "t.i32", &u, &err), -EINVAL);
    assert_string_equal(err.msg, "t.gguf: key 't.i32' is of type i32, must be u32");
    assert_int_equal(u, 7);
    assert_int_equal(vl_weights_get_u32(w, "t.i32s", &u, &err), -EINVAL);
    assert_string_equal(err.msg, "t.gguf: key 't.i32s' is of type array of i32, must be u32");
    assert_int_equal(vl_weights_get_i32s(w, "t.f32s", is, 2, &err), -EINVAL);
    assert_int_equal(vl_weights_get_i32s(w, "t.i32s", is, 2, &err), -EINVAL);
    assert_string_equal(err.msg, "t.gguf: key 't.i32s' has 3 elements, must have 2");
    assert_int_equal(vl_weights_get_strs(w, "t.i32s", &it, &err), -EINVAL);
    assert_int_equal(vl_weights_get_str(w, "t.zero", &s, &err), -EINVAL);
    assert_int_equal(vl_weights_need_u32(w, "none", 0, 9, &u, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "key 'none' is missing"));
    assert_int_equal(vl_weights_need_u32(w, "t.u32", 1, 512, &u, &err), -EINVAL);
    assert_string_equal(err.msg, "t.gguf: key 't.u32' is 4000000000, must be 1 to 512");
    assert_int_equal(vl_weights_need_f32(w, "t.nan", 0, 1, &f, &err), -EINVAL);
    assert_int_equal(vl_weights_need_f32(w, "t.f32", 0, 1, &f, &err), -EINVAL);
    assert_int_equal(vl_weights_need_f32(w, "t.f32", 0, 2, &f, &err), 0);
}

static void test_tensors(void **state)
{
    (void)state;
    struct gguf_writer g;
    struct vl_error err = {0};
    vl_auto(vl_weights) w = NULL;
    write_good(&g);
    assert_int_equal(open_written(&w, &g, &err), 0);
    assert_int_equal(vl_weights_n_tensors(w), 3);
    assert_string_equal(vl_weights_tensor_at(w, 0)->name, "half");
    const struct vl_weights_tensor *t = vl_weights_find(w, "quant");
    assert_non_null(t);
    assert_null(vl_weights_find(w, "quan"));
    assert_int_equal(t->dtype, VL_Q8_0);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dim[0], 2);
    assert_int_equal(t->dim[1], 32);
    assert_int_equal(t->size, 2 * VL_Q8_0_BYTES);
    float v[5];
    t = vl_weights_find(w, "vec");
    assert_int_equal(vl_weights_read(w, t, 4, v, 16, &err), 0);
    assert_true(v[0] == 1 && v[3] == 4);
    assert_int_equal(vl_weights_read(w, t, 8, v, 16, &err), -EINVAL);
    assert_int_equal(vl_weights_read(w, t, UINT64_MAX, v, 4, &err), -EINVAL);
}

/* --- F31: cut short --- */

static void test_cut(void **state)
{
    (void)state;
    struct gguf_writer g;
    struct vl_error err;
    size_t n;
    write_good(&g);
    vl_autofree unsigned char *p = gguf_finish(&g, &n);
    gguf_done(&g);
    vl_autofd fd = gguf_memfd(p, n);
    for (size_t cut = n; cut-- > 0;) {
        struct vl_weights *w = NULL;
        err = (struct vl_error){0};
        assert_int_equal(ftruncate(fd, (off_t)cut), 0);
        int r = vl_weights_open_fd(&w, fd, "t.gguf", &err);
        if (r >= 0)
            fail_msg("cut at byte %zu of %zu was not noticed", cut, n);
        assert_true(r == -EBADMSG && strstr(err.msg, "byte"));
    }
}

static void test_cut_while_read(void **state)
{
    (void)state;
    struct gguf_writer g;
    struct vl_error err;
    size_t n;
    float v[5];
    write_good(&g);
    vl_autofree unsigned char *p = gguf_finish(&g, &n);
    gguf_done(&g);
    vl_autofd fd = gguf_memfd(p, n);
    vl_auto(vl_weights) w = NULL;
    assert_int_equal(vl_weights_open_fd(&w, fd, "t.gguf", &err), 0);
    const struct vl_weights_tensor *t = vl_weights_find(w, "vec");
    assert_int_equal(ftruncate(fd, (off_t)t->offset + 8), 0);
    assert_int_equal(vl_weights_read(w, t, 0, v, 8, &err), 0);
    assert_int_equal(vl_weights_read(w, t, 0, v, 20, &err), -EBADMSG);
    assert_non_null(strstr(err.msg, "tensor 'vec': the file was cut short after it was opened"));
}

/* --- F33: the field's list --- */

static const uint64_t ne8 = 8;

static void no_keys(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 0, 0, 32);
}
static void dim_zero(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 2, (const uint64_t[]){8, 0}, 0, 0, 0);
}
static void dim_negative(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 2, (const uint64_t[]){8, UINT64_MAX}, 0, 0, 0);
}
static void dim_large(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, (const uint64_t[]){UINT64_C(1) << 31 | 1}, 0, 0, 0);
}
static void dim_product(struct gguf_writer *w)
{
    const uint64_t big = UINT64_C(1) << 31;
    gguf_tensor_raw(w, "t", 4, (const uint64_t[]){big, big, big, big}, 0, 0, 0);
}
static void dim_product_signed(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 4, (const uint64_t[]){INT64_MAX, 2, 1, 1}, 0, 0, 0);
}
static void size_near_end(struct gguf_writer *w)
{
    const uint64_t big = UINT64_C(1) << 31;
    gguf_tensor_raw(w, "t", 3, (const uint64_t[]){big, big / 2 - 1, 2}, 0, 0, 0);
}
static void pad_overflow(struct gguf_writer *w)
{
    /* 2^64 - 4 bytes: the size fits, its padding does not */
    gguf_tensor_raw(w, "t", 3, (const uint64_t[]){3, 715827883 * UINT64_C(1), 2147483647}, 0, 0, 0);
}
static void dims_none(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 0, &ne8, 0, 0, 32);
}
static void dims_five(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 5, (const uint64_t[]){1, 1, 1, 1, 1}, 0, 0, 32);
}
static void dims_many(struct gguf_writer *w)
{
    gguf_put_str(&w->tensors, "t");
    gguf_put32(&w->tensors, UINT32_MAX);
    gguf_bytes(&w->tensors, NULL, 64);
    w->n_tensors++;
}
static void offset_overlap(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 0, 0, 32);
    gguf_tensor_raw(w, "u", 1, &ne8, 0, 0, 32);
}
static void offset_hole(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 0, 32, 64);
}
static void offset_huge(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 0, UINT64_MAX - 31, 32);
}
static void past_end(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, (const uint64_t[]){4096}, 0, 0, 32);
}
static void alignment_of(struct gguf_writer *w, uint32_t v)
{
    gguf_u32(w, "general.alignment", v);
    no_keys(w);
}
static void alignment_0(struct gguf_writer *w)
{
    alignment_of(w, 0);
}
static void alignment_3(struct gguf_writer *w)
{
    alignment_of(w, 3);
}
static void alignment_4(struct gguf_writer *w)
{
    alignment_of(w, 4);
}
static void alignment_huge(struct gguf_writer *w)
{
    alignment_of(w, 1u << 30);
}
static void alignment_str(struct gguf_writer *w)
{
    gguf_str(w, "general.alignment", "32");
}
static void key_empty(struct gguf_writer *w)
{
    gguf_u32(w, "", 1);
}
static void key_twice(struct gguf_writer *w)
{
    gguf_u32(w, "a.b", 1);
    gguf_str(w, "c", "x");
    gguf_i32(w, "a.b", 2);
}
static void key_zero_byte(struct gguf_writer *w)
{
    gguf_put64(&w->keys, 3);
    gguf_bytes(&w->keys, "a\0b\4\0\0\0\1\0\0\0", 11);
    w->n_keys++;
}
static void key_long(struct gguf_writer *w)
{
    gguf_put64(&w->keys, 65536);
    gguf_bytes(&w->keys, NULL, 900);
    w->n_keys++;
}
static void key_escape(struct gguf_writer *w)
{
    gguf_u32(w, "\x1b[2Jx", 1);
}
static void tensor_twice(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 0, 0, 32);
    gguf_tensor_raw(w, "t", 1, &ne8, 0, 32, 32);
}
static void name_empty(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "", 1, &ne8, 0, 0, 32);
}
static void name_64(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "0123456789012345678901234567890123456789012345678901234567890123", 1, &ne8, 0, 0, 32);
}
static void type_255(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 99, 0, 32);
}
static void type_max(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, UINT32_MAX, 0, 32);
}
static void type_q2_k(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, (const uint64_t[]){256}, 10, 0, 84);
}
static void type_iq3_xxs(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, (const uint64_t[]){256}, 18, 0, 98);
}
static void block_odd_k(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, (const uint64_t[]){576}, 12, 0, 324);
}
static void type_gone(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 4, 0, 32);
}
static void type_ik(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, &ne8, 137, 0, 32);
}
static void block_odd(struct gguf_writer *w)
{
    gguf_tensor_raw(w, "t", 1, (const uint64_t[]){33}, 8, 0, 64);
}
static void value_type(struct gguf_writer *w)
{
    gguf_key(w, "k", 13);
    gguf_put64(&w->keys, 0);
}
static void bool_two(struct gguf_writer *w)
{
    gguf_key(w, "k", 7);
    gguf_bytes(&w->keys, "\2", 1);
}
static void string_huge(struct gguf_writer *w)
{
    gguf_key(w, "k", 8);
    gguf_put64(&w->keys, 1u << 30);
}
static void string_max(struct gguf_writer *w)
{
    gguf_key(w, "k", 8);
    gguf_put64(&w->keys, UINT64_MAX);
}
static void string_past_end(struct gguf_writer *w)
{
    gguf_key(w, "k", 8);
    gguf_put64(&w->keys, 100);
    gguf_bytes(&w->keys, "abc", 3);
}
static void array_array(struct gguf_writer *w)
{
    gguf_key(w, "k", 9);
    gguf_put32(&w->keys, 9);
    gguf_put64(&w->keys, 1);
    gguf_bytes(&w->keys, NULL, 64);
}
static void array_type(struct gguf_writer *w)
{
    gguf_key(w, "k", 9);
    gguf_put32(&w->keys, 99);
    gguf_put64(&w->keys, 0);
}
static void array_long(struct gguf_writer *w)
{
    gguf_key(w, "k", 9);
    gguf_put32(&w->keys, 4);
    gguf_put64(&w->keys, UINT64_C(0x4000000000000001));
    gguf_bytes(&w->keys, NULL, 64);
}
static void array_of_strings(struct gguf_writer *w)
{
    gguf_key(w, "k", 9);
    gguf_put32(&w->keys, 8);
    gguf_put64(&w->keys, 4);
    gguf_put64(&w->keys, 50);
    gguf_bytes(&w->keys, NULL, 64);
}
static void counts(struct gguf_writer *w, uint64_t n_keys, uint64_t n_tensors)
{
    gguf_u32(w, "k", 1);
    w->lie_counts = true;
    w->n_keys_lie = n_keys;
    w->n_tensors_lie = n_tensors;
}
static void keys_2_63(struct gguf_writer *w)
{
    counts(w, UINT64_C(1) << 63, 0);
}
static void keys_two(struct gguf_writer *w)
{
    counts(w, 2, 0);
}
static void tensors_negative(struct gguf_writer *w)
{
    counts(w, 1, UINT64_MAX);
}
static void version_1(struct gguf_writer *w)
{
    w->version = 1;
}
static void version_4(struct gguf_writer *w)
{
    w->version = 4;
}
static void version_swapped(struct gguf_writer *w)
{
    w->version = 3u << 24;
}
static void split_file(struct gguf_writer *w)
{
    gguf_key(w, "split.count", 2);
    gguf_bytes(&w->keys, "\2\0", 2);
}

static const struct {
    const char *name;
    void (*write)(struct gguf_writer *w);
    int r;
    const char *says;
} hostile[] = {
    {"dimension 0", dim_zero, -EBADMSG, "tensor 't': dimension 1 is 0"},
    {"dimension -1", dim_negative, -EBADMSG, "tensor 't': dimension 1 is"},
    {"dimension 2^31 + 1", dim_large, -EBADMSG, "dimension 0 is"},
    {"product of dimensions", dim_product, -EBADMSG, "multiply to more than 64 bits"},
    {"product of dimensions, signed", dim_product_signed, -EBADMSG, "dimension 0 is"},
    {"size near 2^64", size_near_end, -EBADMSG, "tensor 't'"},
    {"padding beyond 2^64", pad_overflow, -EBADMSG, "tensor 't'"},
    {"no dimensions", dims_none, -EBADMSG, "has 0 dimensions"},
    {"five dimensions", dims_five, -EBADMSG, "has 5 dimensions"},
    {"2^32 - 1 dimensions", dims_many, -EBADMSG, "dimensions"},
    {"overlap", offset_overlap, -EBADMSG, "tensor 'u': its data begins at 0, must follow"},
    {"hole", offset_hole, -EBADMSG, "tensor 't': its data begins at 32"},
    {"huge offset", offset_huge, -EBADMSG, "tensor 't': its data begins at"},
    {"past the end", past_end, -EBADMSG, "tensor 't': its 16384 bytes"},
    {"alignment 0", alignment_0, -EBADMSG, "key 'general.alignment': is 0"},
    {"alignment 3", alignment_3, -EBADMSG, "key 'general.alignment': is 3"},
    {"alignment 4", alignment_4, -EBADMSG, "key 'general.alignment': is 4"},
    {"alignment 2^30", alignment_huge, -EBADMSG, "key 'general.alignment': is 1073741824"},
    {"alignment a string", alignment_str, -EBADMSG, "key 'general.alignment': is of type string"},
    {"empty key", key_empty, -EBADMSG, "key number 0: name is 0 bytes long"},
    {"key twice", key_twice, -EBADMSG, "key 'a.b': stands in the file twice"},
    {"key with NUL", key_zero_byte, -EBADMSG, "key 'a?b': the name holds byte 0x00"},
    {"key of 65536 bytes", key_long, -EBADMSG, "name is 65536 bytes long"},
    {"key with an escape", key_escape, -EBADMSG, "key '?[2Jx'"},
    {"tensor twice", tensor_twice, -EBADMSG, "tensor 't': stands in the tensor table twice"},
    {"empty name", name_empty, -EBADMSG, "tensor number 0: name is 0 bytes long"},
    {"name of 64 bytes", name_64, -EBADMSG, "name is 64 bytes long"},
    {"format 99", type_255, -EBADMSG, "format id 99 does not exist"},
    {"format 2^32 - 1", type_max, -EBADMSG, "format id 4294967295 does not exist"},
    {"format Q2_K", type_q2_k, -ENOTSUP,
     "tensor 't': format Q2_K is not supported; supported: F32 F16 BF16 Q8_0 Q4_0"},
    {"format IQ3_XXS", type_iq3_xxs, -ENOTSUP, "format IQ3_XXS is not supported; supported: F32"},
    {"format withdrawn", type_gone, -ENOTSUP, "format id 4 was withdrawn"},
    {"format of ik_llama.cpp", type_ik, -ENOTSUP, "private to ik_llama.cpp; supported: F32"},
    {"part of a block", block_odd, -EBADMSG, "rows of 33 elements do not divide into q8_0's blocks of 32"},
    {"part of a K block", block_odd_k, -EBADMSG,
     "tensor 't': rows of 576 elements do not divide into q4_k's blocks of 256"},
    {"value type 13", value_type, -EBADMSG, "key 'k': has type 13"},
    {"bool 2", bool_two, -EBADMSG, "key 'k': a bool is 2"},
    {"string of 1 GiB", string_huge, -EBADMSG, "key 'k': string is 1073741824 bytes long"},
    {"string of 2^64 - 1", string_max, -EBADMSG, "key 'k': string is"},
    {"string past the end", string_past_end, -EBADMSG, "key 'k': string takes 100 bytes"},
    {"array of arrays", array_array, -ENOTSUP, "key 'k': array of arrays"},
    {"array of type 99", array_type, -EBADMSG, "key 'k': array of type 99"},
    {"array of 2^62", array_long, -EBADMSG, "key 'k': array of 4611686018427387905 elements"},
    {"strings in an array", array_of_strings, -EBADMSG, "key 'k': string"},
    {"2^63 keys", keys_2_63, -EBADMSG, "counts 9223372036854775808 keys"},
    {"a key too few", keys_two, -EBADMSG, "counts 2 keys"},
    {"-1 tensors", tensors_negative, -EBADMSG, "counts 18446744073709551615 tensors"},
    {"version 1", version_1, -ENOTSUP, "GGUF version 1"},
    {"version 4", version_4, -ENOTSUP, "GGUF version 4"},
    {"big endian", version_swapped, -ENOTSUP, "big-endian"},
    {"part of a split model", split_file, -ENOTSUP, "split over several files"},
};

/* Sanitizers keep freed memory, so that the peak says nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
enum { SANITIZED = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) };
#else
enum { SANITIZED = 0 };
#endif

static long peak_kib(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u); /* cannot fail with these arguments */
    return u.ru_maxrss;
}

static void test_hostile(void **state)
{
    (void)state;
    long before = peak_kib();
    for (size_t i = 0; i < sizeof(hostile) / sizeof(*hostile); i++) {
        struct gguf_writer g;
        struct vl_weights *w = NULL;
        struct vl_error err = {0};
        gguf_init(&g);
        hostile[i].write(&g);
        int r = open_written(&w, &g, &err);
        if (r != hostile[i].r || !strstr(err.msg, hostile[i].says))
            fail_msg("%s: returned %d, \"%s\"; must return %d and say \"%s\"", hostile[i].name, r, err.msg,
                     hostile[i].r, hostile[i].says);
        assert_null(w);
    }
    if (!SANITIZED && peak_kib() - before > 2048)
        fail_msg("refusing small files took %ld KiB", peak_kib() - before);
}

static void test_not_gguf(void **state)
{
    (void)state;
    struct vl_weights *w = NULL;
    struct vl_error err;
    assert_int_equal(open_bytes(&w, "", 0, &err), -EBADMSG);
    assert_string_equal(err.msg,
                        "t.gguf: byte 0, header: the file has 0 bytes; no GGUF file has fewer than 24");
    assert_int_equal(open_bytes(&w,
                                "\x7f"
                                "ELF--------------------",
                                24, &err),
                     -EBADMSG);
    assert_non_null(strstr(err.msg, "begins with 7f 45 4c 46"));
}

/* What people download by mistake is named, and what to do. */
static void test_strangers(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *says;
    } file[] = {
        {"\x40\1\0\0\0\0\0\0{\"__metadata__\":", "safetensors file; convert"},
        {"PK\3\4--------------------", "PyTorch checkpoint"},
        {"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
        {"<!doctype html><html lang=en>", "web page"},
        {"{\"schemaVersion\":2,\"mediaType\"", "JSON"},
        {"tjgg\3\0\0\0----------------", "older than GGUF"},
    };
    for (size_t i = 0; i < sizeof(file) / sizeof(*file); i++) {
        char data[64] = {0};
        struct vl_weights *w = NULL;
        struct vl_error err = {0};
        memcpy(data, file[i].bytes, i == 0 ? 24 : strlen(file[i].bytes));
        assert_int_equal(open_bytes(&w, data, sizeof(data), &err), -ENOTSUP);
        if (!strstr(err.msg, file[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err.msg, file[i].says);
    }
}

/* --- paths --- */

static void put_file(const char *path)
{
    struct gguf_writer g;
    size_t n;
    write_good(&g);
    vl_autofree unsigned char *p = gguf_finish(&g, &n);
    gguf_done(&g);
    vl_autofd fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, p, n) == (ssize_t)n);
}

static int try_path(const char *path, struct vl_error *err)
{
    vl_auto(vl_weights) w = NULL;
    *err = (struct vl_error){0};
    return vl_weights_open(&w, path, err);
}

static void test_paths(void **state)
{
    (void)state;
    char dir[] = "/tmp/test-weights-XXXXXX", cwd[PATH_MAX];
    struct vl_error err;
    assert_non_null(getcwd(cwd, sizeof(cwd)));
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    put_file("m.gguf");
    assert_int_equal(mkdir("d", 0700), 0);
    assert_int_equal(symlink("../m.gguf", "d/link"), 0);
    assert_int_equal(symlink("d/link", "twice"), 0);
    assert_int_equal(symlink("loop", "loop"), 0);
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    assert_int_equal(try_path("m.gguf", &err), 0);
    assert_int_equal(try_path("d/link", &err), 0);
    assert_int_equal(try_path("twice", &err), 0);
    assert_int_equal(try_path("loop", &err), -ELOOP);
    assert_int_equal(try_path("dangling", &err), -ENOENT);
    assert_non_null(strstr(err.msg, "'nowhere'"));
    assert_int_equal(try_path("fifo", &err), -EINVAL);
    assert_int_equal(try_path("d", &err), -EINVAL);
    assert_non_null(strstr(err.msg, "is a folder"));
    assert_int_equal(try_path("none", &err), -ENOENT);
    if (geteuid() == 0) { /* someone else's link: only to a file of his */
        assert_int_equal(lchown("twice", 12345, 12345), 0);
        assert_int_equal(try_path("twice", &err), -EPERM);
        assert_non_null(strstr(err.msg, "made by user 12345"));
        assert_int_equal(chown("m.gguf", 12345, 12345), 0);
        assert_int_equal(try_path("twice", &err), 0);
    }
    static const char *const made[] = {"m.gguf", "d/link", "twice", "loop", "dangling", "fifo"};
    for (size_t i = 0; i < sizeof(made) / sizeof(*made); i++)
        assert_int_equal(unlink(made[i]), 0);
    assert_int_equal(rmdir("d"), 0);
    assert_int_equal(chdir(cwd), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* --- binding --- */

struct bound {
    struct vl_tensor q, norm, conv, bias, gone;
};

static void write_model(struct gguf_writer *w)
{
    float v[8 * 32];
    unsigned char q[8 * VL_Q8_0_BYTES];
    for (int i = 0; i < 8 * 32; i++)
        v[i] = (float)(i / 32); /* each row is its number */
    vl_q8_0_pack(q, v, 8 * 32);
    gguf_init(w);
    gguf_tensor(w, "blk.7.q", VL_Q8_0, 2, (const uint32_t[]){8, 32}, q);
    for (int i = 0; i < 8 * 32; i++)
        v[i] = (float)i;
    gguf_tensor(w, "conv", VL_F32, 4, (const uint32_t[]){2, 3, 2, 2}, v);
    uint16_t h[8];
    vl_bf16_pack(h, v, 8);
    gguf_tensor(w, "blk.7.norm", VL_BF16, 1, (const uint32_t[]){8}, h);
    gguf_tensor(w, "blk.7.bias", VL_F32, 2, (const uint32_t[]){1, 8}, v);
    gguf_tensor(w, "ids", VL_I32, 1, (const uint32_t[]){8}, v);
}

struct bench {
    struct vl_exec x;
    struct vl_arena arena;
    struct vl_weights *w;
    struct vl_bind *b;
    char mem[1 << 16];
};

static void bench_open(struct bench *t, const char *backend)
{
    struct gguf_writer g;
    struct vl_error err = {0};
    *t = (struct bench){0};
    vl_arena_init(&t->arena, t->mem, sizeof(t->mem));
    t->x.ops = vl_backend_find(backend);
    t->x.scratch = &t->arena;
    assert_non_null(t->x.ops);
    assert_int_equal(t->x.ops->open(&t->x.device, NULL, &err), 0);
    write_model(&g);
    if (open_written(&t->w, &g, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(vl_bind_new(&t->b, t->w, &t->x), 0);
}

static void bench_close(struct bench *t)
{
    vl_bind_unref(t->b);
    vl_weights_unref(t->w);
    t->x.ops->close(t->x.device);
}

static int bind_all(struct bench *t, struct bound *m, struct vl_error *err)
{
    const struct vl_bind_row rows[] = {
        {"blk.N.q", VL_BIND_WEIGHT, {8, 32}, .ret = &m->q, .from_row = vl_bind_llama_row, .arg = 4},
        {"blk.N.norm", VL_BIND_F32, {8}, .ret = &m->norm},
        {"blk.N.bias", VL_BIND_F32, {8}, .ret = &m->bias, .from_row = vl_bind_llama_row, .arg = 8},
        {"conv", VL_BIND_WEIGHT, {2, 3, 2, 2}, .ret = &m->conv},
        {"blk.N.gone", VL_BIND_F32, {8}, .ret = &m->gone, .optional = true},
    };
    return vl_bind_add(t->b, rows, sizeof(rows) / sizeof(*rows), 7, err);
}

static void test_bind_cpu(void **state)
{
    (void)state;
    static struct bench t;
    struct bound m;
    struct vl_error err = {0};
    void *memory = NULL;
    size_t bytes = 0;
    bench_open(&t, "cpu");
    if (bind_all(&t, &m, &err) < 0 || vl_bind_load(t.b, &memory, &bytes, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(bytes, vl_bind_bytes(t.b));
    assert_null(m.gone.data);
    assert_int_equal(m.norm.dim[0], 8);
    assert_int_equal(m.conv.n_dims, 2);
    assert_int_equal(m.conv.dim[1], 12);
    /* heads of 4: the file has rows 0 2 1 3 of each, by the converter's interleaving undone */
    static const float order[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    static const float order8[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    int32_t id[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    float y[8 * 32], z[2 * 12];
    struct vl_tensor index = vl_tensor_1d(id, VL_I32, 8), out = vl_tensor_2d(y, VL_F32, 8, 32);
    assert_int_equal(t.x.ops->gather(&t.x, &out, &m.q, &index), 0);
    index = vl_tensor_1d(id, VL_I32, 2);
    out = vl_tensor_2d(z, VL_F32, 2, 12);
    assert_int_equal(t.x.ops->gather(&t.x, &out, &m.conv, &index), 0);
    assert_int_equal(t.x.ops->sync(&t.x), 0);
    for (int i = 0; i < 8; i++) {
        assert_true(fabsf(y[i * 32 + 5] - order[i]) < 1e-2f);
        assert_true(((const float *)m.norm.data)[i] == (float)i);
        assert_true(((const float *)m.bias.data)[i] == order8[i]);
    }
    for (int i = 0; i < 24; i++)
        assert_true(z[i] == (float)i);
    t.x.ops->free(t.x.device, memory);
    bench_close(&t);
}

static void test_bind_null(void **state)
{
    (void)state;
    static struct bench t;
    struct bound m;
    struct vl_error err = {0};
    void *memory = NULL;
    size_t bytes = 0;
    bench_open(&t, "null");
    if (bind_all(&t, &m, &err) < 0 || vl_bind_load(t.b, &memory, &bytes, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(m.q.dim[0], 8);
    assert_non_null(m.q.data);
    t.x.ops->free(t.x.device, memory);
    bench_close(&t);
}

static void test_bind_refuses(void **state)
{
    (void)state;
    static struct bench t;
    struct vl_tensor out = {.n_dims = 9};
    struct vl_error err;
    bench_open(&t, "null");
    const struct vl_bind_row shape = {"blk.N.q", VL_BIND_WEIGHT, {8, 64}, .ret = &out};
    assert_int_equal(vl_bind_add(t.b, &shape, 1, 7, &err), -EINVAL);
    assert_string_equal(err.msg,
                        "t.gguf: tensor 'blk.7.q' is [8, 32], must be [8, 64]; wrong --model or --mmproj?");
    const struct vl_bind_row none = {"blk.N.q", VL_BIND_WEIGHT, {8, 32}, .ret = &out};
    assert_int_equal(vl_bind_add(t.b, &none, 1, 8, &err), -EINVAL);
    assert_string_equal(err.msg, "t.gguf: tensor 'blk.8.q' [8, 32] is missing; wrong --model or --mmproj?");
    const struct vl_bind_row ids = {"ids", VL_BIND_F32, {8}, .ret = &out};
    assert_int_equal(vl_bind_add(t.b, &ids, 1, 0, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "holds i32"));
    const struct vl_bind_row zero = {"conv", VL_BIND_WEIGHT, {0}, .ret = &out};
    assert_int_equal(vl_bind_add(t.b, &zero, 1, 0, &err), -EINVAL);
    bench_close(&t);
}

/* A file that is cut after it was opened: nothing of it is left bound, nothing leaks. */
static void test_bind_cut(void **state)
{
    (void)state;
    static struct bench t;
    struct bound m;
    struct gguf_writer g;
    struct vl_error err = {0};
    void *memory = NULL;
    size_t bytes, n;
    bench_open(&t, "cpu");
    t.b = vl_bind_unref(t.b);
    t.w = vl_weights_unref(t.w);
    write_model(&g);
    vl_autofree unsigned char *p = gguf_finish(&g, &n);
    gguf_done(&g);
    vl_autofd fd = gguf_memfd(p, n);
    assert_int_equal(vl_weights_open_fd(&t.w, fd, "t.gguf", &err), 0);
    assert_int_equal(vl_bind_new(&t.b, t.w, &t.x), 0);
    assert_int_equal(bind_all(&t, &m, &err), 0);
    assert_int_equal(ftruncate(fd, (off_t)vl_weights_find(t.w, "conv")->offset + 1), 0);
    assert_int_equal(vl_bind_load(t.b, &memory, &bytes, &err), -EBADMSG);
    assert_null(memory);
    assert_null(m.q.data);
    bench_close(&t);
}

/* F37: any bytes are numbers of some kind, NaN and infinity among them; they load, and nothing is undefined.
 */
static void test_bind_garbage(void **state)
{
    (void)state;
    enum { ROWS = 8, K = 256 };
    struct test_rng rng = test_rng_new("garbage");
    static struct bench t;
    struct vl_error err = {0};
    bench_open(&t, "cpu");
    for (int d = 0; d < VL_DTYPE_COUNT; d++) {
        const struct vl_dtype_info *info = vl_dtype_info((enum vl_dtype)d);
        if (info->packs_to == VL_LAYOUT_ROWS || info->gguf_id == UINT32_MAX)
            continue;
        struct vl_tensor packed, plain;
        struct gguf_writer g;
        void *memory;
        size_t bytes;
        uint8_t data[ROWS * K * 4];
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = i % 7 ? (uint8_t)test_rand(&rng) : 0xFF;
        t.b = vl_bind_unref(t.b);
        t.w = vl_weights_unref(t.w);
        gguf_init(&g);
        gguf_tensor(&g, "w", (enum vl_dtype)d, 2, (const uint32_t[]){ROWS, K}, data);
        assert_int_equal(open_written(&t.w, &g, &err), 0);
        assert_int_equal(vl_bind_new(&t.b, t.w, &t.x), 0);
        const struct vl_bind_row rows[] = {{"w", VL_BIND_WEIGHT, {ROWS, K}, .ret = &packed},
                                           {"w", VL_BIND_F32, {ROWS, K}, .ret = &plain}};
        if (vl_bind_add(t.b, rows, 2, 0, &err) < 0 || vl_bind_load(t.b, &memory, &bytes, &err) < 0)
            fail_msg("%s: %s", info->name, err.msg);
        static float y[ROWS * K];
        int32_t id[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7};
        struct vl_tensor index = vl_tensor_1d(id, VL_I32, ROWS), out = vl_tensor_2d(y, VL_F32, ROWS, K);
        assert_int_equal(t.x.ops->gather(&t.x, &out, &packed, &index), 0);
        assert_int_equal(t.x.ops->sync(&t.x), 0);
        for (int i = 0; i < ROWS * K; i++) /* a layout that loses nothing keeps even these */
            assert_true(y[i] == ((const float *)plain.data)[i] ||
                        (isnan(y[i]) && isnan(((const float *)plain.data)[i])));
        t.x.ops->free(t.x.device, memory);
    }
    bench_close(&t);
}

static void test_llama_row(void **state)
{
    (void)state;
    /* Against the converter's own words: row h*D + s*D/2 + i became row h*D + 2i + s. */
    for (uint32_t d = 2; d <= 64; d += 2)
        for (uint32_t h = 0; h < 3; h++)
            for (uint32_t s = 0; s < 2; s++)
                for (uint32_t i = 0; i < d / 2; i++)
                    assert_int_equal(vl_bind_llama_row(h * d + s * d / 2 + i, d), h * d + 2 * i + s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_getters),        cmocka_unit_test(test_getters_refuse),
        cmocka_unit_test(test_tensors),        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_cut_while_read), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_not_gguf),       cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_paths),          cmocka_unit_test(test_llama_row),
        cmocka_unit_test(test_bind_cpu),       cmocka_unit_test(test_bind_null),
        cmocka_unit_test(test_bind_refuses),   cmocka_unit_test(test_bind_garbage),
        cmocka_unit_test(test_bind_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
