/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Random operation lists on sequences and forks against a naive model that keeps each token in a plain array,
 * and the promise that forks change nothing: the same list with and without questions gives the same pages,
 * bit for bit.
 */
#include "kvcache/kv.h"
#include "tests/exec.h"

#include <math.h>
#include <string.h>

enum {
    LAYERS = 2,
    HEAD_DIM = 4,
    SLOTS = 4,
    MAX_TOKENS = 96,
    LISTS = 10000,
    OPS = 60,
    MAX_SEQS = 5,
    MAX_SEGS = 1024
};
enum { PLANE = LAYERS * SLOTS * HEAD_DIM * 4, PAGE = 3 * PLANE };

static const uint8_t axis[HEAD_DIM / 2] = {0, 2};
static const double inv_freq[HEAD_DIM / 2] = {1.0, 0.03};
static const struct vl_rope rope = {HEAD_DIM / 2, inv_freq, axis};
static const struct vl_kv_geometry geometry = {LAYERS, 1, HEAD_DIM, SLOTS, VL_F32, VL_F32, &rope};

/* ---- the model ---- */

struct model_token {
    uint64_t id, unit;
    int64_t pos[3];
    uint32_t seg;
    enum vl_kv_kind kind;
    bool pinned;
};
struct model_segment {
    int64_t base, extent;
    uint32_t n;
};
struct model {
    struct model_token tok[MAX_TOKENS];
    struct model_segment seg[MAX_SEGS]; /* visual ones, never reused */
    uint32_t n, n_committed, n_segs;
    int64_t end, end_committed;
    bool open;
};

static void model_append(struct model *m, const struct vl_kv_segment *s, uint64_t id)
{
    const struct model_token *last = m->n > 0 ? &m->tok[m->n - 1] : NULL;
    bool goes_on = m->open && s->kind == VL_KV_VISUAL && last->unit == s->unit && last->pinned == s->pinned;
    if (s->kind == VL_KV_VISUAL && !goes_on) {
        assert_true(m->n_segs < MAX_SEGS);
        m->seg[m->n_segs++] = (struct model_segment){.base = m->end};
    }
    struct model_segment *g = s->kind == VL_KV_VISUAL ? &m->seg[m->n_segs - 1] : NULL;
    for (uint32_t i = 0; i < s->n; i++) {
        struct model_token *t = &m->tok[m->n + i];
        *t = (struct model_token){id + i, s->unit, {0, 0, 0}, m->n_segs - 1, s->kind, s->pinned};
        for (int a = 0; a < 3; a++)
            t->pos[a] = g ? g->base + (s->rel ? s->rel[i][a] : g->n + i) : m->end + i;
    }
    m->n += s->n;
    m->open = g != NULL;
    if (g) {
        g->n += s->n;
        g->extent = s->extent > g->extent ? s->extent : g->extent;
        m->end = g->base + g->extent;
    } else {
        m->end += s->n;
    }
}

static void model_commit(struct model *m)
{
    m->n_committed = m->n;
    m->end_committed = m->end;
    m->open = false;
}

static void model_truncate(struct model *m, uint32_t n)
{
    if (n == m->n)
        return;
    uint32_t former = m->n_segs > 0 ? m->n_segs - 1 : 0;
    for (uint32_t i = n; i < m->n; i++)
        if (m->tok[i].kind == VL_KV_VISUAL && m->seg[m->tok[i].seg].n > 0)
            m->seg[m->tok[i].seg].n--;
    m->n = n;
    const struct model_token *last = n > 0 ? &m->tok[n - 1] : NULL;
    m->open = m->open && last && last->kind == VL_KV_VISUAL && last->seg == former;
    m->end = !last                        ? 0
             : last->kind == VL_KV_VISUAL ? m->seg[last->seg].base + m->seg[last->seg].extent
                                          : last->pos[0] + 1;
    if (m->n_committed >= n) {
        m->n_committed = n;
        m->end_committed = m->end;
    }
}

