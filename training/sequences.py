# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Streams as the daemon renders them: frames with a clock, captions or silence, questions on forks.

A sample is one row of tokens: the main stream first, then the forks. A fork sees the
stream up to the turn it was asked after and itself, nothing sees it, and its positions
go on from there, which is what forking a KV cache does.
"""
import numpy as np
import torch

import world as W
from model import HALF
from tokenizer import Vocabulary

N_CELLS, GRID = 64, 8
CAPTION = 1  # label of caption tokens; a question's are 2 + its category
WEIGHTS = dict(shape=1, colour=1, where=1.3, what_at=1.3, exists=1, count=1.7, motion=2.0, where_before=1.5,
               what_before=1.5, count_before=1.4, last=0.8, unknown=0.35)
BEFORE = ("where_before", "what_before", "count_before")
KEY_WORDS = set(W.SHAPES + W.COLOURS + "top left right bottom middle many objects shapes last anything something".split())
SINK = "<|im_start|>System: Say what changed.<end_of_utterance>"
vocabulary = Vocabulary()


def clock(second):
    return f"{second // 3600}:{second // 60 % 60:02d}:{second % 60:02d}"


def cell_of(x, y):
    return min(GRID - 1, int(y * GRID)) * GRID + min(GRID - 1, int(x * GRID))


def turn_head(second):
    v = vocabulary
    return v.encode(f"\nUser:\nFrame from {clock(second)}:") + [v.fake, v.global_img]


def turn_tail():
    v = vocabulary
    return [v.fake, v.end] + v.encode("\nAssistant:")


def question_tokens(question):
    v = vocabulary
    return v.encode("\nUser: " + question) + [v.end] + v.encode("\nAssistant:")


def random_history(rng, n, aspect, held_out=0, event_rate=None):
    """n seconds of a random world: truths, and the world's scenes as a function of the second"""
    rate = event_rate if event_rate is not None else rng.choice([0.6, 0.4, 0.12, 0.0], p=[0.62, 0.15, 0.12, 0.11])
    world = W.World(rng.integers(1 << 62), aspect=aspect, event_rate=rate, move_share=0.5, held_out=held_out)
    truths, scenes = [], []
    for t in range(n):
        truths.append(world.truth())
        scenes.append(world.scene())
        world.step()
    return np.array(truths), scenes


