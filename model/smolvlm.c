/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * SmolVLM and SmolVLM2 (arXiv 2504.05299), and whatever has their shape: a SigLIP encoder, pixel shuffle and
 * one linear map in the mmproj file, a Llama decoder in the text file. Sizes come from the files.
 * docs/models/smolvlm.md has the layout and the protocol. The trap: frames take the video path, one view
 * each; still pictures are enlarged, cut into tiles and cost up to 17 views. A reducer may ask for smaller
 * views; whatever it does, places and positions are counted on the whole grid.
 */
#include "decoder/transformer.h"
#include "model/model_private.h"
#include "model/prompt.h"
#include "tokenprune/reducer.h"
#include "vision/preprocess.h"
#include "vision/projector.h"
#include "vision/tiles.h"
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
    uint32_t longest;     /* edge of a still before it is cut */
    uint32_t still_views; /* of the costliest still */
    bool frames_only;     /* was never shown a still: one is asked about as if it were a frame */
};

struct smolvlm_encode {
    struct vl_preprocess pre; /* of frames; of a still's tiles, when a smaller view is wanted */
    struct vl_tiles tiles;    /* of stills */
    bool taken;               /* a still's pixels, which are not yet cut into views */
    uint32_t n_views, view;   /* view: the one under way */
    uint32_t grid, edge;      /* patches and pixels on a side of each view */
    struct vl_tensor rows;    /* [n_views * n_tokens, d_model] in the arena, stills only */
    const struct vl_reducer *reducer;
    struct vl_vit_host vit;
    struct vl_vit_pass pass;
    size_t mark;             /* of the arena between two views */
    struct vl_grid_pos *pos; /* [n_views * n_tokens] of the costliest unit */
    float *weight;           /* likewise */
    float *saliency;         /* likewise */
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
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
        if (!vl_prompt_has_special(m, needed[i]))
            return vl_error_set(
                err, -EINVAL,
                "%s has no special token %s: it is a Llama, but not the text model of a SmolVLM",
                vl_weights_name(text), needed[i]);
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

/* How many tiles on a side the vocabulary has names for: 6 in published files. */
static uint32_t named_tiles(const struct vl_model *m)
{
    char name[32];
    uint32_t n = 0;
    do {
        n++;
        (void)snprintf(name, sizeof(name), "<row_%u_col_%u>", n, n);
    } while (n <= 16 && vl_prompt_has_special(m, name));
    return n - 1;
}

/* The edge that a still is brought to. Files that do not say it: four tiles, as all published models have it.
 * A vocabulary without names for the tiles was trained without them: one view, in the words of a frame. */
static int read_stills(struct vl_model *m, struct smolvlm *s, const struct vl_weights *mmproj,
                       struct vl_error *err)
{
    static const char key[] = "clip.vision.preproc_image_size";
    const uint32_t tile = s->vit.image_size, named = named_tiles(m);
    s->frames_only = named == 0;
    uint32_t side, longest = 4 * tile;
    int r = vl_weights_get_u32(mmproj, key, &longest, err);
    if (r < 0)
        return r;
    if (r == VL_WEIGHTS_ABSENT && longest <= VL_TILES_MAX_LONGEST && named >= 4)
        vl_note(m->notes, "repaired", key, "missing, taken as %u", longest);
    else if (r == VL_WEIGHTS_ABSENT)
        longest = tile;
    if (longest < tile || longest > VL_TILES_MAX_LONGEST)
        return vl_error_set(err, -EINVAL, "%s: %s is %u; %u (one tile) to %u is possible",
                            vl_weights_name(mmproj), key, longest, tile, VL_TILES_MAX_LONGEST);
    s->still_views = vl_tile_max_views(longest, tile, &side);
    if (side > 1 && side > named) {
        vl_note(m->notes, "repaired", key,
                "is %u, taken as %u: the vocabulary names %u of %u tiles on a side", longest, tile, named,
                side);
        longest = tile;
        s->still_views = vl_tile_max_views(longest, tile, &side);
    }
    if (s->still_views > VL_MODEL_MAX_VIEWS)
        return vl_error_set(err, -EINVAL, "%s: %s is %u: %u views of %u; %d are possible",
                            vl_weights_name(mmproj), key, longest, s->still_views, tile, VL_MODEL_MAX_VIEWS);
    s->longest = longest;
    return 0;
}

/* What the files say and is not believed; docs/models/smolvlm.md says why. */
static void tell_repairs(const struct vl_model *m, const struct smolvlm *s, const struct vl_weights *mmproj)
{
    static const char eps_key[] = "clip.vision.attention.layer_norm_epsilon",
                      ff_key[] = "clip.vision.feed_forward_length", depth_key[] = "clip.vision.block_count";
    float eps;
    uint32_t n;
    if (s->vit.swapped_ffn)
        vl_note(m->notes, "repaired", "v.blk.N.ffn_up, ffn_down", "exchanged, put right by their shapes");
    if (vl_weights_get_f32(mmproj, eps_key, &eps, NULL) == 0 && eps != s->vit.eps)
        vl_note(m->notes, "repaired", eps_key, "is %g, taken as %g", (double)eps, (double)s->vit.eps);
    if (vl_weights_get_u32(mmproj, ff_key, &n, NULL) == 0 && n != s->vit.d_ff)
        vl_note(m->notes, "repaired", ff_key, "is %u, the tensors have %u", n, s->vit.d_ff);
    if (vl_weights_get_u32(mmproj, depth_key, &n, NULL) == 0 && n != s->vit.n_layers)
        vl_note(m->notes, "repaired", depth_key, "is %u, the tensors have %u", n, s->vit.n_layers);
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
        (r = vl_vit_init(&s->vit, mmproj, err)) < 0 || (r = read_stills(m, s, mmproj, err)) < 0)
        return r;
    tell_repairs(m, s, mmproj);
    vl_note(m->notes, "protocol", "name", "smolvlm");
    vl_model_describe_decoder(m, &s->dec, MAX_BATCH);
    m->desc.n_encode_layers = s->vit.n_layers;
    m->desc.view_patches = s->vit.grid * s->vit.grid;
    m->desc.d_vision = s->vit.d_model;
    if (s->vit.sees_change)
        m->desc.look_bytes = 3 * (size_t)s->vit.image_size * s->vit.image_size;
    m->desc.default_window_frames = WINDOW_FRAMES;
    return 0;
}

