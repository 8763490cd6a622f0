"""What every part of the check is given: the device, the sizes, the time that is left, and where findings go."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lora_core.check.findings import FAILED, GOOD, SLOWER, Finding
from lora_core.check.probe import Probe
from lora_core.errors import first_line
from lora_core.events import Emit, Event, Phase
from lora_core.messages import Message
from lora_core.models.architecture import Shapes, of_family
from lora_core.models.computer import Computer, keep
from lora_core.models.families.specs import SD1
from lora_core.system import hardware

FAMILY = SD1.name  # whose shapes are computed with
BUSY = 0.15  # of the processor, taken by other programs: seconds are longer, and threads wait for each other
TICK_S = 0.02  # as exactly as systems count what a processor was given
MOST_TOLD = 160  # characters of what a library said
T = TypeVar("T")


class Stopped(Exception):
    """The person asked for it."""


@dataclass(frozen=True)
class Sizes:
    """Of what is computed, in pixels. side: the family's own picture. small: on a processor, for what is only compared.

    card_vae, vae: of the VAE's picture on a card and on a processor. disk_bytes: written for a trial.
    """

    shapes: Shapes = field(default_factory=lambda: of_family(FAMILY))
    side: int = 512
    small: int = 256
    least: int = 64
    card_vae: int = 512
    vae: int = 64
    disk_bytes: int = 64 * 2**20


def _nobody(event: Event) -> None:
    """Where no progress is shown."""


@dataclass
class Bench:
    """deadline: of `time.monotonic`, when the check has to be over. wants_stop: asked between all things that take time.

    parts: how many there will be, for the progress that `emit` is told.
    """

    probe: Probe
    computer: Computer
    deadline: float
    sizes: Sizes = field(default_factory=Sizes)
    run_folder: Path = Path()
    wants_stop: Callable[[], bool] = lambda: False
    busy: float = 0.0  # share of the processor that other programs took, the most while something was measured
    is_disturbed: bool = False  # whether they did while it was measured last
    emit: Emit = _nobody
    parts: int = 0
    begun: int = 0
    findings: list[Finding] = field(default_factory=list)

    def part(self, name: str, work: Callable[[], T], lost: Message | None = None) -> T | None:
        """Do a part, whose name is `check.name_...`; None where it fails, which is told, with `lost` as what follows.

        Raises:
            Stopped: the person asked for it.
        """
        self.go_on()
        named = Message(f"check.name_{name}")
        self.emit(Phase("check", self.begun, max(self.parts, self.begun), named))
        self.begun += 1
        try:
            return work()
        except Stopped:
            raise
        except Exception as failure:  # noqa: BLE001  whatever a card or a disk does, there is a slower way
            why = first_line(failure)
        self.failed(Message("check.part_failed", part=named, why=why[:MOST_TOLD]), lost)
        self.free()  # only now has the failure let go of what it held
        return None

    def free(self) -> None:
        """Give back memory that nobody needs any more."""
        gc.collect()
        self.probe.give_back()

    def good(self, message: Message, decision: Message | None = None) -> None:
        self.findings.append(Finding(GOOD, message, decision))

    def slower(self, message: Message, decision: Message | None = None) -> None:
        self.findings.append(Finding(SLOWER, message, decision))

    def failed(self, message: Message, decision: Message | None = None) -> None:
        self.findings.append(Finding(FAILED, message, decision))

    def decide(self, **found: Any) -> None:
        """Know it from here on, also where the check ends at once."""
        self.computer = replace(self.computer, **found, checked_at=time.time())
        keep(self.computer)

    def left(self) -> float:
        """Seconds until the check has to be over."""
        return self.deadline - time.monotonic()

    def go_on(self) -> None:
        """Raises Stopped where the person asked for it."""
        if self.wants_stop():
            raise Stopped

    def seconds(self, work: Callable[[], object], at_most: float, laps: int = 10) -> float:
        """Of the quickest of several laps, of which there is at least one; a first one should have warmed up.

        at_most: seconds for all of them.
        """
        times: list[float] = []
        others = self.probe.others_seconds()
        while not times or (len(times) < laps and sum(times) + times[-1] <= at_most):
            self.go_on()
            self.probe.wait()
            began = time.perf_counter()
            work()
            self.probe.wait()
            times.append(time.perf_counter() - began)
        share = max(0.0, self.probe.others_seconds() - others - TICK_S) / (sum(times) * hardware.logical_cores())
        self.busy, self.is_disturbed = max(self.busy, share), share > BUSY
        return min(times)
