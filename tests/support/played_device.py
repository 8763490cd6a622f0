"""A device played on a clock: it computes behind the host, which waits for it only where it asks for something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from lora_core.training import progress


class PlayedDevice:
    """Time is what `now` says, in seconds; `ready` is when the device has computed all it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.ready = 1000.0
        self.longest_queue = 0.0  # seconds of work that lay before the device at once
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress, "end_of_work", self._end_of_work, raising=False)
        monkeypatch.setattr(torch, "stack", self._stacked)

    def step(self, host_s: float, device_s: float) -> None:
        """The host starts a step, as a graph's replay does, and goes on."""
        self.now += host_s
        self.ready = max(self.ready, self.now) + device_s
        self.longest_queue = max(self.longest_queue, self.ready - self.now)

    def wait(self) -> None:
        self.now = max(self.now, self.ready)

    def _end_of_work(self, device: torch.device) -> Callable[[], None]:
        reached = self.ready

        def wait() -> None:
            self.now = max(self.now, reached)

        return wait

    def _stacked(self, losses: Sequence[Tensor]) -> Tensor:
        """What is stacked here is read right after."""
        self.wait()
        return torch.cat([loss.reshape(1) for loss in losses])
