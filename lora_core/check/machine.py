"""Which system, torch and devices these are, what the device's memory holds, and what the system does meanwhile."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace

import psutil
import torch

from lora_core import __version__
from lora_core.check.bench import BUSY, Bench
from lora_core.check.findings import GOOD, SLOWER, Finding
from lora_core.check.probe import Probe
from lora_core.config import TrainConfig
from lora_core.install.other_cards import AMD, OtherCard
from lora_core.install.torch_build import installed_label, torch_build
from lora_core.messages import Message
from lora_core.models.architecture import of_family
from lora_core.models.computer import Computer, known
from lora_core.models.device import Device, devices
from lora_core.models.families.specs import FAMILIES
from lora_core.system import hardware, keep_awake, windows
from lora_core.training.estimate.memory import RESERVE_BYTES, memory

MUCH = 0.25  # of a card's memory, taken by other programs: worth closing some
PROMISED = 12 * 2**30  # bytes that Windows should be able to promise: SDXL's weights and their copies on the way


def heading(devices: Sequence[Device]) -> list[Message]:
    """Versions, processor and devices, a line each: what `info` and `check` both begin with."""
    versions = {"treino": __version__, "python": platform.python_version(), "torch": torch.__version__}
    told = [
        Message(
            "check.versions", system=f"{platform.system()} {platform.release()}", machine=platform.machine(), **versions
        ),
        Message("check.processor", name=hardware.processor(), physical=hardware.physical_cores()),
    ]
    drivers = [hardware.driver(), *(f"Intel {device.driver}" for device in devices if device.driver)]
    if any(drivers):
        told.append(Message("check.driver", driver=", ".join(dict.fromkeys(filter(None, drivers)))))
    cards = [device for device in devices if device.kind != "cpu"]
    told += [Message("check.card" if card.works else "check.card_without_code", card=str(card)) for card in cards]
    return told


def proven(computer: Computer | None) -> list[Message]:
    """What an earlier check found, in two lines; how to make one where there was none."""
    if computer is None:
        return [Message("check.never")]
    right = [name for name, is_right in computer.formats.items() if is_right]
    told = [Message("check.proven", device=computer.identity.device, formats=right or "-")]
    told += [
        Message("check.proven_step", way=name.replace("-", " "), seconds=seconds)
        for name, seconds in sorted(computer.step_seconds.items())
    ]
    return told


def code(bench: Bench) -> None:
    """Whether this torch has code for the device, and for the others of this computer."""
    for idle in (device for device in bench.probe.here if not device.works):
        bench.failed(_code_of("check.no_code", replace(bench.probe, about=idle)), Message("check.other_build"))
    if bench.probe.is_card:
        bench.good(_code_of("check.code", bench.probe))
    else:
        bench.good(Message("check.on_cpu"))
    if card := bench.probe.unseen():
        told = Message("check.unseen_card", card=card.name, version=torch.__version__)
        bench.slower(told, _build_for(card, torch.__version__, platform.system(), platform.machine()))


def _build_for(card: OtherCard, version: str, system: str, machine: str) -> Message:
    """What lets a card be used that this torch does not see; each needs a build of its own, and not all have one."""
    wanted, have = torch_build(system, machine, None, card), installed_label(version, system, machine)
    if have.startswith(("rocm", "xpu")):
        return Message("check.card_not_let_in")
    if wanted.label == "cpu":
        return Message("check.build_of_amd" if system == "Windows" and card.vendor == AMD else "check.no_build")
    return Message(
        "check.build_for_card", build=wanted.requirement(version.partition("+")[0]), index=wanted.index_url or ""
    )


def _code_of(key: str, probe: Probe) -> Message:
    told = {"card": str(probe.about), "build": probe.build(), "capability": probe.capability() or "-"}
    return Message(key, built=probe.built_for() or "-", **told)


def device_memory(bench: Bench) -> None:
    """What is free of the device's memory, what others take, and what fits in it."""
    there, own = bench.probe.memory(), bench.probe.about.bytes
    if there is None and own:
        bench.decide(free_bytes=None, taken_by_others=None)
        bench.slower(Message("check.memory_not_told", total=own / 2**30), Message("check.planned_with_all"))
        return
    if there is None:
        computers = psutil.virtual_memory()
        bench.decide(free_bytes=int(computers.available), taken_by_others=int(computers.total - computers.available))
        bench.good(Message("check.memory", free=computers.available / 2**30, total=computers.total / 2**30))
        return
    bench.decide(free_bytes=there.free + there.held, taken_by_others=there.taken_by_others)
    told = Message(
        "check.card_memory", free=there.free / 2**30, total=there.total / 2**30, taken=there.taken_by_others / 2**30
    )
    if there.taken_by_others > MUCH * there.total:
        bench.slower(told, Message("check.close_programs"))
    else:
        bench.good(told, Message("check.planned_with_free"))


def models(bench: Bench) -> None:
    """What a training of each family takes, beside what is free."""
    for family in FAMILIES:
        if found := fit_of(family, bench.probe, bench.computer.free_bytes or bench.probe.about.bytes):
            bench.findings.append(found)


def fit_of(family: str, probe: Probe, free: int) -> Finding | None:
    """Whether a training with the usual settings fits into so many free bytes; None where it was never counted."""
    spec, width = FAMILIES[family], 2 if probe.is_card else 4
    usual = TrainConfig.of({"resolution": spec.resolution})
    least = usual.replace(gradient_checkpointing=True)
    found, less = (memory(config, of_family(family), number_bytes=width) for config in (usual, least))
    if found is None or less is None:
        return None
    needed, at_least = found.total + RESERVE_BYTES, less.total + RESERVE_BYTES
    told = {"model": spec.title, "side": spec.resolution, "needed": needed / 2**30}
    if needed <= free:
        return Finding(GOOD, Message("check.fits", **told))
    key = "check.fits_recomputed" if at_least <= free else "check.fits_not"
    return Finding(SLOWER, Message(key, **told, least=at_least / 2**30))


def of_family_here(family: str) -> list[Message]:
    """What `info` tells of a base model's family on the best device of this computer, and what was proven there."""
    probe = Probe(devices()[0])
    there = probe.memory()
    free = there.free + there.held if there else probe.about.bytes or int(psutil.virtual_memory().available)
    found = fit_of(family, probe, free)
    return [
        Message("check.here", device=str(probe.about)),
        *([found.message] if found else []),
        *proven(known(probe.about)),
    ]


def surroundings(bench: Bench) -> None:
    """The page file, where there is one that counts, and whether the computer falls asleep."""
    promised = windows.promisable_bytes()
    if promised is not None:
        told = Message("check.page_file", promised=promised / 2**30)
        if promised < PROMISED:
            bench.failed(told, Message("check.enlarge_page_file"))
        else:
            bench.good(told)
    seconds = keep_awake.sleeps_after()
    if seconds is None:
        return
    if not seconds:
        bench.good(Message("check.never_sleeps"))
    elif keep_awake.can_keep_awake():
        bench.good(Message("check.sleeps", minutes=seconds / 60), Message("check.kept_awake"))
    else:
        bench.slower(Message("check.sleeps", minutes=seconds / 60), Message("check.switch_sleep_off"))


def others(bench: Bench) -> None:
    """Whether other programs kept the processor busy while it was measured."""
    if bench.busy > BUSY:
        bench.slower(Message("check.busy", share=min(bench.busy, 1.0)), Message("check.again_when_idle"))
