"""All that the check asks of torch about a device. A test plays a card by answering here in its place."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from lora_core.install.other_cards import OtherCard, find_other
from lora_core.models import device as devices
from lora_core.models.device import Device, DeviceMemory, choose, in_turn, set_up
from lora_core.models.weights import free_device_memory

TF32_SINCE = (8, 0)  # compute capability: Ampere


@dataclass(frozen=True)
class Probe:
    """Questions about one device. about: it, as `models.device.devices` tells it; here: all that this computer has."""

    about: Device
    here: tuple[Device, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where tensors are put."""
        return torch.device(self.about.name)

    @property
    def is_card(self) -> bool:
        return self.about.kind != "cpu"

    # --- what there is ----------------------------------------------------------------------------------------------

    def build(self) -> str:
        """What this torch computes with: "CUDA 13.0", "ROCm 7.1", "XPU", "MPS"; empty for a processor alone."""
        kinds = {"cuda": f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"}
        return kinds.get(self.about.kind, self.about.kind.upper()) if self.is_card else ""

    def capability(self) -> str:
        """What code a card takes: "8.6" of NVIDIA, "gfx1100" of AMD; empty where nobody counts so."""
        if self.about.kind != "cuda":
            return ""
        about = torch.cuda.get_device_properties(self.device)
        return about.gcnArchName.partition(":")[0] if torch.version.hip else f"{about.major}.{about.minor}"

    def built_for(self) -> list[str]:
        """The cards that this torch has code for, as it names them."""
        told = getattr(self._backend, "get_arch_list", None)
        return list(told()) if told else []

    def unseen(self) -> OtherCard | None:
        """A card of AMD or Intel that the system knows and this torch does not."""
        return None if any(each.kind != "cpu" for each in self.here) else find_other(platform.system())

    def memory(self) -> DeviceMemory | None:
        """Of the device itself; None where it has none of its own, or torch does not tell."""
        return devices.own_memory(self.device)

    def native_bf16(self) -> bool:
        """Whether the device says that it has units for bf16; else torch emulates it."""
        return devices.has_bf16_units(self.about)

    def has_tf32(self) -> bool:
        """Whether fp32 products can be rounded to 10 bits on the way in, which NVIDIA's cards since Ampere do."""
        return self.about.kind == "cuda" and not torch.version.hip and self._version() >= TF32_SINCE

    def has_graphs(self) -> bool:
        return self.about.kind == "cuda" and hasattr(torch.cuda, "CUDAGraph")

    @property
    def _backend(self) -> Any:
        return getattr(torch, self.about.kind)

    def _version(self) -> tuple[int, int]:
        return torch.cuda.get_device_capability(self.device)

    def others_seconds(self) -> float:
        """What other programs have had of the processor since the computer started, over all cores."""
        times = psutil.cpu_times()._asdict()
        resting = ("idle", "iowait", "guest", "guest_nice")  # guests are in user and nice already
        return float(sum(each for name, each in times.items() if name not in resting)) - time.process_time()

    # --- what is done with it -----------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Let torch compute as a training in 16 bit has it compute here: what is proven is what will be used."""
        set_up(choose(self.about.name, "fp16"))

    def compute(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What the device makes of inputs that stand on it."""
        return function(*inputs)

    def wait(self) -> None:
        """Until the device has computed all it was given."""
        with in_turn:
            if self.about.kind == "mps":  # there is one
                torch.mps.synchronize()
            elif self.is_card:
                self._backend.synchronize(self.device)

    def begin_peak(self) -> None:
        """Count the most that tensors take from here on."""
        devices.begin_peak(self.device)

    def peak(self) -> int:
        """The most that tensors have taken of the device's memory since `begin_peak`; 0 where nobody counts it."""
        return devices.peak_bytes(self.device)

    def give_back(self) -> None:
        """What torch keeps of the device's memory for later use, to the system."""
        if self.is_card:
            free_device_memory()

    @contextmanager
    def tf32(self, is_on: bool = True) -> Iterator[None]:
        """Within the block products and convolutions in fp32 may be computed in TF32, or are exact: torch's own default is
        TF32 in convolutions alone.
        """
        kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        try:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
