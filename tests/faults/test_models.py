#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""Faults of model files and of numbers, seen from outside; README.md has the list."""
import math
import os
import time
import unittest

from faults import FAST, MMPROJ, SLACK, TEXT, Gguf, Real, copy_pair, real
import vlm
from vlm import PATH, Bus, BusError, Client, read_all, records, until

ENDS = b"<|endoftext|>", b"<|im_end|>", b"<end_of_utterance>"


class Shortened(Real):
    """F36: once it is loaded, nothing depends on the file."""

    @classmethod
    def make(cls, bus):
        cls.pair = copy_pair(bus.dir)
        return real(bus, text=cls.pair[0], mmproj=cls.pair[1])

    def test_F36_shortened_under_the_daemon(self):
        s = self.watched("before")
        before, _ = self.client.ask_text(s, "What is there?", MaxTokens=("u", 40))
        for path in self.pair:
            os.truncate(path, 100)
        after, _ = self.client.ask_text(s, "What is there?", MaxTokens=("u", 40))
        self.assertEqual(after, before)
        self.client.ask_text(self.watched("after"), "And now?", MaxTokens=("u", 40))


class Endless(Real):
    """F39: a model whose end tokens never win."""

    @classmethod
    def make(cls, bus):
        text = Gguf(TEXT)
        for word in ENDS:
            text.set_row("output.weight", text.tokens.index(word), 0.0)
        return real(bus, text=text.save(os.path.join(bus.dir, "endless.gguf")))

    def ends(self, stream, question, **options):
        _, pipe = self.client.ask(stream, question, Format=("s", "jsonl"), **options)
        return records(read_all(pipe, timeout=vlm.TIMEOUT * SLACK))[-1]

    def test_F39_never_ends(self):
        s = self.watched("endless", 20)
        self.assertEqual(self.client.state(s), ("ended", "end-of-file"))
        rows = self.client.recent(s)
        self.assertEqual(len(rows), 20)
        self.assertTrue(all(len(r[3].encode()) < 4096 for r in rows))
        warm = {"Temperature": ("d", 1.0)}  # no loop that a guard could see, and hardly ever an end
        got = [self.ends(s, "Go on.", MaxTokens=("u", 50), Seed=("t", seed), **warm) for seed in range(8)]
        self.assertEqual({e["status"] for e in got}, {"ok"})
        self.assertEqual(max(e["output_tokens"] for e in got), 50)
        t0 = time.monotonic()
        got = [self.ends(s, "Go on.", MaxTokens=("u", 4096), DeadlineUSec=("t", 50000), Seed=("t", seed), **warm)
               for seed in range(8)]
        self.assertIn("deadline", {e["status"] for e in got})
        self.assertLess(time.monotonic() - t0, 8 * 0.1 * SLACK)
        end = self.ends(s, "Go on.", MaxTokens=("u", 4096))
        self.assertEqual(end["status"], "ok")
        self.assertLess(end["output_tokens"], 4096, "a loop was not noticed")


class BadWord(Real):
    """F40: one word's embedding is no number. Who says it gets no answer, and nobody else notices."""

    WORD = "#"

    @classmethod
    def make(cls, bus):
        text = Gguf(TEXT)
        text.set_row("token_embd.weight", text.tokens.index(cls.WORD.encode()), math.nan)
        text.set_row("output.weight", text.tokens.index(cls.WORD.encode()), 0.0)  # the model does not say it
        return real(bus, text=text.save(os.path.join(bus.dir, "bad-word.gguf")))

    def test_F40_nan_in_a_question(self):
        s = self.watched("numbers")
        control, _ = self.client.ask_text(s, "What is there?", MaxTokens=("u", 60))
        rows = self.client.recent(s)
        for question in "#", "What is # there?", "word " * 100 + "#", "#" + " word" * 300:
            with self.assertRaises(BusError) as c:
                self.client.ask_text(s, question)
            self.assertIn("numeric", c.exception.text)
            _, pipe = self.client.ask(s, question, Format=("s", "jsonl"))
            got = records(read_all(pipe))
            self.assertEqual((len(got), got[0]["status"]), (1, "failed"), "text was sent before the failure")
            self.assertEqual(self.client.ask_text(s, "What is there?", MaxTokens=("u", 60))[0], control)
        self.assertEqual(self.client.recent(s), rows)


class BadLayers(unittest.TestCase):
    """F40: numbers that are none in each layer of each half: no answer is ever made of them, and the daemon lives."""

    def with_bad(self, text, mmproj, check):
        bus = Bus()
        self.addCleanup(bus.close)
        d = real(bus, text=text.save(f"{bus.dir}/text.gguf"), mmproj=mmproj.save(f"{bus.dir}/mmproj.gguf"))
        self.addCleanup(d.close)
        c = Client(bus)
        self.addCleanup(c.close)
        check(c, c.add("bad", f"{FAST}&seconds=6"))
        self.assertEqual(c.get(PATH, "Manager", "State"), "ready")
        self.assertEqual(d.stop()[0], 0)

    def no_answer(self, client, stream):
        until("its end", lambda: client.state(stream)[0] in ("ended", "failed"), timeout=60)
        with self.assertRaises(BusError) as c:
            client.ask_text(stream, "What is there?")
        self.assertEqual(client.recent(stream), [])
        return c.exception.text

    def check_text(self, client, stream):
        self.assertIn("numeric", self.no_answer(client, stream))
        self.assertEqual(client.state(stream)[0], "failed")

    def check_eyes(self, client, stream):
        self.no_answer(client, stream)
        frames = client.get(stream, "Stream", "Frames")
        self.assertEqual((frames["seen"], client.get(stream, "Stream", "Tokens")["visual"]), (0, 0), frames)

    def test_F40_nan_in_each_layer_of_the_text_model(self):
        for layer in 0, 1:
            for tensor in "attn_v", "ffn_down":
                text = Gguf(TEXT)
                text.set_row(f"blk.{layer}.{tensor}.weight", 3, math.nan)
                with self.subTest(layer=layer, tensor=tensor):
                    self.with_bad(text, Gguf(MMPROJ), self.check_text)

    def test_F40_nan_in_each_layer_of_the_eyes(self):
        for layer, value in (0, math.nan), (1, math.inf):
            mmproj = Gguf(MMPROJ)
            mmproj.set_row(f"v.blk.{layer}.ffn_down.weight", 1, value)
            with self.subTest(layer=layer):
                self.with_bad(Gguf(TEXT), mmproj, self.check_eyes)


if __name__ == "__main__":
    unittest.main()
