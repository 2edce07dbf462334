/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Sequences: what the tokens of one timeline are, where they lie and which positions they have. Session
 * lifetime, engine thread. Tables are sized once; every move of data is a backend op on whole strided rows of
 * all layers.
 *
 * The trap: a page may be shared with forks, which see its first slots only. Slots behind those may be
 * written by whoever appended them; appending to a shared page copies it first (own_page), and a slide writes
 * fresh planes.
 */
#include "kvcache/pool.h"

#include <assert.h>
#include <string.h>

struct page {
    uint32_t plane[VL_KV_PLANES_TEXT];
    uint32_t n;   /* tokens in it */
    uint32_t seg; /* of a visual page */
    uint8_t kind;
    bool stale; /* during an evict: its rotated keys do not match the positions */
};

/* Visual segments only: text needs no record, its tokens follow one another by one position each. */
struct segment {
    int64_t base, extent;
    uint64_t unit;
    uint32_t n; /* tokens appended */
    bool pinned;
};

/* What layers of a fork do not see, made by its first drop. A page of which tokens are hidden is several runs
 * in that layer's view, k and v moved to where each begins. */
struct ragged {
    uint32_t max_runs;
    bool *hidden;           /* [n_layers, max_tokens] */
    uint32_t *n_hidden;     /* [n_layers] */
    uint32_t *first_run;    /* [n_layers, max_pages + 1] of each page, then how many there are */
    struct vl_kv_page *run; /* [n_layers, max_runs] */
};

struct vl_kv {
    struct vl_kv_pool *pool; /* a reference */
    const struct vl_kv_policy *policy;
    void *state;
    bool fork, open; /* open: the last segment takes more */
    uint32_t max_tokens, max_pages, n, n_committed, n_pages, n_segs;
    int64_t end, end_committed; /* the position after the last token */
    struct vl_kv_token *tok;    /* [max_tokens] */
    int64_t (*pos)[3];          /* [max_tokens] */
    struct page *page, *spare;  /* [max_pages]; spare: the former list during an evict */
    struct segment *seg;        /* [max_pages] */
    struct vl_kv_page *view;    /* [n_layers, max_pages] */
    uint32_t *picked;           /* [max_tokens] */
    bool *gone;                 /* [max_tokens], all false but during an evict */
    float *mass;                /* [max_tokens] for the policy, of which n_observed; NULL: it does not look */
    uint32_t n_observed;        /* 0: nothing since the commit */
    uint64_t n_evicted, n_evictions;
    struct ragged *ragged; /* NULL: every layer sees everything */
};

static uint32_t n_planes_of(const struct page *pg)
{
    return pg->kind == VL_KV_TEXT ? VL_KV_PLANES_TEXT : VL_KV_PLANES_VISUAL;
}

static uint32_t n_shared_of(const struct vl_kv *kv, const struct page *pg)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_planes_of(pg); i++)
        n += kv->pool->plane_refs[pg->plane[i]] > 1;
    return n;
}

static void take_page(struct vl_kv *kv, struct page *pg)
{
    for (uint32_t i = 0; i < n_planes_of(pg); i++)
        pg->plane[i] = vl_kv_plane_take(kv->pool, kv->fork);
}

static void drop_page(struct vl_kv *kv, const struct page *pg)
{
    for (uint32_t i = 0; i < n_planes_of(pg); i++)
        vl_kv_plane_drop(kv->pool, pg->plane[i], kv->fork);
}

static int copy_rows(struct vl_kv *kv, struct vl_exec *x, unsigned which, uint32_t to, uint32_t to_slot,
                     uint32_t from, uint32_t from_slot, uint32_t n)
{
    struct vl_tensor dst = vl_kv_plane_rows(kv->pool, to, which, to_slot, n);
    struct vl_tensor src = vl_kv_plane_rows(kv->pool, from, which, from_slot, n);
    return x->ops->copy(x, &dst, &src);
}

/* Copies what is shared of a page, so that slots may be added to it. */
static int own_page(struct vl_kv *kv, struct vl_exec *x, struct page *pg)
{
    for (uint32_t i = 0; i < n_planes_of(pg); i++) {
        uint32_t old = pg->plane[i];
        if (kv->pool->plane_refs[old] == 1)
            continue;
        uint32_t own = vl_kv_plane_take(kv->pool, kv->fork);
        int r = copy_rows(kv, x, i, own, 0, old, 0, pg->n);
        pg->plane[i] = own;
        vl_kv_plane_drop(kv->pool, old, kv->fork);
        if (r < 0)
            return r;
    }
    return 0;
}

static struct vl_kv_page part_of(const struct vl_kv *kv, const struct vl_kv_page *pg, uint32_t at, uint32_t n)
{
    size_t k_bytes = vl_dtype_row_bytes((enum vl_dtype)pg->k_dtype, kv->pool->width) * at;
    struct vl_kv_page part = *pg;
    part.k = (char *)pg->k + k_bytes;
    part.v = (char *)pg->v + vl_dtype_row_bytes((enum vl_dtype)pg->v_dtype, kv->pool->width) * at;
    part.k_raw = pg->k_raw ? (char *)pg->k_raw + k_bytes : NULL;
    part.n_tokens = n;
    return part;
}

