# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Gives a decoder that never compared pictures a start: layer 1 subtracts what a cell looked like one frame earlier.

Head 1 of layer 1 already looks at the same cell one frame earlier (--look-twice). Here its
value path is made to carry the small picture, through the part of the value space that head 0
needs least, and its output subtracts it; pairs of the MLP's least used units square the
difference. Training goes on from there. The drawn world's answers hardly change.
"""
import argparse

import numpy as np
import torch

import train_decoder as T
from model import DECODER
from sight import LOOKS, Sight

D, SQUARES = DECODER["head_dim"], 3


@torch.no_grad()
def look(trainer, sets):
    """inputs of block 1 and of its MLP at visual tokens of second frames and later, and everywhere"""
    block, seen = trainer.decoder.blocks[1], dict(x=[], all=[], mid=[], hidden=[])
    hooks = [block.norm1.register_forward_hook(lambda m, a, out: seen.update(now=(a[0], out))),
             block.norm2.register_forward_hook(lambda m, a, out: seen.update(middle=(a[0], out))),
             block.down.register_forward_hook(lambda m, a, out: seen["hidden"].append(a[0].flatten(0, 1)))]
    for drawn in sets:
        trainer(drawn[0], drawn[1])
        image = drawn[0].tokens == T.S.vocabulary.image
        seen["x"].append((seen["now"][0][image], seen["now"][1][image]))
        seen["all"].append(seen["now"][1].flatten(0, 1))
        seen["mid"].append((seen["middle"][0][image], seen["middle"][1][image]))
    for h in hooks:
        h.remove()
    join = lambda pairs: tuple(torch.cat(p) for p in zip(*pairs))
    return join(seen["x"]), torch.cat(seen["all"]), join(seen["mid"]), torch.cat(seen["hidden"])


def clear(trainer, axes):
    """nothing before block 1's MLP writes onto the axes of looks, so that only the difference stands there"""
    keep = torch.eye(axes.shape[1]) - axes.T @ axes
    first, second = trainer.decoder.blocks[0], trainer.decoder.blocks[1]
    first.o.weight.data = keep @ first.o.weight.data
    first.down.weight.data = keep @ first.down.weight.data
    second.o.weight.data = keep @ second.o.weight.data


def subtract(trainer, axes, sets):
    block = trainer.decoder.blocks[1]
    (x, y), everywhere, _, _ = look(trainer, sets)
    v, o = block.v.weight.data, block.o.weight.data
    z = everywhere @ v[:D].T
    c = z.T @ z / len(z)
    values, vectors = torch.linalg.eigh(c + 1e-5 * torch.eye(D))
    root, inverse = vectors * values.sqrt() @ vectors.T, vectors / values.sqrt() @ vectors.T
    _, s, directions = torch.linalg.svd(o[:, :D] @ root)
    top = directions[: D - LOOKS]
    print(f"head 0 keeps {(s[: D - LOOKS] ** 2).sum() / (s ** 2).sum():.4f} of its output")
    v[:D] = root @ top.T @ top @ inverse @ v[:D]
    q, _ = torch.linalg.qr(root @ top.T, mode="complete")
    free = q[:, D - LOOKS :]  # [64, 24]
    target = x @ axes.T
    b = torch.linalg.solve(y.T @ y + 0.01 * len(y) * torch.eye(y.shape[1]) * y.pow(2).mean(), y.T @ target).T
    print(f"looks read from the norm's output: R2 {1 - (y @ b.T - target).pow(2).mean() / target.var():.3f}")
    v[:D] += free @ b
    o[:, :D] = o[:, :D] @ (torch.eye(D) - free @ free.T)
    o[:, D : 2 * D] = -axes.T @ free.T


def square(trainer, axes, out, sets):
    block = trainer.decoder.blocks[1]
    _, _, (mid, normed), hidden = look(trainer, sets)
    n = 2 * LOOKS
    use = hidden.pow(2).mean(0) * block.down.weight.data.pow(2).sum(0)
    units = use.argsort()[:n]
    print(f"units taken do {use[units].sum() / use.sum():.4f} of the MLP's work")
    rms = mid.pow(2).mean(-1, keepdim=True).sqrt().mean()
    rows = axes * rms / block.norm2.weight.data
    kind = torch.tensor([0] + [1] * 15 + [2] * 8)  # brightness, pattern, colour
    for sign in (0, 1):
        mine = units[sign * LOOKS : (sign + 1) * LOOKS]
        factor = 1 - 2 * sign
        block.gate.weight.data[mine] = factor * 1.2 * rows
        block.up.weight.data[mine] = factor * 1.2 * rows
        block.down.weight.data[:, mine] = out[kind].T
    difference = mid @ axes.T
    print("what stands on the axes: rms", difference.pow(2).mean().sqrt().item(), "of looks", LOOKS)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--init", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--held", required=True, help="cached features to measure on")
    a = p.parse_args()
    torch.set_num_threads(1)
    trainer = T.Trainer()
    trainer.load(torch.load(a.init)["last"])
    source = T.Features("/nonexistent")
    source.items = torch.load(a.held, weights_only=False)
    rng = np.random.default_rng(7)
    sets = [T.draw_batch(rng, source, 8, 1, 3000, 8, False) for _ in range(3)]
    sight = Sight(trainer.oracle)
    axes = sight.axes[:LOOKS]
    spare = torch.linalg.svd(torch.cat([trainer.oracle.rows, trainer.oracle.where, 10 * sight.axes]), full_matrices=True)[2][-SQUARES:]

    def report(name):
        with torch.no_grad():
            parts = [trainer.loss(d, 1.0) for d in sets]
        print(name, f"answers {np.mean([q[1] for q in parts]):.3f}", {k: round(float(np.mean([q[2].get(k, 0) for q in parts])), 2) for k in range(5)}, flush=True)

    report("before")
    clear(trainer, axes)
    report("axes cleared")
    subtract(trainer, axes, sets)
    report("subtracts")
    square(trainer, axes, 0.5 * spare, sets)
    report("squares")
    trainer.event_head.reset_parameters()
    torch.save(dict(trainer=trainer.state_dict(), last=trainer.state_dict()), a.out)


if __name__ == "__main__":
    main()
