"""How far a run's samples are from those of its base model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_core.events import Sample
from lora_core.runs.change import HARDLY, change

RNG = np.random.default_rng(0)


def draw(folder: Path, name: str, pixels: np.ndarray) -> str:
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
    return name


def blobs() -> np.ndarray:
    """A picture of large areas, 256 pixels a side."""
    return RNG.integers(0, 256, (8, 8, 3)).repeat(32, axis=0).repeat(32, axis=1).astype(float)


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, float | None]:
    """The change of runs that differ by what their last samples are."""
    bases = [blobs() for _ in range(3)]
    made = {
        "same": bases,
        "grain": [base + RNG.normal(0, 12, base.shape) for base in bases],
        "lighter": [base * 0.9 + 40 for base in bases],
        "others": [blobs() for _ in bases],
    }
    found: dict[str, float | None] = {}
    for name, pictures in made.items():
        samples = {
            0: [Sample(0, draw(tmp_path, f"b{n}.png", base), "a zebu", n) for n, base in enumerate(bases)],
            50: [Sample(50, draw(tmp_path, f"half{n}.png", blobs()), "a zebu", n) for n in range(3)],
            99: [Sample(99, draw(tmp_path, f"{name}{n}.png", each), "a zebu", n) for n, each in enumerate(pictures)],
        }
        found[name] = change(tmp_path, samples)
    return found


def test_the_same_pictures_are_no_change_and_others_are_one(runs: dict[str, float | None]) -> None:
    assert runs["same"] == 0
    assert runs["others"] == pytest.approx(4 / 3, abs=0.2), "of unrelated even numbers: a third against a quarter"


def test_grain_hardly_changes_a_picture_and_light_does(runs: dict[str, float | None]) -> None:
    assert runs["grain"] is not None and runs["lighter"] is not None
    assert 0 < runs["grain"] < HARDLY < runs["lighter"]


def test_nothing_is_said_without_two_to_compare(tmp_path: Path) -> None:
    drawn = [Sample(step, draw(tmp_path, f"{step}.png", blobs()), "a zebu", 1) for step in (0, 9)]
    assert change(tmp_path, {}) is None
    assert change(tmp_path, {0: drawn[:1]}) is None and change(tmp_path, {9: drawn[1:]}) is None
    assert change(tmp_path, {0: drawn[:1], 9: [Sample(9, "9.png", "another prompt", 1)]}) is None
    (tmp_path / "9.png").unlink()
    assert change(tmp_path, {0: drawn[:1], 9: drawn[1:]}) is None
    flat = Sample(0, draw(tmp_path, "flat.png", np.full((64, 64, 3), 9.0)), "a wall", 1)
    assert change(tmp_path, {0: [flat], 9: [flat]}) is None, "a picture without contrast says nothing"
