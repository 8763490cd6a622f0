"""lora_core.system.hardware: processor, cores and drivers as the systems tell them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_core.system import hardware, windows


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    for each in (hardware.driver, hardware.processor):
        each.cache_clear()
    yield
    for each in (hardware.driver, hardware.processor):
        each.cache_clear()


class Nvml:
    """NVIDIA's library, as far as it is asked."""

    def __init__(self, version: str = "580.97", failing: str = "") -> None:
        self.version, self.failing, self.asked = version, failing, list[str]()

    def nvmlInit_v2(self) -> int:
        return self._answer("init")

    def nvmlSystemGetDriverVersion(self, text: Any, length: ctypes.c_uint) -> int:
        assert len(self.version) < length.value
        text.value = self.version.encode("ascii")
        return self._answer("version")

    def nvmlShutdown(self) -> int:
        return self._answer("shutdown")

    def _answer(self, call: str) -> int:
        self.asked.append(call)
        return int(call == self.failing)


def test_nvidias_driver_is_asked_and_let_go() -> None:
    nvml: Any = Nvml()
    assert hardware.nvidia_driver(nvml) == "580.97"
    assert nvml.asked == ["init", "version", "shutdown"]


@pytest.mark.parametrize("failing", ["init", "version"])
def test_a_driver_that_does_not_answer_has_no_version(failing: str) -> None:
    nvml: Any = Nvml(failing=failing)
    assert hardware.nvidia_driver(nvml) == ""


def test_another_library_of_that_name_and_none_at_all() -> None:
    other: Any = object()
    assert hardware.nvidia_driver(other) == "" and hardware.nvidia_driver(None) == ""


@pytest.mark.parametrize("is_module", [True, False])
def test_amds_driver_on_linux(is_module: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's own package has a version; the one in the kernel has the kernel's."""
    version = tmp_path / "amdgpu" / "version"
    version.parent.mkdir()
    if is_module:
        version.write_text("6.14.14\n", encoding="utf-8")
    monkeypatch.setattr(hardware, "_AMD", version)
    monkeypatch.setattr(hardware, "_library", lambda: None)
    monkeypatch.setattr(hardware.platform, "release", lambda: "6.12.1")
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    assert hardware.driver() == f"amdgpu {'6.14.14' if is_module else '6.12.1'}"


def test_apples_driver_is_macos_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware.platform, "mac_ver", lambda: ("26.1", ("", "", ""), "arm64"))
    assert hardware.driver() == "macOS 26.1"


def test_a_processor_by_its_name_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "cpuinfo"
    about.write_text("processor\t: 0\nmodel name\t: Intel(R)  Core(TM) i5\nflags\t: fpu\n", encoding="utf-8")
    monkeypatch.setattr(hardware, "_CPU_INFO", about)
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    assert hardware.processor().startswith("Intel(R) Core(TM) i5, ") and hardware.processor().endswith(" GB")


def test_a_processor_by_windows_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    def registry(key: str, name: str) -> object:
        return "AMD Ryzen 5 " if key.endswith(r"CentralProcessor\0") and name == "ProcessorNameString" else None

    def nothing(*_: object) -> int:
        return 0

    monkeypatch.setattr(windows, "api", lambda: windows.Api(nothing, nothing, registry, nothing))
    monkeypatch.setattr(hardware.sys, "platform", "win32")
    assert hardware.processor().startswith("AMD Ryzen 5, ")


def test_this_computer_has_cores_and_a_name() -> None:
    assert 1 <= hardware.physical_cores() <= hardware.logical_cores()
    assert hardware.processor()