class Sample:
    """history: truths of n_old seconds that are only text, then of the full frames."""

    def __init__(self, rng, history, n_old, n_questions, keep=8, contract=False, weights=WEIGHTS):
        self.rng, self.history, self.n_old, self.keep, self.contract = rng, history, n_old, keep, contract
        self.tokens, self.labels, self.frame, self.position = [], [], [], []
        self.group, self.limit = [], []  # fork of a token, 0: the stream; end of what it sees of the stream
        self.pointers = []  # (query, key, layer): where a supervised head should look
        self.image_at, self.fork_at = [], []
        self.quiz = W.Quiz(rng.integers(1 << 62))
        self.names = list(weights)
        self.p = np.array([weights[n] for n in self.names]) / sum(weights.values())
        self.offset = 0 if rng.random() < 0.35 else int(np.exp(rng.uniform(0, np.log(108000))))
        self.main()
        for f in range(len(self.image_at)):
            for _ in range(rng.poisson(n_questions)):
                self.fork(f)

    def push(self, ids, frame, label=0):
        self.tokens += ids
        self.labels += [label] * len(ids)
        self.frame += [frame] * len(ids)
        self.group += [0] * len(ids)
        self.limit += range(len(self.limit) + 1, len(self.limit) + 1 + len(ids))

    def main(self):
        v, asides = vocabulary, []
        self.push(v.encode_marked(SINK), -1000)
        for t in range(len(self.history)):
            full = t >= self.n_old
            f = t - self.n_old if full else -1000
            self.push(turn_head(self.offset + t), f)
            if full:
                self.image_at.append(len(self.tokens))
                self.push([v.image] * N_CELLS, f)
            self.push(turn_tail(), f)
            text = self.caption(t) if t > 0 else ""
            said = (v.encode(" " + text) if text else []) + [v.end]
            # a first frame with nothing before it is silent; behind old turns it was spoken about with frames now gone
            learn = full and (f > 0 or self.n_old == 0)
            told = self.told(t, said)
            if learn and told is not said:
                asides.append((len(self.tokens), t, f, said))
            elif learn and text and f > 0 and self.keep > 1:
                self.point_caption(t, f, len(said))
            self.push(told, f, CAPTION if learn and told is said else 0)
            if full:
                self.fork_at.append(len(self.tokens))
                if f > 0 and self.keep > 1:
                    self.point_before(t, f)
        self.position = list(range(len(self.tokens)))
        for aside in asides:
            self.push_aside(*aside)

    def told(self, t, said):
        """the tokens that the stream has for what is said in second t"""
        return said

    def push_aside(self, end, t, f, said):
        """what is said where the stream has something else: learned on a fork, which begins before it"""
        start = len(self.tokens)
        self.push(self.tokens[end - 1 : end], f)
        if len(said) > 1 and f > 0 and self.keep > 1:
            self.point_caption(t, f, len(said))
        self.push(said, f, CAPTION)
        self.branch(start, end - 1)

    def branch(self, start, end):
        """the tokens from start on are a fork of the stream's first `end`"""
        n = len(self.tokens) - start
        self.limit[start:] = [end] * n
        self.group[start:] = [1 + max(self.group)] * n
        self.position += range(end, end + n)

    def caption(self, t):
        return W.caption(self.history, t)

    def point_caption(self, t, f, n):
        e = self.history[t]["event"]
        o = e["object"]
        at = self.image_at[f - 1 if e["kind"] == W.GONE else f] + cell_of(o["x"], o["y"])
        self.pointers += [(len(self.tokens) - 1 + i, at, 3) for i in range(n - 1)]

    def point_before(self, t, f):
        """visual tokens look at the same object, or the same place, one frame earlier"""
        truth, here, there = self.history[t], self.image_at[f], self.image_at[f - 1]
        before = {o["id"]: o for o in self.history[t - 1]["objects"][: self.history[t - 1]["n_objects"]]}
        for o in truth["objects"][: truth["n_objects"]]:
            if o["id"] in before:
                p = before[o["id"]]
                self.pointers.append((here + cell_of(o["x"], o["y"]), there + cell_of(p["x"], p["y"]), 1))
        cells = [int(c) for c in self.rng.integers(0, N_CELLS, 2)]
        if truth["event"]["kind"] in (W.GONE, W.APPEARED):
            cells += 2 * [cell_of(truth["event"]["object"]["x"], truth["event"]["object"]["y"])]
        self.pointers += [(here + c, there + c, 1) for c in cells]

    def fork(self, f):
        t = self.n_old + f
        item = None
        for _ in range(5):
            category = self.names[self.rng.choice(len(self.names), p=self.p)]
            if category in BEFORE and (f < 5 or self.keep < 6) or category == "motion" and (f < 1 or self.keep < 2):
                continue
            item = self.quiz.ask(self.history[: t + 1], category, self.contract)
            if item is not None:
                break
        if item is None:
            return
        first, ask, said = self.push_fork(f, item["question"].decode(), item["answer"].decode(), 2 + item["category"])
        if item["about_id"]:
            at = self.image_at[f - item["seconds_back"]] + cell_of(item["about_x"], item["about_y"])
            layer = 3 if category == "motion" else 2
            self.pointers += [(first + i, at, layer) for i in range(len(said) - 1)]
        if category in ("count", "count_before"):  # the last cell has seen the whole frame
            self.pointers.append((first, self.image_at[f - item["seconds_back"]] + N_CELLS - 1, 3))

    def push_fork(self, f, question, answer, label):
        """-> index of the token that says the answer's first, the question's tokens, the answer's"""
        ask = question_tokens(question)
        said = vocabulary.encode(" " + answer) + [vocabulary.end]
        start, end = len(self.tokens), self.fork_at[f]
        self.push(ask, f)
        self.push(said, f, label)
        self.branch(start, end)
        first = start + len(ask) - 1
        keys = [start + i for i, token in enumerate(ask) if vocabulary.tokens[token].strip("\u0120").lower() in KEY_WORDS]
        self.pointers += [(first, k, 0) for k in keys]
        return first, ask, said


class Batch:
    """Samples padded to one length, with their mask, positions, labels and pointers."""

    def __init__(self, samples):
        n, b = max(len(s.tokens) for s in samples), len(samples)
        self.tokens = torch.zeros(b, n, dtype=torch.long)
        self.labels = torch.zeros(b, n, dtype=torch.long)
        self.positions = torch.zeros(b, n, dtype=torch.long)
        self.mask = torch.zeros(b, 1, n, n, dtype=torch.bool)
        index = torch.arange(n)
        for i, s in enumerate(samples):
            m = len(s.tokens)
            self.tokens[i, :m] = torch.tensor(s.tokens)
            self.labels[i, :m] = torch.tensor(s.labels)
            self.positions[i, :m] = torch.tensor(s.position)
            limit, frame, group = torch.tensor(s.limit), torch.tensor(s.frame), torch.tensor(s.group)
            row, column = index[:m, None], index[None, :m]
            stream = (group[None, :] == 0) & (column < limit[:, None])
            own = (group[:, None] > 0) & (group[:, None] == group[None, :]) & (column <= row)
            seen = stream | own
            image = self.tokens[i, :m] == vocabulary.image
            seen &= ~(image[None, :] & (frame[:, None] - frame[None, :] >= s.keep))
            self.mask[i, 0, :m, :m] = seen
            self.mask[i, 0, m:, 0] = True
        self.bias = torch.zeros(b, 1, n, n, dtype=HALF).masked_fill(~self.mask, -30000.0)
        self.real = [isinstance(s.history, list) for s in samples]
        self.n_tokens = sum(len(s.tokens) for s in samples)
        self.pointers = torch.tensor([(i, *p) for i, s in enumerate(samples) for p in s.pointers]).view(-1, 4)


