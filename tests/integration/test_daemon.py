#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The whole daemon with a tiny model and its own ingest children: what it sees and says, and that it is polite."""
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import time
import unittest

import vlm
from vlm import NAME, PATH, Bus, BusError, Case, Client, Daemon, read_all, records, until

GOLDEN = vlm.ROOT / "tests/golden/smolvlm"
TEXT, MMPROJ = str(GOLDEN / "odd-f32-text.gguf"), str(GOLDEN / "odd-f32-mmproj.gguf")
FAST = "test:?size=64x64"


def real(bus, *args, **kw):
    d = Daemon(bus, *args, model=TEXT, mmproj=MMPROJ, **kw)
    c = Client(bus)
    until("the model", lambda: c.get(PATH, "Manager", "State") != "loading")
    c.close()
    return d


class Real(Case):
    @classmethod
    def make(cls, bus):
        return real(bus)

    def ended(self, s):
        # A source that crashes again on its way waits longer each time before it is started.
        until("its end", lambda: self.client.state(s)[0] in ("ended", "failed"), timeout=90)
        return self.client.state(s)

    def seen(self, s):
        return self.client.get(s, "Stream", "Frames")["seen"]


class SeesAndSays(Real):
    def test_a_stream_from_start_to_end(self):
        s = self.client.add("clip", FAST + "&seconds=12")
        self.assertEqual(self.ended(s), ("ended", "end-of-file"))
        p = self.client.get_all(s, "Stream")
        self.assertEqual(p["Frames"], {"seen": 12, "skipped": 0, "gated": 0, "corrupt": 0})
        self.assertEqual((p["Width"], p["Height"]), (64, 64))
        self.assertGreater(p["Tokens"]["visual"], 0)
        self.assertGreater(p["KVBytes"], 0)
        rows = self.client.recent(s)
        self.assertEqual([r["text"] for r in records(read_all(self.client.open_captions(s, "jsonl")))[:-1]],
                         [r[3] for r in rows])
        self.assertTrue(all(r[2] > r[1] > 1.7e15 for r in rows), rows)
        answer, details = self.client.ask_text(s, "What is there?", MaxTokens=("u", 12))
        self.assertLessEqual(details["OutputTokens"], 12)
        _, pipe = self.client.ask(s, "What is there?", MaxTokens=("u", 12), Format=("s", "jsonl"))
        got = records(read_all(pipe))
        self.assertEqual(got[-1]["status"], "ok")
        self.assertEqual("".join(r.get("text", "") for r in got), answer)

    def test_nothing_seen_says_what_is_remembered(self):
        s = self.client.add("memory", FAST + "&seconds=60")
        self.ended(s)
        since = self.client.get(s, "Stream", "RemembersSinceUSec")
        self.assertGreater(since, 0)
        text = self.raises("NothingSeen", self.client.ask_text, s, "What was there?", Until=("t", since - 1000000))
        self.assertIn("remembers since 20", text)
        _, pipe = self.client.ask(s, "And then?", Until=("t", 5), Format=("s", "jsonl"))
        end = records(read_all(pipe))[-1]
        self.assertEqual((end["error"], end["remembers_since"]), (vlm.ERROR + "NothingSeen", since))

    def test_settings_reach_the_engine(self):
        for key, written, near in (("Reducer", "unifrom", "'uniform'"), ("Reducer", "temporal_diff:refesh=2", "'refresh'"),
                                   ("Reducer", "temporal_diff:refresh=0", "between"), ("Policy", "sink", "'sink_window'"),
                                   ("Policy", "sink_window:widow=2", "'window'"), ("Policy", "sink_window:window", "KEY=VALUE")):
            text = self.raises("InvalidOption", self.client.add, "x", "test:", **{key: ("s", written)})
            self.assertIn(near, text)
            self.assertIn(key, text)
        s = self.client.add("few", FAST + "&seconds=6", TokensPerFrame=("u", 4), WindowUSec=("t", 3000000),
                            Captions=("b", False))
        self.ended(s)
        p = self.client.get_all(s, "Stream")
        self.assertEqual(p["Frames"]["seen"], 6)
        self.assertGreater(p["Tokens"]["dropped"], 0)
        self.assertEqual(self.client.recent(s), [])

    def test_options_of_reducers_and_policies_reach_the_engine(self):
        dropped = {}
        for name, more in (("whole", {}), ("still", {"Reducer": ("s", "temporal_diff:threshold=0,refresh=100")}),
                           ("short", {"WindowUSec": ("t", 6000000), "Policy": ("s", "sink_window:window=2")})):
            s = self.client.add(name, FAST + "&seconds=6", **more)
            self.ended(s)
            dropped[name] = self.client.get_all(s, "Stream")["Tokens"]["dropped"]
            conf = self.client.call(s, NAME + ".Stream", "GetConfiguration")
            for key in more:
                self.assertEqual(conf[key], more[key])
        self.assertEqual(self.client.get(s, "Stream", "WindowUSec"), 2000000)
        self.assertGreater(dropped["still"], dropped["whole"])
        self.assertGreater(dropped["short"], dropped["whole"])

    @unittest.skipUnless(os.environ.get("VLMCTL"), "no vlmctl in this build")
    def test_vlmctl_chooses(self):
        def vlmctl(*args, rc=0):
            p = subprocess.run([os.environ["VLMCTL"], "--bus", self.bus.address, *args], capture_output=True, text=True,
                               timeout=60)
            self.assertEqual(p.returncode, rc, p.stderr)
            return p.stdout if rc == 0 else p.stderr

        def configuration(name):
            return json.loads(vlmctl("stream", "show", name, "--json"))["Configuration"]

        vlmctl("stream", "add", "chosen", FAST + "&seconds=100&fps=10", "--realtime", "--tokens-per-frame", "4", "--reducer",
               "diverse:critical=1,uniform=0.5", "--policy", "sink_window:window=3")
        conf = configuration("chosen")
        self.assertEqual((conf["TokensPerFrame"], conf["Reducer"], conf["Policy"]),
                         (4, "diverse:critical=1,uniform=0.5", "sink_window:window=3"))
        vlmctl("stream", "set", "chosen", "--tokens-per-frame", "0", "--reducer", "none", "--every", "2s")
        conf = configuration("chosen")
        self.assertEqual((conf["TokensPerFrame"], conf["Reducer"], conf["SampleIntervalUSec"]), (0, "none", 2000000))
        self.assertIn("'diverse'", vlmctl("stream", "set", "chosen", "--reducer", "divers", rc=1))
        self.assertEqual(configuration("chosen")["Reducer"], "none")
        vlmctl("stream", "set", "chosen", rc=2)
        vlmctl("stream", "set", "chosen", "--tokens-per-frame", "5000000000", rc=2)

    def test_questions_and_captions_are_not_logged(self):
        s = self.client.add("quiet", FAST + "&seconds=5", Instruction=("s", "secret instruction"))
        self.ended(s)
        answer, _ = self.client.ask_text(s, "a secret question", MaxTokens=("u", 8))
        log = self.daemon.logged()
        self.assertNotIn("secret", log)
        self.assertFalse(answer and answer in log)


