# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes tests/golden/llama/: a tiny random Llama that speaks ChatML, in a mix of formats, as one GGUF file, and what
Hugging Face computes with the weights read back from it.

usage: make_llama.py OUT      versions as make_smolvlm.py; gguf 0.19 from PyPI writes the file

The chat template is SmolLM2-Instruct's in what it does: without a system message it puts one of its own in front.
"""
import json
import math
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from make_smolvlm import TEXT_NAMES, unpermute
from taps import write_taps
from tiny_tokenizer import make_tokenizer

C, FF, LAYERS, HEADS, KV_HEADS, D = 64, 96, 2, 4, 2, 16
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATE = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}{% endif %}"
            "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
QUESTION = "Where is the <|image> now, 42?\n"
T = gguf.GGMLQuantizationType
MIX = {"token_embd": T.Q8_0, "output": T.Q5_1, "attn_q": T.Q4_0, "attn_k": T.Q4_0, "attn_v": T.Q5_0,
       "attn_output": T.Q4_1, "ffn_gate": T.Q4_0, "ffn_up": T.F16, "ffn_down": T.BF16}


def permute(rows, n_heads):
    return rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def names(model):
    """GGUF name -> torch name, in the order of the file"""
    yield "token_embd.weight", "model.embed_tokens.weight"
    yield "output.weight", "lm_head.weight"
    yield "output_norm.weight", "model.norm.weight"
    for i in range(LAYERS):
        for ours, theirs in TEXT_NAMES.items():
            yield f"blk.{i}.{ours}.weight", f"model.layers.{i}.{theirs}.weight"


def make_model(n_vocab):
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=n_vocab, hidden_size=C, intermediate_size=FF, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=D, max_position_embeddings=2048, rms_norm_eps=1e-5,
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 100000.0})).float().eval()
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=rng)
            p.copy_(1 + 0.2 * r if "norm" in name else r if "embed" in name else r / math.sqrt(p.shape[-1]))
    return model


def write_file(path, model, tokenizer):
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("Tiny ChatML")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    w.add_context_length(2048)
    w.add_embedding_length(C)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FF)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_key_length(D)
    w.add_value_length(D)
    w.add_rope_dimension_count(D)
    w.add_rope_freq_base(100000.0)
    w.add_layer_norm_rms_eps(1e-5)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda x: x[1])
    special = set(tokenizer.all_special_tokens)
    merges = [" ".join(m) for m in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list([t for t, _ in vocabulary])
    w.add_token_types([3 if t in special else 1 for t, _ in vocabulary])
    w.add_token_merges(merges)
    w.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    w.add_eos_token_id(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)
    state = model.state_dict()
    for ours, theirs in names(model):
        x = state[theirs].numpy()
        part = ours.split(".")[-2]
        if part == "attn_q":
            x = permute(x, HEADS)
        if part == "attn_k":
            x = permute(x, KV_HEADS)
        kind = MIX.get(part, T.F32)
        w.add_tensor(ours, gguf.quants.quantize(np.ascontiguousarray(x), kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read_back(path, model):
    torch_name, state = dict(names(model)), {}
    for t in gguf.GGUFReader(path).tensors:
        rows = gguf.quants.dequantize(t.data, t.tensor_type).reshape([int(n) for n in t.shape[::-1]]).astype(np.float32)
        part = t.name.split(".")[-2]
        if part == "attn_q":
            rows = unpermute(rows, HEADS)
        if part == "attn_k":
            rows = unpermute(rows, KV_HEADS)
        state[torch_name[t.name]] = torch.from_numpy(np.ascontiguousarray(rows))
    model.load_state_dict(state)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer(320, [])
    tokenizer.chat_template = TEMPLATE
    model = make_model(len(tokenizer))
    path = folder / "chatml-mixed-text.gguf"
    write_file(path, model, tokenizer)
    read_back(path, model)
    text = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False,
                                         add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    taps = {"ids": ids[0].numpy().astype(np.int32)}
    greedy = []
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        taps["logits"] = logits[0, -8:].numpy()
        for _ in range(16):
            greedy.append(int(logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([greedy[-1:]])], 1)
            logits = model(input_ids=ids).logits
    taps["greedy"] = np.array(greedy, np.int32)
    write_taps(folder / "chatml-mixed.taps", taps)
    print("vocabulary", len(tokenizer), "prompt", len(taps["ids"]), "greedy", greedy)


if __name__ == "__main__":
    main()