EVENT_CLASSES = 15  # the last seven are footage's


def event_labels(history, t):
    """[64] what began or goes on in each cell: 0 nothing, 1 appeared, 2 gone, 3 turned, 4.. moving"""
    out = np.zeros(N_CELLS, np.int64)
    for o in history[t]["objects"][: history[t]["n_objects"]]:
        if o["direction"] >= 0:
            out[cell_of(o["x"], o["y"])] = 4 + o["direction"]
    e = history[t]["event"]
    if e["kind"] in (W.APPEARED, W.GONE, W.TURNED):
        out[cell_of(e["object"]["x"], e["object"]["y"])] = {W.APPEARED: 1, W.GONE: 2, W.TURNED: 3}[int(e["kind"])]
    return out


def shape_labels(history, t):
    """[64] 0 nothing, 1 + shape of the object whose centre is in the cell"""
    out = np.zeros(N_CELLS, np.int64)
    for o in history[t]["objects"][: history[t]["n_objects"]]:
        out[cell_of(o["x"], o["y"])] = 1 + o["shape"]
    return out


class Oracle:
    """Visual tokens made straight from the truth, out of the decoder's own first word embeddings."""

    def __init__(self, width):
        g = torch.Generator().manual_seed(43)
        self.words = torch.randn(len(vocabulary), width, generator=torch.Generator().manual_seed(44)) * 0.1
        n_drawn = vocabulary.n_drawn
        self.words[:n_drawn] = torch.randn(n_drawn, width, generator=g) * 0.1
        for group in vocabulary.cases():
            if group[-1] >= n_drawn:
                continue
            self.words[group] = self.words[group[0]] + 0.03 * torch.randn(len(group), width, generator=g) * 0.1
        plain = torch.randn(21, width, generator=g) * 0.175  # background, offsets 3, covered, covered by colour 8
        self.rows = torch.zeros(38, width)
        self.rows[0] = plain[0]
        self.rows[1:9] = 3 * self.words[[vocabulary.word(w) for w in W.SHAPES]]
        self.rows[9:17] = 3 * self.words[[vocabulary.word(w) for w in W.COLOURS]]
        self.rows[17:29] = plain[1:13]
        for i, place in enumerate(W.PLACES):
            self.rows[29 + i] = 2 * self.words[[vocabulary.word(w) for w in place.split()]].sum(0) / len(place.split()) ** 0.5
        from model import sines_2d
        self.where = sines_2d(GRID, 32) @ (torch.randn(32, width, generator=g) * 0.12)

    def __call__(self, history, rng=None):
        """[n, 64, width]; with noise and doubts about the shape if rng is given"""
        x = np.zeros((len(history), N_CELLS, 38), np.float32)
        x[..., 0] = 1
        centre = (np.arange(GRID) + 0.5) / GRID
        for t, truth in enumerate(history):
            objects = truth["objects"][: truth["n_objects"]]
            for o in objects:
                cover = (np.abs(centre[None, :] - o["x"]) < o["radius"] * 0.8 + 0.06) & (
                    np.abs(centre[:, None] - o["y"]) < o["radius"] * 0.8 + 0.06)
                x[t, cover.ravel(), 20] = 0.7
                x[t, cover.ravel(), 21 + o["colour"]] = 0.7
            for o in objects:
                at = cell_of(o["x"], o["y"])
                x[t, at, :17] = 0
                x[t, at, 1 + o["shape"]] = x[t, at, 9 + o["colour"]] = 1
                if rng is not None and rng.random() < 0.1:
                    p = rng.uniform(0.1, 0.45)
                    x[t, at, 1 + o["shape"]] -= p
                    x[t, at, 1 + rng.integers(8)] += p
                j, i = at % GRID, at // GRID
                x[t, at, 17:20] = (o["x"] * GRID - j - 0.5) * 2, (o["y"] * GRID - i - 0.5) * 2, (o["radius"] - 0.1) * 20
                x[t, at, 29 + W.place_of(o["x"], o["y"])] = 1
        if rng is not None:
            x += rng.normal(0, 0.06, x.shape).astype(np.float32)
        return torch.from_numpy(x) @ self.rows + self.where
