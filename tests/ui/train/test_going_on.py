"""A LoRA to go on from in the form: it fills its settings in, says why, and gives way to what a person sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_core.config import TrainConfig
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.tabs.train import form
from lora_core.ui.tabs.train.preset_cards import FIRST
from lora_core.ui.tabs.train.setup import Said, Setup
from tests.support.prepared_runs import REAL, TOY, write_lora

EN = Texts("en")


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    app = App(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("runs"))
    app.wait_for_core()
    return Setup(app, EN)


@pytest.mark.parametrize("card", [FIRST, "style", "careful", ""])
def test_a_lora_fills_in_its_settings_over_those_of_any_card_and_says_why(setup: Setup, card: str, tmp_path: Path) -> None:
    file = str(write_lora(tmp_path / "old.safetensors", REAL if card else TOY))
    boxed = json.loads(setup.choose(card or FIRST, {}))["fill"]
    order = json.loads(setup.take_lora(file, boxed))
    assert order["fill"] == {"init_lora": file} and order["card"] is None
    boxed |= order["fill"]
    found = setup.look_at(Said(boxed, card, ("lora_alpha",)))
    own = {"lora_rank": "2", "target_modules": ["to_k"], "target_blocks": ["mid"], "train_text_encoder": False}
    assert {name: found.boxed[name] for name in own} == own
    moved = found.moved
    assert {**moved["values"], **own} == moved["values"] and "lora_alpha" not in moved["values"]  # type: ignore[dict-item]
    assert moved["back"]["lora_alpha"] == "3"  # type: ignore[index]
    assert moved["reasons"]["lora_rank"] == "As the LoRA has it from which this training goes on."  # type: ignore[index]
    without = setup.look_at(Said({**found.boxed, "init_lora": ""}, card))
    assert "As the LoRA has it from which this training goes on." not in without.moved["reasons"].values()  # type: ignore[attr-defined]
    if card:  # which knows what they are without it
        assert without.boxed["lora_rank"] == boxed["lora_rank"] != "2"
    assert json.loads(setup.choose("character", boxed))["fill"]["init_lora"] == file  # another card leaves it


def test_what_cannot_be_gone_on_from_is_told_at_its_field(setup: Setup, tmp_path: Path) -> None:
    boxed = json.loads(setup.choose("style", {}))["fill"]

    def told(path: Path, **values: str) -> str:
        found = setup.look_at(Said({**boxed, **values, "init_lora": f'"{path}"'}, "style"))
        assert found.config is None
        return found.problems["init_lora"]

    assert told(tmp_path / "gone.safetensors").startswith("There is no")
    file = write_lora(tmp_path / "old.safetensors")
    base = "stabilityai/stable-diffusion-xl-base-1.0"
    said = told(file, pretrained_model_name_or_path=base)
    assert said.startswith("old.safetensors is a LoRA for Stable Diffusion 1.x, but stable-diffusion-xl-base-1.0 is a")
    file.write_bytes(file.read_bytes()[:-9])
    assert "cut short" in told(file)


def test_settings_of_a_run_that_went_on_from_a_lora_stay_as_they_were(setup: Setup, tmp_path: Path) -> None:
    file = str(write_lora(tmp_path / "old.safetensors"))
    config = TrainConfig.of({"init_lora": file, "lora_rank": 8, "lora_alpha": 3.0, "target_modules": ["to_k"]})
    order = json.loads(setup.fill(config.values()))
    assert sorted(order["own"]) == ["lora_rank", "target_blocks"]
    found = setup.look_at(Said(order["fill"], "", tuple(order["own"])))
    assert form.typed_values(found.boxed)["lora_rank"] == 8
