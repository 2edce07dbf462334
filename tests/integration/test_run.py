#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""vlmd run, as typed: captions, questions, records, exit codes, and what it says of what it cannot use."""
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
import zlib

ROOT = pathlib.Path(os.environ["VLMD_SOURCE_ROOT"])
VLMD, VLMCTL = os.environ["VLMD"], os.environ["VLMCTL"]
HAVE_PNG = os.environ.get("VLMD_HAVE_PNG") == "1"
HAVE_FILES = os.environ.get("VLMD_HAVE_FILES") == "1"
GOLDEN = ROOT / "tests/golden/smolvlm"
TINY = ["--model", str(GOLDEN / "odd-f32-text.gguf"), "--mmproj", str(GOLDEN / "odd-f32-mmproj.gguf")]
WORLD = ["--model", str(ROOT / "data/vlmd-world-text.gguf"), "--mmproj", str(ROOT / "data/vlmd-world-mmproj.gguf")]
FAST = "test:?size=64x64"


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="vlmd-test-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.env = {**os.environ, "XDG_CONFIG_HOME": str(self.dir)}
        self.env.pop("VLMD_CONFIG", None)

    def run_vlmd(self, *args, rc=0, program=VLMD, stdin=subprocess.DEVNULL, word="run", timeout=120):
        """→ stdout, stderr; bytes that are no UTF-8 would be a defect of their own."""
        p = subprocess.run([program, word, *args], stdin=stdin, capture_output=True, timeout=timeout, env=self.env)
        out, err = p.stdout.decode(), p.stderr.decode()
        self.assertEqual(p.returncode, rc, f"{args}\n{out}\n{err}")
        self.assertNotIn("Sanitizer", err)
        self.assertNotIn("runtime error", err)
        return out, err

    def records(self, *args, **kw):
        out, err = self.run_vlmd("--json", *args, **kw)
        return [json.loads(line) for line in out.splitlines()], err

    def file(self, name, data):
        path = self.dir / name
        path.write_bytes(data)
        return str(path)


def of_type(records, kind):
    return [r for r in records if r["type"] == kind]


