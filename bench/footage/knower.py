#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Captions of somebody who knows the truth: knower.py TRUTH.json CAPTIONS.jsonl

One true sentence in each second with an event, about what comes or goes if anything does, and silence in the others. What
it has over chance is the most that one sentence a second can have: in a busy clip something happens everywhere.
"""
import json
import sys

from score import KINDS, PLACES


def captions(truth):
    for second in sorted({e["second"] for e in truth["events"]}):
        event = min((e for e in truth["events"] if e["second"] == second), key=lambda e: e["kind"] == "cross")
        place = PLACES[event["places"][-1]]
        if event["kind"] in KINDS:
            yield second, {"appeared": "Something appeared, {}.", "left": "It left, {}."}[KINDS[event["kind"]]].format(place)
        for m in truth["moves"]:
            if event["kind"] == "cross" and (m["second"], m["track"]) == (second, event["track"]):
                yield second, f"Something moves {m['directions'][0]}, {place}."


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        truth = json.load(f)
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        for second, text in captions(truth):
            f.write(json.dumps({"type": "caption", "pts": second * 1000000, "text": text}) + "\n")


if __name__ == "__main__":
    main()
