"""Rubbish in, a sentence out: some hundreds of damaged files; `python -m tests.fuzz` tries ten thousand."""

from __future__ import annotations

import pytest

from tests.fuzz import corpus
from tests.fuzz.__main__ import Figures, damaged, fuzz, try_one
from tests.fuzz.readers import KINDS


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_told_of_and_left_as_they_are(name: str) -> None:
    fuzz(name, 64, 1, Figures())


@pytest.mark.parametrize(("where", "put"), [(0.953125, b"\x80"), (0.75, b"@")], ids=["a name", "the version"])
def test_a_checkpoint_whose_list_of_contents_lies_is_told_of(where: float, put: bytes) -> None:
    """Found by the long run."""
    data = damaged(corpus.pickles()[1], [("flip", where, put)])
    try_one(KINDS["model"], "a.ckpt", data, Figures(), "model")