/* The runs of a layer's pages from first_page on; those before it stand. */
static void cut_runs(struct vl_kv *kv, unsigned layer, uint32_t first_page)
{
    struct ragged *g = kv->ragged;
    const bool *hidden = g->hidden + (size_t)layer * kv->max_tokens;
    uint32_t *first_run = g->first_run + (size_t)layer * (kv->max_pages + 1), slot = 0;
    struct vl_kv_page *run = g->run + (size_t)layer * g->max_runs;
    for (uint32_t i = 0; i < first_page; i++)
        slot += kv->page[i].n;
    uint32_t n = first_page > 0 ? first_run[first_page] : 0;
    for (uint32_t i = first_page; i < kv->n_pages; slot += kv->page[i++].n) {
        first_run[i] = n;
        for (uint32_t at = 0, end; at < kv->page[i].n; at = end) {
            for (end = at; end < kv->page[i].n && hidden[slot + end] == hidden[slot + at]; end++)
                ;
            if (!hidden[slot + at])
                run[n++] = part_of(kv, &kv->view[(size_t)layer * kv->max_pages + i], at, end - at);
        }
    }
    first_run[kv->n_pages] = n;
    assert(n <= g->max_runs);
}

static void update_view(struct vl_kv *kv, uint32_t first_page)
{
    const struct vl_kv_pool *p = kv->pool;
    for (unsigned layer = 0; layer < p->geo.n_layers; layer++)
        for (uint32_t i = first_page; i < kv->n_pages; i++) {
            const struct page *pg = &kv->page[i];
            kv->view[(size_t)layer * kv->max_pages + i] = (struct vl_kv_page){
                .k = vl_kv_plane_at(p, pg->plane[VL_KV_PLANE_K], VL_KV_PLANE_K, layer, 0),
                .v = vl_kv_plane_at(p, pg->plane[VL_KV_PLANE_V], VL_KV_PLANE_V, layer, 0),
                .k_raw = pg->kind == VL_KV_TEXT
                             ? vl_kv_plane_at(p, pg->plane[VL_KV_PLANE_RAW], VL_KV_PLANE_RAW, layer, 0)
                             : NULL,
                .n_tokens = pg->n,
                .k_dtype = (uint8_t)p->geo.k_dtype,
                .v_dtype = (uint8_t)p->geo.v_dtype,
            };
        }
    for (unsigned layer = 0; kv->ragged && layer < p->geo.n_layers; layer++)
        if (kv->ragged->n_hidden[layer] > 0)
            cut_runs(kv, layer, first_page);
}

static uint32_t pages_of(const struct vl_kv_pool *p, uint32_t n_tokens)
{
    return n_tokens / p->geo.page_slots + (n_tokens % p->geo.page_slots != 0);
}

/* Twice the full pages that n tokens need, and some for short runs; never more than one a token. */
static uint32_t page_limit(const struct vl_kv_pool *p, uint32_t n_tokens)
{
    uint32_t n = 2 * pages_of(p, n_tokens) + 64;
    return n < n_tokens ? n : n_tokens;
}

static int make(struct vl_kv **ret, struct vl_kv_pool *pool, bool fork, uint32_t max_tokens,
                uint32_t max_pages)
{
    vl_auto(vl_kv) kv = calloc(1, sizeof(*kv));
    if (!kv)
        return -ENOMEM;
    kv->pool = pool;
    kv->fork = fork;
    pool->refs++;
    pool->n_sequences += !fork;
    pool->n_forks += fork;
    kv->max_tokens = max_tokens;
    kv->max_pages = max_pages;
    kv->tok = calloc(max_tokens, sizeof(*kv->tok));
    kv->pos = calloc(max_tokens, sizeof(*kv->pos));
    kv->page = calloc(max_pages, sizeof(*kv->page));
    kv->spare = calloc(max_pages, sizeof(*kv->spare));
    kv->seg = calloc(max_pages, sizeof(*kv->seg));
    kv->view = calloc((size_t)max_pages * pool->geo.n_layers, sizeof(*kv->view));
    kv->picked = calloc(max_tokens, sizeof(*kv->picked));
    kv->gone = calloc(max_tokens, sizeof(*kv->gone));
    if (!kv->tok || !kv->pos || !kv->page || !kv->spare || !kv->seg || !kv->view || !kv->picked || !kv->gone)
        return -ENOMEM;
    *ret = vl_steal(kv);
    return 0;
}

int vl_kv_new(struct vl_kv **ret, struct vl_kv_pool *pool, const struct vl_kv_policy *policy,
              const struct vl_params *p, uint32_t max_tokens, struct vl_error *err)
{
    if (max_tokens == 0 || max_tokens > (1u << 26))
        return vl_error_set(err, -EINVAL, "a sequence of %u tokens cannot be", max_tokens);
    vl_auto(vl_kv) kv = NULL;
    if (make(&kv, pool, false, max_tokens, page_limit(pool, max_tokens)) < 0)
        return vl_error_set(err, -ENOMEM, "no memory for the tables of a sequence of %u tokens", max_tokens);
    if (policy) {
        int r = vl_params_check(p, policy->params, err);
        if (r < 0)
            return r;
        kv->state = calloc(1, policy->state_size(p, max_tokens, pool->geo.n_layers));
        if (!kv->state)
            return vl_error_set(err, -ENOMEM, "no memory for the state of KV policy %s", policy->name);
        r = policy->init(kv->state, p, err);
        if (r < 0)
            return r;
        kv->policy = policy;
        if (policy->probes && !(kv->mass = calloc(max_tokens, sizeof(*kv->mass))))
            return vl_error_set(err, -ENOMEM, "no memory for the state of KV policy %s", policy->name);
    }
    *ret = vl_steal(kv);
    return 0;
}

