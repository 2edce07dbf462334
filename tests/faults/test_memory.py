#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""F55 for the whole daemon: the first, the second, ... allocation of a call fails. When they are the daemon's own, once
alone and once with all that follow, the caller is told, and the daemon lives, holds nothing of it, and does the same call
right after. When they are its libraries', too, the bus library may give up its connection; then the daemon ends in good
order, as it does when the bus goes away."""
import collections
import ctypes
import mmap
import os
import pathlib
import random
import sys
import time
import unittest

from faults import FAST, MMPROJ, SANITIZED, SEED, TEXT, real
from vlm import NAME, PATH, Bus, BusError, Client, Daemon, read_all, until

SHORT = 1.5  # seconds that a caller waits while allocations fail
SECONDS = float(os.environ.get("VLMD_SWEEP_SECONDS", "40"))  # of all tests together


class Control(ctypes.Structure):
    """As fail_alloc.c has it."""

    _fields_ = [("left", ctypes.c_longlong), ("lasting", ctypes.c_longlong), ("own", ctypes.c_longlong), ("n_failed", ctypes.c_longlong),
                ("n_calls", ctypes.c_longlong)]


class Memory:
    """The file through which a preloaded program is told which allocation fails."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder, "allocations")
        self.path.write_bytes(b"\0" * ctypes.sizeof(Control))
        with open(self.path, "r+b") as f:
            self.c = Control.from_buffer(mmap.mmap(f.fileno(), 0))
        self.c.left = -1
        self.env = {"LD_PRELOAD": os.environ["FAIL_ALLOC_LIBRARY"], "FAIL_ALLOC": str(self.path)}

    def fail(self, n, lasting, own):
        self.c.n_failed, self.c.lasting, self.c.own, self.c.left = 0, lasting, own, n

    def back(self):
        """How many failed."""
        self.c.left = -1
        return self.c.n_failed


class Impatient(Client):
    """It does not wait long for an answer that there was no memory for."""

    def call(self, *args, timeout=SHORT, **kw):
        return super().call(*args, timeout=timeout, **kw)


class Case(unittest.TestCase):
    def setUp(self):
        self.bus = Bus()
        self.addCleanup(self.bus.close)
        self.memory = Memory(self.bus.dir)

    def client(self):
        c = Client(self.bus)
        self.addCleanup(c.close)
        return c


