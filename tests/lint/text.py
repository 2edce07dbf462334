#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Plain rules over the tracked files: SPDX line, no tab, final newline, mutexes in base/ only, sizes, forbidden calls."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = (".c", ".h", ".py", ".sh", ".build")
MAX_TREE = 16 << 20


def tracked():
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout
    names = [n for n in out.decode().split("\0") if n]
    return [ROOT / n for n in names if (ROOT / n).is_file()]


def code_rules(rel, text):
    if rel.endswith(CODE) and "SPDX-License-Identifier: MIT" not in "\n".join(text.splitlines()[:3]):
        yield "no SPDX line in its first three lines"
    if "\t" in text and rel.endswith((".c", ".h", ".py", ".build")):
        yield "has a tab"
    if text and not text.endswith("\n"):
        yield "has no final newline"
    if rel.endswith((".c", ".h")):
        if re.search(r"\bpthread_(mutex|cond|rwlock|spin)_", text) and not rel.startswith(("base/", "tests/")):
            yield "uses a lock outside base/: cross by mailbox or queue"
        if re.search(r"^(?!\s*[/*]).*\b(exit|abort)\s*\(", text, re.M) and not rel.startswith(
                ("daemon/main.c", "cli/", "pipelines/", "tests/", "bench/")):
            yield "calls exit or abort below daemon/"
        lines = text.count("\n")
        if lines > (250 if rel.endswith(".h") else 1000):
            yield f"has {lines} lines; split it by noun"
        if re.search(r"\bTODO\b|\bFIXME\b|\bXXX\b", text):
            yield "holds an unfinished note"
    name = pathlib.PurePath(rel).stem.lower()
    if name in ("utils", "util", "helpers", "helper", "common", "misc"):
        yield "is named after nothing; name it after its noun"


def main():
    bad, size = [], 0
    files = tracked()
    for path in files:
        rel = str(path.relative_to(ROOT))
        size += path.stat().st_size
        data = path.read_bytes()
        if b"\0" in data[:4096] or rel.startswith("tests/fuzz/corpus/") or rel.endswith((".gguf", ".png", ".mkv", ".mp4", ".bin")):
            continue
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        bad += [f"{rel}: {r}" for r in code_rules(rel, text)]
    if size > MAX_TREE:
        bad.append(f"the tree holds {size} bytes, more than {MAX_TREE}")
    if not files:
        bad.append("no tracked files: run it in a git checkout")
    print("\n".join(bad) or f"text: {len(files)} files, {size} bytes")
    return 1 if bad else 0


sys.exit(main())
