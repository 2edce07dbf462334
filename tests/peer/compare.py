#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Random SmolVLM pairs through vlmd, llama.cpp and transformers; prints what belongs in docs/measurements/. Run by peer.sh.

usage: compare.py FOLDER LLAMA_CPP_SOURCE PEER_OURS SMOLLM2.gguf [GEOMETRY...]

The reference is transformers in f32 on the weights that gguf-py reads back from the very files, so that what is compared is
arithmetic and not the rounding of a format. Frames: one view; for them llama.cpp's projector file says a longest edge of
one tile, and the overview among its views is taken. Stills: all their views, four tiles on the longest edge.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from PIL import Image
from tokenizers import AddedToken, models
from transformers import PreTrainedTokenizerFast
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
from make_smolvlm import convert, make_model, n_tokens, picture, preprocess, read_back, save  # noqa: E402
from tiny_tokenizer import pipeline  # noqa: E402

GEOMETRIES = {
    "small": dict(image=64, patch=8, shuffle=4, vision=96, vision_heads=6, vision_ff=192, vision_layers=3,
                  width=256, heads=8, kv_heads=2, head_dim=32, ff=512, layers=4, tied=False),
    "256M": dict(image=512, patch=16, shuffle=4, vision=768, vision_heads=12, vision_ff=3072, vision_layers=12,
                 width=576, heads=9, kv_heads=3, head_dim=64, ff=1536, layers=30, tied=True),
}
FORMATS = ("f16", "q8_0", "q4_k_m")
PICTURES = {"small": (("frame", 640, 480), ("frame", 90, 50), ("frame", 33, 77), ("still", 640, 480), ("still", 33, 77)),
            "256M": (("frame", 640, 480), ("frame", 90, 50))}
N_NEW = 16
ASK = "<|im_start|>User:{image}What is it?<end_of_utterance>\nAssistant:"
PROMPT = ("<|im_start|>System: Say what changed.<end_of_utterance>\nUser:\nFrame from 0:00:05:<fake_token_around_image><global-img>"
          "{image}<fake_token_around_image><end_of_utterance>\nAssistant:<end_of_utterance>\n"
          "User: What is it?<end_of_utterance>\nAssistant:")


def smolvlm_tokenizer(smollm2):
    """SmolLM2's vocabulary with the tokens that SmolVLM adds."""
    fields = GGUFReader(smollm2).fields
    words = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"].contents()]
    t = pipeline(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    control = [words[i] for i, kind in enumerate(fields["tokenizer.ggml.token_type"].contents()) if kind == 3]
    added = ["<global-img>"] + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    added += ["<fake_token_around_image>", "<image>"]
    added += [f"<|reserved_special_token_{i}|>" for i in range(127 - len(added))] + ["<end_of_utterance>"]
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in control + added])
    return PreTrainedTokenizerFast(
        tokenizer_object=t, bos_token="<|im_start|>", eos_token="<end_of_utterance>", unk_token="<|endoftext|>",
        pad_token="<|im_end|>", clean_up_tokenization_spaces=False, model_max_length=8192,
        additional_special_tokens=["<fake_token_around_image>", "<image>", "<end_of_utterance>"])


def set_longest_edge(folder, edge):
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text())
    config["size"] = {"longest_edge": edge}
    path.write_text(json.dumps(config))


def make_files(name, g, tokenizer, model, folder, source):
    """NAME-FORMAT-{text,mmproj,still-mmproj}.gguf, kept between runs"""
    hf = folder / f"random-{name}"
    if not (folder / f"{name}-q4_k_m-mmproj.gguf").exists():
        hf.mkdir(exist_ok=True)
        save(model, tokenizer, g, hf)
        for kind in ("f16", "q8_0"):
            convert(source, hf, folder / f"{name}-{kind}", kind)
            (folder / f"{name}-{kind}-mmproj.gguf").rename(folder / f"{name}-{kind}-still-mmproj.gguf")
            set_longest_edge(hf, g["image"])
            convert(source, hf, folder / f"{name}-{kind}", kind)
            set_longest_edge(hf, 4 * g["image"])
        subprocess.run([folder / "peer-llama", folder / f"{name}-f16-text.gguf", folder / f"{name}-q4_k_m-text.gguf"], check=True,
                       capture_output=True)
        for end in ("still-mmproj", "mmproj"):
            os.symlink(f"{name}-q8_0-{end}.gguf", folder / f"{name}-q4_k_m-{end}.gguf")
    kinds = {}
    for t in GGUFReader(folder / f"{name}-q4_k_m-text.gguf").tensors:
        kinds[t.tensor_type.name] = kinds.get(t.tensor_type.name, 0) + 1
    return kinds


def ask(program, files, size, out, *more):
    """The program's dumps, and what it says about time and memory."""
    w, h = size
    pixels = out.with_suffix(".rgb")
    picture(w, h).tofile(pixels)
    args = [program, *files, pixels, w, h, N_NEW, out, *more]
    said = subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True).stdout
    ids = np.fromfile(f"{out}.ids", np.int32)
    got = {"ids": ids, "emb": np.fromfile(f"{out}.emb", np.float32),
           "gen": np.fromfile(f"{out}.gen", np.int32).tolist(), "log": np.fromfile(f"{out}.log", np.float32)}
    got.update((k, float(v)) for k, v in (line.split() for line in said.splitlines()))
    return got


