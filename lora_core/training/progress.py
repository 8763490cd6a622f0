"""Steps to events, late: reading a loss waits for the device, so losses are read together now and then.

In between the host goes two steps ahead of the device and no further: then a step's time is the device's where that is the
slower one, and a stop or a pause is answered within two steps.

What is read is watched for two things that a training survives but does not get better by: a loss that stays far above
its start, and a driver that keeps a part of the training in the computer's memory.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_core.events import Emit, Step, Warned
from lora_core.messages import Message
from lora_core.models.device import end_of_work, used_bytes
from lora_core.system import windows

READ_EVERY_S = 0.5
AHEAD = 2  # steps that wait on the device: one is computed while the next is being prepared
WARM_UP_S = 5.0  # what a first step may take longer than the others

# Overflows in a row that end a training with loss scaling; fewer are passed over, for the scaler has skipped those steps.
# One comes of a picture that is too much for fp16. Where weights are broken every step overflows, and each also halves the
# scale, which 2,000 good steps win back: four cost a sixteenth of it.
OVERFLOWS = 4

# Divergence, in steps: what the start is the mean of, and how long is long.
START, PATIENCE = 30, 60
FAR = 3.0  # times the start; single batches of an even training differ by as much, their smoothed course does not
SMOOTHING = 0.95

FULL = 0.95  # of a card's memory; the driver begins to move things out a little before the end
SLOWER = 3.0  # times; pictures of another size differ by less, and a card that is hot or shared rarely by as much
MUCH_SLOWER = 5.0  # times what is expected by earlier trainings, whose settings may have been others
LOOKS_BEFORE, SLOW_LOOKS = 5, 3  # how many make a pace to compare with, and how many slow ones in a row are no accident


class Diverged(RuntimeError):
    """The loss is no longer a number."""


class ProgressMeter:
    """Collects losses on the device and emits `Step` events about twice a second and whenever it is flushed.

    The speed counts training steps only; the time to the end also counts the saves and samples still to come, at what
    the ones so far took.
    """

    def __init__(self, emit: Emit, total: int, save_every: int, device: torch.device, scale_loss: bool = False):
        self.emit, self.total, self.save_every, self.device = emit, total, save_every, device
        self.waiting: list[tuple[int, Tensor, float]] = []
        self.laps: deque[float] = deque(maxlen=200)  # seconds of the latest steps
        self.pauses: list[float] = []  # seconds spent per save, with its validation and samples
        self._underway: deque[Callable[[], None]] = deque()  # waits for the end of each step the device still has to do
        self.last = self.read_at = self.looked_at = time.monotonic()
        self.divergence, self.sysmem_fallback = DivergenceDetector(), SysmemFallbackDetector()
        self._most_overflows = OVERFLOWS - 1 if scale_loss else 0
        self._overflows = 0  # in a row

    def add(self, step: int, loss: Tensor, learning_rate: float) -> None:
        """A step that was started."""
        self._underway.append(end_of_work(self.device))
        if len(self._underway) > AHEAD:
            self._underway.popleft()()
        self.laps.append(0.0)
        self._count_time()
        self.waiting.append((step, loss, learning_rate))
        if self.last - self.read_at >= READ_EVERY_S:
            self.flush()

    def _count_time(self) -> None:
        """Since the last look, into the latest lap."""
        now = time.monotonic()
        self.laps[-1] += now - self.last
        self.last = now

    def flush(self) -> None:
        """Read the waiting losses and emit them; with loss scaling, of a step that overflowed there is nothing to tell.

        Raises:
            Diverged: one is not finite, or with loss scaling several in a row; nothing from that step on has been emitted.
        """
        if not self.waiting:
            return
        losses = torch.stack([loss for _, loss, _ in self.waiting]).tolist()
        self._underway.clear()
        self._count_time()  # the wait was for steps, also where a pause comes next
        memory = used_bytes(self.device)
        for (step, _, rate), loss in zip(self.waiting, losses, strict=True):
            if not math.isfinite(loss):
                self._overflows += 1
                if self._overflows > self._most_overflows:
                    raise Diverged(step)
                continue
            self._overflows = 0
            self.emit(Step(step, self.total, loss, rate, self.speed(), self.eta(step), memory))
            if notice := self.divergence.add(step, loss):
                self.emit(Warned(notice))
        self._look_for_sysmem_fallback()
        self.waiting.clear()
        self.read_at = self.looked_at = time.monotonic()

    def discard(self) -> None:
        """Forget what was not told: the training goes back."""
        self.waiting.clear()
        self._underway.clear()
        self._overflows = 0
        self.resume_after(0.0, counts=False)

    def _look_for_sysmem_fallback(self) -> None:
        """Right after losses were read, so that the card has computed all the steps whose time is taken."""
        step_seconds = (time.monotonic() - self.looked_at) / len(self.waiting)
        if (memory := card_memory(self.device)) and (notice := self.sysmem_fallback.add(step_seconds, memory)):
            self.emit(Warned(notice))

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


class DivergenceDetector:
    """Takes every loss; says so once when the training diverges: its loss stays far above its start, though a number."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.smoothed = 0.0
        self.above = 0
        self.is_told = False

    def add(self, step: int, loss: float) -> Message | None:
        if len(self.first) < START:
            self.first.append(loss)
            self.smoothed = sum(self.first) / len(self.first)
            return None
        start = sum(self.first) / START
        self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self.above = self.above + 1 if self.smoothed > FAR * start else 0
        if self.is_told or self.above < PATIENCE:
            return None
        self.is_told = True
        return Message(
            "training.diverging", step=step, loss=self.smoothed, count=self.above, times=self.smoothed / start
        )