static void model_evict(struct model *m, const uint32_t *slots, uint32_t n_slots)
{
    uint32_t kept = 0, k = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        if (k < n_slots && slots[k] == i) {
            k++;
            m->n_committed--;
        } else {
            m->tok[kept++] = m->tok[i];
        }
    }
    m->n = kept;
    int64_t limit = m->end;
    for (uint32_t i = kept; i > 0; i--) {
        struct model_token *t = &m->tok[i - 1];
        limit = t->kind == VL_KV_VISUAL ? m->seg[t->seg].base : limit - 1;
        if (t->kind == VL_KV_TEXT) {
            assert_true(t->pos[0] <= limit); /* the sink slides forward, never back */
            t->pos[0] = t->pos[1] = t->pos[2] = limit;
        }
    }
}

static void model_fork(struct model *to, const struct model *from)
{
    *to = *from;
    to->n = from->n_committed;
    to->end = from->end_committed;
    to->open = false;
}

/* ---- a policy that writes down what it says ---- */

static struct {
    struct test_rng *rng;
    const struct vl_kv_policy *policy; /* who is asked */
    bool random;                       /* nobody: any unpinned slots */
    uint32_t slots[MAX_TOKENS], n;
} said;

static int pick_and_tell(void *state, const struct vl_kv_token *tok, uint32_t n, uint32_t n_wanted,
                         uint32_t *ret_slots, uint32_t *ret_n)
{
    if (!said.random) {
        int r = said.policy->pick(state, tok, n, n_wanted, ret_slots, ret_n);
        memcpy(said.slots, ret_slots, *ret_n * sizeof(*ret_slots));
        said.n = *ret_n;
        return r;
    }
    said.n = 0;
    uint32_t odds = 1 + test_randn(said.rng, 6);
    for (uint32_t i = 0; i < n; i++)
        if (!tok[i].pinned && (n_wanted > 0 || test_randn(said.rng, odds) == 0))
            said.slots[said.n++] = i;
    memcpy(ret_slots, said.slots, said.n * sizeof(*ret_slots));
    *ret_n = said.n;
    return 0;
}

static size_t state_size(const struct vl_params *p, uint32_t max_tokens, uint32_t n_layers)
{
    return said.policy->state_size(p, max_tokens, n_layers);
}

static int init(void *state, const struct vl_params *p, struct vl_error *err)
{
    return said.policy->init(state, p, err);
}

/* A registered policy, drawn from the list's own generator. */
static struct vl_kv_policy teller(struct test_rng *rng)
{
    uint32_t n = 0;
    while (vl_kv_policies[n])
        n++;
    said.policy = vl_kv_policies[test_randn(rng, n)];
    return (struct vl_kv_policy){.name = "teller",
                                 .params = said.policy->params,
                                 .state_size = state_size,
                                 .init = init,
                                 .pick = pick_and_tell};
}

/* ---- sequences with their models ---- */

struct seq {
    struct vl_kv *kv;
    struct model m;
    uint64_t unit;
    bool fork;
};

struct list {
    struct test_exec e;
    struct test_rng rng;
    struct vl_kv_policy policy;
    struct vl_kv_pool *pool;
    struct vl_params *params;
    struct seq seq[MAX_SEQS];
    uint64_t next_id;
    uint64_t n_full, n_busy, n_evicted, n_forks, n_fork_full; /* what was met, over all lists */
};

static float value_of(uint64_t id, unsigned layer, unsigned which, unsigned i)
{
    uint64_t h =
        (id * 8 + layer * 4 + which) * UINT64_C(0x9E3779B97F4A7C15) + i * UINT64_C(0xD1B54A32D192ED03);
    h ^= h >> 29;
    h *= UINT64_C(0xBF58476D1CE4E5B9);
    return (float)((double)(h >> 40) / (1 << 23) - 1.0);
}

