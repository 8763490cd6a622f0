"""lora_core.dataset.tokens: the same counts as the tokenizer that the models are trained with."""

from __future__ import annotations

import random

import pytest

from lora_core.dataset.tokens import count_tokens
from lora_core.models import single_file

TEXT = (
    "a photo of cat dog (masterpiece:1.2), don't WE'LL café naïve 1girl 2024 東京 タワー 🎨 ___ foo_bar <lora:x:1> ÀÉ "
    "... !!! it's coração ação ampulheta supercalifragilistic ½ ² ① l'été straße Ångström कला ศิลปะ x\u0301 I'D a'b _'s"
)
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def theirs() -> single_file.CLIPTokenizer:
    return single_file.tokenizer(single_file.ASSETS / "sd1" / "tokenizer")


def test_every_word_and_random_captions_count_as_clip_counts_them(theirs: single_file.CLIPTokenizer) -> None:
    draw = random.Random(1)
    captions = [*WORDS, *(" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(400)), "", "  a \n\n b\t,,c "]
    assert {c: count_tokens(c) for c in captions} == {c: len(theirs(c).input_ids) - 2 for c in captions}


def test_known_counts() -> None:
    assert count_tokens("a photo of a red ball") == 6
    assert count_tokens("cat, dog") == 3
    assert count_tokens("2024") == 4
