/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A model told about and measured, without an engine. Both functions use the machine that the engine would
 * use, so what they say is what it does. One call, one thread; workers end with it.
 */
#include "engine/inspect.h"

#include "base/clock.h"
#include "base/notes.h"
#include "engine/machine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what it is ---- */

static void tell(const struct vl_inspect_out *out, const char *section, const char *key, const char *value)
{
    out->line(out->user, section, key, value);
}

static void forward(void *user, const char *section, const char *key, const char *value)
{
    tell(user, section, key, value);
}

/* FNV-1a: to compare, not to protect. */
static uint64_t digest(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}
static const uint64_t digest_start = UINT64_C(0xcbf29ce484222325);

struct look {
    uint64_t pixels;
};

static void note_pixels(void *user, const char *name, const struct vl_tensor *t)
{
    struct look *l = user;
    if (strcmp(name, "pixels") == 0)
        l->pixels = digest(l->pixels, t->data, vl_tensor_bytes(t));
}

/* The fixed picture: a ramp, a checkerboard and stripes, made of integers. */
enum { PICTURE_W = 640, PICTURE_H = 480 };
static void draw(uint8_t *p)
{
    for (uint32_t y = 0; y < PICTURE_H; y++)
        for (uint32_t x = 0; x < PICTURE_W; x++, p += 3) {
            p[0] = (uint8_t)(x * 255 / PICTURE_W);
            p[1] = (x / 32 + y / 32) % 2 ? 224 : 32;
            p[2] = (uint8_t)(x * 5 + y * 3);
        }
}

static void tell_look(const struct vl_inspect_out *out, const struct look *l,
                      const struct vl_visual_tokens *tok)
{
    const float *f = tok->feat.data;
    const size_t n = (size_t)tok->n * tok->feat.dim[1];
    char value[64];
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)f[i] * f[i];
    (void)snprintf(value, sizeof(value), "%016llx", (unsigned long long)l->pixels);
    tell(out, "image", "pixels", value);
    (void)snprintf(value, sizeof(value), "%016llx",
                   (unsigned long long)digest(digest_start, f, n * sizeof(*f)));
    tell(out, "image", "tokens", value); /* the same kernels give the same bits */
    (void)snprintf(value, sizeof(value), "%.5g", sqrt(sum / (double)n));
    tell(out, "image", "tokens rms", value); /* other kernels nearly the same number */
}

static int look_at_picture(struct vl_machine *m, const struct vl_inspect_out *out, struct vl_error *err)
{
    vl_autofree uint8_t *pixels = malloc(3 * PICTURE_W * PICTURE_H);
    struct vl_frame frame = {.plane = {pixels},
                             .stride = {3 * PICTURE_W},
                             .width = PICTURE_W,
                             .height = PICTURE_H,
                             .format = VL_PIXFMT_RGB24},
                    *frames[] = {&frame};
    const struct vl_unit unit = {.frame = frames, .n_frames = 1};
    const struct vl_arch *arch = vl_model_arch(m->model);
    struct look look = {.pixels = digest_start};
    struct vl_visual_tokens tok;
    if (!pixels)
        return vl_error_set(err, -ENOMEM, "no memory for a picture");
    draw(pixels);
    m->encode_x.tap = note_pixels;
    m->encode_x.tap_user = &look;
    int r = arch->encode_begin(m->model, m->encode, &unit, 1);
    if (r == 0)
        while ((r = arch->encode_step(m->encode, 1, &tok)) == VL_ENCODE_MORE)
            ;
    if (r == 0)
        r = m->ops->sync(&m->encode_x);
    if (r < 0)
        return vl_error_set(err, r, "the encoder does not run: %s", strerror(-r));
    tell_look(out, &look, &tok);
    return 0;
}

static int inspect(struct vl_machine *m, const struct vl_engine_opts *o, const struct vl_inspect_out *out,
                   struct vl_error *err)
{
    const struct vl_notes notes = {.user = (void *)out, .note = forward};
    int r = vl_machine_open(m, o, &notes, err);
    if (r < 0)
        return r;
    vl_note(&notes, "image", "kernels", "%s", m->ops->describe(m->device));
    r = vl_machine_load(m, NULL, err);
    return r == 0 && m->desc->frame_tokens ? look_at_picture(m, out, err) : r;
}

int vl_inspect(const struct vl_engine_opts *o, const struct vl_inspect_out *out, struct vl_error *err)
{
    struct vl_error own = {0};
    struct vl_machine m = {0};
    struct vl_engine_opts opts = *o;
    opts.max_bytes = opts.kv_bytes = 0;
    opts.budget = NULL;
    opts.max_sessions = opts.max_forks = 1; /* nothing will be asked */
    vl_machine_fill_opts(&opts);
    int r = inspect(&m, &opts, out, &own);
    vl_machine_close(&m);
    if (r < 0)
        tell(out, "unsupported", "reason", own.msg);
    return r < 0 ? vl_error_set(err, r, "%s", own.msg) : 0;
}

/* ---- what it costs ---- */

/* One matmul [n, k] * [n_out, k]^T over and over for some time. ret: a call's nanoseconds. */
struct trial {
    uint32_t n, k, n_out;
    enum vl_dtype dtype;
    int64_t for_ns;
};

