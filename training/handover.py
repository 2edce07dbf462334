# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Stage 3: the connector is fitted to oracle tokens (ridge), then the encoder trained towards them, on pairs of looks.

After it the encoder speaks the language that the decoder learned on oracle tokens: what is in a cell,
and what happened in it since the look before. A share of the pairs is footage, whose patches also
learn where a thing is now, where it was, and how far it went; that head is thrown away afterwards, as are
the others, whose losses stay on at a small weight so that seeing goes on getting better.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import footage
import sequences as S
import train_encoder as E
from model import DECODER, ENCODER, Average, Encoder, Optimizers, autocast, join, schedule, share_gradients
from sight import CODES, REAL, SAID, Sight

PAIRS = 4  # of a scene, after each other
LIVELY = 0.6  # share of scenes of footage without spells in which all stands
STILL = 0.12  # share of looks with nothing before them
HELD = 96, 160  # held pairs of the drawn world and of footage
EDGE = np.arange(16) * 8.0  # of patches


def drawn_batch(rng, n, oracle, sight):
    """pictures as dense() has them, those before, and tokens"""
    now, before, targets = [], [], []
    while len(now) < n:
        _, w, h = E.random_size(rng)
        history, scenes = S.random_history(rng, 1 + PAIRS, w / h)
        shots = [E.shot(s, w, h) for s in scenes]
        words = oracle(history)
        for t in range(1, 1 + PAIRS):
            still = rng.random() < STILL
            now.append(shots[t])
            before.append(shots[t if still else t - 1][0])
            targets.append(sight.tokens(words[t], sight.codes(history, 0 if still else t)))
    return E.dense(now), torch.from_numpy(np.stack(before)), torch.stack(targets)


def covers(box):
    """[16, 16] whether a patch is the box's: by a third, or by its centre"""
    x0, y0, x1, y1 = box
    across = np.clip(np.minimum(x1, EDGE + 8) - np.maximum(x0, EDGE), 0, 8)
    down = np.clip(np.minimum(y1, EDGE + 8) - np.maximum(y0, EDGE), 0, 8)
    out = down[:, None] * across[None] > 21
    x, y = np.clip(((x0 + x1) / 2, (y0 + y1) / 2), 0, footage.SIZE - 1)
    out[int(y / 8), int(x / 8)] = True
    return out


def ways(history, t):
    """[256, 4]: something that moves is here now, was here, and went so far in x and y, in patches"""
    out = np.zeros((16, 16, 4), np.float32)
    box = lambda o: (o["x"] * 128 - o["w"] / 2, o["y"] * 128 - o["h"] / 2, o["x"] * 128 + o["w"] / 2, o["y"] * 128 + o["h"] / 2)
    was, now = ({o["id"]: o for o in second.things} for second in (history[t - 1], history[t]))
    for k in was.keys() | now.keys():
        if k in was and k in now and now[k]["direction"] < 0:
            continue
        if k in was:
            out[covers(box(was[k])), 1] = 1
        if k in now:
            here = covers(box(now[k]))
            out[here, 0] = 1
            if k in was:
                out[here, 2:] = (now[k]["x"] - was[k]["x"]) * 16, (now[k]["y"] - was[k]["y"]) * 16
    return torch.from_numpy(out).flatten(0, 1)


def footage_batch(rng, n, sight):
    """pixels, those before, tokens, and the ways of what moves"""
    now, before, targets, moved = [], [], [], []
    while len(now) < n:
        pixels, history = footage.sequence(rng, 2, 1 + 2 * PAIRS, rng.random() < LIVELY)
        news = np.array([bool(second.events or second.kind) for second in history[3:]])
        for t in 1 + np.argsort(news * 0.6 + rng.random(2 * PAIRS))[-PAIRS:]:
            still = rng.random() < STILL
            now.append(pixels[t])
            before.append(pixels[t if still else t - 1])
            targets.append(sight.tokens(sight.quiet, sight.codes(history, 0 if still else 2 + t)))
            moved.append(torch.zeros(256, 4) if still else ways(history, 2 + t))
    return torch.from_numpy(np.stack(now)), torch.from_numpy(np.stack(before)), torch.stack(targets), torch.stack(moved)


