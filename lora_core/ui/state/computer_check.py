"""The check of this computer in the window: asked for, or once by itself on a computer that was never checked."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lora_core.errors import UserError
from lora_core.events import Emit, Event, Phase
from lora_core.messages import Message
from lora_core.ui.state.background import has_ended, in_background

if TYPE_CHECKING:
    from lora_core.check.findings import Report
    from lora_core.check.kept import Kept
    from lora_core.models.device import Device

IDLE, RUNNING, STOPPING, DONE, FAILED = "idle", "running", "stopping", "done", "failed"
BUSY = (RUNNING, STOPPING)
QUIET_S = 15.0  # in which nothing computes, before it begins by itself: a first start has other things to do
CPU_MOST_S, CARD_MOST_S = 30.0, 60.0  # that a check takes
PATIENCE_S = 30.0  # for its end, of who wants to train
MEMORY = "computer_check"  # what is remembered: for which computer it began by itself, and whether it has to again

Run = Callable[[str, Emit, Callable[[], bool]], "Report"]  # as `lora_core.check.run.check`


@dataclass(frozen=True)
class CheckState:
    """All that pages show of it; never changed, only replaced. `serial` grows with every change.

    done, total: parts. ends_at: of `time.monotonic`, when it is over at the latest. earlier: what a check before this start
    of the program told.
    """

    serial: int = 0
    phase: str = IDLE
    by_itself: bool = False
    part: Message | None = None
    done: int = 0
    total: int = 0
    ends_at: float = 0.0
    report: Report | None = None
    earlier: Kept | None = None
    error: Message | None = None

    @property
    def is_busy(self) -> bool:
        return self.phase in BUSY

    @property
    def seconds_left(self) -> int:
        """At most."""
        return max(0, round(self.ends_at - time.monotonic()))

    @property
    def stamp(self) -> str:
        """Another one whenever a page has to show something else."""
        return f"{self.serial}.{self.seconds_left}" if self.is_busy else str(self.serial)


class ComputerCheck:
    """One for all pages. It makes way for whatever else computes.

    recall, remember: across starts. note_crash: told each error that
    nobody foresaw. by_itself: whether it may begin without being asked. run: does the check.
    """

    def __init__(
        self,
        recall: Callable[[str], Any],
        remember: Callable[[str, Any], None],
        note_crash: Callable[[str, Exception], object],
        by_itself: bool,
        run: Run | None = None,
    ) -> None:
        self.state = CheckState()
        self._recall, self._remember, self._note_crash = recall, remember, note_crash
        self._run = run or _check
        self._others: list[Callable[[], bool]] = []
        self._may_begin, self._quiet_since, self._has_recalled = by_itself, 0.0, False
        self._stop = threading.Event()
        self._was_interrupted = False
        self._working: Future[None] | None = None
        self._lock = threading.RLock()

    def makes_way_for(self, is_busy: Callable[[], bool]) -> None:
        """Never go on while `is_busy`."""
        self._others.append(is_busy)

    # --- what a person presses --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; nothing while it goes on. Raises UserError while something else computes."""
        if self._others_compute():
            raise UserError("ui.check_beside")
        self._begin(by_itself=False)

    def stop(self) -> None:
        """End it soon; what was found by then is kept."""
        with self._lock:
            self._stop.set()
            if self.state.phase == RUNNING:
                self._change(phase=STOPPING)

    # --- beside everything else -------------------------------------------------------------------------------

    def make_way(self, patience_s: float = PATIENCE_S) -> None:
        """Stop it and wait for its end. Raises UserError where it does not end."""
        if self.state.is_busy:
            self._was_interrupted = True
            self.stop()
            if not self.wait(patience_s):
                raise UserError("ui.check_ends")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for its end; True when there is none to wait for."""
        return has_ended(self._working, timeout_s)

    def begin_by_itself(self, is_ready: bool) -> None:
        """To be called each second: begins once, after a while in which all was ready and nothing computed."""
        if is_ready and not self._has_recalled:
            self._has_recalled = True
            in_background(self._recall_earlier, "check")
        if not self._may_begin:
            return
        now = time.monotonic()
        if not is_ready or self.state.is_busy or self._others_compute():
            self._quiet_since = now
        self._quiet_since = self._quiet_since or now
        if now - self._quiet_since >= QUIET_S:
            self._may_begin = False
            in_background(self._begin_if_unknown, "check")

    def _recall_earlier(self) -> None:
        from lora_core.check.kept import last  # brings torch

        try:
            if earlier := last(_device()):
                self._change(earlier=earlier)
        except Exception as error:  # noqa: BLE001 - what devices and their drivers do when asked: told, never lost
            self._note_crash("looking up this computer's check", error)

    def _begin_if_unknown(self) -> None:
        from lora_core.models.computer import known  # beside torch

        device = _device()
        seen = self._recall(MEMORY)
        is_seen = isinstance(seen, dict) and seen.get("computer") == _name(device)
        if (is_seen and seen.get("again") is True) or (not is_seen and known(device) is None):
            self._begin(by_itself=True)

    def _others_compute(self) -> bool:
        return any(is_busy() for is_busy in self._others)

    # --- the thread -------------------------------------------------------------------------------------------

    def _begin(self, by_itself: bool) -> None:
        with self._lock:
            if self.state.is_busy:
                return
            self._may_begin = self._was_interrupted = False
            self._stop = threading.Event()
            self._change(
                phase=RUNNING, by_itself=by_itself, part=None, done=0, total=0, error=None, report=None,
                ends_at=time.monotonic() + CARD_MOST_S,
            )  # fmt: skip
            self._working = in_background(partial(self._work, self._stop), "check")

    def _work(self, stop: threading.Event) -> None:
        end: dict[str, Any] = {"phase": DONE}
        try:
            device = _device()
            # Before, and not after: a driver that takes the program down with it is not tried again by itself.
            self._remember(MEMORY, {"computer": _name(device), "again": False})
            self._change(ends_at=time.monotonic() + (CPU_MOST_S if device.kind == "cpu" else CARD_MOST_S))
            end["report"] = self._run(device.name, self._tell, partial(self._wants_stop, stop))
            if self._was_interrupted and self.state.by_itself:
                self._remember(MEMORY, {"computer": _name(device), "again": True})
        except UserError as wrong:
            end = {"phase": FAILED, "error": wrong.message}
        except Exception as error:  # noqa: BLE001 - the one place where its errors end: told, never lost
            end = {"phase": FAILED, "error": Message("ui.unforeseen", error=f"{type(error).__name__}: {error}")}
            self._note_crash("checking this computer", error)
        self._change(**end)

    def _wants_stop(self, stop: threading.Event) -> bool:
        if not stop.is_set() and self._others_compute():
            self._was_interrupted = True
            self.stop()
        return stop.is_set()

    def _tell(self, event: Event) -> None:
        if isinstance(event, Phase):
            self._change(part=event.detail, done=event.done, total=event.total)

    def _change(self, **values: Any) -> None:
        with self._lock:
            self.state = dataclasses.replace(self.state, serial=self.state.serial + 1, **values)


def _check(device: str, emit: Emit, wants_stop: Callable[[], bool]) -> Report:
    from lora_core.check.run import check  # brings torch

    return check(device, emit, wants_stop)


def _device() -> Device:
    """The one that trainings compute on."""
    from lora_core.models.device import devices  # brings torch

    return next(device for device in devices() if device.works)


def _name(device: Device) -> dict[str, Any]:
    """Device, driver, torch and Treino, as JSON."""
    from lora_core.models.computer import Identity

    return dataclasses.asdict(Identity.of(device))
