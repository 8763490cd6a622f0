from __future__ import annotations

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.models.device import is_full_computer
from lora_core.training.failures import explain
from lora_core.training.progress import Diverged

PLAIN = TrainConfig.of({})


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({}, "--gradient_checkpointing"),
        (
            {"gradient_checkpointing": True, "train_batch_size": 4},
            "--train_batch_size 2 --gradient_accumulation_steps 2",
        ),
        ({"gradient_checkpointing": True, "resolution": 768}, "--resolution 576"),
        ({"pretrained_model_name_or_path": "none", "gradient_checkpointing": True}, "--eight_bit_base"),
    ],
)
def test_out_of_memory_names_the_next_setting(values: dict[str, object], advice: str) -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried ..."), RuntimeError("MPS backend out of memory (...")):
        assert advice in explain(error, TrainConfig.of({"device": "cpu", **values}))


def test_torch_that_gets_no_memory_of_the_computer_is_explained() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_full_computer(told.value) and "The computer ran out of memory." in explain(told.value, PLAIN)
    assert not is_full_computer(RuntimeError("something else"))


def test_other_failures_are_sentences() -> None:
    assert explain(UserError("Take another folder."), PLAIN) == "Take another folder."
    assert "before step 7" in explain(Diverged(7), PLAIN) and "learning_rate" in explain(Diverged(7), PLAIN)
    assert "No space left" in explain(OSError(28, "No space left on device", "x.png"), PLAIN)
    assert "ZeroDivisionError" in explain(ZeroDivisionError("1/0"), PLAIN)
