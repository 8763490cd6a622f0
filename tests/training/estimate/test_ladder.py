"""lora_core.training.estimate.ladder: what is left to change, in its order."""

from __future__ import annotations

import re

import pytest

from lora_core.config import TrainConfig
from lora_core.training.estimate.ladder import changes_to, ladder, together
from tests import ROOT


def test_what_costs_time_alone_comes_before_what_costs_the_lora_anything() -> None:
    config = TrainConfig.of({"train_batch_size": 3, "lean_activations": False, "lora_rank": 16, "sample_count": 2,
                                 "cuda_graphs": "on"})
    steps = list(ladder(config))
    names = list(dict.fromkeys(name for step in steps for name in step.changes))
    assert names == [
        "lean_activations", "checkpointed_quarters", "gradient_checkpointing", "cuda_graphs", "train_batch_size",
        "gradient_accumulation_steps", "optimizer_on_host", "eight_bit_base", "sample_count", "resolution", "lora_rank",
    ]  # fmt: skip
    same = [step.same for step in steps]
    assert same == sorted(same, reverse=True) and all(step.same for step in steps if step.fine)


def test_no_step_is_left_at_the_end_and_each_leads_to_settings_that_can_be_started_with() -> None:
    config = TrainConfig.of({"train_batch_size": 5, "torch_compile": True})
    for changes in together(config, ladder(config)):
        last = TrainConfig.of({**config.values(), **changes})
        assert changes_to(config, changes) == changes
    assert last.train_batch_size == 1 and last.gradient_accumulation_steps >= 5 and not last.torch_compile
    assert list(ladder(last)) == []


@pytest.mark.parametrize("page", ["docs/base-models-and-memory.md", "docs/pt-BR/base-models-and-memory.md"])
def test_the_page_for_people_names_the_steps_in_the_same_order(page: str) -> None:
    told = re.findall(r"^\d\. [^`]*`--(\w+)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    steps = [step for step in ladder(TrainConfig.of({"train_batch_size": 2, "sample_count": 1})) if not step.fine]
    first = dict.fromkeys(next(name for name in step.changes if name != "checkpointed_quarters") for step in steps)
    assert told == list(first)