def views(model, g, way, size):
    """The picture's views, and the prompt in which it stands."""
    if way == "frame":
        return preprocess(g, size)[1][None], PROMPT.format(image="<image>" * n_tokens(g))
    p = SmolVLMImageProcessorPil(size={"longest_edge": 4 * g["image"]}, max_image_size={"longest_edge": g["image"]},
                                 do_image_splitting=True, resample=1, image_mean=[.5] * 3, image_std=[.5] * 3)
    x = p([[Image.fromarray(picture(*size))]], return_tensors="np", return_row_col_info=True)
    places = get_image_prompt_string(x["rows"][0][0], x["cols"][0][0], n_tokens(g), "<fake_token_around_image>", "<image>",
                                     "<global-img>")
    return torch.from_numpy(x["pixel_values"]), ASK.format(image=places)


@torch.no_grad()
def reference(model, g, tokenizer, way, size):
    pixels, prompt = views(model, g, way, size)
    rows = torch.cat(list(model.model.get_image_features(pixels).pooler_output)).reshape(-1, g["width"])
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    place = ids[0] == model.config.image_token_id
    embed = model.model.text_model.embed_tokens(ids).clone()
    embed[0, place] = rows
    y = model.model.text_model(inputs_embeds=embed, use_cache=True)
    logits = model.lm_head(y.last_hidden_state)[0]
    gen, gaps, last, cache = [], [], logits[-1], y.cache
    for _ in range(N_NEW):
        top = torch.topk(last, 2)
        gen.append(int(top.indices[0]))
        gaps.append(float(top.values[0] - top.values[1]))
        y = model.model.text_model(inputs_embeds=model.model.text_model.embed_tokens(torch.tensor([[gen[-1]]])),
                                   cache=cache, use_cache=True)
        cache, last = y.cache, model.lm_head(y.last_hidden_state)[0, -1]
    return {"ids": torch.where(place, -1, ids[0]).numpy(), "emb": rows.numpy(), "log": logits.numpy(), "gen": gen, "gaps": gaps}


def off(want, got):
    return float(np.linalg.norm(want - got.reshape(want.shape)) / np.linalg.norm(want))


def worst_row(want, got):
    return max(off(x, y) for x, y in zip(want, got))


def greedy(want, got):
    """16 when all are equal, else where they part and by how much the reference preferred its token there"""
    for i, (a, b) in enumerate(zip(want["gen"], got["gen"])):
        if a != b:
            return f"{i}, gap {want['gaps'][i]:.3f}"
    return str(len(want["gen"]))


def compare(name, g, kind, model, tokenizer, folder, ours_program):
    model.load_state_dict(read_back(folder / f"{name}-{kind}", g))
    costs = []
    for way, *size in PICTURES[name]:
        files = [folder / f"{name}-{kind}-{part}.gguf" for part in ("text", "mmproj" if way == "frame" else "still-mmproj")]
        want = reference(model, g, tokenizer, way, size)
        ours = ask(ours_program, files, size, folder / "ours", way)
        prompt = (PROMPT if way == "frame" else ASK).format(image="<__media__>")
        llama = ask(folder / "peer-llama", files, size, folder / "llama-out", folder / "ours.ids", prompt)
        assert np.array_equal(want["ids"], ours["ids"]), "our ids differ from transformers'"
        row = [name, kind, f"{way} {size[0]}x{size[1]}", "equal" if np.array_equal(want["ids"], llama["ids"]) else "differ"]
        for what in (lambda x: off(want["emb"], x["emb"]), lambda x: off(want["log"], x["log"].reshape(want["log"].shape)),
                     lambda x: worst_row(want["log"], x["log"].reshape(want["log"].shape))):
            a, b = what(ours), what(llama)
            row += [f"{a:.2e}", f"{b:.2e}", f"{a / b:.1g}"]
        print("| " + " | ".join(row + [greedy(want, ours), greedy(want, llama)]) + " |", flush=True)
        if way == "frame":
            costs.append((ours, llama))
    return costs[-1]


def main():
    folder, source, ours_program, smollm2 = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    costs, notes = [], []
    print("| geometry | format | picture | llama.cpp's ids | visual tokens: vlmd | llama.cpp | ratio | logits: vlmd | llama.cpp | ratio "
          "| worst row: vlmd | llama.cpp | ratio | greedy: vlmd | llama.cpp |\n" + "|---" * 15 + "|")
    for name in sys.argv[5:] or GEOMETRIES:
        g = GEOMETRIES[name]
        tokenizer = smolvlm_tokenizer(smollm2)
        model = make_model(g, tokenizer)
        notes.append(f"{name}, q4_k_m: {make_files(name, g, tokenizer, model, folder, source)}")
        for kind in FORMATS:
            ours, llama = compare(name, g, kind, model, tokenizer, folder, ours_program)
            costs.append([name, kind] + [f"{x[k]:.2f}" for k in ("load_s", "load_rss_mib", "peak_rss_mib", "encode_s", "step_ms")
                                         for x in (ours, llama)])
    print("\n| geometry | format | load s: vlmd | llama.cpp | RSS after load, MiB: vlmd | llama.cpp | peak RSS: vlmd | llama.cpp "
          "| encode s: vlmd | llama.cpp | step ms: vlmd | llama.cpp |\n" + "|---" * 12 + "|")
    for row in costs:
        print("| " + " | ".join(row) + " |")
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
