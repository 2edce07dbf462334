/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * SmolVLM and SmolVLM2 (arXiv 2504.05299), and whatever has their shape: a SigLIP encoder, pixel shuffle and
 * one linear map in the mmproj file, a Llama decoder in the text file. Sizes come from the files.
 * docs/models/smolvlm.md has the layout and the protocol. The trap: frames take the video path, one view
 * each; the tiling of still images would be up to 17 views.
 */
#include "base/log.h"
#include "decoder/transformer.h"
#include "model/model_private.h"
#include "vision/preprocess.h"
#include "vision/projector.h"
#include "vision/vit.h"
#include "weights/bind.h"

#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 256, WINDOW_FRAMES = 8 };
static const char default_instruction[] = "Say what changed.";

struct smolvlm {
    struct vl_vit vit;
    struct vl_projector proj;
    struct vl_decoder dec;
};

struct smolvlm_encode {
    struct vl_preprocess pre;
    struct vl_vit_pass pass;
    struct vl_grid_pos *pos; /* [n_tokens] */
    float *weight;           /* [n_tokens] */
    int64_t pts_ns;
};

static const struct smolvlm *family(const struct vl_model *m)
{
    return m->family;
}

/* ---- files ---- */

/* What the protocol is made of. A text model without them is a plain Llama. */
static int check_vocabulary(const struct vl_model *m, const struct vl_weights *text, struct vl_error *err)
{
    static const char *const needed[] = {"<image>", "<fake_token_around_image>", "<global-img>",
                                         "<end_of_utterance>", "<|im_start|>"};
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        int32_t id = vl_tokenizer_find(m->tokenizer, needed[i]);
        if (id == VL_TOKEN_NONE || !vl_tokenizer_is_special(m->tokenizer, id))
            return vl_error_set(
                err, -EINVAL,
                "%s has no special token %s: it is a Llama, but not the text model of a SmolVLM",
                vl_weights_name(text), needed[i]);
    }
    if (!vl_tokenizer_is_end(m->tokenizer, vl_tokenizer_find(m->tokenizer, "<end_of_utterance>")))
        return vl_error_set(err, -EINVAL, "%s: <end_of_utterance> does not end a reply",
                            vl_weights_name(text));
    return 0;
}

static uint32_t page_slots(uint32_t frame_tokens)
{
    for (uint32_t n = 64; n > 16; n /= 2)
        if (frame_tokens % n == 0)
            return n;
    return 16;
}

/* What the files say and is not believed; docs/models/smolvlm.md says why. */
static void log_repairs(const struct smolvlm *s, const struct vl_weights *mmproj)
{
    static const char key[] = "clip.vision.attention.layer_norm_epsilon";
    float eps;
    if (s->vit.swapped_ffn)
        vl_log(VL_LOG_DEBUG, "model", "%s: ffn_up and ffn_down are exchanged", vl_weights_name(mmproj));
    if (vl_weights_get_f32(mmproj, key, &eps, NULL) == 0 && eps != s->vit.eps)
        vl_log(VL_LOG_DEBUG, "model", "%s: %s is %g, taken as %g", vl_weights_name(mmproj), key, (double)eps,
               (double)s->vit.eps);
}

static int smolvlm_open(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                        struct vl_error *err)
{
    struct smolvlm *s = m->family = calloc(1, sizeof(*s));
    int r;
    if (!s)
        return vl_error_set(err, -ENOMEM, "out of memory");
    if ((r = vl_tokenizer_new(&m->tokenizer, text, err)) < 0 || (r = check_vocabulary(m, text, err)) < 0 ||
        (r = vl_decoder_init(&s->dec, text, vl_tokenizer_n_vocab(m->tokenizer), err)) < 0 ||
        (r = vl_vit_init(&s->vit, mmproj, err)) < 0)
        return r;
    log_repairs(s, mmproj);
    struct vl_model_desc *d = &m->desc;
    d->n_vocab = s->dec.n_vocab;
    d->d_model = s->dec.d_model;
    d->n_ctx = s->dec.n_ctx;
    d->n_encode_layers = s->vit.n_layers;
    d->default_window_frames = WINDOW_FRAMES;
    d->max_batch = d->n_ctx < MAX_BATCH ? d->n_ctx : MAX_BATCH;
    return 0;
}

