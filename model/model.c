/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * Opens a pair of files: which family, do they fit, how much scratch, and then the weights. The dry run on
 * the null backend is the same code that serves later, so a shape that would fail in service fails here,
 * before a page of weights is read. The trap: in a dry run backend memory is never readable.
 */
#include "kernels/null/null.h"
#include "model/model_private.h"
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
    free(m);
    return NULL;
}

int vl_encode_new(struct vl_encode **ret, const struct vl_model *m, struct vl_exec *x)
{
    vl_auto(vl_encode) e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    *e = (struct vl_encode){.model = m, .x = x, .mark = vl_arena_mark(x->scratch)};
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
    for (const struct vl_arch *const *a = vl_archs; *a && n < cap; a++)
        n += (size_t)snprintf(ret + n, cap - n, "%s%s (%s + %s)", n ? ", " : "", (*a)->name, (*a)->text_arch,
                              (*a)->projector);
}

static int find_arch(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                     struct vl_error *err)
{
    const char *arch, *clip, *projector;
    char arch_name[32], projector_name[32], known[96];
    int r;
    if ((r = vl_weights_need_str(text, "general.architecture", &arch, err)) < 0 ||
        (r = vl_weights_need_str(mmproj, "general.architecture", &clip, err)) < 0)
        return r;
    if (strcmp(arch, "clip") == 0)
        return vl_error_set(err, -EINVAL,
                            "%s is a projector (mmproj) file, not a text model; are the two files swapped?",
                            vl_weights_name(text));
    copy_name(arch_name, sizeof(arch_name), clip);
    if (strcmp(clip, "clip") != 0)
        return vl_error_set(
            err, -EINVAL,
            "%s is a text model (%s), not a projector; the mmproj file that belongs to %s is needed",
            vl_weights_name(mmproj), arch_name, vl_weights_name(text));
    r = vl_weights_get_str(mmproj, "clip.projector_type", &projector, err);
    if (r == VL_WEIGHTS_ABSENT)
        return vl_error_set(err, -EINVAL, "%s: clip.projector_type is missing; is it an mmproj file?",
                            vl_weights_name(mmproj));
    if (r < 0)
        return r;
    for (const struct vl_arch *const *a = vl_archs; *a; a++)
        if (strcmp((*a)->text_arch, arch) == 0 && strcmp((*a)->projector, projector) == 0) {
            m->arch = *a;
            return 0;
        }
    copy_name(arch_name, sizeof(arch_name), arch);
    copy_name(projector_name, sizeof(projector_name), projector);
    list_archs(known, sizeof(known));
    return vl_error_set(err, -ENOTSUP,
                        "models of text '%s' with projector '%s' are not supported; supported: %s", arch_name,
                        projector_name, known);
}

/* ---- what it is ---- */

/* The format that holds most bytes, for people to read. */
static void name_quantization(struct vl_model *m, const struct vl_weights *text,
                              const struct vl_weights *mmproj)
{
    uint64_t bytes[VL_DTYPE_COUNT] = {0};
    const struct vl_weights *file[] = {text, mmproj};
    for (int f = 0; f < 2; f++)
        for (uint32_t i = 0; i < vl_weights_n_tensors(file[f]); i++) {
            const struct vl_weights_tensor *t = vl_weights_tensor_at(file[f], i);
            bytes[t->dtype] += t->size;
        }
    int most = 0;
    for (int t = 1; t < VL_DTYPE_COUNT; t++)
        if (bytes[t] > bytes[most])
            most = t;
    (void)snprintf(m->quantization, sizeof(m->quantization), "%s", vl_dtype_info((enum vl_dtype)most)->name);
}

static int describe(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                    struct vl_error *err)
{
    const char *name = vl_weights_name(text);
    int r = vl_weights_get_str(text, "general.name", &name, err);
    if (r < 0)
        return r;
    copy_name(m->name, sizeof(m->name), name);
    name_quantization(m, text, mmproj);
    m->desc.name = m->name;
    m->desc.arch = m->arch->name;
    m->desc.quantization = m->quantization;
    return 0;
}

/* ---- the dry run ---- */

