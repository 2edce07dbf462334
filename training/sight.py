# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""What a visual token says beyond the drawn world's words: how its 16x16 pixels look, and whether something is there.

The encoder sees single frames, so movement is seen by the decoder, comparing a cell with
itself one frame earlier; for that a token carries a small picture. Both live in directions
orthogonal to everything the drawn world's oracle uses, so its tokens stay what they were.
"""
import numpy as np
import torch

import sequences as S

LOOKS, MARKS = 24, 6  # coefficients of the small picture; something's: cover, centre, offset x, y, size, footage
BRIGHT, CHROMA = 16, 4


def cosines():
    """[24, 48] from a cell's 4x4 means of RGB (row, column, channel) to whitened cosine coefficients"""
    n = np.arange(4)
    basis = np.cos(np.pi * (n[None] + 0.5) * n[:, None] / 4) * np.where(n[:, None] == 0, 0.5, 0.5 ** 0.5)
    colour = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    rows = []
    for c, size in ((0, 4), (1, 2), (2, 2)):
        for i in range(size):
            for j in range(size):
                spread = (1.9 if c == 0 else 0.45) / (1 if i + j == 0 else 3.2 * (i + j) ** 0.8)
                rows.append(np.einsum("i,j,c->ijc", basis[i], basis[j], colour[c]).ravel() / spread)
    return torch.tensor(np.array(rows), dtype=torch.float32)


class Sight:
    def __init__(self, oracle):
        used = torch.cat([oracle.rows, oracle.where])
        _, values, directions = torch.linalg.svd(used, full_matrices=True)
        free = directions[(values > 1e-4).sum() :]
        g = torch.Generator().manual_seed(47)
        mix, _ = torch.linalg.qr(torch.randn(len(free), LOOKS + MARKS, generator=g))
        self.axes = mix.T @ free  # [30, width], orthonormal
        self.cosines = cosines()
        self.quiet = oracle.rows[0] + oracle.where

    def looks(self, pixels):
        """[n, 128, 128, 3] bytes -> [n, 64, 24]"""
        x = torch.as_tensor(pixels).float() / 127.5 - 1
        x = x.view(-1, 8, 4, 4, 8, 4, 4, 3).mean((3, 6))  # [n, row of cells, 4, column of cells, 4, 3]
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, S.N_CELLS, 48) @ self.cosines.T

    def marks(self, boxes):
        """[64, 6] of one frame of footage, boxes in pixels of the frame"""
        out = np.zeros((8, 8, MARKS), np.float32)
        out[..., 5] = 1
        edge = np.arange(8) * 16.0
        for x0, y0, x1, y1 in boxes:
            across = np.clip(np.minimum(x1, edge + 16) - np.maximum(x0, edge), 0, 16)
            down = np.clip(np.minimum(y1, edge + 16) - np.maximum(y0, edge), 0, 16)
            out[..., 0] = np.minimum(1, out[..., 0] + 0.75 * down[:, None] * across[None] / 256)
            x, y = (max(x0, 0) + min(x1, 128)) / 2, (max(y0, 0) + min(y1, 128)) / 2
            if min(x1, 128) - max(x0, 0) > 1 and min(y1, 128) - max(y0, 0) > 1:
                i, j = min(7, int(y / 16)), min(7, int(x / 16))
                out[i, j, 1:5] = 1, x / 8 - 2 * j - 1, y / 8 - 2 * i - 1, np.log((y1 - y0) / 16)
        out *= np.array([2, 2, 1.5, 1.5, 1, 1], np.float32)
        return torch.from_numpy(out).reshape(S.N_CELLS, MARKS)

    def drawn(self, tokens, looks):
        """the oracle's tokens of the drawn world with their looks"""
        return tokens + looks @ self.axes[:LOOKS]

    def footage(self, looks, marks):
        return self.quiet + torch.cat([looks, marks], -1) @ self.axes