class Calls(Case):
    def setUp(self):
        super().setUp()
        self.daemon = None
        self.start()

    def start(self):
        if self.daemon:
            self.daemon.close()
        self.daemon = real(self.bus, env=self.memory.env)
        self.addCleanup(self.daemon.close)
        self.c = self.client()
        self.stream = self.c.add("there", f"{FAST}&seconds=3")
        until("its end", lambda: self.c.state(self.stream)[0] == "ended")

    def alive(self, what):
        self.assertFalse(self.daemon.gone(), f"{what}: the daemon ended with {self.daemon.proc.poll()}:\n{self.daemon.logged()}")

    def attempt(self, call, n, lasting, own):
        """One call with a fault at n: → whether anything failed."""
        other = Impatient(self.bus)
        self.memory.fail(n, lasting, own)
        try:
            call(other)
        except (BusError, TimeoutError, AssertionError, OSError, ValueError) as e:
            self.told[type(e).__name__ if not isinstance(e, BusError) else e.name] += 1
        finally:
            failed = self.memory.back()
            other.close()
        return failed > 0

    def same_again(self, what, call, undo):
        try:
            undo()
            self.assertEqual(self.c.get(PATH, "Manager", "State"), "ready", what)
            call(self.c)
            undo()
        except (TimeoutError, BusError, OSError) as e:
            self.alive(what)
            raise AssertionError(f"{what}: {e!r}\n{self.daemon.logged()[-2000:]}") from e

    def n_calls(self, call, undo, own):
        self.memory.c.own, self.memory.c.n_calls = own, 0
        call(self.c)
        undo()
        return self.memory.c.n_calls

    def sweep(self, name, call, seconds, undo=lambda: None):
        self.told = collections.Counter()
        call(self.c)
        undo()
        until("calm", lambda: not self.daemon.children())
        before = self.daemon.fds(), self.daemon.threads()
        end, n, n_own = time.monotonic() + seconds, 0, self.n_calls(call, undo, 1)
        while n < 2 * n_own + 20 and time.monotonic() < end:
            some = False
            for lasting in 0, 1:
                some |= self.attempt(call, n, lasting, 1)
                self.same_again(f"{name}, own allocation {n}{' and after' * lasting}", call, undo)
            n += 1
            if not some:
                break
        print(f"{name}: {n} of its own {n_own} allocations failed; callers heard {dict(self.told)}")
        self.assertEqual(set(self.told), {"NoMemory"} if n_own else set())
        until(f"{name}: {before} descriptors and threads again; now {self.daemon.fds(), self.daemon.threads()}",
              lambda: (self.daemon.fds(), self.daemon.threads()) <= before, timeout=10)
        self.libraries(name, call, seconds, undo)

    def libraries(self, name, call, seconds, undo):
        """Any allocation, at random: it lives, or it ends with 0 because its bus went."""
        r, n_ended, n_half, n_tried, end = random.Random(SEED), 0, 0, 0, time.monotonic() + seconds
        n_all = self.n_calls(call, undo, 0)
        while time.monotonic() < end:
            n = r.randrange(n_all)
            n_tried += self.attempt(call, n, r.random() < 0.2, 0)
            try:
                self.c.get(PATH, "Manager", "State")
            except (BusError, TimeoutError, OSError):
                self.assertEqual(self.daemon.proc.wait(10), 0, f"{name}, allocation {n}: {self.daemon.logged()[-2000:]}")
                n_ended += 1
                self.start()
                continue
            try:
                self.same_again(f"{name}, allocation {n} of all", call, undo)
            except AssertionError as e:
                # libsystemd 252 keeps half of a table of methods that it had no memory for, and then refuses the whole.
                if "File exists" not in str(e):
                    raise
                n_half += 1
                self.start()
        print(f"{name}: {n_tried} of {n_all} allocations, libraries' included, failed; the connection was given up {n_ended} "
              f"times, an object half added {n_half} times")

    def remove_new(self):
        for path, interfaces in self.c.objects().items():
            if NAME + ".Stream" in interfaces and path != self.stream:
                self.c.remove(path)
        until("no child", lambda: not self.daemon.children())
        until("no question", lambda: self.c.get(PATH, "Manager", "QueueDepth") == 0)

    def test_F55_add_a_stream(self):
        self.sweep("AddStream", lambda c: c.add("new", FAST, Realtime=("b", True)), SECONDS * .15, self.remove_new)

    def test_F55_ask(self):
        def call(c):
            _, pipe = c.ask(self.stream, "What is there?", MaxTokens=("u", 4), Format=("s", "jsonl"))
            read_all(pipe, timeout=SHORT)
        self.sweep("Ask", call, SECONDS * .1, self.remove_new)

    def test_F55_ask_text(self):
        self.sweep("AskText", lambda c: c.ask_text(self.stream, "What is there?", timeout=SHORT, MaxTokens=("u", 4)),
                   SECONDS * .05, self.remove_new)

    def test_F55_captions(self):
        self.sweep("Open", lambda c: read_all(c.open_captions(self.stream, "jsonl"), timeout=SHORT), SECONDS * .05)

    def test_F55_look(self):
        def call(c):
            c.objects()
            c.get_all(PATH, "Manager")
            c.get_all(self.stream, "Stream")
        self.sweep("GetManagedObjects and GetAll", call, SECONDS * .05)

    def test_F55_configure(self):
        self.sweep("Configure", lambda c: c.call(self.stream, NAME + ".Stream", "Configure", "a{sv}",
                                                 {"WindowUSec": ("t", 4000000), "Reducer": ("s", "uniform")}), SECONDS * .05)


class Start(Case):
    def test_F55_start(self):
        """It ends with a code of its own, or it lives and says what it lacks; it is never killed by a signal."""
        kinds, end, n = {}, time.monotonic() + SECONDS * .3, SEED % 7
        while time.monotonic() < end:
            for lasting in 0, 1:
                self.memory.fail(n, lasting, 0)
                d = Daemon(self.bus, model=str(TEXT), mmproj=str(MMPROJ), env=self.memory.env, wait=False)
                self.addCleanup(d.close)
                d.log.truncate(0)
                t1 = time.monotonic() + 1.0
                while not d.gone() and self.memory.c.left >= 0 and not self.memory.c.n_failed and time.monotonic() < t1:
                    time.sleep(0.005)
                time.sleep(0.05)
                failed = self.memory.back()
                rc = d.proc.poll() if d.gone() else d.stop()[0]
                self.assertGreaterEqual(rc, 0, f"allocation {n}{' and after' * lasting}: signal {-rc}\n{d.logged()[-2000:]}")
                self.assertIn(rc, (0, 1), f"allocation {n}{' and after' * lasting}: {d.logged()[-2000:]}")
                kinds[rc] = kinds.get(rc, 0) + 1
                d.close()
            if not failed:
                break
            n += 7
        print(f"start: every 7. allocation up to {n}; exit codes {kinds}")
        d = real(self.bus, env=self.memory.env)
        self.assertEqual(d.stop()[0], 0)


if __name__ == "__main__":
    if SANITIZED or "FAIL_ALLOC_LIBRARY" not in os.environ:
        print("a sanitizer has an allocator of its own: skipped; the release build runs this")
        sys.exit(77)
    unittest.main()