int vl_kv_fork(struct vl_kv **ret, struct vl_kv *parent, uint32_t max_more)
{
    struct vl_kv_pool *p = parent->pool;
    uint32_t max_tokens;
    if (vl_kv_pool_forks_left(p) == 0)
        return VL_KV_FULL;
    if (max_more == 0 || __builtin_add_overflow(parent->n_committed, max_more, &max_tokens))
        return -EINVAL;
    vl_auto(vl_kv) kv = NULL;
    int r = make(&kv, p, true, max_tokens, parent->n_pages + page_limit(p, max_more));
    if (r < 0)
        return r;
    kv->n = kv->n_committed = parent->n_committed;
    kv->end = kv->end_committed = parent->end_committed;
    memcpy(kv->tok, parent->tok, kv->n * sizeof(*kv->tok));
    memcpy(kv->pos, parent->pos, kv->n * sizeof(*kv->pos));
    for (uint32_t slot = 0; slot < kv->n; slot += kv->page[kv->n_pages++].n) {
        struct page *pg = &kv->page[kv->n_pages];
        *pg = parent->page[kv->n_pages];
        if (pg->n > kv->n - slot)
            pg->n = kv->n - slot;
        for (uint32_t i = 0; i < n_planes_of(pg); i++)
            vl_kv_plane_share(p, pg->plane[i]);
        if (pg->kind == VL_KV_VISUAL)
            kv->n_segs = pg->seg + 1;
    }
    memcpy(kv->seg, parent->seg, kv->n_segs * sizeof(*kv->seg));
    update_view(kv, 0);
    *ret = vl_steal(kv);
    return 0;
}

static struct ragged *free_ragged(struct ragged *g)
{
    if (g) {
        free(g->hidden);
        free(g->n_hidden);
        free(g->first_run);
        free(g->run);
        free(g);
    }
    return NULL;
}

struct vl_kv *vl_kv_unref(struct vl_kv *kv)
{
    if (!kv)
        return NULL;
    for (uint32_t i = 0; i < kv->n_pages; i++)
        drop_page(kv, &kv->page[i]);
    kv->pool->n_sequences -= !kv->fork;
    kv->pool->n_forks -= kv->fork;
    kv->pool = vl_kv_pool_unref(kv->pool);
    kv->ragged = free_ragged(kv->ragged);
    free(kv->state);
    free(kv->tok);
    free(kv->pos);
    free(kv->page);
    free(kv->spare);
    free(kv->seg);
    free(kv->view);
    free(kv->picked);
    free(kv->gone);
    free(kv->mass);
    free(kv);
    return NULL;
}

static struct segment *open_segment(const struct vl_kv *kv, const struct vl_kv_segment *s)
{
    struct segment *g = kv->n_segs > 0 ? &kv->seg[kv->n_segs - 1] : NULL;
    bool goes_on = kv->open && s->kind == VL_KV_VISUAL && g->unit == s->unit && g->pinned == s->pinned;
    return goes_on ? g : NULL;
}

static int check_segment(const struct vl_kv *kv, const struct vl_kv_segment *s, const struct segment *open)
{
    int64_t end, n_before = open ? open->n : 0;
    if (s->n == 0 || s->extent < 1 || __builtin_add_overflow(kv->end, s->extent, &end))
        return -EINVAL;
    if (kv->n > 0 && s->unit < kv->tok[kv->n - 1].unit)
        return -EINVAL;
    if (s->kind == VL_KV_TEXT)
        return s->rel || s->place || s->extent != s->n ? -EINVAL : 0;
    if (!s->rel)
        return n_before + s->n > s->extent ? -EINVAL : 0;
    for (uint32_t i = 0; i < s->n; i++)
        for (int a = 0; a < 3; a++)
            if (s->rel[i][a] < 0 || s->rel[i][a] >= s->extent)
                return -EINVAL;
    return 0;
}

/* What an append takes from the pool. */
struct need {
    struct page *tail; /* the page that takes the first tokens, or NULL */
    uint32_t room, pages, planes, copies;
};

static struct need need_of(struct vl_kv *kv, const struct vl_kv_segment *s, const struct segment *open)
{
    struct need d = {NULL, 0, 0, 0, 0};
    struct page *last = kv->n_pages > 0 ? &kv->page[kv->n_pages - 1] : NULL;
    bool joins = last && last->kind == s->kind && (s->kind == VL_KV_TEXT || open);
    if (joins && last->n < kv->pool->geo.page_slots) {
        d.tail = last;
        d.room = kv->pool->geo.page_slots - last->n;
        d.copies = n_shared_of(kv, last);
    }
    if (s->n > d.room)
        d.pages = pages_of(kv->pool, s->n - d.room);
    else
        d.room = s->n;
    d.planes = d.pages * (s->kind == VL_KV_TEXT ? VL_KV_PLANES_TEXT : VL_KV_PLANES_VISUAL);
    return d;
}

