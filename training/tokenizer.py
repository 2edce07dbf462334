# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The small byte-level BPE: every word of the world, with its leading space, is one token.

Merges are laid down word by word, left to right, each word after those before it.
A word's own merges rank below all later ones, so it stays one token whatever follows.
Everything else is spelt in bytes. Splitter `smollm`: digits apart, then the GPT-2 regex.
"""
import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import world as W

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<global-img>", "<image>",
           "<end_of_utterance>"]
CAPTION_WORDS = "A An The appeared is gone turned moves Yes No Nothing Zero One Two Three Four Five It still".split()
PLACE_WORDS = "top left middle right bottom up down".split()
QUESTION_WORDS = """what colour color shape is the where was at there a an how many shapes were which way moving
    seconds ago happened last it objects things thing object one has of tell me does have in kind do you see
    place can position part picture now on anything any number count are direction move going changed change event
    did five before just who your name are old time nothing I only places colours numbers and movement to not why
    happy like by looking will next this my going""".split()
FOOTAGE_WORDS = "something covered clear again light moved".split()  # came later: their tokens are the last
PROTOCOL_WORDS = ["User", "Assistant", "System", "Frame", " from", " Say", " what", " changed"]
ANSWER_TO_UNKNOWN = "I can only tell shapes, colours, places, numbers and movement."


def byte_alphabet():
    """byte -> printable character of GPT-2"""
    keep = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    table = {b: chr(b) for b in keep}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(keep))
    return table


ALPHABET = byte_alphabet()


def words(footage=True):
    """in the order of their merges; contract words in three cases"""
    out = list(PROTOCOL_WORDS)
    known = W.SHAPES + W.COLOURS + PLACE_WORDS + [w for w in CAPTION_WORDS] + QUESTION_WORDS
    lower = list(dict.fromkeys(w.lower() for w in known))
    for w in lower:
        out += [" " + w, " " + w.capitalize()]
    for w in lower:
        out.append(" " + w.upper())
    out.append("\n\n")
    for w in FOOTAGE_WORDS if footage else ():
        out += [" " + w, " " + w.capitalize()]
    return list(dict.fromkeys(out))


def merge_all(symbols, ranks):
    symbols = list(symbols)
    while len(symbols) > 1:
        pairs = [(ranks.get((a, b), 1 << 30), i) for i, (a, b) in enumerate(zip(symbols, symbols[1:]))]
        rank, i = min(pairs)
        if rank == 1 << 30:
            break
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols


def build(footage=True):
    """-> tokens (by id), merges as pairs"""
    ranks, tokens = {}, SPECIAL + [ALPHABET[b] for b in range(256)]
    known = set(tokens)
    for word in words(footage):
        symbols = merge_all([ALPHABET[b] for b in word.encode()], ranks)
        while len(symbols) > 1:
            ranks[(symbols[0], symbols[1])] = len(ranks)
            if symbols[0] + symbols[1] not in known:
                known.add(symbols[0] + symbols[1])
                tokens.append(symbols[0] + symbols[1])
            symbols = merge_all([ALPHABET[b] for b in word.encode()], ranks)
    return tokens, list(ranks)


class Vocabulary:
    def __init__(self):
        self.tokens, self.merges = build()
        self.n_drawn = len(build(footage=False)[0])  # those that were there before footage
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        self.hf = Tokenizer(models.BPE(self.ids, self.merges))
        gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        self.hf.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), pre_tokenizers.Split(Regex(gpt2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        self.hf.decoder = decoders.ByteLevel()
        self.cache = {}
        (self.endoftext, self.im_start, self.im_end, self.fake, self.global_img, self.image, self.end) = range(7)

    def __len__(self):
        return len(self.tokens)

    def encode(self, text):
        """plain text, no special tokens in it"""
        if text not in self.cache:
            if len(self.cache) > 200000:
                self.cache.clear()
            self.cache[text] = self.hf.encode(text).ids
        return self.cache[text]

    def encode_marked(self, text):
        """text with special tokens, split at them first"""
        out = []
        for part in re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text):
            out += [SPECIAL.index(part)] if part in SPECIAL else self.encode(part) if part else []
        return out

    def decode(self, ids):
        return self.hf.decode([i for i in ids if i >= len(SPECIAL)])

    def word(self, word):
        """id of a word with its leading space"""
        ids = self.encode(" " + word)
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens")
        return ids[0]

    def cases(self):
        """groups of ids that are one word in several cases, with or without the space"""
        groups = {}
        for t, i in self.ids.items():
            text = t.replace("\u0120", " ").strip().lower()
            if len(text) > 1 and text.isalpha():
                groups.setdefault(text, []).append(i)
        return [g for g in groups.values() if len(g) > 1]


if __name__ == "__main__":
    v = Vocabulary()
    print(len(v), "tokens,", len(v.merges), "merges")
    for word in words():
        assert len(v.encode(word)) == 1, word
    quiz, worlds = W.Quiz(1), [W.World(s, event_rate=0.5) for s in range(40)]
    import numpy as np
    spelt = {}
    for world in worlds:
        history = []
        for _ in range(12):
            history.append(world.truth())
            world.step()
        history = np.array(history)
        for c in W.CATEGORIES * 5:
            item = quiz.ask(history, c)
            for text in ([item["question"].decode(), item["answer"].decode()] if item else []):
                for w in re.findall(r" ?[A-Za-z]+", " " + text):
                    if len(v.encode(w)) > 1 and c != "unknown":
                        spelt[w] = len(v.encode(w))
    print("spelt in pieces:", spelt)
    print([v.tokens[i] for i in v.encode_marked("<end_of_utterance>\nUser:\nFrame from 0:00:05:<fake_token_around_image>")])
    print([v.tokens[i] for i in v.encode("\nUser: Where was the red circle 5 seconds ago?")])
    print([v.tokens[i] for i in v.encode("\nAssistant: A red circle appeared, top left.")])
