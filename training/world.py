# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The drawn world (pipelines/world.c) and its questions (bench/quiz.c) through ctypes.

There is one implementation of both, in C; this compiles it once per change into
training/build and mirrors its structs as numpy types. Pictures take the frame path
of the project: Pillow's LANCZOS to a longest edge of 128, then to 128x128.
"""
import ctypes
import hashlib
import os
import subprocess

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SOURCES = ["pipelines/world.c", "pipelines/world-draw.c", "bench/quiz.c"]
HEADERS = ["base/random.h", "pipelines/world.h", "bench/quiz.h"]
SIZE = 128
MAX_OBJECTS = 5
SHAPES = "circle square triangle star cross ring diamond moon".split()
COLOURS = "red orange yellow green cyan blue purple white".split()
PLACES = ["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"]
DIRECTIONS = "left right up down".split()
QUIET, APPEARED, GONE, TURNED, MOVES = range(5)
ASPECTS = {"16:9": (128, 72), "4:3": (128, 96), "1:1": (128, 128), "9:16": (72, 128)}

i32, f32, u64, i64 = np.int32, np.float32, np.uint64, np.int64
LOOK = np.dtype([("turn", f32), ("shear", f32), ("stretch", f32), ("line", f32), ("roundness", f32),
                 ("softness", f32), ("outline", f32), ("outline_grey", f32), ("shade", f32), ("mirror", f32),
                 ("tint", f32, 3), ("brightness", f32)], align=True)
OBJECT = np.dtype([("id", i32), ("shape", i32), ("colour", i32), ("direction", i32), ("x", f32), ("y", f32),
                   ("from_x", f32), ("from_y", f32), ("radius", f32), ("look", LOOK)], align=True)
EVENT = np.dtype([("kind", i32), ("to_colour", i32), ("object", OBJECT)], align=True)
TRUTH = np.dtype([("second", i64), ("n_objects", i32), ("reserved", i32), ("objects", OBJECT, MAX_OBJECTS),
                  ("event", EVENT)], align=True)
SCENE = np.dtype([("n_objects", i32), ("plain", i32), ("texture_seed", u64), ("noise_seed", u64), ("noise", f32),
                  ("artefacts", f32), ("objects", OBJECT, MAX_OBJECTS)], align=True)


class Options(ctypes.Structure):
    _fields_ = [("seed", ctypes.c_uint64), ("aspect", ctypes.c_float), ("event_rate", ctypes.c_float),
                ("move_share", ctypes.c_float), ("n_start", ctypes.c_int32), ("max_objects", ctypes.c_int32),
                ("held_out", ctypes.c_int32), ("noise", ctypes.c_float), ("artefacts", ctypes.c_float)]


def build():
    names = [os.path.join(ROOT, n) for n in SOURCES + HEADERS if os.path.exists(os.path.join(ROOT, n))]
    digest = hashlib.sha256(b"".join(open(n, "rb").read() for n in names)).hexdigest()[:12]
    path = os.path.join(HERE, "build", f"libworld-{digest}.so")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        subprocess.run(["gcc", "-O3", "-march=native", "-shared", "-fPIC", "-D_GNU_SOURCE", "-std=gnu17", "-I", ROOT,
                        "-I", os.path.join(ROOT, "pipelines"), "-o", temporary]
                       + [n for n in names if n.endswith(".c")] + ["-lm"], check=True)
        os.rename(temporary, path)
    return path


lib = ctypes.CDLL(build())
lib.vl_world_default_options.restype = Options
lib.vl_world_default_options.argtypes = [ctypes.c_uint64]
lib.vl_world_open.argtypes = [ctypes.POINTER(Options), ctypes.POINTER(ctypes.c_void_p)]
lib.vl_world_close.argtypes = lib.vl_world_step.argtypes = lib.vl_world_truth.argtypes = [ctypes.c_void_p]
lib.vl_world_close.restype = lib.vl_world_truth.restype = ctypes.c_void_p
lib.vl_world_step.restype = None
lib.vl_world_scene_at.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p]
lib.vl_world_scene_at.restype = None
lib.vl_world_draw.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p,
                              ctypes.c_void_p]
lib.vl_world_is_held_out.restype = ctypes.c_bool


class World:
    """One seeded scene; step() goes on by a second."""

    def __init__(self, seed, **options):
        self.options = lib.vl_world_default_options(int(seed))
        for key, value in options.items():
            setattr(self.options, key, value)
        self.handle = ctypes.c_void_p()
        if lib.vl_world_open(ctypes.byref(self.options), ctypes.byref(self.handle)):
            raise ValueError(f"vl_world_open refuses {options}")

    def __del__(self):
        if getattr(self, "handle", None):
            lib.vl_world_close(self.handle)
            self.handle = None

    def step(self):
        lib.vl_world_step(self.handle)

    def truth(self):
        text = ctypes.string_at(lib.vl_world_truth(self.handle), TRUTH.itemsize)
        return np.frombuffer(text, TRUTH, 1)[0]

    def scene(self, fraction=1.0):
        scene = np.zeros(1, SCENE)
        lib.vl_world_scene_at(self.handle, fraction, scene.ctypes.data)
        return scene


def draw(scene, width, height, owner=False):
    """[height, width, 3] bytes, and the index of the covering object per pixel (255: none)"""
    rgb = np.empty((height, width, 3), np.uint8)
    own = np.empty((height, width), np.uint8) if owner else None
    if lib.vl_world_draw(scene.ctypes.data, width, height, 3 * width, rgb.ctypes.data, own.ctypes.data if owner else None):
        raise ValueError("vl_world_draw")
    return rgb, own


def frame_path(rgb):
    """What the project does with every frame: longest edge to 128, then squashed to 128x128."""
    height, width = rgb.shape[:2]
    if width >= height:
        w, h = SIZE, int(SIZE / (width / height))
        h += h & 1
    else:
        w, h = int(SIZE * width / height), SIZE
        w += w & 1
    image = Image.fromarray(rgb)
    if (w, h) != image.size:
        image = image.resize((w, h), Image.LANCZOS)
    if (w, h) != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.LANCZOS)
    return np.asarray(image)


def place_of(x, y):
    return min(2, int(y * 3)) * 3 + min(2, int(x * 3))


def held_out(shape, colour, place):
    return bool(lib.vl_world_is_held_out(int(shape), int(colour), int(place)))


CATEGORIES = "shape colour where what_at exists count motion where_before what_before count_before last unknown".split()
ITEM = np.dtype([("category", i32), ("seconds_back", i32), ("about_id", i32), ("about_shape", i32),
                 ("about_colour", i32), ("about_x", f32), ("about_y", f32), ("moving", i32), ("changed", i32),
                 ("held_out", i32), ("question", "S128"), ("answer", "S128")], align=True)
lib.vl_quiz_caption.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
lib.vl_quiz_caption.restype = None
lib.vl_quiz_ask.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
lib.vl_quiz_same_text.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
lib.vl_quiz_same_text.restype = ctypes.c_bool
EVENT_OFFSET = TRUTH.fields["event"][1]


def caption(history, i):
    """caption of second i of a history, "" if quiet"""
    out = ctypes.create_string_buffer(128)
    lib.vl_quiz_caption(history.ctypes.data + i * TRUTH.itemsize + EVENT_OFFSET, out)
    return out.value.decode()


class Quiz:
    """Questions about a history (an array of TRUTH, oldest first, the last one is now)."""

    def __init__(self, seed):
        self.rng = ctypes.c_uint64(int(seed))

    def ask(self, history, category, contract=False):
        item = np.zeros(1, ITEM)
        none = lib.vl_quiz_ask(ctypes.byref(self.rng), history.ctypes.data, len(history),
                               CATEGORIES.index(category), 0 if contract else 1, item.ctypes.data)
        return None if none else item[0]


def same_text(a, b):
    return lib.vl_quiz_same_text(a.encode(), b.encode())


class Scene(ctypes.Structure):
    _fields_ = [("options", Options), ("aspect", ctypes.c_int32), ("width", ctypes.c_int32),
                ("height", ctypes.c_int32), ("n_seconds", ctypes.c_int32)]


lib.vl_quiz_exam_scene.argtypes = [ctypes.c_uint32, ctypes.c_float]
lib.vl_quiz_exam_scene.restype = Scene
lib.vl_quiz_exam_ask.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
EXAM_ASPECTS = ["16:9", "4:3", "1:1"]


def exam_scene(index, event_rate):
    """scene, its pictures after the frame path and its history"""
    scene = lib.vl_quiz_exam_scene(index, event_rate)
    world = World(**{k: getattr(scene.options, k) for k, _ in Options._fields_})
    history, pixels = [], []
    for _ in range(scene.n_seconds):
        history.append(world.truth())
        pixels.append(frame_path(draw(world.scene(), scene.width, scene.height)[0]))
        world.step()
    return scene, np.stack(pixels), np.array(history)


def exam_ask(index, history, category):
    item = np.zeros(1, ITEM)
    none = lib.vl_quiz_exam_ask(index, history.ctypes.data, len(history), CATEGORIES.index(category), item.ctypes.data)
    return None if none else item[0]