def png(width, height, colour=None):
    """A picture of colour(x, y); without one, red grows to the right and green grows downwards."""
    colour = colour or (lambda x, y: (x * 255 // width, y * 255 // height, 128))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"".join(bytes(colour(x, y)) for x in range(width)) for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class Video(Case):
    def test_captions_and_an_answer(self):
        out, err = self.run_vlmd(FAST + "&seconds=4", *TINY, "--ask", "What is there?", "--max-tokens", "8")
        lines = out.split("\n")
        asked = lines.index("> What is there?")
        self.assertGreater(asked, 0)
        for line in lines[:asked]:
            self.assertRegex(line, r"^00:00:0[0-3]  \S")
        self.assertEqual(err, "")

    @unittest.skipUnless(HAVE_FILES, "a build without GStreamer reads no files")
    def test_the_sample_clip_with_the_built_in_model(self):
        out, _ = self.run_vlmd(str(ROOT / "data/sample.webm"), *WORLD, "--every", "2s",
                               "--at", "8s", "--ask", "How many shapes are there?", "--ask", "What happened last?")
        self.assertRegex(out, r"(?m)^00:00:\d\d  .*\.$")
        self.assertRegex(out, r"(?m)^> How many shapes are there\?\n\w+\.$")
        before, after = out.split("> How many shapes are there?")
        self.assertTrue(all(int(t) <= 8 for t in re.findall(r"(?m)^00:00:(\d\d)  ", before)), before)
        self.assertTrue(all(int(t) > 8 for t in re.findall(r"(?m)^00:00:(\d\d)  ", after)), after)

    def test_records(self):
        got, _ = self.records(FAST + "&seconds=4", *TINY, "--every", "500ms", "--ask", "What?", "--max-tokens", "8")
        self.assertEqual([r["type"] for r in got][-2:], ["answer", "end"])
        model = of_type(got, "model")[0]
        self.assertEqual(model["architecture"], "smolvlm")
        captions = of_type(got, "caption")
        self.assertEqual([c["id"] for c in captions], list(range(1, len(captions) + 1)))
        self.assertTrue(all(c["pts"] % 500000 == 0 and c["pts_end"] > c["pts"] and c["text"] for c in captions))
        answer = of_type(got, "answer")[0]
        self.assertEqual((answer["question"], answer["status"], answer["pts"]), ("What?", "ok", 3500000))
        self.assertLessEqual(answer["output_tokens"], 8)
        self.assertGreater(answer["prompt_tokens"], 0)
        self.assertGreaterEqual(answer["total_usec"], answer["first_token_usec"])
        self.assertEqual(got[-1], {"type": "end", "status": "ok", "frames": 8, "skipped": 0})

    def test_a_question_for_a_moment_is_about_what_came_before(self):
        short, _ = self.records(FAST + "&seconds=4", *TINY, "--ask", "What?", "--max-tokens", "12")
        long, _ = self.records(FAST + "&seconds=9", *TINY, "--at", "3s", "--ask", "What?", "--max-tokens", "12")
        a, b = of_type(short, "answer")[0], of_type(long, "answer")[0]
        self.assertEqual((a["text"], a["pts"]), (b["text"], b["pts"]))
        self.assertEqual(long[-1]["frames"], 9)
        order = [r for r in long if r["type"] in ("caption", "answer")]
        at = order.index(b)
        self.assertTrue(all(r["pts"] <= 3000000 for r in order[:at]) and all(r["pts"] > 3000000 for r in order[at + 1:]))

    def test_questions_for_moments_in_the_order_of_time(self):
        got, _ = self.records(FAST + "&seconds=5", *TINY, "--captions", "none", "--max-tokens", "4", "--ask", "end",
                              "--at", "3s", "--ask", "three", "--at", "1s", "--ask", "one", "--at", "1s", "--ask", "one more",
                              "--at", "1h", "--ask", "late")
        self.assertEqual([(a["question"], a["pts"]) for a in of_type(got, "answer")],
                         [("one", 1000000), ("one more", 1000000), ("three", 3000000), ("late", 4000000), ("end", 4000000)])
        self.assertEqual(of_type(got, "caption"), [])

    def test_formats_of_captions(self):
        vtt, _ = self.run_vlmd(FAST + "&seconds=3", *TINY, "--captions", "vtt")
        self.assertTrue(vtt.startswith("WEBVTT\n\n1\n00:00:0"), vtt)
        srt, _ = self.run_vlmd(FAST + "&seconds=3", *TINY, "--captions", "srt")
        self.assertRegex(srt, r"^1\n00:00:0\d,000 --> ")
        text, _ = self.run_vlmd(FAST + "&seconds=3", *TINY, "--captions", "text")
        self.assertNotIn("00:00:0", text)
        self.run_vlmd(FAST + "&seconds=3", *TINY, "--captions", "vtt", "--ask", "x", rc=2)
        _, err = self.run_vlmd(FAST, *TINY, "--captions", "wtt", rc=2)
        self.assertIn("vtt", err)

    def test_at_its_own_pace(self):
        t0 = time.monotonic()
        got, _ = self.records(FAST + "&seconds=3", *TINY, "--realtime", "--at", "1s", "--ask", "What?", "--max-tokens", "4")
        self.assertGreater(time.monotonic() - t0, 1.9)
        self.assertEqual(len(of_type(got, "answer")), 1)
        self.assertEqual(got[-1]["status"], "ok")

    def test_a_source_that_breaks_off_is_still_asked_about(self):
        got, err = self.records(FAST + "&seconds=60&fault=crash@3", *TINY, "--ask", "What?", "--max-tokens", "4", rc=1)
        self.assertEqual(len(of_type(got, "answer")), 1)
        self.assertEqual(got[-1]["status"], "failed")
        self.assertIn("killed", got[-1]["message"])
        self.assertIn("killed", err)

    def test_ctrl_c(self):
        for extra, sig, rc in ((["--json"], signal.SIGINT, 130), ([], signal.SIGTERM, 143)):
            p = subprocess.Popen([VLMD, "run", FAST, *TINY, *extra], stdout=subprocess.PIPE, env=self.env)
            self.addCleanup(p.stdout.close)
            for _ in range(3):
                self.assertTrue(p.stdout.readline())
            kids = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()
            self.assertEqual(len(kids), 1)
            p.send_signal(sig)
            rest = p.stdout.read().decode()
            self.assertEqual(p.wait(10), rc)
            self.assertFalse(pathlib.Path(f"/proc/{kids[0]}/exe").exists())
            if extra:
                self.assertEqual(json.loads(rest.splitlines()[-1])["status"], "interrupted")

    def test_a_reader_who_leaves_ends_it(self):
        p = subprocess.Popen([VLMD, "run", FAST, *TINY], stdout=subprocess.PIPE, env=self.env)
        p.stdout.readline()
        p.stdout.close()
        self.assertEqual(p.wait(20), 1)


class TextAndPictures(Case):
    def test_text_alone(self):
        for model in (TINY[:2], TINY):
            out, err = self.run_vlmd(*model, "--ask", "Name three fruits.", "--max-tokens", "8")
            self.assertEqual((out.count("\n") >= 1, err), (True, ""))
        got, _ = self.records(*TINY[:2], "--ask", "One?", "--ask", "Two?", "--max-tokens", "8")
        self.assertEqual([r["question"] for r in of_type(got, "answer")], ["One?", "Two?"])
        self.assertNotIn("pts", of_type(got, "answer")[0])
        self.assertEqual(got[-1], {"type": "end", "status": "ok"})

    def test_temperature_and_seed(self):
        def answer(*how):
            got, _ = self.records(*TINY[:2], "--ask", "Say something.", "--max-tokens", "24", *how)
            return of_type(got, "answer")[0]["text"]

        warm = answer("--temperature", "2", "--seed", "7")
        self.assertEqual(warm, answer("--temperature", "2", "--seed", "7"))
        self.assertEqual(answer(), answer("--seed", "7"))
        self.assertTrue(any(answer("--temperature", "2", "--seed", str(n)) != warm for n in (8, 9, 10)))

    @unittest.skipUnless(HAVE_PNG, "a build without libpng reads no PNG")
    def test_a_picture(self):
        path = self.file("photo.jpg", png(96, 64))  # what it is counts, not how it is called
        named, err = self.run_vlmd(path, *TINY, "--ask", "What is there?", "--max-tokens", "8")
        self.assertEqual(err, "")
        option, _ = self.run_vlmd("--image", path, *TINY, "--ask", "What is there?", "--max-tokens", "8")
        with open(path, "rb") as f:
            stdin, _ = self.run_vlmd("-", *TINY, "--ask", "What is there?", "--max-tokens", "8", stdin=f)
        self.assertEqual((named, named), (option, stdin))
        got, _ = self.records(path, *TINY, "--ask", "What is there?", "--max-tokens", "8")
        one = of_type(got, "answer")[0]
        self.assertEqual(one["text"].strip(), named.strip())
        got, _ = self.records(path, self.file("b.png", png(64, 96)), *TINY, "--ask", "What is there?", "--max-tokens", "8")
        two = of_type(got, "answer")[0]
        got, _ = self.records(*TINY, "--ask", "What is there?", "--max-tokens", "8")
        none = of_type(got, "answer")[0]
        self.assertGreater(one["prompt_tokens"], none["prompt_tokens"] + 4)
        self.assertGreater(two["prompt_tokens"], one["prompt_tokens"] + 4)

    @unittest.skipUnless(HAVE_PNG, "a build without libpng reads no PNG")
    def test_the_builtin_model_sees_a_picture(self):
        def disc(cx, cy, red):
            return png(160, 120, lambda x, y: red if (x - cx) ** 2 + (y - cy) ** 2 < 20 ** 2 else (20, 20, 30))

        red = self.file("red.png", disc(40, 30, (255, 0, 0)))
        asked = {"Where is the red circle?": "Top left.", "What shape is red?": "Circle.", "How many shapes are there?": "One."}
        for question, answer in asked.items():
            self.assertEqual(self.run_vlmd(red, *WORLD, "--ask", question)[0].strip(), answer)
        blue = self.file("blue.png", disc(130, 95, (30, 60, 255)))
        self.assertEqual(self.run_vlmd(blue, *WORLD, "--ask", "Where is the blue circle?")[0].strip(), "Bottom right.")

    @unittest.skipUnless(HAVE_PNG, "a build without libpng reads no PNG")
    def test_without_a_question_it_is_described(self):
        got, _ = self.records(self.file("a.png", png(32, 32)), *TINY, "--max-tokens", "4")
        self.assertIn("escribe", of_type(got, "answer")[0]["question"])


class Wrong(Case):
    """Each of the usual stumbles says what to do."""

    def says(self, rc, pattern, *args, **kw):
        out, err = self.run_vlmd(*args, rc=rc, **kw)
        self.assertRegex(err, pattern)
        self.assertEqual(len(err.splitlines()), 1, err)
        self.assertEqual(out, "")

    def test_usage(self):
        for pattern, args in (
            ("name a file, or --ask", []),
            ("did you mean --seed", ["--sede=3"]),
            ("--steams", ["--steams"]),
            ("needs a value", [FAST, "--ask"]),
            ("takes no value", [FAST, "--json=yes"]),
            ("not a time", [FAST, "--every", "fast"]),
            ("its range", [FAST, "--every", "1ms"]),
            ("whole number", [FAST, "--max-tokens", "-3"]),
            ("4G", [FAST, "--memory", "lots"]),
            ("0 to 10", [FAST, "--temperature", "warm"]),
            ("none or change", [FAST, "--gate", "open"]),
            ("before its --ask", [FAST, "--at", "3s"]),
            ("needs a video", ["--at", "3s", "--ask", "x"]),
            ("one video at a time", [FAST, FAST]),
            ("--ask", [FAST, "--captions", "none"]),
            ("--mmproj needs --model", [FAST, "--mmproj", "x"]),
            ("--mmproj needs --model", ["--image", str(ROOT / "README.md"), "--mmproj", "x"]),
            ("1 to", [FAST, "--ask", ""]),
            ("UTF-8", [FAST, "--ask", b"\xff\xfe"]),
        ):
            self.says(2, pattern, *args)

    def test_sources(self):
        self.says(1, "No such file", "nowhere.mp4", *TINY)
        self.says(1, "folder", str(self.dir), *TINY)
        self.says(1, "device", "/dev/null", *TINY)
        self.says(1, "network", "rtsp://cam.lan/1", *TINY)
        self.says(1, "empty", self.file("e.mp4", b""), *TINY)
        self.says(1, "is a model", TINY[1], *TINY)
        self.says(1, "did you mean 'seed'", "test:?sed=3", *TINY)
        if os.getuid() != 0:
            os.chmod(path := self.file("secret.mp4", b"x"), 0)
            self.says(1, "permission", path, *TINY)

    def test_models(self):
        self.says(1, "No such file", FAST, "--model", "/nowhere.gguf", "--mmproj", "/nowhere.gguf")
        self.says(1, "swapped", FAST, "--model", TINY[3], "--mmproj", TINY[1])
        self.says(1, "--mmproj", FAST, "--model", TINY[1])

    def test_models_by_name(self):
        models = self.dir / "vlmd/models.d"
        models.mkdir(parents=True)
        for name in ("tiny", "other"):
            (models / f"{name}.model").write_text(f"[Model]\nText={TINY[1]}\nProjector={TINY[3]}\n")
        got, _ = self.records(FAST + "&seconds=1", "--model", "tiny")
        self.assertEqual(got[-1]["status"], "ok")
        self.says(1, "did you mean 'tiny'", FAST, "--model", "tinny")
        self.says(1, "which model.*other.*tiny", FAST)
        self.says(2, "--mmproj goes with", FAST, "--model", "tiny", "--mmproj", TINY[3])

    @unittest.skipUnless(HAVE_PNG, "a build without libpng reads no PNG")
    def test_pictures(self):
        whole = png(96, 64)
        self.says(1, r"cut\.png: .*ends", self.file("cut.png", whole[:len(whole) // 2]), *TINY, "--ask", "x")
        self.says(1, "no JPEG, PNG or WebP", "--image", str(ROOT / "README.md"), *TINY, "--ask", "x")
        self.says(1, "--mmproj", self.file("a.png", whole), "--model", TINY[1], "--ask", "x")
        self.says(2, "video and", FAST, self.dir / "a.png", *TINY)
        self.says(2, "more than 8", *[str(self.dir / "a.png")] * 9, *TINY)
        self.says(2, "need a video", str(self.dir / "a.png"), *TINY, "--realtime")

    def test_memory(self):
        self.says(1, "missing|more", FAST, *TINY, "--memory", "100K")

    def test_strangers(self):
        for pattern, data in (("safetensors.*convert", b"\x40\1\0\0\0\0\0\0{\"__metadata__\":{}}"),
                              ("git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
                              ("web page", b"<!doctype html><html><head><title>model</title>")):
            self.says(1, pattern, "--model", self.file("model.gguf", data), "--ask", "x")

    def test_no_ingest(self):
        self.says(1, "--ingest", FAST, *TINY, "--ingest", "/nowhere")

    def test_configuration(self):
        (self.dir / "vlmd").mkdir()
        (self.dir / "vlmd/vlmd.conf").write_text("[Manager]\nWorkers=many\n")
        self.says(78, r"vlmd\.conf:2: Workers=", FAST, *TINY)


class Check(Case):
    @unittest.skipUnless((pathlib.Path(VLMD).parents[2] / "data/vlmd-world-text.gguf").exists(), "a build outside the tree")
    def test_the_built_in_model_of_the_tree(self):
        out, _ = self.run_vlmd("--json", word="plan")
        self.assertEqual(json.loads(out)["name"], "vlmd drawn world")

    def test_a_pair_that_can_be_used(self):
        out, err = self.run_vlmd(TINY[1], TINY[3], word="check")
        self.assertRegex(out, r"(?m)^text$")
        self.assertEqual((out.splitlines()[-1], err), ("usable", ""))
        out, _ = self.run_vlmd(TINY[1], TINY[3], "--json", word="check")
        got = json.loads(out)
        self.assertTrue(got["usable"])
        self.assertEqual({frozenset(f) for f in got["findings"]}, {frozenset(("section", "key", "value"))})
        out, _ = self.run_vlmd("check", TINY[1], TINY[3], word="model", program=VLMCTL)
        self.assertEqual(out.splitlines()[-1], "usable")

    def test_text_alone(self):
        out, _ = self.run_vlmd(TINY[1], word="check")
        self.assertIn("text alone", out.splitlines()[-1])

    def test_one_that_cannot(self):
        out, _ = self.run_vlmd(TINY[3], TINY[1], word="check", rc=1)
        self.assertRegex(out.splitlines()[-1], "^not usable: .*swapped")
        out, _ = self.run_vlmd(TINY[3], TINY[1], "--json", word="check", rc=1)
        self.assertFalse(json.loads(out)["usable"])
        self.assertIn("swapped", json.loads(out)["error"])
        self.run_vlmd(word="check", rc=2)


class Plan(Case):
    def test_bytes_and_times(self):
        out, _ = self.run_vlmd(*TINY, "--streams", "3", "--questions", "2", "--json", word="plan")
        p = json.loads(out)
        self.assertEqual(p["total_bytes"], p["weight_bytes"] + p["scratch_bytes"] + p["pool_bytes"])
        self.assertGreaterEqual(p["pool_bytes"], 3 * p["stream_bytes"] + 2 * p["question_bytes"])
        self.assertTrue(all(p[k] > 0 for k in ("encode_usec", "prefill_usec", "token_usec", "tokens_per_frame")), p)
        out, err = self.run_vlmd(*TINY, "--streams", "3", word="plan", program=VLMCTL)
        self.assertRegex(out, r"(?m)^  3 streams: [0-9.e+]+ looks a second each")
        self.assertEqual(err, "")

    def test_wrong(self):
        _, err = self.run_vlmd("--model", "/nowhere.gguf", word="plan", rc=1)
        self.assertIn("No such file", err)
        for args in (["--streams", "0"], ["--streams", "1000"], ["x"], ["--mmproj", "x"]):
            self.run_vlmd(*args, word="plan", rc=2)


class Offers(Case):
    """What may be chosen is what the lists say."""

    def offers(self, word):
        return json.loads(self.run_vlmd("--json", word=word)[0])

    def test_lists(self):
        for word in "reducers", "policies":
            out, err = self.run_vlmd(word=word, program=VLMCTL)
            self.assertEqual(err, "")
            offers = self.offers(word)
            self.assertEqual([o["name"] for o in offers], re.findall(r"(?m)^([a-z]\S*)", out))
            for option in [p for o in offers for p in o["options"]]:
                self.assertRegex(out, rf"(?m)^ +{option['name']} ")
                if option["type"] == "number":
                    self.assertTrue(option["min"] <= option["default"] <= option["max"], option)
            self.run_vlmd("x", word=word, rc=2)
        self.assertIn("uniform", [o["name"] for o in self.offers("reducers")])
        self.assertIn("sink_window", [o["name"] for o in self.offers("policies")])

    def test_all_run(self):
        seconds = 4
        for o in self.offers("reducers"):
            if o["needs_question"]:
                _, err = self.run_vlmd(FAST, *TINY, "--reducer", o["name"], rc=2)
                self.assertIn("needs a question", err)
                for more in ["--tokens-per-frame", "3"], *([] if o["needs_budget"] else [[]]):
                    got, err = self.records(FAST + "&seconds=2", *TINY, "--reducer", o["name"], "--ask", "What?", *more)
                    self.assertEqual((of_type(got, "answer")[0]["status"], err), ("ok", ""), o["name"])
                continue
            written = o["name"] + ":" + ",".join(f"{p['name']}={p['default']}" for p in o["options"] if p["type"] == "number")
            if o["needs_budget"]:
                _, err = self.run_vlmd(FAST, *TINY, "--reducer", o["name"], rc=2)
                self.assertIn("--tokens-per-frame", err)
            for more in (["--tokens-per-frame", "3"], ["--tokens-per-frame", "1"], *([] if o["needs_budget"] else [[]])):
                got, err = self.records(FAST + f"&seconds={seconds}", *TINY, "--reducer", written.rstrip(":"), *more)
                self.assertEqual((of_type(got, "end")[0]["frames"], err), (seconds, ""), o["name"])
        for o in self.offers("policies"):
            self.run_vlmd(FAST + "&seconds=2", *TINY, "--policy", o["name"])

    def test_wrong(self):
        for args, word in ((["--reducer", "unifrom"], "uniform"), (["--reducer", "uniform:x=1"], "'x'"),
                           (["--reducer", "temporal_diff:treshold=1"], "threshold"), (["--reducer", ":"], "NAME"),
                           (["--reducer", "temporal_diff:threshold=7"], "between"), (["--reducer", "diverse:uniform"], "KEY=VALUE"),
                           (["--policy", "sink_windw"], "sink_window"), (["--policy", "sink_window:window=x"], "number"),
                           (["--tokens-per-frame", "-1"], "tokens-per-frame")):
            _, err = self.run_vlmd(FAST, *TINY, *args, rc=2)
            self.assertIn(word, err)


class Manual(Case):
    """A page says all that --help says."""

    def page(self, name):
        return (ROOT / "docs/man" / name).read_text().replace("\\-", "-")

    def test_options(self):
        page = self.page("vlmd.1")
        for word in ("run", "check", "plan", "reducers", "policies", None):
            args = [VLMD, word, "--help"] if word else [VLMD, "--help"]
            text = subprocess.run(args, capture_output=True, text=True, check=True, env=self.env).stdout
            for option in re.findall(r"--[a-z][a-z-]*", text):
                self.assertIn(option, page, word)

    def test_verbs(self):
        page = self.page("vlmctl.1")
        text = subprocess.run([VLMCTL, "--help"], capture_output=True, text=True, check=True).stdout
        for verb in re.findall(r"(?m)^  vlmctl ([a-z]+)", text):
            self.assertRegex(page, rf"\b{verb}\b")


class Vlmctl(Case):
    def test_completion(self):
        script, _ = self.run_vlmd("bash", program=VLMCTL, word="completion")

        def words(*line):
            quoted = " ".join(f"'{w}'" for w in line)
            shell = f"vlmctl() {{ echo 'porch running'; }}\n{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(line) - 1}\n"
            p = subprocess.run(["bash", "-c", shell + "_vlmctl; echo ${COMPREPLY[@]}"], capture_output=True, check=True)
            self.assertEqual(p.stderr, b"")
            return p.stdout.decode().split()

        self.assertEqual(words("vlmctl", "st"), ["status", "stream"])
        self.assertIn("add", words("vlmctl", "stream", ""))
        self.assertIn("--every", words("vlmctl", "--bus", "x", "stream", "add", "--ev"))
        self.assertEqual(words("vlmctl", "watch", "po"), ["porch"])
        self.assertEqual(words("vlmctl", "run", "--reducer", ""), ["porch"])
        self.run_vlmd("fish", program=VLMCTL, word="completion", rc=2)

    def test_it_becomes_vlmd(self):
        out, _ = self.run_vlmd("--json", FAST + "&seconds=1", *TINY, program=VLMCTL)
        self.assertEqual(json.loads(out.splitlines()[-1])["status"], "ok")
        out, _ = self.run_vlmd("--help", program=VLMCTL)
        self.assertIn("vlmd run", out)
        self.env["VLMD"] = "/nowhere/vlmd"
        _, err = self.run_vlmd("x", program=VLMCTL, rc=1)
        self.assertIn("$VLMD", err)


if __name__ == "__main__":
    unittest.main()
