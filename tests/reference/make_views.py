# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes tests/golden/smolvlm/small.taps: what Hugging Face's encoder makes of pictures smaller than the one it was
made for, and how much attention each patch receives in its last layer, with the weights of the tiny pairs there.

usage: make_views.py OUT      OUT: tests/golden/smolvlm, with the pairs of make_smolvlm.py; same versions

A grid G patches wide gives a smaller one of g patches position i * G / g rounded down. The reference computes that
in single precision and is off by one for some pairs of grids, whole ones among them; the ones here are not.
"""
import sys
from pathlib import Path

import numpy as np
import torch

from make_smolvlm import FRAMES, PAIRS, make_model, preprocess, read_back
from taps import write_taps
from tiny_tokenizer import make_tokenizer


def edge_of(g, grid):
    return g["image"] * grid // (g["image"] // g["patch"])


def run(model, g, grid, name, taps):
    """One picture at `grid` patches on a side: pixels, embedding, projected tokens, and the patches' saliency."""
    pixels, x = preprocess({"image": edge_of(g, grid)}, FRAMES[0])
    kept = {}
    m = model.model
    hooks = [m.vision_model.embeddings.register_forward_hook(
        lambda module, inputs, out: kept.__setitem__("embed", out.detach()[0]))]
    for layer in m.vision_model.encoder.layers[-1:]:
        hooks.append(layer.self_attn.register_forward_hook(
            lambda module, inputs, out: kept.__setitem__("attention", out[1].detach()[0])))
    with torch.no_grad():
        tokens = torch.cat(list(m.get_image_features(x[None]).pooler_output))
    for h in hooks:
        h.remove()
    whole = g["image"] // g["patch"]
    at = np.arange(grid) * whole // grid
    place = torch.from_numpy((at[:, None] * whole + at[None]).reshape(-1))
    v = m.vision_model.embeddings
    with torch.no_grad():
        patches = v.patch_embedding(x).flatten(2).transpose(1, 2)[0]
        assert torch.allclose(patches + v.position_embedding(place), kept["embed"], atol=1e-6), "positions differ"
    s = g["shuffle"]
    seen = kept["attention"].mean(0).sum(0).reshape(grid // s, s, grid // s, s).sum((1, 3)).reshape(-1)
    taps[f"{name}.{grid}.pixels"] = pixels
    taps[f"{name}.{grid}.embed"] = kept["embed"].numpy()
    taps[f"{name}.{grid}.proj"] = tokens.reshape(-1, tokens.shape[-1]).numpy()
    taps[f"{name}.{grid}.saliency"] = seen.numpy()


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    taps = {}
    for name, (g, _) in PAIRS.items():
        model = make_model(g, make_tokenizer(320))
        model.load_state_dict(read_back(folder / name, g))
        model.set_attn_implementation("eager")
        for grid in range(g["shuffle"], g["image"] // g["patch"] + 1, g["shuffle"]):
            run(model, g, grid, name, taps)
    write_taps(folder / "small.taps", taps)
    print({k: v.shape for k, v in taps.items()})


if __name__ == "__main__":
    main()
