"""presets/*.toml: each one valid, each for another intent, and none claims what nobody measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_core.config import PRESETS, Preset, TrainConfig, presets, read_values
from lora_core.recipes.intents import INTENTS

ALL = presets()


@pytest.mark.parametrize("preset", ALL, ids=lambda p: p.name)
def test_every_preset_loads_and_says_what_it_is_for(preset: Preset) -> None:
    TrainConfig.of(preset.values)
    assert 3 <= len(preset.title) <= 30
    assert 60 <= len(preset.description) <= 300
    assert preset.description.endswith(".")


def test_the_intents_are_the_promised_ones() -> None:
    assert {p.name: p.intent for p in ALL} == {
        "careful": "", "character": "character", "concept": "concept", "first_look": "first_look", "object": "object",
        "quickstart": "", "style": "style",
    }  # fmt: skip
    assert {p.intent for p in ALL} == {"", *INTENTS}


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.toml")), ids=lambda p: p.stem)
def test_the_files_give_reasons_and_no_unmeasured_numbers(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "schema = 3\n" in text
    assert b"\r" not in path.read_bytes()
    claims = re.findall(r"\d+ ?(?:minutes|min\b|seconds|hours|it/s|GiB|MiB|[GM]B)", text)
    assert claims == []


def test_careful_is_the_defaults() -> None:
    values = read_values(PRESETS / "careful.toml")
    assert TrainConfig.of(values) == TrainConfig()
    assert len(values) >= 9


def test_only_the_quick_start_brings_its_own_pictures_and_model() -> None:
    for preset in ALL:
        own = {"train_data_dir", "trigger_word", "output_name"} & preset.values.keys()
        assert bool(own) == (preset.name == "quickstart")
    quick = TrainConfig.of(next(p for p in ALL if p.name == "quickstart").values)
    assert quick.pretrained_model_name_or_path == "starter"
    assert quick.train_data_dir == "Training"


def test_every_preset_saves_more_than_once() -> None:
    for preset in (p for p in ALL if not p.intent):
        config = TrainConfig.of(preset.values)
        assert config.max_train_steps >= 2 * config.save_steps
        assert config.warmup_steps < config.max_train_steps / 4