static int smolvlm_load(struct vl_model *m, struct vl_exec *x, const struct vl_weights *text,
                        const struct vl_weights *mmproj, struct vl_error *err)
{
    struct smolvlm *s = m->family;
    vl_auto(vl_bind) bt = NULL;
    vl_auto(vl_bind) bm = NULL;
    int r;
    if ((r = vl_projector_init(&s->proj, mmproj, x, s->vit.grid, s->vit.d_model, err)) < 0)
        return r;
    if (s->proj.d_out != s->dec.d_model)
        return vl_error_set(err, -EINVAL,
                            "%s makes tokens of width %u, %s takes %u: the two files do not belong together",
                            vl_weights_name(mmproj), s->proj.d_out, vl_weights_name(text), s->dec.d_model);
    if ((r = vl_bind_new(&bt, text, x)) < 0 || (r = vl_bind_new(&bm, mmproj, x)) < 0)
        return vl_error_set(err, r, "out of memory");
    if ((r = vl_decoder_bind(&s->dec, text, bt, err)) < 0 || (r = vl_vit_bind(&s->vit, bm, err)) < 0 ||
        (r = vl_projector_bind(&s->proj, bm, err)) < 0 || (r = vl_model_load_file(m, bt, 0, err)) < 0 ||
        (r = vl_model_load_file(m, bm, 1, err)) < 0)
        return r;
    m->desc.frame_tokens = vl_projector_n_tokens(&s->proj);
    m->desc.max_image_tokens = s->still_views * m->desc.frame_tokens;
    m->desc.kv.page_slots = page_slots(m->desc.frame_tokens);
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

/* ---- pictures ---- */

/* Patches on a side of u's views: all, unless its reducer wants fewer. */
static int choose_grid(const struct smolvlm *s, const struct vl_unit *u, uint32_t *ret)
{
    const uint32_t whole = s->vit.grid, side = whole / s->proj.scale;
    const struct vl_reducer *red = u->reducer;
    uint32_t grid = whole;
    if (red && red->ops->view && u->budget && u->budget < side * side) {
        int r = red->ops->view(red->state, s->proj.scale, u->budget, &grid);
        if (r < 0)
            return r;
        if (grid == 0 || grid > whole || grid % s->proj.scale)
            return -EINVAL;
    }
    *ret = grid;
    return 0;
}

/* A smaller view shows what the whole one does: what is left over beside the last patch shrinks with it. */
static uint32_t edge_of(const struct smolvlm *s, uint32_t grid)
{
    return s->vit.image_size * grid / s->vit.grid;
}

static int smolvlm_views(const struct vl_model *m, const struct vl_unit *u, struct vl_view *ret,
                         uint32_t *inout_n)
{
    const struct smolvlm *s = family(m);
    struct vl_tile_plan plan = {.n_views = 1};
    uint32_t grid;
    if (u->n_frames != 1)
        return -EINVAL;
    const struct vl_frame *f = u->frame[0];
    if (f->width < 1 || f->height < 1 || f->width > VL_MODEL_MAX_SIDE || f->height > VL_MODEL_MAX_SIDE)
        return -EINVAL;
    if (u->still)
        vl_tile_plan_init(&plan, f->width, f->height, s->longest, s->vit.image_size);
    if (*inout_n < plan.n_views)
        return -EINVAL;
    int r = choose_grid(s, u, &grid);
    if (r < 0)
        return r;
    const uint32_t edge = edge_of(s, grid), side = grid / s->proj.scale;
    for (uint32_t i = 0; i < plan.n_views; i++) {
        ret[i] = (struct vl_view){.src_w = f->width, .src_h = f->height, .out_w = edge, .out_h = edge};
        if (!u->still)
            vl_view_squash(&ret[i], f->width, f->height, edge);
        ret[i].grid_w = ret[i].grid_h = s->proj.grid / s->proj.scale;
        ret[i].n_tokens = side * side;
    }
    *inout_n = plan.n_views;
    return 0;
}

static int smolvlm_encode_init(const struct vl_model *m, struct vl_encode *e)
{
    const struct smolvlm *s = family(m);
    struct smolvlm_encode *f = e->family = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    const size_t n = (size_t)vl_projector_n_tokens(&s->proj) * (e->stills ? s->still_views : 1);
    const uint32_t edge = s->vit.image_size + (s->vit.image_size & 1); /* on the way to an odd one: even */
    const uint32_t max_side = e->stills ? s->vit.image_size : VL_MODEL_MAX_SIDE;
    f->pos = calloc(n, sizeof(*f->pos));
    f->weight = calloc(n, sizeof(*f->weight));
    f->saliency = calloc(n, sizeof(*f->saliency));
    if (!f->pos || !f->weight || !f->saliency)
        return -ENOMEM;
    int r = vl_vit_host_init(&f->vit, &s->vit);
    if (r == 0)
        r = vl_preprocess_init(&f->pre, VL_FILTER_LANCZOS, max_side, edge);
    if (r == 0 && e->stills)
        r = vl_tiles_init(&f->tiles, VL_MODEL_MAX_SIDE, s->longest, s->vit.image_size);
    return r;
}

static void smolvlm_encode_free(struct vl_encode *e)
{
    struct smolvlm_encode *f = e->family;
    if (!f)
        return;
    vl_preprocess_done(&f->pre);
    vl_tiles_done(&f->tiles);
    vl_vit_host_done(&f->vit);
    free(f->pos);
    free(f->weight);
    free(f->saliency);
    free(f);
    e->family = NULL;
}

/* The patches of the look before, minus those of img: what patchify gives for the one, plus what it gives for
 * the other with the sign turned. Exactly 0 where nothing has changed. */
static int take_change(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x,
                       const struct vl_tensor *img, const struct vl_look *before, struct vl_tensor *change)
{
    const struct vl_vit *v = &s->vit;
    const float minus[3] = {-v->std[0], -v->std[1], -v->std[2]};
    const struct vl_tensor host = vl_tensor_3d(before->rgb, VL_U8, f->edge, f->edge, 3);
    struct vl_tensor was, now;
    int r = vl_scratch_2d(x, change, VL_F32, f->grid * f->grid, 3 * v->patch * v->patch);
    const size_t mark = vl_arena_mark(x->scratch);
    if (r == 0 && (r = vl_scratch_3d(x, &was, VL_U8, f->edge, f->edge, 3)) == 0 &&
        (r = vl_scratch_2d(x, &now, VL_F32, change->dim[0], change->dim[1])) == 0 &&
        (r = x->ops->copy(x, &was, &host)) == 0 &&
        (r = x->ops->patchify(x, change, &was, v->patch, v->mean, v->std)) == 0 &&
        (r = x->ops->patchify(x, &now, img, v->patch, v->mean, minus)) == 0)
        r = x->ops->add(x, change, change, &now);
    vl_arena_reset(x->scratch, mark);
    vl_tap(x, change, "change");
    return r;
}

/* The square's bytes to the device, cut into patches there, and the first linear map. before: or NULL. */
static int begin_view(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x,
                      const struct vl_tensor *square, const struct vl_look *before)
{
    const struct vl_vit *v = &s->vit;
    const bool compared = v->sees_change && before && before->edge == f->edge;
    struct vl_tensor img, patches, change;
    int r;
    if ((r = vl_scratch_3d(x, &img, VL_U8, square->dim[0], square->dim[1], 3)) ||
        (r = vl_scratch_2d(x, &patches, VL_F32, f->grid * f->grid, 3 * v->patch * v->patch)) ||
        (r = x->ops->copy(x, &img, square)))
        return r;
    vl_tap(x, &img, "pixels");
    r = x->ops->patchify(x, &patches, &img, v->patch, v->mean, v->std);
    vl_tap(x, &patches, "patches");
    if (r == 0 && compared)
        r = take_change(s, f, x, &img, before, &change);
    return r ? r
             : vl_vit_begin(&f->pass, v, x, &patches, compared ? &change : NULL, f->grid, &f->vit,
                            f->reducer);
}

static int begin_still(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x,
                       const struct vl_frame *frame)
{
    int r = vl_tiles_take(&f->tiles, x->workers, frame);
    if (r == 0) /* room for the costliest: scratch is the same for all shapes */
        r = vl_scratch_2d(x, &f->rows, VL_F32, s->still_views * vl_projector_n_tokens(&s->proj),
                          s->proj.d_out);
    f->n_views = f->tiles.plan.n_views;
    f->taken = true;
    return r;
}

static int begin_frame(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x,
                       const struct vl_unit *u, const struct vl_view *view)
{
    struct vl_tensor square;
    int r = vl_preprocess_run(&f->pre, x->workers, u->frame[0], view, &square);
    if (r == 0)
        r = begin_view(s, f, x, &square, u->before);
    if (r == 0 && u->look && s->vit.sees_change) {
        memcpy(u->look->rgb, square.data, vl_tensor_bytes(&square));
        u->look->edge = f->edge;
    }
    return r;
}

static int smolvlm_encode_begin(const struct vl_model *m, struct vl_encode *e, const struct vl_unit *u,
                                uint32_t n_units)
{
    const struct smolvlm *s = family(m);
    struct smolvlm_encode *f = e->family;
    struct vl_view view[VL_MODEL_MAX_VIEWS];
    uint32_t n_views = VL_MODEL_MAX_VIEWS;
    vl_arena_reset(e->x->scratch, e->mark);
    if (u->look)
        u->look->edge = 0;
    if (n_units != 1 || u->still != e->stills)
        return -EINVAL;
    int r = smolvlm_views(m, u, view, &n_views);
    if (r < 0)
        return r;
    f->pts_ns = u->frame[0]->pts_ns;
    f->reducer = u->reducer;
    f->edge = view->out_w;
    f->grid = f->edge / s->vit.patch;
    f->view = 0;
    f->n_views = 1;
    if (u->still)
        return begin_still(s, f, e->x, u->frame[0]);
    return begin_frame(s, f, e->x, u, view);
}

static bool wants_saliency(const struct smolvlm_encode *f)
{
    return f->reducer && f->reducer->ops->wants_saliency;
}

/* A smaller view's tokens stand where the middle of their area lies in the whole grid. */
static uint16_t place_of(uint32_t i, uint32_t side, uint32_t whole)
{
    return (uint16_t)((2 * i + 1) * whole / (2 * side));
}

static int fill_tokens(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x,
                       struct vl_visual_tokens *ret)
{
    const uint32_t whole = s->proj.grid / s->proj.scale, side = f->grid / s->proj.scale, n = side * side;
    for (uint32_t i = 0; i < n * f->n_views; i++) {
        f->pos[i] = (struct vl_grid_pos){
            .t = i / n, .y = place_of(i % n / side, side, whole), .x = place_of(i % side, side, whole)};
        f->weight[i] = 1;
    }
    ret->pos = f->pos;
    ret->weight = f->weight;
    ret->n = n * f->n_views;
    ret->grid_w = ret->grid_h = whole;
    ret->tile_cols = f->n_views > 1 ? f->tiles.plan.cols : 0;
    ret->pts_ns = f->pts_ns;
    if (!wants_saliency(f))
        return 0;
    const struct vl_tensor host = vl_tensor_1d(f->saliency, VL_F32, ret->n);
    int r = vl_scratch_1d(x, &ret->saliency, VL_F32, ret->n);
    return r ? r : x->ops->copy(x, &ret->saliency, &host);
}

/* A token's saliency is the sum of its patches'. */
static void keep_saliency(const struct smolvlm *s, struct smolvlm_encode *f)
{
    const uint32_t scale = s->proj.scale, side = f->grid / scale;
    float *to = f->saliency + (size_t)f->view * side * side;
    for (uint32_t i = 0; i < side * side; i++)
        to[i] = 0;
    for (uint32_t i = 0; i < f->grid * f->grid; i++)
        to[i / f->grid / scale * side + i % f->grid / scale] += f->vit.saliency[i];
}

/* A still's view as it was cut, or made smaller. */
static int still_view(struct smolvlm_encode *f, struct vl_workers *workers, struct vl_tensor *ret)
{
    *ret = vl_tiles_view(&f->tiles, f->view);
    const uint32_t tile = ret->dim[0];
    if (f->edge == tile)
        return 0;
    const struct vl_frame frame = {.plane = {ret->data},
                                   .stride = {(uint32_t)ret->stride[0]},
                                   .width = tile,
                                   .height = tile,
                                   .format = VL_PIXFMT_RGB24};
    const struct vl_view view = {.src_w = tile, .src_h = tile, .out_w = f->edge, .out_h = f->edge};
    return vl_preprocess_run(&f->pre, workers, &frame, &view, ret);
}

/* The first view's pixels are cut by a step of their own, so that no step is much longer than a layer. */
static int begin_next_view(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x)
{
    int r;
    if (f->taken) {
        if ((r = vl_tiles_cut(&f->tiles, x->workers)) < 0)
            return r;
        f->mark = vl_arena_mark(x->scratch);
        f->taken = false;
    }
    struct vl_tensor square;
    vl_arena_reset(x->scratch, f->mark);
    if ((r = still_view(f, x->workers, &square)) == 0)
        r = begin_view(s, f, x, &square, NULL);
    return r < 0 ? r : VL_ENCODE_MORE;
}

/* The tokens of a still's finished view to the others'. */
static int keep_view(const struct smolvlm *s, struct smolvlm_encode *f, struct vl_exec *x,
                     const struct vl_tensor *feat)
{
    const uint32_t n = feat->dim[0];
    struct vl_tensor to = vl_tensor_rows(&f->rows, f->view * n, n);
    int r = x->ops->copy(x, &to, feat);
    if (r < 0)
        return r;
    return ++f->view < f->n_views ? begin_next_view(s, f, x) : 0;
}

static int smolvlm_encode_step(struct vl_encode *e, unsigned n_layers, struct vl_visual_tokens *ret)
{
    const struct smolvlm *s = family(e->model);
    struct smolvlm_encode *f = e->family;
    struct vl_visual_tokens tok = {0};
    if (f->taken)
        return begin_next_view(s, f, e->x);
    int r = vl_vit_step(&f->pass, e->x, n_layers);
    if (r == VL_VIT_MORE)
        return VL_ENCODE_MORE;
    const bool merged = f->pass.h.dim[0] < f->grid * f->grid;
    if (r < 0 || (r = vl_projector_run(&s->proj, e->x, &f->pass.h, f->grid, merged ? f->vit.row : NULL,
                                       f->vit.work, &tok.feat)) < 0)
        return r;
    if (wants_saliency(f))
        keep_saliency(s, f);
    if (e->stills) {
        const uint32_t n = tok.feat.dim[0];
        if ((r = keep_view(s, f, e->x, &tok.feat)))
            return r;
        tok.feat = vl_tensor_rows(&f->rows, 0, f->n_views * n);
    }
    if ((r = fill_tokens(s, f, e->x, &tok)) < 0)
        return r;
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

static int put_frame(const struct vl_model *m, struct vl_chunk *c, int64_t pts_ns)
{
    char head[128];
    const int64_t t = pts_ns > 0 ? pts_ns / 1000000000 : 0;
    (void)snprintf(head, sizeof(head),
                   "User:\nFrame from %lld:%02d:%02d:<fake_token_around_image><global-img>",
                   (long long)(t / 3600), (int)(t / 60 % 60), (int)(t % 60));
    const struct vl_text_piece before = vl_prompt_template(head),
                               after = vl_prompt_template(
                                   "<fake_token_around_image><end_of_utterance>\nAssistant:");
    int r = vl_prompt_put(m, c, &before, 1);
    if (r == 0)
        r = vl_prompt_put_places(c, m->desc.frame_tokens);
    return r ? r : vl_prompt_put(m, c, &after, 1);
}

static int put_part(const struct vl_model *m, enum vl_part part, const char *text, int64_t pts_ns,
                    struct vl_chunk *c)
{
    switch (part) {
    case VL_PART_SYSTEM: {
        const struct vl_text_piece p[] = {vl_prompt_template("<|im_start|>System: "),
                                          vl_prompt_words(text ? text : default_instruction),
                                          vl_prompt_template("<end_of_utterance>\n")};
        return vl_prompt_put(m, c, p, 3);
    }
    case VL_PART_FRAME:
        return put_frame(m, c, pts_ns);
    case VL_PART_CAPTION_END:
    case VL_PART_REPLY_END: {
        const struct vl_text_piece p = vl_prompt_template("<end_of_utterance>\n");
        return vl_prompt_put(m, c, &p, 1);
    }
    case VL_PART_QUESTION: {
        const struct vl_text_piece p[] = {vl_prompt_template("User: "), vl_prompt_words(text ? text : ""),
                                          vl_prompt_template("<end_of_utterance>\nAssistant:")};
        return vl_prompt_put(m, c, p, 3);
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

/* "\n" ends a row of tiles, and another one stands before the overview: "\n\n" is one token. lead: what
 * already stands before the first view, and becomes what stands behind the last. */
static int put_still(const struct vl_model *m, struct vl_chunk *c, const struct vl_tile_plan *plan,
                     const char **lead)
{
    const uint32_t n_tiles = plan->rows * plan->cols;
    char text[96];
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < plan->n_views; i++) {
        if (i < n_tiles)
            (void)snprintf(text, sizeof(text), "%s<fake_token_around_image><row_%u_col_%u>", *lead,
                           i / plan->cols + 1, i % plan->cols + 1);
        else
            (void)snprintf(text, sizeof(text), "%s%s<fake_token_around_image><global-img>", *lead,
                           n_tiles ? "\n" : "");
        const struct vl_text_piece before = vl_prompt_template(text);
        r = vl_prompt_put(m, c, &before, 1);
        if (r == 0)
            r = vl_prompt_put_places(c, m->desc.frame_tokens);
        *lead = i >= n_tiles ? "<fake_token_around_image>" : (i + 1) % plan->cols == 0 ? "\n" : "";
    }
    return r;
}

/* A stream that has seen each picture for a second, and said nothing. */
static int put_as_frames(const struct vl_model *m, struct vl_chunk *c, const struct vl_unit *still,
                         uint32_t n_stills, const char *text)
{
    int r = put_part(m, VL_PART_SYSTEM, NULL, 0, c);
    for (uint32_t i = 0; r == 0 && i < n_stills; i++) {
        struct vl_view view;
        uint32_t n = 1; /* it is one: see read_stills */
        r = smolvlm_views(m, &still[i], &view, &n);
        if (r == 0)
            r = put_part(m, VL_PART_FRAME, NULL, i * (int64_t)1000000000, c);
        if (r == 0)
            r = put_part(m, VL_PART_CAPTION_END, NULL, 0, c);
    }
    return r ? r : put_part(m, VL_PART_QUESTION, text, 0, c);
}

static int put_as_stills(const struct vl_model *m, struct vl_chunk *c, const struct vl_unit *still,
                         uint32_t n_stills, const char *text)
{
    const struct smolvlm *s = family(m);
    const char *lead = n_stills ? "<|im_start|>User:" : "<|im_start|>User: ";
    int r = vl_prompt_put_bos(m, c, "<|im_start|>");
    for (uint32_t i = 0; r == 0 && i < n_stills; i++) {
        struct vl_view view[VL_MODEL_MAX_VIEWS];
        struct vl_tile_plan plan;
        uint32_t n = VL_MODEL_MAX_VIEWS;
        r = smolvlm_views(m, &still[i], view, &n);
        if (r < 0)
            return r;
        vl_tile_plan_init(&plan, view->src_w, view->src_h, s->longest, s->vit.image_size);
        r = put_still(m, c, &plan, &lead);
    }
    const struct vl_text_piece tail[] = {vl_prompt_template(lead), vl_prompt_words(text),
                                         vl_prompt_template("<end_of_utterance>\nAssistant:")};
    return r ? r : vl_prompt_put(m, c, tail, 3);
}

static int smolvlm_render_ask(const struct vl_model *m, const struct vl_unit *still, uint32_t n_stills,
                              const char *text, struct vl_chunk *inout)
{
    struct vl_chunk c = *inout;
    int r = family(m)->frames_only ? put_as_frames(m, &c, still, n_stills, text)
                                   : put_as_stills(m, &c, still, n_stills, text);
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
    .render_ask = smolvlm_render_ask,
    .run = smolvlm_run,
};