/* A session answers to its own budget first, so that what forks hold is never the reason to evict. */
static int admit(const struct vl_kv *kv, uint32_t n, const struct need *d)
{
    const struct vl_kv_pool *p = kv->pool;
    uint64_t all = (uint64_t)d->planes + d->copies;
    if (n > kv->max_tokens - kv->n || d->pages > kv->max_pages - kv->n_pages)
        return VL_KV_FULL;
    if (kv->fork)
        return vl_kv_pool_n_forked(p) + all > p->n_reserve ? VL_KV_FULL : 0;
    if ((uint64_t)p->n_session + d->planes > p->n_budget)
        return VL_KV_FULL;
    return all + VL_KV_PLANES_TEXT > vl_kv_pool_n_free(p) ? VL_KV_BUSY : 0;
}

static void add_pages(struct vl_kv *kv, enum vl_kv_kind kind, uint32_t n)
{
    while (n > 0) {
        struct page *pg = &kv->page[kv->n_pages++];
        uint32_t m = n < kv->pool->geo.page_slots ? n : kv->pool->geo.page_slots;
        *pg = (struct page){.n = m, .seg = kv->n_segs - 1, .kind = (uint8_t)kind};
        take_page(kv, pg);
        n -= m;
    }
}

static void add_tokens(struct vl_kv *kv, const struct vl_kv_segment *s, struct segment *g)
{
    int64_t base = g ? g->base : kv->end;
    uint32_t n_before = g ? g->n : 0;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t slot = kv->n + i;
        kv->tok[slot] = (struct vl_kv_token){.unit = s->unit, .kind = (uint8_t)s->kind, .pinned = s->pinned};
        if (s->kind == VL_KV_VISUAL) {
            kv->tok[slot].y = s->place ? s->place[i][0] : 0;
            kv->tok[slot].x = s->place ? s->place[i][1] : (uint16_t)(n_before + i);
        }
        for (int a = 0; a < 3; a++)
            kv->pos[slot][a] = base + (s->rel ? s->rel[i][a] : (int64_t)n_before + i);
    }
    kv->n += s->n;
    if (!g) {
        kv->end += s->extent;
        return;
    }
    g->n += s->n;
    if (s->extent > g->extent)
        g->extent = s->extent;
    kv->end = g->base + g->extent;
}

int vl_kv_append(struct vl_kv *kv, struct vl_exec *x, const struct vl_kv_segment *s, uint32_t *ret_slot)
{
    struct segment *g = open_segment(kv, s);
    int r = check_segment(kv, s, g);
    if (r < 0)
        return r;
    struct need d = need_of(kv, s, g);
    r = admit(kv, s->n, &d);
    if (r == 0 && d.tail)
        r = own_page(kv, x, d.tail);
    if (r != 0)
        return r;
    if (s->kind == VL_KV_VISUAL && !g) {
        g = &kv->seg[kv->n_segs++];
        *g = (struct segment){.base = kv->end, .unit = s->unit, .pinned = s->pinned};
    }
    kv->open = s->kind == VL_KV_VISUAL;
    uint32_t first_page = kv->n_pages - (d.tail != NULL);
    if (d.tail)
        d.tail->n += d.room;
    add_pages(kv, s->kind, s->n - d.room);
    *ret_slot = kv->n;
    add_tokens(kv, s, g);
    update_view(kv, first_page);
    return 0;
}

uint32_t vl_kv_probes(const struct vl_kv *kv)
{
    return kv->mass ? kv->policy->probes(kv->state) : 0;
}

void vl_kv_observe(struct vl_kv *kv, const float *mass, uint32_t n_heads, uint32_t n, uint32_t n_layers)
{
    assert(kv->mass && n <= kv->n && n_heads * n_layers > 0);
    for (uint32_t i = 0; i < n; i++) {
        float sum = 0;
        for (uint32_t h = 0; h < n_heads; h++)
            sum += mass[(size_t)h * n + i];
        sum /= (float)(n_heads * n_layers);
        kv->mass[i] = sum + (i < kv->n_observed ? kv->mass[i] : 0);
    }
    kv->n_observed = n > kv->n_observed ? n : kv->n_observed;
}

void vl_kv_commit(struct vl_kv *kv)
{
    if (kv->n_observed)
        kv->policy->observe(kv->state, kv->mass, kv->n_observed);
    kv->n_observed = 0;
    kv->n_committed = kv->n;
    kv->end_committed = kv->end;
    kv->open = false;
}

/* [n, n_kv_heads, head_dim] or [n, n_kv_heads * head_dim] seen as [n, width]. */
static int flatten(const struct vl_kv_pool *p, const struct vl_tensor *t, struct vl_tensor *ret)
{
    bool three = t->n_dims == 3 && t->dim[1] == p->geo.n_kv_heads && t->dim[2] == p->geo.head_dim &&
                 t->stride[1] == p->geo.head_dim * sizeof(float);
    bool two = t->n_dims == 2 && t->dim[1] == p->width;
    if (t->dtype != VL_F32 || t->layout != VL_LAYOUT_ROWS || !(two || three))
        return -EINVAL;
    *ret = vl_tensor_2d(t->data, VL_F32, t->dim[0], p->width);
    ret->stride[0] = t->stride[0];
    return 0;
}

