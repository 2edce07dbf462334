#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""From the table of `quality --sweep` to a picture and a page of words: curves.py FILE.csv writes FILE.png and FILE.md.

Everything on the page is computed from the table, so that another model's table makes another page. Needs matplotlib
(Debian: python3-matplotlib).
"""
import csv
import math
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend must be chosen first

SAVERS = ("uniform", "resolution")
BOLD = {"uniform": "#000000", "resolution": "#7a4a12", "sink_window": "#555555"}
MARKS = "osD^vP*X<>hp"


class Table:
    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            self.about = f.readline().lstrip("# ").strip()
            rows = list(csv.DictReader(f))
        self.settings = {}
        for r in rows:
            self.settings.setdefault((r["kind"], r["name"], int(r["percent"])), {})[r["metric"]] = {
                k: float(r[k]) if r[k] else math.nan for k in ("n", "value", "low", "high", "difference",
                                                               "difference low", "difference high")}
        self.plain = self.settings["none", "none", 100]
        self.names = []
        for kind, name, _ in self.settings:
            if kind != "none" and (kind, name) not in self.names:
                self.names.append((kind, name))

    def get(self, setting, metric, what="value"):
        return self.settings[setting].get(metric, {}).get(what, math.nan)

    def of(self, kind, name):
        """Settings of a saving, the least saving first."""
        return sorted((s for s in self.settings if s[:2] == (kind, name)), key=lambda s: -s[2])

    def cost(self, setting, axis):
        if axis == "KV":
            return self.get(setting, "KV bytes") / 1024
        if setting[0] == "none":
            return self.plain.get(axis, {}).get("value", math.nan)
        return self.get(setting, axis + " / none") * self.plain.get(axis, {}).get("value", math.nan)


def style(table, name):
    k = [n for _, n in table.names].index(name)
    if name in BOLD:
        return {"color": BOLD[name], "linewidth": 3, "marker": MARKS[k % len(MARKS)], "zorder": 5}
    return {"color": plt.get_cmap("tab20")(2 * k % 20 + (2 * k // 20) % 2), "linewidth": 1.2,
            "marker": MARKS[k % len(MARKS)], "markersize": 4, "zorder": 4}


def draw(table, axes, axis, metric, kinds, also=()):
    for kind, name in table.names:
        if kind not in kinds and name not in also:
            continue
        points = [(table.cost(s, axis), *(table.get(s, metric, k) for k in ("value", "low", "high")))
                  for s in [("none", "none", 100)] + [s for s in table.of(kind, name)]]
        points = [p for p in points if not math.isnan(p[0] + p[1])]
        x, y, low, high = zip(*sorted(points, key=lambda p: p[0]))
        look = style(table, name)
        axes.plot(x, y, label=name, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.10, linewidth=0)
    axes.set_ylim(0, 101)
    axes.grid(True, alpha=0.3)


def draw_rows(table, axes, percent):
    """Right answers by where in the picture the object is: what favours a part of the picture slopes."""
    thirds = ("answers: top", "answers: middle", "answers: bottom")
    rows = [("none", "none", 100)] + [s for s in table.settings if s[2] == percent and s[0] in ("arrival", "question")]
    for s in rows:
        look = {"color": "#999999", "linewidth": 3, "linestyle": ":"} if s[0] == "none" else style(table, s[1])
        axes.plot(range(3), [table.get(s, t) for t in thirds], **look)
    axes.set_xticks(range(3))
    axes.set_xticklabels(("top", "middle", "bottom"))
    axes.set_ylim(0, 101)
    axes.grid(True, alpha=0.3)
    axes.set_title(f"answers by third of the picture, {percent} %", fontsize=9)


def picture(table, path):
    fig, grid = plt.subplots(2, 3, figsize=(13, 8), sharey=True)
    cut = ("arrival",)
    draw(table, grid[0][0], "frame ms", "answers", cut)
    draw(table, grid[0][1], "KV", "answers", ("arrival", "policy"))
    draw(table, grid[0][2], "question ms", "answers", ("question",), also=SAVERS)
    draw(table, grid[1][0], "frame ms", "captions", cut)
    draw(table, grid[1][1], "KV", "captions", ("arrival", "policy"))
    percents = sorted({s[2] for s in table.settings if s[0] == "arrival"})
    draw_rows(table, grid[1][2], percents[len(percents) // 2 - 1] if len(percents) > 1 else percents[0])
    for axes, label in zip(grid[0], ("ms a frame", "KiB of cache held", "ms a question")):
        axes.set_xlabel(label)
    for axes, label in zip(grid[1], ("ms a frame", "KiB of cache held")):
        axes.set_xlabel(label)
    grid[0][0].set_ylabel("answers right, %")
    grid[1][0].set_ylabel("captions fully right, %")
    seen = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            seen.setdefault(label, handle)
    fig.legend(seen.values(), seen.keys(), loc="lower center", ncol=min(len(seen), 8), fontsize=9, frameon=False)
    fig.tight_layout(rect=(0, 0.03 + 0.03 * (len(seen) > 8), 1, 1))
    fig.savefig(path, dpi=80, metadata={"Software": None})


# ---- words ----

def number(v, digits=1):
    return "-" if math.isnan(v) else f"{v:.{digits}f}"


def ranged(table, s, metric):
    v, low, high = (table.get(s, metric, k) for k in ("value", "low", "high"))
    return "-" if math.isnan(v) else f"{v:.1f} ({low:.1f} .. {high:.1f})"


def ratio(v):
    return "-" if math.isnan(v) else f"{v:.2f}"


def settings_table(table):
    yield ("| | % | tokens | frame, x none | question, x none | KV KiB | answers | top | middle | bottom | captions | "
           "false a minute |")
    yield "|---|" + "---|" * 11
    for s in [("none", "none", 100)] + [s for k, n in table.names for s in table.of(k, n)]:
        skipped = table.get(s, "frames skipped %")
        cells = [s[1] if skipped < 1 else f"{s[1]}, {skipped:.0f} % of frames find no room", str(s[2]),
                 number(table.get(s, "tokens a frame")), ratio(table.get(s, "frame ms / none")),
                 ratio(table.get(s, "question ms / none")), number(table.get(s, "KV bytes") / 1024, 0),
                 ranged(table, s, "answers")]
        cells += [number(table.get(s, f"answers: {t}")) for t in ("top", "middle", "bottom")]
        cells += [ranged(table, s, "captions"), number(table.get(s, "false captions a minute"), 2)]
        yield "| " + " | ".join(cells) + " |"


AXES = {"arrival": "frame ms", "question": "question ms", "policy": "KV bytes"}
RIVALS = {"arrival": SAVERS, "question": SAVERS, "policy": ("sink_window",) + SAVERS}


def duel(table, s, metric, rival):
    """+1: better than the rival at equal cost, -1: worse, 0: not shown, None: was not compared."""
    row = table.settings[s].get(f"{metric} less {rival} at equal {AXES[s[0]]}")
    if not row or math.isnan(row["value"]):
        return None, "-"
    sign = 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0
    return sign, f"{row['value']:+.1f} ({row['low']:+.1f} .. {row['high']:+.1f})"


def verdict(signs):
    signs = [s for s in signs if s is not None]
    if not signs:
        return "-"
    if all(s > 0 for s in signs):
        return "**beats them**"
    return "loses" if any(s < 0 for s in signs) else "not shown"


def duels_table(table, kind, metric):
    rivals = [r for r in RIVALS[kind] if any(n == r for _, n in table.names)]
    yield "| | % | " + " | ".join(f"less {r}" for r in rivals) + " | |"
    yield "|---|---|" + "---|" * (len(rivals) + 1)
    for s in [s for k, n in table.names if k == kind for s in table.of(k, n)]:
        if s[2] == 100 and kind != "policy":
            continue
        results = [duel(table, s, metric, r) for r in rivals]
        yield f"| {s[1]} | {s[2]} | " + " | ".join(r[1] for r in results) + f" | {verdict([r[0] for r in results])} |"


def summary(table):
    for kind, word in (("arrival", "a frame's time"), ("question", "a question's time"), ("policy", "bytes")):
        names = [n for k, n in table.names if k == kind]
        for name in names:
            rivals = [r for r in RIVALS[kind] if r != name and any(n == r for _, n in table.names)]
            said = []
            for metric in ("answers", "captions") if kind != "question" else ("answers",):
                by = {}
                for s in table.of(kind, name):
                    if s[2] < 100:
                        by.setdefault(verdict([duel(table, s, metric, r)[0] for r in rivals]), []).append(str(s[2]))
                said.append(metric + ": " + "; ".join(f"{v} at {', '.join(p)} %" for v, p in by.items()))
            yield f"- **{name}**, for equal {word}, against {' and '.join(rivals)}. " + ". ".join(said) + "."


def page(table, path, picture_name):
    lines = [f"# Right answers as cost falls, {path.stem.removeprefix('quality-')}", "",
             f"Made by `bench/curves.sh`, which makes it again; every number is in `{path.stem}.csv`.", "",
             table.about + ".", "", f"![curves]({picture_name})", "",
             "*Answers*: all questions but those that need no eyes, the whole answer counting. *Captions*: of the seconds in",
             "which something happens, the whole sentence. Brackets hold 95 % of resampled sets of scenes. Time is processor",
             "time of one thread, the median over frames or questions, as a multiple of what the plain setting took in turn",
             "with it. Percent is of the model's tokens a frame; for policies, of the bytes the default window comes to hold.",
             "", "## What wins where", ""]
    lines += list(summary(table))
    lines += ["", "*Beats them*: the whole interval of the difference is above zero against each; *loses*: below zero",
              "against one; *not shown*: neither.", "", "## All settings", "", *settings_table(table)]
    for kind, title in (("arrival", "Reducers of arriving frames"), ("question", "Reducers on a question's fork"),
                        ("policy", "Policies")):
        if any(k == kind for k, _ in table.names):
            for metric in ("answers", "captions") if kind != "question" else ("answers",):
                lines += ["", f"## {title}: {metric} at equal {AXES[kind]}", "", *duels_table(table, kind, metric)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    source = pathlib.Path(sys.argv[1])
    table = Table(source)
    picture(table, source.with_suffix(".png"))
    page(table, source.with_suffix(".md"), source.with_suffix(".png").name)


if __name__ == "__main__":
    main()
