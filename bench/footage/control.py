#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Captions of a clip without any model: control.py CLIP CAPTIONS.jsonl

Differences of two looks a second apart, at the size the built-in model sees. The largest thing that changed speaks:
what is there now and was not a second ago, against the mean of all looks so far. What a model must at least reach.
"""
import json
import sys

import cv2
import numpy as np

from score import PLACES

SIZE, STEP, LEAST = 128, 22, 6  # of the picture; grey levels; pixels


def blobs(mask):
    n, _, stats, centres = cv2.connectedComponentsWithStats(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)))
    return sorted(((stats[i, cv2.CC_STAT_AREA], *centres[i]) for i in range(1, n) if stats[i, cv2.CC_STAT_AREA] > LEAST),
                  reverse=True)


def caption(before, now, ground):
    changed = cv2.absdiff(now, before) > STEP
    new, old = (blobs(changed & (cv2.absdiff(x, ground) > STEP)) for x in (now, before))
    if not new and not old:
        return None
    _, x, y = (new or old)[0]
    place = PLACES[min(2, int(3 * x / SIZE)) + 3 * min(2, int(3 * y / SIZE))]
    if not new:
        return f"It left, {place}."
    near = min(old, key=lambda b: np.hypot(b[1] - x, b[2] - y), default=None)
    if near is None or np.hypot(near[1] - x, near[2] - y) > 20:
        return f"Something appeared, {place}."
    dx, dy = x - near[1], y - near[2]
    return f"Something moves {('right' if dx > 0 else 'left') if abs(dx) > abs(dy) else ('down' if dy > 0 else 'up')}, {place}."


def watch(path):
    clip = cv2.VideoCapture(path)
    fps, looks = clip.get(cv2.CAP_PROP_FPS), []
    for number in range(10 ** 9):
        ok, image = clip.read()
        if not ok:
            break
        if number == round(len(looks) * fps):
            looks.append(cv2.cvtColor(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY))
    return looks


def main():
    looks = watch(sys.argv[1])
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        for second in range(1, len(looks)):
            text = caption(looks[second - 1], looks[second], np.median(looks[:second + 1], axis=0).astype(np.uint8))
            if text:
                f.write(json.dumps({"type": "caption", "pts": second * 1000000, "text": text}) + "\n")


if __name__ == "__main__":
    main()