static int store_rows(struct vl_kv *kv, struct vl_exec *x, unsigned layer, const struct page *pg, uint32_t at,
                      const struct vl_tensor *src /* by VL_KV_PLANE_*, [n, width] */)
{
    for (unsigned i = 0; i < n_planes_of(pg); i++) {
        struct vl_tensor dst = vl_kv_plane_layer(kv->pool, pg->plane[i], i, layer, at, src[i].dim[0]);
        int r = x->ops->copy(x, &dst, &src[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* rows: k rotated, v, k as it came, all [n, width] for slots from `slot` on. */
static int store_pages(struct vl_kv *kv, struct vl_exec *x, unsigned layer, uint32_t slot,
                       const struct vl_tensor rows[VL_KV_PLANES_TEXT])
{
    uint32_t n = rows[0].dim[0], first = kv->n, i = kv->n_pages;
    while (first > slot)
        first -= kv->page[--i].n;
    for (uint32_t done = 0, at = slot - first; done < n; at = 0, i++) {
        uint32_t m = kv->page[i].n - at < n - done ? kv->page[i].n - at : n - done;
        struct vl_tensor part[VL_KV_PLANES_TEXT];
        for (int k = 0; k < VL_KV_PLANES_TEXT; k++)
            part[k] = vl_tensor_rows(&rows[k], done, m);
        int r = store_rows(kv, x, layer, &kv->page[i], at, part);
        if (r < 0)
            return r;
        done += m;
    }
    return 0;
}

int vl_kv_store(struct vl_kv *kv, struct vl_exec *x, unsigned layer, uint32_t slot, const struct vl_tensor *k,
                const struct vl_tensor *v)
{
    const struct vl_kv_pool *p = kv->pool;
    struct vl_tensor rows[VL_KV_PLANES_TEXT], heads;
    if (layer >= p->geo.n_layers || flatten(p, k, &rows[VL_KV_PLANE_RAW]) < 0 ||
        flatten(p, v, &rows[VL_KV_PLANE_V]) < 0 || rows[VL_KV_PLANE_V].dim[0] != rows[VL_KV_PLANE_RAW].dim[0])
        return -EINVAL;
    uint32_t n = k->dim[0];
    if (slot < kv->n_committed || slot > kv->n || n == 0 || n > kv->n - slot)
        return -EINVAL;
    size_t mark = vl_arena_mark(x->scratch);
    int r = vl_scratch_3d(x, &heads, VL_F32, n, p->geo.n_kv_heads, p->geo.head_dim);
    if (r == 0) {
        rows[VL_KV_PLANE_K] = vl_tensor_2d(heads.data, VL_F32, n, p->width);
        r = x->ops->copy(x, &rows[VL_KV_PLANE_K], &rows[VL_KV_PLANE_RAW]);
    }
    if (r == 0)
        r = x->ops->rope(x, &heads, (const int64_t(*)[3])kv->pos + slot, p->geo.rope);
    if (r == 0)
        r = store_pages(kv, x, layer, slot, rows);
    vl_arena_reset(x->scratch, mark);
    return r;
}

/* Segments up to the last that still has a page. */
static uint32_t n_segs_of(const struct vl_kv *kv)
{
    for (uint32_t i = kv->n_pages; i > 0; i--)
        if (kv->page[i - 1].kind == VL_KV_VISUAL)
            return kv->page[i - 1].seg + 1;
    return 0;
}

/* The position after the last token. */
static int64_t end_of(const struct vl_kv *kv)
{
    if (kv->n == 0)
        return 0;
    const struct page *last = &kv->page[kv->n_pages - 1];
    if (last->kind == VL_KV_TEXT)
        return kv->pos[kv->n - 1][0] + 1;
    return kv->seg[last->seg].base + kv->seg[last->seg].extent;
}

/* Nothing is hidden of slots [first, first + n), which are about to go. */
static void show(struct vl_kv *kv, uint32_t first, uint32_t n)
{
    struct ragged *g = kv->ragged;
    for (unsigned layer = 0; g && layer < kv->pool->geo.n_layers; layer++)
        for (uint32_t i = first; i < first + n; i++) {
            bool *hidden = g->hidden + (size_t)layer * kv->max_tokens + i;
            g->n_hidden[layer] -= *hidden;
            *hidden = false;
        }
}

int vl_kv_truncate(struct vl_kv *kv, uint32_t n_tokens)
{
    if (n_tokens > kv->n)
        return -EINVAL;
    if (n_tokens == kv->n)
        return 0;
    show(kv, n_tokens, kv->n - n_tokens);
    for (uint32_t left = kv->n - n_tokens; left > 0;) {
        struct page *pg = &kv->page[kv->n_pages - 1];
        uint32_t m = pg->n < left ? pg->n : left;
        struct segment *g = pg->kind == VL_KV_VISUAL ? &kv->seg[pg->seg] : NULL;
        if (g)
            g->n -= m < g->n ? m : g->n;
        pg->n -= m;
        left -= m;
        if (pg->n == 0) {
            drop_page(kv, pg);
            kv->n_pages--;
        }
    }
    if (n_tokens < kv->n_observed)
        kv->n_observed = 0;
    if (kv->mass)
        kv->policy->moved(kv->state, NULL, n_tokens);
    uint32_t n_segs = n_segs_of(kv);
    kv->open = kv->open && kv->n_segs == n_segs;
    kv->n_segs = n_segs;
    kv->n = n_tokens;
    kv->end = end_of(kv);
    if (kv->n_committed >= kv->n) {
        kv->n_committed = kv->n;
        kv->end_committed = kv->end;
    }
    update_view(kv, kv->n_pages > 0 ? kv->n_pages - 1 : 0);
    return 0;
}

static uint32_t n_kept(const struct vl_kv *kv, uint32_t first, uint32_t n)
{
    uint32_t kept = 0;
    for (uint32_t i = first; i < first + n; i++)
        kept += !kv->gone[i];
    return kept;
}

/* Planes that a slide may need beyond those it gives back as it goes: copies of shared ones among the pages
 * that it writes (text up to the end of the run with the last gap; of a picture those from the first that
 * loses a token, since what follows moves up), and a page to write to. */
static uint32_t n_slide_planes(const struct vl_kv *kv, uint32_t last_gone)
{
    uint32_t need = VL_KV_PLANES_TEXT, first = 0, torn = UINT32_MAX; /* torn: the picture that loses some */
    for (uint32_t i = 0; i < kv->n_pages; first += kv->page[i++].n) {
        const struct page *pg = &kv->page[i];
        uint32_t kept = n_kept(kv, first, pg->n);
        if (pg->kind == VL_KV_VISUAL && kept < pg->n)
            torn = pg->seg;
        if (pg->kind == VL_KV_VISUAL && first > last_gone && pg->seg != torn)
            break;
        if (pg->kind == VL_KV_TEXT || (kept > 0 && pg->seg == torn))
            need += n_shared_of(kv, pg);
    }
    return need;
}

/* The page at the end of the new list, if tokens of pg may be added to it. */
static struct page *joinable(const struct vl_kv *kv, const struct page *pg)
{
    struct page *last = kv->n_pages > 0 ? &kv->page[kv->n_pages - 1] : NULL;
    bool same = last && last->kind == pg->kind && (pg->kind == VL_KV_TEXT || last->seg == pg->seg);
    return same && last->n < kv->pool->geo.page_slots ? last : NULL;
}

/* Appends n rows of an old page, from slot `at` of it, to the new list. The rotated keys of text are left for
 * later, when the positions are known. */
static int move_rows(struct vl_kv *kv, struct vl_exec *x, const struct page *from, uint32_t at, uint32_t n)
{
    const unsigned first_plane = from->kind == VL_KV_TEXT ? VL_KV_PLANE_V : VL_KV_PLANE_K;
    while (n > 0) {
        struct page *to = joinable(kv, from);
        if (!to) {
            to = &kv->page[kv->n_pages++];
            *to = (struct page){.seg = from->seg, .kind = from->kind};
            take_page(kv, to);
        }
        int r = own_page(kv, x, to);
        uint32_t room = kv->pool->geo.page_slots - to->n, m = n < room ? n : room;
        for (unsigned i = first_plane; r == 0 && i < n_planes_of(to); i++)
            r = copy_rows(kv, x, i, to->plane[i], to->n, from->plane[i], at, m);
        if (r < 0)
            return r;
        to->n += m;
        to->stale = to->kind == VL_KV_TEXT;
        at += m;
        n -= m;
    }
    return 0;
}

/* Moves what is left of an old page to the new list: nothing, the page itself, or its rows. */
static int move_page(struct vl_kv *kv, struct vl_exec *x, const struct page *pg, uint32_t first)
{
    uint32_t kept = n_kept(kv, first, pg->n);
    if (kept == pg->n && !joinable(kv, pg)) {
        kv->page[kv->n_pages++] = *pg;
        return 0;
    }
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < pg->n;) {
        uint32_t run = 0;
        while (i + run < pg->n && !kv->gone[first + i + run])
            run++;
        if (run > 0)
            r = move_rows(kv, x, pg, i, run);
        i += run + 1;
    }
    drop_page(kv, pg);
    return r;
}

static int move_pages(struct vl_kv *kv, struct vl_exec *x)
{
    struct page *old = kv->page;
    uint32_t n_old = kv->n_pages, i = 0, first = 0;
    int r = 0;
    kv->page = kv->spare;
    kv->spare = old;
    kv->n_pages = 0;
    for (; r == 0 && i < n_old; first += old[i++].n)
        r = move_page(kv, x, &old[i], first);
    for (; i < n_old; i++)
        drop_page(kv, &old[i]);
    return r;
}

/* Closes up the tokens and segments as move_pages did the pages. What was picked is done with: former slots
 * take its place. */
static void move_tokens(struct vl_kv *kv)
{
    uint32_t n = 0, n_gone = 0, n_segs = 0, n_observed = kv->n_observed, former = UINT32_MAX;
    for (uint32_t i = 0; i < kv->n; i++) {
        if (kv->gone[i]) {
            kv->gone[i] = false;
            n_gone++;
            kv->n_observed -= i < n_observed;
            continue;
        }
        if (kv->mass)
            kv->mass[n] = kv->mass[i];
        kv->picked[n] = i;
        kv->tok[n] = kv->tok[i];
        memcpy(kv->pos[n++], kv->pos[i], sizeof(kv->pos[i]));
    }
    if (kv->mass)
        kv->policy->moved(kv->state, kv->picked, n);
    kv->n = n;
    kv->n_committed -= n_gone;
    for (uint32_t i = 0; i < kv->n_pages; i++) {
        struct page *pg = &kv->page[i];
        if (pg->kind != VL_KV_VISUAL)
            continue;
        if (pg->seg != former) {
            former = pg->seg;
            kv->seg[n_segs++] = kv->seg[former];
        }
        pg->seg = n_segs - 1;
    }
    kv->n_segs = n_segs;
}

/* From the end backward: text touches what follows it, visual segments stay where they are. */
static void slide_positions(struct vl_kv *kv)
{
    int64_t limit = kv->end;
    uint32_t slot = kv->n;
    for (uint32_t i = kv->n_pages; i > 0; i--) {
        struct page *pg = &kv->page[i - 1];
        if (pg->kind == VL_KV_VISUAL) {
            limit = kv->seg[pg->seg].base;
            slot -= pg->n;
            continue;
        }
        for (uint32_t k = 0; k < pg->n; k++) {
            int64_t *pos = kv->pos[--slot];
            limit--;
            pg->stale = pg->stale || pos[0] != limit;
            pos[0] = pos[1] = pos[2] = limit;
        }
    }
}

/* All layers and heads of a page in one rotation, so that each angle is formed once. */
static int rotate_page(struct vl_kv *kv, struct vl_exec *x, struct page *pg, uint32_t first)
{
    const struct vl_kv_pool *p = kv->pool;
    uint32_t old = pg->plane[VL_KV_PLANE_K];
    if (p->plane_refs[old] > 1) {
        pg->plane[VL_KV_PLANE_K] = vl_kv_plane_take(kv->pool, kv->fork);
        vl_kv_plane_drop(kv->pool, old, kv->fork);
    }
    struct vl_tensor heads, raw = vl_kv_plane_rows(p, pg->plane[VL_KV_PLANE_RAW], VL_KV_PLANE_RAW, 0, pg->n);
    struct vl_tensor key = vl_kv_plane_rows(p, pg->plane[VL_KV_PLANE_K], VL_KV_PLANE_K, 0, pg->n);
    size_t mark = vl_arena_mark(x->scratch);
    int r = vl_scratch_3d(x, &heads, VL_F32, pg->n, p->geo.n_layers * p->geo.n_kv_heads, p->geo.head_dim);
    if (r == 0) {
        struct vl_tensor by_layer = vl_tensor_3d(heads.data, VL_F32, p->geo.n_layers, pg->n, p->width);
        by_layer.stride[0] = p->width * sizeof(float);
        by_layer.stride[1] = heads.stride[0];
        r = x->ops->copy(x, &by_layer, &raw);
        if (r == 0)
            r = x->ops->rope(x, &heads, (const int64_t(*)[3])kv->pos + first, p->geo.rope);
        if (r == 0)
            r = x->ops->copy(x, &key, &by_layer);
    }
    vl_arena_reset(x->scratch, mark);
    pg->stale = false;
    return r;
}

static int slide(struct vl_kv *kv, struct vl_exec *x)
{
    int r = move_pages(kv, x);
    if (r < 0)
        return r;
    move_tokens(kv);
    slide_positions(kv);
    for (uint32_t i = 0, first = 0; r == 0 && i < kv->n_pages; first += kv->page[i++].n)
        if (kv->page[i].stale)
            r = rotate_page(kv, x, &kv->page[i], first);
    update_view(kv, 0);
    return r;
}

/* Marks the policy's answer in gone[]; a policy that breaks its contract is refused. */
static int mark_gone(struct vl_kv *kv, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = kv->picked[i];
        bool ok = slot < kv->n_committed && !kv->tok[slot].pinned && (i == 0 || slot > kv->picked[i - 1]);
        if (!ok) {
            memset(kv->gone, 0, kv->n * sizeof(*kv->gone));
            return -EINVAL;
        }
        kv->gone[slot] = true;
    }
    return 0;
}

/* Whether a slide can be carried through, before anything is moved. */
static int can_slide(const struct vl_kv *kv, const struct vl_exec *x, uint32_t last_gone)
{
    if (x->scratch->cap - x->scratch->used < vl_kv_geometry_scratch(&kv->pool->geo))
        return -ENOMEM;
    return n_slide_planes(kv, last_gone) > vl_kv_pool_n_free(kv->pool) ? VL_KV_BUSY : 0;
}

/* The n slots that picked[] names leave. */
static int leave(struct vl_kv *kv, struct vl_exec *x, uint32_t n, uint32_t *ret_n)
{
    int r = mark_gone(kv, n);
    if (r == 0 && n > 0) {
        r = can_slide(kv, x, kv->picked[n - 1]);
        if (r != 0)
            memset(kv->gone, 0, kv->n * sizeof(*kv->gone));
        else
            r = slide(kv, x);
    }
    if (r != 0)
        return r;
    kv->n_evicted += n;
    kv->n_evictions += n > 0;
    *ret_n = n;
    return 0;
}

int vl_kv_evict(struct vl_kv *kv, struct vl_exec *x, uint32_t n_wanted, uint32_t *ret_n)
{
    uint32_t n = 0;
    int r = 0;
    if (!kv->fork && kv->policy)
        r = kv->policy->pick(kv->state, kv->tok, kv->n_committed, n_wanted, kv->picked, &n);
    return r == 0 ? leave(kv, x, n, ret_n) : r;
}

int vl_kv_evict_picture(struct vl_kv *kv, struct vl_exec *x, uint32_t *ret_n)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < kv->n_committed && !kv->fork && kv->policy; i++) {
        const struct vl_kv_token *t = &kv->tok[i];
        if (t->kind == VL_KV_VISUAL && !t->pinned && (n == 0 || t->unit == kv->tok[kv->picked[0]].unit))
            kv->picked[n++] = i;
    }
    return leave(kv, x, n, ret_n);
}

