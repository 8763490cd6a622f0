"""The check from its first part to its report: parts in their order, progress, time, stopping, and what fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from lora_core.check import disk, formats, kept, machine, step
from lora_core.check.bench import Bench, Sizes, Stopped
from lora_core.check.findings import Report
from lora_core.check.probe import Probe
from lora_core.config import settings
from lora_core.events import Emit, Phase
from lora_core.messages import Message
from lora_core.models.computer import Computer, Identity, known
from lora_core.models.device import choose, devices

CARD_S, PROCESSOR_S = 55.0, 23.0  # for all parts; the promise is a minute, and half of one on a processor
BEFORE = 6  # parts before the step


def check(device: str, emit: Emit, wants_stop: Callable[[], bool] = lambda: False) -> Report:
    """Check a device by its name ("auto": the best there is) and keep what was found (`models.computer`).

    emit: is told `Phase("check", ...)`. wants_stop: asked often; what had been found until then is kept and reported.

    Raises:
        ConfigError: there is no such device, or this torch has no code for it.
    """
    name = str(choose(device, "no").device)
    here = tuple(devices())
    about = next(found for found in here if found.name == name)
    run_folder = Path(str(settings()["output_dir"].default))
    return of_device(Probe(about, here), emit, wants_stop, run_folder, Sizes())


def of_device(probe: Probe, emit: Emit, wants_stop: Callable[[], bool], run_folder: Path, sizes: Sizes) -> Report:
    """As `check`, of the device that the probe asks."""
    began, threads = time.monotonic(), torch.get_num_threads()
    computer = known(probe.about) or Computer(Identity.of(probe.about))  # what is not found out anew stays known
    parts = BEFORE + (step.CARD_PARTS if probe.is_card else step.PROCESSOR_PARTS)
    deadline = began + (CARD_S if probe.is_card else PROCESSOR_S)
    bench = Bench(probe, computer, deadline, sizes, run_folder, wants_stop, emit=emit, parts=parts)
    is_whole = True
    try:
        with torch.random.fork_rng(devices=[]):
            _all(bench)
    except (Stopped, KeyboardInterrupt):
        is_whole = False
    finally:
        torch.set_num_threads(threads)
        bench.free()
    emit(Phase("check", parts, parts, Message("check.name_done")))
    heading, findings = tuple(machine.heading(probe.here)), tuple(bench.findings)
    report = Report(heading, findings, bench.computer, time.monotonic() - began, is_whole)
    kept.keep(report)
    return report


def _all(bench: Bench) -> None:
    """Each part stands for itself: what one cannot find out, the others do."""
    for name, part in (
        ("code", machine.code), ("memory", machine.device_memory), ("models", machine.models),
        ("surroundings", machine.surroundings), ("disk", disk.measure), ("formats", formats.measure),
    ):  # fmt: skip
        bench.part(name, partial(part, bench))
    try:
        (step.on_card if bench.probe.is_card else step.on_processor)(bench)
        machine.others(bench)
    finally:
        bench.free()
