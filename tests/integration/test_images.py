#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Questions about pictures: AskImage, AskImageText and vlmctl ask, with an engine that tells what it was shown."""
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
import unittest
import zlib

import vlm
from vlm import NAME, PATH, Case, Client, Daemon, read_all, records, until

MIB = 1 << 20


def png(width, height, rgb=(10, 20, 30), rows=None):
    """One colour; rows: only so many of them are really there."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    raw = (b"\0" + bytes(rgb) * width) * (height if rows is None else rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def memfd(data, size=None):
    fd = os.memfd_create("picture")
    os.write(fd, data)
    if size is not None:
        os.ftruncate(fd, size)
    return fd


class Images(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if "image:png" not in cls.client.get(PATH, "Manager", "Features"):
            print("SKIPPED: this build reads no PNG")
            raise unittest.SkipTest("no PNG")

    def setUp(self):
        self.fds = self.daemon.fds()
        self.open = contextlib.ExitStack()

    def tearDown(self):
        self.open.close()
        until("its children have gone", lambda: not self.daemon.children())
        until(f"no more than {self.fds} descriptors", lambda: self.daemon.fds() <= self.fds)
        super().tearDown()

    def own(self, *fds):
        """Closed at the end of the test."""
        for fd in fds:
            self.open.callback(os.close, fd)
        return fds[0] if len(fds) == 1 else fds

    def silent(self):
        """The read end of a pipe into which nobody writes."""
        return self.own(*os.pipe())[0]

    def test_what_the_engine_is_shown(self):
        text, details = self.client.ask_image_text([self.own(memfd(png(5, 3, (255, 128, 1))))], "look")
        self.assertEqual(text.split(), ["5x3#ff8001"])
        self.assertTrue(details["Untrusted"])
        self.assertGreater(details["TotalUSec"], 2000)  # with the time that reading took; the engine's own is 2 ms

    def test_several_keep_their_order(self):
        fds = [self.own(memfd(png(n, n, (n, n, n)))) for n in range(1, 9)]
        _, pipe = self.client.ask_image(fds, "look", Format=("s", "jsonl"))
        got = records(read_all(pipe))
        text = "".join(r["text"] for r in got[:-1])
        self.assertEqual(text.split(), [f"{n}x{n}#{n:02x}{n:02x}{n:02x}" for n in range(1, 9)])
        self.assertEqual(got[-1]["status"], "ok")

    def test_through_a_pipe_and_from_the_middle_of_a_file(self):
        r, w = os.pipe()
        data = png(300, 2)
        os.write(w, data)
        os.close(w)
        fd = self.own(memfd(png(4, 4)))
        os.lseek(fd, 9, os.SEEK_SET)
        text, _ = self.client.ask_image_text([self.own(r), fd], "look")
        self.assertEqual([t.split("#")[0] for t in text.split()], ["300x2", "4x4"])

    def test_without_a_picture(self):
        text, _ = self.client.ask_image_text([], "echo nothing to see")
        self.assertEqual(text, "nothing to see")
        self.assertEqual(self.client.ask_image_text([], "look")[0], "")
        self.assertTrue(self.client.ask_image_text([self.own(memfd(png(5, 3, (255, 128, 1))))], "look",
                                                   Reducer=("s", "uniform"))[0].startswith("uniform share 0 budget 0 5x3"))

    def test_refused_at_once(self):
        ask = self.client.ask_image_text
        one = self.own(memfd(png(1, 1)))
        listener = self.open.enter_context(socket.socket(socket.AF_UNIX))
        path = os.path.join(self.bus.dir, "picture")
        with open(path, "wb") as f:
            f.write(png(1, 1))
        for fd, words in ((self.own(os.open("/", os.O_RDONLY | os.O_DIRECTORY)), "regular"),
                          (self.own(os.open(path, os.O_PATH)), "reading"),
                          (self.own(os.open(path, os.O_WRONLY)), "reading"),
                          (self.own(os.open("/dev/zero", os.O_RDONLY)), "regular"), (listener.fileno(), "regular")):
            text = self.raises("org.freedesktop.DBus.Error.InvalidArgs", ask, [one, fd], "look")
            self.assertIn("image 2", text)
            self.assertIn(words, text)
        self.assertIn("at most 8", self.raises("TooLarge", ask, [one] * 9, "look"))
        self.assertIn("image 1", self.raises("TooLarge", ask, [self.own(memfd(b"", 64 * MIB + 1))], "look"))
        self.raises("InvalidOption", ask, [one], "look", Since=("t", 1))
        self.raises("InvalidOption", ask, [one], "look", Format=("s", "jsonl"))
        self.raises("TooLarge", ask, [one], "x" * 16385)
        self.raises("org.freedesktop.DBus.Error.InvalidArgs", ask, [one], "")
        self.assertEqual(self.daemon.children(), [])

    def test_refused_once_read(self):
        ask = self.client.ask_image_text
        one = self.own(memfd(png(1, 1)))
        for data, name, words in ((b"", "org.freedesktop.DBus.Error.InvalidArgs", "empty"),
                                  (b"hello, world....", "NotSupported", "no JPEG"),
                                  (b"GIF89a..........", "NotSupported", "GIF"),
                                  (png(9, 9, rows=2), "org.freedesktop.DBus.Error.InvalidArgs", "PNG"),
                                  (png(8192, 8192, rows=1), "TooLarge", "8192 x 8192"),
                                  (png(16384, 16384, rows=1), "TooLarge", "16384 x 16384"),
                                  (png(0, 4, rows=1), "org.freedesktop.DBus.Error.InvalidArgs", "0 x 4")):
            text = self.raises(name, ask, [one, self.own(memfd(data))], "look")
            self.assertIn("image 2: ", text)
            self.assertIn(words, text)
        _, pipe = self.client.ask_image([self.own(memfd(b"hello"))], "look", Format=("s", "jsonl"))
        end = records(read_all(pipe))
        self.assertEqual([r["status"] for r in end], ["failed"])
        self.assertEqual(end[0]["error"], vlm.ERROR + "NotSupported")

    def test_one_that_breaks_off(self):
        cut = [self.own(memfd(png(9, 8, rows=n))) for n in (8, 5, 8, 6)]
        text, details = self.client.ask_image_text(cut, "look")
        self.assertEqual([t.split("#")[0] for t in text.split()], ["9x8", "9x5", "9x8", "9x6"])
        self.assertEqual(details["IncompleteImages"], [2, 4])
        _, pipe = self.client.ask_image(cut, "look", Format=("s", "jsonl"))
        self.assertEqual(records(read_all(pipe))[-1]["incomplete_images"], [2, 4])
        self.assertNotIn("IncompleteImages", self.client.ask_image_text(cut[:1], "look")[1])
        got = self.ctl("-", "look", data=png(9, 8, rows=5))
        self.assertEqual((got.returncode, got.stdout), (0, b"9x5#0a141e \n"))
        self.assertIn(b"image 1 breaks off", got.stderr)

    def test_other_formats(self):
        corpus = vlm.ROOT / "tests/fuzz/corpus/still"
        features = self.client.get(PATH, "Manager", "Features")
        for feature, name, size in (("image:jpeg", "progressive.jpg", "12x20"), ("image:webp", "moving.webp", "28x20")):
            if feature not in features:
                print(f"SKIPPED: {name}; this build has no {feature}")
                continue
            with open(corpus / name, "rb") as f:
                self.assertTrue(self.client.ask_image_text([f], "look")[0].startswith(size), name)

    def test_deadline_covers_reading(self):
        t0 = time.monotonic()
        self.raises("DeadlineExceeded", self.client.ask_image_text, [self.silent()], "look",
                    DeadlineUSec=("t", 300000))
        self.assertLess(time.monotonic() - t0, 8)  # not the 10 s that a reader has

    def test_two_readers_at_a_time(self):
        query, pipe = self.client.ask_image([self.silent() for _ in range(6)], "look")
        until("two readers", lambda: len(self.daemon.children()) == 2)
        for _ in range(10):
            self.assertLessEqual(len(self.daemon.children()), 2)
            time.sleep(0.02)
        self.assertEqual(self.client.get(query, "Query", "State"), "queued")
        self.client.call(query, NAME + ".Query", "Cancel")
        until("no reader", lambda: not self.daemon.children())
        pipe.close()
        self.test_what_the_engine_is_shown()

    def test_a_caller_that_leaves(self):
        for leave in "pipe", "bus":
            other = Client(self.bus)
            _, pipe = other.ask_image([self.silent(), self.own(memfd(png(1, 1)))], "look")
            until("a reader", self.daemon.children)
            if leave == "pipe":
                pipe.close()
            else:
                other.close()
            until("no reader", lambda: not self.daemon.children())
            pipe.close()
            other.close()

    def holds_frames(self):
        with open(f"/proc/{self.daemon.pid}/maps", encoding="utf-8") as maps:
            return "vlmd-still" in maps.read()

    def test_frames_go_with_their_question(self):
        before = self.daemon.rss_kib()
        for _ in range(5):
            query, pipe = self.client.ask_image([self.own(memfd(png(2000, 2000)))], "hang")
            until("its frame", self.holds_frames)
            self.client.call(query, NAME + ".Query", "Cancel")
            pipe.close()
            until("no frame", lambda: not self.holds_frames())
        self.assertLess(self.daemon.rss_kib() - before, 2048)

    # --- vlmctl

    def ctl(self, *args, stdin=subprocess.DEVNULL, data=None):
        return subprocess.run([os.environ["VLMCTL"], "--bus", self.bus.address, "ask", *args], input=data,
                              stdin=None if data is not None else stdin, capture_output=True, check=False, timeout=60)

    def test_vlmctl(self):
        path = os.path.join(self.bus.dir, "a.png")
        with open(path, "wb") as f:
            f.write(png(7, 9))
        for got in (self.ctl("--image", path, "look"), self.ctl("-", "look", data=png(7, 9)),
                    self.ctl("look", "--image=-", data=png(7, 9))):
            self.assertEqual((got.returncode, got.stdout), (0, b"7x9#0a141e \n"), got.stderr)
        got = self.ctl("--image", path, "--image", "-", "look", data=png(1, 2))
        self.assertEqual(got.stdout, b"7x9#0a141e 1x2#0a141e \n", got.stderr)
        model = self.client.get(PATH, "Manager", "DefaultModel").rsplit("/", 1)[1]
        self.assertEqual(self.ctl("--model", model, "--image", path, "look").stdout, b"7x9#0a141e \n")
        self.assertIn(b"NoSuchModel", self.ctl("--model", "another", "--image", path, "look").stderr)
        got = self.ctl("--text", "echo hello")
        self.assertEqual((got.returncode, got.stdout), (0, b"hello\n"))
        got = self.ctl("--image", "/nonexistent.jpg", "look")
        self.assertEqual(got.returncode, 1)
        self.assertIn(b"/nonexistent.jpg: No such file", got.stderr)
        got = self.ctl("-", "look", data=b"hello, world....")
        self.assertEqual(got.returncode, 1)
        self.assertIn(b"no JPEG, PNG or WebP picture (NotSupported)", got.stderr)
        for args in (["--text", "--image", path, "look"], ["--image", path, "a", "b"], ["--text"], ["porch"],
                     ["--image", path, "look", "--since", "1h"], ["look"] + 9 * ["--image", path]):
            self.assertEqual(self.ctl(*args).returncode, 2, args)


class Blind(Case):
    @classmethod
    def make(cls, bus):
        return Daemon(bus, fake=True, model="ok", mmproj="")

    def test_a_model_without_eyes(self):
        fd = memfd(png(1, 1))
        self.assertIn("no eyes", self.raises("NotSupported", self.client.ask_image_text, [fd], "look"))
        self.assertEqual(self.client.ask_image_text([], "echo words")[0], "words")
        os.close(fd)


class NoIngest(Case):
    @classmethod
    def make(cls, bus):
        return Daemon(bus, "--ingest=/nonexistent/vlmd-ingest", fake=True)

    def test_no_reader(self):
        fd = memfd(png(1, 1))
        self.assertIn("/nonexistent", self.raises("SourceUnavailable", self.client.ask_image_text, [fd], "look"))
        os.close(fd)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