@dataclass(frozen=True)
class CardMemory:
    """A graphics card's memory in bytes: held by this program, free for all, and in all."""

    held: int
    free: int
    total: int

    @property
    def is_full(self) -> bool:
        return max(self.held, self.total - self.free) >= FULL * self.total


def card_memory(device: torch.device) -> CardMemory | None:
    """That of an NVIDIA card under Windows; None for whatever else, whose driver does not fall back. No wait for it."""
    if windows.api() is None or device.type != "cuda" or torch.version.hip:
        return None
    free, total = torch.cuda.mem_get_info(device)
    return CardMemory(torch.cuda.memory_reserved(device), free, total)


class SysmemFallbackDetector:
    """Takes the seconds of a step and the card's memory, now and then; says so once when the driver falls back.

    NVIDIA's driver for Windows moves a part of a full card's memory to the computer's (CUDA sysmem fallback) instead of
    refusing, and every step takes many times as long; nothing but the speed shows it. Told from both: the card is full,
    and steps take several times as long as they did, or as earlier trainings let expect. Or from memory alone, where the
    training holds more than the card has.

    expected: seconds of a step by earlier trainings on this card; 0 where there was none.
    """

    def __init__(self, expected: float = 0.0) -> None:
        self.expected = expected
        self.paces: list[float] = []  # while the card was not full, or no slower for it
        self.slow = 0
        self.is_told = False

    def add(self, step_seconds: float, memory: CardMemory) -> Message | None:
        usual = statistics.median(self.paces) if len(self.paces) >= LOOKS_BEFORE else 0.0
        limits = [times * pace for times, pace in ((SLOWER, usual), (MUCH_SLOWER, self.expected)) if pace]
        is_slow = memory.is_full and bool(limits) and step_seconds > min(limits)
        self.slow = self.slow + 1 if is_slow else 0
        if not is_slow:
            self.paces = [*self.paces[-99:], step_seconds]
        is_over = memory.held > memory.total
        if self.is_told or not (is_over or self.slow >= SLOW_LOOKS):
            return None
        self.is_told = True
        used, total = max(memory.held, memory.total - memory.free) / 2**30, memory.total / 2**30
        before = min(pace for pace in (usual, self.expected) if pace) if is_slow else 0.0
        slower = Message("training.steps_slower", times=step_seconds / before) if is_slow else ""
        return Message("training.sysmem_fallback", used=used, total=total, slower=slower)
