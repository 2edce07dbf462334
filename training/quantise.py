# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Q8_0 as the files hold it: blocks of 32 along a row, one half-precision scale each."""
import torch


def q8_0(weight):
    """[rows, columns] -> (scales [rows, blocks] half, values [rows, blocks, 32] int8)"""
    blocks = weight.detach().float().reshape(weight.shape[0], -1, 32)
    scale = blocks.abs().amax(-1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0)
    return scale.half(), torch.round(blocks * inverse[..., None]).to(torch.int8)


def through_q8_0(weight):
    scale, values = q8_0(weight)
    return (values.float() * scale.float()[..., None]).reshape(weight.shape)


def quantise_model(encoder, decoder):
    """Replaces every matrix that the export stores as Q8_0 by what a reader gets back."""
    with torch.no_grad():
        for name, p in list(encoder.named_parameters()) + list(decoder.named_parameters()):
            if p.ndim == 2 and name != "position" and not name.startswith("embed.weight") or p is decoder.embed.weight:
                p.copy_(through_q8_0(p))