static int load_file(struct vl_model *m, struct vl_bind *b, int file, struct vl_error *err)
{
    size_t bytes;
    int r = vl_bind_load(b, &m->memory[file], &bytes, err);
    if (r == 0)
        m->desc.weight_bytes += bytes;
    return r;
}

static int smolvlm_load(struct vl_model *m, struct vl_exec *x, const struct vl_weights *text,
                        const struct vl_weights *mmproj, struct vl_error *err)
{
    struct smolvlm *s = m->family;
    vl_auto(vl_bind) bt = NULL;
    vl_auto(vl_bind) bm = NULL;
    int r;
    m->ops = x->ops;
    m->device = x->device;
    m->desc.weight_bytes = 0;
    if ((r = vl_projector_init(&s->proj, mmproj, x, s->vit.grid, s->vit.d_model, err)) < 0)
        return r;
    if (s->proj.d_out != s->dec.d_model)
        return vl_error_set(err, -EINVAL,
                            "%s makes tokens of width %u, %s takes %u: the two files do not belong together",
                            vl_weights_name(mmproj), s->proj.d_out, vl_weights_name(text), s->dec.d_model);
    if ((r = vl_bind_new(&bt, text, x)) < 0 || (r = vl_bind_new(&bm, mmproj, x)) < 0)
        return vl_error_set(err, r, "out of memory");
    if ((r = vl_decoder_bind(&s->dec, text, bt, err)) < 0 || (r = vl_vit_bind(&s->vit, bm, err)) < 0 ||
        (r = vl_projector_bind(&s->proj, bm, err)) < 0 || (r = load_file(m, bt, 0, err)) < 0 ||
        (r = load_file(m, bm, 1, err)) < 0)
        return r;
    m->desc.frame_tokens = vl_projector_n_tokens(&s->proj);
    m->desc.kv = (struct vl_kv_geometry){
        .n_layers = s->dec.n_layers,
        .n_kv_heads = s->dec.n_kv_heads,
        .head_dim = s->dec.head_dim,
        .page_slots = page_slots(m->desc.frame_tokens),
        .k_dtype = VL_F16,
        .v_dtype = VL_F16,
        .rope = &s->dec.rope,
    };
    return 0;
}

static void smolvlm_unload(struct vl_model *m)
{
    struct smolvlm *s = m->family;
    struct vl_exec x = {.ops = m->ops, .device = m->device};
    if (s)
        vl_projector_done(&s->proj, &x);
    vl_model_free_weights(m);
}

static void smolvlm_close(struct vl_model *m)
{
    struct smolvlm *s = m->family;
    if (!s)
        return;
    smolvlm_unload(m);
    vl_vit_done(&s->vit);
    vl_decoder_done(&s->dec);
    free(s);
    m->family = NULL;
}

/* ---- frames ---- */

static int smolvlm_views(const struct vl_model *m, const struct vl_unit *u, struct vl_view *ret,
                         uint32_t *inout_n)
{
    const struct smolvlm *s = family(m);
    if (u->n_frames != 1 || *inout_n < 1)
        return -EINVAL;
    const struct vl_frame *f = u->frame[0];
    if (f->width < 1 || f->height < 1 || f->width > VL_MODEL_MAX_SIDE || f->height > VL_MODEL_MAX_SIDE)
        return -EINVAL;
    vl_view_squash(ret, f->width, f->height, s->vit.image_size);
    ret->grid_w = ret->grid_h = s->proj.grid / s->proj.scale;
    ret->n_tokens = vl_projector_n_tokens(&s->proj);
    *inout_n = 1;
    return 0;
}