int vl_kv_view(const struct vl_kv *kv, unsigned layer, struct vl_kv_view *ret)
{
    const struct vl_kv_geometry *g = &kv->pool->geo;
    if (layer >= g->n_layers)
        return -EINVAL;
    *ret = (struct vl_kv_view){.page = kv->view + (size_t)layer * kv->max_pages,
                               .n_pages = kv->n_pages,
                               .n_tokens = kv->n,
                               .n_kv_heads = g->n_kv_heads,
                               .head_dim = g->head_dim};
    const struct ragged *r = kv->ragged;
    if (r && r->n_hidden[layer] > 0) {
        ret->page = r->run + (size_t)layer * r->max_runs;
        ret->n_pages = r->first_run[(size_t)layer * (kv->max_pages + 1) + kv->n_pages];
        ret->n_tokens -= r->n_hidden[layer];
    }
    return 0;
}

static struct ragged *new_ragged(const struct vl_kv *kv)
{
    size_t n_layers = kv->pool->geo.n_layers;
    struct ragged *g = calloc(1, sizeof(*g));
    if (!g)
        return NULL;
    g->max_runs = kv->max_pages + kv->n_committed / 2; /* between two runs of a page stands a hidden token */
    g->hidden = calloc(n_layers * kv->max_tokens, sizeof(*g->hidden));
    g->n_hidden = calloc(n_layers, sizeof(*g->n_hidden));
    g->first_run = calloc(n_layers * (kv->max_pages + 1), sizeof(*g->first_run));
    g->run = calloc(n_layers * g->max_runs, sizeof(*g->run));
    return g->hidden && g->n_hidden && g->first_run && g->run ? g : free_ragged(g);
}

