# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Stages 2 and 4: the decoder, on oracle tokens or on cached features of the encoder.

Besides the answers it learns from three heads on visual tokens after layer 3 (kind of
event, the shape there 5 seconds ago, objects so far in raster order) and from attention supervision: in layer 0 an
answer looks at the words of its question, in 1 a cell looks at the same object one frame earlier, in 2 an answer looks at
the cell it is about, in 3 a caption at its event.
"""
import argparse
import glob
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import footage
import sequences as S
import world as W
from footage_samples import NAMES, FootageSample
from model import DECODER, Average, Decoder, Optimizers, autocast, join, schedule, share_gradients
from sight import SAID, STRENGTH, Sight

POINTERS = {0: (0, 2, 1), 1: (1, 0, 0), 2: (2, 0, 0), 3: (3, 0, 0)}  # layer, query head, KV head
POINTER_WEIGHT = {0: 0.3, 1: 0.8, 2: 0.5, 3: 0.5}
MAX_POINTERS = 900
HELD = 8  # batches of full windows to evaluate on, about 60 captions of footage
FOOTAGE_FRAMES = 4  # what is said is in the frame's own tokens; the drawn world teaches the rest of the window


class Features:
    """Cached (features, history) of sequences, as cache_features.py writes them."""

    def __init__(self, folder, share=None):
        self.folder, self.share, self.seen, self.items = folder, share, set(), []
        self.scan()

    def scan(self):
        for path in sorted(glob.glob(self.folder + "/*.pt")):
            if path not in self.seen:
                self.seen.add(path)
                self.items += torch.load(path, weights_only=False)

    def draw(self, rng, n):
        """n full frames: half the time the stream's first ones, else with up to 20 seconds before them as text"""
        features, history = self.items[rng.integers(len(self.items))]
        real = rng.random() < self.share if self.share is not None else None
        while real is not None and isinstance(history, list) != real:
            features, history = self.items[rng.integers(len(self.items))]
        if isinstance(history, list):
            n = min(n, FOOTAGE_FRAMES)
        n_before, first, n_old = len(history) - len(features), 0, 0
        if rng.random() < 0.5:  # a stream's first look was encoded with nothing before it
            first = int(rng.integers(0, len(features) - n + 1))
            n_old = int(rng.integers(1, min(21, n_before + first + 1)))
        start = n_before + first
        return features[first : first + n].float(), history[start - n_old : start + n], n_old


