/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Opens a text file, or a pair: which family, do they fit, how much scratch, and then the weights. The dry
 * run on the null backend is the same code that serves later, so a shape that would fail in service fails
 * here, before a page of weights is read. The trap: in a dry run backend memory is never readable.
 */
#include "kernels/null/null.h"
#include "model/model_private.h"
#include "tokenprune/reducer.h"
#include "weights/weights.h"

#include <stdio.h>
#include <string.h>

/* Address space, never memory: more scratch than any model we could run would want. */
static const size_t dry_scratch = (size_t)1 << 36;

const struct vl_model_desc *vl_model_get_desc(const struct vl_model *m)
{
    return &m->desc;
}

const struct vl_arch *vl_model_arch(const struct vl_model *m)
{
    return m->arch;
}

const struct vl_tokenizer *vl_model_tokenizer(const struct vl_model *m)
{
    return m->tokenizer;
}

void vl_model_free_weights(struct vl_model *m)
{
    for (int i = 0; i < 2; i++) {
        if (m->memory[i])
            m->ops->free(m->device, m->memory[i]);
        m->memory[i] = NULL;
    }
}

struct vl_model *vl_model_unref(struct vl_model *m)
{
    if (!m)
        return NULL;
    if (m->arch)
        m->arch->close(m);
    vl_model_free_weights(m);
    vl_tokenizer_unref(m->tokenizer);
    vl_weights_unref(m->text);
    vl_weights_unref(m->mmproj);
    free(m);
    return NULL;
}

int vl_encode_new(struct vl_encode **ret, const struct vl_model *m, struct vl_exec *x, bool stills)
{
    vl_auto(vl_encode) e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    *e = (struct vl_encode){.model = m, .x = x, .mark = vl_arena_mark(x->scratch), .stills = stills};
    int r = m->arch->encode_init(m, e);
    if (r < 0)
        return r;
    *ret = vl_steal(e);
    return 0;
}

struct vl_encode *vl_encode_unref(struct vl_encode *e)
{
    if (!e)
        return NULL;
    e->model->arch->encode_free(e);
    free(e);
    return NULL;
}

/* ---- which family ---- */

/* Text from a file, fit for a message or a bus: what is not printable ASCII becomes a question mark. */
static void copy_name(char *dst, size_t cap, const char *src)
{
    size_t n = 0;
    for (; src[n] && n + 1 < cap; n++)
        dst[n] = src[n] >= ' ' && src[n] <= '~' ? src[n] : '?';
    dst[n] = 0;
}

static void list_archs(char *ret, size_t cap)
{
    size_t n = 0;
    ret[0] = 0;
    for (const struct vl_arch *const *a = vl_archs; *a && n < cap; a++) {
        const char *projector = (*a)->projector;
        n += (size_t)snprintf(ret + n, cap - n, "%s%s (%s%s%s)", n ? ", " : "", (*a)->name, (*a)->text_arch,
                              projector ? " + " : "", projector ? projector : " alone");
    }
}

static const char *need_clip(const struct vl_weights *mmproj, const struct vl_weights *text, int *ret_code,
                             struct vl_error *err)
{
    const char *clip, *projector = NULL;
    char name[32];
    if ((*ret_code = vl_weights_need_str(mmproj, "general.architecture", &clip, err)) < 0)
        return NULL;
    copy_name(name, sizeof(name), clip);
    if (strcmp(clip, "clip") != 0)
        *ret_code = vl_error_set(
            err, -EINVAL,
            "%s is a text model (%s), not a projector; the mmproj file that belongs to %s is needed",
            vl_weights_name(mmproj), name, vl_weights_name(text));
    else if ((*ret_code = vl_weights_get_str(mmproj, "clip.projector_type", &projector, err)) > 0)
        *ret_code = vl_error_set(err, -EINVAL, "%s: clip.projector_type is missing; is it an mmproj file?",
                                 vl_weights_name(mmproj));
    return projector;
}