static int smolvlm_encode_init(const struct vl_model *m, struct vl_encode *e)
{
    const struct smolvlm *s = family(m);
    struct smolvlm_encode *f = e->family = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    const uint32_t n = vl_projector_n_tokens(&s->proj);
    f->pos = calloc(n, sizeof(*f->pos));
    f->weight = calloc(n, sizeof(*f->weight));
    if (!f->pos || !f->weight)
        return -ENOMEM;
    return vl_preprocess_init(&f->pre, VL_FILTER_LANCZOS, VL_MODEL_MAX_SIDE, s->vit.image_size);
}

static void smolvlm_encode_free(struct vl_encode *e)
{
    struct smolvlm_encode *f = e->family;
    if (!f)
        return;
    vl_preprocess_done(&f->pre);
    free(f->pos);
    free(f->weight);
    free(f);
    e->family = NULL;
}

/* The square's bytes to the device, cut into patches there, and the first linear map. */
static int begin_pass(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x,
                      const struct vl_tensor *square)
{
    const struct vl_vit *v = &s->vit;
    struct vl_tensor img, patches;
    int r;
    if ((r = vl_scratch_3d(x, &img, VL_U8, square->dim[0], square->dim[1], 3)) ||
        (r = vl_scratch_2d(x, &patches, VL_F32, v->grid * v->grid, 3 * v->patch * v->patch)) ||
        (r = x->ops->copy(x, &img, square)))
        return r;
    vl_tap(x, &img, "pixels");
    r = x->ops->patchify(x, &patches, &img, v->patch, v->mean, v->std);
    vl_tap(x, &patches, "patches");
    return r ? r : vl_vit_begin(&f->pass, v, x, &patches, 1);
}

static int smolvlm_encode_begin(const struct vl_model *m, struct vl_encode *e, const struct vl_unit *u,
                                uint32_t n_units)
{
    struct smolvlm_encode *f = e->family;
    struct vl_view view;
    struct vl_tensor square;
    uint32_t n_views = 1;
    int r;
    vl_arena_reset(e->x->scratch, e->mark);
    if (n_units != 1)
        return -EINVAL;
    if ((r = smolvlm_views(m, u, &view, &n_views)) < 0 ||
        (r = vl_preprocess_run(&f->pre, e->x->workers, u->frame[0], &view, &square)) < 0)
        return r;
    f->pts_ns = u->frame[0]->pts_ns;
    return begin_pass(family(m), f, e->x, &square);
}

static void fill_tokens(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_visual_tokens *ret)
{
    const uint32_t side = s->proj.grid / s->proj.scale;
    for (uint32_t i = 0; i < side * side; i++) {
        f->pos[i] = (struct vl_grid_pos){.y = (uint16_t)(i / side), .x = (uint16_t)(i % side)};
        f->weight[i] = 1;
    }
    ret->pos = f->pos;
    ret->weight = f->weight;
    ret->n = side * side;
    ret->grid_w = ret->grid_h = side;
    ret->pts_ns = f->pts_ns;
}

static int smolvlm_encode_step(struct vl_encode *e, unsigned n_layers, struct vl_visual_tokens *ret)
{
    const struct smolvlm *s = family(e->model);
    struct smolvlm_encode *f = e->family;
    struct vl_visual_tokens tok = {0};
    int r = vl_vit_step(&f->pass, e->x, n_layers);
    if (r == VL_VIT_MORE)
        return VL_ENCODE_MORE;
    if (r < 0 || (r = vl_projector_run(&s->proj, e->x, &f->pass.h, 1, &tok.feat)) < 0)
        return r;
    fill_tokens(s, f, &tok);
    *ret = tok;
    return 0;
}

/* One-dimensional positions in raster order; a token that was pruned leaves its own free. */
static int smolvlm_positions(const struct vl_model *m, const struct vl_visual_tokens *tok,
                             int64_t (*ret_rel)[3], int64_t *ret_extent)
{
    (void)m;
    for (uint32_t i = 0; i < tok->n; i++) {
        int64_t at = (int64_t)tok->pos[i].y * tok->grid_w + tok->pos[i].x;
        for (int axis = 0; axis < 3; axis++)
            ret_rel[i][axis] = at;
    }
    *ret_extent = (int64_t)tok->grid_w * tok->grid_h;
    return 0;
}

