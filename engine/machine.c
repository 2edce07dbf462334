/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Opens the backend and the model and sizes all memory that a frame or a token will ever need. The order is
 * backend, workers, model (which measures its own scratch on the null backend), arenas, page pool, encoder.
 */
#include "engine/machine.h"

#include <stdio.h>
#include <string.h>

enum {
    QUANTUM = 256,        /* tokens of one prefill quantum, less if the model's batch is smaller */
    MAX_SINK = 512,       /* tokens of a system prompt, the instruction in it */
    TEXT_WINDOW = 1024,   /* text tokens a session is given pages for, besides its sink */
    FORK_TOKENS = 2048,   /* a question and its reply, at most; half of the context if that is less */
    FRAME_TEXT = 128,     /* ids around a frame's visual tokens */
    MAX_RENDERED = 65536, /* ids of one part */
    MAX_TOKENS = 65536,   /* of one sequence */
    SLACK = 65536         /* bytes of an arena, for alignment */
};

int vl_machine_find_backend(const char *name, const struct vl_backend_ops **ret, const char **ret_spec,
                            struct vl_error *err)
{
    char word[32];
    const char *colon = name ? strchr(name, ':') : NULL;
    const struct vl_backend_ops *ops = vl_backends[0];
    if (name) {
        size_t len = colon ? (size_t)(colon - name) : strlen(name);
        (void)snprintf(word, sizeof(word), "%.*s", (int)(len < sizeof(word) ? len : 0), name);
        ops = vl_backend_find(word);
    }
    if (!ops)
        return vl_error_set(err, -EINVAL, "there is no backend '%.60s'; the best there is is '%s'", name,
                            vl_backends[0]->name);
    if (ret)
        *ret = ops;
    if (ret_spec)
        *ret_spec = colon ? colon + 1 : NULL;
    return 0;
}

static int open_device(struct vl_machine *m, const struct vl_engine_opts *o, struct vl_error *err)
{
    const char *spec;
    int r = vl_machine_find_backend(o->backend, &m->ops, &spec, err);
    if (r < 0)
        return r;
    r = m->ops->open(&m->device, spec, err);
    if (r < 0)
        return r;
    r = vl_workers_new(&m->workers, o->n_workers - 1);
    if (r < 0)
        return vl_error_set(err, r, "cannot start %u workers: %s", o->n_workers - 1, strerror(-r));
    m->x =
        (struct vl_exec){.ops = m->ops, .device = m->device, .scratch = &m->run_arena, .workers = m->workers};
    m->encode_x = m->x;
    m->encode_x.scratch = &m->encode_arena;
    return 0;
}

static int open_arena(struct vl_machine *m, struct vl_arena *a, size_t n, struct vl_error *err)
{
    void *base;
    int r = m->ops->alloc(m->device, n, false, &base);
    if (r < 0)
        return vl_error_set(err, r, "no memory for %zu bytes of scratch", n);
    vl_arena_init(a, base, n);
    return 0;
}

/* Beside what the model asks for: room for the sampler, who copies logits, and for a reducer, who gathers. */
static int open_arenas(struct vl_machine *m, struct vl_error *err)
{
    const struct vl_model_desc *d = m->desc;
    size_t evict = vl_kv_geometry_scratch(&m->geometry);
    size_t run = (d->run_scratch > evict ? d->run_scratch : evict) + 12 * (size_t)d->n_vocab + SLACK;
    size_t encode = d->encode_scratch + d->frame_tokens * (8 * (size_t)d->d_model + 64) + SLACK;
    int r = open_arena(m, &m->run_arena, run, err);
    return r < 0 ? r : open_arena(m, &m->encode_arena, encode, err);
}

/* A session keeps its sink, a window of text and a window of frames; a fork may come to hold all of that
 * alone while its parent goes on, and its question and reply. */