static bool same_projector(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* mmproj NULL: a text file alone. */
static int find_arch(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                     struct vl_error *err)
{
    const char *arch, *projector = NULL;
    char arch_name[32], projector_name[32], known[96];
    int r = vl_weights_need_str(text, "general.architecture", &arch, err);
    if (r < 0)
        return r;
    vl_note(m->notes, "text", "architecture", "%s", arch);
    if (strcmp(arch, "clip") == 0)
        return vl_error_set(
            err, -EINVAL, "%s is a projector (mmproj) file, not a text model; %s", vl_weights_name(text),
            mmproj ? "are the two files swapped?" : "the text file that belongs to it is needed");
    if (mmproj) {
        projector = need_clip(mmproj, text, &r, err);
        if (r < 0)
            return r;
    }
    for (const struct vl_arch *const *a = vl_archs; *a; a++)
        if (strcmp((*a)->text_arch, arch) == 0 && same_projector((*a)->projector, projector)) {
            m->arch = *a;
            m->desc.arch = m->arch->name;
            return 0;
        }
    copy_name(arch_name, sizeof(arch_name), arch);
    copy_name(projector_name, sizeof(projector_name), projector ? projector : "");
    list_archs(known, sizeof(known));
    if (!projector)
        return vl_error_set(err, -ENOTSUP, "models of text '%s' alone are not supported; supported: %s",
                            arch_name, known);
    return vl_error_set(err, -ENOTSUP,
                        "models of text '%s' with projector '%s' are not supported; supported: %s", arch_name,
                        projector_name, known);
}

/* ---- what it is ---- */

/* What a file is made of, told; the answer is the format that holds most bytes. */
static enum vl_dtype tell_file(const struct vl_model *m, const char *section, const struct vl_weights *w)
{
    uint64_t bytes[VL_DTYPE_COUNT] = {0}, all = 0;
    int most = 0;
    for (uint32_t i = 0; i < vl_weights_n_tensors(w); i++) {
        const struct vl_weights_tensor *t = vl_weights_tensor_at(w, i);
        bytes[t->dtype] += t->size;
        all += t->size;
    }
    vl_note(m->notes, section, "file", "%s", vl_weights_name(w));
    vl_note(m->notes, section, "tensors", "%u", vl_weights_n_tensors(w));
    vl_note(m->notes, section, "bytes", "%llu", (unsigned long long)all);
    for (int t = 0; t < VL_DTYPE_COUNT; t++) {
        const char *name = vl_dtype_info((enum vl_dtype)t)->name;
        if (bytes[t])
            vl_note(m->notes, section, name, "%.1f %% of the bytes", 100.0 * (double)bytes[t] / (double)all);
        if (bytes[t] > bytes[most])
            most = t;
    }
    return (enum vl_dtype)most;
}

/* general.file_type, by the names that people know; and the format that such a file has somewhere. */
static const struct {
    uint32_t type;
    const char *name, *format;
} file_types[] = {
    {0, "F32", "f32"},        {1, "F16", "f16"},      {2, "Q4_0", "q4_0"},    {3, "Q4_1", "q4_1"},
    {7, "Q8_0", "q8_0"},      {8, "Q5_0", "q5_0"},    {9, "Q5_1", "q5_1"},    {14, "Q4_K_S", "q4_k"},
    {15, "Q4_K_M", "q4_k"},   {16, "Q5_K_S", "q5_k"}, {17, "Q5_K_M", "q5_k"}, {18, "Q6_K", "q6_k"},
    {25, "IQ4_NL", "iq4_nl"}, {32, "BF16", "bf16"},
};

static bool has_format(const struct vl_weights *w, const char *format)
{
    for (uint32_t i = 0; i < vl_weights_n_tensors(w); i++)
        if (strcmp(vl_dtype_info(vl_weights_tensor_at(w, i)->dtype)->name, format) == 0)
            return true;
    return false;
}

/* As the file calls itself, if it has anything of that kind; else its commonest format. */
static void name_quantization(struct vl_model *m, const struct vl_weights *text)
{
    uint32_t type;
    const char *name = vl_dtype_info(m->desc.text_dtype)->name;
    if (vl_weights_get_u32(text, "general.file_type", &type, NULL) == 0)
        for (size_t i = 0; i < sizeof(file_types) / sizeof(file_types[0]); i++)
            if (file_types[i].type == type && has_format(text, file_types[i].format))
                name = file_types[i].name;
    (void)snprintf(m->quantization, sizeof(m->quantization), "%s", name);
}

static int describe(struct vl_model *m, struct vl_error *err)
{
    const char *name = vl_weights_name(m->text);
    int r = vl_weights_get_str(m->text, "general.name", &name, err);
    if (r < 0)
        return r;
    copy_name(m->name, sizeof(m->name), name);
    m->desc.text_dtype = tell_file(m, "text", m->text);
    if (m->mmproj)
        m->desc.vision_dtype = tell_file(m, "projector", m->mmproj);
    name_quantization(m, m->text);
    vl_note(m->notes, "text", "name", "%s", m->name);
    vl_note(m->notes, "text", "quantization", "%s", m->quantization);
    m->desc.name = m->name;
    m->desc.quantization = m->quantization;
    return 0;
}

void vl_model_describe_decoder(struct vl_model *m, const struct vl_decoder *d, uint32_t max_batch)
{
    m->desc.n_vocab = d->n_vocab;
    m->desc.d_model = d->d_model;
    m->desc.n_heads = d->n_heads;
    m->desc.n_ctx = d->n_ctx;
    m->desc.max_batch = d->n_ctx < max_batch ? d->n_ctx : max_batch;
    m->desc.kv = (struct vl_kv_geometry){
        .n_layers = d->n_layers,
        .n_kv_heads = d->n_kv_heads,
        .head_dim = d->head_dim,
        .k_dtype = VL_F16,
        .v_dtype = VL_F16,
        .rope = &d->rope,
    };
}

/* ---- reading weights ---- */

static int tell_loaded(void *user, size_t n_bytes)
{
    struct vl_model *m = user;
    m->n_loaded += n_bytes;
    return m->watch ? m->watch->progress(m->watch->user, m->n_loaded, m->n_total) : 0;
}

static void tell_unused(void *user, const struct vl_weights_tensor *t)
{
    const struct vl_model *m = user;
    vl_note(m->notes, "ignored", t->name, "a tensor that this family does not use");
}

int vl_model_load_file(struct vl_model *m, struct vl_bind *b, int file, struct vl_error *err)
{
    size_t bytes;
    vl_bind_set_watch(b, &(struct vl_bind_watch){.user = m, .loaded = tell_loaded, .unused = tell_unused});
    int r = vl_bind_load(b, &m->memory[file], &bytes, err);
    if (r == 0)
        m->desc.weight_bytes += bytes;
    return r;
}

static int load_weights(struct vl_model *m, struct vl_exec *x, struct vl_error *err)
{
    m->ops = x->ops;
    m->device = x->device;
    m->desc.weight_bytes = 0;
    return m->arch->load(m, x, m->text, m->mmproj, err);
}

/* ---- the dry run ---- */

/* What x's device, of the null backend, has counted since before. */
static struct vl_model_cost cost_since(const struct vl_exec *x, struct vl_model_cost before)
{
    const struct vl_null_counts *c = vl_null_counts(x->device);
    struct vl_model_cost sum = {0};
    for (int op = 0; op < VL_OP_COUNT; op++) {
        sum.flops += c->flops[op];
        sum.bytes += c->bytes[op];
    }
    return (struct vl_model_cost){sum.flops - before.flops, sum.bytes - before.bytes};
}

/* Merges as little as can be and in the first layer alone, so that everything stays as large as it can. On
 * the host a merge costs as much as the view has patches, and a file may have many layers. */
static int dry_in_encoder(void *state, struct vl_exec *x, unsigned layer, const struct vl_visual_tokens *tok,
                          const struct vl_tensor *key, struct vl_kept *ret)
{
    (void)state;
    (void)key;
    *ret = (struct vl_kept){.n = layer == 0 && tok->n > 1 ? tok->n - 1 : tok->n};
    if (ret->n == tok->n)
        return 0;
    int r = vl_scratch_1d(x, &ret->index, VL_I32, ret->n);
    return r ? r : vl_scratch_1d(x, &ret->merge_into, VL_I32, tok->n);
}

/* All that a reducer can ask of an encode, so that there is room for it: saliency of as many patches as there
 * are, or of merged ones. A smaller view takes less than either. */
static const struct vl_reducer_ops dry_ops[] = {
    {.name = "dry", .wants_saliency = true},
    {.name = "dry", .wants_saliency = true, .in_encoder = dry_in_encoder},
};

/* A frame of one view, or a still in the shape that makes fewest views: scratch is the same for all. It has
 * no pixels: a few bytes of mmproj can ask for pictures so large that to make them takes seconds. Nor has the
 * look before, of which a frame that can be compared needs the size alone. */
static int dry_encode(const struct vl_model *m, struct vl_exec *x, bool still,
                      const struct vl_reducer *reducer)
{
    struct vl_frame frame = {.width = 64, .height = 1, .format = VL_PIXFMT_GRAY8};
    struct vl_frame *frames[] = {&frame};
    struct vl_unit unit = {.frame = frames, .n_frames = 1, .still = still, .reducer = reducer};
    struct vl_look before = {.rgb = NULL};
    struct vl_view view;
    vl_auto(vl_encode) e = NULL;
    struct vl_visual_tokens tok;
    uint32_t n_views = 1;
    int r = vl_encode_new(&e, m, x, still);
    if (r == 0 && !still && m->desc.look_bytes) {
        r = m->arch->views(m, &unit, &view, &n_views);
        before.edge = view.out_w;
        unit.before = &before;
    }
    if (r == 0)
        r = m->arch->encode_begin(m, e, &unit, 1);
    if (r == 0)
        while ((r = m->arch->encode_step(e, 1, &tok)) == VL_ENCODE_MORE)
            ;
    vl_arena_reset(x->scratch, 0);
    return r;
}

/* n further tokens of text. */
static int dry_tokens(const struct vl_model *m, struct vl_exec *x, struct vl_kv *kv, uint32_t n,
                      uint32_t n_logits)
{
    const struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = n, .extent = n};
    vl_autofree int32_t *id = calloc(n, sizeof(*id));
    struct vl_span span = {.kv = kv, .n = n, .n_logits = n_logits};
    struct vl_tensor logits;
    int r = id ? vl_kv_append(kv, x, &s, &span.slot) : -ENOMEM;
    if (r)
        return r < 0 ? r : -ENOMEM;
    const struct vl_batch b = {.id = id, .span = &span, .n_spans = 1, .n = n};
    r = m->arch->run(m, x, &b, &logits);
    vl_arena_reset(x->scratch, 0);
    return r;
}

