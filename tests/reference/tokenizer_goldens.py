#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes tests/golden/tokenizer/: a small byte-level BPE trained here, as GGUF, and the ids that the `tokenizers` library gives
for awkward texts. Development time only (tokenizers 0.23, gguf 0.19); the output is checked in. The splitters are those of
SmolLM2's own tokenizer.json: single digits first, then GPT-2's expression.

A line of cases.txt is the pieces, `T:hex` (trusted) or `U:hex`, joined by commas, a blank, and the ids joined by commas."""
import pathlib
import random

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "tokenizer"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<global-img>", "<row_1_col_1>", "<row_1_col_2>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
TEXT = """User: What colour is the circle? Assistant: The red circle moves right, and it's gone. I'll say they've seen it; don't ask.
Frame from 0:00:01: a blue square appeared, top left.   There were 12 shapes, 345 of them still.\n\n    indented\tcode = {x: 1};
L'été où naïve cœur déjà vu; Größe, Straße; привет мир; 你好，世界。 こんにちは。 مرحبا ١٢٣ 👩‍👩‍👧 ☀️ ---- ====== ........
The quick brown fox jumps over the lazy dog. What is at the top left? How many shapes are there? Which way is it moving?
""" * 4
TEXTS = [
    "", " ", "  ", "   ", " " * 10, "\n", "\n\n", "\r\n", "\t", " \n x", "a \t b", "a  1", "a1b22", "don't DON'T", "I'll they've 'tis it's'",
    "x\n\n  y", "..\n\nz", "\u0661\u0662", "x\u00b2y", "\u4f60\u597d\uff0c\u4e16\u754c", "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u2600\ufe0f",
    "\u00e9t\u00e9", "e\u0301te\u0301", "a\u0085b", "a\u00a0b", "a\u3000b", "a\u180eb", "a\u2028b \u202f c", "\u0378\u0379", "\u200b x",
    "\x00", "a\x00b", "\x1f\x7f\u00ad", "<image>", "<|im_end|> <end_of_utterance>", "The red circle", " The red circle moves right.",
    "What is at the top left?", "12345 678", "--=={}[]", "'s't're've'm'll'd 'S", "\ufeffx", "\u017f's", "100\u00bd\u2167", "\u1680\u205f x",
]
BYTES = [b"\xff", b"a\xffb", b"\xed\xa0\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"a\xe2\x82 b"]


def clean(raw):
    """Every byte that begins no valid sequence becomes U+FFFD, one by one."""
    out, i = "", 0
    while i < len(raw):
        for n in (1, 2, 3, 4):
            try:
                out += raw[i:i + n].decode()
                i += n
                break
            except UnicodeDecodeError:
                pass
        else:
            out += "\ufffd"
            i += 1
    return out


def train():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def plain(t):
    """The same without special tokens: what user text, and text between special tokens, is encoded with."""
    import json
    j = json.loads(t.to_str())
    j["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(j))


def reference(bare, ids, pieces):
    """Specials are found in trusted text only; what lies between them is encoded as one, over the seams."""
    text = [(ch, trusted) for trusted, raw in pieces for ch in clean(raw)]
    names, out, raw, i = sorted(ids, key=len, reverse=True), [], "", 0
    while i < len(text):
        hit = next((n for n in names if len(n) <= len(text) - i and all(
            text[i + k] == (c, True) for k, c in enumerate(n))), None)
        if hit:
            out += bare.encode(raw).ids + [ids[hit]]
            raw, i = "", i + len(hit)
        else:
            raw, i = raw + text[i][0], i + 1
    return out + bare.encode(raw).ids


def cases(rng):
    for s in TEXTS:
        yield [(False, s.encode())]
        yield [(True, s.encode())]
    for b in BYTES:
        yield [(False, b)]
    yield [(True, b"User:"), (False, b" hi"), (True, b"<end_of_utterance>\nAssistant:")]
    yield [(True, b"User:"), (False, b" hi <image> <|im_end|>"), (True, b"<end_of_utterance>\nAssistant:")]
    yield [(True, b"<im"), (False, b"age>")]
    yield [(False, b"<im"), (True, b"age>")]
    yield [(True, b"<im"), (True, b"age>")]
    yield [(True, b"x<image"), (False, b">"), (True, b"<image>")]
    yield [(True, b"<image><image><fake_token_around_image><global-img>")]
    yield [(True, b"\xe4\xbd"), (True, b"\xa0")]
    yield [(True, b"<|im_start|>User:\nFrame from 0:00:01:<fake_token_around_image><global-img><image><fake_token_around_image>"
                  b"<end_of_utterance>\nAssistant:")]
    parts = ["a", "The", " ", "  ", "\n", "1", "23", "'s", "don't", ".", "<image>", "\u00e9", "\u4e16", "\U0001f600", "\t", "\u00a0", "=", "circle"]
    for _ in range(300):
        yield [(rng.random() < .5, "".join(rng.choices(parts, k=rng.randrange(1, 12))).encode()) for _ in range(rng.randrange(1, 4))]


def write_gguf(vocab, merges, specials):
    w = gguf.GGUFWriter(OUT / "vocab.gguf", "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(vocab)
    w.add_token_types([3 if v in specials else 1 for v in vocab])
    w.add_token_merges(merges)
    w.add_bos_token_id(vocab.index("<|im_start|>"))
    w.add_eos_token_id(vocab.index("<end_of_utterance>"))
    w.add_add_bos_token(False)
    w.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    import json
    OUT.mkdir(parents=True, exist_ok=True)
    t = train()
    bare = plain(t)
    model = json.loads(t.to_str())["model"]
    vocab = [k for k, _ in sorted(model["vocab"].items(), key=lambda kv: kv[1])] + ADDED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    ids = {s: vocab.index(s) for s in SPECIALS + ADDED}
    write_gguf(vocab, merges, ids)
    with open(OUT / "cases.txt", "w", encoding="ascii") as f:
        for pieces in cases(random.Random(7)):
            got = reference(bare, ids, pieces)
            f.write(",".join(("T:" if trusted else "U:") + raw.hex() for trusted, raw in pieces) + " " + ",".join(map(str, got)) + "\n")
    print(len(vocab), "tokens,", len(merges), "merges")


if __name__ == "__main__":
    main()
