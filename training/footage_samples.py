# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Streams of footage as the daemon renders them, with what is said, asked and looked at."""
import numpy as np

import footage as F
import sequences as S
import world as W

MOVING_QUESTIONS = ["Is anything moving?", "Is something moving?", "Does anything move?", "Does something move now?",
                    "Is there anything moving?", "Is anything moving now?"]
WHERE_QUESTIONS = ["Where is something moving?", "Where does something move?", "Where is anything moving?",
                   "Where do you see something moving?"]
LAST_QUESTIONS = ["What happened last?", "What was the last change?", "What changed last?", "What has changed last?",
                  "What was the last event?", "Tell me what happened last.", "What just happened?", "What happened?"]
EMPTY_WORLD = ("exists", "count", "what_at", "unknown", "shape", "unknown")
MOVING, WHERE, LAST = (2 + len(W.CATEGORIES) + k for k in range(3))  # labels
LIED_TO = 0.8  # share of samples whose stream has other captions than the true ones
NAMES = {MOVING: "moving?", WHERE: "where moving?", LAST: "last in footage"}


class FootageSample(S.Sample):
    """history: Seconds of footage"""

    def main(self):
        """a quarter of the captions repeat the one before, and their words answer questions: copying would do for seeing"""
        self.lied_to = self.rng.random() < LIED_TO
        super().main()

    def caption(self, t):
        return self.history[t].text

    def told(self, t, said):
        if not self.lied_to:
            return said
        text = F.any_words(self.rng)
        return (S.vocabulary.encode(" " + text) if text else []) + [S.vocabulary.end]

    def point_caption(self, t, f, n):
        second = self.history[t]
        if second.event:
            at = self.image_at[f] + S.cell_of(*second.event["at"])
            self.pointers += [(len(self.tokens) - 1 + i, at, 3) for i in range(n - 1)]

    def point_before(self, t, f):
        here, there = self.image_at[f], self.image_at[f - 1]
        before = {o["id"]: o for o in self.history[t - 1].things}
        for o in self.history[t].things:
            if o["id"] in before:
                p = before[o["id"]]
                self.pointers.append((here + S.cell_of(o["x"], o["y"]), there + S.cell_of(p["x"], p["y"]), 1))
        self.pointers += [(here + int(c), there + int(c), 1) for c in self.rng.integers(0, S.N_CELLS, 2)]

    def fork(self, f):
        t, r = self.n_old + f, self.rng
        second = self.history[t]
        kind = r.choice([MOVING, WHERE, LAST, 0], p=[0.2, 0.35, 0.3, 0.15])
        moving = [o for o in second.things if o["direction"] >= 0]
        if kind == LAST and not self.lied_to:
            texts = [s.text for s in self.history[1 : t + 1] if s.text]
            self.push_fork(f, LAST_QUESTIONS[r.integers(len(LAST_QUESTIONS))], texts[-1] if texts else "Nothing.", LAST)
        elif kind in (MOVING, WHERE) and f > 0 and self.keep > 1:
            words = MOVING_QUESTIONS if kind == MOVING else WHERE_QUESTIONS
            most = max(moving, key=lambda o: o["w"] * o["h"]) if moving else None
            answer = ("Yes." if moving else "No.") if kind == MOVING else (
                F.place_of(most["x"], most["y"]).capitalize() + "." if moving else "Nothing.")
            first, _, said = self.push_fork(f, words[r.integers(len(words))], answer, int(kind))
            if most:
                at = self.image_at[f] + S.cell_of(most["x"], most["y"])
                self.pointers += [(first + i, at, 3) for i in range(len(said) - 1)]
        elif kind == 0:
            nothing = np.zeros(t + 1, W.TRUTH)
            category = EMPTY_WORLD[r.integers(len(EMPTY_WORLD))]
            item = self.quiz.ask(nothing, category, self.contract)
            if item is not None:
                self.push_fork(f, item["question"].decode(), item["answer"].decode(), 2 + item["category"])
