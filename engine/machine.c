/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Opens the backend and the model and sizes all memory that a frame or a token will ever need. The order is
 * backend, workers, model (which measures its own scratch on the null backend), budget, arenas, page pool;
 * then weights and encoders.
 */
#include "engine/machine.h"

#include "decoder/prune.h"
#include "engine/session.h"
#include "tokenprune/reducer.h"

#include <inttypes.h>
#include <sched.h>
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
    OWN_TOKENS = 8192, /* of a question without a stream and its reply, or of the context if that is less */
    OWN_BYTES = 512 << 20,
    VIEW_TEXT = 4, /* tokens between two views of a picture */
    SLACK = 65536  /* bytes of an arena, for alignment */
};

static uint32_t count_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 1;
    const int n = CPU_COUNT(&set);
    return n < VL_ENGINE_MAX_WORKERS ? (uint32_t)n : VL_ENGINE_MAX_WORKERS;
}

void vl_machine_fill_opts(struct vl_engine_opts *o)
{
    if (!o->max_sessions)
        o->max_sessions = 4;
    if (!o->max_queue)
        o->max_queue = 64;
    if (!o->max_forks)
        o->max_forks = 4;
    if (!o->n_workers)
        o->n_workers = count_cpus();
}

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
    const char *spec = NULL;
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
    m->encode_x = m->still_x = m->x;
    m->encode_x.scratch = &m->encode_arena;
    m->still_x.scratch = &m->still_arena;
    return 0;
}

/* ---- sizes ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t vl_machine_own_bytes(const struct vl_machine *m, uint32_t n_text, uint32_t n_views)
{
    const struct vl_kv_geometry *g = &m->geometry;
    const uint32_t page = g->page_slots, pages = (m->desc->frame_tokens + page - 1) / page;
    /* Between two views stands text, which takes a page of its own. */
    return vl_kv_geometry_bytes(g, n_text + n_views * page, n_views * pages * page, 1);
}

/* As many tokens as the context has, unless that is more memory than an edge box has to spare; then at least
 * the costliest picture and words about it. */
static void measure_own(struct vl_machine *m, const struct vl_engine_opts *o)
{
    const struct vl_model_desc *d = m->desc;
    const uint32_t view = d->frame_tokens + VIEW_TEXT,
                   image = d->frame_tokens ? d->max_image_tokens / d->frame_tokens : 0;
    const uint32_t least = image * view + m->fork_tokens,
                   most = m->n_ctx < OWN_TOKENS ? m->n_ctx : OWN_TOKENS;
    uint32_t n = most;
    for (uint32_t less = n;; n = less) {
        const uint32_t n_views = d->frame_tokens ? n / view : 0;
        m->own_bytes = larger(vl_machine_own_bytes(m, n, 0),
                              vl_machine_own_bytes(m, n - n_views * d->frame_tokens, n_views));
        less = n - n / 8;
        if (m->own_bytes <= OWN_BYTES || less < least || less == n)
            break;
    }
    m->own_tokens = n;
    if (!d->frame_tokens) /* there is nobody to share the pool with */
        m->own_bytes += (o->max_forks - 1) * vl_machine_own_bytes(m, m->fork_tokens, 0);
}

/* A session keeps its sink, a window of text and a window of frames. */
static void session_window(const struct vl_machine *m, uint32_t *ret_text, uint32_t *ret_visual,
                           uint32_t *ret_frames)
{
    *ret_frames = m->desc->default_window_frames + 1; /* the one that comes before the oldest goes */
    *ret_visual = *ret_frames * m->desc->frame_tokens;
    *ret_text = MAX_SINK + TEXT_WINDOW;
}

/* A fork may come to hold all of its session's window alone while its parent goes on, and its question and
 * reply. */
static struct vl_kv_reserve fork_reserve(const struct vl_machine *m, const struct vl_engine_opts *o)
{
    uint32_t n_text, n_visual, n_frames;
    session_window(m, &n_text, &n_visual, &n_frames);
    return (struct vl_kv_reserve){
        .max_forks = o->max_forks, .max_text = n_text + m->fork_tokens, .max_visual = n_visual};
}

static void measure_pool(struct vl_machine *m, const struct vl_engine_opts *o, struct vl_machine_sizes *ret)
{
    const struct vl_kv_geometry *g = &m->geometry;
    const struct vl_kv_reserve forks = fork_reserve(m, o);
    uint32_t n_text, n_visual, n_frames;
    session_window(m, &n_text, &n_visual, &n_frames);
    if (m->desc->frame_tokens) {
        ret->session = vl_kv_geometry_bytes(g, n_text, n_visual, n_frames);
        ret->fork = vl_kv_geometry_bytes(g, forks.max_text, forks.max_visual, n_frames);
    }
    ret->pool = o->kv_bytes;
    if (!ret->pool)
        ret->pool = o->max_sessions * ret->session + o->max_forks * ret->fork + m->own_bytes;
}