static void store(struct list *l, struct vl_kv *kv, uint32_t slot, uint32_t n, uint64_t id)
{
    float k[MAX_TOKENS][HEAD_DIM], v[MAX_TOKENS][HEAD_DIM];
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        for (uint32_t i = 0; i < n; i++)
            for (unsigned d = 0; d < HEAD_DIM; d++) {
                k[i][d] = value_of(id + i, layer, 0, d);
                v[i][d] = value_of(id + i, layer, 1, d);
            }
        struct vl_tensor kt = vl_tensor_3d(k, VL_F32, n, 1, HEAD_DIM),
                         vt = vl_tensor_3d(v, VL_F32, n, 1, HEAD_DIM);
        uint32_t head =
            test_randn(&l->rng, 4) == 0 ? test_randn(&l->rng, n) : 0; /* now and then in two pieces */
        struct vl_tensor k0 = vl_tensor_rows(&kt, 0, head), v0 = vl_tensor_rows(&vt, 0, head);
        struct vl_tensor k1 = vl_tensor_rows(&kt, head, n - head), v1 = vl_tensor_rows(&vt, head, n - head);
        if (head > 0)
            assert_int_equal(vl_kv_store(kv, &l->e.x, layer, slot, &k0, &v0), 0);
        assert_int_equal(vl_kv_store(kv, &l->e.x, layer, slot + head, &k1, &v1), 0);
    }
}

static void check_rows(const struct vl_kv_page *pg, const struct model_token *t, uint32_t at, unsigned layer)
{
    const float *k = (const float *)pg->k + (size_t)at * HEAD_DIM,
                *v = (const float *)pg->v + (size_t)at * HEAD_DIM;
    for (unsigned d = 0; d < HEAD_DIM; d++)
        assert_true(v[d] == value_of(t->id, layer, 1, d));
    for (unsigned i = 0; i < HEAD_DIM / 2; i++) {
        double a = (double)t->pos[axis[i]] * inv_freq[i];
        double k0 = (double)value_of(t->id, layer, 0, i),
               k1 = (double)value_of(t->id, layer, 0, i + HEAD_DIM / 2);
        assert_true(fabs(k0 * cos(a) - k1 * sin(a) - (double)k[i]) < 1e-5);
        assert_true(fabs(k0 * sin(a) + k1 * cos(a) - (double)k[i + HEAD_DIM / 2]) < 1e-5);
    }
}

static void check_seq(const struct seq *s)
{
    struct vl_kv_view view;
    assert_int_equal(vl_kv_n_tokens(s->kv), s->m.n);
    assert_int_equal(vl_kv_n_committed(s->kv), s->m.n_committed);
    const int64_t(*pos)[3] = vl_kv_positions(s->kv, 0);
    for (uint32_t i = 0; i < s->m.n; i++)
        assert_memory_equal(pos[i], s->m.tok[i].pos, sizeof(pos[i]));
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        uint32_t slot = 0;
        assert_int_equal(vl_kv_view(s->kv, layer, &view), 0);
        assert_int_equal(view.n_tokens, s->m.n);
        for (uint32_t p = 0; p < view.n_pages; p++) {
            const struct vl_kv_page *pg = &view.page[p];
            const struct model_token *first = &s->m.tok[slot];
            assert_true(pg->n_tokens >= 1 && pg->n_tokens <= SLOTS);
            assert_int_equal(pg->k_raw != NULL, first->kind == VL_KV_TEXT);
            for (uint32_t at = 0; at < pg->n_tokens; at++, slot++) {
                assert_int_equal(s->m.tok[slot].kind, first->kind);
                assert_true(first->kind == VL_KV_TEXT || s->m.tok[slot].seg == first->seg);
                check_rows(pg, &s->m.tok[slot], at, layer);
            }
        }
        assert_int_equal(slot, s->m.n);
    }
}

static void check_all(struct list *l)
{
    struct vl_kv_pool_stats st;
    size_t bytes = 0;
    for (int i = 0; i < MAX_SEQS; i++)
        if (l->seq[i].kv) {
            struct vl_kv_stats s;
            check_seq(&l->seq[i]);
            vl_kv_get_stats(l->seq[i].kv, &s);
            assert_int_equal(s.n_text + s.n_visual, l->seq[i].m.n);
            bytes += l->seq[i].fork ? 0 : s.bytes;
        }
    vl_kv_pool_get_stats(l->pool, &st);
    assert_int_equal(st.bytes_used - st.bytes_forks, bytes);
    assert_true(st.n_forks > 0 || st.bytes_forks == 0);
}

static void end_seq(struct seq *s)
{
    s->kv = vl_kv_unref(s->kv);
}

/* Forks alone are in the way: one of them goes. */
static void end_a_fork(struct list *l)
{
    l->n_busy++;
    for (int i = 0; i < MAX_SEQS; i++)
        if (l->seq[i].kv && l->seq[i].fork) {
            end_seq(&l->seq[i]);
            return;
        }
    fail_msg("busy without a fork");
}

