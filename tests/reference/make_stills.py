# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes tests/golden/smolvlm/tiles-*: a tiny random SmolVLM pair with the odd ratios of SmolVLM2-2.2B's encoder (heads of 72,
a grid of 27 x 27 with pixels left over, shuffle by 3: 81 tokens a view), and what Hugging Face makes of still
pictures with it: pixels of every view, ids, logits and greedy tokens.

usage: make_stills.py LLAMA_CPP OUT      as make_smolvlm.py, and made with the same versions
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from make_smolvlm import convert, make_model, n_tokens, picture, read_back, save
from taps import write_taps
from tiny_tokenizer import make_tokenizer

G = dict(image=55, patch=2, shuffle=3, vision=144, vision_heads=2, vision_ff=64, vision_layers=2,
         width=32, heads=2, kv_heads=2, head_dim=16, ff=64, layers=2, tied=False)
LONGEST = 4 * G["image"]
ADDED = (["<global-img>"] + [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)] +
         ["<fake_token_around_image>", "<image>", "<end_of_utterance>"])
SIZES = ((120, 80), (60, 100), (64, 64), (300, 1), (1, 1))  # wide, tall, square, a sliver, a dot
PROMPTS = {f"{w}x{h}": ([(w, h)], "What is it?") for w, h in SIZES}
PROMPTS["two"] = ([(60, 100), (300, 1)], "\nWhich is older, 1 or 2?")
PROMPTS["none"] = ([], "What is it?")


def digest(view):
    h = 0xcbf29ce484222325
    for byte in view.tobytes():
        h = ((h ^ byte) * 0x100000001b3) & (2 ** 64 - 1)
    return np.array([h & 0xffffffff, h >> 32], np.uint32).view(np.int32)


# As published models have them: enlarged, made smaller, and 384-pixel tiles.
VIEWS = (((1280, 720), 2048, 512), ((2100, 1300), 2048, 512), ((301, 777), 1536, 384))


def preprocess(size, longest=LONGEST, tile=G["image"]):
    p = SmolVLMImageProcessorPil(size={"longest_edge": longest}, max_image_size={"longest_edge": tile},
                                 do_image_splitting=True, resample=1, image_mean=[.5] * 3, image_std=[.5] * 3)
    out = p([[Image.fromarray(picture(*size))]], return_tensors="np", return_row_col_info=True)
    return torch.from_numpy(out["pixel_values"][0]), out["rows"][0][0], out["cols"][0][0]


def bytes_of(view):
    return np.rint((view.numpy().transpose(1, 2, 0) * .5 + .5) * 255).astype(np.uint8)


def run(model, tokenizer, name, taps):
    sizes, question = PROMPTS[name]
    text, views = "<|im_start|>User:" + ("" if sizes else " "), []
    for size in sizes:
        pixels, rows, cols = preprocess(size)
        views.append(pixels)
        text += get_image_prompt_string(rows, cols, n_tokens(G), fake_token_around_image="<fake_token_around_image>",
                                        image_token="<image>", global_image_token="<global-img>")
    text += question + "<end_of_utterance>\nAssistant:"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    place = ids[0] == model.config.image_token_id
    more = {}
    if sizes:
        pixels = torch.cat(views)[None]
        taps[f"pixels.{name}"] = np.stack([digest(bytes_of(v)) for v in pixels[0]])
        more["pixel_values"] = pixels
    with torch.no_grad():
        if name == "300x1":
            features = model.model.get_image_features(pixels).pooler_output
            taps[f"proj.{name}"] = torch.cat(list(features)).float().numpy().reshape(-1, G["width"])
        logits = model(input_ids=ids, **more).logits
        taps[f"logits.{name}"] = logits[0, -4:].numpy()
        taps[f"ids.{name}"] = torch.where(place, -1, ids[0]).numpy().astype(np.int32)
        greedy = []
        for _ in range(16):
            greedy.append(int(logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([greedy[-1:]])], 1)
            logits = model(input_ids=ids, **more).logits
        taps[f"greedy.{name}"] = np.array(greedy, np.int32)
    print(name, "prompt", len(place), "greedy", greedy)


def main():
    llama_cpp, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer(320, ADDED)
    model = make_model(G, tokenizer)
    out = folder / "tiles-f16"
    with tempfile.TemporaryDirectory() as tmp:
        source = Path(tmp) / "Tiny-tiles-f16"
        source.mkdir()
        save(model, tokenizer, G, source)
        convert(llama_cpp, source, out, "f16")
    model.load_state_dict(read_back(out, G))
    model.set_attn_implementation("eager")
    taps = {}
    for name in PROMPTS:
        run(model, tokenizer, name, taps)
    write_taps(folder / "tiles-f16.taps", taps)
    write_taps(folder / "views.taps", {f"{w}x{h}.{longest}": np.stack(
        [digest(bytes_of(v)) for v in preprocess((w, h), longest, tile)[0]]) for (w, h), longest, tile in VIEWS})


if __name__ == "__main__":
    main()