/* From the model's desc alone; nothing is allocated. */
static void measure(struct vl_machine *m, const struct vl_engine_opts *o, struct vl_machine_sizes *ret)
{
    const struct vl_model_desc *d = m->desc = vl_model_get_desc(m->model);
    *ret = (struct vl_machine_sizes){0};
    m->geometry = d->kv;
    m->geometry.page_slots = d->frame_tokens >= 32 || !d->frame_tokens ? 32 : 16;
    m->quantum = d->max_batch < QUANTUM ? d->max_batch : QUANTUM;
    m->n_ctx = o->context_tokens && o->context_tokens < d->n_ctx ? o->context_tokens : d->n_ctx;
    m->max_tokens = m->n_ctx < MAX_TOKENS ? m->n_ctx : MAX_TOKENS;
    m->max_sink = MAX_SINK;
    m->max_frame_ids = d->frame_tokens + FRAME_TEXT;
    m->fork_tokens = m->n_ctx / 2 < FORK_TOKENS ? m->n_ctx / 2 : FORK_TOKENS;
    measure_own(m, o);
    measure_pool(m, o, ret);
    /* Beside what the model asks for: room for the sampler, who copies logits, and for a reducer. */
    const struct vl_reducer_shape shape = {.max_tokens = d->frame_tokens, .d_model = d->d_model};
    ret->run = larger(d->run_scratch, vl_kv_geometry_scratch(&m->geometry)) + 12 * (size_t)d->n_vocab + SLACK;
    if (d->frame_tokens) {
        /* Or for a policy that looks at attention, by fewer rows of a sequence that is not longer. */
        ret->run +=
            vl_prune_scratch(m->max_tokens + m->fork_tokens, d->n_heads, d->kv.n_kv_heads, d->kv.head_dim);
        ret->encode = d->encode_scratch + vl_reducer_scratch(&shape) + SLACK;
        const struct vl_reducer_shape still = {.max_tokens = d->max_image_tokens, .d_model = d->d_model};
        ret->still =
            d->still_scratch + larger(2 * vl_reducer_scratch(&shape), vl_reducer_scratch(&still)) + SLACK;
    }
    ret->looks = m->look_bytes = o->max_sessions * VL_SESSION_LOOKS * d->look_bytes;
    ret->total = d->weight_bytes + ret->run + ret->encode + ret->still + ret->looks + ret->pool;
}

/* ---- open ---- */

static int open_arena(struct vl_machine *m, struct vl_arena *a, size_t n, struct vl_error *err)
{
    void *base;
    if (n == 0)
        return 0;
    int r = m->ops->alloc(m->device, n, false, &base);
    if (r < 0)
        return vl_error_set(err, r, "no memory for %zu bytes of scratch", n);
    vl_arena_init(a, base, n);
    return 0;
}

/* Begun ones count: a budget of as many M as a refusal names is enough. */
static uint64_t mib(uint64_t bytes)
{
    return (bytes >> 20) + ((bytes & 0xFFFFF) != 0);
}

/* Every refusal says what it is for and how much is missing. */
static int over_budget(const struct vl_machine *m, const struct vl_machine_sizes *s, uint64_t missing,
                       const char *whose, uint64_t limit, struct vl_error *err)
{
    return vl_error_set(err, -EDQUOT,
                        "model %.40s needs %" PRIu64 " MiB (weights %" PRIu64 ", scratch %" PRIu64
                        ", cache %" PRIu64 "), %" PRIu64 " MiB more than %s of %" PRIu64
                        " MiB; allow fewer streams or questions, or raise the budget",
                        m->desc->name, mib(s->total), mib(m->desc->weight_bytes),
                        mib(s->run + s->encode + s->still + s->looks), mib(s->pool), mib(missing), whose,
                        mib(limit));
}

static int take_budget(struct vl_machine *m, const struct vl_engine_opts *o, const struct vl_machine_sizes *s,
                       struct vl_error *err)
{
    if (o->max_bytes && s->total > o->max_bytes)
        return over_budget(m, s, s->total - o->max_bytes, "the budget", o->max_bytes, err);
    if (!o->budget)
        return 0;
    uint64_t missing = vl_budget_take(o->budget, s->total);
    if (missing)
        return over_budget(m, s, missing, "is left of the budget", o->budget->limit, err);
    m->budget = o->budget;
    m->budget_bytes = s->total;
    return 0;
}

static int take_memory(struct vl_machine *m, const struct vl_engine_opts *o, const struct vl_machine_sizes *s,
                       struct vl_error *err)
{
    const struct vl_kv_reserve forks = fork_reserve(m, o);
    struct vl_kv_pool_stats st;
    int r;
    m->rel = calloc(m->desc->frame_tokens + 1, sizeof(*m->rel));
    m->place = calloc(m->desc->frame_tokens + 1, sizeof(*m->place));
    m->mass = calloc((size_t)m->max_tokens * m->geometry.n_kv_heads, sizeof(*m->mass));
    if (!m->rel || !m->place || !m->mass)
        return vl_error_set(err, -ENOMEM, "no memory for positions");
    if ((r = open_arena(m, &m->run_arena, s->run, err)) < 0 ||
        (r = open_arena(m, &m->encode_arena, s->encode, err)) < 0 ||
        (r = open_arena(m, &m->still_arena, s->still, err)) < 0 ||
        (r = vl_kv_pool_new(&m->pool, &m->x, &m->geometry, s->pool, m->desc->frame_tokens ? &forks : NULL,
                            err)) < 0)
        return r;
    vl_kv_pool_get_stats(m->pool, &st);
    m->pool_bytes = st.bytes;
    if (m->own_bytes > st.bytes - st.bytes_reserve)
        m->own_bytes = st.bytes - st.bytes_reserve;
    return 0;
}