static int dry_run(struct vl_model *m, struct vl_exec *x)
{
    struct vl_model_desc *d = &m->desc;
    const struct vl_kv_geometry *g = &d->kv;
    const uint32_t n = d->max_batch, n_logits = n < VL_MODEL_MAX_LOGITS ? n : VL_MODEL_MAX_LOGITS;
    const uint32_t frame = d->frame_tokens && d->frame_tokens < n ? d->frame_tokens : n;
    vl_auto(vl_kv_pool) pool = NULL;
    vl_auto(vl_kv) kv = NULL;
    int r = vl_kv_pool_new(&pool, x, g, vl_kv_geometry_bytes(g, n + frame + 1, 0, 1), NULL, NULL);
    if (r == 0)
        r = vl_kv_new(&kv, pool, NULL, NULL, n + frame + 1, NULL);
    if (r == 0)
        r = dry_tokens(m, x, kv, n, n_logits);
    d->run_scratch = x->scratch->peak;
    if (r == 0)
        r = vl_kv_truncate(kv, 0);
    struct vl_model_cost before = cost_since(x, (struct vl_model_cost){0});
    if (r == 0)
        r = dry_tokens(m, x, kv, frame, 0);
    d->prefill = cost_since(x, before);
    before = cost_since(x, (struct vl_model_cost){0});
    if (r == 0)
        r = dry_tokens(m, x, kv, 1, 1);
    d->step = cost_since(x, before);
    return r;
}

