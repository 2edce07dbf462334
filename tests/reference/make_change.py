# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes the pair change-f16 and change.taps in tests/golden/smolvlm: an encoder that compares a look with the one
before it, and what PyTorch makes of two looks.

usage: make_change.py OUT      OUT: tests/golden/smolvlm, with the pairs of make_smolvlm.py; same versions

The pair is odd-f16 with v.patch_embd.delta.weight added. The reference knows nothing of differences: Hugging Face's
encoder gets a Conv3d over both frames for its patch embedding, of kernels D for the earlier and W - D for the later.
"""
import math
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch

from make_smolvlm import FRAMES, ODD, make_model, preprocess, read_back
from make_views import edge_of
from taps import write_taps
from tiny_tokenizer import make_tokenizer

FIRST, NAME, DELTA = "odd-f16", "change-f16", "v.patch_embd.delta.weight"
GRIDS = (9, 6)


def copy_with(source, path, name, values):
    """The file, with one more tensor at its end."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, "clip")
    for f in reader.fields.values():
        if f.name.startswith("GGUF.") or f.name == "general.architecture":
            continue
        writer.add_key_value(f.name, f.contents(), f.types[0], sub_type=f.types[-1] if len(f.types) > 1 else None)
    for t in reader.tensors:
        writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TwoFrames(torch.nn.Module):
    """Stands in for a patch embedding; the frame before is given beforehand."""

    def __init__(self, conv, delta):
        super().__init__()
        width, channels, patch, _ = conv.weight.shape
        self.conv = torch.nn.Conv3d(channels, width, (2, patch, patch), (2, patch, patch))
        self.conv.weight.data = torch.stack([delta, conv.weight.data - delta], 2)
        self.conv.bias.data = conv.bias.data
        self.weight, self.before = conv.weight, None  # its caller looks at weight.dtype

    def forward(self, now):
        return self.conv(torch.stack([self.before, now], 2)).squeeze(2)


def run(model, grid, taps):
    g = {"image": edge_of(ODD, grid)}
    (before, x0), (now, x1) = preprocess(g, FRAMES[1]), preprocess(g, FRAMES[0])
    embeddings, kept = model.model.vision_model.embeddings, {}
    embeddings.patch_embedding.before = x0
    hook = embeddings.register_forward_hook(lambda module, inputs, out: kept.__setitem__("embed", out.detach()[0]))
    with torch.no_grad():
        tokens = torch.cat(list(model.model.get_image_features(x1[None]).pooler_output))
    hook.remove()
    taps[f"{NAME}.{grid}.before"] = before
    taps[f"{NAME}.{grid}.pixels"] = now
    taps[f"{NAME}.{grid}.embed"] = kept["embed"].numpy()
    taps[f"{NAME}.{grid}.proj"] = tokens.reshape(-1, tokens.shape[-1]).numpy()


def main():
    folder, taps = Path(sys.argv[1]), {}
    torch.set_num_threads(1)
    model = make_model(ODD, make_tokenizer(320))
    model.load_state_dict(read_back(folder / FIRST, ODD))
    embeddings = model.model.vision_model.embeddings
    shape = embeddings.patch_embedding.weight.shape
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(11)) / math.sqrt(shape[1:].numel())
    copy_with(folder / f"{FIRST}-mmproj.gguf", folder / f"{NAME}-mmproj.gguf", DELTA, delta.numpy())
    shutil.copy(folder / f"{FIRST}-text.gguf", folder / f"{NAME}-text.gguf")
    embeddings.patch_embedding = TwoFrames(embeddings.patch_embedding, delta)
    for grid in GRIDS:
        run(model, grid, taps)
    write_taps(folder / "change.taps", taps)
    print({k: v.shape for k, v in taps.items()})


if __name__ == "__main__":
    main()