static uint32_t evict(struct list *l, struct seq *s, uint32_t n_wanted)
{
    uint32_t n = 0;
    int r;
    said.n = 0;
    while ((r = vl_kv_evict(s->kv, &l->e.x, n_wanted, &n)) == VL_KV_BUSY) {
        check_seq(s);
        end_a_fork(l);
    }
    assert_int_equal(r, 0);
    assert_int_equal(n, said.n);
    l->n_evicted += n;
    model_evict(&s->m, said.slots, said.n);
    return n;
}

/* A refusal has a cause: tokens, or planes of the session's own budget. */
static void check_full(const struct list *l, const struct seq *s, uint32_t n)
{
    struct vl_kv_pool_stats st;
    vl_kv_pool_get_stats(l->pool, &st);
    size_t need = (size_t)(n + SLOTS - 1) / SLOTS * PAGE;
    assert_true(s->fork || s->m.n + n > MAX_TOKENS ||
                st.bytes_used - st.bytes_forks + need > st.bytes - st.bytes_reserve - PAGE);
}

static void append(struct list *l, struct seq *s)
{
    int64_t rel[16][3];
    struct vl_kv_segment g = {.kind = (enum vl_kv_kind)test_randn(&l->rng, 2),
                              .n = 1 + test_randn(&l->rng, 12)};
    uint32_t slot = 0;
    s->unit += s->m.open ? test_randn(&l->rng, 2) : test_randn(&l->rng, 3);
    g.unit = s->unit;
    g.pinned = test_randn(&l->rng, s->m.n < 8 ? 2 : 12) == 0;
    g.extent = g.n;
    if (g.kind == VL_KV_VISUAL) { /* more positions than tokens: pruned; the same in pieces of one segment */
        g.extent = 16;
        for (uint32_t i = 0; i < g.n; i++)
            for (int a = 0; a < 3; a++)
                rel[i][a] = test_randn(&l->rng, 16);
        g.rel = (const int64_t(*)[3])rel;
    }
    int r;
    while ((r = vl_kv_append(s->kv, &l->e.x, &g, &slot)) != 0) {
        assert_true(r > 0);
        if (r == VL_KV_BUSY) {
            assert_false(s->fork);
            end_a_fork(l);
            continue;
        }
        l->n_full++;
        check_full(l, s, g.n);
        if (s->fork || evict(l, s, g.n) == 0)
            return;
    }
    assert_int_equal(slot, s->m.n);
    model_append(&s->m, &g, l->next_id);
    store(l, s->kv, slot, g.n, l->next_id);
    l->next_id += g.n;
}

static void make_fork(struct list *l, const struct seq *parent)
{
    for (int i = 0; i < MAX_SEQS; i++) {
        struct seq *s = &l->seq[i];
        if (s->kv)
            continue;
        int r = vl_kv_fork(&s->kv, parent->kv, MAX_TOKENS - parent->m.n_committed);
        if (parent->m.n_committed == MAX_TOKENS)
            assert_true(r == -EINVAL || r == VL_KV_FULL);
        else
            assert_true(r == 0 || r == VL_KV_FULL);
        l->n_fork_full += r == VL_KV_FULL;
        if (r != 0)
            return;
        l->n_forks++;
        s->fork = true;
        s->unit = parent->unit;
        model_fork(&s->m, &parent->m);
        return;
    }
}

static void new_seq(struct list *l, struct seq *s)
{
    struct vl_error err = {0, ""};
    if (vl_kv_new(&s->kv, l->pool, &l->policy, l->params, MAX_TOKENS, &err) < 0)
        fail_msg("%s", err.msg);
    s->m = (struct model){.n = 0};
    s->unit = 0;
    s->fork = false;
}

