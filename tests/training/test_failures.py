"""lora_core.training.failures: each kind of failure has a key, and says what to do next."""

from __future__ import annotations

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.models.device import is_full_card, is_full_computer, is_lost_card
from lora_core.training import failures
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


FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried ..."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    torch.AcceleratorError("HIP error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17 GB, ..."),
    RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
)
LOST = (
    torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: the launch timed out and was terminated"),
    torch.AcceleratorError("CUDA error: unknown error"),
    RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"),
)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_every_full_card_is_known_whoever_asked_it_for_memory(error: Exception) -> None:
    assert is_full_card(error) and not is_lost_card(error)
    assert explain(error, TrainConfig.of({"device": "cpu"})).key == "training.full_card"


@pytest.mark.parametrize("error", LOST, ids=str)
def test_after_a_card_is_lost_only_a_restart_helps(error: Exception) -> None:
    assert is_lost_card(error) and not is_full_card(error)
    told = explain(error, PLAIN)
    assert told.key == "training.card_lost" and "restart Treino" in str(told)
    assert "\n" not in str(told) and str(error).splitlines()[0] in str(told)


def test_an_error_of_one_call_loses_no_card() -> None:
    for text in ("no kernel image is available for execution on the device", "operation not permitted when capturing"):
        assert not is_lost_card(torch.AcceleratorError(f"CUDA error: {text}"))
    assert not is_lost_card(RuntimeError("CUDA error: an illegal memory access")) and not is_lost_card(ValueError())


def test_torch_that_gets_no_memory_of_the_computer_is_explained() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_full_computer(told.value) and explain(told.value, PLAIN).key == "training.full_computer"
    assert not is_full_computer(RuntimeError("something else"))


def test_only_what_the_device_computes_in_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (([], "3e-07."), (["no"], "--mixed_precision no."), (["bf16", "no"], "--mixed_precision bf16 or no."))
    for formats, advice in expected:
        monkeypatch.setattr(failures, "wider_formats", lambda device, asked, formats=formats: formats)
        assert str(explain(Diverged(7), PLAIN)).endswith(advice)


def test_other_failures_are_sentences() -> None:
    told = UserError("training.no_dataset")
    assert explain(told, PLAIN) == told.message
    diverged = str(explain(Diverged(7), PLAIN))
    assert "before step 7" in diverged and "learning_rate, e.g. 3e-07" in diverged
    assert "(No space left on device): x.png." in str(explain(OSError(28, "No space left on device", "x.png"), PLAIN))
    assert "(No space left on device). Check" in str(explain(OSError(28, "No space left on device"), PLAIN))
    assert "wrong: ZeroDivisionError: 1/0. Go on" in str(explain(ZeroDivisionError("1/0"), PLAIN))
