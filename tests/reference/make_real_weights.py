#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes the expectations in tests/real-weights/ out of SmolLM2-135M-Instruct, the one language model that comes as a package.

usage: make_real_weights.py FILE.gguf     (tests/real-weights/fetch.sh says where it lies)

Made with torch 2.15, transformers 5.23 (LlamaForCausalLM in f32 on the dequantised weights), tokenizers 0.23, gguf 0.19.
strings.txt   500 texts as hex, and their ids by the tokenizers library
prompts.txt   a prompt as pieces (T: template, U: user), its ids, the 32 ids that follow greedily, and how far the best logit
              was ahead of the second at each of them
passage.txt   the text of which the perplexity is taken: the beginning of the Constitution of the United States (1787, public
              domain), as in Debian's miscfiles; it is not written, only read
expected.txt  the perplexity of passage.txt, in windows of 512 ids of which all but the first count
"""
import json
import math
import pathlib
import random
import sys

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[1] / "real-weights"
WINDOW, N_NEW = 512, 32
LAYER = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
         "ffn_norm": "post_attention_layernorm"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTIONS = ["What is the capital of France?", "Write a haiku about the sea.", "Why is the sky blue?",
             "List three fruits that are red.", "What is 17 + 25?", "Translate 'good morning' into Spanish.",
             "Who wrote Romeo and Juliet?"]
BEGINNINGS = ["Once upon a time there was a small", "def fibonacci(n):\n    ", "The three primary colours are"]
SENTENCES = [
    "The camera on the porch saw a person with a parcel.", "It isn't what they'd have said, I'm sure.", "He said \"hello\" -- then left.",
    "Prices rose 3.5% to $1,299.00 in 2024-11-25T21:44:30Z.", "for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}",
    "def f(x):\n    return x ** 2 if x else None\n", "SELECT name, COUNT(*) FROM t WHERE a >= 10 GROUP BY 1;",
    "<div class=\"box\">text &amp; more</div>", "https://example.org/a/b?c=d&e=%20f#g", "user@example.com, +49 (0)30 123456-78",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4eca\u5929\u5929\u6c14\u4e0d\u9519\u3002", "\u3053\u3093\u306b\u3061\u306f\u3001\u5143\u6c17\u3067\u3059\u304b\uff1f", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0661\u0662\u0663", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u0430\u043a \u0434\u0435\u043b\u0430?",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u03ba\u03cc\u03c3\u03bc\u03b5", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "na\u00efve caf\u00e9 \u2013 d\u00e9j\u00e0 vu \u2026",
    "e\u0301te\u0301 n\u0303", "\U0001f600\U0001f680 \U0001f469\u200d\U0001f469\u200d\U0001f467 \u2600\ufe0f \U0001f1e9\U0001f1ea", "x\u00b2 + y\u00b2 = z\u00b2, \u222b\u2080\u00b9 f(t) dt \u2264 \u03c0/2", "a\u00a0b\u3000c\u2009d",
    "    indented\n\t\ttabs\r\nwindows\r\n\r\n", "ALLCAPS MixedCase snake_case camelCase kebab-case", "1234567890 0x1F4A9 1e-10 007",
    "'tis o'clock 'S 'T don't DON'T we'LL", "-----=====*****#####", "\n\n\n", "   ", "\t", " \n x", "\u0000\u0001\u007f", "\ufeffbom", "\u0378\u0379",
    "<|im_start|>user\nhi<|im_end|>", "<image><fake_token_around_image>", "[INST] x [/INST]", "{\"key\": [1, 2.0, null, true]}",
]


def field(reader, key):
    return reader.fields[key].contents()


def splits():
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def make_tokenizer(reader):
    """Without special tokens: what user text is encoded with."""
    vocab = {t: i for i, t in enumerate(field(reader, "tokenizer.ggml.tokens"))}
    merges = [tuple(m.split(" ", 1)) for m in field(reader, "tokenizer.ggml.merges")]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.pre_tokenizer = splits()
    t.decoder = decoders.ByteLevel()
    return t, vocab


def strings(rng):
    yield from SENTENCES
    words = sorted({w for s in SENTENCES for w in s.split(" ") if w})
    gaps = [" ", " ", " ", "  ", "\n", "", "\t", ", ", ". ", "\n\n", " - ", "\u00a0"]
    for i in range(500 - len(SENTENCES)):
        n = rng.randrange(1, 9)
        yield "".join(w + rng.choice(gaps) for w in rng.choices(words, k=n)) if i % 4 else "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xA0, 0x250), rng.randrange(0x370, 0x600), rng.randrange(0x4E00, 0x9FFF),
                            rng.randrange(0x1F300, 0x1F650)))) for _ in range(3 * n))


def make_model(reader):
    def u(key):
        return int(field(reader, "llama." + key))
    n_heads, n_kv = u("attention.head_count"), u("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=len(field(reader, "tokenizer.ggml.tokens")), hidden_size=u("embedding_length"), intermediate_size=u("feed_forward_length"),
        num_hidden_layers=u("block_count"), num_attention_heads=n_heads, num_key_value_heads=n_kv, tie_word_embeddings=True,
        max_position_embeddings=u("context_length"), rms_norm_eps=float(field(reader, "llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": float(field(reader, "llama.rope.freq_base"))},
        attn_implementation="eager")
    model = LlamaForCausalLM(config).float().eval()
    state = {}
    for t in reader.tensors:
        w = dequantize(t.data, t.tensor_type).reshape([int(d) for d in t.shape[::-1]]).astype(np.float32)
        part = t.name.split(".")
        if part[0] != "blk":
            state[f"{TOP[part[0]]}.weight"] = w
            continue
        if part[2] in ("attn_q", "attn_k"):  # the converter interleaves the halves of each head; back
            h = n_heads if part[2] == "attn_q" else n_kv
            w = w.reshape(h, w.shape[0] // h // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
        state[f"model.layers.{part[1]}.{LAYER[part[2]]}.{part[3]}"] = w
    state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)
    return model


def encode(bare, vocab, pieces):
    """Special tokens in trusted pieces only; what lies between them is encoded as one."""
    names = sorted((n for n in vocab if n.startswith("<|") and n.endswith("|>")), key=len, reverse=True)
    text = [(ch, trusted) for trusted, s in pieces for ch in s]
    out, raw, i = [], "", 0
    while i < len(text):
        hit = next((n for n in names if text[i:i + len(n)] == [(c, True) for c in n]), None)
        if hit:
            out += bare.encode(raw).ids + [vocab[hit]]
            raw, i = "", i + len(hit)
        else:
            raw, i = raw + text[i][0], i + 1
    return out + bare.encode(raw).ids


def prompts():
    for q in QUESTIONS:
        yield [(True, f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"), (False, q), (True, "<|im_end|>\n<|im_start|>assistant\n")]
    for b in BEGINNINGS:
        yield [(False, b)]


@torch.no_grad()
def greedy(model, ids):
    out, gaps, cache, x = [], [], None, torch.tensor([ids])
    for _ in range(N_NEW):
        y = model(input_ids=x, cache=cache, use_cache=True)
        cache = y.cache
        top = torch.topk(y.logits[0, -1], 2)
        out.append(int(top.indices[0]))
        gaps.append(float(top.values[0] - top.values[1]))
        x = torch.tensor([[out[-1]]])
    return out, gaps


@torch.no_grad()
def perplexity(model, ids):
    nll, n = 0.0, 0
    for at in range(0, len(ids) - WINDOW + 1, WINDOW):
        x = torch.tensor([ids[at:at + WINDOW]])
        p = torch.log_softmax(model(input_ids=x).logits[0, :-1].double(), -1)
        nll -= float(p.gather(1, x[0, 1:, None]).sum())
        n += WINDOW - 1
    return math.exp(nll / n), n


def main():
    reader = GGUFReader(sys.argv[1])
    bare, vocab = make_tokenizer(reader)
    with open(OUT / "strings.txt", "w", encoding="ascii") as f:
        for s in strings(random.Random(3)):
            f.write(s.encode().hex() + " " + ",".join(map(str, bare.encode(s).ids)) + "\n")
    torch.set_num_threads(2)
    model = make_model(reader)
    with open(OUT / "prompts.txt", "w", encoding="ascii") as f:
        for pieces in prompts():
            ids = encode(bare, vocab, pieces)
            out, gaps = greedy(model, ids)
            f.write(" ".join((",".join(("T:" if t else "U:") + s.encode().hex() for t, s in pieces), ",".join(map(str, ids)),
                              ",".join(map(str, out)), ",".join(f"{g:.3f}" for g in gaps))) + "\n")
            print(json.dumps(bare.decode(out)), f"least gap {min(gaps):.3f}")
    ids = bare.encode((OUT / "passage.txt").read_text(encoding="utf-8")).ids
    value, n = perplexity(model, ids)
    (OUT / "expected.txt").write_text(f"{value:.6f} perplexity of {n} ids out of {len(ids)}\n", encoding="ascii")
    print(value, n, len(ids))


if __name__ == "__main__":
    main()
