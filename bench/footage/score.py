#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Captions of real footage against a truth: score.py TRUTH.json CAPTIONS.jsonl [--csv FILE]

TRUTH is what truth.py writes, CAPTIONS the records of `vlmd run --json`. Needs Python alone. One look a second: what
happens at time e is first shown by the look at ceil(e), its second.

  found   of the seconds in which something clearly enters, leaves or crosses into another ninth of the picture: the
          share with a caption about that ninth within a second. Crossing has two right ninths, and whatever goes on
          from the event to its look may be in the ninth it reaches by then.
  true    of the captions: the share with an event of their kind ("appeared", "left"), or something that goes their
          way ("moves"), in their ninth, within a second. Light and cover are false where the truth has none.

Chance is the same captions moved round the clip: by 20 s, and the mean over every shift of 10 s or more either way.
"""
import argparse
import csv
import json
import re
import sys

PLACES = ["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"]
WORDS = {p: i for i, p in enumerate(PLACES)} | {"middle left": 3, "middle right": 5, "center": 4, "centre": 4}
KINDS = {"enter": "appeared", "leave": "left"}
CAPTIONS = [
    ("appeared", re.compile(r"^(?:a|an|the)?\s*[\w ]+ appeared(?:, ([a-z ]+))?\.?$")),
    ("moves", re.compile(r"^[\w ]+ moves (left|right|up|down)(?:, ([a-z ]+))?\.?$")),
    ("left", re.compile(r"^[\w ]+ (?:left|is gone)(?:, ([a-z ]+))?\.?$")),
    ("light", re.compile(r"^the light changed\.?$")),
    ("covered", re.compile(r"^the picture is covered\.?$")),
    ("clear", re.compile(r"^the picture is clear again\.?$")),
]


def parse(text):
    """Kind, direction and ninth of a caption; the kind is "other" when it is none that can be judged."""
    for kind, form in CAPTIONS:
        m = form.match(text.strip().lower())
        if m:
            groups = list(m.groups())
            direction = groups.pop(0) if kind == "moves" else None
            place = WORDS.get(groups[0]) if groups and groups[0] else None
            return {"kind": kind, "direction": direction, "place": place}
    return {"kind": "other", "direction": None, "place": None}


def read_captions(path):
    captions = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            record = json.loads(line)
            if record.get("type") == "caption":
                captions.append({"second": round(record["pts"] / 1e6), "text": record["text"]} | parse(record["text"]))
            elif record.get("type") == "end" and record.get("status") != "ok":
                sys.exit(f"score: {path}: the run did not come to its end: {record.get('message', record['status'])}")
    return captions


def index(truth):
    """What can be found, and what can be said and be true, by second."""
    found, true = {}, {}
    for e in truth["events"]:
        kind = KINDS.get(e["kind"], e["kind"])
        true.setdefault(e["second"], set()).update((kind, None, p) for p in e["places"] or [None])
        if e["kind"] in ("enter", "leave", "cross"):
            found.setdefault(e["second"], set()).update(e["places"])
    for m in truth["moves"]:
        true.setdefault(m["second"], set()).update(("moves", d, p) for d in m["directions"] for p in m["places"])
    return found, true


def is_true(n, true, caption, shift=0):
    what = (caption["kind"], caption["direction"], caption["place"])
    return any(what in true.get((caption["second"] + shift) % n + d, ()) for d in (-1, 0, 1))


def score(truth, captions, shift=0, indexed=None):
    n, (found, true) = truth["seconds"], indexed or index(truth)
    said = {}
    for c in captions:
        said.setdefault((c["second"] + shift) % n, set()).add(c["place"])
    n_found = sum(any(said.get(s + d, set()) & places for d in (-1, 0, 1)) for s, places in found.items())
    n_true = sum(is_true(n, true, c, shift) for c in captions)
    return {"found": n_found / len(found) if found else 0.0, "true": n_true / len(captions) if captions else 0.0}


def table(truth, captions):
    n = truth["seconds"]
    indexed = index(truth)
    shifts = [score(truth, captions, k, indexed) for k in range(10, n - 9) or [n // 2]]
    real, by_20 = score(truth, captions, 0, indexed), score(truth, captions, 20, indexed)
    rows = []
    for name in ("found", "true"):
        mean = sum(s[name] for s in shifts) / len(shifts)
        rows.append({"what": name, "share": real[name], "shifted_20s": by_20[name], "shifted_mean": mean,
                     "ratio_20s": real[name] / by_20[name] if by_20[name] else None,
                     "ratio_mean": real[name] / mean if mean else None})
    return rows


def report(name, truth, captions, out=sys.stdout, examples=3):
    rows, (found, true) = table(truth, captions), index(truth)
    kinds = {k: sum(e["kind"] == k for e in truth["events"]) for k in ("enter", "leave", "cross")}
    print(f"{name}: {len(captions)} captions in {truth['seconds']} s, {60 * len(captions) / truth['seconds']:.1f} a minute; "
          f"{len(found)} seconds with an event ({', '.join(f'{v} {k}' for k, v in kinds.items())})", file=out)
    print(f"  {'':8}{'share':>8}{'by 20 s':>9}{'ratio':>7}{'any shift':>11}{'ratio':>7}", file=out)
    for r in rows:
        ratios = [f"{r[k]:.2f}" if r[k] is not None else "-" for k in ("ratio_20s", "ratio_mean")]
        print(f"  {r['what']:8}{r['share']:8.3f}{r['shifted_20s']:9.3f}{ratios[0]:>7}{r['shifted_mean']:11.3f}{ratios[1]:>7}",
              file=out)
    for right in (True, False):
        some = [c for c in captions if is_true(truth["seconds"], true, c) == right]
        step = max(1, len(some) // examples)
        for c in some[::step][:examples]:
            print(f"  {'true ' if right else 'false'} {c['second'] // 60}:{c['second'] % 60:02d} {c['text']}", file=out)
    return rows


def write_csv(path, named_rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        w = csv.writer(f)
        w.writerow(["captions_of", "what", "share", "shifted_20s", "shifted_mean", "ratio_20s", "ratio_mean"])
        for name, rows in named_rows:
            for r in rows:
                w.writerow([name, r["what"]] + [f"{r[k]:.4f}" if r[k] is not None else "" for k in
                                                ("share", "shifted_20s", "shifted_mean", "ratio_20s", "ratio_mean")])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("truth")
    parser.add_argument("captions")
    parser.add_argument("--csv")
    args = parser.parse_args()
    with open(args.truth, encoding="utf-8") as f:
        truth = json.load(f)
    rows = report(args.captions, truth, read_captions(args.captions))
    if args.csv:
        write_csv(args.csv, [(args.captions, rows)])


if __name__ == "__main__":
    main()
