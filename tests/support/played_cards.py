"""Graphics cards played on a processor: a probe that answers as torch would with them, and products that come out wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lora_core.check.bench import Sizes
from lora_core.check.probe import Probe
from lora_core.install.other_cards import OtherCard
from lora_core.models.architecture import shapes_of
from lora_core.models.device import Device, DeviceMemory
from lora_core.system import hardware

GB = 2**30


@dataclass(frozen=True)
class Played(Probe):
    """A card's answers; what it computes is computed by the processor."""

    built: str = "CUDA 13.0"
    version: str = "8.6"
    codes: tuple[str, ...] = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120")
    left: DeviceMemory | None = None
    bf16: bool = True
    tf32_units: bool = True
    graphs: bool = True
    peaked: int = 0
    share: float = 0.0  # of the processor, taken by other programs
    hidden: OtherCard | None = None  # that the system knows and torch does not
    times: float = 1.0  # what products come out as, of what they should be

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def build(self) -> str:
        return self.built

    def capability(self) -> str:
        return self.version

    def built_for(self) -> list[str]:
        return list(self.codes)

    def unseen(self) -> OtherCard | None:
        return self.hidden

    def memory(self) -> DeviceMemory | None:
        return self.left

    def native_bf16(self) -> bool:
        return self.bf16

    def has_tf32(self) -> bool:
        return self.tf32_units

    def has_graphs(self) -> bool:
        return self.graphs

    def set_up(self) -> None:
        """There is nothing to set on a processor."""

    def compute(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        return function(*inputs) * self.times

    def others_seconds(self) -> float:
        return self.share * hardware.logical_cores() * time.monotonic()

    def wait(self) -> None:
        """It has computed already."""

    def begin_peak(self) -> None:
        """It is told."""

    def peak(self) -> int:
        return self.peaked

    def give_back(self) -> None:
        """The processor's memory needs none of it."""


def _nvidia(title: str, gigabytes: int, **answers: Any) -> Played:
    left = DeviceMemory(int((gigabytes - 1.25) * GB), gigabytes * GB, GB // 4)
    device = Device("cuda:0", f"NVIDIA GeForce {title}", gigabytes * GB)
    return Played(device, (device, Device("cpu", "the CPU")), left=left, **answers)


RTX_3060 = _nvidia("RTX 3060", 12)
RTX_4060 = _nvidia("RTX 4060", 8, version="8.9")
RTX_3090 = _nvidia("RTX 3090", 24)
RTX_5090 = _nvidia("RTX 5090", 32, version="12.0")
GTX_1650 = _nvidia("GTX 1650", 4, version="7.5", bf16=False, tf32_units=False)
_RADEON = Device("cuda:0", "AMD Radeon RX 7900 XTX, ROCm", 24 * GB)
RADEON = Played(
    _RADEON, (_RADEON,), built="ROCm 7.1", version="gfx1100", codes=("gfx1030", "gfx1100"), tf32_units=False,
    left=DeviceMemory(23 * GB, 24 * GB, 0),
)  # fmt: skip
_ARC = Device("xpu:0", "Intel(R) Arc(TM) B580 Graphics", 12 * GB)
ARC = Played(
    _ARC, (_ARC,), built="XPU", version="", codes=("dg2", "bmg-g21"), tf32_units=False, graphs=False,
    left=DeviceMemory(10 * GB, 12 * GB, GB),
)  # fmt: skip
_OLD_ARC = Device("xpu:0", "Intel(R) Arc(TM) A380 Graphics", 6 * GB)
SILENT_ARC = replace(ARC, about=_OLD_ARC, here=(_OLD_ARC,), left=None)  # whose driver does not tell what is free
_APPLE = Device("mps", "Apple graphics")
APPLE = Played(
    _APPLE, (_APPLE,), built="MPS", version="", codes=(), tf32_units=False, graphs=False,
    left=DeviceMemory(10 * GB, 11 * GB, GB),
)  # fmt: skip
CARDS = {
    "RTX 3060": RTX_3060, "RTX 4060": RTX_4060, "RTX 5090": RTX_5090, "GTX 1650": GTX_1650, "Radeon": RADEON,
    "Arc": ARC, "silent Arc": SILENT_ARC, "Apple": APPLE,
}  # fmt: skip


class _Wrong(TorchDispatchMode):
    """Convolutions in some formats come out as another number of times what they should be."""

    def __init__(self, times: float, dtypes: tuple[torch.dtype, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.times, self.dtypes = times, dtypes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::convolution" and found.dtype in self.dtypes:
            return found * self.times
        return found


@contextmanager
def computing_wrongly(times: float = float("nan"), dtypes: tuple[torch.dtype, ...] = (torch.float16,)) -> Iterator[None]:
    """As GTX 16xx cards do, whose convolutions in fp16 are not numbers."""
    with _Wrong(times, dtypes):
        yield


def tiny_sizes(tiny_sd1: Path) -> Sizes:
    """Of a model of random weights that is small enough for tests."""
    return Sizes(shapes_of(str(tiny_sd1)), side=64, small=64, least=16, card_vae=64, vae=64, disk_bytes=2**20)