def batch(rng, n, n_footage, oracle, sight):
    data, before, target = drawn_batch(rng, n - n_footage, oracle, sight)
    if n_footage:
        pixels, earlier, tokens, data["ways"] = footage_batch(rng, n_footage, sight)
        data["pixels"] = torch.cat([data["pixels"], pixels])
        before, target = torch.cat([before, earlier]), torch.cat([target, tokens])
    data["before"] = before
    return data, target


def parts(error, n_drawn, target, oracle, sight):
    """mean squares: of the drawn world's own directions, of what happens"""
    along, code = error @ sight.axes.T, target @ sight.axes.T
    own = error - along @ sight.axes
    weight = 1 + 4 * (target[:n_drawn].pow(2).sum(-1, keepdim=True) - code[:n_drawn].pow(2).sum(-1, keepdim=True)
                      > oracle.rows[0].pow(2).sum() + 6).float()  # cells with a centre count five times
    drawn = (own[:n_drawn] ** 2 * weight).mean()
    if len(own) > n_drawn:
        drawn = drawn + 0.2 * (own[n_drawn:] ** 2).mean()
    weight = 1 + 4 * (code[..., :REAL].sum(-1, keepdim=True) > 0.5).float()
    return drawn, (along**2 * weight)[:n_drawn].mean(), (along**2 * weight)[n_drawn:].mean()


def ways_loss(z, ways):
    loss = F.binary_cross_entropy_with_logits(z[..., :2], ways[..., :2], weight=1 + 3 * ways[..., :2])
    both = (ways[..., 0] > 0) & (ways[..., 2:].abs().sum(-1) > 0)
    if both.any():
        loss = loss + F.smooth_l1_loss(z[both][:, 2:], ways[both][:, 2:], beta=0.3)
    return loss


def happens_loss(z, code):
    """whether anything happens in a cell, everywhere; what, only where it does: else that never gets off the ground"""
    on = code[..., :7].sum(-1) > 0.5
    loss = F.binary_cross_entropy_with_logits(z[..., 0], on.float(), weight=torch.where(on, 4.0, 1.0))
    return loss + (F.cross_entropy(z[on][:, 1:], code[on][:, :7].argmax(-1)) if on.any() else 0)


@torch.no_grad()
def seen(tokens, target, sight):
    """of drawn looks or of footage in which something happens at a place: cell and kind found; of quiet ones: quiet"""
    code, truth = (x @ sight.axes.T for x in (tokens, target))
    real = bool(truth[0, 0, REAL] > 0.5)
    mine = (truth[..., SAID] if real else truth[..., :7].sum(-1)) > 0.5
    score = code[..., SAID] if real else code[..., :7].max(-1).values
    some, none = mine.sum(1) == 1, truth[..., :REAL].sum((1, 2)) < 0.5
    at = score[some].argmax(1)
    cell = mine[some].gather(1, at[:, None])[:, 0]
    pick = lambda x: x[some].gather(1, at[:, None, None].expand(-1, 1, CODES))[:, 0, :7].argmax(-1)
    near = mine[some].view(-1, 8, 8)
    near = F.max_pool2d(near.float()[:, None], 3, 1, 1).view(-1, 64).gather(1, at[:, None])[:, 0] > 0
    wide = truth[..., 7:10].mean(1)
    whole = (wide.sum(-1) > 0.5)
    right = (code[..., 7:10].mean(1)[whole].argmax(-1) == wide[whole].argmax(-1)).float()
    true_kind = (truth[..., :7] * mine[..., None])[some].sum(1).argmax(-1)
    kind = (pick(code) == true_kind) & near
    fired = score.max(1).values > 1.5
    share = lambda x: f"{x.float().mean():.2f}" if len(x) else "-"
    out = f"cell {share(cell)} near {share(near)} kind {share(kind)} fires {share(fired[some])}, when quiet {share(fired[none])}"
    return out + (f" whole {share(right)}" if real else "") + f" ({some.sum()}, {none.sum()}, {whole.sum()})"


