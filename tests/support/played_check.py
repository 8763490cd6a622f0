"""A check of this computer that computes nothing, and a window whose check it is: `python -m tests.support.played_check`.

Each part takes `SECONDS`, or those of the variable PLAYED_CHECK_S.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lora_core.check import kept
from lora_core.check.findings import FAILED, GOOD, SLOWER, Finding, Report
from lora_core.events import Emit, Phase
from lora_core.messages import Message
from lora_core.models.computer import Computer, Identity, keep
from lora_core.models.device import Device, devices

SECONDS = 0.02
PARTS = ("memory", "disk", "formats")
FOUND = (
    Finding(GOOD, Message("check.on_cpu")),
    Finding(GOOD, Message("check.memory", free=5.25, total=7.75)),
    Finding(
        FAILED,
        Message("check.no_code", card="Some card, 6 GB (cuda:0)", build="CUDA 12.8", capability="6.1", built="7.5 8.0"),
        Message("check.other_build"),
    ),
    Finding(SLOWER, Message("check.no_bf16_units"), Message("check.cpu_in_fp32")),
    Finding(
        GOOD,
        Message("check.step_by_parts", side=512, format="fp32", seconds=21.5, part=1.25),
        Message("check.step_known"),
    ),
)


def played_check(device: str, emit: Emit, wants_stop: Callable[[], bool]) -> Report:
    """As `lora_core.check.run.check`."""
    began, each = time.monotonic(), float(os.environ.get("PLAYED_CHECK_S", SECONDS))
    about = next(found for found in devices() if found.name == device)
    computer = replace(Computer(Identity.of(about)), formats={"fp32": True}, checked_at=time.time())
    is_whole = True
    for index, part in enumerate(PARTS):
        emit(Phase("check", index, len(PARTS), Message(f"check.name_{part}")))
        until = time.monotonic() + each
        while is_whole and time.monotonic() < until:
            time.sleep(0.01)
            is_whole = not wants_stop()
    emit(Phase("check", len(PARTS), len(PARTS), Message("check.name_done")))
    keep(computer)
    heading = (Message("check.processor", name=_processor(about), physical=2),)
    report = Report(heading, FOUND, computer, time.monotonic() - began, is_whole, ())
    kept.keep(report)
    return report


def _processor(about: Device) -> str:
    return f"A processor ({about.name})"


def main() -> int:
    """A window as `python gui.py --no-window --port 0` opens it; "--by-itself" lets it begin to check by itself."""
    from lora_core.ui.state import computer_check
    from lora_core.ui.state.app import App
    from tests.support.played_window import serve

    computer_check.QUIET_S = 1.0
    app = App(runs_folder=Path(os.environ["TREINO_RUNS"]), checks_itself="--by-itself" in sys.argv, check=played_check)
    return serve(app)


if __name__ == "__main__":
    sys.exit(main())
