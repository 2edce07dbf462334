# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Stage 3: the connector is fitted to oracle tokens (ridge), then the encoder trained towards them.

After it the encoder speaks the language that the decoder learned on oracle tokens.
The heads' losses stay on at a small weight, so that seeing goes on getting better.
"""
import argparse
import os
import time

import numpy as np
import torch

import sequences as S
import train_encoder as E
import world as W
from model import DECODER, ENCODER, Encoder, Optimizers, schedule


def batch(rng, n, oracle):
    data = E.batch(rng, n, 5, objects=True)
    truths = [dict(objects=o, n_objects=len(o)) for o in data.pop("objects")]
    return data, oracle(truths)


def weights(target, oracle):
    """cells with a centre count five times"""
    return 1 + 4 * (target.pow(2).sum(-1, keepdim=True) > oracle.rows[0].pow(2).sum() + 6).float()


def ridge(encoder, rng, oracle):
    xs, ys = [], []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(12):
            data, target = batch(rng, 64, oracle)
            xs.append(encoder.shuffled(encoder.patches(data["pixels"])).float().flatten(0, 1))
            ys.append(target.flatten(0, 1))
    x, y = torch.cat(xs), torch.cat(ys)
    solution = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ y)
    variance = ((y - y.mean(0)) ** 2).mean().item()
    print(f"ridge: R2 {1 - ((x @ solution - y) ** 2).mean().item() / variance:.3f}", flush=True)
    encoder.connector.weight.data = solution.T.contiguous()
    return variance


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--init", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--seconds", type=float, default=240)
    p.add_argument("--lr", type=float, default=0.008)
    p.add_argument("--seed", type=int, default=4)
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
    held = [batch(np.random.default_rng(5), 64, oracle) for _ in range(2)]
    variance = held[0][1].sub(held[0][1].mean((0, 1))).pow(2).mean().item()
    if not a.keep_connector:
        variance = ridge(encoder, rng, oracle)
    optimizers = Optimizers([encoder, heads], a.lr, a.lr / 8)
    start = reported = time.time()
    step = 0

    def report():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            errors = [((encoder(d["pixels"]).float() - t) ** 2).mean().item() for d, t in held]
        print(f"{time.time() - start:.0f} s, step {step}, R2 {1 - np.mean(errors) / variance:.3f}", flush=True)
        torch.save(dict(encoder=encoder.state_dict(), heads=heads.state_dict()), a.out + ".new")
        os.replace(a.out + ".new", a.out)

    while (progress := (time.time() - start) / a.seconds) < 1:
        data, target = batch(rng, 24, oracle)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = encoder.patches(data["pixels"])
            tokens = encoder.connector(encoder.shuffled(x)).float()
            patch = heads.patch(x).float()
        loss = ((tokens - target) ** 2 * weights(target, oracle)).mean() / variance
        loss = loss + 0.15 * E.dense_loss(patch, data["patch_shape"], data["patch_colour"], data["patch_offset"], 1)
        loss.backward()
        optimizers.step(schedule(step, progress, warmup=10, decay_from=0.4))
        step += 1
        if time.time() - reported > 30:
            reported = time.time()
            report()
    report()


if __name__ == "__main__":
    main()
