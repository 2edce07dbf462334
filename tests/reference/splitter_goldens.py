#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes tests/golden/tokenizer/splits.txt: where each family of splitters cuts awkward texts. Development time only
(tokenizers 0.23, regex); the output is checked in.

Two libraries answer, tokenizers (Oniguruma, what the models were trained with) and regex; the script stops where they
differ. 'default' is llama.cpp's and has no tokenizer.json: for it the expressions run in the order that llama.cpp gives them.

First line: the names. A further line is a text as hex and, by family, the lengths of its pieces in bytes, joined by commas."""
import random

import regex
from tokenizers import Regex, pre_tokenizers

from tokenizer_goldens import OUT, TEXTS

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
FAMILIES = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "qwen2": [QWEN2],
    "qwen35": [QWEN35],
    "llama-bpe": [LLAMA3],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
}
TOKENIZER_JSON = {  # as the models publish them; "Split" by the expression otherwise
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
}
MORE = [
    "x\n\n\n y", "a\r\n\r\n  b", " \r\n", "if (x) {\n\treturn -1;\n}\n", "\t\tx", "(hello) [World] <b>", "$100.00 + 5%=7 ^~|`", "a_b-c.d,e",
    "1234567", "12 3456,789.01", "v1.2.3rc4", "abc123def", "3rd 2nd", "\u0967\u0968\u0969\u096a", "\u00bd\u00be\u2460",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "n\u0303a\u0303", "\u0301x", "a \u0301 b", "!\u0301a",
    "I'M YOU'LL WE'Ve it'S'", "'\u017f x'\u017f", "\u2019s", "'s'S", "''s", "x 's", "!!!\n\nwow", "!!! \n\n wow", "...\r\n", "\u3002\n\u3002",
    "\u00a0\u00a0x", "\u3000\u3000x", "x \u3000y", "\u2028x", "\u00ad-\u200d", "\U0001f600\U0001f600 \U0001f600", "\ufffd\ufffd a", "<|im_end|>",
    "caf\u00e9's na\u00efve", "\u0417\u0430\u0447\u0435\u043c?", "\uc548\ub155 \uc138\uc0c1", "\u1112\u1161\u11ab", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "=" * 20, " " * 7 + "x", "\n" * 5 + " x",
]
PARTS = ["a", "The", " ", "  ", "\n", "\r\n", "1", "234", "'s", "'T", "don't", ".", "!?", "$", "\u00e9", "\u0301", "\u4e16", "\U0001f600", "\t",
         "\u00a0", "\u3000", "=", "\u00bd", "\u0661", "_"]


def by_tokenizers(name, text):
    steps = TOKENIZER_JSON.get(name) or [pre_tokenizers.Split(Regex(x), "isolated") for x in FAMILIES[name]]
    at = [span for _, span in pre_tokenizers.Sequence(steps).pre_tokenize_str(text)]
    return [text[a:b] for a, b in at]


def by_regex(name, text):
    pieces = [text] if text else []
    for expression in FAMILIES[name]:
        cut = []
        for piece in pieces:
            done = 0
            for m in regex.finditer(expression, piece, flags=regex.V0):
                cut += [piece[done:m.start()], m.group()]
                done = m.end()
            cut.append(piece[done:])
        pieces = [p for p in cut if p]
    return pieces


def main():
    rng = random.Random(11)
    texts = [t for t in TEXTS + MORE if t]
    texts += ["".join(rng.choices(PARTS, k=rng.randrange(2, 14))) for _ in range(150)]
    with open(OUT / "splits.txt", "w", encoding="ascii") as f:
        f.write(" ".join(FAMILIES) + "\n")
        for text in texts:
            row = [text.encode().hex()]
            for name in FAMILIES:
                pieces = by_tokenizers(name, text)
                if pieces != by_regex(name, text) or "".join(pieces) != text:
                    raise SystemExit(f"{name}: {text!r}: tokenizers {pieces}, regex {by_regex(name, text)}")
                row.append(",".join(str(len(p.encode())) for p in pieces))
            f.write(" ".join(row) + "\n")
    print(len(texts), "texts")


if __name__ == "__main__":
    main()
