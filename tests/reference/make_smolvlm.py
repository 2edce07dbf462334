# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes tests/golden/smolvlm/: tiny random SmolVLM pairs as GGUF, and what Hugging Face computes with them.

usage: make_smolvlm.py LLAMA_CPP OUT      LLAMA_CPP: llama.cpp's source tree (convert_hf_to_gguf.py, gguf-py,
                                          conversion/), as in PyPI's source package of llama-cpp-python

Made with torch 2.15, transformers 5.23, tokenizers 0.23, Pillow 12.3, llama-cpp-python 0.3.36. The reference
runs on the weights that gguf-py reads back from the finished files, so that what is compared is the daemon's
arithmetic and not the rounding of the format; the f32 files must hold the very weights they were made of.
Widths and grids are chosen to expose mistakes: n_heads * head_dim != d_model, d_ff != d_model, grouped heads, a
9 x 9 grid with pixels left over, norm weights that are not ones, biases that are not zeros.
"""
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from taps import write_taps
from tiny_tokenizer import make_tokenizer

ODD = dict(image=56, patch=6, shuffle=3, vision=32, vision_heads=2, vision_ff=64, vision_layers=2,
           width=32, heads=4, kv_heads=2, head_dim=16, ff=64, layers=2, tied=False)
EVEN = dict(image=32, patch=4, shuffle=4, vision=64, vision_heads=4, vision_ff=96, vision_layers=3,
            width=64, heads=4, kv_heads=1, head_dim=16, ff=96, layers=3, tied=True)
PAIRS = {"odd-f32": (ODD, "f32"), "odd-f16": (ODD, "f16"), "even-q8_0": (EVEN, "q8_0")}

PROMPT = ("<|im_start|>System: Say what changed.<end_of_utterance>\n"
          "User:\nFrame from 1:02:05:<fake_token_around_image><global-img>{image}<fake_token_around_image>"
          "<end_of_utterance>\nAssistant: A red circle appeared<end_of_utterance>\n"
          "User:\nFrame from 12:59:59:<fake_token_around_image><global-img>{image}<fake_token_around_image>"
          "<end_of_utterance>\nAssistant:<end_of_utterance>\n"
          "User: Where is the <image> now, 42?<end_of_utterance>\nAssistant:")
USER_TEXT = "Where is the <image> now, 42?"
FRAMES = ((90, 50), (33, 47))  # a wide one made smaller, a tall one whose short edge grows


def picture(w, h):
    """The same integers as test_picture in tests/golden/taps.h: a ramp, noise, and stripes."""
    y, x = np.mgrid[0:h, 0:w].astype(np.uint32)
    n = x * np.uint32(2654435761) + y * np.uint32(2246822519)
    n ^= n >> np.uint32(15)
    n *= np.uint32(739982445)
    n ^= n >> np.uint32(12)
    return np.stack([x * 255 // w, n & 255, (x * 5 + y * 3) & 255], -1).astype(np.uint8)


def make_model(g, tokenizer):
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=g["width"], intermediate_size=g["ff"], num_hidden_layers=g["layers"],
        num_attention_heads=g["heads"], num_key_value_heads=g["kv_heads"], head_dim=g["head_dim"],
        max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=g["tied"],
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        architectures=["VLlama3ForCausalLM"])
    vision = SmolVLMVisionConfig(
        hidden_size=g["vision"], intermediate_size=g["vision_ff"], num_hidden_layers=g["vision_layers"],
        num_attention_heads=g["vision_heads"], image_size=g["image"], patch_size=g["patch"],
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=g["shuffle"], tie_word_embeddings=g["tied"],
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(1)
    model = SmolVLMForConditionalGeneration(config).float().eval()
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=rng)
            if "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * r)
            elif name.endswith("bias"):
                p.copy_(0.1 * r)
            elif "embed" in name and p.dim() == 2:
                # Small where it is tied: the output would repeat its input otherwise.
                p.copy_(r * (0.5 if "position" in name else 0.2 if g["tied"] else 1))
            else:
                p.copy_(r / math.sqrt(p[0].numel()))
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                p.mul_(1.4)
    if g["tied"]:
        model.tie_weights()
    return model


def save(model, tokenizer, g, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edge = {"longest_edge": g["image"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(dict(
        image_processor_type="SmolVLMImageProcessor", processor_class="SmolVLMProcessor", do_convert_rgb=True,
        do_image_splitting=True, do_normalize=True, do_pad=True, do_rescale=True, do_resize=True, resample=1,
        image_mean=[.5] * 3, image_std=[.5] * 3, rescale_factor=1 / 255, max_image_size=edge,
        size={"longest_edge": 4 * g["image"]}, video_sampling={"fps": 1, "max_frames": 64, "video_size": edge})))
    (folder / "processor_config.json").write_text(json.dumps(
        {"processor_class": "SmolVLMProcessor", "image_seq_len": n_tokens(g)}))


def convert(llama_cpp, folder, out, outtype):
    """llama.cpp's converter, told which splitter a vocabulary has whose hash it does not know"""
    tell = ("import sys, runpy; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/gguf-py']; import conversion.base as b;"
            "b.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'smollm';"
            "sys.argv = [sys.argv[1] + '/convert_hf_to_gguf.py'] + sys.argv[2:];"
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    for kind, flag in (("text", []), ("mmproj", ["--mmproj"])):
        subprocess.run([sys.executable, "-c", tell, str(llama_cpp), str(folder), *flag, "--outtype", outtype,
                        "--outfile", f"{out}-{kind}.gguf"], check=True, capture_output=True)


def n_tokens(g):
    return (g["image"] // g["patch"] // g["shuffle"]) ** 2


TEXT_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
VISION_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2", "ln1": "layer_norm1",
    "ln2": "layer_norm2"}
TOP_NAMES = {
    "token_embd.weight": "model.text_model.embed_tokens.weight", "output.weight": "lm_head.weight",
    "output_norm.weight": "model.text_model.norm.weight",
    "mm.model.fc.weight": "model.connector.modality_projection.proj.weight",
    "v.patch_embd.weight": "model.vision_model.embeddings.patch_embedding.weight",
    "v.patch_embd.bias": "model.vision_model.embeddings.patch_embedding.bias",
    "v.position_embd.weight": "model.vision_model.embeddings.position_embedding.weight",
    "v.post_ln.weight": "model.vision_model.post_layernorm.weight",
    "v.post_ln.bias": "model.vision_model.post_layernorm.bias"}


def torch_name(name):
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.text_model.layers.{layer}.{TEXT_NAMES[part]}.{kind}"
    _, _, layer, part, kind = name.split(".")
    return f"model.vision_model.encoder.layers.{layer}.{VISION_NAMES[part]}.{kind}"


def unpermute(rows, n_heads):
    """GGUF row h * D + 2 i + s back to row h * D + s * D / 2 + i"""
    return rows.reshape(n_heads, rows.shape[0] // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def read_back(out, g, permuted=True):
    from gguf import GGUFReader, dequantize
    state = {}
    for kind in ("text", "mmproj"):
        for t in GGUFReader(f"{out}-{kind}.gguf").tensors:
            rows = dequantize(t.data, t.tensor_type).reshape([int(n) for n in t.shape[::-1]]).astype(np.float32)
            if permuted and kind == "text" and ".attn_q." in t.name:
                rows = unpermute(rows, g["heads"])
            if permuted and kind == "text" and ".attn_k." in t.name:
                rows = unpermute(rows, g["kv_heads"])
            state[torch_name(t.name)] = torch.from_numpy(np.ascontiguousarray(rows))
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.text_model.embed_tokens.weight"]
    return state


def preprocess(g, size):
    """The video-frame path: one view, longest edge first, then the square."""
    edge = {"longest_edge": g["image"]}
    p = SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False, resample=1,
                                 image_mean=[.5] * 3, image_std=[.5] * 3)
    x = p([[Image.fromarray(picture(*size))]], return_tensors="np")["pixel_values"][0, 0]
    return np.rint((x.transpose(1, 2, 0) * .5 + .5) * 255).astype(np.uint8), torch.from_numpy(x)[None]


def prompt_ids(tokenizer, model, g):
    """The user's own "<image>" is text: its letters are encoded, never the token."""
    before, after = PROMPT.split(USER_TEXT)
    mark = "\u2603"
    ids = []
    image = "<image>" * n_tokens(g)
    full = before.format(image=image) + USER_TEXT.replace("<image>", mark) + after
    head, tail = full.split(mark)
    # The letters of "<image>" stand between a space and a space: splitting there changes no merge.
    inner = tokenizer.backend_tokenizer
    letters = []
    for part in ("<", "image", ">"):
        letters += inner.encode(part if part != "<" else " <", add_special_tokens=False).ids
    ids += tokenizer(head[:-1], add_special_tokens=False).input_ids
    ids += letters
    ids += tokenizer(tail, add_special_tokens=False).input_ids
    return torch.tensor([ids])


def run(model, tokenizer, g, pixels):
    """Everything that is computed on the way, by name."""
    taps, hooks = {}, []

    p, grid = g["patch"], g["image"] // g["patch"]
    cut = torch.nn.functional.unfold(pixels[0][..., :grid * p, :grid * p], p, stride=p)
    patches = cut[0].T.numpy()  # columns (channel, y, x), as a convolution's kernel

    def keep(name, pick=lambda out: out):
        def hook(module, inputs, out):
            out = pick(out[0] if isinstance(out, tuple) else out)
            taps[name] = out.detach()[0].float().numpy()
        return hook

    m = model.model
    images = torch.stack(pixels)[None, :, 0]
    with torch.no_grad():
        v = m.vision_model
        hooks.append(v.embeddings.register_forward_hook(keep("vit.embed")))
        for i, layer in enumerate(v.encoder.layers):
            hooks.append(layer.register_forward_hook(keep(f"vit.{i}")))
        hooks.append(v.post_layernorm.register_forward_hook(keep("vit.post")))
        hooks.append(m.connector.modality_projection.register_forward_pre_hook(
            lambda module, inputs: taps.__setitem__("proj.shuffle", inputs[0].detach()[0].float().numpy())))
        hooks.append(m.connector.register_forward_hook(keep("proj")))
        features = m.get_image_features(images[:, :1]).pooler_output
        first = dict(taps)
        second = m.get_image_features(images[:, 1:]).pooler_output
        for h in hooks:
            h.remove()
        taps.clear()
        taps.update(first)
        rows = torch.cat([torch.cat(list(features)), torch.cat(list(second))])
        taps["proj.second"] = torch.cat(list(second)).numpy()

        ids = prompt_ids(tokenizer, model, g)
        embed = m.text_model.embed_tokens(ids).clone()
        place = ids[0] == model.config.image_token_id
        embed[0, place] = rows.reshape(-1, embed.shape[-1])
        hooks = [layer.register_forward_hook(keep(f"dec.{i}")) for i, layer in enumerate(m.text_model.layers)]
        hooks.append(m.text_model.norm.register_forward_hook(keep("dec.norm", lambda out: out[:, -16:])))
        taps["dec.embed"] = embed[0].numpy()
        logits = model.lm_head(m.text_model(inputs_embeds=embed).last_hidden_state)
        for h in hooks:
            h.remove()
        whole = model(input_ids=ids, pixel_values=images).logits
        assert torch.allclose(whole, logits, atol=1e-4), "the composed pass is not the model's own"
        taps["logits"] = logits[0, -16:].numpy()  # of the last places: the rest says no more
        greedy = []
        for _ in range(16):
            greedy.append(int(model.lm_head(m.text_model(inputs_embeds=embed).last_hidden_state)[0, -1].argmax()))
            embed = torch.cat([embed, m.text_model.embed_tokens(torch.tensor([[greedy[-1]]]))], 1)
    n = ids.shape[1]
    taps["patches"] = patches
    taps["ids"] = torch.where(place, -1, ids[0]).numpy().astype(np.int32)
    taps["positions"] = np.arange(n, dtype=np.int32)
    taps["greedy"] = np.array(greedy, np.int32)
    return taps


def wrong_shuffle(self, x, scale_factor=2):
    """pixel shuffle with dx and dy exchanged"""
    b, n, c = x.shape
    s = scale_factor
    w = int(n ** .5) // s
    return x.view(b, w, s, w, s, c).permute(0, 1, 3, 4, 2, 5).reshape(b, n // (s * s), c * s * s)


def add_controls(taps, model, tokenizer, g, pixels, out):
    """What two likely mistakes would give: the comparison must tell them from the right answer."""
    model.load_state_dict(read_back(out, g, permuted=False))
    taps["control.permuted.logits"] = run(model, tokenizer, g, pixels)["logits"][-1:]
    model.load_state_dict(read_back(out, g))
    kind = type(model.model.connector)
    right, kind.pixel_shuffle = kind.pixel_shuffle, wrong_shuffle
    taps["control.shuffled.proj"] = run(model, tokenizer, g, pixels)["proj"]
    kind.pixel_shuffle = right


def make_pair(name, llama_cpp, folder):
    g, outtype = PAIRS[name]
    tokenizer = make_tokenizer(320)
    model = make_model(g, tokenizer)
    out = folder / name
    with tempfile.TemporaryDirectory() as tmp:
        source = Path(tmp) / f"Tiny-{name}"  # the files' general.name comes from it
        source.mkdir()
        save(model, tokenizer, g, source)
        convert(llama_cpp, source, out, outtype)
    state = read_back(out, g)
    if outtype == "f32":
        for k, v in model.state_dict().items():
            assert torch.equal(v, state[k]), k
    model.load_state_dict(state)
    model.set_attn_implementation("eager")
    views = [preprocess(g, size) for size in FRAMES]
    pixels = [p for _, p in views]
    taps = {"pixels": views[0][0], "pixels.second": views[1][0]}
    taps.update(run(model, tokenizer, g, pixels))
    add_controls(taps, model, tokenizer, g, pixels, out)
    write_taps(folder / f"{name}.taps", taps)
    print(name, "vocabulary", len(tokenizer), "prompt", taps["ids"].size, "greedy", taps["greedy"].tolist())


SIZES = ((1280, 720), (64, 64), (640, 480), (33, 77), (100, 10), (300, 1), (1, 9), (31, 32), (720, 1280), (57, 56))


def make_frames(folder):
    """Pixels of the video-frame path for awkward sizes and two edges of the square."""
    write_taps(folder / "frames.taps", {
        f"{w}x{h}.{edge}": preprocess({"image": edge}, (w, h))[0] for w, h in SIZES for edge in (32, 56)})


def main():
    llama_cpp, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    make_frames(folder)
    for name in PAIRS:
        make_pair(name, llama_cpp, folder)


if __name__ == "__main__":
    main()
