/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/* What scripted_model.h says. The id of each token lies in its cached value, so run() reads back the whole
 * text in view and answers from it; nothing is kept elsewhere. */
#include "tests/unit/scripted_model.h"

#include "base/clock.h"
#include "decoder/tokenizer.h"
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

atomic_uint scripted_delay_us, scripted_n_layers, scripted_n_runs, scripted_largest;
atomic_bool scripted_mixed;
atomic_int scripted_encode_fails;
atomic_bool scripted_hold;
atomic_int scripted_looks[SCRIPTED_LOOKS][2];
atomic_uint scripted_n_looks;
atomic_int scripted_gate;
atomic_llong scripted_ahead_ns;

enum { END = 256, N_VOCAB = 257, D = 4, HEAD_DIM = 2, MAX_VIEW = 8192, VISUAL = 1000 };

/* The text in view; a visual token is VISUAL + its value. */
struct view {
    int n, at; /* at: just behind the last "]", where the reply begins */
    int id[MAX_VIEW];
};

struct vl_model {
    struct vl_model_desc desc;
    char path[16];
    struct view *view; /* what run() reads back */
};
struct vl_encode {
    struct vl_exec *x;
    bool stills;
    unsigned layer;
    float value;
    struct vl_grid_pos pos[SCRIPTED_VIEWS * SCRIPTED_FRAME_TOKENS];
    float weight[SCRIPTED_VIEWS * SCRIPTED_FRAME_TOKENS];
};

int64_t __real_vl_clock_monotonic_ns(void);
int64_t __wrap_vl_clock_monotonic_ns(void);

int64_t __wrap_vl_clock_monotonic_ns(void)
{
    return __real_vl_clock_monotonic_ns() + atomic_load(&scripted_ahead_ns);
}

static void delay(void)
{
    unsigned us = atomic_load(&scripted_delay_us);
    if (us)
        (void)usleep(us);
    int gate = SCRIPTED_SHUT;
    if (!atomic_compare_exchange_strong(&scripted_gate, &gate, SCRIPTED_WAITS))
        return;
    while (atomic_load(&scripted_gate) == SCRIPTED_WAITS)
        (void)usleep(50);
    gate = SCRIPTED_GO;
    (void)atomic_compare_exchange_strong(&scripted_gate, &gate, SCRIPTED_SHUT);
}

/* ---- tokenizer ---- */

bool vl_tokenizer_is_end(const struct vl_tokenizer *t, int32_t id)
{
    (void)t;
    return id == END;
}

const char *vl_tokenizer_doubt(const struct vl_tokenizer *t)
{
    (void)t;
    return NULL;
}

int vl_detok_push(const struct vl_tokenizer *t, struct vl_detok *d, int32_t id, char ret[VL_DETOK_MAX],
                  size_t *ret_len)
{
    (void)t, (void)d;
    ret[0] = (char)id;
    *ret_len = 1;
    return 0;
}

void vl_detok_flush(struct vl_detok *d, char ret[VL_DETOK_MAX], size_t *ret_len)
{
    (void)d, (void)ret;
    *ret_len = 0;
}

/* ---- encoder ---- */

/* Writes the comparison down and gives the look. False: the engine does not keep to what model.h says. */
static bool compare(const struct vl_model *m, const struct vl_unit *u, int value)
{
    if (!m->desc.look_bytes || u->still)
        return !u->before && !u->look;
    if (!u->before || !u->look || u->before == u->look || u->before->rgb == u->look->rgb)
        return false;
    const unsigned at = atomic_load(&scripted_n_looks);
    if (at == SCRIPTED_LOOKS)
        return false;
    atomic_store(&scripted_looks[at][0], value);
    atomic_store(&scripted_looks[at][1], u->before->edge ? u->before->rgb[0] : -1);
    atomic_store(&scripted_n_looks, at + 1);
    memset(u->look->rgb, value, SCRIPTED_LOOK_BYTES);
    u->look->edge = 1;
    return true;
}

static int encode_begin(const struct vl_model *m, struct vl_encode *e, const struct vl_unit *u,
                        uint32_t n_units)
{
    (void)n_units;
    if (u->still != e->stills)
        return -EINVAL;
    if (!compare(m, u, u->frame[0]->plane[0][0]))
        return -EPROTO;
    e->layer = 0;
    e->value = u->frame[0]->plane[0][0];
    vl_arena_reset(e->x->scratch, 0);
    return e->value < 255 ? 0 : -EINVAL;
}

