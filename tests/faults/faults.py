# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""What the fault tests share, beside tests/integration/vlm.py: what "survives" means, and tiny models that are bent."""
import os
import pathlib
import shutil
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import vlm  # noqa: E402
from vlm import PATH, Case, Client, Daemon, until  # noqa: E402

SANITIZED = os.environ.get("VLMD_SANITIZED", "") == "1"
SLACK = 10 if SANITIZED else 4  # of times: other tests run beside, on few cores
NIGHTLY = os.environ.get("VLMD_TEST_NIGHTLY", "") == "1"
SEED = int(os.environ.get("VLMD_TEST_SEED", "1"))
GOLDEN = vlm.ROOT / "tests/golden/smolvlm"
TEXT, MMPROJ = GOLDEN / "odd-f32-text.gguf", GOLDEN / "odd-f32-mmproj.gguf"
FAST = "test:?size=64x64"
RSS_KIB = 6144  # beyond what one case may leave, what allocator and page pool (of 2 MiB pages) keep once they have had it


def real(bus, *args, text=TEXT, mmproj=MMPROJ, state="ready", **kw):
    """A daemon with a tiny model, once it has said what it thinks of it."""
    d = Daemon(bus, *args, model=str(text), mmproj=str(mmproj), **kw)
    c = Client(bus)
    got = until("the model", lambda: (s := c.get(PATH, "Manager", "State")) != "loading" and s)
    c.close()
    assert got == state, f"the daemon is {got}, not {state}: {d.logged()}"
    return d


class Survives(Case):
    """Each test ends with the same process, which answers and holds no more than before."""

    def setUp(self):
        super().setUp()
        self.before = self.held()
        self.rss = self.daemon.rss_kib()

    def held(self):
        return self.daemon.fds(), self.daemon.threads(), len(self.daemon.children())

    def answers(self):
        """Seconds that the question for the state takes."""
        return vlm.quickest(lambda: self.client.get(PATH, "Manager", "State"), 3)

    def tearDown(self):
        super().tearDown()  # the same pid; all streams go
        self.assertLess(self.answers(), 0.1 * SLACK)
        until(f"{self.before} descriptors, threads, children again; they are {self.held()}",
              lambda: all(a <= b for a, b in zip(self.held(), self.before)), timeout=5 * SLACK)
        if not SANITIZED:  # they keep what was freed
            until(f"the memory back: {self.rss} KiB before, {self.daemon.rss_kib()} now", lambda: self.daemon.rss_kib() <= self.rss + RSS_KIB, timeout=5)


class Real(Survives):
    """With the tiny model."""

    @classmethod
    def make(cls, bus):
        return real(bus)

    def watched(self, name, seconds=5, **spec):
        """A stream whose clip has been seen to its end."""
        s = self.client.add(name, f"{FAST}&seconds={seconds}", **spec)
        until("its end", lambda: self.client.state(s)[0] in ("ended", "failed"), timeout=60)
        return s


class Gguf:
    """A model file whose numbers can be bent. The reader believes it: it is one of ours."""

    SIZE = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def __init__(self, path):
        self.data = bytearray(pathlib.Path(path).read_bytes())
        self.tokens, self.tensors, self.at = [], {}, 8
        n_tensors, n_keys = self.take("<QQ")
        for _ in range(n_keys):
            name, (kind,) = self.string(), self.take("<I")
            if kind == 9:
                kind, n = self.take("<IQ")
                values = [self.value(kind) for _ in range(n)]
                if name == b"tokenizer.ggml.tokens":
                    self.tokens = values
            else:
                self.value(kind)
        for _ in range(n_tensors):
            name, (n,) = self.string().decode(), self.take("<I")
            ne = self.take(f"<{n}Q")
            kind, offset = self.take("<IQ")
            assert kind == 0, "only f32 files are bent here"
            self.tensors[name] = (ne, offset)
        self.base = (self.at + 31) // 32 * 32

    def take(self, form):
        got = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return got

    def string(self):
        n, = self.take("<Q")
        self.at += n
        return bytes(self.data[self.at - n:self.at])

    def value(self, kind):
        if kind == 8:
            return self.string()
        self.at += self.SIZE[kind]
        return None

    def set_row(self, tensor, row, number):
        """Every element of one row."""
        ne, offset = self.tensors[tensor]
        at = self.base + offset + 4 * ne[0] * row
        self.data[at:at + 4 * ne[0]] = struct.pack("<f", number) * ne[0]

    def save(self, path):
        pathlib.Path(path).write_bytes(self.data)
        return path


def copy_pair(folder):
    """The tiny pair where a test may spoil it: → text, mmproj."""
    return [shutil.copy(f, folder) for f in (TEXT, MMPROJ)]
