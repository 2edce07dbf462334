#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The interface itself, with an engine that does as it is told: XML, options, names, errors, limits, ends."""
import os
import time
import unittest
import xml.etree.ElementTree as ET

import vlm
from vlm import NAME, PATH, BusError, Case, Client, Daemon, read_all, records, until

EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"


def described(node):
    """An introspection node's interfaces of ours, as plain data."""
    out = {}
    for i in node.iter("interface"):
        if not i.get("name").startswith(NAME + "."):
            continue
        members = {}
        for m in i:
            if m.tag == "property":
                emits = {a.get("value") for a in m.findall("annotation") if a.get("name") == EMITS} or {"true"}
                members[m.get("name")] = ("property", m.get("type"), m.get("access"), *emits)
            else:
                args = [(a.get("name"), a.get("type"), a.get("direction", "out" if m.tag == "signal" else "in"))
                        for a in m.findall("arg")]
                members[m.get("name")] = (m.tag, args)
        out[i.get("name")] = members
    return out


class Interface(Case):
    def test_xml_equals_the_live_objects(self):
        stream = self.client.add("xml", "test:")
        query, pipe = self.client.ask(stream, "hang")
        live = {}
        for path in PATH, stream, query, PATH + "/model/default":
            text = self.client.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
            live.update(described(ET.fromstring(text)))
        pipe.close()
        published = described(ET.parse(vlm.ROOT / "daemon/org.vlmd.Vision1.xml"))
        self.assertEqual(live, published)

    def test_streams_come_and_go(self):
        paths = [self.client.add(n, "test:") for n in ("front-door", "a", "Z_9")]
        self.assertEqual(len(set(paths)), 3)
        self.assertEqual(self.client.manager("GetStream", "s", "front-door"), paths[0])
        listed = self.client.objects()
        for p in paths:
            self.assertIn(NAME + ".Captions", listed[p])
        self.assertEqual(self.client.get(paths[0], "Stream", "Name"), "front-door")
        self.raises("StreamExists", self.client.add, "a", "test:")
        self.client.remove(paths[1])
        self.raises("NoSuchStream", self.client.manager, "GetStream", "s", "a")
        self.assertNotIn(paths[1], self.client.objects())

    def test_properties(self):
        got = self.client.get_all(PATH, "Manager")
        self.assertEqual(got["State"], "ready")
        self.assertIn("fake", got["StatusText"])
        self.assertEqual(got["QueueDepth"], 0)

    def test_options_are_strict(self):
        text = self.raises("InvalidOption", self.client.add, "x", "test:", Instruktion=("s", "say"))
        self.assertIn("Instruction", text)
        self.raises("InvalidOption", self.client.add, "x", "test:", WindowUSec=("u", 5))
        self.raises("InvalidOption", self.client.add, "x", "test:", SampleIntervalUSec=("t", 1))
        self.raises("InvalidOption", self.client.add, "x", "test:", Gate=("s", "maybe"))
        self.raises("InvalidOption", self.client.add, "x", "test:", Lifetime=("s", "saved"))
        self.assertIn("sink_window", self.raises("InvalidOption", self.client.add, "x", "test:", Policy=("s", "sink")))
        self.raises("InvalidOption", self.client.manager, "AddStream", "a{sv}", {"Name": ("s", "x")})
        for name in "", "a/b", "../x", "x" * 65, "ü":
            self.raises("InvalidOption", self.client.add, name, "test:")
        for uri in "file:///etc/shadow", "rtsp://cam/", "test", "http://x/ ! fakesink":
            self.raises("SourceUnsupported", self.client.add, "x", uri)
        self.assertEqual([p for p in self.client.objects() if "/stream/" in p], [])

    def test_descriptors_are_checked(self):
        r, w = os.pipe()
        with os.fdopen(r, "rb") as pr, os.fdopen(w, "wb"):
            self.raises("SourceUnsupported", self.client.add, "x", fd=pr)
        with open("/dev/null", "rb") as f:
            self.raises("SourceUnsupported", self.client.add, "x", fd=f)
        empty = os.path.join(self.bus.dir, "empty.mp4")
        with open(empty, "wb"):
            pass
        self.assertIn("empty", self.raises("SourceUnsupported", self.client.add_file, "x", empty))
        with open(empty, "ab") as f:
            self.raises("SourceUnsupported", self.client.add, "x", fd=f)
        with open(empty, "rb") as f:
            self.raises("InvalidOption", self.client.add, "x", "test:", fd=f)

    def test_configure(self):
        s = self.client.add("c", "test:", Instruction=("s", "Say it."))
        changed = self.client.signals(s, vlm.PROPS, "PropertiesChanged")
        self.client.call("/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", f"type='signal',path='{s}'",
                         dest="org.freedesktop.DBus")
        with changed as queue:
            self.client.call(s, NAME + ".Stream", "Configure", "a{sv}",
                             {"SampleIntervalUSec": ("t", 500000), "WindowUSec": ("t", 4000000)})
            until("SampleIntervalUSec", lambda: self.client.next_signal(queue)[1].get("SampleIntervalUSec") == ("t", 500000))
        self.client.call(s, NAME + ".Captions", "Configure", "a{sv}", {"Enabled": ("b", False), "Instruction": ("s", "Less.")})
        self.assertFalse(self.client.get(s, "Captions", "Enabled"))
        got = self.client.call(s, NAME + ".Stream", "GetConfiguration")
        self.assertEqual(got["Instruction"], ("s", "Less."))
        self.assertEqual(got["WindowUSec"], ("t", 4000000))
        self.raises("InvalidOption", self.client.call, s, NAME + ".Stream", "Configure", "a{sv}", {"Uri": ("s", "test:")})
        self.raises("InvalidOption", self.client.call, s, NAME + ".Stream", "Configure", "a{sv}",
                    {"SampleIntervalUSec": ("t", 0)})

    def test_log_control(self):
        path, i = "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1"
        self.client.call(path, vlm.PROPS, "Set", "ssv", i, "LogLevel", ("s", "debug"))
        self.assertEqual(self.client.call(path, vlm.PROPS, "Get", "ss", i, "LogLevel")[1], "debug")
        self.client.call(path, vlm.PROPS, "Set", "ssv", i, "LogLevel", ("s", "info"))
        self.assertEqual(self.client.call(path, vlm.PROPS, "Get", "ss", i, "SyslogIdentifier")[1], "vlmd")
        with self.assertRaises(BusError):
            self.client.call(path, vlm.PROPS, "Set", "ssv", i, "LogLevel", ("s", "loud"))

    def test_stream_of_a_client_goes_with_it(self):
        other = Client(self.bus)
        s = other.add("mine", "test:", Lifetime=("s", "client"))
        self.assertIn(s, self.client.objects())
        other.close()
        until("its removal", lambda: s not in self.client.objects())


