from __future__ import annotations

import pytest
import torch

from lora_core import precision
from lora_core.settings import ConfigError


def test_fp16_on_a_cpu_computes_in_fp32_and_says_so() -> None:
    compute = precision.choose("cpu", "fp16")
    assert compute.dtype == torch.float32 and not compute.scale_loss and "fp32" in compute.notices[0]
    assert precision.choose("cpu", "no").notices == ()


@pytest.mark.parametrize("native", [True, False])
def test_bf16_on_a_cpu_needs_native_units(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: native)
    compute = precision.choose("cpu", "bf16")
    assert compute.dtype == (torch.bfloat16 if native else torch.float32) and bool(compute.notices) != native


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 6), torch.bfloat16)])
def test_bf16_on_an_old_card_becomes_fp16(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    compute = precision.choose("cuda", "bf16")
    assert compute.dtype == dtype and compute.scale_loss == (dtype == torch.float16)


@pytest.mark.parametrize("name", ["cuda:7", "toaster"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device: '{name}'"):
        precision.choose(name, "no")
