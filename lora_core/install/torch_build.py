"""Which build of PyTorch a computer needs: read off drivers and cards, decided by a pure function.

PyTorch's indexes of 2.13.0, each with builds of this name: `cu126` and `cu130` for Linux and Windows, `xpu` for both,
`rocm7.2` for Linux alone, `cpu`; pip's own index has cu130 for Linux, the CPU's for Windows, and Metal's for macOS.

- NVIDIA's cards in them: PYTORCH_RELEASES_CODE_CC of `torch.cuda` in 2.13.0. Of code that a driver can translate for cards
  which are newer (PTX) there is 12.0's in cu130 for Linux (`.ci/manywheel/build_env_setup.py`, _PTX_ARCHES) and none for
  Windows (`.ci/pytorch/windows/internal/cuda_config.bat`, CUDA_ARCH_LIST).
- AMD's under Windows: get-started's `published_versions.json` says "ROCm is not available on Windows", and its maintainers
  took no pointer to AMD's own builds in (pytorch.github.io, pull request 2063).
- Drivers: NVIDIA's "CUDA Compatibility", minor version compatibility: a driver of a CUDA major version runs all builds of
  that version.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from lora_core.errors import UserError
from lora_core.install.other_cards import INTEL, ROCM_CODES, OtherCard

INDEX = "https://download.pytorch.org/whl/"
ROCM = "rocm7.2"
_QUERY = ("--query-gpu=compute_cap,name,driver_version", "--format=csv,noheader")
_PATIENCE_S = 30  # a driver that sleeps takes some seconds per card to wake
_ELSEWHERE = ("/usr/lib/wsl/lib/nvidia-smi", r"C:\Program Files\NVIDIA Corporation\NVSMI\nvidia-smi.exe")


@dataclass(frozen=True)
class NvidiaCard:
    """The strongest card of the computer; `capability` and `cuda` are (major, minor), None where not told."""

    name: str
    driver: str
    capability: tuple[int, int] | None
    cuda: tuple[int, int] | None


@dataclass(frozen=True)
class TorchBuild:
    """What to install. `index_url` None: pip's own index has this build. `warning`: to be told before."""

    label: str
    index_url: str | None = None
    warning: str | None = None

    def requirement(self, version: str) -> str:
        """As pip takes it: torch==2.13.0+cu130, or torch==2.13.0 where no index of its own is needed."""
        return f"torch=={version}+{self.label}" if self.index_url else f"torch=={version}"


@dataclass(frozen=True)
class _Cuda:
    label: str
    cuda: tuple[int, int]  # the least a driver has to speak
    driver: int  # the first driver series that does
    oldest: tuple[int, int]
    newest: tuple[int, int]

    def knows(self, card: NvidiaCard, oldest: tuple[int, int]) -> bool:
        return card.capability is None or max(self.oldest, oldest) <= card.capability <= self.newest


# Newest first. Under Linux cards newer than Blackwell get the newest build: it holds code (PTX) that the driver can
# translate for them. The builds for Windows have none.
BLACKWELL = (12, 9)
_CUDA_BUILDS = (
    _Cuda("cu130", cuda=(13, 0), driver=580, oldest=(7, 5), newest=(99, 0)),
    _Cuda("cu126", cuda=(12, 0), driver=525, oldest=(5, 0), newest=(9, 9)),
)
_OLDEST_CARD = {"x86_64": (5, 0), "amd64": (5, 0), "aarch64": (8, 0)}


def torch_build(system: str, machine: str, nvidia: NvidiaCard | None, other: OtherCard | None = None) -> TorchBuild:
    """The build for a computer, told as `platform.system()`, `platform.machine()` and its cards; NVIDIA's is preferred.

    Raises:
        UserError: PyTorch is not made for this computer.
    """
    machine = machine.lower()
    if system == "Darwin":
        if machine != "arm64":
            raise UserError(
                "PyTorch is no longer made for Macs with an Intel processor. "
                "On a Mac with Apple silicon, install Python for arm64 and start again."
            )
        return TorchBuild("default")
    cpu = TorchBuild("cpu", INDEX + "cpu" if system == "Linux" else None)  # pip's own index has it on Windows only
    if nvidia is None or machine not in _OLDEST_CARD:
        return _for_other(system, other, cpu) if other and machine in ("x86_64", "amd64") else cpu
    if system == "Windows" and nvidia.capability and nvidia.capability > BLACKWELL:
        too_new = f"The {nvidia.name} is newer than this PyTorch knows under Windows; training will run on the CPU."
        return TorchBuild(cpu.label, cpu.index_url, too_new)
    fitting = [build for build in _CUDA_BUILDS if build.knows(nvidia, _OLDEST_CARD[machine])]
    if not fitting:
        too_old = f"The {nvidia.name} is older than any card PyTorch still knows; training will run on the CPU."
        return TorchBuild(cpu.label, cpu.index_url, too_old)
    cuda = nvidia.cuda or _cuda_of_driver(nvidia.driver)
    running = [build for build in fitting if build.cuda <= cuda]
    if running:
        return TorchBuild(running[0].label, INDEX + running[0].label)
    # Installed all the same: once the driver is updated, it works without another installation.
    best = fitting[-1]
    old_driver = (
        f"The driver of the {nvidia.name} ({nvidia.driver}) is too old for PyTorch: update it to version "
        f"{best.driver} or newer. Until then training runs on the CPU."
    )
    return TorchBuild(best.label, INDEX + best.label, old_driver)