static void step(struct list *l)
{
    struct seq *s = &l->seq[test_randn(&l->rng, MAX_SEQS)];
    if (!s->kv)
        s = &l->seq[0];
    switch (test_randn(&l->rng, 12)) {
    case 0:
        vl_kv_commit(s->kv);
        model_commit(&s->m);
        (void)evict(l, s, 0);
        break;
    case 1:
        vl_kv_commit(s->kv);
        model_commit(&s->m);
        break;
    case 2: {
        uint32_t n = s->m.n > 0 ? test_randn(&l->rng, s->m.n + 1) : 0;
        n = test_randn(&l->rng, 2) ? n : s->m.n - (s->m.n - n) / 4;
        assert_int_equal(vl_kv_truncate(s->kv, n), 0);
        assert_int_equal(vl_kv_truncate(s->kv, s->m.n + 1), -EINVAL);
        model_truncate(&s->m, n);
        break;
    }
    case 3:
    case 4:
        make_fork(l, s);
        break;
    case 5:
        if (s != &l->seq[0] && test_randn(&l->rng, 2))
            end_seq(s);
        break;
    case 6:
        if (test_randn(&l->rng, 8) == 0 && !l->seq[1].kv)
            new_seq(l, &l->seq[1]);
        break;
    case 7:
        (void)evict(l, s, test_randn(&l->rng, 30));
        break;
    default:
        append(l, s);
    }
}

static void new_pool(struct list *l, size_t session_pages, const struct vl_kv_reserve *forks)
{
    struct vl_error err = {0, ""};
    size_t per_fork = (forks->max_text + SLOTS - 1) / SLOTS * PAGE + PAGE;
    per_fork += (forks->max_visual + SLOTS - 1) / SLOTS * 2 * PLANE;
    size_t bytes = (session_pages + 1) * PAGE + forks->max_forks * per_fork;
    if (vl_kv_pool_new(&l->pool, &l->e.x, &geometry, bytes, forks, &err) < 0)
        fail_msg("%s", err.msg);
}

static void new_params(struct list *l)
{
    static const double window[] = {1, 1, 2, 3, 8}, text[] = {0, 4, 16, 40, 512};
    assert_int_equal(vl_params_new(&l->params), 0);
    assert_int_equal(vl_params_set_f64(l->params, "window", window[test_randn(&l->rng, 5)]), 0);
    assert_int_equal(vl_params_set_f64(l->params, "text_tokens", text[test_randn(&l->rng, 5)]), 0);
}

static void end_list(struct list *l)
{
    struct vl_kv_pool_stats st;
    for (int i = 0; i < MAX_SEQS; i++) /* parents before forks, and the other way round */
        end_seq(&l->seq[l->next_id % 2 ? i : MAX_SEQS - 1 - i]);
    vl_kv_pool_get_stats(l->pool, &st);
    assert_int_equal(st.bytes_used, 0);
    assert_int_equal(st.n_sequences + st.n_forks, 0);
    l->pool = vl_kv_pool_unref(l->pool);
    l->params = vl_params_unref(l->params);
}

static void test_random_lists(void **state)
{
    (void)state;
    struct list *l = calloc(1, sizeof(*l));
    assert_non_null(l);
    l->rng = test_rng_new("kv lists");
    said.rng = &l->rng;
    test_exec_open(&l->e, "cpu", 1 << 16);
    for (int i = 0; i < LISTS; i++) {
        uint32_t share = test_randn(&l->rng, 2) ? 60 : 3; /* ample, or what forks hold soon is in the way */
        const struct vl_kv_reserve forks = {test_randn(&l->rng, 5), test_randn(&l->rng, share),
                                            test_randn(&l->rng, share)};
        said.random = test_randn(&l->rng, 2) == 0;
        l->policy = teller(&l->rng);
        new_params(l);
        new_pool(l, 1 + test_randn(&l->rng, 30), &forks);
        new_seq(l, &l->seq[0]);
        for (int op = 0; op < OPS; op++) {
            step(l);
            if (test_randn(&l->rng, 4) == 0)
                check_all(l);
        }
        check_all(l);
        end_list(l);
    }
    print_message("%d lists: %llu evicted, %llu full, %llu busy, %llu forks, %llu forks refused\n", LISTS,
                  (unsigned long long)l->n_evicted, (unsigned long long)l->n_full,
                  (unsigned long long)l->n_busy, (unsigned long long)l->n_forks,
                  (unsigned long long)l->n_fork_full);
    assert_true(l->n_evicted && l->n_full && l->n_busy && l->n_forks && l->n_fork_full);
    test_exec_close(&l->e);
    free(l);
}

/* ---- with and without questions ---- */