int vl_kv_drop(struct vl_kv *kv, unsigned first_layer, unsigned end_layer, const uint32_t *slot, uint32_t n)
{
    if (!kv->fork || first_layer > end_layer || end_layer > kv->pool->geo.n_layers)
        return -EINVAL;
    for (uint32_t i = 0; i < n; i++)
        if (slot[i] >= kv->n_committed || kv->tok[slot[i]].kind != VL_KV_VISUAL)
            return -EINVAL;
    if (n == 0 || first_layer == end_layer)
        return 0;
    if (!kv->ragged && !(kv->ragged = new_ragged(kv)))
        return -ENOMEM;
    for (unsigned layer = first_layer; layer < end_layer; layer++) {
        for (uint32_t i = 0; i < n; i++) {
            bool *hidden = kv->ragged->hidden + (size_t)layer * kv->max_tokens + slot[i];
            kv->ragged->n_hidden[layer] += !*hidden;
            *hidden = true;
        }
        cut_runs(kv, layer, 0);
    }
    return 0;
}

bool vl_kv_sees(const struct vl_kv *kv, unsigned layer, uint32_t slot)
{
    assert(layer < kv->pool->geo.n_layers && slot < kv->n);
    return !kv->ragged || !kv->ragged->hidden[(size_t)layer * kv->max_tokens + slot];
}

