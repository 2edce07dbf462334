#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Models as objects: which there are, how they come and go while others answer, and that memory is counted."""
import os
import pathlib
import socket
import subprocess
import threading
import time
import unittest
from random import Random

import vlm
from vlm import NAME, PATH, BusError, Bus, Case, Client, Daemon, read_all, records, until

GOLDEN = vlm.ROOT / "tests/golden/smolvlm"
TINY = str(GOLDEN / "odd-f32-text.gguf"), str(GOLDEN / "odd-f32-mmproj.gguf")
FAST = "test:?size=64x64"
MIB = 1 << 20


def model(name):
    return PATH + "/model/" + name


def write(bus, name, text):
    path = pathlib.Path(bus.dir, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def offer(bus, name, text, projector="ok", **keys):
    more = "".join(f"{k}={v}\n" for k, v in keys.items())
    write(bus, f"models.d/{name}.model", f"[Model]\nText=/{text}\n" + (f"Projector=/{projector}\n" if projector else "") + more)


class Several(Case):
    """A fake engine: its models do as their files' names say."""

    @classmethod
    def make(cls, bus):
        write(bus, "vlmd.conf", "[Manager]\nDefaultModel=first\nMemoryBudget=infinity\n")
        offer(bus, "first", "ok-first")
        offer(bus, "second", "ok-second")
        offer(bus, "slow", "slow")
        offer(bus, "blind", "ok-blind", projector=None)
        offer(bus, "corrupt", "corrupt")
        offer(bus, "missing", "missing")
        offer(bus, "truncated", "truncated")
        offer(bus, "stuck-loading", "loading")
        d = Daemon(bus, fake=True, model="")
        c = Client(bus)
        until("the model", lambda: c.get(PATH, "Manager", "State") == "ready")
        c.close()
        return d

    def tearDown(self):
        super().tearDown()
        for name in "second", "slow", "blind", "corrupt", "missing", "truncated", "stuck_2dloading":
            self.unload(name, Force=("b", True))
        self.load("first")
        self.client.manager("SetDefaultModel", "o", model("first"))

    def load(self, name):
        self.client.call(model(name), NAME + ".Model", "Load", "a{sv}", {})

    def unload(self, name, **options):
        self.client.call(model(name), NAME + ".Model", "Unload", "a{sv}", options)

    def state(self, name):
        return self.client.get(model(name), "Model", "State")

    def test_they_are_objects(self):
        objects = self.client.objects()
        for name in "first", "second", "slow", "blind", "corrupt":
            self.assertIn(NAME + ".Model", objects[model(name)])
        self.assertEqual(self.client.get(PATH, "Manager", "DefaultModel"), model("first"))
        p = self.client.get_all(model("first"), "Model")
        self.assertEqual((p["Name"], p["State"], p["LoadProgress"], p["Vision"]), ("first", "ready", 1.0, True))
        self.assertEqual((p["Title"], p["Architecture"], p["ContextLength"]), ("/ok-first", "fake", 4096))
        self.assertEqual(p["ResidentBytes"], MIB)
        p = self.client.get_all(model("second"), "Model")
        self.assertEqual((p["State"], p["ResidentBytes"], p["Vision"], p["Error"]), ("unloaded", 0, True, ""))
        self.assertFalse(self.client.get(model("blind"), "Model", "Vision"))
        self.raises("InvalidOption", self.client.call, model("second"), NAME + ".Model", "Load", "a{sv}", {"Forse": ("b", True)})

    def test_load_and_unload(self):
        self.load("second")
        self.load("second")
        until("ready", lambda: self.state("second") == "ready")
        self.assertEqual(self.client.get(PATH, "Manager", "MemoryUsedBytes"), 2 * MIB)
        self.unload("second")  # answers when the memory is back
        self.assertEqual(self.client.get(PATH, "Manager", "MemoryUsedBytes"), MIB)
        self.assertEqual(self.state("second"), "unloaded")
        self.unload("second")

    def test_load_answers_before_the_weights_are_read(self):
        changed = self.client.signals(model("slow"), vlm.PROPS, "PropertiesChanged")
        self.client.call("/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s",
                         f"type='signal',path='{model('slow')}'", dest="org.freedesktop.DBus")
        self.load("slow")
        self.assertEqual(self.state("slow"), "loading")
        seen = []
        with changed as queue:
            while self.state("slow") == "loading":
                seen.append(self.client.get(model("slow"), "Model", "LoadProgress"))
                time.sleep(0.05)
            told = self.client.next_signal(queue)[1]
        self.assertEqual(seen, sorted(seen))
        self.assertGreater(len(set(seen)), 3)
        self.assertEqual(self.client.get(model("slow"), "Model", "LoadProgress"), 1.0)
        self.assertIn("LoadProgress", told)

    def test_what_cannot_be_loaded_is_named_and_changes_nothing(self):
        s = self.client.add("s", FAST)
        for name, error, reason in (("corrupt", "ModelInvalid", "invalid"), ("missing", "ModelNotReady", "missing")):
            text = self.raises(error, self.load, name)
            self.assertIn(name, text)
            self.assertEqual(self.state(name), "failed")
            self.assertEqual(self.client.get(model(name), "Model", "StateReason"), reason)
            self.assertEqual(self.client.get(model(name), "Model", "Error"), text)
            self.raises(error, self.client.manager, "SetDefaultModel", "o", model(name))
            self.raises(error, self.client.add, "x", FAST, Model=("o", model(name)))
            self.unload(name)
            self.assertEqual((self.state(name), self.client.get(model(name), "Model", "Error")), ("unloaded", ""))
        self.load("truncated")  # its head is good
        until("the end of its weights", lambda: self.state("truncated") == "failed")
        self.assertIn("too early", self.client.get(model("truncated"), "Model", "Error"))
        self.assertEqual(self.client.get(model("truncated"), "Model", "ResidentBytes"), 0)
        self.assertEqual(self.client.ask_text(s, "echo still here")[0], "still here")
        self.assertEqual(self.client.get(PATH, "Manager", "State"), "ready")
        self.assertEqual(self.client.get(PATH, "Manager", "DefaultModel"), model("first"))

    def test_unload_while_it_loads(self):
        serial = self.client.send(model("stuck_2dloading"), NAME + ".Model", "Load", "a{sv}", {})
        other = Client(self.bus)
        until("loading", lambda: other.get(model("stuck_2dloading"), "Model", "State") == "loading")
        other.call(model("stuck_2dloading"), NAME + ".Model", "Unload", "a{sv}", {})
        self.raises("Cancelled", self.client.reply_to, serial)
        other.close()
        self.load("slow")
        self.unload("slow")
        self.assertEqual(self.state("slow"), "unloaded")

    def test_a_stream_has_its_model(self):
        a, b = self.client.add("a", FAST), self.client.add("b", FAST, Model=("o", model("second")))
        self.assertEqual(self.client.get(a, "Stream", "Model"), model("first"))
        self.assertEqual(self.client.get(b, "Stream", "Model"), model("second"))
        self.assertEqual(self.client.call(b, NAME + ".Stream", "GetConfiguration")["Model"], ("o", model("second")))
        for s in a, b:
            until("frames", lambda: self.client.get(s, "Stream", "Frames")["seen"] > 0)
            self.assertEqual(self.client.ask_text(s, "echo x")[0], "x")
        self.assertEqual(self.client.ask_text(b, "echo x", Model=("o", model("second")))[0], "x")
        self.raises("InvalidOption", self.client.ask_text, b, "echo x", Model=("o", model("first")))
        self.raises("NoSuchModel", self.client.add, "x", FAST, Model=("o", model("nobody")))
        self.raises("NoSuchModel", self.client.add, "x", FAST, Model=("o", "/somewhere/else"))
        self.raises("NotSupported", self.client.add, "x", FAST, Model=("o", model("blind")))
        self.assertEqual(self.state("blind"), "unloaded")  # nobody has it loaded in vain

    def test_a_model_in_use_stays(self):
        s = self.client.add("porch", FAST, Model=("o", model("second")))
        until("frames", lambda: self.client.get(s, "Stream", "Frames")["seen"] > 0)
        _, pipe = self.client.ask(s, "hang", Format=("s", "jsonl"))
        text = self.raises("ModelInUse", self.unload, "second")
        self.assertIn("porch", text)
        self.assertIn("1 question", text)
        self.assertEqual(self.state("second"), "ready")
        self.unload("second", Force=("b", True))
        self.assertEqual(records(read_all(pipe))[-1]["error"], vlm.ERROR + "Cancelled")
        self.assertEqual(self.client.state(s), ("failed", "model"))
        self.raises("ModelNotReady", self.client.ask_text, s, "echo x")
        self.raises("StreamExists", self.client.add, "porch", FAST, Model=("o", model("second")))
        self.assertEqual(self.state("second"), "unloaded")
        self.client.remove(s)
        s = self.client.add("porch", FAST, Model=("o", model("second")))
        until("frames again", lambda: self.client.get(s, "Stream", "Frames")["seen"] > 0)

    def test_the_default_moves(self):
        a = self.client.add("a", FAST)
        self.raises("NoSuchModel", self.client.manager, "SetDefaultModel", "o", model("nobody"))
        self.client.manager("SetDefaultModel", "o", model("second"))
        self.assertEqual(self.client.get(PATH, "Manager", "DefaultModel"), model("second"))
        self.assertEqual(self.client.get(PATH, "Manager", "State"), "idle")
        b = self.client.add("b", FAST)  # loads it
        self.assertEqual(self.client.get(b, "Stream", "Model"), model("second"))
        self.assertEqual(self.client.get(a, "Stream", "Model"), model("first"))
        until("ready", lambda: self.client.get(PATH, "Manager", "State") == "ready")
        self.assertIn("ok-second", self.client.get(PATH, "Manager", "StatusText"))

    def test_many_turns_leave_nothing(self):
        for _ in range(3):
            self.load("second")
            self.unload("second")
        before = self.daemon.fds(), self.daemon.threads()
        for i in range(20):
            self.load("slow" if i % 4 == 0 else "second")
            self.unload("slow" if i % 4 == 0 else "second")
        until("all gone", lambda: (self.daemon.fds(), self.daemon.threads()) == before)

    def test_loads_unloads_streams_and_questions_in_any_order(self):
        seed = int(os.environ.get("VLMD_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
        random, names, streams, pipes, waiting = Random(seed), ["first", "second", "slow", "truncated", "corrupt"], [], [], 0
        before = self.settled()
        for i in range(300):
            name, what = random.choice(names), random.randrange(8)
            try:
                if what == 0:
                    self.client.send(model(name), NAME + ".Model", "Load", "a{sv}", {})
                elif what == 1:
                    self.client.send(model(name), NAME + ".Model", "Unload", "a{sv}", {"Force": ("b", random.random() < 0.5)})
                elif what == 2:
                    self.client.manager("SetDefaultModel", "o", model(name))
                elif what == 3 and len(streams) < 7:
                    streams.append(self.client.add(f"s{i}", FAST, Model=("o", model(name))))
                elif what == 4 and streams:
                    self.client.remove(streams.pop(random.randrange(len(streams))))
                elif what in (5, 6) and streams:
                    question = random.choice(("echo x", "hang", "nothing", "fail"))
                    pipes.append(self.client.ask(random.choice(streams), question, Format=("s", "jsonl"),
                                                 DeadlineUSec=("t", 2000000))[1])
                elif what == 7 and pipes:
                    pipes.pop(0).close()
            except BusError as e:
                self.assertIn(e.name, ("ModelNotReady", "ModelInvalid", "Busy", "SourceUnavailable"), f"seed {seed}: {e}")
            except TimeoutError:
                self.fail(f"seed {seed}: no answer at step {i}")
        for p in pipes:
            end = records(read_all(p))[-1]
            self.assertIn(end["status"], ("ok", "failed", "cancelled", "deadline"), f"seed {seed}")
        for s in streams:
            self.client.remove(s)
        until(f"no question (seed {seed})", lambda: self.client.get(PATH, "Manager", "QueueDepth") == 0)
        self.assertEqual(self.settled(), before, f"seed {seed}")

    def settled(self):
        """Only the first model is loaded and nothing else is there: descriptors, threads, bytes."""
        for name in "second", "slow", "truncated", "corrupt":
            self.unload(name, Force=("b", True))
        self.load("first")
        until("it is quiet", lambda: not self.daemon.children())
        return until("the bytes", lambda: (b := self.client.get(PATH, "Manager", "MemoryUsedBytes")) == MIB and
                     (b, self.daemon.fds(), self.daemon.threads()))


class OneConfigured(unittest.TestCase):
    """A daemon for each test, as its configuration says."""

    def setUp(self):
        self.bus = Bus()
        self.addCleanup(self.bus.close)

    def start(self, *args, model="", **kw):
        d = Daemon(self.bus, *args, fake=True, model=model, **kw)
        self.addCleanup(d.close)
        c = Client(self.bus)
        self.addCleanup(c.close)
        return d, c

    def error(self, name, call, *args, **kw):
        with self.assertRaises(BusError) as e:
            call(*args, **kw)
        self.assertEqual(e.exception.name, name, e.exception.text)
        return e.exception.text

    def test_a_budget_is_for_all_of_them(self):
        write(self.bus, "vlmd.conf", "[Manager]\nDefaultModel=a\nMemoryBudget=1536K\n")
        for name in "a", "b":
            offer(self.bus, name, "ok-" + name)
        d, c = self.start()
        until("ready", lambda: c.get(PATH, "Manager", "State") == "ready")
        self.assertEqual(c.get(PATH, "Manager", "MemoryBudgetBytes"), 1536 << 10)
        s = c.add("s", FAST)
        text = self.error("OverBudget", c.call, model("b"), NAME + ".Model", "Load", "a{sv}", {})
        self.assertIn(str(512 << 10), text)
        self.assertEqual(c.get(model("b"), "Model", "StateReason"), "over-budget")
        self.assertEqual(c.ask_text(s, "echo x")[0], "x")
        c.remove(s)
        c.call(model("a"), NAME + ".Model", "Unload", "a{sv}", {})
        c.call(model("b"), NAME + ".Model", "Load", "a{sv}", {})
        self.assertEqual(d.stop()[0], 0)

    def test_nothing_is_loaded_before_it_is_wanted(self):
        offer(self.bus, "only", "slow")  # the only one is the default
        d, c = self.start("--no-preload")
        self.assertEqual(c.get(PATH, "Manager", "State"), "idle")
        self.assertEqual(c.get(PATH, "Manager", "MemoryUsedBytes"), 0)
        s = c.add("s", FAST)
        self.assertEqual(c.get(PATH, "Manager", "State"), "loading")
        text = self.error("ModelNotReady", c.ask_text, s, "echo x", DeadlineUSec=("t", 1000))
        self.assertIn("loading", text)
        self.assertEqual(c.ask_text(s, "echo x")[0], "x")  # waits for it
        self.assertEqual(c.get(PATH, "Manager", "State"), "ready")
        self.assertEqual(d.stop()[0], 0)

    def test_systemd_hears_how_far_it_is(self):
        told = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            path = os.path.join(self.bus.dir, "notify")
            notify.bind(path)
            notify.settimeout(20)
            d, _ = self.start(model="slow", env={"NOTIFY_SOCKET": path})
            while "READY=1" not in told:
                told += notify.recv(4096).decode().split("\n")
        percent = [int(t.split()[-2]) for t in told if t.startswith("STATUS=loading default ")]
        self.assertEqual(percent, sorted(percent))
        self.assertTrue(percent and percent[-1] <= 100, told)
        self.assertTrue(any(t.startswith("EXTEND_TIMEOUT_USEC=") for t in told), told)
        self.assertEqual(d.stop()[0], 0)

    def test_a_name_that_is_nowhere(self):
        write(self.bus, "models.d/lost.model", "[Model]\nText=missing.gguf\nPreload=no\n")
        d, c = self.start()
        self.assertIn(self.bus.dir + "/models", self.error("ModelNotReady", c.call, model("lost"), NAME + ".Model", "Load",
                                                           "a{sv}", {}))
        self.assertEqual(d.stop()[0], 0)

    def test_preload_says_which(self):
        write(self.bus, "vlmd.conf", "[Manager]\nDefaultModel=a\n")
        offer(self.bus, "a", "ok-a", Preload="no")
        offer(self.bus, "b", "ok-b", Preload="yes")
        offer(self.bus, "c", "ok-c")
        write(self.bus, "streams.d/porch.stream", f"[Stream]\nUri={FAST}\nModel=c\n")
        d, c = self.start()
        until("b and c", lambda: [c.get(model(n), "Model", "State") for n in "abc"] == ["unloaded", "ready", "ready"])
        self.assertEqual(c.get(c.manager("GetStream", "s", "porch"), "Stream", "Model"), model("c"))
        self.assertEqual(d.stop()[0], 0)

    def test_several_and_none_is_the_default(self):
        for name in "a", "b":
            offer(self.bus, name, "ok-" + name)
        d, c = self.start()
        self.assertEqual(c.get(PATH, "Manager", "State"), "no-model")
        self.assertEqual(c.get(PATH, "Manager", "DefaultModel"), "/")
        self.assertIn("vlmctl model default", self.error("ModelNotReady", c.add, "x", FAST))
        self.assertEqual(c.get(c.add("y", FAST, Model=("o", model("b"))), "Stream", "Model"), model("b"))
        self.assertEqual(d.stop()[0], 0)

    def test_pairs_in_a_model_folder(self):
        folder = pathlib.Path(self.bus.dir, "models")
        folder.mkdir()
        for name in ("Cat-Q8_0.gguf", "mmproj-Cat-Q8_0.gguf", "mmproj-Cat-Q8_0-f16.gguf", "alone.gguf", ".hidden.gguf",
                     "mmproj-nobody.gguf", "notes.txt", "Dog-Q4_K_M.gguf", "Dog-IQ4_NL.gguf", "mmproj-Dog-f16.gguf", "Dog2.gguf",
                     "mmproj-Dog22.gguf", "D-B.gguf", "Q8_0.gguf", "F16.gguf"):
            (folder / name).write_bytes(b"")
        d, c = self.start("--no-preload")
        names = {i[NAME + ".Model"]["Name"][1] for i in c.objects().values() if NAME + ".Model" in i}
        self.assertEqual(names - {"builtin"}, {"Cat-Q8_0", "Dog-Q4_K_M", "Dog-IQ4_NL"})
        self.assertTrue(c.get(model("Cat_2dQ8_5f0"), "Model", "Vision"))
        self.assertEqual(d.stop()[0], 0)

    def test_errors_of_the_configuration(self):
        offer(self.bus, "porch", "ok")
        for name, text, words in (("vlmd.conf", "[Manager]\nDefaultModel=parch\n", "did you mean 'porch'?"),
                                  ("vlmd.conf", "[Manager]\nMemoryBudget=lots\n", "vlmd.conf:2: "),
                                  ("models.d/x.model", "[Model]\nText=/a\nKVFormat=q8_0\n", "x.model:3: "),
                                  ("streams.d/a.stream", "[Stream]\nUri=test:\nModel=parch\n", "did you mean 'porch'?")):
            with self.subTest(text):
                write(self.bus, name, text)
                d, _ = self.start("--check-config", wait=False)
                self.assertEqual(d.proc.wait(10), 78)
                self.assertIn(words, d.logged().splitlines()[-1])
                os.unlink(os.path.join(self.bus.dir, name))


class Real(Case):
    """Two engines with a real, tiny model each."""

    @classmethod
    def make(cls, bus):
        write(bus, "vlmd.conf", "[Manager]\nDefaultModel=one\n")
        for name in "one", "two":
            write(bus, f"models.d/{name}.model", "[Model]\nText=" + TINY[0] + "\nProjector=" + TINY[1] + "\n")
        write(bus, "models.d/blind.model", "[Model]\nText=" + TINY[0] + "\n")
        d = Daemon(bus)
        c = Client(bus)
        until("the model", lambda: c.get(PATH, "Manager", "State") == "ready")
        c.close()
        return d

    def test_F76_a_second_model_comes_and_goes_while_the_first_answers(self):
        s = self.client.add("s", FAST + "&seconds=5")
        until("its end", lambda: self.client.state(s)[0] == "ended")
        want, _ = self.client.ask_text(s, "What is there?", MaxTokens=("u", 8))
        wrong, n, stop = [], [0], threading.Event()

        def ask():
            c = Client(self.bus)
            while not stop.is_set():
                try:
                    got, _ = c.ask_text(s, "What is there?", MaxTokens=("u", 8))
                    n[0] += 1
                    if got != want:
                        wrong.append(got)
                except BusError as e:
                    wrong.append(str(e))
            c.close()

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for t in askers:
            t.start()
        try:
            for _ in range(3):
                slowest, begin = 0.0, time.monotonic()
                self.client.send(model("two"), NAME + ".Model", "Load", "a{sv}", {})
                while self.client.get(model("two"), "Model", "State") != "ready":
                    t0 = time.monotonic()
                    self.client.get(PATH, "Manager", "State")
                    slowest = max(slowest, time.monotonic() - t0)
                # Who waits for the load waits for all of it, however slow this machine is.
                self.assertLess(slowest, max(1, (time.monotonic() - begin) / 2))
                self.client.call(model("two"), NAME + ".Model", "Unload", "a{sv}", {})
        finally:
            stop.set()
            for t in askers:
                t.join()
        self.assertEqual(wrong, [])
        self.assertGreater(n[0], 3)

    def test_a_text_file_alone_answers_and_does_not_see(self):
        blind = {"Model": ("o", model("blind"))}
        answer, details = self.client.manager("AskImageText", "ahsa{sv}", [], "Hello?", {**blind, "MaxTokens": ("u", 8)})
        self.assertLessEqual(details["OutputTokens"][1], 8)
        self.assertEqual(answer, self.client.manager("AskImageText", "ahsa{sv}", [], "Hello?",
                                                     {**blind, "MaxTokens": ("u", 8)})[0])
        self.assertFalse(self.client.get(model("blind"), "Model", "Vision"))
        self.raises("NotSupported", self.client.add, "x", FAST, **blind)
        self.client.call(model("blind"), NAME + ".Model", "Unload", "a{sv}", {})

    def test_two_models_watch_and_answer_side_by_side(self):
        one = self.client.add("one", FAST + "&seconds=5")
        two = self.client.add("two", FAST + "&seconds=5", Model=("o", model("two")))
        for s in one, two:
            until("its end", lambda: self.client.state(s)[0] == "ended", timeout=60)
        self.assertEqual([r[3] for r in self.client.recent(one)], [r[3] for r in self.client.recent(two)])
        self.assertEqual(*(self.client.ask_text(s, "What?", MaxTokens=("u", 12))[0] for s in (one, two)))
        self.assertEqual(self.used(), self.resident("one") + self.resident("two"))
        self.client.remove(two)
        self.client.call(model("two"), NAME + ".Model", "Unload", "a{sv}", {})
        self.assertEqual(self.resident("two"), 0)
        self.assertEqual(self.used(), self.resident("one"))

    def used(self):
        return self.client.get(PATH, "Manager", "MemoryUsedBytes")

    def resident(self, name):
        return self.client.get(model(name), "Model", "ResidentBytes")


@unittest.skipUnless(os.environ.get("VLMCTL"), "no vlmctl in this build")
class Ctl(Case):
    @classmethod
    def make(cls, bus):
        write(bus, "vlmd.conf", "[Manager]\nDefaultModel=first\n")
        offer(bus, "first", "ok-first")
        offer(bus, "slow", "slow")
        offer(bus, "corrupt", "corrupt")
        return Daemon(bus, fake=True, model="")

    def ctl(self, *args):
        p = subprocess.run([os.environ["VLMCTL"], "--bus", self.bus.address, *args], capture_output=True, text=True,
                           timeout=60, check=False)
        return p.returncode, p.stdout, p.stderr

    def test_model(self):
        rc, out, _ = self.ctl("model", "list")
        self.assertEqual(rc, 0)
        self.assertRegex(out, r"(?m)^\* first +ready +1\.0 MiB  /ok-first \(fake, none\)$")
        self.assertRegex(out, r"(?m)^  slow +unloaded$")
        self.assertEqual(self.ctl("model", "load", "slow"), (0, "", ""))
        self.assertIn("ready", self.ctl("model", "show", "slow")[1])
        self.assertEqual(self.ctl("model", "default", "slow")[0], 0)
        self.assertRegex(self.ctl("model", "list")[1], r"(?m)^\* slow +ready")
        self.assertEqual(self.ctl("model", "default", "first")[0], 0)
        self.assertEqual(self.ctl("model", "unload", "slow"), (0, "", ""))
        rc, _, err = self.ctl("model", "load", "corrupt")
        self.assertEqual(rc, 1)
        self.assertIn("ModelInvalid", err)
        for verb in "load", "unload", "show", "default":
            rc, _, err = self.ctl("model", verb, "nobody")
            self.assertEqual(rc, 1, verb)
            self.assertIn("nobody", err)
        self.assertEqual(self.ctl("model", "lode", "slow")[0], 2)

    def test_a_stream_of_it(self):
        self.assertEqual(self.ctl("stream", "add", "s", FAST, "--model", "slow"), (0, "", ""))
        s = self.client.manager("GetStream", "s", "s")
        self.assertEqual(self.client.get(s, "Stream", "Model"), model("slow"))
        self.assertIn("NoSuchModel", self.ctl("stream", "add", "t", FAST, "--model", "nobody")[2])
        self.client.remove(s)
        self.assertEqual(self.ctl("model", "unload", "slow"), (0, "", ""))

    def test_unload_in_use(self):
        s = self.client.add("porch", FAST)
        rc, _, err = self.ctl("model", "unload", "first")
        self.assertEqual(rc, 1)
        self.assertIn("porch", err)
        self.assertEqual(self.ctl("model", "unload", "first", "--force")[0], 0)
        self.assertEqual(self.client.state(s), ("failed", "model"))
        rc, out, err = self.ctl("watch", "porch")
        self.assertEqual((rc, err), (0, ""))
        self.assertTrue(out.endswith("-- porch: failed, model\n"), out)
        self.assertEqual(self.ctl("model", "load", "first")[0], 0)

    def test_status(self):
        rc, out, _ = self.ctl("status")
        self.assertEqual(rc, 0)
        self.assertRegex(out, r"(?m)^\* first +ready")


if __name__ == "__main__":
    unittest.main()