/* ---- prompts ---- */

static struct vl_text_piece trusted(const char *text)
{
    return (struct vl_text_piece){.text = text, .len = strlen(text), .trusted = true};
}

static struct vl_text_piece words(const char *text)
{
    return (struct vl_text_piece){.text = text, .len = strlen(text)};
}

static int put_text(const struct vl_model *m, struct vl_chunk *c, const struct vl_text_piece *piece, size_t n)
{
    uint32_t n_ids;
    int r = vl_tokenizer_encode_pieces(m->tokenizer, piece, n, c->id + c->n, c->cap - c->n, &n_ids);
    if (r == 0)
        c->n += n_ids;
    return r == VL_TOKENIZER_FULL ? VL_CHUNK_FULL : r;
}

static int put_places(struct vl_chunk *c, uint32_t n)
{
    if (n > c->cap - c->n)
        return VL_CHUNK_FULL;
    for (uint32_t i = 0; i < n; i++)
        c->id[c->n++] = -1;
    c->n_places += n;
    return 0;
}

static int put_frame(const struct vl_model *m, struct vl_chunk *c, int64_t pts_ns)
{
    char head[128];
    const int64_t t = pts_ns > 0 ? pts_ns / 1000000000 : 0;
    (void)snprintf(head, sizeof(head),
                   "User:\nFrame from %lld:%02d:%02d:<fake_token_around_image><global-img>",
                   (long long)(t / 3600), (int)(t / 60 % 60), (int)(t % 60));
    const struct vl_text_piece before = trusted(head),
                               after = trusted("<fake_token_around_image><end_of_utterance>\nAssistant:");
    int r = put_text(m, c, &before, 1);
    if (r == 0)
        r = put_places(c, m->desc.frame_tokens);
    return r ? r : put_text(m, c, &after, 1);
}

static int put_part(const struct vl_model *m, enum vl_part part, const char *text, int64_t pts_ns,
                    struct vl_chunk *c)
{
    switch (part) {
    case VL_PART_SYSTEM: {
        const struct vl_text_piece p[] = {trusted("<|im_start|>System: "),
                                          words(text ? text : default_instruction),
                                          trusted("<end_of_utterance>\n")};
        return put_text(m, c, p, 3);
    }
    case VL_PART_FRAME:
        return put_frame(m, c, pts_ns);
    case VL_PART_CAPTION_END:
    case VL_PART_REPLY_END: {
        const struct vl_text_piece p = trusted("<end_of_utterance>\n");
        return put_text(m, c, &p, 1);
    }
    case VL_PART_QUESTION: {
        const struct vl_text_piece p[] = {trusted("User: "), words(text ? text : ""),
                                          trusted("<end_of_utterance>\nAssistant:")};
        return put_text(m, c, p, 3);
    }
    }
    return -EINVAL;
}

static int smolvlm_render(const struct vl_model *m, enum vl_part part, const char *text, int64_t pts_ns,
                          struct vl_chunk *inout)
{
    struct vl_chunk c = *inout;
    int r = put_part(m, part, text, pts_ns, &c);
    if (r == 0)
        *inout = c;
    return r;
}

static int smolvlm_run(const struct vl_model *m, struct vl_exec *x, const struct vl_batch *b,
                       struct vl_tensor *ret_logits)
{
    if (b->n > m->desc.max_batch)
        return -EINVAL;
    return vl_decoder_run(&family(m)->dec, x, b, ret_logits);
}

const struct vl_arch vl_arch_smolvlm = {
    .name = "smolvlm",
    .text_arch = "llama",
    .projector = "idefics3",
    .open = smolvlm_open,
    .load = smolvlm_load,
    .unload = smolvlm_unload,
    .close = smolvlm_close,
    .views = smolvlm_views,
    .encode_init = smolvlm_encode_init,
    .encode_free = smolvlm_encode_free,
    .encode_begin = smolvlm_encode_begin,
    .encode_step = smolvlm_encode_step,
    .positions = smolvlm_positions,
    .render = smolvlm_render,
    .run = smolvlm_run,
};
