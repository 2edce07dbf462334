# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Runs the encoder over sequences of the drawn world and of footage and keeps its tokens, for the decoder's training.

Each item: (features [n, 64, width] in half precision, history of 20 seconds before and n of these).
"""
import argparse
import os
import time

import numpy as np
import torch

import footage
import sequences as S
import train_encoder as E
import world as W
from model import DECODER, ENCODER, Encoder, autocast

N_BEFORE = 20


def render(rng, scenes, w, h):
    return np.stack([W.frame_path(W.draw(s, w, h)[0]) for s in scenes])


def sequence(rng, n, held_out=0, event_rate=None, size=None):
    """pixels [n, 128, 128, 3] and the history of N_BEFORE + n seconds"""
    _, w, h = size or E.random_size(rng)
    history, scenes = S.random_history(rng, N_BEFORE + n, w / h, held_out, event_rate)
    return render(rng, scenes[N_BEFORE:], w, h), history


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--encoder", required=True)
    p.add_argument("--out", required=True, help="folder, or a file ending in .pt")
    p.add_argument("--files", type=int, default=1)
    p.add_argument("--sequences", type=int, default=32, help="in a file")
    p.add_argument("--frames", type=int, default=12)
    p.add_argument("--footage", type=float, default=0.45, help="share of sequences")
    p.add_argument("--footage-frames", type=int, default=6)
    p.add_argument("--seed", type=int, required=True)
    a = p.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(a.seed)
    encoder = Encoder(**ENCODER, out=DECODER["width"])
    encoder.load(torch.load(a.encoder)["encoder"])
    start, n = time.time(), 0
    single = a.out.endswith(".pt")
    if not single:
        os.makedirs(a.out, exist_ok=True)
    for i in range(a.files):
        items = []
        for _ in range(a.sequences):
            real = rng.random() < a.footage
            pixels, history = footage.sequence(rng, N_BEFORE, a.footage_frames) if real else sequence(rng, a.frames)
            with torch.no_grad(), autocast():
                items.append((encoder.look_on(torch.from_numpy(pixels)).half(), history))
            n += len(pixels)
        path = a.out if single else f"{a.out}/{a.seed}-{i:04d}.pt"
        torch.save(items, path + ".new")
        os.replace(path + ".new", path)
        if i % 10 == 0:
            print(f"{i}: {n / (time.time() - start):.0f} frames/s", flush=True)


if __name__ == "__main__":
    main()
