"""Rubbish in, a sentence out: some hundreds of damaged files; `python -m tests.fuzz` tries ten thousand."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import Figures, fuzz
from tests.fuzz.readers import KINDS


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_told_of_and_left_as_they_are(name: str) -> None:
    fuzz(name, 64, 1, Figures())
