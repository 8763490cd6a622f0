"""What a process holds of a device: memory by torch's own count, and tensors that something still refers to."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Held:
    """In bytes, of a device's own memory, 0 on a processor; and how many tensors are alive anywhere."""

    allocated: int
    reserved: int
    tensors: int


def held(device: str) -> Held:
    gc.collect()
    tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
    kind = torch.device(device).type
    if kind == "mps":
        return Held(int(torch.mps.current_allocated_memory()), int(torch.mps.driver_allocated_memory()), tensors)
    if kind == "cpu":
        return Held(0, 0, tensors)
    backend: Any = getattr(torch, kind)
    backend.synchronize()
    return Held(int(backend.memory_allocated(device)), int(backend.memory_reserved(device)), tensors)