uint32_t vl_kv_visual(const struct vl_kv *kv, unsigned layer, struct vl_kv_visual *ret)
{
    uint32_t n = 0, at = 0;
    for (uint32_t i = 0, slot = 0; i < kv->n_pages; slot += kv->page[i++].n) {
        const struct page *pg = &kv->page[i];
        for (uint32_t k = slot; k < slot + pg->n; k++) {
            if (!vl_kv_sees(kv, layer, k))
                continue;
            if (pg->kind == VL_KV_VISUAL) {
                ret[n] = (struct vl_kv_visual){.slot = k, .at = at, .segment = pg->seg};
                for (int a = 0; a < 3; a++)
                    ret[n].rel[a] = kv->pos[k][a] - kv->seg[pg->seg].base;
                n++;
            }
            at++;
        }
    }
    return n;
}

const int64_t (*vl_kv_positions(const struct vl_kv *kv, uint32_t first_slot))[3]
{
    assert(first_slot <= kv->n);
    return (const int64_t(*)[3])kv->pos + first_slot;
}

uint32_t vl_kv_n_tokens(const struct vl_kv *kv)
{
    return kv->n;
}

uint32_t vl_kv_n_committed(const struct vl_kv *kv)
{
    return kv->n_committed;
}

void vl_kv_get_stats(const struct vl_kv *kv, struct vl_kv_stats *ret)
{
    *ret = (struct vl_kv_stats){.n_evicted = kv->n_evicted, .n_evictions = kv->n_evictions};
    for (uint32_t i = 0; i < kv->n; i++) {
        ret->n_text += kv->tok[i].kind == VL_KV_TEXT;
        ret->n_visual += kv->tok[i].kind == VL_KV_VISUAL;
        ret->n_pinned += kv->tok[i].pinned;
    }
    for (uint32_t i = 0; i < kv->n_pages; i++)
        ret->bytes += n_planes_of(&kv->page[i]) * kv->pool->plane_bytes;
}

void vl_kv_units(const struct vl_kv *kv, enum vl_kv_kind kind, struct vl_kv_units *ret)
{
    struct vl_kv_units u = {0, 0, 0};
    for (uint32_t i = 0; i < kv->n; i++) {
        const struct vl_kv_token *t = &kv->tok[i];
        if (t->pinned || t->kind != kind || (u.n > 0 && t->unit == u.newest))
            continue;
        if (u.n++ == 0)
            u.oldest = t->unit;
        u.newest = t->unit;
    }
    *ret = u;
}
