# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The exam of bench/quiz in PyTorch: streams run free with the daemon's window, questions on forks.

A frame's 64 visual tokens leave the cache eight frames later and the positions close up,
as in the daemon. Answers are greedy; an answer counts if every token is right, end
included. --blind shows grey frames to the same protocol: the control.
"""
import argparse
import multiprocessing
import time

import numpy as np
import torch
import torch.nn.functional as F

import footage
import sequences as S
import world as W
from model import DECODER, ENCODER, Decoder, Encoder, rope
from quantise import quantise_model
from train_decoder import Trainer

WINDOW = 8
MAX_CAPTION = 16


class Stream:
    """Cache of one stream. Keys are kept before rope, so positions can close up."""

    def __init__(self, decoder):
        self.decoder = decoder
        self.k = [None] * len(decoder.blocks)
        self.v = [None] * len(decoder.blocks)
        self.frame = torch.zeros(0, dtype=torch.long)  # of image tokens, else -1

    def forward(self, x, positions=None, seen=None, keep=True):
        """x: [n, width] -> logits [n, vocabulary]; seen: [n, n] among the new tokens"""
        n, old = len(x), len(self.frame)
        d = self.decoder
        here = torch.arange(old, old + n) if positions is None else positions
        cos, sin = d.cos[torch.cat([torch.arange(old), here])], d.sin[torch.cat([torch.arange(old), here])]
        mask = torch.zeros(n, old + n)
        mask[:, old:].masked_fill_(~(torch.ones(n, n).tril().bool() if seen is None else seen), float("-inf"))
        for i, b in enumerate(d.blocks):
            y = b.norm1(x)
            q = b.q(y).view(n, b.heads, -1).transpose(0, 1)
            k = b.k(y).view(n, b.kv_heads, -1).transpose(0, 1)
            v = b.v(y).view(n, b.kv_heads, -1).transpose(0, 1)
            if old:
                k, v = torch.cat([self.k[i], k], 1), torch.cat([self.v[i], v], 1)
            if keep:
                self.k[i], self.v[i] = k, v
            share = b.heads // b.kv_heads
            q, k = rope(q, cos[old:], sin[old:]), rope(k, cos, sin).repeat_interleave(share, 0)
            a = torch.softmax(q @ k.transpose(1, 2) * b.head_dim ** -0.5 + mask, -1) @ v.repeat_interleave(share, 0)
            x = x + b.o(a.transpose(0, 1).reshape(n, -1))
            y = b.norm2(x)
            x = x + b.down(F.silu(b.gate(y)) * b.up(y))
        if keep:
            self.frame = torch.cat([self.frame, torch.full((n,), -1)])
        return d.logits(x)

    def text(self, ids, keep=True):
        return self.forward(self.decoder.embed(torch.tensor(ids)), keep=keep)

    def truncate(self, n):
        self.k, self.v = [k[:, :n] for k in self.k], [v[:, :n] for v in self.v]
        self.frame = self.frame[:n]

    def evict(self, frame):
        stay = (self.frame < 0) | (self.frame > frame)
        self.k, self.v = [k[:, stay] for k in self.k], [v[:, stay] for v in self.v]
        self.frame = self.frame[stay]

    def show(self, second, frame, vision, expected):
        """One frame and its turn. Returns the ids it says before the end."""
        v = S.vocabulary
        if frame >= WINDOW:
            self.evict(frame - WINDOW)
        head, tail, said = S.turn_head(second), S.turn_tail(), expected + [v.end]
        ids = head + [v.image] * S.N_CELLS + tail + said
        x = self.decoder.embed(torch.tensor(ids))
        x[len(head) : len(head) + S.N_CELLS] = vision
        start = len(self.frame)
        best = self.forward(x).argmax(-1).tolist()
        self.frame[start + len(head) : start + len(head) + S.N_CELLS] = frame
        n = len(ids) - len(said)
        if best[n - 1 : -1] == said:
            return expected
        self.truncate(start + n)
        out, token = [], best[n - 1]
        while token != v.end and len(out) < MAX_CAPTION:
            out.append(token)
            token = self.text([token])[-1].argmax().item()
        self.text([v.end])
        return out

    def ask(self, items):
        """Questions on forks, all at once. Returns whether each is answered in full as expected."""
        if not items:
            return []
        v, old = S.vocabulary, len(self.frame)
        ids, positions, group, spans = [], [], [], []
        for g, item in enumerate(items):
            q = S.question_tokens(item["question"].decode())
            a = v.encode(" " + item["answer"].decode()) + [v.end]
            spans.append((len(ids) + len(q) - 1, a))
            positions += range(old, old + len(q) + len(a))
            group += [g] * (len(q) + len(a))
            ids += q + a
        group = torch.tensor(group)
        seen = (group[:, None] == group[None, :]) & torch.ones(len(ids), len(ids)).tril().bool()
        best = self.forward(self.decoder.embed(torch.tensor(ids)), torch.tensor(positions), seen, False).argmax(-1).tolist()
        return [best[at : at + len(a)] == a for at, a in spans]


class Tally:
    def __init__(self):
        self.cells = {}

    def add(self, row, column, good):
        c = self.cells.setdefault((row, column), [0, 0])
        c[0] += bool(good)
        c[1] += 1

    def table(self, columns):
        rows = list(dict.fromkeys(r for r, _ in self.cells))
        lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for r in rows:
            cells = [self.cells.get((r, c)) for c in columns]
            lines.append(f"| {r} | " + " | ".join(f"{100 * a / n:.1f} ({n})" if n else "-" for a, n in
                                                 [c or (0, 0) for c in cells]) + " |")
        return "\n".join(lines)


def load(path_encoder, path_decoder, quantised):
    encoder, decoder = Encoder(**ENCODER, out=DECODER["width"]), Decoder(len(S.vocabulary), **DECODER)
    encoder.load(torch.load(path_encoder)["encoder"])
    state = torch.load(path_decoder)
    trainer = Trainer()
    trainer.load(state["trainer"])
    decoder.load_state_dict(trainer.decoder.state_dict())
    if quantised:
        quantise_model(encoder, decoder)
    return encoder.eval(), decoder.eval()


def run_scene(encoder, decoder, index, event_rate, blind, tally, counts, wrong):
    scene, pixels, history = W.exam_scene(index, event_rate)
    aspect = W.EXAM_ASPECTS[scene.aspect]
    vision = encoder.look_on(torch.from_numpy(np.full_like(pixels, 128) if blind else pixels))
    stream = Stream(decoder)
    stream.text(S.vocabulary.encode_marked(S.SINK))
    for t in range(len(history)):
        text = W.caption(history, t) if t else ""
        said = stream.show(t, t, vision[t], S.vocabulary.encode(" " + text) if text else [])
        said = S.vocabulary.decode(said)
        counts["seconds"] += 1
        if text:
            e = history[t]["event"]
            o = e["object"]
            where = ["all", aspect]
            if W.held_out(o["shape"], o["colour"], W.place_of(o["x"], o["y"])):
                where.append("held out")
            for column in where:
                tally.add("caption", column, W.same_text(said, text))
                tally.add("caption " + ["", "appeared", "gone", "turned", "moves"][e["kind"]], column, W.same_text(said, text))
            counts["missed"] += not said
        elif said:
            counts["false"] += 1
        if not W.same_text(said, text) and len(wrong) < 20:
            wrong.append(f"{aspect} scene {index} second {t}: '{said}' for '{text}'")
        items = [i for i in (W.exam_ask(index, history[: t + 1], c) for c in W.CATEGORIES) if i is not None]
        for item, good in zip(items, stream.ask(items)):
            name = W.CATEGORIES[item["category"]]
            for column in ["all", aspect] + ["held out"] * int(item["held_out"]):
                tally.add(name, column, good)
                if name == "motion":
                    tally.add("motion, moving" if item["moving"] else "motion, still", column, good)
                if name.endswith("before") and item["changed"]:
                    tally.add(name + ", changed", column, good)
            if not good and len(wrong) < 60:
                wrong.append(f"{aspect} scene {index} second {t}: {item['question'].decode()} not {item['answer'].decode()}")


def first_verb(text):
    return text.split(",")[0]


def run_footage(encoder, decoder, index, tally, counts, wrong, n_seconds=14):
    """One scene of generated footage. A caption is whole, or true of anything that happened within a second."""
    pixels, history = footage.sequence(np.random.default_rng([77, index]), 0, n_seconds)
    vision = encoder.look_on(torch.from_numpy(pixels))
    stream = Stream(decoder)
    stream.text(S.vocabulary.encode_marked(S.SINK))
    quiet = not any(second.text for second in history)
    for t, second in enumerate(history):
        text = second.text if t else ""
        said = S.vocabulary.decode(stream.show(t, t, vision[t], S.vocabulary.encode(" " + text) if text else [])).strip()
        counts["seconds"] += 1
        if quiet:
            counts["quiet seconds"] += 1
            counts["said when quiet"] += bool(said)
        if text:
            kind = " ".join(text.split(",")[0].split()[:3])
            for row in ("footage caption", "footage " + kind):
                tally.add(row, "whole", said == text)
                tally.add(row, "kind", first_verb(said) == first_verb(text))
                tally.add(row, "place", said.split(",")[1:] == text.split(",")[1:] and bool(said))
        if said:
            near = [s for n in range(max(1, t - 1), min(len(history), t + 2)) for s in history[n].everything()]
            tally.add("footage said", "whole", said in near)
            tally.add("footage said", "kind", first_verb(said) in [first_verb(s) for s in near])
        if said != text and len(wrong) < 40:
            wrong.append(f"footage {index} second {t}: '{said}' for '{text}'")


def run_part(a, part):
    """every a.jobs-th scene"""
    torch.set_num_threads(1)
    encoder, decoder = load(a.encoder, a.decoder, a.quantised)
    tally, counts, wrong = Tally(), dict(seconds=0, false=0, missed=0), []
    counts.update({"quiet seconds": 0, "said when quiet": 0})
    with torch.no_grad():
        for i in range(part, a.footage, a.jobs):
            run_footage(encoder, decoder, i, tally, counts, wrong)
        for i in range(a.first + part, a.first + (0 if a.footage else a.scenes), a.jobs):
            run_scene(encoder, decoder, i, a.event_rate, a.blind, tally, counts, wrong)
    return tally.cells, counts, wrong


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--encoder", required=True)
    p.add_argument("--decoder", required=True)
    p.add_argument("--scenes", type=int, default=300)
    p.add_argument("--footage", type=int, default=0, help="scenes of generated footage instead")
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--event-rate", type=float, default=0.5)
    p.add_argument("--jobs", type=int, default=1, help="processes")
    p.add_argument("--blind", action="store_true")
    p.add_argument("--quantised", action="store_true", help="weights as Q8_0 gives them back")
    p.add_argument("--wrong", action="store_true", help="print some wrong answers")
    a = p.parse_args()
    start = time.time()
    tally, counts, wrong = Tally(), {}, []
    with multiprocessing.Pool(a.jobs) as pool:
        for cells, more, lines in pool.starmap(run_part, [(a, k) for k in range(a.jobs)]):
            for key, (good, n) in cells.items():
                old = tally.cells.get(key, [0, 0])
                tally.cells[key] = [old[0] + good, old[1] + n]
            counts = {k: counts.get(k, 0) + v for k, v in more.items()}
            wrong += lines
    tally.cells = dict(sorted(tally.cells.items()))
    if a.footage:
        print(f"{a.footage} scenes of footage, {counts['said when quiet']} captions in {counts['quiet seconds']} s of quiet ones")
        print(tally.table(["whole", "kind", "place"]))
        print("\n".join(wrong if a.wrong else []))
        return
    print(f"{a.scenes} scenes of {W.lib.vl_quiz_exam_scene(0, 0.5).n_seconds} s, event rate {a.event_rate}, {'blind, ' if a.blind else ''}"
          f"{'Q8_0' if a.quantised else 'F32'}, {time.time() - start:.0f} s")
    print(f"false captions a minute {60 * counts['false'] / counts['seconds']:.2f}, missed events {counts['missed']}")
    print(tally.table(["all"] + W.EXAM_ASPECTS + ["held out"]))
    if a.wrong:
        print("\n".join(wrong))


if __name__ == "__main__":
    main()