class IsPolite(Real):
    def test_unknown_option_of_a_source(self):
        s = self.client.add("typo", "test:?sed=3")
        self.assertEqual(self.ended(s), ("failed", "refused"))

    def test_a_client_that_is_killed_mid_answer_harms_nobody(self):
        s = self.client.add("two", FAST + "&seconds=5")
        self.ended(s)
        alone, _ = self.client.ask_text(s, "Tell me all.", MaxTokens=("u", 2000))
        other = subprocess.Popen(["/usr/bin/python3", "-c", (
            "import sys; sys.path.insert(0, sys.argv[1]); import vlm, types, time\n"
            "c = vlm.Client(types.SimpleNamespace(address=sys.argv[2]))\n"
            "p = [c.ask(sys.argv[3], 'Tell me all.', MaxTokens=('u', 4096))[1] for _ in range(3)]\n"
            "print(p[0].read(1), flush=True); time.sleep(60)"), str(pathlib.Path(__file__).parent), self.bus.address, s],
            stdout=subprocess.PIPE)
        serial = self.client.send(PATH, NAME + ".Manager", "AskText", "aosa{sv}", [s], "Tell me all.", {"MaxTokens": ("u", 2000)})
        other.stdout.readline()
        other.kill()
        other.wait()
        other.stdout.close()
        self.assertEqual(self.client.reply_to(serial)[0], alone)
        until("its questions' end", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)

    def test_a_cancelled_question(self):
        s = self.client.add("cancel", FAST + "&seconds=5")
        self.ended(s)
        for _ in range(50):  # the tiny model may be through before we have said so
            query, pipe = self.client.ask(s, "Tell me all.", MaxTokens=("u", 4096), Format=("s", "jsonl"))
            self.client.call(query, NAME + ".Query", "Cancel")
            self.assertEqual(self.client.get(query, "Query", "State"), "finished")
            end = records(read_all(pipe))[-1]
            if end["status"] == "cancelled":
                return
            self.assertEqual(end["status"], "ok")
        self.fail("50 questions and none was cancelled in time")

    def test_a_stream_removed_under_a_question(self):
        s = self.client.add("under", FAST + "&seconds=5")
        self.ended(s)
        _, pipe = self.client.ask(s, "Tell me all.", MaxTokens=("u", 4096), Format=("s", "jsonl"))
        vlm.read_line(pipe)
        self.client.remove(s)
        self.assertIn(records(b"{}\n" + read_all(pipe))[-1]["status"], ("cancelled", "ok"))

    def child_of(self, before=()):
        return until("a child", lambda: [c for c in self.daemon.children() if c not in before])[0]

    def test_a_killed_child_comes_back_with_a_gap(self):
        s = self.client.add("kill", FAST, Realtime=("b", True), SampleIntervalUSec=("t", 100000))
        until("frames", lambda: self.seen(s) > 3)
        os.kill(self.child_of(), signal.SIGKILL)
        until("a restart", lambda: self.client.get(s, "Stream", "Reconnects") == 1)
        n = self.seen(s)
        until("frames again", lambda: self.seen(s) > n + 3)
        self.assertEqual(self.client.state(s), ("running", ""))
        self.assertEqual(self.client.get(s, "Stream", "Reconnects"), 1)

    def test_a_hanging_child_is_replaced(self):
        s = self.client.add("hang", FAST + "&fault=hang@2", Realtime=("b", True), SampleIntervalUSec=("t", 200000))
        first = self.child_of()
        until("the stall", lambda: self.client.state(s) in (("stalled", "timeout"), ("retrying", "timeout")))
        until("running", lambda: self.client.state(s) == ("running", ""))
        self.assertNotIn(first, self.daemon.children())

    def test_a_source_without_pictures_is_a_stall(self):
        s = self.client.add("stall", FAST + "&fault=stall@1", Realtime=("b", True), SampleIntervalUSec=("t", 200000))
        until("the stall", lambda: self.client.state(s)[1] == "timeout")
        until("running", lambda: self.client.state(s) == ("running", ""))

    def test_faults_of_a_source(self):
        s = self.client.add("crash", FAST + "&seconds=6&fault=crash@2")
        until("the crash", lambda: self.client.get(s, "Stream", "Reconnects") == 1)
        self.assertEqual(self.ended(s), ("ended", "end-of-file"))
        s = self.client.add("error", FAST + "&fault=error@2")
        until("the error", lambda: self.client.state(s) == ("retrying", "decode"))
        s = self.client.add("shape", FAST + "&seconds=6&fault=geometry@2,corrupt@4")
        self.assertEqual(self.ended(s), ("ended", "end-of-file"))
        p = self.client.get_all(s, "Stream")
        self.assertEqual((p["Width"], p["Height"]), (32, 32))
        self.assertGreater(p["Frames"]["corrupt"], 0)

    def test_nothing_of_a_removed_stream_remains(self):
        until("no child", lambda: not self.daemon.children())
        before = self.daemon.fds(), self.daemon.threads()
        for i in range(12):
            s = self.client.add("gone", FAST + ("&fault=hang@1" if i % 3 == 0 else ""), Realtime=("b", i % 2 == 0))
            if i % 3:
                until("a frame", lambda: self.seen(s) > 0)
            else:
                time.sleep(0.1 * (i % 4))
            if i % 4 == 3:
                os.kill(self.child_of(), signal.SIGKILL)
            self.client.remove(s)
        until("all gone", lambda: not self.daemon.children() and
              (self.daemon.fds(), self.daemon.threads()) == before, timeout=5)

    def test_children_get_what_they_need_and_no_more(self):
        self.client.add("child", FAST, Realtime=("b", True))
        child = self.child_of()
        vlm.until_exec(child)
        proc = pathlib.Path(f"/proc/{child}")
        for name in os.listdir(proc / "fd"):
            if int(name) > 3:
                self.assertNotIn("socket:", os.readlink(proc / "fd" / name))
        for entry in (proc / "environ").read_bytes().split(b"\0"):
            self.assertIn(entry.split(b"=")[0], (b"", b"LANG", b"ASAN_OPTIONS", b"LSAN_OPTIONS", b"UBSAN_OPTIONS",
                                                 b"TSAN_OPTIONS"))