class Questions(Case):
    def setUp(self):
        self.stream = self.client.add("q", "test:")

    def test_text_and_jsonl(self):
        _, pipe = self.client.ask(self.stream, "echo häuser & \"Türen\"")
        self.assertEqual(read_all(pipe).decode(), "häuser & \"Türen\"")
        _, pipe = self.client.ask(self.stream, "echo a \"b\"", Format=("s", "jsonl"))
        got = records(read_all(pipe))
        self.assertEqual("".join(r.get("text", "") for r in got), "a \"b\"")
        self.assertEqual(got[-1]["status"], "ok")
        self.assertEqual(got[-1]["output_tokens"], 3)

    def test_ask_text(self):
        answer, details = self.client.ask_text(self.stream, "echo yes")
        self.assertEqual(answer, "yes")
        self.assertTrue(details["Untrusted"])
        self.assertEqual(details["PromptTokens"], 5)
        self.raises("DeadlineExceeded", self.client.ask_text, self.stream, "hang", DeadlineUSec=("t", 200000))
        self.raises("org.freedesktop.DBus.Error.Failed", self.client.ask_text, self.stream, "fail")

    def test_finished_comes_to_its_caller_alone(self):
        other = Client(self.bus)
        other.call("/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", "type='signal'",
                   dest="org.freedesktop.DBus")
        path = f"{PATH}/query/{self.client.name[1:].replace('.', '_')}/mytoken"
        with self.client.signals(path, NAME + ".Query", "Finished") as mine, \
                other.signals(path, NAME + ".Query", "Finished") as theirs:
            query, pipe = self.client.ask(self.stream, "echo x", Token=("s", "mytoken"))
            self.assertEqual(query, path)
            status, stats = self.client.next_signal(mine)
            self.assertEqual(status, "ok")
            self.assertEqual(stats["OutputTokens"], ("u", 3))
            with self.assertRaises(TimeoutError):
                other.next_signal(theirs, timeout=0.3)
        pipe.close()
        self.assertNotIn("/query/", str(self.client.objects()))
        self.assertEqual(self.client.manager("GetQuery", "s", "mytoken"), path)
        self.assertEqual(self.client.get(path, "Query", "State"), "finished")
        with self.assertRaises(BusError) as c:
            other.get(path, "Query", "State")
        self.assertIn("UnknownObject", c.exception.name)
        self.raises("org.freedesktop.DBus.Error.UnknownObject", other.manager, "GetQuery", "s", "mytoken")
        self.raises("InvalidOption", self.client.ask, self.stream, "echo x", Token=("s", "mytoken"))
        other.close()

    def test_cancel(self):
        query, pipe = self.client.ask(self.stream, "hang", Format=("s", "jsonl"))
        self.assertEqual(self.client.get(query, "Query", "State"), "queued")
        self.client.call(query, NAME + ".Query", "Cancel")
        got = records(read_all(pipe))
        self.assertEqual(got[-1]["status"], "cancelled")
        self.assertEqual(got[-1]["error"], vlm.ERROR + "Cancelled")

    def test_closed_pipe_and_lost_client_cancel(self):
        _, pipe = self.client.ask(self.stream, "hang")
        self.assertEqual(self.client.get(PATH, "Manager", "QueueDepth"), 1)
        pipe.close()
        until("the end", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)
        other = Client(self.bus)
        _, pipe = other.ask(self.stream, "hang")
        other.send(PATH, NAME + ".Manager", "AskText", "aosa{sv}", [self.stream], "hang", {})
        until("both", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 2)
        other.close()
        until("the end", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)
        self.assertEqual(read_all(pipe), b"")

    def test_slow_reader(self):
        query, pipe = self.client.ask(self.stream, "flood", Format=("s", "jsonl"))
        until("SlowReader", lambda: self.client.get(query, "Query", "State") == "finished")
        got = records(read_all(pipe))
        self.assertEqual(got[-1]["error"], vlm.ERROR + "SlowReader")
        n = sum(len(r.get("text", "")) for r in got)
        self.assertGreaterEqual(n, 256 << 10)
        self.assertLess(n, 400 << 10)
        self.raises("NoMemory", self.client.ask_text, self.stream, "flood")
        self.assertLess(vlm.quickest(lambda: self.client.get(PATH, "Manager", "State")), 0.5)

    def test_nothing_seen(self):
        until("a frame", lambda: self.client.get(self.stream, "Stream", "Frames")["seen"] > 0)
        since = self.client.get(self.stream, "Stream", "RemembersSinceUSec")
        text = self.raises("NothingSeen", self.client.ask_text, self.stream, "nothing")
        self.assertIn(time.strftime("since %Y-%m-%dT%H:%M:%SZ", time.gmtime(since / 1e6)), text)
        _, pipe = self.client.ask(self.stream, "nothing", Format=("s", "jsonl"))
        self.assertEqual(records(read_all(pipe))[-1]["remembers_since"], since)

    def test_bad_questions(self):
        self.raises("TooLarge", self.client.ask, self.stream, "x" * 16385)
        self.raises("org.freedesktop.DBus.Error.InvalidArgs", self.client.ask, self.stream, "")
        self.raises("NoSuchStream", self.client.ask, PATH + "/stream/nobody", "echo x")
        self.raises("NotSupported", self.client.manager, "Ask", "aosa{sv}", [self.stream] * 2, "echo x", {})
        self.raises("org.freedesktop.DBus.Error.InvalidArgs", self.client.manager, "Ask", "aosa{sv}", [], "echo x", {})
        for options in {"MaxTokens": ("u", 0)}, {"MaxTokens": ("u", 5000)}, {"Format": ("s", "xml")}, \
                {"DeadlineUSec": ("t", 0)}, {"Token": ("s", "a/b")}, {"Priority": ("s", "urgent")}, \
                {"Temperature": ("d", float("nan"))}, {"Since": ("t", 2), "Until": ("t", 1)}, {"Max": ("u", 1)}:
            self.raises("InvalidOption", self.client.ask, self.stream, "echo x", **options)
        self.assertEqual(self.client.get(PATH, "Manager", "QueueDepth"), 0)

    def test_reduced_questions(self):
        for options, seen in ({"Reducer": ("s", "feather:share=0.5"), "TokensPerFrame": ("u", 9)}, "feather share 0.5 budget 9 "), \
                ({"TokensPerFrame": ("u", 3)}, "no reducer share 0 budget 3 "), ({"Reducer": ("s", "none")}, ""):
            self.assertEqual(self.client.ask_text(self.stream, "look", **options)[0], seen)
        for reducer, words in ("fether", "did you mean 'feather'"), ("feather:shape=1", "did you mean 'share'"), \
                ("feather:share=7", "share"), ("uniform", "such as 'feather'"):
            self.assertIn(words, self.raises("InvalidOption", self.client.ask, self.stream, "look", Reducer=("s", reducer)))

    def test_busy(self):
        clients = [Client(self.bus) for _ in range(5)]
        pipes = []
        for c in clients[:4]:
            pipes += [c.ask(self.stream, "hang")[1] for _ in range(8)]
            self.raises("Busy", c.ask, self.stream, "hang")
        self.assertEqual(self.client.get(PATH, "Manager", "QueueDepth"), 32)
        self.assertLess(vlm.quickest(lambda: self.raises("Busy", clients[4].ask, self.stream, "hang")), 0.1 * 5)
        for c in clients:
            c.close()
        until("all cancelled", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)
        for p in pipes:
            p.close()

    def test_many_questions_leave_nothing(self):
        for _ in range(20):
            self.client.ask_text(self.stream, "echo x")
        before = self.daemon.fds()
        for _ in range(400):
            _, pipe = self.client.ask(self.stream, "echo x")
            read_all(pipe)
            pipe.close()
        self.assertLessEqual(self.daemon.fds(), before + 3)
        self.assertEqual(self.client.get(PATH, "Manager", "QueueDepth"), 0)