static int open_pool(struct vl_machine *m, const struct vl_engine_opts *o, struct vl_error *err)
{
    const struct vl_model_desc *d = m->desc;
    const struct vl_kv_geometry *g = &m->geometry;
    uint32_t n_frames = d->default_window_frames + 1; /* the one that comes before the oldest goes */
    uint32_t n_visual = n_frames * d->frame_tokens, n_text = MAX_SINK + TEXT_WINDOW;
    struct vl_kv_reserve forks = {
        .max_forks = o->max_forks, .max_text = n_text + m->fork_tokens, .max_visual = n_visual};
    size_t bytes = o->kv_bytes;
    if (!bytes)
        bytes = o->max_sessions * vl_kv_geometry_bytes(g, n_text, n_visual, n_frames) +
                o->max_forks * vl_kv_geometry_bytes(g, forks.max_text, forks.max_visual, n_frames);
    return vl_kv_pool_new(&m->pool, &m->x, g, bytes, &forks, err);
}

int vl_machine_open(struct vl_machine *m, const struct vl_engine_opts *o, struct vl_error *err)
{
    memset(m, 0, sizeof(*m));
    int r = open_device(m, o, err);
    if (r == 0)
        r = vl_model_new(&m->model, o->model, o->mmproj, &m->x, err);
    if (r < 0)
        return r;
    m->desc = vl_model_get_desc(m->model);
    m->geometry = m->desc->kv;
    m->geometry.page_slots = m->desc->frame_tokens >= 32 ? 32 : 16;
    m->quantum = m->desc->max_batch < QUANTUM ? m->desc->max_batch : QUANTUM;
    m->max_tokens = m->desc->n_ctx < MAX_TOKENS ? m->desc->n_ctx : MAX_TOKENS;
    m->max_sink = MAX_SINK;
    m->max_frame_ids = m->desc->frame_tokens + FRAME_TEXT;
    m->fork_tokens = m->desc->n_ctx / 2 < FORK_TOKENS ? m->desc->n_ctx / 2 : FORK_TOKENS;
    m->rel = calloc(m->desc->frame_tokens, sizeof(*m->rel));
    if (!m->rel)
        return vl_error_set(err, -ENOMEM, "no memory for positions");
    if ((r = open_arenas(m, err)) < 0 || (r = open_pool(m, o, err)) < 0)
        return r;
    r = vl_encode_new(&m->encode, m->model, &m->encode_x);
    return r < 0 ? vl_error_set(err, r, "cannot set up the encoder: %s", strerror(-r)) : 0;
}

void vl_machine_close(struct vl_machine *m)
{
    m->encode = vl_encode_unref(m->encode);
    m->pool = vl_kv_pool_unref(m->pool);
    m->model = vl_model_unref(m->model);
    if (m->run_arena.base)
        m->ops->free(m->device, m->run_arena.base);
    if (m->encode_arena.base)
        m->ops->free(m->device, m->encode_arena.base);
    if (m->device)
        m->ops->close(m->device);
    m->workers = vl_workers_unref(m->workers);
    free(m->rel);
    memset(m, 0, sizeof(*m));
}

void vl_machine_get_info(const struct vl_machine *m, struct vl_engine_info *ret)
{
    struct vl_kv_pool_stats pool;
    vl_kv_pool_get_stats(m->pool, &pool);
    *ret = (struct vl_engine_info){
        .model_name = m->desc->name,
        .arch = m->desc->arch,
        .quantization = m->desc->quantization,
        .kernels = m->ops->describe(m->device),
        .context_tokens = m->desc->n_ctx,
        .tokens_per_frame = m->desc->frame_tokens,
        .default_window_frames = m->desc->default_window_frames,
        .weight_bytes = m->desc->weight_bytes,
        .scratch_bytes = m->run_arena.cap + m->encode_arena.cap,
        .kv_pool_bytes = pool.bytes,
    };
}

bool vl_machine_end_fork(struct vl_machine *m)
{
    return m->end_fork && m->end_fork(m->user);
}

int vl_machine_render(const struct vl_machine *m, enum vl_part part, const char *text, struct vl_chunk *ret)
{
    const struct vl_arch *arch = vl_model_arch(m->model);
    for (uint32_t cap = 512; cap <= MAX_RENDERED; cap *= 2) {
        struct vl_chunk c = {.id = calloc(cap, sizeof(*c.id)), .cap = cap};
        if (!c.id)
            return -ENOMEM;
        int r = arch->render(m->model, part, text, 0, &c);
        if (r == 0) {
            *ret = c;
            return 0;
        }
        free(c.id);
        if (r < 0)
            return r;
    }
    return -E2BIG;
}