static int dry_encode(struct vl_model *m, struct vl_exec *x)
{
    static const uint8_t grey[16 * 16];
    struct vl_frame frame = {
        .plane = {grey}, .stride = {16}, .width = 16, .height = 16, .format = VL_PIXFMT_GRAY8};
    struct vl_frame *frames[] = {&frame};
    const struct vl_unit unit = {.frame = frames, .n_frames = 1};
    vl_auto(vl_encode) e = NULL;
    struct vl_visual_tokens tok;
    int r = vl_encode_new(&e, m, x);
    if (r == 0)
        r = m->arch->encode_begin(m, e, &unit, 1);
    if (r == 0)
        while ((r = m->arch->encode_step(e, 1, &tok)) == VL_ENCODE_MORE)
            ;
    m->desc.encode_scratch = x->scratch->peak;
    return r;
}

static int dry_run(struct vl_model *m, struct vl_exec *x)
{
    const struct vl_kv_geometry *g = &m->desc.kv;
    const uint32_t n = m->desc.max_batch;
    const struct vl_kv_segment s = {.kind = VL_KV_TEXT, .n = n, .extent = n};
    vl_auto(vl_kv_pool) pool = NULL;
    vl_auto(vl_kv) kv = NULL;
    vl_autofree int32_t *id = calloc(n, sizeof(*id));
    uint32_t slot;
    int r = id ? vl_kv_pool_new(&pool, x, g, vl_kv_geometry_bytes(g, n, 0, 1), NULL, NULL) : -ENOMEM;
    if (r == 0)
        r = vl_kv_new(&kv, pool, NULL, NULL, n, NULL);
    if (r == 0)
        r = vl_kv_append(kv, x, &s, &slot);
    if (r)
        return r < 0 ? r : -ENOMEM;
    const uint32_t n_logits = n < VL_MODEL_MAX_LOGITS ? n : VL_MODEL_MAX_LOGITS;
    const struct vl_span span = {.kv = kv, .slot = slot, .n = n, .n_logits = n_logits};
    const struct vl_batch b = {.id = id, .span = &span, .n_spans = 1, .n = n};
    struct vl_tensor logits;
    r = m->arch->run(m, x, &b, &logits);
    m->desc.run_scratch = x->scratch->peak;
    return r;
}

/* Shapes and scratch of everything the model does, and no byte of its tensors. */
static int rehearse(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                    struct vl_error *err)
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
    if (r == 0 && (r = m->arch->load(m, &x, text, mmproj, err)) == 0) {
        vl_arena_init(&arena, memory, dry_scratch);
        r = dry_encode(m, &x);
        vl_arena_init(&arena, memory, dry_scratch);
        if (r == 0)
            r = dry_run(m, &x);
        if (r < 0)
            (void)vl_error_set(err, r, "%s and %s: the shapes do not fit the kernels (dry run: %s)",
                               vl_weights_name(text), vl_weights_name(mmproj), strerror(-r));
    }
    m->arch->unload(m);
    ops->close(x.device);
    return r;
}

int vl_model_new(struct vl_model **ret, const char *text_path, const char *mmproj_path, struct vl_exec *x,
                 struct vl_error *err)
{
    vl_auto(vl_weights) text = NULL;
    vl_auto(vl_weights) mmproj = NULL;
    vl_auto(vl_model) m = calloc(1, sizeof(*m));
    int r;
    if (!m)
        return vl_error_set(err, -ENOMEM, "out of memory");
    if ((r = vl_weights_open(&text, text_path, err)) < 0)
        return r;
    if (!mmproj_path)
        return vl_error_set(err, -EINVAL, "%s needs the projector (mmproj) file that belongs to it",
                            vl_weights_name(text));
    if ((r = vl_weights_open(&mmproj, mmproj_path, err)) < 0 || (r = find_arch(m, text, mmproj, err)) < 0 ||
        (r = describe(m, text, mmproj, err)) < 0 || (r = m->arch->open(m, text, mmproj, err)) < 0 ||
        (r = rehearse(m, text, mmproj, err)) < 0 || (r = m->arch->load(m, x, text, mmproj, err)) < 0)
        return r;
    *ret = vl_steal(m);
    return 0;
}
