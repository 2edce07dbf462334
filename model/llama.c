/* SPDX-License-Identifier: MIT */
/* Copyright vlmd contributors */
/*
 * A Llama decoder without eyes: a text file alone. How it is spoken to is told from the special tokens of its
 * vocabulary; a vocabulary that fits no protocol is refused, because a guess gives fluent nonsense.
 * docs/models/llama.md has the protocols. The trap: vlmd has no timeline for it, so everything that concerns
 * frames is NULL here, and desc.frame_tokens is 0.
 */
#include "decoder/transformer.h"
#include "model/model_private.h"
#include "model/prompt.h"
#include "weights/bind.h"

#include <string.h>

enum { MAX_BATCH = 256 };

struct protocol {
    const char *name;
    const char *token[2]; /* special tokens that it is known by; the first begins a prompt */
    const char *before, *after;
};
static const struct protocol protocols[] = {
    {"smolvlm",
     {"<|im_start|>", "<end_of_utterance>"},
     "<|im_start|>User: ",
     "<end_of_utterance>\nAssistant:"},
    {"chatml", {"<|im_start|>", "<|im_end|>"}, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"},
};

/* Chat templates that put a system prompt in front when none is given, by words of theirs. */
static const struct {
    const char *mark, *system;
} systems[] = {
    {"You are a helpful AI assistant named SmolLM",
     "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"},
};

struct llama {
    struct vl_decoder dec;
    const struct protocol *protocol;
    const char *system; /* "" when there is none */
};

static const struct llama *family(const struct vl_model *m)
{
    return m->family;
}

static int find_protocol(struct vl_model *m, struct llama *s, const struct vl_weights *text,
                         struct vl_error *err)
{
    for (size_t i = 0; !s->protocol && i < sizeof(protocols) / sizeof(protocols[0]); i++) {
        const struct protocol *p = &protocols[i];
        const int32_t end = vl_tokenizer_find(m->tokenizer, p->token[1]);
        if (vl_prompt_has_special(m, p->token[0]) && vl_prompt_has_special(m, p->token[1]) &&
            vl_tokenizer_is_end(m->tokenizer, end))
            s->protocol = p;
    }
    if (!s->protocol)
        return vl_error_set(err, -ENOTSUP,
                            "%s: no way to talk to it is known: its vocabulary has neither <|im_start|> and "
                            "<|im_end|> (ChatML) nor <end_of_utterance> (SmolVLM)",
                            vl_weights_name(text));
    const char *template = "";
    int r = vl_weights_get_str(text, "tokenizer.chat_template", &template, err);
    s->system = "";
    for (size_t i = 0; i < sizeof(systems) / sizeof(systems[0]); i++)
        if (strcmp(s->protocol->name, "chatml") == 0 && strstr(template, systems[i].mark))
            s->system = systems[i].system;
    vl_note(m->notes, "protocol", "name", "%s", s->protocol->name);
    vl_note(m->notes, "protocol", "system prompt", "%s", s->system[0] ? "the template's own" : "none");
    return r < 0 ? r : 0;
}

static int llama_open(struct vl_model *m, const struct vl_weights *text, const struct vl_weights *mmproj,
                      struct vl_error *err)
{
    struct llama *s = m->family = calloc(1, sizeof(*s));
    int r;
    (void)mmproj; /* there is none */
    if (!s)
        return vl_error_set(err, -ENOMEM, "out of memory");
    if ((r = vl_tokenizer_new(&m->tokenizer, text, err)) < 0 || (r = find_protocol(m, s, text, err)) < 0 ||
        (r = vl_decoder_init(&s->dec, text, vl_tokenizer_n_vocab(m->tokenizer), err)) < 0)
        return r;
    vl_model_describe_decoder(m, &s->dec, MAX_BATCH);
    m->desc.kv.page_slots = 32;
    return 0;
}

static int llama_load(struct vl_model *m, struct vl_exec *x, const struct vl_weights *text,
                      const struct vl_weights *mmproj, struct vl_error *err)
{
    struct llama *s = m->family;
    vl_auto(vl_bind) b = NULL;
    int r;
    (void)mmproj;
    if ((r = vl_bind_new(&b, text, x)) < 0)
        return vl_error_set(err, r, "out of memory");
    if ((r = vl_decoder_bind(&s->dec, text, b, err)) < 0)
        return r;
    return vl_model_load_file(m, b, 0, err);
}

static void llama_close(struct vl_model *m)
{
    struct llama *s = m->family;
    if (!s)
        return;
    vl_model_free_weights(m);
    vl_decoder_done(&s->dec);
    free(s);
    m->family = NULL;
}

static int llama_render_ask(const struct vl_model *m, const struct vl_unit *still, uint32_t n_stills,
                            const char *text, struct vl_chunk *inout)
{
    const struct llama *s = family(m);
    const struct protocol *p = s->protocol;
    const struct vl_text_piece pieces[] = {vl_prompt_template(s->system), vl_prompt_template(p->before),
                                           vl_prompt_words(text), vl_prompt_template(p->after)};
    struct vl_chunk c = *inout;
    (void)still;
    if (n_stills)
        return -EINVAL;
    int r = vl_prompt_put_bos(m, &c, p->token[0]);
    if (r == 0)
        r = vl_prompt_put(m, &c, pieces, sizeof(pieces) / sizeof(pieces[0]));
    if (r == 0)
        *inout = c;
    return r;
}

static int llama_run(const struct vl_model *m, struct vl_exec *x, const struct vl_batch *b,
                     struct vl_tensor *ret_logits)
{
    if (b->n > m->desc.max_batch)
        return -EINVAL;
    return vl_decoder_run(&family(m)->dec, x, b, ret_logits);
}

const struct vl_arch vl_arch_llama = {
    .name = "llama",
    .text_arch = "llama",
    .open = llama_open,
    .load = llama_load,
    .unload = vl_model_free_weights,
    .close = llama_close,
    .render_ask = llama_render_ask,
    .run = llama_run,
};