static int encode_step(struct vl_encode *e, unsigned n_layers, struct vl_visual_tokens *ret)
{
    static unsigned runs_before;
    delay();
    if (e->layer > 0 && runs_before != atomic_load(&scripted_n_runs))
        atomic_store(&scripted_mixed, true);
    e->layer += n_layers;
    atomic_fetch_add(&scripted_n_layers, n_layers);
    runs_before = atomic_load(&scripted_n_runs);
    const uint32_t n_views = e->stills ? SCRIPTED_VIEWS : 1, n = n_views * SCRIPTED_FRAME_TOKENS;
    if (e->layer < SCRIPTED_LAYERS * n_views)
        return VL_ENCODE_MORE;
    if (atomic_load(&scripted_encode_fails) > 0) {
        atomic_fetch_sub(&scripted_encode_fails, 1);
        return -EIO;
    }
    *ret = (struct vl_visual_tokens){.pos = e->pos, .weight = e->weight, .n = n, .grid_w = 2, .grid_h = 2};
    int r = vl_scratch_2d(e->x, &ret->feat, VL_F32, n, D);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < n; i++) {
        e->pos[i] = (struct vl_grid_pos){.t = i / SCRIPTED_FRAME_TOKENS,
                                         .y = (uint16_t)(i % SCRIPTED_FRAME_TOKENS / 2),
                                         .x = (uint16_t)(i % 2)};
        e->weight[i] = 1;
        for (int k = 0; k < D; k++)
            ((float *)ret->feat.data)[i * D + k] = e->value;
    }
    return 0;
}

static int positions(const struct vl_model *m, const struct vl_visual_tokens *tok, int64_t (*ret_rel)[3],
                     int64_t *ret_extent)
{
    (void)m;
    for (uint32_t i = 0; i < tok->n; i++)
        for (int k = 0; k < 3; k++)
            ret_rel[i][k] = tok->pos[i].y * 2 + tok->pos[i].x;
    *ret_extent = SCRIPTED_FRAME_TOKENS;
    return 0;
}

static int views(const struct vl_model *m, const struct vl_unit *u, struct vl_view *ret, uint32_t *inout_n)
{
    (void)m;
    if (u->n_frames != 1 || u->frame[0]->width > VL_MODEL_MAX_SIDE || *inout_n < SCRIPTED_VIEWS)
        return -EINVAL;
    *inout_n = u->still ? SCRIPTED_VIEWS : 1;
    for (uint32_t i = 0; i < *inout_n; i++)
        ret[i] = (struct vl_view){.grid_w = 2, .grid_h = 2, .n_tokens = SCRIPTED_FRAME_TOKENS};
    return 0;
}

int vl_encode_new(struct vl_encode **ret, const struct vl_model *m, struct vl_exec *x, bool stills)
{
    (void)m;
    *ret = calloc(1, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    (*ret)->x = x;
    (*ret)->stills = stills;
    return 0;
}

struct vl_encode *vl_encode_unref(struct vl_encode *e)
{
    free(e);
    return NULL;
}

/* ---- prompt ---- */

static int put(struct vl_chunk *c, int32_t id)
{
    if (c->n == c->cap)
        return VL_CHUNK_FULL;
    c->id[c->n++] = id;
    c->n_places += id < 0;
    return 0;
}

static int put_text(struct vl_chunk *c, const char *text)
{
    int r = 0;
    for (; r == 0 && *text; text++)
        r = put(c, (unsigned char)*text);
    return r;
}

static int render(const struct vl_model *m, enum vl_part part, const char *text, int64_t pts_ns,
                  struct vl_chunk *c)
{
    (void)m;
    char head[64];
    int r = 0;
    switch (part) {
    case VL_PART_SYSTEM:
        r = put_text(c, "[S]");
        return r == 0 && text ? put_text(c, text) : r;
    case VL_PART_FRAME:
        (void)snprintf(head, sizeof(head), "[F%lld:", (long long)(pts_ns / 1000000000));
        r = put_text(c, head);
        for (int i = 0; r == 0 && i < SCRIPTED_FRAME_TOKENS; i++)
            r = put(c, -1);
        return r == 0 ? put_text(c, "]") : r;
    case VL_PART_CAPTION_END:
        return put(c, ';');
    case VL_PART_QUESTION:
        r = put_text(c, "[Q");
        if (r == 0)
            r = put_text(c, text);
        return r == 0 ? put_text(c, "]") : r;
    default:
        return -EINVAL;
    }
}

/* The pictures of a question stand in front of it; "P" opens them. */
static int render_ask(const struct vl_model *m, const struct vl_unit *still, uint32_t n_stills,
                      const char *text, struct vl_chunk *inout)
{
    (void)m, (void)still;
    struct vl_chunk c = *inout;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < n_stills * SCRIPTED_VIEWS; i++) {
        r = put_text(&c, i % SCRIPTED_VIEWS ? "," : "P");
        for (int k = 0; r == 0 && k < SCRIPTED_FRAME_TOKENS; k++)
            r = put(&c, -1);
    }
    if (r == 0)
        r = put_text(&c, "[Q");
    if (r == 0)
        r = put_text(&c, text);
    if (r == 0)
        r = put(&c, ']');
    if (r == 0)
        *inout = c;
    return r;
}

