#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Faults of clients and of the bus; README.md has the list. The engine of fake_engine.c where the model does not matter."""
import os
import random
import resource
import signal
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree as ET

import faults
from faults import FAST, SANITIZED, SLACK, Real, Survives
import vlm
from vlm import NAME, PATH, Bus, BusError, Client, Daemon, read_all, records, until
from jeepney import MessageType
from jeepney.wrappers import DBusErrorResponse

ASK = PATH, NAME + ".Manager", "Ask", "aosa{sv}"


class Values:
    """Random values for D-Bus signatures, from a seed that is told."""

    WORDS = ["", "a", "front-door", "test:", FAST, "test:?fault=hang@1", "file:///etc/shadow", "../../etc/passwd", "x" * 70,
             "none", "jsonl", "debug", "daemon", "\x1b[2J", "ä\u202e", "test:! fakesink", NAME + ".Manager", "State", "y" * 20000]
    KEYS = ["Name", "Uri", "SampleIntervalUSec", "WindowUSec", "TokensPerFrame", "Instruction", "Reducer", "Policy", "Gate",
            "Captions", "Loop", "Realtime", "Lifetime", "MaxTokens", "DeadlineUSec", "Format", "Token", "Since", "Until",
            "Follow", "Temperature", "nope", ""]
    INTS = {"y": 8, "n": 15, "q": 16, "i": 31, "u": 32, "x": 63, "t": 64}

    def __init__(self, seed, paths):
        self.r, self.paths = random.Random(seed), paths
        print(f"VLMD_TEST_SEED={seed}")

    def of(self, kind):
        r = self.r
        if kind in self.INTS:
            top = (1 << self.INTS[kind]) - 1
            return r.choice([0, 1, top, top // 2, min(1000000, top), r.randint(0, top)])
        if kind == "b":
            return r.random() < 0.5
        if kind == "d":
            return r.choice([0.0, -1.0, 1e308, float("nan"), float("inf"), r.random()])
        if kind == "s":
            return r.choice(self.WORDS)
        if kind == "o":
            return r.choice(self.paths + ["/", "/a", PATH + "/stream/nobody"])
        if kind == "g":
            return r.choice(["", "s", "a{sv}", "(ii)"])
        if kind == "v":
            t = r.choice(["s", "u", "t", "b", "d", "as", "a{sv}", "o", "i", "v"] if r.random() < 0.9 else ["(su)"])
            return (t, self.of(t))
        if kind == "h":
            return open(os.devnull, "rb")
        if kind == "a{sv}":
            return {r.choice(self.KEYS): self.of("v") for _ in range(r.randint(0, 4))}
        if kind == "(su)":
            return (self.of("s"), self.of("u"))
        if kind[0] == "a":
            return [self.of(kind[1:]) for _ in range(r.choice([0, 1, 1, 2, 5]))]
        raise AssertionError(f"the interface has a type this test does not know: {kind}")


def split(signature):
    """Single complete types."""
    out, depth, start = [], 0, 0
    for i, c in enumerate(signature):
        depth += (c in "({") - (c in ")}")
        if depth == 0 and c != "a":
            out.append(signature[start:i + 1])
            start = i + 1
    return out


class Arguments(Survives):
    def methods(self, paths):
        """(path, interface, member, signature) of all that each object says it has."""
        out = []
        for path in paths:
            text = self.client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
            for i in ET.fromstring(text).iter("interface"):
                for m in i.iter("method"):
                    args = "".join(a.get("type") for a in m.iter("arg") if a.get("direction", "in") == "in")
                    out.append((path, i.get("name"), m.get("name"), args))
        return out

    def receive(self, client, serials):
        """Until each of the calls has its one reply; how many were errors."""
        left, n_errors, end = set(serials), 0, time.monotonic() + vlm.TIMEOUT * SLACK
        while left:
            msg = client.conn.receive(timeout=max(0.0, end - time.monotonic()))
            serial = msg.header.fields.get(vlm.HeaderFields.reply_serial)
            for part in msg.body or ():
                if hasattr(part, "close"):
                    part.close()  # a pipe that nobody will read
            if serial in left:
                left.remove(serial)
                n_errors += msg.header.message_type == MessageType.error
        return n_errors

    def test_F46_arguments(self):
        values = Values(faults.SEED, [])
        n, n_sent, n_errors, seen = 100000 if faults.NIGHTLY else 10000, 0, 0, set()
        while n_sent < n:
            client = Client(self.bus)  # what it holds goes with it
            stream = self.client.add(f"s{n_sent}", "test:?seconds=1")
            query, pipe = client.ask(stream, "hang")
            values.paths = [PATH, stream, query]
            methods = self.methods([PATH, stream]) + [
                m for m in self.methods_of(client, query) if m[1].startswith(NAME)]
            methods += [("/org/freedesktop/LogControl1", "org.freedesktop.DBus.Properties", "Set", "ssv")]
            for _ in range(20):
                serials = []
                for _ in range(50):
                    path, interface, member, signature = values.r.choice(methods)
                    if values.r.random() < 0.2:
                        signature = values.r.choice(["", "s", "a{sv}", "aos", "t", "aosa{sv}", "v", "h"])
                    args = [values.of(t) for t in split(signature)]
                    if member.startswith("Ask") and args and isinstance(args[-1], dict):
                        args[-1]["DeadlineUSec"] = ("t", 50000)  # a good question waits for an engine that hangs
                    serials.append(client.send(path, interface, member, signature or None, *args))
                    seen.add((interface, member))
                    for a in args:
                        if hasattr(a, "close"):
                            a.close()
                n_errors += self.receive(client, serials)
                n_sent += len(serials)
            client.close()
            pipe.close()
            for path in [p for p, i in self.client.objects().items() if NAME + ".Stream" in i]:
                self.client.remove(path)
        self.assertGreater(n_errors, n // 2)
        self.assertIn((NAME + ".Stream", "Configure"), seen)
        self.client.call("/org/freedesktop/LogControl1", vlm.PROPS, "Set", "ssv", "org.freedesktop.LogControl1",
                         "LogLevel", ("s", "info"))
        until("no question", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)

    def methods_of(self, client, path):
        mine, self.client = self.client, client
        try:
            return self.methods([path])
        finally:
            self.client = mine


class Strings(Survives):
    def refused(self, names, call, *args, **kw):
        for _ in range(3):  # a refusal can be had again, and others use this machine, too
            t0 = time.monotonic()
            with self.assertRaises(BusError) as c:
                call(*args, **kw)
            if time.monotonic() - t0 < 0.1 * SLACK:
                break
        else:
            self.fail(f"it was refused three times, and slowly: {c.exception}")
        self.assertIn(c.exception.name, names, c.exception.text)
        self.assertTrue(c.exception.text)
        for byte in c.exception.text:
            self.assertGreaterEqual(byte, " ", "a control byte came back")

    def test_F49_hostile_strings(self):
        bad = "InvalidOption", "SourceUnsupported", "org.freedesktop.DBus.Error.InvalidArgs", "TooLarge"
        for uri in ("", "test:" + "x" * 70000, "file:///etc/shadow", "/etc/shadow", "../../etc/shadow", "http://127.0.0.1/",
                    "filesrc location=/etc/shadow ! fakesink", "fd://0", "TEST:", " test:", "rtsp:test:"):
            self.refused(bad, self.client.add, "x", uri)
        for name in ("", "a b", "../a", "a/b", "x" * 65, "a\nb", "ä", "a\x1b[2J", "%s%n", "a;reboot"):
            self.refused(bad, self.client.add, name, FAST)
        for key in ("Instruction", "Reducer", "Policy", "Gate", "Lifetime"):
            self.refused(bad, self.client.add, "x", FAST, **{key: ("s", "z" * 5000)})
        for key in ("\x1b[31mName", "N" * 5000, "Näme", "Name\n", "%n%n"):
            self.refused(bad, self.client.add, "x", FAST, **{key: ("s", "z")})
        s = self.client.add("s", FAST)
        for question in "x" * 16385, "x" * (1 << 20):
            self.refused(bad, self.client.ask, s, question)
        for fmt in "", "ass", "text\n", "j" * 5000, "../vtt":
            self.refused(bad, self.client.open_captions, s, fmt)
        for token in "", "a/b", "..", "x" * 5000, "ä", "a b":
            self.refused(bad, self.client.ask, s, "echo x", Token=("s", token))

    def test_F49_names_that_are_cut_inside_a_character(self):
        """An error text that is no UTF-8 cannot be sent; its caller waited for ever."""
        odd = "N" * 63 + "ää"
        for call in (lambda: self.client.manager("GetStream", "s", odd), lambda: self.client.manager("GetQuery", "s", odd),
                     lambda: self.client.add("x", FAST, **{odd: ("s", "z")}), lambda: self.client.add("x", FAST, Gate=("s", odd)),
                     lambda: self.client.add("x", FAST, Policy=("s", "p\u202e\n" + odd[10:]))):
            self.refused(("NoSuchStream", "InvalidOption", "org.freedesktop.DBus.Error.UnknownObject"), call)

    def test_F49_a_source_that_tries_to_be_two(self):
        """What looks like a launch line is one option of the drawn source, and unknown to it."""
        s = self.client.add("x", "test:! fakesink")
        until("its end", lambda: self.client.state(s)[0] == "failed")

    def test_F49_a_question_of_many_megabytes(self):
        s = self.client.add("s", "test:?seconds=1")
        for _ in range(2):
            with self.assertRaises(BusError) as c:
                self.client.ask(s, "x" * (16 << 20))
            self.assertEqual(c.exception.name, "TooLarge")
        other = Client(self.bus)  # more than the bus takes: it is sent away, and we hear nothing of it
        with self.assertRaises((OSError, BusError)):
            other.ask(s, "x" * (130 << 20))
        other.close()


class Many(Real):
    def test_F50_a_thousand_questions_at_once(self):
        s = self.watched("many", 3)
        clients = [Client(self.bus) for _ in range(10)]
        options = {"MaxTokens": ("u", 16), "Format": ("s", "jsonl")}
        serials = [(c, [c.send(*ASK, [s], f"Question {i}?", options) for i in range(100)]) for c in clients]
        slowest = self.answers()
        accepted, busy = [], 0
        for c, sent in serials:
            for n in sent:
                try:
                    accepted.append(c.reply_to(n, timeout=vlm.TIMEOUT * SLACK)[1])
                except BusError as e:
                    self.assertEqual(e.name, "Busy", e.text)
                    busy += 1
        self.assertEqual(len(accepted) + busy, 1000)
        self.assertGreaterEqual(len(accepted), 32)
        for fd in accepted:
            got = records(read_all(os.fdopen(fd.to_raw_fd(), "rb", buffering=0), timeout=vlm.TIMEOUT * SLACK))
            self.assertEqual([("status" in r) for r in got], [False] * (len(got) - 1) + [True])
            self.assertEqual(got[-1]["status"], "ok")
            slowest = max(slowest, self.answers())
        self.assertLess(slowest, 0.1 * SLACK)
        for c in clients:
            c.close()
        print(f"{len(accepted)} were accepted, {busy} were told Busy; the slowest State took {slowest * 1e3:.1f} ms")


LEAVER = """
import sys, types, time
sys.path.insert(0, sys.argv[1])
import vlm
c = vlm.Client(types.SimpleNamespace(address=sys.argv[2]))
opts = {"MaxTokens": ("u", 4096), "Temperature": ("d", 8.0)}
pipes = [c.ask(sys.argv[3], sys.argv[4], **opts)[1] for _ in range(int(sys.argv[5]))]
if sys.argv[6] == "first":
    pipes[0].read(1)
print("there", flush=True)
time.sleep(60)
"""


class Leaving(Real):
    """F51: whoever leaves, and however, the answer that somebody else reads is the same, bit for bit."""

    QUESTION = "Tell me all."

    def setUp(self):
        super().setUp()
        self.stream = self.watched("leave")
        self.alone, _ = self.client.ask_text(self.stream, self.QUESTION, MaxTokens=("u", 1000))

    def leaves(self, sig, question="Tell me more.", n=1, until_first=True):
        other = subprocess.Popen([sys.executable, "-c", LEAVER, os.path.dirname(vlm.__file__), self.bus.address, self.stream,
                                  question, str(n), "first" if until_first else "at once"],
                                 stdout=subprocess.PIPE, preexec_fn=vlm.dies_with_us)
        self.assertEqual(other.stdout.readline(), b"there\n")
        serial = self.client.send(PATH, NAME + ".Manager", "AskText", "aosa{sv}", [self.stream], self.QUESTION,
                                  {"MaxTokens": ("u", 1000)})
        other.send_signal(sig)
        self.assertEqual(self.client.reply_to(serial, timeout=vlm.TIMEOUT * SLACK)[0], self.alone)
        if sig == signal.SIGSTOP:  # still there: its turn goes on into its pipe, and ends
            other.kill()
        other.wait()
        other.stdout.close()
        t0 = time.monotonic()
        until("its questions' end", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)
        self.assertLess(time.monotonic() - t0, 0.5 * SLACK)

    def test_F51_mid_answer(self):
        self.leaves(signal.SIGTERM)

    def test_F51_while_queued(self):
        self.leaves(signal.SIGTERM, n=8)

    def test_F51_while_it_is_read(self):
        self.leaves(signal.SIGTERM, question="word " * 300, until_first=False)

    def test_F51_killed(self):
        self.leaves(signal.SIGKILL, n=3)

    def test_F51_stopped(self):
        self.leaves(signal.SIGSTOP, n=3)


class Readers(Survives):
    def echoes(self, stream, n=40):
        t0 = time.monotonic()
        for _ in range(n):
            self.assertEqual(self.client.ask_text(stream, "echo x")[0], "x")
        return time.monotonic() - t0

    def test_F52_slow_readers(self):
        s = self.client.add("slow", "test:?seconds=1")
        until("its end", lambda: self.client.state(s)[0] == "ended")
        before = min(self.echoes(s) for _ in range(2))
        query, pipe = self.client.ask(s, "flood")
        hung, trickle = self.client.ask(s, "hang")
        self.assertEqual(len(pipe.read(1)), 1)
        during = min(self.echoes(s) for _ in range(2))
        self.assertLess(during, 3 * before + 0.1, "somebody who reads slowly holds up the others")
        until("SlowReader", lambda: self.client.get(query, "Query", "State") == "finished")
        self.assertLess(len(read_all(pipe)), 400 << 10)
        trickle.close()  # EPIPE is a cancel, not a signal
        until("the end", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)
        self.assertEqual(self.client.get(hung, "Query", "State"), "finished")

    def test_F52_a_pipe_closed_under_a_flood(self):
        s = self.client.add("closed", "test:?seconds=1")
        for _ in range(2):
            self.rss = self.daemon.rss_kib()  # what the allocator keeps of such a flood it keeps once
            for _ in range(20):
                _, pipe = self.client.ask(s, "flood")
                pipe.read(1)
                pipe.close()
            until("the end", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)

    def test_F53_a_watcher_who_stops_reading(self):
        self.watch_twice("first")
        self.client.remove(self.client.manager("GetStream", "s", "first"))
        self.rss = self.daemon.rss_kib()  # what the allocator keeps of such a stream it keeps once
        self.watch_twice("second")

    def watch_twice(self, name):
        s = self.client.add(name, "test:?size=64x64&seconds=60", SampleIntervalUSec=("t", 100000), Instruction=("s", "long"))
        slow = self.client.open_captions(s, "jsonl")
        good = self.client.open_captions(s, "jsonl")
        data, end = b"", time.monotonic() + 60
        while time.monotonic() < end:
            piece = good.read(65536)
            if not piece:
                break
            data += piece
        good.close()
        got, lost = records(data), records(read_all(slow))
        self.assertEqual([r["id"] for r in got[:-1]], list(range(1, 601)))
        gaps = [r["gap"] for r in lost if "gap" in r]
        self.assertTrue(gaps)
        self.assertEqual(sum(gaps) + sum("id" in r for r in lost), 600)


class BusGone(unittest.TestCase):
    def test_F54_the_bus_goes_away(self):
        """All that was started ends, with 0, for whoever starts us to start us again."""
        bus = Bus()
        self.addCleanup(bus.close)
        d = Daemon(bus, fake=True)
        self.addCleanup(d.close)
        c = Client(bus)
        self.addCleanup(c.close)
        s = c.add("orphan", FAST, Realtime=("b", True))
        _, pipe = c.ask(s, "hang", Format=("s", "jsonl"))
        children = until("a child", d.children)
        bus.proc.kill()
        self.assertEqual(d.proc.wait(10 * SLACK), 0)
        for child in children:
            until("the child's end", lambda: not os.path.exists(f"/proc/{child}"), timeout=5)
        end = records(read_all(pipe))
        self.assertTrue(not end or end[-1]["status"] != "ok", end)


class Descriptors(Survives):
    def test_F57_none_left(self):
        s = self.client.add("few", "test:?seconds=1")
        until("its end", lambda: self.client.state(s)[0] == "ended")
        limit = resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE)
        room = self.daemon.fds() + 5
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, (room, limit[1]))
        held, names = [], set()
        for _ in range(12):
            try:
                held.append(self.client.open_captions(s, "jsonl", Follow=("b", True)) if len(held) % 2 else
                            self.client.ask(s, "hang")[1])
            except BusError as e:
                names.add(e.name)
                self.assertEqual(self.client.get(PATH, "Manager", "State"), "ready")
        try:
            self.client.add("another", FAST)
        except BusError as e:
            names.add(e.name)
        self.assertEqual(names, {"NoResources"})
        for f in held:
            f.close()
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, limit)
        until("room again", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)
        self.assertEqual(self.client.ask_text(s, "echo x")[0], "x")


if __name__ == "__main__":
    unittest.main()