@unittest.skipUnless(shutil.which("gst-launch-1.0"), "no gst-launch-1.0: files are not tested")
class Files(Real):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if "source:file" not in cls.client.get(PATH, "Manager", "Features"):
            raise unittest.SkipTest("this build has no file source")
        cls.clip = os.path.join(cls.bus.dir, "clip.webm")
        subprocess.run(["gst-launch-1.0", "-q", "videotestsrc", "num-buffers=40", "!",
                        "video/x-raw,width=160,height=120,framerate=10/1", "!", "vp8enc", "deadline=1", "!", "webmmux", "!",
                        "filesink", f"location={cls.clip}"], check=True)

    def test_a_file(self):
        s = self.client.add_file("file", self.clip)
        self.assertEqual(self.ended(s), ("ended", "end-of-file"))
        self.assertEqual(self.seen(s), 4)
        self.assertEqual(self.client.get(s, "Stream", "Width"), 160)
        self.client.ask_text(s, "What is there?", MaxTokens=("u", 4))

    def test_corrupt_files(self):
        data = pathlib.Path(self.clip).read_bytes()
        for name, bad in ("noise", os.urandom(20000)), ("cut", data[:60]), ("text", b"hello\n" * 100):
            path = os.path.join(self.bus.dir, name)
            pathlib.Path(path).write_bytes(bad)
            s = self.client.add_file(name, path)
            state, reason = self.ended(s)
            self.assertEqual(state, "failed", name)
            self.assertIn(reason, ("decode", "refused", "limit"), name)
        self.assertEqual(self.client.get(PATH, "Manager", "State"), "ready")

    def test_a_killed_child_of_a_file_is_final(self):
        s = self.client.add_file("loop", self.clip, Loop=("b", True), Realtime=("b", True))
        until("a frame", lambda: self.seen(s) > 0)
        os.kill(self.daemon.children()[0], signal.SIGKILL)
        self.assertEqual(self.ended(s), ("failed", "killed"))