/* ---- what it says ---- */

static void read_view(struct vl_kv *kv, struct view *v)
{
    struct vl_kv_view pages;
    (void)vl_kv_view(kv, 0, &pages);
    v->n = v->at = 0;
    for (uint32_t p = 0; p < pages.n_pages; p++)
        for (uint32_t i = 0; i < pages.page[p].n_tokens && v->n < MAX_VIEW; i++) {
            v->id[v->n++] = (int)((const float *)pages.page[p].v)[i * HEAD_DIM];
            if (v->id[v->n - 1] == ']')
                v->at = v->n;
        }
}

static int sum_of_frames(const struct view *v)
{
    int sum = 0;
    for (int i = 0; i < v->n; i++)
        sum += v->id[i] >= VISUAL ? v->id[i] - VISUAL : 0;
    return sum / SCRIPTED_FRAME_TOKENS;
}

/* Byte `at` of a finished text, then the end. */
static int from_text(const char *text, int at)
{
    return at < (int)strlen(text) ? (unsigned char)text[at] : END;
}

static int all_text(const struct view *v, int at)
{
    for (int i = 0; i < v->at; i++)
        if (v->id[i] < VISUAL && at-- == 0)
            return v->id[i] == '[' ? '(' : v->id[i] == ']' ? ')' : v->id[i]; /* brackets are the script's */
    return END;
}

/* The next token, or -1 for logits that are not finite. */
static int next_token(const struct view *v)
{
    char text[32];
    int at = v->n - v->at, open = v->at;
    while (open > 0 && v->id[open - 1] != '[')
        open--;
    bool frame = v->id[open] == 'F';
    int what = frame ? v->id[v->at - 2] - VISUAL : v->id[open + 1];
    (void)snprintf(text, sizeof(text), "<%d>", sum_of_frames(v));
    if (frame)
        return what == 13 ? -1 : what % 2 ? from_text(text, at) : END;
    switch (what) {
    case 'S':
        return from_text(text, at);
    case 'T':
        return all_text(v, at);
    case 'E':
        return 'a' + (int)(((uint64_t)at + 1) * ((uint64_t)at + 1) * 0x9E3779B97F4A7C15u >> 40) % 26;
    case 'L':
        return 'a' + at % 2;
    case 'N':
        return -1;
    case 'C':
        return from_text("x\x1b[1my", at);
    default:
        return END;
    }
}

static int store(struct vl_exec *x, const struct vl_batch *b)
{
    struct vl_tensor k, v;
    int r = vl_scratch_3d(x, &k, VL_F32, b->n, 1, HEAD_DIM);
    if (r == 0)
        r = vl_scratch_3d(x, &v, VL_F32, b->n, 1, HEAD_DIM);
    if (r < 0)
        return r;
    for (uint32_t i = 0, row = 0; i < b->n; i++) {
        float value = (float)b->id[i];
        if (b->id[i] < 0)
            value = VISUAL + ((const float *)b->row->data)[row++ * D];
        for (int j = 0; j < HEAD_DIM; j++) {
            ((float *)k.data)[i * HEAD_DIM + j] = value;
            ((float *)v.data)[i * HEAD_DIM + j] = value;
        }
    }
    return vl_kv_store(b->span->kv, x, 0, b->span->slot, &k, &v);
}

