"""lora_core.training.estimate.levels: more or less memory, its price, and which level a training runs with."""

from __future__ import annotations

import dataclasses

import pytest

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes, of_family
from lora_core.models.device import Device
from lora_core.training.estimate.fit import fits
from lora_core.training.estimate.levels import LEVELS, Level
from lora_core.training.estimate.levels import levels as levels_of
from lora_core.ui.shared.texts import Texts
from lora_core.ui.tabs.train.cost import levels_html

CARD = Device("cuda:0", "a card", 8 * 2**30)
CONFIG = TrainConfig.of({"target_modules": ["to_q", "to_k", "to_v", "to_out.0"]})


def levels(config: TrainConfig, shapes: Shapes, device: Device) -> list[Level]:
    return list(levels_of(config, shapes, device, fits(config, shapes, device)))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_less_memory_is_more_work_level_by_level(family: str) -> None:
    found = levels(CONFIG, of_family(family), CARD)
    # Of the larger models not everything kept was counted, and what was not is not told.
    assert [level.name for level in found] == list(LEVELS)[0 if family == "sd1" else 1 :]
    needs = [level.needed for level in found]
    assert needs == sorted(needs, reverse=True) and len(set(needs)) == len(needs)
    works = [level.longer for level in found[:-1] if level.name != "all"]
    assert works[0] == 0 and works == sorted(works) and 0.25 < works[-1] < 0.4


def test_the_level_that_is_asked_for_or_chosen_to_fit_is_told() -> None:
    def now(config: TrainConfig, gib: float) -> list[str]:
        card = Device("cuda:0", "a card", int(gib * 2**30))
        return [level.name for level in levels(config, of_family("sd1"), card) if level.is_now]

    assert now(CONFIG, 8) == ["lean"]
    assert now(CONFIG.replace(gradient_checkpointing=True), 8) == ["again"]
    needs = {level.name: level.needed / 2**30 for level in levels(CONFIG, of_family("sd1"), CARD)}
    assert now(CONFIG, (needs["quarter"] + needs["lean"]) / 2) == ["quarter"]
    small = Device("cuda:0", "a card", int((needs["half"] + needs["quarter"]) / 2 * 2**30))
    assert [level.fits for level in levels(CONFIG, of_family("sd1"), small)][:4] == [False, False, False, True]


def test_a_choice_is_a_button_with_its_settings_in_both_languages() -> None:
    found = levels(CONFIG, of_family("sd1"), Device("cuda:0", "a card", 2 * 2**30))
    for text in (Texts("en"), Texts("pt-BR")):
        html = levels_html(found, text)
        assert html.count("<button") == len(found) and html.count('aria-pressed="true"') <= 1
        assert "&quot;checkpointed_quarters&quot;: &quot;2&quot;" in html and "plan-over" in html
    close = [dataclasses.replace(level, needed=2**30 + n) for n, level in enumerate(found)]
    assert levels_html([], Texts("en")) == levels_html(close, Texts("en")) == "", "there is nothing to choose"
    assert set(LEVELS) >= {level.name for level in found}
