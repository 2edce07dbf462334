# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Writes the pair of GGUF files as llama.cpp's converter would for a SmolVLM of this size.

Rows of q and k are permuted for rope on adjacent pairs: row h*D + s*D/2 + i becomes
h*D + 2*i + s. Matrices are Q8_0; norms, biases, positions and patches are F32.
"""
import argparse
import os

import gguf
import numpy as np
import torch

import sequences as S
from model import DECODER, ENCODER
from quantise import q8_0

NAME = "vlmd drawn world"
CONTEXT = 8192
TEMPLATE = ("<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
            "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
            "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
            "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
            "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def add_q8_0(writer, name, weight):
    scale, values = q8_0(weight)
    raw = np.concatenate([scale.numpy()[..., None].view(np.uint8), values.numpy().view(np.uint8)], -1)
    writer.add_tensor(name, raw.reshape(weight.shape[0], -1), raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def add_f32(writer, name, tensor):
    writer.add_tensor(name, tensor.detach().float().contiguous().numpy())


def permuted(weight, heads):
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export_text(decoder, path):
    v, w = S.vocabulary, gguf.GGUFWriter(path, "llama")
    w.add_type("model")
    w.add_name(NAME)
    w.add_license("mit")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(DECODER["width"])
    w.add_block_count(DECODER["layers"])
    w.add_feed_forward_length(DECODER["hidden"])
    w.add_head_count(DECODER["heads"])
    w.add_head_count_kv(DECODER["kv_heads"])
    w.add_key_length(DECODER["head_dim"])
    w.add_value_length(DECODER["head_dim"])
    w.add_rope_dimension_count(DECODER["head_dim"])
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(len(v))
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(v.tokens)
    w.add_token_types([3 if i <= v.end else 1 for i in range(len(v))])
    w.add_token_merges([" ".join(m) for m in v.merges])
    w.add_bos_token_id(v.im_start)
    w.add_eos_token_id(v.end)
    w.add_unk_token_id(v.endoftext)
    w.add_pad_token_id(v.im_end)
    w.add_add_bos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(TEMPLATE)
    add_q8_0(w, "token_embd.weight", decoder["embed.weight"])
    add_f32(w, "output_norm.weight", decoder["norm.weight"])
    for i in range(DECODER["layers"]):
        b, o = f"blocks.{i}.", f"blk.{i}."
        add_f32(w, o + "attn_norm.weight", decoder[b + "norm1.weight"])
        add_f32(w, o + "ffn_norm.weight", decoder[b + "norm2.weight"])
        add_q8_0(w, o + "attn_q.weight", permuted(decoder[b + "q.weight"], DECODER["heads"]))
        add_q8_0(w, o + "attn_k.weight", permuted(decoder[b + "k.weight"], DECODER["kv_heads"]))
        for ours, theirs in (("v", "attn_v"), ("o", "attn_output"), ("gate", "ffn_gate"), ("up", "ffn_up"), ("down", "ffn_down")):
            add_q8_0(w, f"{o}{theirs}.weight", decoder[f"{b}{ours}.weight"])
    write(w)


def export_vision(encoder, path):
    w = gguf.GGUFWriter(path, "clip")
    w.add_type("mmproj")
    w.add_name(NAME)
    w.add_license("mit")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_bool("clip.has_vision_encoder", True)
    w.add_string("clip.projector_type", "idefics3")
    w.add_bool("clip.use_gelu", True)
    for key, value in dict(image_size=ENCODER["size"], patch_size=ENCODER["patch"], embedding_length=ENCODER["width"],
                           feed_forward_length=ENCODER["hidden"], block_count=ENCODER["layers"],
                           projection_dim=DECODER["width"], preproc_image_size=ENCODER["size"]).items():
        w.add_uint32("clip.vision." + key, value)
    w.add_uint32("clip.vision.attention.head_count", ENCODER["heads"])
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    w.add_uint32("clip.vision.projector.scale_factor", ENCODER["shuffle"])
    w.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    w.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    p = ENCODER["patch"]
    add_f32(w, "v.patch_embd.weight", encoder["embed.weight"].reshape(-1, 3, p, p))
    add_f32(w, "v.patch_embd.bias", encoder["embed.bias"])
    if "delta.weight" in encoder:
        add_f32(w, "v.patch_embd.delta.weight", encoder["delta.weight"].reshape(-1, 3, p, p))
    add_f32(w, "v.position_embd.weight", encoder["position"])
    for i in range(ENCODER["layers"]):
        b, o = f"blocks.{i}.", f"v.blk.{i}."
        for ours, theirs in (("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v"), ("o", "attn_out"), ("up", "ffn_up"), ("down", "ffn_down")):
            add_q8_0(w, f"{o}{theirs}.weight", encoder[f"{b}{ours}.weight"])
            add_f32(w, f"{o}{theirs}.bias", encoder[f"{b}{ours}.bias"])
        for norm in ("ln1", "ln2"):
            add_f32(w, f"{o}{norm}.weight", encoder[f"{b}{norm}.weight"])
            add_f32(w, f"{o}{norm}.bias", encoder[f"{b}{norm}.bias"])
    add_f32(w, "v.post_ln.weight", encoder["post.weight"])
    add_f32(w, "v.post_ln.bias", encoder["post.bias"])
    add_q8_0(w, "mm.model.fc.weight", encoder["connector.weight"])
    write(w)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--encoder", required=True)
    p.add_argument("--decoder", required=True)
    p.add_argument("--out", required=True, help="folder")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    trainer = torch.load(a.decoder)["trainer"]
    export_text({k[8:]: t for k, t in trainer.items() if k.startswith("decoder.")}, a.out + "/vlmd-world-text.gguf")
    export_vision(torch.load(a.encoder)["encoder"], a.out + "/vlmd-world-mmproj.gguf")
    for name in ("vlmd-world-text.gguf", "vlmd-world-mmproj.gguf"):
        print(name, os.path.getsize(f"{a.out}/{name}"), "bytes")


if __name__ == "__main__":
    main()