static int run(const struct vl_model *m, struct vl_exec *x, const struct vl_batch *b,
               struct vl_tensor *ret_logits)
{
    delay();
    atomic_fetch_add(&scripted_n_runs, 1);
    if (b->n > atomic_load(&scripted_largest))
        atomic_store(&scripted_largest, b->n);
    int r = store(x, b);
    if (r < 0 || b->span->n_logits == 0)
        return r;
    r = vl_scratch_2d(x, ret_logits, VL_F32, 1, N_VOCAB);
    if (r < 0)
        return r;
    read_view(b->span->kv, m->view);
    int next = next_token(m->view);
    float *logit = ret_logits->data;
    for (int i = 0; i < N_VOCAB; i++)
        logit[i] = next < 0 ? NAN : i == next ? 10.0f : 0.0f;
    return 0;
}

/* ---- model ---- */

static const struct vl_arch scripted_arch = {.name = "scripted",
                                             .views = views,
                                             .encode_begin = encode_begin,
                                             .encode_step = encode_step,
                                             .positions = positions,
                                             .render = render,
                                             .render_ask = render_ask,
                                             .run = run};

int vl_model_load(struct vl_model *m, struct vl_exec *x, const struct vl_load_watch *watch,
                  struct vl_error *err)
{
    (void)x;
    for (size_t i = 1; i <= 10; i++) {
        while (!strcmp(m->path, "slow") && atomic_load(&scripted_hold))
            (void)usleep(100);
        if (!strcmp(m->path, "cut") && i > 5)
            return vl_error_set(err, -EIO, "half of it is not there");
        int r = watch->progress(watch->user, i * SCRIPTED_WEIGHTS / 10, SCRIPTED_WEIGHTS);
        if (r < 0)
            return r;
    }
    return 0;
}

int vl_model_open(struct vl_model **ret, const char *text_path, const char *mmproj_path,
                  const struct vl_notes *notes, struct vl_error *err)
{
    static const char *const known[] = {"good", "blind", "cut", "slow", "keen"};
    static const double inv_freq[1] = {1};
    static const uint8_t axis[1] = {0};
    static const struct vl_rope rope = {.n_pairs = 1, .inv_freq = inv_freq, .axis = axis};
    size_t which = 0;
    (void)mmproj_path;
    vl_note(notes, "text", "path", "%s", text_path);
    while (which < 5 && strcmp(text_path, known[which]))
        which++;
    if (which == 5)
        return vl_error_set(err, !strcmp(text_path, "missing") ? -ENOENT : -EBADMSG, "'%s' is no model",
                            text_path);
    struct vl_model *m = calloc(1, sizeof(*m));
    if (!m || !(m->view = calloc(1, sizeof(*m->view)))) {
        free(m);
        return -ENOMEM;
    }
    m->desc = (struct vl_model_desc){
        .name = "scripted",
        .arch = "scripted",
        .quantization = "none",
        .kv = {.n_layers = 1,
               .n_kv_heads = 1,
               .head_dim = HEAD_DIM,
               .k_dtype = VL_F32,
               .v_dtype = VL_F32,
               .rope = &rope},
        .n_vocab = N_VOCAB,
        .d_model = D,
        .n_ctx = SCRIPTED_CONTEXT,
        .frame_tokens = SCRIPTED_FRAME_TOKENS,
        .max_image_tokens = SCRIPTED_VIEWS * SCRIPTED_FRAME_TOKENS,
        .n_encode_layers = SCRIPTED_LAYERS,
        .default_window_frames = SCRIPTED_WINDOW,
        .max_batch = 512,
        .weight_bytes = SCRIPTED_WEIGHTS,
        .encode_scratch = 4096,
        .still_scratch = 4096,
        .run_scratch = 1 << 20,
    };
    (void)snprintf(m->path, sizeof(m->path), "%s", text_path);
    if (!strcmp(text_path, "blind"))
        m->desc.frame_tokens = m->desc.max_image_tokens = m->desc.n_encode_layers = 0;
    if (!strcmp(text_path, "keen"))
        m->desc.look_bytes = SCRIPTED_LOOK_BYTES;
    *ret = m;
    return 0;
}

struct vl_model *vl_model_unref(struct vl_model *m)
{
    if (m)
        free(m->view);
    free(m);
    return NULL;
}

const struct vl_model_desc *vl_model_get_desc(const struct vl_model *m)
{
    return &m->desc;
}

const struct vl_arch *vl_model_arch(const struct vl_model *m)
{
    (void)m;
    return &scripted_arch;
}

const struct vl_tokenizer *vl_model_tokenizer(const struct vl_model *m)
{
    (void)m;
    return NULL;
}
