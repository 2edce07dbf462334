# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""What a visual token says beyond the drawn world's words: what happens in its 16x16 pixels, against the look before.

The encoder sees this look and the one before, and says per cell what changed. It lives in directions
orthogonal to everything the drawn world's oracle uses, so its tokens of a still picture stay what they were.
"""
import numpy as np
import torch

import footage
import sequences as S

EVENTS = 10  # appeared, left, turned, moves left, right, up, down; of the whole picture: light, covered, clear
SAID, REAL = 10, 11  # this is what a caption is about; this is footage and not the drawn world
CODES = 12
STRENGTH, WIDELY = 4.0, 1.5  # of what happens in a cell, and of what happens to the whole picture


class Sight:
    def __init__(self, oracle):
        _, values, directions = torch.linalg.svd(torch.cat([oracle.rows, oracle.where]), full_matrices=False)
        used = directions[values > 1e-4]
        axes = torch.randn(CODES, used.shape[1], generator=torch.Generator().manual_seed(53))
        axes = axes - axes @ used.T @ used  # no basis of what is left free: each library has another
        q, r = torch.linalg.qr(axes.T)
        self.axes = (q * r.diagonal().sign()).T  # [CODES, width], orthonormal
        self.quiet = oracle.rows[0] + oracle.where

    def codes(self, history, t):
        """[64, CODES] of second t against the one before"""
        real = isinstance(history, list)
        out = np.zeros((S.N_CELLS, CODES), np.float32)
        out[:, REAL] = real
        if t == 0:
            return torch.from_numpy(out)
        labels = (footage.event_labels if real else S.event_labels)(history, t)
        wide = labels[0] in footage.PICTURE_LABEL.values()
        kind = np.where(labels >= 8, labels - 4, labels)
        on = kind > 0
        out[on, kind[on] - 1] = WIDELY if wide else STRENGTH
        if real and history[t].event:
            out[S.cell_of(*history[t].event["at"]), SAID] = STRENGTH
        return torch.from_numpy(out)

    def tokens(self, own, codes):
        return own + codes @ self.axes
