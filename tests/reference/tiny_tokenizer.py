# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""A small byte-level BPE with the splitters of SmolLM2 ("smollm") and the special tokens of SmolVLM."""
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
import json

BASE = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<global-img>", "<row_1_col_1>", "<row_1_col_2>", "<fake_token_around_image>", "<image>",
         "<|reserved_special_token_0|>", "<end_of_utterance>"]
TEXT = """System: Say what changed.
User:
Frame from 0:00:05:
Assistant: A red circle appeared, top left.
User: What colour is the circle?
Assistant: Red.

User: Where is the blue square? How many shapes are there?
Assistant: The blue square moves right. Three.
"""
TEMPLATE = ("<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}: "
            "{{message['content'][0]['text']}}<end_of_utterance>\n{% endfor %}"
            "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")


def pipeline(model):
    t = Tokenizer(model)
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def make_tokenizer(n_words, added=ADDED):
    """n_words: entries before the added tokens, bytes included"""
    t = pipeline(models.BPE())
    t.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=n_words, special_tokens=BASE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    bpe = json.loads(t.to_str())["model"]
    vocab = bpe["vocab"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ", 1)) for m in bpe["merges"]]
    newline = "\u010a"
    if newline * 2 not in vocab:  # llama.cpp's reader of SmolVLM wants it as one token
        vocab[newline * 2] = len(vocab)
        merges.append((newline, newline))
    t = pipeline(models.BPE(vocab=vocab, merges=merges))
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in BASE + added])
    p = PreTrainedTokenizerFast(
        tokenizer_object=t, bos_token="<|im_start|>", unk_token="<|endoftext|>", pad_token="<|im_end|>",
        eos_token="<end_of_utterance>" if "<end_of_utterance>" in added else "<|im_end|>",
        clean_up_tokenization_spaces=False, model_max_length=8192, additional_special_tokens=[
            x for x in ("<fake_token_around_image>", "<image>", "<end_of_utterance>") if x in added])
    p.chat_template = TEMPLATE
    return p
