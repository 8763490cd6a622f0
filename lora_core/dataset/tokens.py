"""How long a caption is to CLIP, counted without torch: byte pair encoding as all the Stable Diffusion families use it.

Radford et al., 2021 (github.com/openai/CLIP, simple_tokenizer.py). A model with a vocabulary of its own, such as
the starter, counts otherwise.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

CHUNK, MARKED = 75, 77  # tokens that CLIP reads at once, without and with the marks for start and end
_MERGES = Path(__file__).parent / "assets" / "clip_merges.txt.gz"
# Endings as in "it's", runs of letters, single digits, runs of signs. "_" is a sign to CLIP and a letter to Python.
_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
_END = "</w>"


def count_tokens(caption: str) -> int:
    """Tokens of a caption as CLIP reads it, without the marks for start and end."""
    text = " ".join(unicodedata.normalize("NFC", caption).lower().split())
    return sum(_pieces(word) for word in _WORDS.findall(text))


def merges() -> list[tuple[str, str]]:
    """The 48,894 pairs of CLIP's byte pair encoding, the earlier the more frequent (assets/LICENSES.md)."""
    text = gzip.decompress(_MERGES.read_bytes()).decode("utf-8")
    return [(first, second) for first, _, second in (line.partition(" ") for line in text.splitlines())]


@cache
def byte_letters() -> tuple[str, ...]:
    """The letter that stands for each byte in the list of merges: its own where it can be seen, else one from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return tuple(chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256))


@lru_cache(maxsize=20_000)
def _pieces(word: str) -> int:
    """How many tokens a word is in the end: of all neighbours that CLIP would merge, the earliest learned go first."""
    letters = byte_letters()
    parts = [letters[byte] for byte in word.encode("utf-8", "replace")]
    parts[-1] += _END
    ranks = _ranks()
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        parts = _merged(parts, best)
    return len(parts)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(parts):
        if tuple(parts[position : position + 2]) == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(parts[position])
            position += 1
    return merged


@cache
def _ranks() -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(merges())}
