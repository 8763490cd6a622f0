"""The starter's tokenizer: CLIP's byte-level BPE with a small vocabulary, so any text in any script has tokens."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from lora_core.starter.world import COLOURS, SHAPES

START, END = "<|startoftext|>", "<|endoftext|>"
CORPUS = (
    *(f"a {c} {s} on a {b} background, a picture of a {s}, {c}" for c in COLOURS for s in SHAPES for b in COLOURS),
    *["the of and to in is with for photo drawing painting style portrait small large big little old new"] * 40,
    *["hand face eye hair tree house sky sea light dark night day man woman girl boy cat dog bird fish flower"] * 40,
    *["best quality masterpiece detailed simple flat cartoon sketch watercolor ink line art anime pixel"] * 40,
    *["gray grey brown gold silver striped dotted plain smooth bright soft warm cold left right top bottom"] * 40,
)


def build_tokenizer() -> CLIPTokenizer:
    """Train the merges on a fixed corpus; the same on every machine. 77 tokens, lower case, as CLIP's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    merges = _merges(tokenizer)
    # CLIP's order: bytes, bytes that end a word, merges by rank, then the two marks.
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=77,
    )


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]
