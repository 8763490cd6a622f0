"""Graphics cards that are not NVIDIA's, by what the system itself knows of them: no driver's tool is asked.

Linux: the topology of AMD's compute driver (/sys/class/kfd) names the architecture, the devices of the display driver
(/sys/class/drm) vendor and device. Windows: the registry's class of display adapters.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

AMD, INTEL = "AMD", "Intel"
# What PyTorch 2.13 for ROCm has code for: PYTORCH_ROCM_ARCH of `.ci/docker/manywheel/build.sh` in its release branch. It
# names gfx900, gfx906 and gfx1103 too, but the matrix products of ROCm 7 (rocBLAS) have none for those.
ROCM_CODES = frozenset(
    ["gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151", "gfx1200",
     "gfx1201"]
)  # fmt: skip
# PCI devices of Intel's Arc cards: 56xx (A series) and E2xx (B series); what is built into a processor has others.
ARC = re.compile(r"^(?:56|e2)[0-9a-f]{2}$", re.IGNORECASE)
_DISPLAYS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
CARD_BYTES = 3 * 2**30  # a Radeon with less memory of its own is built into a processor


@dataclass(frozen=True)
class OtherCard:
    """vendor: AMD or INTEL. code: what programs are built for, such as gfx1100; "" where the system does not tell."""

    vendor: str
    name: str
    code: str = ""


def find_other(system: str, root: Path = Path("/sys/class")) -> OtherCard | None:
    """The first card of AMD or Intel that is worth a build of PyTorch of its own; built-in graphics are none."""
    found = _on_windows() if system == "Windows" else _on_linux(root) if system == "Linux" else []
    return next(iter(found), None)


def _on_linux(root: Path) -> list[OtherCard]:
    # Who has a card that ROCm does not know lets it pass for a sister of it by this variable of ROCm's runtime.
    passes_for = _joined(os.environ.get("HSA_OVERRIDE_GFX_VERSION", ""))
    codes = [_code(path) for path in sorted(root.glob("kfd/kfd/topology/nodes/*/properties"))]
    codes = [passes_for or code for code in codes if code]
    cards = [OtherCard(AMD, f"AMD card ({code})", code) for code in codes]
    # One that ROCm has code for before one that it has not, which may be in the processor.
    cards.sort(key=lambda card: card.code not in ROCM_CODES)
    for device in sorted(root.glob("drm/card[0-9]*/device")):
        if _read(device / "vendor") == "0x8086" and ARC.match(_read(device / "device")[2:]):
            cards.append(OtherCard(INTEL, "Intel Arc card"))
    return cards


def _code(properties: Path) -> str:
    """gfx_target_version 110001 is gfx1101, 90010 gfx90a; "" of a processor."""
    found = re.search(r"^gfx_target_version (\d+)$", _read(properties), re.MULTILINE)
    number = int(found.group(1)) if found else 0
    return _joined(f"{number // 10000}.{number // 100 % 100}.{number % 100}") if number else ""


def _joined(version: str) -> str:
    """10.3.0 is gfx1030; "" of what is no version."""
    parts = re.match(r"^(\d+)\.(\d+)\.(\d+)$", version.strip())
    return f"gfx{parts.group(1)}{int(parts.group(2)):x}{int(parts.group(3)):x}" if parts else ""


def _on_windows() -> list[OtherCard]:
    found = []
    for device, name, memory in _adapters():
        parts = re.search(r"VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", device, re.IGNORECASE)
        vendor = parts.group(1).lower() if parts else ""
        if vendor == "1002" and memory >= CARD_BYTES:
            found.append(OtherCard(AMD, name))
        elif parts and vendor == "8086" and ARC.match(parts.group(2)):
            found.append(OtherCard(INTEL, name))
    return found


def _adapters() -> Iterator[tuple[str, str, int]]:
    """Device id, name and bytes of memory of each display adapter that the registry knows."""
    if sys.platform != "win32":
        return
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _DISPLAYS) as displays:
            names = [winreg.EnumKey(displays, number) for number in range(winreg.QueryInfoKey(displays)[0])]
    except OSError:
        return
    for name in names:
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _DISPLAYS + "\\" + name) as adapter:
                device, title = (str(winreg.QueryValueEx(adapter, key)[0]) for key in ("MatchingDeviceId", "DriverDesc"))
                yield device, title, _memory(adapter)
        except OSError:  # "Properties", which only the system may read
            continue


def _memory(adapter: object) -> int:
    import winreg

    try:
        return int(winreg.QueryValueEx(adapter, "HardwareInformation.qwMemorySize")[0])  # type: ignore[attr-defined]
    except (OSError, TypeError, ValueError):
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
