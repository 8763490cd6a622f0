"""What a computer is made of, as far as it decides what was proven on it; needs no torch.

Drivers answer through files or libraries that are there anyway: NVML (NVIDIA's "NVML API Reference"), Linux' module
`amdgpu`, and macOS' own version, whose Metal is the driver.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

_NVML = {"win32": ("nvml.dll",), "linux": ("libnvidia-ml.so.1",)}
_AMD = Path("/sys/module/amdgpu/version")
_CPU_INFO = Path("/proc/cpuinfo")
_LONGEST = 80  # bytes that NVML writes


@functools.cache
def driver() -> str:
    """The versions of the drivers of this computer's graphics cards; empty where none tells one."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    found = [("NVIDIA", nvidia_driver(_library())), ("amdgpu", _text(_AMD) or _kernel())]
    return ", ".join(f"{name} {version}" for name, version in found if version)


def nvidia_driver(nvml: ctypes.CDLL | None) -> str:
    """The version that NVML tells; empty where there is no NVML, or it has no card."""
    if nvml is None:
        return ""
    text = ctypes.create_string_buffer(_LONGEST)
    try:
        if nvml.nvmlInit_v2():
            return ""
        failed = nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(_LONGEST))
        nvml.nvmlShutdown()
    except (AttributeError, OSError):  # a library of that name that is another one
        return ""
    return "" if failed else text.value.decode("ascii", "replace")


@functools.cache
def processor() -> str:
    """What the processor calls itself, with its logical cores and the computer's memory."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{_processor_name()}, {logical_cores()} threads, {memory:.0f} GB"


def physical_cores() -> int:
    return psutil.cpu_count(logical=False) or logical_cores()


def logical_cores() -> int:
    return psutil.cpu_count() or 1


def _library() -> ctypes.CDLL | None:
    for name in _NVML.get(sys.platform, ()):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _kernel() -> str:
    """The Linux kernel's own version, where its own driver of AMD's cards is at work."""
    return platform.release() if _AMD.parent.is_dir() else ""


def _processor_name() -> str:
    names: dict[str, Callable[[], str]] = {"win32": _name_in_registry, "linux": _name_in_cpu_info}
    name = names.get(sys.platform, platform.processor)() or platform.processor() or platform.machine()
    return re.sub(r"\s+", " ", name).strip()


def _name_in_cpu_info() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text(_CPU_INFO), re.MULTILINE)
    return found[1] if found else ""


def _name_in_registry() -> str:
    from lora_core.system import windows

    system = windows.api()
    key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    return str((system and system.registry(key, "ProcessorNameString")) or "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