/* The arena that frames need, or stills; cost: without a reducer. */
static int dry_encodes(const struct vl_model *m, struct vl_exec *x, void *memory, bool still,
                       struct vl_model_cost *ret_cost, size_t *ret_scratch)
{
    struct vl_model_cost before = cost_since(x, (struct vl_model_cost){0});
    vl_arena_init(x->scratch, memory, dry_scratch);
    int r = dry_encode(m, x, still, NULL);
    *ret_cost = cost_since(x, before);
    for (size_t i = 0; r == 0 && i < sizeof(dry_ops) / sizeof(dry_ops[0]); i++)
        r = dry_encode(m, x, still, &(struct vl_reducer){.ops = &dry_ops[i]});
    *ret_scratch = x->scratch->peak;
    return r;
}

/* Shapes and scratch of everything the model does, and no byte of its tensors. */
static int rehearse(struct vl_model *m, struct vl_error *err)
{
    const struct vl_backend_ops *ops = &vl_backend_null;
    struct vl_arena arena;
    struct vl_exec x = {.ops = ops, .scratch = &arena};
    void *memory;
    int r = ops->open(&x.device, NULL, err);
    if (r < 0)
        return r;
    r = ops->alloc(x.device, dry_scratch, false, &memory);
    if (r < 0)
        (void)vl_error_set(err, r, "no address space for the dry run");
    if (r == 0 && (r = load_weights(m, &x, err)) == 0) {
        struct vl_model_cost still;
        if (m->desc.frame_tokens)
            r = dry_encodes(m, &x, memory, false, &m->desc.encode, &m->desc.encode_scratch);
        if (r == 0 && m->desc.frame_tokens)
            r = dry_encodes(m, &x, memory, true, &still, &m->desc.still_scratch);
        vl_arena_init(&arena, memory, dry_scratch);
        if (r == 0)
            r = dry_run(m, &x);
        if (r < 0)
            (void)vl_error_set(err, r, "%s%s%s: the shapes do not fit the kernels (dry run: %s)",
                               vl_weights_name(m->text), m->mmproj ? " and " : "",
                               m->mmproj ? vl_weights_name(m->mmproj) : "", strerror(-r));
    }
    m->arch->unload(m);
    ops->close(x.device);
    return r;
}

