#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Judges captions of real footage: judge.py [--vlmd build/daemon/vlmd] [--model F.gguf --mmproj F.gguf] [--csv FILE]

Two clips out of Debian packages, which no training ever opens: opencv-doc's vtest.avi, a busy street, and node-opencv's
motion.mov, a coin on a table that a pen pushes. vlmd looks at them as a user's `vlmd run` does, once a second of the
clip, leaving out no look; truth.py tells what happens, score.py compares. Beside it: control.py, a program without a
model, and knower.py, which knows the truth and says one sentence a second. Without network, the packages, numpy or OpenCV it says so and exits with 77.

Clips and truths are kept in $VLMD_FOOTAGE, else vlmd/footage under $XDG_CACHE_HOME.
"""
import argparse
import glob
import json
import os
import subprocess
import sys

try:
    import cv2
    import numpy  # noqa: F401
except ImportError as e:
    print(f"SKIPPED: {e}; Debian has python3-opencv, PyPI opencv-python-headless")
    sys.exit(77)

import score
import truth

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CLIPS = {"opencv-doc": "usr/share/doc/opencv-doc/examples/data/vtest.avi",
         "node-opencv": "usr/share/doc/node-opencv/examples/files/motion.mov"}


def clip_of(package, cache):
    """The clip out of its package, which is installed, or fetched without being installed."""
    member = CLIPS[package]
    if os.path.exists(f"/{member}"):
        return f"/{member}"
    kept = f"{cache}/{os.path.basename(member)}"
    if os.path.exists(kept):
        return kept
    if not glob.glob(f"{cache}/{package}_*.deb"):
        print(f"judge: fetching {package}", flush=True)
        try:
            subprocess.run(["apt-get", "download", package], cwd=cache, check=True, stdout=subprocess.DEVNULL, timeout=600)
        except (OSError, subprocess.SubprocessError) as e:
            print(f"SKIPPED: {package} is neither installed nor can it be fetched: {e}")
            sys.exit(77)
    package = sorted(glob.glob(f"{cache}/{package}_*.deb"))[-1]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as tar:
        subprocess.run(["tar", "-xO", f"./{member}"], stdin=tar.stdout, stdout=open(f"{kept}.part", "wb"), check=True)
    os.rename(f"{kept}.part", kept)
    return kept


def kept_truth(clip, cache):
    return f"{cache}/{os.path.basename(clip)}-{truth.VERSION}-{cv2.__version__}.json"


def truth_of(clip, cache):
    kept = kept_truth(clip, cache)
    if not os.path.exists(kept):
        print(f"judge: tracking what moves in {clip}", flush=True)
        made, _ = truth.make(clip)
        with open(f"{kept}.part", "w", encoding="utf-8") as f:
            json.dump(made, f, indent=1)
        os.rename(f"{kept}.part", kept)
    with open(kept, encoding="utf-8") as f:
        return json.load(f)


def watch(vlmd, model, clip, out):
    print(f"judge: {' '.join(model[1::2] or ['the built-in model'])} looks at {clip}", flush=True)
    with open(out, "w", encoding="utf-8") as f:
        r = subprocess.run([vlmd, "run", clip, "--json", "--quiet", *model], stdout=f, timeout=1800).returncode
    if r:
        sys.exit(f"judge: {vlmd} run {clip} exits with {r}")
    return score.read_captions(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vlmd", default=f"{ROOT}/build/daemon/vlmd", help="of a release build")
    parser.add_argument("--model")
    parser.add_argument("--mmproj")
    parser.add_argument("--csv")
    args = parser.parse_args()
    if not os.access(args.vlmd, os.X_OK):
        sys.exit(f"judge: no {args.vlmd}; build it or say --vlmd")
    cache = os.environ.get("VLMD_FOOTAGE") or f"{os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')}/vlmd/footage"
    os.makedirs(cache, exist_ok=True)
    model = ["--model", args.model] * bool(args.model) + ["--mmproj", args.mmproj] * bool(args.mmproj)
    rows = []
    street, table = (clip_of(p, cache) for p in CLIPS)
    facts = truth_of(street, cache)
    rows.append(("model", score.report("vtest.avi, model", facts, watch(args.vlmd, model, street, f"{cache}/street.jsonl"))))
    subprocess.run([sys.executable, f"{HERE}/control.py", street, f"{cache}/control.jsonl"], check=True)
    rows.append(("control", score.report("vtest.avi, differences of looks", facts, score.read_captions(f"{cache}/control.jsonl"))))
    knows = f"{cache}/knower.jsonl"
    subprocess.run([sys.executable, f"{HERE}/knower.py", kept_truth(street, cache), knows], check=True)
    rows.append(("knower", score.report("vtest.avi, one true sentence a second", facts, score.read_captions(knows))))
    captions = watch(args.vlmd, model, table, f"{cache}/table.jsonl")
    print(f"motion.mov: {len(captions)} captions")
    for c in captions:
        print(f"  {c['second'] // 60}:{c['second'] % 60:02d} {c['text']}")
    if args.csv:
        score.write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
