#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The judge of real footage (bench/footage/score.py), judged itself: captions told from the truth score 1, captions that
know nothing score what chance scores, and each sentence of the vocabulary is understood."""
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "footage"))
import score

SEED = int(os.environ.get("VLMD_TEST_SEED") or random.SystemRandom().randrange(2 ** 32))
SAY = {"enter": "Something appeared, {}.", "leave": "It left, {}."}


def made_up(rng, seconds=150, rate=0.3):
    """A clip in which one thing a second comes, goes or crosses, in some of the seconds."""
    truth = {"seconds": seconds, "events": [], "moves": []}
    for second in range(2, seconds - 1):
        if rng.random() < rate:
            kind, place = rng.choice(["enter", "leave", "cross"]), rng.randrange(9)
            truth["events"].append({"kind": kind, "second": second, "places": [place]})
            if kind == "cross":
                truth["moves"].append({"second": second, "places": [place], "directions": [rng.choice(["left", "up"])]})
    return truth


def said(second, text):
    return {"second": second, "text": text} | score.parse(text)


def told(truth):
    """What an eye that misses nothing says."""
    captions, moves = [], iter(truth["moves"])
    for e in truth["events"]:
        place = score.PLACES[e["places"][0]]
        text = SAY[e["kind"]].format(place) if e["kind"] in SAY else \
            f"Something moves {next(moves)['directions'][0]}, {place}."
        captions.append(said(e["second"], text))
    return captions


class Score(unittest.TestCase):
    def test_words(self):
        cases = {
            "Something appeared, top left.": ("appeared", None, 0), "It left, middle right.": ("left", None, 5),
            "Something moves right, middle left.": ("moves", "right", 3), "Something moves left, left.": ("moves", "left", 3),
            "The light changed.": ("light", None, None), "The picture is covered.": ("covered", None, None),
            "The picture is clear again.": ("clear", None, None), "A red circle appeared, bottom.": ("appeared", None, 7),
            "The red circle is gone.": ("left", None, None), "The red circle moves up.": ("moves", "up", None),
            "The red circle turned blue.": ("other", None, None), "A man walks his dog.": ("other", None, None),
            "": ("other", None, None), "Something appeared, nowhere.": ("appeared", None, None),
        }
        for text, want in cases.items():
            got = score.parse(text)
            self.assertEqual((got["kind"], got["direction"], got["place"]), want, text)

    def test_perfect(self):
        rng = random.Random(SEED)
        for _ in range(10):
            truth = made_up(rng)
            for late in (-1, 0, 1):
                captions = [c | {"second": (c["second"] + late) % truth["seconds"]} for c in told(truth)]
                self.assertEqual(score.score(truth, captions), {"found": 1.0, "true": 1.0})
            rows = {r["what"]: r for r in score.table(truth, told(truth))}
            self.assertGreater(rows["found"]["ratio_mean"], 3)
            self.assertGreater(rows["true"]["ratio_mean"], 3)

    def test_chance(self):
        rng = random.Random(SEED)
        ratios = []
        for _ in range(10):
            truth = made_up(rng)
            blind = [c | {"second": rng.randrange(truth["seconds"])} for c in told(truth)]
            ratios += [r["ratio_mean"] for r in score.table(truth, blind)]
        self.assertLess(abs(sum(ratios) / len(ratios) - 1), 0.25)

    def test_wrong(self):
        truth = {"seconds": 60, "events": [{"kind": "enter", "second": 30, "places": [0, 1]}],
                 "moves": [{"second": 31, "places": [1], "directions": ["right", "down"]}]}
        for second, text, found, true in (
                (30, "Something appeared, top.", 1, 1), (31, "Something appeared, top left.", 1, 1),
                (32, "Something appeared, top.", 0, 0), (30, "Something appeared, bottom.", 0, 0),
                (30, "It left, top.", 1, 0), (32, "Something moves down, top.", 0, 1), (30, "Something moves down, top left.", 1, 0),
                (31, "Something moves left, top.", 1, 0), (30, "The light changed.", 0, 0), (30, "Something appeared.", 0, 0)):
            self.assertEqual(score.score(truth, [said(second, text)]), {"found": found, "true": true}, (second, text))
        self.assertEqual(score.score(truth, []), {"found": 0, "true": 0})
        silence = {"seconds": 8, "events": [], "moves": []}
        self.assertEqual(score.score(silence, [said(3, "It left, top.")]), {"found": 0, "true": 0})
        score.table(silence, [])


if __name__ == "__main__":
    print(f"VLMD_TEST_SEED={SEED}", flush=True)
    unittest.main()
