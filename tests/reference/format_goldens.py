# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Makes tests/golden/formats.taps: random blocks of every quantised format, and the floats that they are.

usage: format_goldens.py OUT      OUT: tests/golden/formats.taps

Made with gguf 0.19 (its quants.py is ggml's own description of the formats in numpy) and numpy 2.4. Each format
has "NAME.blocks", bytes [n, block bytes], and "NAME.values", f32 [n, block length]. The first blocks have scales
that few files have, and every loader must survive: 0, -0, negative, subnormal, the largest, infinity, NaN.
"""
import sys
from pathlib import Path

import gguf
import numpy as np

from taps import write_taps

# name, where its f16 fields stand, blocks
FORMATS = (("Q4_0", (0,), 14), ("Q4_1", (0, 2), 18), ("Q5_0", (0,), 14), ("Q5_1", (0, 2), 18), ("Q8_0", (0,), 14),
           ("Q4_K", (0, 2), 14), ("Q5_K", (0, 2), 14), ("Q6_K", (208,), 11), ("IQ4_NL", (0,), 14))
ODD = (0x0000, 0x8000, 0xB800, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFE01)


def make(rng, name, fields, n):
    kind = gguf.GGMLQuantizationType[name]
    length, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for f, at in enumerate(fields):
        halves = (rng.standard_normal(n) * 0.02).astype(np.float16).view(np.uint16)
        if f == 0:
            halves[:len(ODD)] = ODD
        else:  # the same for the minimum, beside an ordinary scale and beside the last ones of the scale
            halves[-len(ODD):] = ODD
        blocks[:, at:at + 2] = halves.astype("<u2").view(np.uint8).reshape(n, 2)
    with np.errstate(invalid="ignore"):
        values = gguf.quants.dequantize(blocks, kind)
    assert values.shape == (n, length) and values.dtype == np.float32
    return blocks, values


def main(out):
    rng = np.random.default_rng(20260821)
    arrays = {}
    for name, fields, n in FORMATS:
        arrays[f"{name.lower()}.blocks"], arrays[f"{name.lower()}.values"] = make(rng, name, fields, n)
    write_taps(out, arrays)


main(Path(sys.argv[1]))
