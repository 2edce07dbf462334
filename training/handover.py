# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Stage 3: the connector is fitted to oracle tokens (ridge), then the encoder trained towards them.

After it the encoder speaks the language that the decoder learned on oracle tokens.
The heads' losses stay on at a small weight, so that seeing goes on getting better.
A share of the pictures is footage; tokens of both worlds carry how their cell looks.
"""
import argparse
import os
import time

import numpy as np
import torch

import footage
import sequences as S
import train_encoder as E
from model import DECODER, ENCODER, Average, Encoder, Optimizers, autocast, schedule
from sight import LOOKS, Sight


def drawn_batch(rng, n, oracle):
    data = E.batch(rng, n, 5, objects=True)
    truths = [dict(objects=o, n_objects=len(o)) for o in data.pop("objects")]
    return data, oracle(truths)


def footage_batch(rng, n, sight):
    """pixels and marks, four frames of a scene after each other"""
    pixels, marks = [], []
    for _ in range(max(1, n // 4)):
        p, history = footage.sequence(rng, 2, 4)
        pixels.append(torch.from_numpy(p))
        marks += [sight.marks(second.marks) for second in history[2:]]
    return torch.cat(pixels), torch.stack(marks)


def batch(rng, n, n_footage, oracle, sight):
    data, target = drawn_batch(rng, n - n_footage, oracle)
    target = sight.drawn(target, sight.looks(data["pixels"]))
    if n_footage:
        pixels, marks = footage_batch(rng, n_footage, sight)
        target = torch.cat([target, sight.footage(sight.looks(pixels), marks)])
        data["pixels"] = torch.cat([data["pixels"], pixels])
    return data, target


def parts(error, n_drawn, target, oracle, sight):
    """mean squares: of the drawn world's own directions, of looks, of marks"""
    along = error @ sight.axes.T
    own = error - along @ sight.axes
    weight = 1 + 4 * (target[:n_drawn].pow(2).sum(-1, keepdim=True) - (target[:n_drawn] @ sight.axes.T).pow(2).sum(-1, keepdim=True)
                      > oracle.rows[0].pow(2).sum() + 6).float()  # cells with a centre count five times
    drawn = (own[:n_drawn] ** 2 * weight).mean()
    if len(own) > n_drawn:
        drawn = drawn + 0.2 * (own[n_drawn:] ** 2).mean()
    looks, marks = along[..., :LOOKS] ** 2, along[..., LOOKS:] ** 2
    return drawn, looks.mean(), marks.mean()


def ridge(encoder, rng, oracle, sight, n_footage):
    xs, ys = [], []
    with torch.no_grad(), autocast():
        for _ in range(24):
            data, target = batch(rng, 32, n_footage, oracle, sight)
            xs.append(encoder.shuffled(encoder.patches(data["pixels"])).float().flatten(0, 1))
            ys.append(target.flatten(0, 1))
    x, y = torch.cat(xs), torch.cat(ys)
    solution = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ y)
    print(f"ridge: R2 {1 - ((x @ solution - y) ** 2).mean().item() / ((y - y.mean(0)) ** 2).mean().item():.3f}", flush=True)
    encoder.connector.weight.data = solution.T.contiguous()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--init", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--seconds", type=float, default=240)
    p.add_argument("--lr", type=float, default=0.008)
    p.add_argument("--seed", type=int, default=4)
    p.add_argument("--batch", type=int, default=24)
    p.add_argument("--footage", type=int, default=12, help="pictures of footage in a batch")
    p.add_argument("--decay-from", type=float, default=0.4)
    p.add_argument("--average-from", type=float, default=0.6, help="progress from which weights are averaged")
    p.add_argument("--keep-connector", action="store_true", help="no ridge fit: go on from an earlier handover")
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    state = torch.load(a.init)
    encoder = Encoder(**ENCODER, out=DECODER["width"])
    encoder.load_state_dict(state["encoder"])
    heads = E.Heads(ENCODER["width"], DECODER["width"])
    heads.load_state_dict(state["heads"])
    oracle = S.Oracle(DECODER["width"])
    sight = Sight(oracle)
    held = batch(np.random.default_rng(5), 128, 64, oracle, sight)
    held_mean = torch.cat([held[1][:64].mean((0, 1)).expand(64, S.N_CELLS, -1), held[1][64:].mean((0, 1)).expand(64, S.N_CELLS, -1)])
    spreads = [v.item() for v in parts(held[1] - held_mean, 64, held[1], oracle, sight)]
    if not a.keep_connector:
        ridge(encoder, rng, oracle, sight, 16 if a.footage else 0)
    optimizers = Optimizers([encoder, heads], a.lr, a.lr / 8)
    average = Average(encoder)
    start = reported = time.time()
    step = 0

    def report():
        with torch.no_grad(), autocast():
            error = average.module(held[0]["pixels"]).float() - held[1]
        left = parts(error, 64, held[1], oracle, sight)
        print(f"{time.time() - start:.0f} s, step {step}, R2 of words, looks, marks",
              *[f"{1 - x.item() / v:.4f}" for x, v in zip(left, spreads)], flush=True)
        torch.save(dict(encoder=average.module.state_dict(), heads=heads.state_dict(), last=encoder.state_dict()), a.out + ".new")
        os.replace(a.out + ".new", a.out)

    report()
    while (progress := (time.time() - start) / a.seconds) < 1:
        data, target = batch(rng, a.batch, a.footage, oracle, sight)
        n_drawn = a.batch - a.footage
        with autocast():
            x = encoder.patches(data["pixels"])
            tokens = encoder.connector(encoder.shuffled(x)).float()
            patch = heads.patch(x[:n_drawn]).float()
        words, looks, marks = parts(tokens - target, n_drawn, target, oracle, sight)
        loss = words / spreads[0] + 0.5 * looks / spreads[1] + 0.3 * marks / spreads[2]
        loss = loss + 0.15 * E.dense_loss(patch, data["patch_shape"], data["patch_colour"], data["patch_offset"], 1)
        loss.backward()
        optimizers.step(schedule(step, progress, warmup=10, decay_from=a.decay_from))
        average.step(progress >= a.average_from)
        step += 1
        if time.time() - reported > 60:
            reported = time.time()
            report()
    report()


if __name__ == "__main__":
    main()