class Captions(Case):
    def setUp(self):
        self.stream = self.client.add("c", "test:?seconds=4")
        until("its end", lambda: self.client.state(self.stream) == ("ended", "end-of-file"))

    def test_recent_and_formats(self):
        rows = self.client.recent(self.stream)
        self.assertEqual([r[0] for r in rows], list(range(1, len(rows) + 1)))
        self.assertEqual(rows[0][3], "frame 1")
        self.assertEqual(self.client.recent(self.stream, rows[-1][1] + 1), [])
        self.assertEqual(read_all(self.client.open_captions(self.stream, "text")).decode(),
                         "".join(r[3] + "\n" for r in rows))
        got = records(read_all(self.client.open_captions(self.stream, "jsonl")))
        self.assertEqual([r["text"] for r in got[:-1]], [r[3] for r in rows])
        self.assertIn("status", got[-1])
        vtt = read_all(self.client.open_captions(self.stream, "vtt")).decode()
        self.assertTrue(vtt.startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.000\nframe 1\n\n"), vtt)
        srt = read_all(self.client.open_captions(self.stream, "srt", Follow=("b", False))).decode()
        self.assertIn("2\n00:00:01,000 --> 00:00:02,000\nframe 2\n\n", srt)
        self.raises("InvalidOption", self.client.open_captions, self.stream, "ass")
        self.raises("InvalidOption", self.client.open_captions, self.stream, "vtt", Folow=("b", True))


class Following(Case):
    def test_follow_until_removed_and_readers_are_limited(self):
        s = self.client.add("f", "test:", Realtime=("b", True), SampleIntervalUSec=("t", 100000))
        pipes = [self.client.open_captions(s, "jsonl") for _ in range(16)]
        self.raises("Busy", self.client.open_captions, s, "jsonl")
        self.assertIn("text", records(vlm.read_line(pipes[0]))[0])
        pipes.pop().close()
        until("room again", lambda: self.opens(s))
        self.client.remove(s)
        self.assertEqual(records(read_all(pipes[0]))[-1], {"status": "removed"})

    def opens(self, s):
        try:
            self.client.open_captions(s, "text").close()
            return True
        except BusError:
            return False

    def test_slow_watcher_loses_whole_captions(self):
        s = self.client.add("w", "test:?size=64x64&seconds=60", SampleIntervalUSec=("t", 100000), Instruction=("s", "long"))
        slow = self.client.open_captions(s, "jsonl")
        until("its end", lambda: self.client.state(s)[0] == "ended")
        got = records(read_all(slow))
        ids = [r["id"] for r in got if "id" in r]
        gaps = [r["gap"] for r in got if "gap" in r]
        self.assertEqual(ids, list(range(1, len(ids) + 1)))
        self.assertEqual(len(gaps), 1)
        self.assertGreater(gaps[0], 0)
        self.assertEqual(len(ids) + gaps[0], 600)
        self.assertEqual(got[-1], {"status": "ended"})


if __name__ == "__main__":
    unittest.main()