class Stills(Real):
    """Through the real reader into the real engine. The pictures are seeds of the fuzzers: one drawing in several formats."""

    def ask(self, *names):
        files = [open(vlm.ROOT / "tests/fuzz/corpus/still" / n, "rb") for n in names]
        answer, details = self.client.ask_image_text(files, "What is there?", MaxTokens=("u", 8))
        for f in files:
            f.close()
        return answer, details["PromptTokens"]

    def test_pictures_reach_the_model(self):
        features = self.client.get(PATH, "Manager", "Features")
        if "image:png" not in features:
            self.skipTest("this build reads no PNG")
        none, one, two = self.ask(), self.ask("rgb.png"), self.ask("rgb.png", "turned.png")
        self.assertGreater(one[1], none[1])
        self.assertGreater(two[1], one[1])
        self.assertEqual(self.ask("rgb.png"), one)
        if "image:webp" in features:  # the same pixels
            self.assertEqual(self.ask("lossless.webp"), one)
            self.assertEqual(self.ask("lossless.webp", "turned.png"), two)


class Models(unittest.TestCase):
    """A model that cannot be used leaves a daemon that says so."""

    def with_model(self, state, error, words, **kw):
        bus = Bus()
        self.addCleanup(bus.close)
        d = Daemon(bus, **kw)
        self.addCleanup(d.close)
        c = Client(bus)
        self.addCleanup(c.close)
        self.assertEqual(until("a state", lambda: (s := c.get(PATH, "Manager", "State")) != "loading" and s), state)
        for call in (lambda: c.add("x", "test:"), lambda: c.ask_text(PATH + "/stream/x", "hello")):
            with self.assertRaises(BusError) as e:
                call()
            self.assertEqual(e.exception.name, error)
            self.assertIn(words, e.exception.text)
        self.assertIn(words, c.get(PATH, "Manager", "StatusText"))
        self.assertEqual(d.stop()[0], 0)

    def test_none_configured(self):
        self.with_model("no-model", "ModelNotReady", "--model")

    def test_missing(self):
        self.with_model("no-model", "ModelNotReady", "/nowhere.gguf", model="/nowhere.gguf", mmproj=MMPROJ)
        self.with_model("no-model", "ModelNotReady", "/nowhere.gguf", model=TEXT, mmproj="/nowhere.gguf")

    def test_corrupt(self):
        path = "/tmp/vlmd-test-corrupt.gguf"
        self.addCleanup(os.unlink, path)
        data = pathlib.Path(TEXT).read_bytes()
        for bad in data[:1000], b"", b"GGUF\3\0\0\0" + b"\xff" * 500, data[:-100]:
            pathlib.Path(path).write_bytes(bad)
            self.with_model("failed", "ModelInvalid", os.path.basename(path), model=path, mmproj=MMPROJ)

    def test_wrong_pair(self):
        self.with_model("failed", "ModelInvalid", "", model=TEXT, mmproj=str(GOLDEN / "even-q8_0-mmproj.gguf"))
        bus_words = "mmproj"
        with self.subTest("swapped"):
            self.with_swapped(bus_words)

    def with_swapped(self, words):
        bus = Bus()
        self.addCleanup(bus.close)
        d = Daemon(bus, model=MMPROJ, mmproj=TEXT)
        self.addCleanup(d.close)
        c = Client(bus)
        self.addCleanup(c.close)
        self.assertEqual(until("a state", lambda: (s := c.get(PATH, "Manager", "State")) != "loading" and s), "failed")
        with self.assertRaises(BusError) as e:
            c.add("x", "test:")
        self.assertIn(e.exception.name, ("ModelInvalid", "ModelUnsupported"))
        self.assertIn(words, e.exception.text)


