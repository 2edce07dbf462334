#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""What the checkpoints say about a clip, at one frame a second: watch.py --encoder E --decoder D CLIP"""
import argparse

import cv2
import numpy as np
import torch

import evaluate
import sequences as S
import world as W


def frames(path, every=1.0):
    clip = cv2.VideoCapture(path)
    fps, n, out = clip.get(cv2.CAP_PROP_FPS) or 25, 0, []
    while True:
        ok, picture = clip.read()
        if not ok:
            return np.stack(out)
        if n >= len(out) * fps * every - 1e-6:
            out.append(W.frame_path(np.ascontiguousarray(picture[:, :, ::-1])))
        n += 1


def captions(encoder, decoder, pixels):
    vision = encoder.look_on(torch.from_numpy(pixels))
    stream = evaluate.Stream(decoder)
    stream.text(S.vocabulary.encode_marked(S.SINK))
    return [S.vocabulary.decode(stream.show(t, t, vision[t], [])).strip() for t in range(len(pixels))]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("clip")
    p.add_argument("--encoder", required=True)
    p.add_argument("--decoder", required=True)
    p.add_argument("--every", type=float, default=1.0, help="seconds between frames")
    a = p.parse_args()
    torch.set_num_threads(1)
    encoder, decoder = evaluate.load(a.encoder, a.decoder, False)
    with torch.no_grad():
        for t, text in enumerate(captions(encoder, decoder, frames(a.clip, a.every))):
            print(f"{t // 60}:{t % 60:02d}", text or "-")


if __name__ == "__main__":
    main()
