"""lora_core.training.failures: each kind of failure has a key, and says what to do next."""

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
        assert advice in str(explain(error, TrainConfig.of({"device": "cpu", **values})))


def test_torch_that_gets_no_memory_of_the_computer_is_explained() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_full_computer(told.value) and explain(told.value, PLAIN).key == "training.full_computer"
    assert not is_full_computer(RuntimeError("something else"))


def test_other_failures_are_sentences() -> None:
    told = UserError("training.no_dataset")
    assert explain(told, PLAIN) == told.message
    diverged = str(explain(Diverged(7), PLAIN))
    assert "before step 7" in diverged and "learning_rate, e.g. 3e-07" in diverged
    assert "(No space left on device): x.png." in str(explain(OSError(28, "No space left on device", "x.png"), PLAIN))
    assert "(No space left on device). Check" in str(explain(OSError(28, "No space left on device"), PLAIN))
    assert "wrong: ZeroDivisionError: 1/0. Go on" in str(explain(ZeroDivisionError("1/0"), PLAIN))