class Configured(unittest.TestCase):
    def setUp(self):
        self.bus = Bus()
        self.addCleanup(self.bus.close)

    def write(self, name, text):
        path = pathlib.Path(self.bus.dir, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def start(self, *args, **kw):
        d = Daemon(self.bus, *args, **kw)
        self.addCleanup(d.close)
        return d

    def test_errors_end_with_78(self):
        for name, text, words in (("vlmd.conf", "[Manager]\nMaxStreams=many\n", "vlmd.conf:2: "),
                                  ("vlmd.conf", "[Manager\n", "vlmd.conf:1: "),
                                  ("vlmd.conf", "[Manager]\nDefaultModel=none\n", "models.d/none.model"),
                                  ("vlmd.conf", "[Manager]\nBackend=quantum\n", "quantum"),
                                  ("streams.d/a.stream", "[Stream]\nUri=rtsp://x\n", "a.stream: ")):
            with self.subTest(text):
                self.write(name, text)
                # Our own --model would hide what DefaultModel says.
                kw = {} if "DefaultModel" in text else {"fake": True}
                d = self.start(wait=False, **kw)
                self.assertEqual(d.proc.wait(10), 78)
                self.assertIn(words, d.logged().splitlines()[-1])
                os.unlink(os.path.join(self.bus.dir, name))

    def test_an_unknown_key_is_a_warning_or_with_check_config_an_error(self):
        self.write("vlmd.conf", "[Manager]\nMaxStream=2\n")
        d = self.start("--check-config", fake=True, wait=False)
        self.assertEqual(d.proc.wait(10), 78)
        self.assertIn("vlmd.conf:2: unknown key 'MaxStream' in [Manager]; did you mean 'MaxStreams'?", d.logged())
        d = self.start(fake=True)
        self.assertEqual(d.stop()[0], 0)

    def test_streams_and_limits(self):
        self.write("vlmd.conf", "[Manager]\nMaxStreams=3\nMaxQueries=2\n")
        self.write("vlmd.conf.d/10-more.conf", "[Manager]\nMaxQueries=1\n")
        self.write("streams.d/porch.stream", "[Stream]\nUri=test:?size=64x64\nSampleInterval=500ms\n\n[Captions]\n"
                                             "Enabled=no\n")
        self.write("streams.d/gone.stream", "[Stream]\nPath=/nowhere.mp4\nLoop=yes\n")
        d = self.start(fake=True)
        c = Client(self.bus)
        self.addCleanup(c.close)
        porch, gone = (c.manager("GetStream", "s", n) for n in ("porch", "gone"))
        until("frames", lambda: c.get(porch, "Stream", "Frames")["seen"] > 0)
        self.assertEqual(c.get(porch, "Stream", "SampleIntervalUSec"), 500000)
        self.assertFalse(c.get(porch, "Captions", "Enabled"))
        self.assertEqual(c.state(gone), ("failed", "device-gone"))
        c.add("third", "test:")
        with self.assertRaises(BusError) as e:
            c.add("fourth", "test:")
        self.assertEqual(e.exception.name, "OverBudget")
        _, pipe = c.ask(porch, "hang")
        with self.assertRaises(BusError) as e:
            c.ask(porch, "hang")
        self.assertEqual(e.exception.name, "Busy")
        pipe.close()
        self.assertEqual(d.stop()[0], 0)

    def test_a_model_by_name(self):
        os.makedirs(os.path.join(self.bus.dir, "models"))
        for f in TEXT, MMPROJ:
            shutil.copy(f, os.path.join(self.bus.dir, "models"))
        self.write("vlmd.conf", "[Manager]\nDefaultModel=tiny\nWorkers=1\n")
        self.write("models.d/tiny.model", "[Model]\nText=odd-f32-text.gguf\nProjector=odd-f32-mmproj.gguf\n")
        d = self.start()
        c = Client(self.bus)
        self.addCleanup(c.close)
        until("the model", lambda: c.get(PATH, "Manager", "State") == "ready")
        self.assertEqual(d.stop()[0], 0)

    def test_one_daemon_a_bus(self):
        first = self.start(fake=True)
        second = self.start(fake=True, wait=False)
        self.assertEqual(second.proc.wait(10), 1)
        self.assertIn("another vlmd", second.logged())
        self.assertFalse(first.gone())


class Life(unittest.TestCase):
    """Starts, stops, and what systemd is told."""

    def setUp(self):
        self.bus = Bus()
        self.addCleanup(self.bus.close)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.notify.close)
        self.notify.bind(os.path.join(self.bus.dir, "notify"))
        self.notify.settimeout(0.05)
        self.told = []

    def start(self, *args, watchdog_usec=None, **kw):
        env = {"NOTIFY_SOCKET": os.path.join(self.bus.dir, "notify")}
        if watchdog_usec:
            env["WATCHDOG_USEC"] = str(watchdog_usec)
        d = kw.pop("by", Daemon)(self.bus, *args, env=env, **kw)
        self.addCleanup(d.close)
        c = Client(self.bus)
        self.addCleanup(c.close)
        return d, c

    def hear(self):
        while True:
            try:
                self.told += self.notify.recv(4096).decode().split("\n")
            except TimeoutError:
                return self.told

    def stops(self, d, seconds, **kw):
        """d ends well and within so many seconds, which are less than what it must not wait for; on a busy machine to
        end takes time by itself, as long as with nothing to do."""
        rc, took = d.stop(**kw)
        self.assertEqual(rc, 0)
        if took >= seconds:
            idle, _ = self.start(fake=True)
            self.assertLess(took, seconds + 4 * idle.stop()[1])

    def wait_for(self, word):
        until(word, lambda: any(t.startswith(word) for t in self.hear()))

    def test_ready_status_watchdog_and_the_end(self):
        d, c = self.start(by=real, watchdog_usec=400000)
        self.wait_for("READY=1")
        self.wait_for("STATUS=Tiny Odd F32 (smolvlm")
        self.wait_for("WATCHDOG=1")
        s = c.add("busy", FAST)
        until("frames", lambda: c.get(s, "Stream", "Frames")["seen"] > 0)
        self.told.clear()
        self.wait_for("WATCHDOG=1")
        self.stops(d, 2)
        self.wait_for("STOPPING=1")

    def test_no_watchdog_without_progress(self):
        d, _ = self.start(fake=True, model="stuck", watchdog_usec=200000)
        self.wait_for("WATCHDOG=1")  # at the first look there is nothing to compare with
        self.told.clear()
        time.sleep(0.5)
        self.assertNotIn("WATCHDOG=1", self.hear())
        self.assertIn("no progress", d.logged())

    def test_while_loading(self):
        d, c = self.start(fake=True, model="loading")
        self.wait_for("EXTEND_TIMEOUT_USEC=")
        self.assertEqual(c.get(PATH, "Manager", "State"), "loading")
        self.assertNotIn("READY=1", self.hear())
        s = c.add("early", "test:")
        with self.assertRaises(BusError) as e:
            c.ask_text(s, "hang", DeadlineUSec=("t", 100000))
        self.assertEqual(e.exception.name, "ModelNotReady")
        self.stops(d, 2)

    def test_sigterm_while_answering(self):
        d, c = self.start(by=real)
        s = c.add("busy", FAST)
        until("frames", lambda: c.get(s, "Stream", "Frames")["seen"] > 2)
        _, pipe = c.ask(s, "Tell me all.", MaxTokens=("u", 500), Format=("s", "jsonl"))
        vlm.read_line(pipe)
        self.stops(d, 6)
        end = records(b"{}\n" + read_all(pipe))[-1]
        self.assertIn(end["status"], ("ok", "cancelled"))

    def test_sigterm_with_an_answer_that_never_ends(self):
        d, c = self.start(fake=True)
        s = c.add("busy", FAST)
        _, pipe = c.ask(s, "hang", Format=("s", "jsonl"))
        d.proc.send_signal(signal.SIGTERM)
        until("stopping", lambda: c.get(PATH, "Manager", "State") == "stopping")
        with self.assertRaises(BusError):
            c.ask(s, "echo x")
        self.stops(d, 6, sig=0)
        self.assertEqual(records(read_all(pipe))[-1]["status"], "cancelled")

    def test_sigterm_twice(self):
        d, c = self.start(fake=True)
        c.ask(c.add("busy", FAST), "hang")[1].close()
        _, pipe = c.ask(c.manager("GetStream", "s", "busy"), "hang")
        d.proc.send_signal(signal.SIGTERM)
        until("stopping", lambda: c.get(PATH, "Manager", "State") == "stopping")
        self.stops(d, 1.5)
        pipe.close()

    def test_sigterm_with_a_stopped_child(self):
        d, c = self.start(fake=True)
        c.add("stopped", FAST)
        child = until("a child", d.children)[0]
        vlm.until_exec(child)  # until then posix_spawn keeps the daemon waiting, as vfork does
        os.kill(child, signal.SIGSTOP)
        self.stops(d, 3.5)
        self.assertFalse(os.path.exists(f"/proc/{child}"))

    def test_no_descriptors_left(self):
        d, c = self.start(fake=True)
        s = c.add("few", "test:?seconds=1")
        until("its end", lambda: c.state(s)[0] == "ended")
        resource.prlimit(d.pid, resource.RLIMIT_NOFILE, (d.fds() + 6, 4096))
        pipes = []
        with self.assertRaises(BusError) as e:
            while len(pipes) < 8:
                pipes.append(c.ask(s, "hang")[1])
        self.assertEqual(e.exception.name, "NoResources")
        self.assertEqual(c.get(PATH, "Manager", "State"), "ready")
        for p in pipes:
            p.close()
        until("room again", lambda: c.get(PATH, "Manager", "QueueDepth") == 0)
        self.assertEqual(c.ask_text(s, "echo x")[0], "x")

    def test_the_bus_goes_away(self):
        d, c = self.start(fake=True)
        c.add("orphan", FAST)
        self.bus.proc.kill()
        self.assertEqual(d.proc.wait(10), 0)


if __name__ == "__main__":
    unittest.main()