static void tell_model(const struct vl_model *m)
{
    const struct vl_model_desc *d = &m->desc;
    const char *doubt = vl_tokenizer_doubt(m->tokenizer);
    vl_note(m->notes, "text", "family", "%s", d->arch);
    vl_note(m->notes, "text", "layers", "%u", d->kv.n_layers);
    vl_note(m->notes, "text", "width", "%u", d->d_model);
    vl_note(m->notes, "text", "key heads", "%u of %u", d->kv.n_kv_heads, d->kv.head_dim);
    vl_note(m->notes, "text", "vocabulary", "%u", d->n_vocab);
    vl_note(m->notes, "text", "context", "%u", d->n_ctx);
    if (doubt)
        vl_note(m->notes, "text", "doubt", "%s", doubt);
    if (d->frame_tokens) {
        vl_note(m->notes, "projector", "layers", "%u", d->n_encode_layers);
        vl_note(m->notes, "projector", "tokens of a frame", "%u", d->frame_tokens);
        vl_note(m->notes, "projector", "tokens of the costliest still", "%u", d->max_image_tokens);
        if (d->look_bytes)
            vl_note(m->notes, "projector", "sees change", "a frame is compared with the one before it");
    }
}

int vl_model_open(struct vl_model **ret, const char *text_path, const char *mmproj_path,
                  const struct vl_notes *notes, struct vl_error *err)
{
    vl_auto(vl_model) m = calloc(1, sizeof(*m));
    int r;
    if (!m)
        return vl_error_set(err, -ENOMEM, "out of memory");
    m->notes = notes;
    if ((r = vl_weights_open(&m->text, text_path, err)) < 0 ||
        (mmproj_path && (r = vl_weights_open(&m->mmproj, mmproj_path, err)) < 0) ||
        (r = describe(m, err)) < 0 || (r = find_arch(m, m->text, m->mmproj, err)) < 0 ||
        (r = m->arch->open(m, m->text, m->mmproj, err)) < 0 || (r = rehearse(m, err)) < 0)
        return r;
    tell_model(m);
    m->notes = NULL;
    *ret = vl_steal(m);
    return 0;
}

int vl_model_load(struct vl_model *m, struct vl_exec *x, const struct vl_load_watch *watch,
                  struct vl_error *err)
{
    m->watch = watch;
    m->n_total = m->desc.weight_bytes;
    m->n_loaded = 0;
    int r = load_weights(m, x, err);
    m->watch = NULL;
    m->text = vl_weights_unref(m->text);
    m->mmproj = vl_weights_unref(m->mmproj);
    return r;
}

int vl_model_new(struct vl_model **ret, const char *text_path, const char *mmproj_path, struct vl_exec *x,
                 struct vl_error *err)
{
    vl_auto(vl_model) m = NULL;
    int r = vl_model_open(&m, text_path, mmproj_path, NULL, err);
    if (r == 0)
        r = vl_model_load(m, x, NULL, err);
    if (r == 0)
        *ret = vl_steal(m);
    return r;
}
