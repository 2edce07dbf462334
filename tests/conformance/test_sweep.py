#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""bench/quality --sweep, on very few scenes: the table has every registered saving, all its numbers are sound, and at
100 percent a saving changes no answer and no caption. Arguments: quality, the model's two files."""
import csv
import math
import subprocess
import sys
import tempfile

HEADER = "kind,name,percent,metric,n,value,low,high,difference,difference low,difference high".split(",")
LEAST = {("arrival", "uniform"), ("policy", "sink_window")}


def sweep(quality, model, mmproj):
    with tempfile.NamedTemporaryFile(mode="r", suffix=".csv") as out:
        subprocess.run([quality, "--model", model, "--mmproj", mmproj, "--sweep", out.name, "--scenes", "1", "--first", "13",
                        "--seconds", "6", "--percents", "100,25", "--timed", "0", "--jobs", "1"], check=True)
        lines = out.read().splitlines()
    assert lines[0].startswith("# "), f"the first line says what it is, not {lines[0]!r}"
    assert lines[1].split(",") == HEADER, lines[1]
    return list(csv.DictReader(lines[1:]))


def check_row(row):
    what = " ".join((row["name"], row["percent"], row["metric"]))
    low, value, high = (float(row[k] or "nan") for k in ("low", "value", "high"))
    assert None not in row.values() and None not in row, f"{what}: not {len(HEADER)} columns"
    assert not low > value + 1e-6 and not high < value - 1e-6, f"{what}: {value} is not in {low} .. {high}"
    if row["metric"].startswith(("answers", "captions")) and " less " not in row["metric"]:
        assert math.isnan(value) or 0 <= value <= 100, f"{what}: {value}"


def main():
    rows = sweep(*sys.argv[1:])
    for row in rows:
        check_row(row)
    settings = {}
    for row in rows:
        settings.setdefault((row["kind"], row["name"], int(row["percent"])), {})[row["metric"]] = row
    names = {s[:2] for s in settings if s[0] != "none"}
    assert LEAST <= names, f"{LEAST - names} is missing"
    assert {(k, n, p) for k, n in names for p in (100, 25)} | {("none", "none", 100)} <= set(settings), settings.keys()
    plain = settings["none", "none", 100]
    assert float(plain["answers"]["n"]) > 10 and float(plain["answers"]["value"]) > 60, plain["answers"]
    for (kind, name, percent), got in settings.items():
        tokens = float(got["tokens a frame"]["value"])
        if percent == 25 and kind == "arrival":
            assert 1 <= tokens <= 0.26 * float(plain["tokens a frame"]["value"]), f"{name}: {tokens} tokens a frame"
        whole = tokens == float(plain["tokens a frame"]["value"])
        if percent == 100 and kind == "arrival":
            assert whole, f"{name} at 100 %: {tokens} tokens a frame"
        # on a question's fork a reducer may have a measure of its own beside the budget
        if percent == 100 and (kind == "arrival" or name == "sink_window" or kind == "question" and whole):
            for metric, row in plain.items():
                if row["low"] and metric in got and " less " not in metric and " ms" not in metric:
                    assert got[metric]["value"] == row["value"], \
                        f"{name} at 100 %: {metric} is {got[metric]['value']}, without it {row['value']}"
    print(f"{len(rows)} rows, {len(settings)} settings")


if __name__ == "__main__":
    main()
