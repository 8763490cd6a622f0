"""Which device to compute on and in which number format, and what to tell the user when it is not what was asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lora_core.settings import ConfigError, Problem

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Compute:
    """Where and how to compute. fp16 gradients underflow without `scale_loss` (Micikevicius et al. 2018)."""

    device: torch.device
    dtype: torch.dtype
    scale_loss: bool
    notices: tuple[str, ...] = ()


def choose(device: str, mixed_precision: str) -> Compute:
    """The device by name ("auto" takes the best there is) and the nearest format to the asked one that works there.

    Raises:
        ConfigError: the device does not exist here.
    """
    chosen = _device(device)
    asked = DTYPES[mixed_precision]
    if chosen.type == "cpu" and asked != torch.float32 and not (asked == torch.bfloat16 and _cpu_has_bf16()):
        why = f"mixed_precision {mixed_precision} is slow or unsupported on this CPU; computing in fp32 instead."
        return Compute(chosen, torch.float32, False, (why,))
    if chosen.type == "cuda" and asked == torch.bfloat16 and torch.cuda.get_device_capability(chosen)[0] < 8:
        why = "This graphics card has no bf16 units; computing in fp16 with loss scaling instead."
        return Compute(chosen, torch.float16, True, (why,))
    return Compute(chosen, asked, asked == torch.float16)


def _device(name: str) -> torch.device:
    if name == "auto":
        for kind, backend in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
            if backend.is_available():
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError([Problem("device", f"{name!r} is not available here; use 'auto' or 'cpu'")]) from None
    return device


def _cpu_has_bf16() -> bool:
    """Native units only: emulated bf16 matrix products are tens of times slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