int vl_machine_open_model(struct vl_machine *m, const struct vl_engine_opts *o, const struct vl_notes *notes,
                          struct vl_machine_sizes *ret, struct vl_error *err)
{
    memset(m, 0, sizeof(*m));
    int r = open_device(m, o, err);
    if (r == 0)
        r = vl_model_open(&m->model, o->model, o->mmproj, notes, err);
    if (r == 0)
        measure(m, o, ret);
    return r;
}

int vl_machine_open(struct vl_machine *m, const struct vl_engine_opts *o, const struct vl_notes *notes,
                    struct vl_error *err)
{
    struct vl_machine_sizes sizes;
    int r = vl_machine_open_model(m, o, notes, &sizes, err);
    if (r == 0)
        r = take_budget(m, o, &sizes, err);
    return r < 0 ? r : take_memory(m, o, &sizes, err);
}

int vl_machine_load(struct vl_machine *m, const struct vl_load_watch *watch, struct vl_error *err)
{
    int r = vl_model_load(m->model, &m->x, watch, err);
    if (r < 0 || !m->desc->frame_tokens)
        return r;
    if ((r = vl_encode_new(&m->encode, m->model, &m->encode_x, false)) < 0 ||
        (r = vl_encode_new(&m->still, m->model, &m->still_x, true)) < 0)
        return vl_error_set(err, r, "cannot set up the encoder: %s", strerror(-r));
    return 0;
}

void vl_machine_close(struct vl_machine *m)
{
    m->encode = vl_encode_unref(m->encode);
    m->still = vl_encode_unref(m->still);
    m->pool = vl_kv_pool_unref(m->pool);
    m->model = vl_model_unref(m->model);
    if (m->run_arena.base)
        m->ops->free(m->device, m->run_arena.base);
    if (m->encode_arena.base)
        m->ops->free(m->device, m->encode_arena.base);
    if (m->still_arena.base)
        m->ops->free(m->device, m->still_arena.base);
    if (m->device)
        m->ops->close(m->device);
    m->workers = vl_workers_unref(m->workers);
    free(m->rel);
    free(m->place);
    free(m->mass);
    if (m->budget)
        vl_budget_give(m->budget, m->budget_bytes);
    memset(m, 0, sizeof(*m));
}

void vl_machine_get_info(const struct vl_machine *m, struct vl_engine_info *ret)
{
    *ret = (struct vl_engine_info){
        .model_name = m->desc->name,
        .arch = m->desc->arch,
        .quantization = m->desc->quantization,
        .kernels = m->ops->describe(m->device),
        .context_tokens = m->n_ctx,
        .tokens_per_frame = m->desc->frame_tokens,
        .default_window_frames = m->desc->default_window_frames,
        .max_image_tokens = m->desc->max_image_tokens,
        .weight_bytes = m->desc->weight_bytes,
        .scratch_bytes = m->run_arena.cap + m->encode_arena.cap + m->still_arena.cap + m->look_bytes,
        .kv_pool_bytes = m->pool_bytes,
    };
}

bool vl_machine_end_fork(struct vl_machine *m)
{
    return m->end_fork && m->end_fork(m->user);
}

/* ret->id grows until all fits. */
static int grow(struct vl_chunk *c)
{
    const uint32_t cap = c->cap ? 2 * c->cap : 512;
    free(c->id);
    *c = (struct vl_chunk){0};
    if (cap > MAX_RENDERED)
        return -E2BIG;
    c->id = calloc(cap, sizeof(*c->id));
    c->cap = cap;
    return c->id ? 0 : -ENOMEM;
}

int vl_machine_render(const struct vl_machine *m, enum vl_part part, const char *text, struct vl_chunk *ret)
{
    struct vl_chunk c = {0};
    int r = VL_CHUNK_FULL;
    while (r == VL_CHUNK_FULL && (r = grow(&c)) == 0)
        r = vl_model_arch(m->model)->render(m->model, part, text, 0, &c);
    if (r < 0)
        free(c.id);
    else
        *ret = c;
    return r;
}

int vl_machine_render_ask(const struct vl_machine *m, const struct vl_unit *still, uint32_t n_stills,
                          const char *text, struct vl_chunk *ret)
{
    struct vl_chunk c = {0};
    int r = VL_CHUNK_FULL;
    while (r == VL_CHUNK_FULL && (r = grow(&c)) == 0)
        r = vl_model_arch(m->model)->render_ask(m->model, still, n_stills, text, &c);
    if (r < 0)
        free(c.id);
    else
        *ret = c;
    return r;
}
