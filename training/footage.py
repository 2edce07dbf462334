# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Fixed-camera footage with its truth: a second world beside the drawn one, where things are only *something*.

A background (a photograph, or textures laid out like one) with standing things in it, and
things that walk through: cut-outs of photographs and figures of our own (people, vehicles,
animals, blobs), hidden by posts and foliage, under shake, noise, compression, light that
drifts or jumps, and a lens that is covered at times. Spells in which things move alternate
with spells in which all of them stand: what is said is what happened to the largest thing
that did anything between two pictures (news counts more: coming, going, another ninth), and nothing if none did. Photographs come from the folder
that photographs.py fills; without it everything is generated.

Lengths are in pixels of the 128x128 frame. One Second at 1 frame/s says at most one thing.
"""
import glob
import os

import cv2
import numpy as np

import sequences as S
import world as W

cv2.setNumThreads(1)
SIZE, DRAW = 128, 192  # of the frame, and of the canvas it is reduced from
PLACES = ["top left", "top", "top right", "middle left", "middle", "middle right", "bottom left", "bottom", "bottom right"]
QUIET, COVERED, CLEAR, LIGHT, APPEARED, LEFT, MOVES = range(7)
LABELS = 15  # of event_labels(); 4 to 7 moves, 8 to 11 moves and is what is said, 12 to 14 the whole picture
PICTURE_LABEL = {LIGHT: 12, COVERED: 13, CLEAR: 14}
NEWS = 1.5  # times its size counts a thing that comes, goes, or reaches another place
MOVING = 2.5  # pixels a second from which on something moves
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
FOLDER = os.environ.get("VLMD_PHOTOGRAPHS") or f"{CACHE}/vlmd/photographs"  # as photographs.py fills it


def place_of(x, y):
    return PLACES[W.place_of(x, y)]


class Pictures:
    """The photographs, read once and kept small. New ones are looked for now and then."""

    def __init__(self):
        self.backgrounds, self.cutouts, self.known, self.calls = [], [], set(), 0

    def scan(self):
        self.calls += 1
        if self.calls % 200 != 1:
            return
        for kind, read, out in (("background", self.background, self.backgrounds), ("cutout", self.cutout, self.cutouts)):
            for path in sorted(set(glob.glob(f"{FOLDER}/{kind}/*")) - self.known):
                self.known.add(path)
                picture = read(path)
                if picture is not None:
                    out.append(picture)

    @staticmethod
    def shrink(picture, edge):
        scale = edge / max(picture.shape[:2])
        return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture

    def background(self, path):
        picture = cv2.imread(path, cv2.IMREAD_COLOR)
        return None if picture is None or min(picture.shape[:2]) < 96 else self.shrink(picture[:, :, ::-1], 640)

    def cutout(self, path):
        picture = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        if picture is None or picture.ndim != 3 or picture.shape[2] != 4 or min(picture.shape[:2]) < 8:
            return None
        return self.shrink(np.ascontiguousarray(picture[:, :, [2, 1, 0, 3]]), 128)


pictures = Pictures()


def noise_field(rng, size, cells, channels=1):
    """smooth noise in about -1..1"""
    field = rng.standard_normal((cells, cells, channels), np.float32) * np.float32(0.6)
    return cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, channels)


def texture(rng, size, colour, strength=1.0):
    out = np.full((size, size, 3), colour, np.float32)
    for cells, amplitude in ((3, 14), (9, 9), (31, 9), (97, 10)):
        out += noise_field(rng, size, cells) * np.float32(amplitude * strength * rng.uniform(0.2, 1.3))
    return out + noise_field(rng, size, 5, 3) * np.float32(6 * strength)


def random_colour(rng, grey=0.5):
    """mostly dull, as things outdoors are"""
    value = rng.uniform(20, 235)
    return np.clip(value + rng.normal(0, 60 * (1 - grey * rng.random()) * rng.random(), 3), 0, 255).astype(np.float32)


def generated_background(rng):
    """ground, sky or walls: regions of several textures, with edges, windows, posts and paths"""
    out = texture(rng, DRAW, random_colour(rng), rng.uniform(0.4, 2))
    for _ in range(rng.integers(1, 6)):
        mask = np.zeros((DRAW, DRAW), np.uint8)
        kind = rng.integers(4)
        if kind == 0:  # everything beyond a slanted line
            a, b = rng.uniform(-40, DRAW + 40, 2)
            points = [(-9, a), (DRAW + 9, b), (DRAW + 9, DRAW + 9), (-9, DRAW + 9)]
        elif kind == 1:  # a path
            x = rng.uniform(0, DRAW, 4)
            points = [(-9, x[0]), (DRAW + 9, x[1]), (DRAW + 9, x[1] + x[2] / 3 + 9), (-9, x[0] + x[3] / 3 + 9)]
            points = points if rng.random() < 0.6 else [(v, u) for u, v in points]
        else:
            x, y, w, h = rng.uniform(-30, DRAW), rng.uniform(-30, DRAW), rng.uniform(20, 160), rng.uniform(15, 110)
            points = [(x, y), (x + w, y + rng.normal(0, 6)), (x + w, y + h), (x, y + h)]
        cv2.fillPoly(mask, [np.array(points, np.int32)], 255, cv2.LINE_AA)
        other = texture(rng, DRAW, random_colour(rng), rng.uniform(0.3, 2))
        if kind == 3:  # a front with windows
            for wx in range(int(x), int(x + w), int(rng.integers(12, 30))):
                cv2.rectangle(other, (wx, int(y + h * 0.3)), (wx + 7, int(y + h * 0.6)), random_colour(rng).tolist(), -1)
        alpha = (mask / 255.0).astype(np.float32)[..., None]
        out = out * (1 - alpha) + other * alpha
    for _ in range(rng.integers(0, 9)):
        a, b = rng.uniform(0, DRAW, 2), rng.normal(0, 40, 2)
        start, end = (tuple(int(v) for v in p) for p in (a, a + b))
        cv2.line(out, start, end, random_colour(rng).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return out


def photograph_background(rng):
    picture = pictures.backgrounds[rng.integers(len(pictures.backgrounds))]
    h, w = picture.shape[:2]
    cut = min(h, w) * rng.uniform(0.55, 1.0)
    cw, ch = int(min(w, cut * rng.uniform(1, 1.78))), int(cut)
    x, y = int(rng.integers(0, w - cw + 1)), int(rng.integers(0, h - ch + 1))
    out = cv2.resize(picture[y : y + ch, x : x + cw], (DRAW, DRAW), interpolation=cv2.INTER_AREA).astype(np.float32)
    if rng.random() < 0.5:
        out = out[:, ::-1].copy()
    contrast = rng.uniform(0.6, 1.15)
    out = (out - 127) * contrast + 127 + rng.uniform(-35, 35)
    if rng.random() < 0.25:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.6, 2.5))
    return out


class Figure:
    """The look of a thing: picture(phase) gives [h, w, 4] floats, alpha last in 0..1."""

    def __init__(self, rng, height_width=None):
        self.rng = rng
        kinds = ["person"] * 5 + ["vehicle", "animal", "blob"] + (["cutout"] * 5 if pictures.cutouts else [])
        self.kind = kinds[rng.integers(len(kinds))]
        self.colours = [random_colour(rng) for _ in range(6)]
        if rng.random() < 0.4:
            self.colours[1] = self.colours[0] * rng.uniform(0.5, 1.1)
        self.ratio = {"person": rng.uniform(0.28, 0.5), "vehicle": rng.uniform(1.4, 2.6), "animal": rng.uniform(0.9, 1.8),
                      "blob": rng.uniform(0.4, 2.0)}.get(self.kind, 1.0)
        self.grain = noise_field(rng, 96, int(rng.integers(4, 40))) * np.float32(rng.uniform(3, 30))
        self.mirror, self.steps = rng.random() < 0.5, {}
        self.points = rng.uniform(0.6, 1.0, 10)
        if self.kind == "cutout":
            picture = pictures.cutouts[rng.integers(len(pictures.cutouts))].astype(np.float32)
            self.ratio = picture.shape[1] / picture.shape[0]
            self.cut = np.concatenate([(picture[..., :3] - 127) * rng.uniform(0.7, 1.2) + 127 + rng.uniform(-40, 40),
                                       picture[..., 3:] / 255], 2)

    def picture(self, phase):
        if self.kind == "cutout":
            out = self.cut
        elif (step := int(phase * 2 / np.pi) % 4) in self.steps:
            return self.steps[step]
        else:
            mask, rgb = np.zeros((96, 96), np.uint8), np.zeros((96, 96, 3), np.float32)
            getattr(self, self.kind)(mask, rgb, phase)
            out = np.concatenate([np.clip(rgb + self.grain, 0, 255), (mask / 255.0).astype(np.float32)[..., None]], 2)
            self.steps[step] = out = out[:, ::-1] if self.mirror else out
            return out
        return out[:, ::-1] if self.mirror else out

    def part(self, mask, rgb, k, draw):
        one = np.zeros_like(mask)
        draw(one)
        np.maximum(mask, one, out=mask)
        rgb[one > 0] = self.colours[k]

    def person(self, mask, rgb, phase):
        swing, c, filled = np.sin(phase) * 14, 48, -1
        for s in (-1, 1):
            self.part(mask, rgb, 1, lambda m, s=s: cv2.line(m, (c + 4 * s, 50), (int(c + 5 * s + s * swing), 93), 255, 15, cv2.LINE_AA))
            self.part(mask, rgb, 2, lambda m, s=s: cv2.line(m, (c + 18 * s, 24), (int(c + 22 * s - s * swing), 52), 255, 9, cv2.LINE_AA))
        self.part(mask, rgb, 0, lambda m: cv2.ellipse(m, (c, 36), (22, 21), 0, 0, 360, 255, filled, cv2.LINE_AA))
        self.part(mask, rgb, 3, lambda m: cv2.ellipse(m, (c, 9), (11, 9), 0, 0, 360, 255, filled, cv2.LINE_AA))

    def vehicle(self, mask, rgb, phase):
        self.part(mask, rgb, 0, lambda m: cv2.rectangle(m, (2, 42), (93, 80), 255, -1))
        roof = np.array([(20, 44), (30, 14), (70, 14), (84, 44)], np.int32)
        self.part(mask, rgb, 0, lambda m: cv2.fillPoly(m, [roof], 255))
        self.part(mask, rgb, 2, lambda m: cv2.rectangle(m, (32, 20), (68, 42), 255, -1))
        for x in (22, 74):
            self.part(mask, rgb, 3, lambda m, x=x: cv2.circle(m, (x, 80), 13, 255, -1))

    def animal(self, mask, rgb, phase):
        swing = int(np.sin(phase) * 8)
        self.part(mask, rgb, 0, lambda m: cv2.ellipse(m, (44, 44), (34, 20), 0, 0, 360, 255, -1, cv2.LINE_AA))
        self.part(mask, rgb, 1, lambda m: cv2.ellipse(m, (80, 28), (14, 14), 0, 0, 360, 255, -1, cv2.LINE_AA))
        for x, s in ((20, 1), (32, -1), (58, 1), (68, -1)):
            self.part(mask, rgb, 0, lambda m, x=x, s=s: cv2.line(m, (x, 52), (x + s * swing, 92), 255, 8, cv2.LINE_AA))

    def blob(self, mask, rgb, phase):
        angle = np.linspace(0, 2 * np.pi, len(self.points), endpoint=False)
        radius = 46 * (self.points + 0.04 * np.sin(phase + angle))
        points = np.stack([48 + radius * np.cos(angle), 48 + radius * np.sin(angle)], 1).astype(np.int32)
        self.part(mask, rgb, 0, lambda m: cv2.fillPoly(m, [points], 255, cv2.LINE_AA))


class Thing:
    """Something that may move. x, y: its centre; gone once done."""

    def __init__(self, rng, number, height, aspect, speed_scale):
        self.rng, self.id, self.figure = rng, number, Figure(rng)
        self.h = height if self.figure.kind in ("person", "cutout") else max(4.0, 0.7 * height)
        self.w = max(3.0, self.h * self.figure.ratio / aspect)
        own = self.w * rng.uniform(1.0, 2.5) if self.w < 12 and rng.random() < 0.75 else self.h * rng.uniform(0.25, 1.1)
        self.speed = float(np.clip(own * speed_scale, 4, 14 if self.h < 40 else 26))
        self.phase, self.pause, self.age, self.done = rng.uniform(0, 6), 0, 0, False
        self.border = True
        self.present = self.walking = self.main = False
        self.going = 0
        self.before = None  # x, y one second ago, if it was present then
        self.shadow = rng.uniform(0, 0.45) if rng.random() < 0.5 else 0
        self.growth = 1 + rng.normal(0, 0.012)
        self.life = 10 ** 6

    def enter(self):
        """at a border, towards the inside"""
        r = self.rng
        side, along = r.integers(4) if r.random() < 0.75 else r.integers(2), r.uniform(10, SIZE - 10)
        self.x, self.y = [(-self.w / 2, along), (SIZE + self.w / 2, along), (along, -self.h / 2), (along, SIZE + self.h / 2)][side]
        target = r.uniform(0.15, 0.85, 2) * SIZE
        self.angle = np.arctan2(target[1] - self.y, target[0] - self.x)

    def pop(self):
        """inside, as out of a door or into view"""
        r = self.rng
        self.x, self.y = r.uniform(0.06, 0.94, 2) * SIZE
        self.angle, self.border = r.uniform(0, 2 * np.pi), False
        if r.random() < 0.8:
            self.angle = r.choice([0, np.pi / 2, np.pi, 1.5 * np.pi], p=[0.25, 0.25, 0.25, 0.25]) + r.normal(0, 0.4)
        if r.random() < 0.5:
            self.pause = int(r.integers(1, 4))
        if r.random() < 0.4:
            self.life = int(r.integers(2, 9))

    def step(self, stands=False):
        r = self.rng
        if stands:
            return
        self.age += 1
        self.phase += r.uniform(0.5, 5)
        if self.pause > 0:
            self.pause -= 1
        else:
            self.angle += r.normal(0, 0.12)
            v = self.speed * r.uniform(0.85, 1.15)
            self.x, self.y = self.x + v * np.cos(self.angle), self.y + v * np.sin(self.angle)
            if r.random() < 0.03:
                self.pause = int(r.integers(1, 4))
            self.h, self.w = self.h * self.growth, self.w * self.growth
        if self.age > self.life or not (-self.w < self.x < SIZE + self.w and -self.h < self.y < SIZE + self.h):
            self.done = True

    def box(self):
        return self.x - self.w / 2, self.y - self.h / 2, self.x + self.w / 2, self.y + self.h / 2

    def view(self, hiders):
        """share of its box that is seen, and the centre of what is inside the frame, 0..1"""
        x0, y0, x1, y1 = self.box()
        a, b, c, d = max(x0, 0), max(y0, 0), min(x1, SIZE), min(y1, SIZE)
        if c <= a or d <= b:
            return 0.0, 0.5, 0.5
        seen = (c - a) * (d - b)
        for h in hiders:
            seen -= max(0, min(c, h[2]) - max(a, h[0])) * max(0, min(d, h[3]) - max(b, h[1]))
        return max(seen, 0) / (self.w * self.h), (a + c) / 2 / SIZE, (b + d) / 2 / SIZE


def words(kind, event):
    if kind in (QUIET, COVERED, CLEAR, LIGHT):
        return {QUIET: "", COVERED: "The picture is covered.", CLEAR: "The picture is clear again.", LIGHT: "The light changed."}[kind]
    place = place_of(*event["at"])
    if kind == APPEARED:
        return f"Something appeared, {place}."
    if kind == LEFT:
        return f"It left, {place}."
    return f"Something moves {W.DIRECTIONS[event['direction']]}, {place}."


def any_words(rng):
    """a caption, or silence, of no second"""
    kind = int(rng.choice([QUIET, APPEARED, LEFT, MOVES, LIGHT], p=[0.3, 0.12, 0.12, 0.43, 0.03]))
    return words(kind, dict(at=rng.random(2), direction=int(rng.integers(4))))


class Second:
    """The truth of one second: what is said, about which thing, and where everything that is present is."""

    def __init__(self, kind, things, event=None, events=()):
        self.kind, self.things, self.event, self.events = kind, things, event, events

    @property
    def text(self):
        return words(self.kind, self.event)

    def everything(self):
        """all that might truly be said"""
        moving = [dict(at=(o["x"], o["y"]), direction=o["direction"]) for o in self.things if o["direction"] >= 0]
        return [self.text] + [words(e["kind"], e) for e in self.events] + [words(MOVES, m) for m in moving]


class Scene:
    """One camera: step() goes on by a second, picture() draws the second that is. Lively: there are no spells."""

    def __init__(self, rng, lively=False):
        pictures.scan()
        self.lively = lively
        self.rng = rng
        self.aspect = float(rng.choice([1.78, 1.33, 1.0, 0.56], p=[0.42, 0.36, 0.17, 0.05]))
        self.crowd = int(rng.choice([0, 1, 2, 3, 4, 6, 8], p=[0.05, 0.25, 0.22, 0.16, 0.12, 0.11, 0.09]))
        self.height = np.exp(rng.uniform(np.log(7), np.log(28)))
        self.speed_scale = 1.0
        if self.crowd == 1 and rng.random() < 0.3:
            self.height = rng.uniform(30, 110)
            self.speed_scale = 0.5
        self.light_rate = 0.05 if rng.random() < 0.2 else 0.0
        self.cover_rate = 0.05 if rng.random() < 0.15 else 0.0
        self.shake = 0.0 if rng.random() < 0.6 else float(np.exp(rng.uniform(np.log(0.1), np.log(0.8))))
        self.noise = rng.uniform(0, 4) * (rng.random() < 0.7)
        self.quality = int(rng.uniform(35, 92)) if rng.random() < 0.7 else 0
        self.drift = rng.uniform(0, 0.02) * (rng.random() < 0.6)
        self.gain, self.tint = 1.0, np.ones(3, np.float32)
        self.covered, self.cover_look = 0, None
        self.hiders = []
        for _ in range(int(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2]))):
            x, y, w = rng.uniform(0, SIZE), rng.uniform(-20, 70), rng.uniform(1.5, 5) if rng.random() < 0.7 else rng.uniform(8, 24)
            self.hiders.append((x, y, x + w, y + rng.uniform(30, 90)))
        self.things, self.n_things, self.canvas = [], 0, None
        self.still, self.spell, self.only = False, 0, None
        self.background_seed = int(rng.integers(1 << 62))
        for _ in range(rng.poisson(self.crowd) if self.crowd else 0):
            thing = self.add()
            thing.pop()
            thing.border = thing.present = True
            thing.life = 10 ** 6
        self.second = None
        for t in self.things:
            t.present = t.view(self.hiders)[0] >= 0.5
            t.walking = t.pause == 0
        self.second = Second(QUIET, self.seen())

    def add(self):
        self.n_things += 1
        # one clearly larger than the others, so that what is said can be told from the pictures
        scale = self.rng.uniform(0.5, 0.8) if any(t.main for t in self.things) else self.rng.uniform(1.2, 1.7)
        h = float(np.clip(self.height * scale, 6, 115))
        thing = Thing(self.rng, self.n_things, h, self.aspect, self.speed_scale)
        thing.main = scale > 1
        self.things.append(thing)
        return thing

    def next_spell(self):
        """a few seconds in which things move, or one of them, or none"""
        r = self.rng
        self.spell -= 1
        if self.spell <= 0 and not self.lively:
            self.still = not self.still if self.crowd else False
            self.spell = int(r.integers(1, 5))
            self.only = r.integers(len(self.things)) if self.things and r.random() < 0.5 else None

    def leaver(self):
        """who goes now: the one nearest to a border, or one inside as through a door"""
        present = [t for t in self.things if t.present]
        if not present:
            return None
        inside = lambda t: min(t.x, SIZE - t.x, t.y, SIZE - t.y) - t.w / 2
        nearest = min(present, key=inside)
        if inside(nearest) < 14:
            return nearest
        return present[self.rng.integers(len(present))] if self.rng.random() < 0.5 else None

    def seen(self, said=0):
        out = []
        for t in self.things:
            share, x, y = t.view(self.hiders)
            if t.present:
                out.append(dict(id=t.id, x=x, y=y, w=t.w, h=t.h, direction=t.going if t.walking and t.before else -1,
                                said=t.id == said))
        return out

    def step(self):
        r = self.rng
        kind, events = QUIET, []
        was_covered = self.covered > 0
        self.covered = max(0, self.covered - 1)
        if was_covered and not self.covered:
            kind = CLEAR
        elif not was_covered and r.random() < self.cover_rate:
            kind, self.covered, self.cover_look = COVERED, int(r.integers(2, 7)), self.random_cover()
        self.gain *= np.exp(r.normal(0, self.drift))
        self.gain = float(np.clip(self.gain, 0.4, 1.8))
        if kind == QUIET and not self.covered and r.random() < self.light_rate:
            kind = LIGHT
            factor = np.exp(r.uniform(0.3, 0.8))
            self.gain = self.gain / factor if self.gain > 1.2 or (self.gain > 0.65 and r.random() < 0.5) else self.gain * factor
            if r.random() < 0.4:
                self.tint = np.clip(np.exp(r.normal(0, 0.12, 3)), 0.7, 1.4).astype(np.float32)
        self.next_spell()
        busy = len([t for t in self.things if not t.done])
        turn = 1.0 if self.still or not self.crowd else r.random()
        coming = turn < (0.15 if busy else 0.6) and busy < self.crowd * 1.6
        going = self.leaver() if 0.15 <= turn < 0.33 else None
        for k, t in enumerate(self.things):
            t.before = t.view(self.hiders)[1:] if t.present else None
            t.step(self.still or coming or going is not None or self.only not in (None, k))
        if going:
            going.done = True
        if coming:
            thing = self.add()
            if r.random() < 0.65:
                thing.enter()
                for _ in range(int(r.integers(1, 3))):
                    thing.step()
                thing.done = False
            else:
                thing.pop()
        for t in self.things:
            self.judge(t, events)
        self.things = [t for t in self.things if not t.done]
        if self.covered:
            self.second = Second(kind, [])
            return
        event = None
        if kind == QUIET and not was_covered:
            event = max(events, key=lambda e: e["size"], default=None)
            kind = event["kind"] if event else QUIET
        self.second = Second(kind, self.seen(event["id"] if event else 0), event, events)

    def judge(self, t, events):
        """what happened to one thing in this second"""
        share, x, y = t.view(self.hiders)
        was, t.present = t.present, not t.done and share >= (0.25 if t.present else 0.5)
        size = t.w * t.h
        if t.present and not was:
            events.append(dict(kind=APPEARED, at=(x, y), size=NEWS * size, id=t.id))
            t.walking, t.going = t.border, 0
            t.before = None
        elif was and not t.present:
            events.append(dict(kind=LEFT, at=t.before, size=NEWS * size, id=t.id))
        elif t.present:
            dx, dy = (x - t.before[0]) * SIZE, (y - t.before[1]) * SIZE
            t.walking = np.hypot(dx, dy) >= MOVING
            dx *= self.aspect
            t.going = (1 if dx > 0 else 0) if abs(dx) > abs(dy) else (3 if dy > 0 else 2)
            if t.walking:
                size *= NEWS if place_of(x, y) != place_of(*t.before) else 1
                events.append(dict(kind=MOVES, at=(x, y), size=size, id=t.id, direction=t.going))

    def random_cover(self):
        r = self.rng
        colour = random_colour(r) * r.uniform(0, 0.5) if r.random() < 0.75 else random_colour(r)
        return colour + noise_field(r, DRAW, 2, 3) * r.uniform(1, 25) + noise_field(r, DRAW, 12) * r.uniform(0, 4)

    def paint(self):
        """the canvas with what stands still, once"""
        r = np.random.default_rng(self.background_seed)
        if pictures.backgrounds and r.random() < 0.7:
            canvas = photograph_background(r)
        else:
            canvas = generated_background(r)
        for k in range(r.integers(0, 6)):
            still = Thing(r, 0, float(np.clip(self.height * np.exp(r.normal(0, 0.5)), 4, 90)), self.aspect, 1)
            still.pop()
            self.put(canvas, still)
        self.canvas = np.clip(canvas, 0, 255)
        self.front = self.canvas.copy()
        self.front_alpha = np.zeros((DRAW, DRAW, 1), np.float32)
        for x0, y0, x1, y1 in self.hiders:
            a = [int(v * DRAW / SIZE) for v in (x0, y0, x1, y1)]
            cv2.rectangle(self.front_alpha, a[:2], a[2:], 1.0, -1)
            cv2.rectangle(self.front, a[:2], a[2:], random_colour(r).tolist(), -1)
        self.front += texture(r, DRAW, 0.0, 1.0) * self.front_alpha
        self.leaves = None
        if r.random() < 0.25:
            self.leaves = np.clip(noise_field(r, DRAW, int(r.integers(3, 6))) * 3 - 0.5, 0, 1)[..., 0] * r.uniform(0.5, 4)
        grid = np.arange(DRAW, dtype=np.float32)
        self.map_x, self.map_y = np.meshgrid(grid, grid)

    def put(self, canvas, t):
        scale = DRAW / SIZE
        w, h = max(2, int(round(t.w * scale))), max(3, int(round(t.h * scale)))
        x0, y0 = int(round((t.x - t.w / 2) * scale)), int(round((t.y - t.h / 2) * scale))
        a, b, c, d = max(x0, 0), max(y0, 0), min(x0 + w, DRAW), min(y0 + h, DRAW)
        if c <= a or d <= b:
            return
        if t.shadow:
            flat = max(1, h // 7)
            mask = np.zeros((2 * flat + 1, 2 * w + 1), np.float32)
            cv2.ellipse(mask, (w, flat), (max(1, int(w * 0.8)), flat), 0, 0, 360, t.shadow, -1)
            u, v = x0 - w // 6, y0 + h - flat
            under = canvas[max(v, 0) : max(v + len(mask), 0), max(u, 0) : max(u + mask.shape[1], 0)]
            under *= 1 - mask[max(-v, 0) :, max(-u, 0) :][: under.shape[0], : under.shape[1], None]
        picture = cv2.resize(t.figure.picture(t.phase), (w, h), interpolation=cv2.INTER_AREA)
        picture = picture[b - y0 : d - y0, a - x0 : c - x0]
        alpha, under = picture[..., 3:], canvas[b:d, a:c]
        if not hasattr(t, "lift"):  # must differ from what it stands before
            differs = float((np.abs(picture[..., :3] - under).mean(-1, keepdims=True) * alpha).sum() / (alpha.sum() + 1e-3))
            t.lift = 0.0
            if differs < 22:
                t.lift = self.rng.choice([-1, 1]) * self.rng.uniform(30, 70)
        canvas[b:d, a:c] = under * (1 - alpha) + np.clip(picture[..., :3] + t.lift, 0, 255) * alpha

    def picture(self):
        r = self.rng
        if self.canvas is None:
            self.paint()
        out = self.canvas
        if self.leaves is not None:
            dx, dy = noise_field(r, DRAW, 8, 2).transpose(2, 0, 1) * self.leaves
            out = cv2.remap(out, self.map_x + dx, self.map_y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        else:
            out = out.copy()
        for t in sorted(self.things, key=lambda t: t.y + t.h / 2):
            self.put(out, t)
        if self.hiders:
            out = out * (1 - self.front_alpha) + self.front * self.front_alpha
        if self.shake:
            dx, dy = r.normal(0, self.shake, 2) * DRAW / SIZE
            out = cv2.warpAffine(out, np.float32([[1, 0, dx], [0, 1, dy]]), (DRAW, DRAW), borderMode=cv2.BORDER_REFLECT)
        out = out * (self.gain * np.exp(r.normal(0, 0.008)) * self.tint).astype(np.float32)
        if self.covered:
            out = self.cover_look + out * 0.02
        out = cv2.resize(out, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        if self.noise:
            out = out + r.standard_normal(out.shape, np.float32) * np.float32(self.noise)
        out = np.clip(out, 0, 255).astype(np.uint8)
        if self.quality:
            out = cv2.imdecode(cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1], cv2.IMREAD_COLOR)
        return out


def sequence(rng, n_before, n, lively=False):
    """pixels [n, 128, 128, 3] and n_before + n seconds of truth"""
    scene, pixels, history = Scene(rng, lively), [], []
    for t in range(n_before + n):
        if t:
            scene.step()
        history.append(scene.second)
        if t >= n_before:
            pixels.append(scene.picture())
    return np.stack(pixels), history


def truth(rng, n):
    """n seconds of truth without their pictures"""
    scene, history = Scene(rng), []
    for t in range(n):
        if t:
            scene.step()
        history.append(scene.second)
    return history


def event_labels(history, t):
    """[64] per cell, 0 where nothing happens"""
    second = history[t]
    if second.kind in PICTURE_LABEL:
        return np.full(S.N_CELLS, PICTURE_LABEL[second.kind], np.int64)
    out = np.zeros(S.N_CELLS, np.int64)
    for o in second.things:
        if o["direction"] >= 0:
            out[S.cell_of(o["x"], o["y"])] = (8 if o["said"] else 4) + o["direction"]
    for e in second.events:
        if e["kind"] in (APPEARED, LEFT):
            out[S.cell_of(*e["at"])] = {APPEARED: 1, LEFT: 2}[e["kind"]]
    return out