static int time_matmul(struct vl_machine *m, const struct trial *t, double *ret_ns, size_t *ret_bytes)
{
    struct vl_tensor stored = vl_tensor_2d(NULL, t->dtype, t->n_out, t->k);
    const size_t size = m->ops->packed_size(m->device, &stored);
    const size_t stored_bytes = vl_tensor_bytes(&stored), a_bytes = (size_t)t->n * t->k * sizeof(float);
    vl_autofree void *raw = calloc(1, stored_bytes > a_bytes ? stored_bytes : a_bytes);
    void *w_mem = NULL, *a_mem = NULL, *y_mem = NULL;
    int r = raw ? 0 : -ENOMEM;
    if (r == 0)
        r = m->ops->alloc(m->device, size, false, &w_mem);
    if (r == 0)
        r = m->ops->alloc(m->device, a_bytes, false, &a_mem);
    if (r == 0)
        r = m->ops->alloc(m->device, (size_t)t->n * t->n_out * sizeof(float), false, &y_mem);
    struct vl_tensor w = stored, a = vl_tensor_2d(a_mem, VL_F32, t->n, t->k),
                     y = vl_tensor_2d(y_mem, VL_F32, t->n, t->n_out);
    const struct vl_tensor zeros = vl_tensor_2d(raw, VL_F32, t->n, t->k);
    stored.data = raw;
    w.data = w_mem;
    if (r == 0)
        r = m->ops->copy(&m->x, &a, &zeros);
    if (r == 0)
        r = m->ops->pack(&m->x, &w, &stored);
    uint32_t n_calls = 0;
    const int64_t t0 = vl_clock_monotonic_ns();
    int64_t took = 0;
    do {
        if (r == 0)
            r = m->ops->matmul(&m->x, &y, &a, &w);
        if (r == 0)
            r = m->ops->sync(&m->x);
        n_calls++;
        took = vl_clock_monotonic_ns() - t0;
    } while (r == 0 && took < t->for_ns);
    m->ops->free(m->device, w_mem);
    m->ops->free(m->device, a_mem);
    m->ops->free(m->device, y_mem);
    *ret_ns = (double)took / n_calls;
    *ret_bytes = size;
    return r;
}

/* Nanoseconds of a flop when many rows go together, in this format. */
static int time_flop(struct vl_machine *m, enum vl_dtype dtype, double *ret)
{
    const struct trial t = {
        .n = 128, .k = 768, .n_out = 768, .dtype = dtype, .for_ns = 30 * VL_NSEC_PER_MSEC};
    double ns;
    size_t bytes;
    int r = time_matmul(m, &t, &ns, &bytes);
    *ret = ns / (2.0 * t.n * t.k * t.n_out);
    return r;
}

/* Nanoseconds of a byte of weights when one row goes alone. */
static int time_byte(struct vl_machine *m, enum vl_dtype dtype, double *ret)
{
    const struct trial t = {
        .n = 1, .k = 1024, .n_out = 16384, .dtype = dtype, .for_ns = 40 * VL_NSEC_PER_MSEC};
    double ns;
    size_t bytes;
    int r = time_matmul(m, &t, &ns, &bytes);
    *ret = ns / (double)bytes;
    return r;
}

static int estimate(struct vl_machine *m, struct vl_plan *p)
{
    const struct vl_model_desc *d = m->desc;
    double text_flop = 0, eye_flop = 0, byte = 0;
    void *memory;
    int r = m->ops->alloc(m->device, 64 << 20, false, &memory);
    if (r < 0)
        return r;
    vl_arena_init(&m->run_arena, memory, 64 << 20);
    r = time_flop(m, d->text_dtype, &text_flop);
    if (r == 0 && d->frame_tokens)
        r = time_flop(m, d->vision_dtype, &eye_flop);
    if (r == 0)
        r = time_byte(m, d->text_dtype, &byte);
    if (r < 0)
        return r;
    const double step_by_flops = (double)d->step.flops * text_flop,
                 step_by_bytes = (double)d->step.bytes * byte;
    p->encode_ns = (int64_t)((double)d->encode.flops * eye_flop);
    p->prefill_ns = d->frame_tokens ? (int64_t)((double)d->prefill.flops * text_flop) : 0;
    p->step_ns = (int64_t)(step_by_bytes > step_by_flops ? step_by_bytes : step_by_flops);
    return 0;
}

static void fill(struct vl_plan *p, const struct vl_machine *m, const struct vl_machine_sizes *s)
{
    const struct vl_model_desc *d = m->desc;
    *p = (struct vl_plan){
        .weight_bytes = d->weight_bytes,
        .scratch_bytes = s->run + s->encode + s->still + s->looks,
        .session_bytes = s->session,
        .fork_bytes = d->frame_tokens ? s->fork : vl_machine_own_bytes(m, m->fork_tokens, 0),
        .kv_pool_bytes = s->pool,
        .total_bytes = s->total,
        .tokens_per_frame = d->frame_tokens,
        .max_image_tokens = d->max_image_tokens,
        .context_tokens = d->n_ctx,
        .encode_flops = (double)d->encode.flops,
        .prefill_flops = d->frame_tokens ? (double)d->prefill.flops : 0,
        .step_flops = (double)d->step.flops,
    };
    (void)snprintf(p->name, sizeof(p->name), "%s", d->name);
    (void)snprintf(p->arch, sizeof(p->arch), "%s", d->arch);
    (void)snprintf(p->quantization, sizeof(p->quantization), "%s", d->quantization);
}

int vl_plan(struct vl_plan *ret, const struct vl_engine_opts *o, struct vl_error *err)
{
    struct vl_machine m = {0};
    struct vl_engine_opts opts = *o;
    struct vl_machine_sizes sizes;
    struct vl_plan p;
    vl_machine_fill_opts(&opts);
    int r = vl_machine_open_model(&m, &opts, NULL, &sizes, err);
    if (r == 0) {
        fill(&p, &m, &sizes);
        r = estimate(&m, &p);
        if (r < 0)
            (void)vl_error_set(err, r, "cannot measure this machine: %s", strerror(-r));
    }
    vl_machine_close(&m);
    if (r == 0)
        *ret = p;
    return r;
}