def _for_other(system: str, card: OtherCard, cpu: TorchBuild) -> TorchBuild:
    if card.vendor == INTEL:
        return TorchBuild("xpu", INDEX + "xpu")
    if system == "Linux" and card.code in ROCM_CODES:
        return TorchBuild(ROCM, INDEX + ROCM)
    why = (
        f"PyTorch itself has no build for AMD cards under Windows, so training will run on the CPU. AMD has one: how the "
        f"{card.name} may be used with it is told in docs/installing.md."
        if system == "Windows"
        else f"PyTorch has no code for the {card.name}; training will run on the CPU."
    )
    return TorchBuild(cpu.label, cpu.index_url, why)


def installed_label(version: str, system: str, machine: str) -> str:
    """The build behind an installed version: "cpu" of 2.13.0+cpu; a bare 2.13.0 is what the public index has."""
    _, _, label = version.partition("+")
    if label:
        return label
    return "cu130" if system == "Linux" and machine.lower() in _OLDEST_CARD else "cpu"


def wrong_build_message(version: str, system: str, machine: str, card: NvidiaCard | OtherCard, python: str) -> str | None:
    """A sentence with the command that mends it, when the installed PyTorch `version` can't use `card`; else None.

    `python` is the path of the interpreter to mend.
    """
    nvidia, other = (card, None) if isinstance(card, NvidiaCard) else (None, card)
    wanted, have = torch_build(system, machine, nvidia, other), installed_label(version, system, machine)
    known = {build.label: build for build in _CUDA_BUILDS}
    if wanted.label in ("cpu", "default") or (have.startswith("cu") and have not in known):
        return None
    if nvidia and have in known and known[have].knows(nvidia, _OLDEST_CARD[machine.lower()]):
        return wanted.warning
    if other and _kind(have) == _kind(wanted.label):  # AMD's own build has another number
        return None
    call = python if " " not in python else f'& "{python}"' if system == "Windows" else f'"{python}"'
    torch = wanted.requirement(version.partition("+")[0])
    return (
        f"The installed PyTorch ({version}) cannot use the {card.name}. Install the build that can with\n"
        f"  {call} -m pip install {torch} --extra-index-url {wanted.index_url}"
        + (f"\n{wanted.warning}" if wanted.warning else "")
    )


def _kind(label: str) -> str:
    return label.rstrip("0123456789.")


def find_nvidia(say: Callable[[str], object]) -> NvidiaCard | None:
    """Ask the driver's own tool. Where the tool is there and finds no card, `say` is told so."""
    tool = nvidia_smi()
    if not tool:
        return None
    card = parse_nvidia_smi(_output([tool]), _output([tool, *_QUERY]))
    if not card:
        say("nvidia-smi shows no card, so PyTorch for the CPU is taken; if there is a card, mend its driver.")
    return card


def nvidia_smi() -> str | None:
    """Where the driver's tool is, None when there is no driver."""
    return shutil.which("nvidia-smi") or next((place for place in _ELSEWHERE if os.path.isfile(place)), None)


def parse_nvidia_smi(banner: str, query: str) -> NvidiaCard | None:
    """The strongest card out of what `nvidia-smi` prints alone (`banner`) and asked for its cards (`query`).

    The CUDA version stands in the banner only, called "CUDA UMD Version" from driver 610 on. Tools older than about
    driver 470 don't know the query; then the card is known by its driver alone.
    """
    cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+)\.(\d+)", banner)
    driver = re.search(r"(?:Driver|KMD) Version\s*:\s*(\d[\d.]*)", banner)
    spoken = (int(cuda[1]), int(cuda[2])) if cuda else None
    rows = re.findall(r"^\s*(\d+)\.(\d+)\s*,\s*(.+?)\s*,\s*(\d[\d.]*)\s*$", query, re.MULTILINE)
    if rows:
        # The strongest, because that is the one CUDA lists first and training takes.
        major, minor, name, its_driver = max(rows, key=lambda row: (int(row[0]), int(row[1])))
        return NvidiaCard(name, its_driver, (int(major), int(minor)), spoken)
    has_card = re.search(r"^\|\s+\d+\s", banner, re.MULTILINE)
    return NvidiaCard("NVIDIA card", driver[1], None, spoken) if driver and has_card else None


def _cuda_of_driver(driver: str) -> tuple[int, int]:
    """The CUDA version every driver of a series speaks at least."""
    series = int(driver.partition(".")[0])
    return next((build.cuda for build in _CUDA_BUILDS if series >= build.driver), (11, 0))


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PATIENCE_S, check=False, encoding="utf-8", errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