def ridge(encoder, rng, oracle, sight, n_footage):
    xs, ys = [], []
    with torch.no_grad(), autocast():
        for _ in range(24):
            data, target = batch(rng, 32, n_footage, oracle, sight)
            xs.append(encoder.shuffled(encoder.patches(data["pixels"], data["before"])).float().flatten(0, 1))
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
    p.add_argument("--footage", type=int, default=12, help="pairs of footage in a batch; both shares are multiples of 4")
    p.add_argument("--decay-from", type=float, default=0.4)
    p.add_argument("--average-from", type=float, default=0.6, help="progress from which weights are averaged")
    p.add_argument("--rank", type=int, default=-1, help="of two processes that share their gradients: 0 or 1")
    p.add_argument("--port", type=int, default=29518)
    p.add_argument("--words", type=float, default=1.0, help="weight of the drawn world's words")
    p.add_argument("--keep-connector", action="store_true", help="no ridge fit: go on from an earlier handover")
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed + 1000 * max(a.rank, 0))
    if a.rank >= 0:
        join(a.rank, a.port)
    state = torch.load(a.init)
    encoder = Encoder(**ENCODER, out=DECODER["width"])
    encoder.load(state["encoder"])
    if not encoder.delta.weight.any():
        torch.nn.init.normal_(encoder.delta.weight, std=0.8 * encoder.delta.in_features**-0.5)
    heads = E.Heads(ENCODER["width"], DECODER["width"])
    heads.load_state_dict(state["heads"])
    moved, happens = nn.Linear(ENCODER["width"], 4), nn.Linear(DECODER["width"], 8)
    if "happens" in state:
        moved.load_state_dict(state["moved"])
        happens.load_state_dict(state["happens"])
    oracle = S.Oracle(DECODER["width"])
    sight = Sight(oracle)
    held = batch(np.random.default_rng(5), sum(HELD), HELD[1], oracle, sight)
    held_mean = torch.cat([t.mean((0, 1)).expand_as(t) for t in held[1].split(HELD)])
    spreads = [v.item() for v in parts(held[1] - held_mean, HELD[0], held[1], oracle, sight)]
    if not a.keep_connector:
        ridge(encoder, np.random.default_rng(a.seed), oracle, sight, 16 if a.footage else 0)
    modules = [encoder, heads, moved, happens]
    optimizers = Optimizers(modules, a.lr, a.lr / 8)
    average = Average(encoder)
    start = reported = time.time()
    step = 0

    def report():
        with torch.no_grad(), autocast():
            tokens = torch.cat([average.module(*x) for x in zip(held[0]["pixels"].split(32), held[0]["before"].split(32))]).float()
        left = parts(tokens - held[1], HELD[0], held[1], oracle, sight)
        print(f"{time.time() - start:.0f} s, {step * a.batch} pairs, R2 of words, drawn events, footage's",
              *[f"{1 - x.item() / v:.4f}" for x, v in zip(left, spreads)],
              "\n    drawn:", seen(tokens[: HELD[0]], held[1][: HELD[0]], sight),
              "\n    footage:", seen(tokens[HELD[0] :], held[1][HELD[0] :], sight), flush=True)
        torch.save(dict(encoder=average.module.state_dict(), heads=heads.state_dict(), moved=moved.state_dict(),
                        happens=happens.state_dict(), last=encoder.state_dict()), a.out + ".new")
        os.replace(a.out + ".new", a.out)

    progress = 0.0
    while progress < 1:
        data, target = batch(rng, a.batch, a.footage, oracle, sight)
        n_drawn = a.batch - a.footage
        with autocast():
            x = encoder.patches(data["pixels"], data["before"])
            tokens = encoder.connector(encoder.shuffled(x)).float()
            patch, went = heads.patch(x[:n_drawn]).float(), moved(x[n_drawn:]).float()
        words, drawn, real = parts(tokens - target, n_drawn, target, oracle, sight)
        loss = a.words * words / spreads[0] + 0.6 * drawn / spreads[1] + real / spreads[2] + 0.3 * ways_loss(went, data["ways"])
        loss = loss + 0.15 * E.dense_loss(patch, data["patch_shape"], data["patch_colour"], data["patch_offset"], 1)
        loss = loss + 0.3 * happens_loss(happens(tokens), target @ sight.axes.T)
        loss.backward()
        progress = (time.time() - start) / a.seconds
        if a.rank >= 0:
            progress = share_gradients(modules, progress)
        optimizers.step(schedule(step, progress, warmup=10, decay_from=a.decay_from))
        average.step(progress >= a.average_from)
        step += 1
        if a.rank < 1 and time.time() - reported > 120:
            reported = time.time()
            report()
    if a.rank < 1:
        report()


if __name__ == "__main__":
    main()