static void same_view(const struct vl_kv *a, const struct vl_kv *b)
{
    assert_int_equal(vl_kv_n_tokens(a), vl_kv_n_tokens(b));
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        struct vl_kv_view va, vb;
        assert_int_equal(vl_kv_view(a, layer, &va), 0);
        assert_int_equal(vl_kv_view(b, layer, &vb), 0);
        assert_int_equal(va.n_pages, vb.n_pages);
        for (uint32_t p = 0; p < va.n_pages; p++) {
            size_t bytes = va.page[p].n_tokens * HEAD_DIM * sizeof(float);
            assert_int_equal(va.page[p].n_tokens, vb.page[p].n_tokens);
            assert_memory_equal(va.page[p].k, vb.page[p].k, bytes);
            assert_memory_equal(va.page[p].v, vb.page[p].v, bytes);
        }
    }
}

/* What a question does, on a generator of its own. */
static void ask(struct list *l, struct test_rng *rng)
{
    struct seq *s = &l->seq[1 + test_randn(rng, MAX_SEQS - 1)];
    uint32_t slot;
    if (!s->kv) {
        int r = vl_kv_fork(&s->kv, l->seq[0].kv, MAX_TOKENS);
        assert_true(r == 0 || r == VL_KV_FULL);
        s->fork = r == 0;
    } else if (test_randn(rng, 4) == 0) {
        end_seq(s);
    } else {
        const struct vl_kv_segment g = {
            .kind = VL_KV_TEXT, .n = 1 + test_randn(rng, 9), .unit = UINT64_MAX, .extent = 0};
        struct vl_kv_segment t = g;
        t.extent = t.n;
        if (vl_kv_append(s->kv, &l->e.x, &t, &slot) == 0)
            store(l, s->kv, slot, t.n, test_rand(rng) >> 8);
        if (test_randn(rng, 2))
            assert_int_equal(vl_kv_truncate(s->kv, test_randn(rng, vl_kv_n_tokens(s->kv) + 1)), 0);
    }
}

static void test_questions_change_nothing(void **state)
{
    (void)state;
    enum { TWIN_LISTS = 1000 };
    struct list *l = calloc(2, sizeof(*l));
    assert_non_null(l);
    struct test_rng seeds = test_rng_new("kv twins"), asker = seeds;
    said.random = false;
    for (int t = 0; t < 2; t++)
        test_exec_open(&l[t].e, "cpu", 1 << 16);
    for (int i = 0; i < TWIN_LISTS; i++) {
        /* a fork may hold every token in a page of its own */
        const struct vl_kv_reserve forks = {MAX_SEQS - 1, 2 * MAX_TOKENS * SLOTS, MAX_TOKENS * SLOTS};
        uint64_t seed = test_rand(&seeds) | 1;
        for (int t = 0; t < 2; t++) {
            l[t].rng.s = seed;
            l[t].next_id = 1;
            l[t].policy = teller(&l[t].rng);
            new_params(&l[t]);
            new_pool(&l[t], 1 + test_randn(&l[t].rng, 20), &forks);
            new_seq(&l[t], &l[t].seq[0]);
        }
        for (int op = 0; op < OPS; op++) {
            for (int t = 0; t < 2; t++) {
                struct seq *s = &l[t].seq[0];
                struct test_rng at = l[t].rng;
                append(&l[t], s);
                if (test_randn(&at, 3) == 0) {
                    vl_kv_commit(s->kv);
                    model_commit(&s->m);
                    (void)evict(&l[t], s, 0);
                }
            }
            same_view(l[0].seq[0].kv, l[1].seq[0].kv);
            l[1].rng = l[0].rng;
            for (uint32_t n = test_randn(&asker, 4); n > 0; n--) {
                struct test_rng kept = l[1].rng;
                ask(&l[1], &asker);
                l[1].rng = kept;
            }
        }
        assert_int_equal(l[0].n_full, l[1].n_full);
        end_list(&l[0]);
        end_list(&l[1]);
    }
    assert_int_equal(l[1].n_busy, 0);
    assert_true(l[0].n_full > 0 && l[0].n_evicted > 0);
    for (int t = 0; t < 2; t++)
        test_exec_close(&l[t].e);
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_lists),
        cmocka_unit_test(test_questions_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
