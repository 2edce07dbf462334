# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The exporter's way back: checkpoints from the pair of GGUF files, to train on from committed weights."""
import argparse

import gguf
import numpy as np
import torch

from model import DECODER, ENCODER
from train_decoder import Trainer
from train_encoder import Heads

DECODER_NAMES = dict(attn_q="q", attn_k="k", attn_v="v", attn_output="o", ffn_gate="gate", ffn_up="up", ffn_down="down",
                     attn_norm="norm1", ffn_norm="norm2")
ENCODER_NAMES = dict(attn_q="q", attn_k="k", attn_v="v", attn_out="o", ffn_up="up", ffn_down="down", ln1="ln1", ln2="ln2")


def tensors(path):
    out = {}
    for t in gguf.GGUFReader(path).tensors:
        values = gguf.dequantize(t.data, t.tensor_type)
        out[t.name] = torch.from_numpy(np.array(values, np.float32)).reshape([int(n) for n in reversed(t.shape)])
    return out


def unpermuted(weight, heads):
    return weight.reshape(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def decoder_state(path):
    state = {}
    for name, t in tensors(path).items():
        if name == "token_embd.weight":
            state["embed.weight"] = t
        elif name == "output_norm.weight":
            state["norm.weight"] = t
        else:
            _, layer, part, kind = name.split(".")
            if part in ("attn_q", "attn_k"):
                t = unpermuted(t, DECODER["heads"] if part == "attn_q" else DECODER["kv_heads"])
            state[f"blocks.{layer}.{DECODER_NAMES[part]}.{kind}"] = t
    return state


def encoder_state(path):
    state = {}
    for name, t in tensors(path).items():
        if name == "v.patch_embd.delta.weight":
            state["delta.weight"] = t.flatten(1)
        elif name.startswith("v.patch_embd"):
            state["embed." + name.split(".")[-1]] = t.flatten(1) if t.ndim > 1 else t
        elif name == "v.position_embd.weight":
            state["position"] = t
        elif name.startswith("v.post_ln"):
            state["post." + name.split(".")[-1]] = t
        elif name == "mm.model.fc.weight":
            state["connector.weight"] = t
        else:
            _, _, layer, part, kind = name.split(".")
            state[f"blocks.{layer}.{ENCODER_NAMES[part]}.{kind}"] = t
    return state


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--text", required=True)
    p.add_argument("--mmproj", required=True)
    p.add_argument("--out", required=True, help="folder")
    a = p.parse_args()
    trainer = Trainer()
    missing = trainer.load({"decoder." + k: v for k, v in decoder_state(a.text).items()})
    assert not any(k.startswith("decoder.") and not k.endswith("embed.weight") for k in missing), missing
    torch.save(dict(trainer=trainer.state_dict()), a.out + "/decoder.pt")
    heads = Heads(ENCODER["width"], DECODER["width"])
    torch.save(dict(encoder=encoder_state(a.mmproj), heads=heads.state_dict()), a.out + "/encoder.pt")


if __name__ == "__main__":
    main()
