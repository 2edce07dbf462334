#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Holds every #include to the table in docs/ARCHITECTURE.md: folders point down only, third-party headers have a home."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The C library and the kernel's interface: every folder may include these.
LIBC = re.compile(
    r"^(assert|complex|ctype|dirent|endian|errno|fcntl|fenv|float|fnmatch|getopt|argp|glob|inttypes|limits|locale|"
    r"malloc|math|poll|sched|signal|spawn|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string|strings|"
    r"syscall|termios|time|unistd|wchar|wctype|setjmp|threads|byteswap|ucontext|getopt|grp|pwd|link|dlfcn)\.h$|"
    r"^(sys|linux|arpa|netinet|asm)/|^(sanitizer)/")


def table():
    rows = {}
    for line in (ROOT / "docs/ARCHITECTURE.md").read_text().splitlines():
        cell = [c.strip() for c in line.strip("|").split("|")]
        if len(cell) == 4 and re.fullmatch(r"[a-z]+", cell[0]) and cell[0] != "folder" and (ROOT / cell[0]).exists():
            rows[cell[0]] = (set(cell[2].split()) | {cell[0]}, cell[3].split())
    return rows


def check(folder, path, allowed, homes):
    for n, line in enumerate(path.read_text().splitlines(), 1):
        m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not m:
            continue
        inc = m.group(2)
        where = f"{path.relative_to(ROOT)}:{n}"
        if m.group(1) == '"':
            top = inc.split("/")[0]
            if "/" not in inc:
                yield f'{where}: "{inc}" is not written from the root; write "{folder}/.../{inc}"'
            elif top not in allowed:
                yield f"{where}: {folder}/ may not include {top}/ (docs/ARCHITECTURE.md)"
        elif not LIBC.match(inc) and not any(inc == h or (h.endswith("/") and inc.startswith(h)) for h in homes):
            yield f"{where}: <{inc}> has no home in {folder}/ (docs/ARCHITECTURE.md)"


def main():
    rows = table()
    bad = []
    for folder, (allowed, homes) in rows.items():
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            bad += check(folder, path, allowed, homes)
    # One home inside the folder, too.
    for header, only in (("pcre2.h", "decoder/splitter.c"), ("immintrin.h", "kernels/cpu/")):
        for path in ROOT.glob("*/**/*.[ch]"):
            rel = str(path.relative_to(ROOT))
            if not rel.startswith(("build", "tests/")) and f"<{header}>" in path.read_text() and not rel.startswith(only):
                bad.append(f"{rel}: <{header}> belongs in {only} alone")
    if not rows:
        bad.append("docs/ARCHITECTURE.md: no table found")
    print("\n".join(bad) or f"layers: {len(rows)} folders, no edge outside the table")
    return 1 if bad else 0


sys.exit(main())
