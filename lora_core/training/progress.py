"""Steps to events, late: reading a loss waits for the device, so losses are read together now and then."""

from __future__ import annotations

import math
import time
from collections import deque

import torch
from torch import Tensor

from lora_core.events import Emit, Step, Warned
from lora_core.messages import plain
from lora_core.models.device import used_bytes
from lora_core.training.drift import Drift
from lora_core.training.spill import Spill, card

READ_EVERY_S = 0.5
WARM_UP_S = 5.0  # what a first step may take longer than the others


class Diverged(RuntimeError):
    """The loss is no longer a number."""


class Meter:
    """Collects losses on the device and emits `Step` events about twice a second and whenever it is flushed.

    The speed counts training steps only; the time to the end also counts the saves and samples still to come, at what
    the ones so far took.
    """

    def __init__(self, emit: Emit, total: int, save_every: int, device: torch.device):
        self.emit, self.total, self.save_every, self.device = emit, total, save_every, device
        self.waiting: list[tuple[int, Tensor, float]] = []
        self.laps: deque[float] = deque(maxlen=200)  # seconds of the latest steps
        self.pauses: list[float] = []  # seconds spent per save, with its validation and samples
        self.last = self.read_at = self.looked_at = time.monotonic()
        self.drift, self.spill = Drift(), Spill()

    def add(self, step: int, loss: Tensor, learning_rate: float) -> None:
        now = time.monotonic()
        self.laps.append(now - self.last)
        self.last = now
        self.waiting.append((step, loss, learning_rate))
        if now - self.read_at >= READ_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Read the waiting losses and emit them.

        Raises:
            Diverged: one is not finite; nothing from that step on has been emitted.
        """
        if not self.waiting:
            return
        losses = torch.stack([loss for _, loss, _ in self.waiting]).tolist()
        memory = used_bytes(self.device)
        for (step, _, rate), loss in zip(self.waiting, losses, strict=True):
            if not math.isfinite(loss):
                raise Diverged(step)
            self.emit(Step(step, self.total, loss, rate, self.speed(), self.eta(step), memory))
            if notice := self.drift.add(step, loss):
                self.emit(Warned(plain(notice)))
        self._look_for_spilling()
        self.waiting.clear()
        self.read_at = self.looked_at = time.monotonic()

    def _look_for_spilling(self) -> None:
        """Right after losses were read, so that the card has computed all the steps whose time is taken."""
        step_seconds = (time.monotonic() - self.looked_at) / len(self.waiting)
        if (memory := card(self.device)) and (notice := self.spill.add(step_seconds, memory)):
            self.emit(Warned(plain(notice)))

    def speed(self) -> float:
        """Steps per second over the latest steps; 0 before the first. The first step warms up and is left out."""
        laps = list(self.laps)[1:] or list(self.laps)
        return len(laps) / sum(laps) if laps and sum(laps) else 0.0

    def eta(self, step: int) -> float:
        """Seconds to the end, or -1 when no step has been timed but a short first one, which mostly was warming up."""
        if not self.speed() or (len(self.laps) == 1 and self.laps[0] < WARM_UP_S):
            return -1.0
        saves = math.ceil(self.total / self.save_every) - step // self.save_every
        pause = sum(self.pauses) / len(self.pauses) if self.pauses else 0.0
        return (self.total - step) / self.speed() + max(0, saves) * pause

    def resume_after(self, pause_s: float, counts: bool) -> None:
        """Time spent outside steps; `counts` when it will come again at every save."""
        if counts:
            self.pauses.append(pause_s)
        self.last = self.looked_at = time.monotonic()