class OracleFeatures:
    """Tokens without an encoder: what one would say, with its noise and doubts."""

    def __init__(self, oracle, share):
        self.oracle, self.sight, self.share = oracle, Sight(oracle), share

    def draw(self, rng, n):
        if rng.random() < self.share:
            return self.draw_footage(rng, n)
        w, h = list(W.ASPECTS.values())[rng.integers(4)]
        n_old = int(rng.integers(1, 12)) if n > 1 and rng.random() < 0.25 else 0
        history, _ = S.random_history(rng, n + n_old, w / h)
        return self.tokens(rng, self.oracle(history[n_old:], rng), history, n_old), history, n_old

    def draw_footage(self, rng, n):
        n_old = int(rng.integers(1, 12)) if n > 1 and rng.random() < 0.25 else 0
        n = min(n, FOOTAGE_FRAMES)
        history = footage.truth(rng, n_old + n)
        noise = torch.from_numpy(rng.standard_normal((n, S.N_CELLS, self.oracle.words.shape[1]), np.float32))
        return self.tokens(rng, self.sight.quiet + 0.03 * noise, history, n_old), history, n_old

    def tokens(self, rng, words, history, n_old):
        codes = [self.doubted(rng, self.sight.codes(history, t)) for t in range(n_old, len(history))]
        return self.sight.tokens(words, torch.stack(codes))

    def doubted(self, rng, codes):
        """as an encoder says them that is not sure: weaker, partly beside the place, partly of another kind"""
        codes = codes.numpy()
        kinds = codes[:, : SAID + 1]
        for cell in np.flatnonzero(kinds.any(1) & (kinds[:, 7:10].sum(1) == 0)):
            sure = rng.uniform(0.35, 1.1)
            code = kinds[cell] * sure
            kinds[cell] = 0
            kinds[cell] += code
            if rng.random() < 0.25:
                code[rng.integers(7)] += rng.uniform(0.05, 0.35) * STRENGTH
                kinds[cell] = code
            if rng.random() < 0.3:
                row, column = np.clip((cell // 8 + rng.integers(-1, 2), cell % 8 + rng.integers(-1, 2)), 0, 7)
                kinds[row * 8 + column] += code * rng.uniform(0.1, 0.7)
        if rng.random() < 0.3:
            kinds[rng.integers(S.N_CELLS), rng.integers(SAID + 1)] += rng.uniform(0.05, 0.3) * STRENGTH
        kinds[:, 7:10] *= rng.uniform(0.5, 1.1)
        return torch.from_numpy(codes + rng.normal(0, 0.12, codes.shape).astype(np.float32))


def draw_batch(rng, source, n_frames, n_questions, n_tokens, keep, contract):
    weights = dict(S.WEIGHTS)
    samples, features, events, past, counts, reals, n = [], [], [], [], [], [], 0
    while n < n_tokens:
        vision, history, n_old = source.draw(rng, n_frames)
        real = isinstance(history, list)
        kind, asked = (FootageSample, 0.6 * n_questions) if real else (S.Sample, n_questions)
        sample = kind(rng, history, n_old, asked, keep, contract, weights)
        samples.append(sample)
        n += len(sample.tokens)
        features.append(vision.reshape(-1, vision.shape[-1]))
        for f in range(len(vision)):
            t = n_old + f
            labels = footage.event_labels if real else S.event_labels
            reals.append(np.full(S.N_CELLS, real))
            events.append(labels(history, t) if f > 0 and keep > 1 else np.full(S.N_CELLS, -100))
            if real:
                counts.append(np.full(S.N_CELLS, -100))
                past.append(np.full(S.N_CELLS, -100))
                continue
            counts.append((S.shape_labels(history, t) > 0).cumsum())
            past.append(S.shape_labels(history, t - 5) if f >= 5 and keep >= 6 else np.full(S.N_CELLS, -100))
    return (S.Batch(samples), torch.cat(features), torch.from_numpy(np.concatenate(events)),
            torch.from_numpy(np.concatenate(past)), torch.from_numpy(np.concatenate(counts)), torch.from_numpy(np.concatenate(reals)))


class Trainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = Decoder(len(S.vocabulary), **DECODER)
        width = DECODER["width"]
        self.event_head, self.past_head = nn.Linear(width, S.EVENT_CLASSES), nn.Linear(width, 9)
        self.count_head = nn.Linear(width, 1 + W.MAX_OBJECTS)
        self.oracle = S.Oracle(width)
        self.decoder.embed.weight.data.copy_(self.oracle.words)
        self.event_weight = torch.tensor([0.1] + [1.0] * (S.EVENT_CLASSES - 1))
        self.past_weight = torch.tensor([0.15] + [1.0] * 8)

    def load(self, state):
        """a checkpoint, whose vocabulary may be an earlier and shorter one; heads that do not fit start anew"""
        own = self.state_dict()
        words = state["decoder.embed.weight"]
        own["decoder.embed.weight"][: len(words)] = words
        fits = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape and k != "decoder.embed.weight"}
        self.load_state_dict({**own, **fits})
        return [k for k in own if k not in fits]

    def embed(self, batch, features):
        x = self.decoder.embed(batch.tokens)
        return x.masked_scatter((batch.tokens == S.vocabulary.image)[..., None], features.to(x.dtype))

    def forward(self, batch, features):
        with autocast():
            hidden, tapped = self.decoder(self.embed(batch, features), batch.bias, batch.positions)
            target = batch.labels > 0
            at = target.nonzero()
            logits = self.decoder.logits(hidden[at[:, 0], at[:, 1] - 1]).float()
            visual = tapped[batch.tokens == S.vocabulary.image]
            return logits, self.event_head(visual).float(), self.past_head(visual).float(), self.count_head(visual).float()

    def pointer_loss(self, batch):
        total, parts = 0.0, {}
        pointers = batch.pointers[torch.randperm(len(batch.pointers))[:MAX_POINTERS]]
        for kind, (layer, head, kv_head) in POINTERS.items():
            b, query, key, _ = pointers[pointers[:, 3] == kind].T
            if not len(b):
                continue
            q, k = self.decoder.blocks[layer].seen
            scores, keys = [], []
            for i in b.unique():
                mine = b == i
                z = q[i, head, query[mine]] @ k[i, kv_head].T * DECODER["head_dim"] ** -0.5
                scores.append(z.float().masked_fill(~batch.mask[i, 0, query[mine]], -1e9))
                keys.append(key[mine])
            loss = F.cross_entropy(torch.cat(scores), torch.cat(keys))
            parts[kind] = loss.item()
            total = total + POINTER_WEIGHT[kind] * loss
        return total, parts

    def loss(self, drawn, auxiliary):
        batch, features, events, past, counts, real = drawn
        logits, event, shape, count = self(batch, features)
        labels = batch.labels[batch.labels > 0]
        target = batch.tokens[batch.labels > 0]
        answers = F.cross_entropy(logits, target)
        pointers, parts = self.pointer_loss(batch)
        loss = answers + 0.4 * auxiliary * pointers
        for mine, weight in ((~real, 0.5), (real, 1.0)):
            if (events[mine] > 0).any():
                loss = loss + weight * auxiliary * F.cross_entropy(event[mine], events[mine], self.event_weight)
        if (past > 0).any():
            loss = loss + 0.25 * auxiliary * F.cross_entropy(shape, past, self.past_weight)
        if (counts >= 0).any():
            loss = loss + 0.3 * auxiliary * F.cross_entropy(count, counts)
        return loss, answers.item(), parts, labels

    @torch.no_grad()
    def evaluate(self, sets):
        """teacher-forced: share of captions and answers whose every token is right"""
        right, place = {}, S.vocabulary.encode(",")[0]

        def tally(name, good):
            r = right.setdefault(name, [0, 0])
            r[0] += int(good.all())
            r[1] += 1

        for drawn in sets:
            batch = drawn[0]
            logits = self(batch, drawn[1])[0]
            at = (batch.labels > 0).nonzero()
            target = batch.tokens[batch.labels > 0]
            good = logits.argmax(-1) == target
            labels = batch.labels[batch.labels > 0]
            start = 0
            for i in range(len(at)):
                if batch.tokens[at[i, 0], at[i, 1]] != S.vocabulary.end:
                    continue
                label = int(labels[i])
                if label > 1:
                    name = NAMES[label] if label in NAMES else W.CATEGORIES[label - 2]
                else:
                    name = ("footage " if batch.real[at[i, 0]] else "") + ("caption" if i > start else "silence")
                tally(name, good[start : i + 1])
                said = target[start : i + 1].tolist()
                if name == "footage caption" and place in said:
                    comma = start + said.index(place)
                    tally("footage kind", good[start : min(start + 2, comma)])
                    tally("footage place", good[comma + 1 : i + 1])
                    if comma - start > 2:
                        tally("footage direction", good[start + 2 : comma])
                start = i + 1
        return " ".join(f"{k} {a / n:.2f}" for k, (a, n) in sorted(right.items()))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", required=True)
    p.add_argument("--init", default="", help="checkpoint to go on from, with a fresh optimizer")
    p.add_argument("--features", default="", help="folder of cached features; none: oracle tokens")
    p.add_argument("--held", default="", help="file of cached features to evaluate on")
    p.add_argument("--seconds", type=float, default=600)
    p.add_argument("--tokens", type=int, default=3500, help="in a batch")
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--lr-rest", type=float, default=0, help="of embeddings, norms and heads; 0: a tenth of --lr")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--decay-from", type=float, default=0.6)
    p.add_argument("--curriculum", default="0:1:6:1,.12:1:6:.5,.25:3:2.5:.4,.5:8:1.5:.3",
                   help="from progress : frames : questions a frame : share in the contract's words")
    p.add_argument("--singles", type=float, default=0.1, help="share of batches of single frames")
    p.add_argument("--windows", type=float, default=0.0, help="share of batches with a random visual window")
    p.add_argument("--footage", type=float, default=0.45, help="share of footage among sequences")
    p.add_argument("--average-from", type=float, default=0.5, help="progress from which weights are averaged")
    p.add_argument("--auxiliary", type=float, default=1.0)
    p.add_argument("--rank", type=int, default=-1, help="of two processes that share their gradients: 0 or 1")
    p.add_argument("--port", type=int, default=29517)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed + 1000 * max(a.rank, 0))
    if a.rank >= 0:
        join(a.rank, a.port)
    trainer = Trainer()
    if a.init:
        print("new:", trainer.load(torch.load(a.init)["trainer"]), flush=True)
    source = Features(a.features, a.footage) if a.features else OracleFeatures(trainer.oracle, a.footage)
    held_rng, held = np.random.default_rng(777), source
    if a.held:
        held = Features("/nonexistent")
        held.items = torch.load(a.held, weights_only=False)
    sets = [draw_batch(held_rng, held, n, q, 3000, 8, False) for n, q in ((1, 6), *HELD * [(8, 2)])]
    optimizers = Optimizers([trainer], a.lr, a.lr_rest or a.lr / 10)
    average = Average(trainer, 0.99)
    stages = [tuple(float(x) for x in c.split(":")) for c in a.curriculum.split(",")]
    start = reported = time.time()
    step = n_tokens = 0
    mean, means = 0.0, {}

    def save():
        torch.save(dict(trainer=average.module.state_dict(), last=trainer.state_dict()), a.out + ".new")
        os.replace(a.out + ".new", a.out)

    progress = 0.0
    while progress < 1:
        _, frames, questions, contract = [s for s in stages if progress >= s[0]][-1]
        if rng.random() < a.singles:
            frames, questions = 1, 6
        keep = int(rng.choice([2, 3, 4, 5, 6, 7])) if frames > 4 and rng.random() < a.windows else 8
        drawn = draw_batch(rng, source, int(frames), questions, a.tokens, keep, rng.random() < contract)
        loss, answers, parts, _ = trainer.loss(drawn, a.auxiliary)
        loss.backward()
        progress = (time.time() - start) / a.seconds
        if a.rank >= 0:
            progress = share_gradients([trainer], progress)
        optimizers.step(schedule(step, progress, decay_from=a.decay_from))
        average.step(progress >= a.average_from)
        step, n_tokens, mean = step + 1, n_tokens + drawn[0].n_tokens, 0.95 * mean + 0.05 * answers
        means.update({k: 0.9 * means.get(k, v) + 0.1 * v for k, v in parts.items()})
        if a.rank < 1 and time.time() - reported > 240:
            reported = time.time()
            rate = n_tokens / (reported - start)
            print(f"{reported - start:.0f} s, step {step}, {rate:.0f} tokens/s, {frames:.0f} frames, answers {mean:.3f}, pointers",
                  {k: round(v, 2) for k, v in sorted(means.items())}, "\n   ", average.module.evaluate(sets), flush=True)
            save()
        if a.features and step % 50 == 0:
            source.scan()
    if a.rank < 1:
        print("end:", average.module.evaluate(sets), flush=True)
        save()


if __name__ == "__main__":
    main()
