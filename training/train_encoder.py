# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Stage 1: the encoder with dense heads on single pictures.

Objectness everywhere, shape and colour on positive cells only (with a class "none"
shape never gets off the ground), offset of the centre. Patches and connector cells
each have a head; the heads are thrown away afterwards.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import world as W
from model import DECODER, ENCODER, Encoder, Optimizers, autocast, schedule

GRID = 8  # connector cells a side
ASPECTS = [("16:9", 0.36), ("4:3", 0.24), ("1:1", 0.26), ("9:16", 0.14)]


def random_size(rng):
    name = ASPECTS[rng.choice(len(ASPECTS), p=[p for _, p in ASPECTS])][0]
    w, h = W.ASPECTS[name]
    scale = rng.choice([1, 2, 3, 5], p=[0.55, 0.28, 0.12, 0.05])
    return name, int(w * scale), int(h * scale)


def shot(scene, w, h):
    """128x128 pixels, owner per pixel of the squashed square, objects"""
    rgb, owner = W.draw(scene, w, h, True)
    rows = (np.arange(W.SIZE) * h + h // 2) // W.SIZE
    columns = (np.arange(W.SIZE) * w + w // 2) // W.SIZE
    return W.frame_path(rgb), owner[rows][:, columns], scene["objects"][0, : scene["n_objects"][0]]


def picture(rng, n_max, held_out=0):
    """as shot() of a random scene"""
    name, w, h = random_size(rng)
    n = int(rng.integers(0, n_max + 1)) if rng.random() < 0.3 else int(rng.integers(1, n_max + 1))
    return shot(W.World(rng.integers(1 << 62), aspect=w / h, n_start=n, held_out=held_out).scene(), w, h)


def patch_owner(owner):
    """[128, 128] -> [16, 16] index of the object that has more than a quarter of a patch, else 255"""
    cells = owner.reshape(16, 8, 16, 8).transpose(0, 2, 1, 3).reshape(16, 16, 64)
    counts = np.stack([(cells == k).sum(-1) for k in range(W.MAX_OBJECTS)], -1)
    return np.where(counts.max(-1) > 15, counts.argmax(-1), 255)


def batch(rng, n, n_max, held_out=0):
    return dense([picture(rng, n_max, held_out) for _ in range(n)])


def dense(pictures):
    """pixels, and labels of cells and patches, of what picture() returns"""
    n = len(pictures)
    out = dict(pixels=np.zeros((n, W.SIZE, W.SIZE, 3), np.uint8), cell_shape=np.full((n, GRID, GRID), -1),
               cell_colour=np.full((n, GRID, GRID), -1), cell_offset=np.zeros((n, GRID, GRID, 3), np.float32),
               patch_shape=np.full((n, 16, 16), -1), patch_colour=np.full((n, 16, 16), -1),
               patch_offset=np.zeros((n, 16, 16, 2), np.float32))
    centre = (np.arange(16) + 0.5) / 16
    for b, (pixels, owner, there) in enumerate(pictures):
        out["pixels"][b], owner = pixels, patch_owner(owner)
        for k, o in enumerate(there):
            i, j = int(o["y"] * GRID), int(o["x"] * GRID)
            out["cell_shape"][b, i, j], out["cell_colour"][b, i, j] = o["shape"], o["colour"]
            out["cell_offset"][b, i, j] = o["x"] * GRID - j - 0.5, o["y"] * GRID - i - 0.5, (o["radius"] - 0.1) * 20
            mine = owner == k
            out["patch_shape"][b][mine], out["patch_colour"][b][mine] = o["shape"], o["colour"]
            to = np.stack(np.broadcast_arrays((o["x"] - centre)[None, :] * 8, (o["y"] - centre)[:, None] * 8), -1)
            out["patch_offset"][b][mine] = to[mine]
    return {k: torch.from_numpy(v).flatten(1, 2) if k != "pixels" else torch.from_numpy(v) for k, v in out.items()}


class Heads(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.patch, self.cell = nn.Linear(width, 1 + 8 + 8 + 2), nn.Linear(out, 1 + 8 + 8 + 3)


def dense_loss(z, shape, colour, offset, weight):
    """z: [B, n, 1 + 8 + 8 + offsets]; shape and colour are -1 where nothing is"""
    on = shape >= 0
    loss = weight * F.binary_cross_entropy_with_logits(z[..., 0], on.float(), weight=torch.where(on, 4.0, 1.0))
    if on.any():
        z, shape, colour, offset = z[on], shape[on], colour[on], offset[on]
        loss = loss + 1.2 * F.cross_entropy(z[:, 1:9], shape) + 0.3 * F.cross_entropy(z[:, 9:17], colour)
        loss = loss + 2 * F.smooth_l1_loss(z[:, 17:], offset, beta=0.1)
    return loss


def forward(encoder, heads, data):
    with autocast():
        x = encoder.patches(data["pixels"])
        return heads.patch(x).float(), heads.cell(encoder.connector(encoder.shuffled(x))).float()


def total_loss(encoder, heads, data):
    patch, cell = forward(encoder, heads, data)
    return (dense_loss(patch, data["patch_shape"], data["patch_colour"], data["patch_offset"], 1)
            + dense_loss(cell, data["cell_shape"], data["cell_colour"], data["cell_offset"], 2))


@torch.no_grad()
def evaluate(encoder, heads, sets):
    right = dict(shape=0, colour=0, count=0, whole=0, offset=0.0)
    n_objects = n_pictures = 0
    for data in sets:
        _, z = forward(encoder, heads, data)
        on = data["cell_shape"] >= 0
        shape, colour = z[..., 1:9].argmax(-1) == data["cell_shape"], z[..., 9:17].argmax(-1) == data["cell_colour"]
        fired = z[..., 0] > 0
        right["shape"] += shape[on].sum().item()
        right["colour"] += colour[on].sum().item()
        right["offset"] += (z[..., 17:19] - data["cell_offset"][..., :2])[on].abs().sum().item() / 2
        right["count"] += (fired.sum(1) == on.sum(1)).sum().item()
        right["whole"] += ((fired == on) & (~on | (shape & colour))).all(1).sum().item()
        n_objects += on.sum().item()
        n_pictures += len(on)
    return " ".join(f"{k} {v / (n_pictures if k in ('count', 'whole') else n_objects):.3f}" for k, v in right.items())


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", required=True)
    p.add_argument("--init", default="", help="checkpoint to go on from, with a fresh optimizer")
    p.add_argument("--seconds", type=float, default=1800)
    p.add_argument("--batch", type=int, default=24)
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--decay-from", type=float, default=0.6)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    encoder = Encoder(**ENCODER, out=DECODER["width"])
    heads = Heads(ENCODER["width"], DECODER["width"])
    if a.init:
        state = torch.load(a.init)
        encoder.load(state["encoder"])
        if "heads" in state:
            heads.load_state_dict(state["heads"])
    optimizers = Optimizers([encoder, heads], a.lr, a.lr / 10)
    held = np.random.default_rng(999)
    sets = [batch(held, 64, 5) for _ in range(4)]
    start = reported = time.time()
    step, mean = 0, 0.0

    def save():
        torch.save(dict(encoder=encoder.state_dict(), heads=heads.state_dict()), a.out + ".new")
        os.replace(a.out + ".new", a.out)

    while (progress := (time.time() - start) / a.seconds) < 1:
        loss = total_loss(encoder, heads, batch(rng, a.batch, 2 if progress < 0.06 and not a.init else 5))
        loss.backward()
        optimizers.step(schedule(step, progress, decay_from=a.decay_from))
        step, mean = step + 1, 0.97 * mean + 0.03 * loss.item()
        if time.time() - reported > 60:
            reported = time.time()
            print(f"{reported - start:.0f} s, {step * a.batch} pictures, loss {mean:.3f},", evaluate(encoder, heads, sets), flush=True)
            save()
    print("end:", step * a.batch, "pictures,", evaluate(encoder, heads, sets), flush=True)
    save()


if __name__ == "__main__":
    main()
