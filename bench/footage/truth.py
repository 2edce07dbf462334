#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""What clearly enters, leaves, crosses and moves in a clip of a fixed camera: truth.py CLIP TRUTH.json [--draw FOLDER]

Background subtraction at the clip's own rate (MOG2, which has seen the whole clip once before), blobs, and tracks of
blobs. A track counts when it is large, lives and goes somewhere. It enters and leaves at the border of the picture, or
where nothing else is near: not where a group parts or meets, or somebody was hidden by somebody. --draw writes the looks of every second with the tracks on them: look at some.
Needs numpy and OpenCV; the same file and OpenCV give the same truth.
"""
import argparse
import json
import math
import os
import sys

import cv2
import numpy as np

VERSION = 1           # of what counts as an event: measurements name it
MIN_AREA = 0.0005     # of the picture, of the median blob of a track
MIN_HEIGHT = 0.045    # of the picture's height
MIN_LIFE = 1.5        # seconds
MIN_WAY = 0.05        # of the picture's diagonal, between the two farthest points of its way
GAP = 1.5             # seconds a thing may be hidden and still be the same
BORDER = 0.02         # of the side: nearer is at the border
SLOW = 0.012          # of the diagonal in a second: slower does not move
DIAGONAL = 20         # degrees around 45 where both directions are right
CROSSED = 0.015       # of the side: so far beyond the line, for half a second, is crossed
ALONE = 1.5           # of its height: nothing else was so near for GAP seconds
KNOWN = 1.0           # seconds at both ends of the clip in which nothing enters or leaves


def frames_of(path):
    clip = cv2.VideoCapture(path)
    if not clip.isOpened():
        sys.exit(f"truth: {path}: OpenCV cannot open it")
    while True:
        ok, image = clip.read()
        if not ok:
            return
        yield image


def blobs_of(mask, min_area):
    mask = (mask == 255).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((13, 5), np.uint8))
    n, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    return [tuple(int(v) for v in stats[i, :4]) for i in range(1, n) if stats[i, cv2.CC_STAT_AREA] >= min_area]


def centre(box):
    return box[0] + box[2] / 2, box[1] + box[3] / 2


class Track:
    def __init__(self, frame, box):
        self.boxes = {frame: box}

    def last(self):
        return max(self.boxes)

    def guess(self, frame):
        """Where its box is by now, at the pace of its last half second."""
        last = self.last()
        before = max((f for f in self.boxes if f <= last - 5), default=last)
        box = self.boxes[last]
        if before == last:
            return box
        (x0, y0), (x1, y1) = centre(self.boxes[before]), centre(box)
        pace = min(frame - last, 10) / (last - before)
        return box[0] + (x1 - x0) * pace, box[1] + (y1 - y0) * pace, box[2], box[3]


def cost(track, frame, box):
    guess = track.guess(frame)
    (x0, y0), (x1, y1) = centre(guess), centre(box)
    far = math.hypot(x1 - x0, y1 - y0) / max(box[2], box[3], guess[2], guess[3])
    size = abs(math.log((box[2] * box[3]) / (guess[2] * guess[3])))
    return far + 0.3 * size


def follow(all_blobs, fps):
    """Greedy: the best pair first. A track without a blob waits for GAP seconds."""
    done, live = [], []
    for frame, blobs in enumerate(all_blobs):
        pairs = sorted((cost(t, frame, b), i, j) for i, t in enumerate(live) for j, b in enumerate(blobs))
        used_t, used_b = set(), set()
        for c, i, j in pairs:
            if c < 0.9 and i not in used_t and j not in used_b:
                used_t.add(i), used_b.add(j)
                live[i].boxes[frame] = blobs[j]
        live += [Track(frame, b) for j, b in enumerate(blobs) if j not in used_b]
        done += [t for t in live if frame - t.last() >= GAP * fps]
        live = [t for t in live if frame - t.last() < GAP * fps]
    return done + live


def smooth(track, fps):
    """Centres for every frame of its life, averaged over 0.7 s: legs swing."""
    frames = np.arange(min(track.boxes), max(track.boxes) + 1)
    known = np.array(sorted(track.boxes))
    xy = np.array([centre(track.boxes[f]) for f in known])
    xy = np.stack([np.interp(frames, known, xy[:, k]) for k in (0, 1)], 1)
    half = max(1, round(0.35 * fps))
    return frames, np.array([xy[max(0, i - half):i + half + 1].mean(0) for i in range(len(xy))])


def ninth(point, size):
    return int(min(2, 3 * point[0] // size[0]) + 3 * min(2, 3 * point[1] // size[1]))


def directions(dx, dy):
    names = ("right" if dx > 0 else "left"), ("down" if dy > 0 else "up")
    angle = math.degrees(math.atan2(abs(dy), abs(dx)))
    if abs(angle - 45) <= DIAGONAL:
        return list(names)
    return [names[angle > 45]]


def at_border(box, size):
    mx, my = BORDER * size[0], BORDER * size[1]
    return box[0] <= mx or box[1] <= my or box[0] + box[2] >= size[0] - mx or box[1] + box[3] >= size[1] - my


def is_clear(track, size, fps):
    areas = [b[2] * b[3] for b in track.boxes.values()]
    heights = [b[3] for b in track.boxes.values()]
    frames, xy = smooth(track, fps)
    way = max(math.hypot(*(xy[i] - xy[0])) for i in range(len(xy)))
    return (len(track.boxes) >= MIN_LIFE * fps and np.median(areas) >= MIN_AREA * size[0] * size[1]
            and np.median(heights) >= MIN_HEIGHT * size[1] and way >= MIN_WAY * math.hypot(*size))


def crossings(frames, xy, size, fps):
    """Frame and both ninths of every lasting step into another ninth."""
    now = ninth(xy[0], size)
    for i in range(1, len(xy)):
        new = ninth(xy[i], size)
        ahead = xy[i:i + max(2, round(0.5 * fps))]
        if new == now or len(ahead) < 2 or any(ninth(p, size) == now for p in ahead):
            continue
        x, y = ahead[-1] / size * 3
        if max(abs(x - round(x)) * (new % 3 != now % 3), abs(y - round(y)) * (new // 3 != now // 3)) / 3 < CROSSED:
            continue
        yield int(frames[i]), now, new
        now = new


def second_of(frame, fps):
    return math.ceil(frame / fps - 1e-6)


def is_plain(tracks, track, end, size, fps):
    """Whether it comes or goes at this end of its life, and is not only lost for a while or parted from a group."""
    known = sorted(track.boxes)
    if any(at_border(track.boxes[f], size) for f in (known[:5] if end == known[0] else known[-5:])):
        return True
    (x, y), near = centre(track.boxes[end]), ALONE * track.boxes[end][3]
    for other in tracks:
        for f in other.boxes.keys() & range(int(end - GAP * fps), int(end + GAP * fps) + 1) if other is not track else ():
            ox, oy = centre(other.boxes[f])
            if math.hypot(ox - x, oy - y) < near + other.boxes[f][3] / 2:
                return False
    return True


def tell(tracks, track, number, size, fps, n_frames):
    """Events of a clear track, and where it goes which way at every look."""
    frames, xy = smooth(track, fps)
    size = np.array(size, float)
    events, moves = [], []

    def places(frame, also=()):
        until = min(second_of(frame, fps) * fps, frames[-1])
        return sorted({ninth(xy[i], size) for i, f in enumerate(frames) if frame <= f <= until} | set(also))

    first, last = int(frames[0]), int(frames[-1])
    if first > KNOWN * fps and is_plain(tracks, track, first, size, fps):
        events.append(("enter", first, places(first, [ninth(xy[0], size)])))
    for f, old, new in crossings(frames, xy, size, fps):
        events.append(("cross", f, places(f, [old, new])))
    if last < n_frames - 1 - KNOWN * fps and is_plain(tracks, track, last, size, fps):
        events.append(("leave", last, [ninth(xy[-1], size)]))
    for second in range(second_of(first, fps), second_of(last, fps) + 1):
        span = [i for i, f in enumerate(frames) if (second - 1) * fps <= f <= second * fps]
        if len(span) < 2:
            continue
        dx, dy = xy[span[-1]] - xy[span[0]]
        seconds = (span[-1] - span[0]) / fps
        if math.hypot(dx, dy) >= SLOW * math.hypot(*size) * seconds and seconds >= 0.4:
            moves.append({"second": second, "places": sorted({ninth(xy[i], size) for i in span}),
                          "directions": directions(dx, dy), "track": number})
    return [{"kind": k, "time": round(f / fps, 2), "second": second_of(f, fps), "places": p, "track": number}
            for k, f, p in events], moves


def find(path, fps):
    """All tracks, those that count first."""
    subtract = cv2.createBackgroundSubtractorMOG2(history=400, varThreshold=24, detectShadows=True)
    size, n = None, 0
    for image in frames_of(path):
        subtract.apply(image)
        size, n = (image.shape[1], image.shape[0]), n + 1
    if not n:
        sys.exit(f"truth: {path}: no pictures in it")
    blobs = [blobs_of(subtract.apply(image, learningRate=0.001), MIN_AREA / 3 * size[0] * size[1])
             for image in frames_of(path)]
    tracks = sorted(follow(blobs, fps), key=lambda t: min(t.boxes))
    clear = [t for t in tracks if is_clear(t, size, fps)]
    return clear, [t for t in tracks if t not in clear and len(t.boxes) > 0.3 * fps], size, n


def make(path):
    fps = cv2.VideoCapture(path).get(cv2.CAP_PROP_FPS)
    tracks, others, size, n = find(path, fps)
    truth = {"clip": os.path.basename(path), "fps": fps, "frames": n, "size": size,
             "seconds": int((n - 1) / fps + 1e-6) + 1, "events": [], "moves": []}
    for i, t in enumerate(tracks):
        events, moves = tell(tracks + others, t, i, size, fps, n)
        truth["events"] += events
        truth["moves"] += moves
    for what in ("events", "moves"):  # after the last look nobody sees anything
        truth[what] = [v for v in truth[what] if v["second"] < truth["seconds"]]
    truth["events"].sort(key=lambda e: (e["time"], e["track"]))
    truth["moves"].sort(key=lambda m: (m["second"], m["track"]))
    return truth, tracks


def draw(path, truth, tracks, folder):
    os.makedirs(folder, exist_ok=True)
    fps, (w, h) = truth["fps"], truth["size"]
    for number, image in enumerate(frames_of(path)):
        if abs(number / fps - round(number / fps)) > 0.5 / fps or number != round(round(number / fps) * fps):
            continue
        second = round(number / fps)
        for k in (1, 2):
            cv2.line(image, (w * k // 3, 0), (w * k // 3, h), (0, 255, 255), 1)
            cv2.line(image, (0, h * k // 3), (w, h * k // 3), (0, 255, 255), 1)
        for i, t in enumerate(tracks):
            if number in t.boxes:
                x, y, bw, bh = t.boxes[number]
                cv2.rectangle(image, (x, y), (x + bw, y + bh), (0, 0, 255), 2)
                way = [d for m in truth["moves"] if m["second"] == second and m["track"] == i for d in m["directions"]]
                cv2.putText(image, f"{i} {'/'.join(way)}", (x, max(12, y - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 255), 1)
        for line, e in enumerate(e for e in truth["events"] if e["second"] == second):
            cv2.putText(image, f"{e['kind']} {e['track']} {e['places']}", (6, 18 + 18 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.55,
                        (255, 0, 255), 2)
        cv2.imwrite(f"{folder}/{second:03}.png", image)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip")
    parser.add_argument("truth")
    parser.add_argument("--draw", metavar="FOLDER")
    args = parser.parse_args()
    truth, tracks = make(args.clip)
    with open(args.truth, "w", encoding="utf-8") as f:
        json.dump(truth, f, indent=1)
    kinds = {k: sum(e["kind"] == k for e in truth["events"]) for k in ("enter", "leave", "cross")}
    print(f"{args.clip}: {len(tracks)} tracks, {kinds}, {len({e['second'] for e in truth['events']})} of {truth['seconds']} seconds")
    if args.draw:
        draw(args.clip, truth, tracks, args.draw)


if __name__ == "__main__":
    main()
