"""lora_core.check.probe: what torch is asked of each kind of device, with a torch that is played."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lora_core.check.probe import DeviceMemory, Probe
from lora_core.models.device import Device

GB = 2**30
CPU, NVIDIA, INTEL, APPLE = (
    Probe(Device(name, name, size * GB)) for name, size in (("cpu", 0), ("cuda:0", 8), ("xpu:0", 16), ("mps", 0))
)


def plug_in(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None = None) -> None:
    about = SimpleNamespace(major=capability[0], minor=capability[1], gcnArchName="gfx1100:sramecc-")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_86"])
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.version, "cuda", None if hip else "13.0")


@pytest.mark.parametrize(
    ("capability", "hip", "told"),
    [
        ((8, 6), None, ("CUDA 13.0", "8.6", True)), ((7, 5), None, ("CUDA 13.0", "7.5", False)),
        ((11, 0), "7.1", ("ROCm 7.1", "gfx1100", False)),
    ],
)  # fmt: skip
def test_what_a_card_of_nvidia_or_amd_is(
    capability: tuple[int, int], hip: str | None, told: tuple[str, str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, capability, hip)
    assert (NVIDIA.build(), NVIDIA.capability(), NVIDIA.has_tf32()) == told
    assert NVIDIA.built_for() == ["sm_75", "sm_86"] and NVIDIA.has_graphs() and NVIDIA.device == torch.device("cuda:0")


def test_what_others_have_not_is_not_asked_for() -> None:
    assert [probe.build() for probe in (CPU, INTEL, APPLE)] == ["", "XPU", "MPS"]
    for probe in (CPU, INTEL, APPLE):
        assert probe.capability() == "" and probe.built_for() == []
        assert not probe.has_tf32() and not probe.has_graphs()
    assert not CPU.is_card and INTEL.is_card and APPLE.is_card


def test_memory_by_the_driver_with_what_torch_holds_and_others_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (torch.cuda, torch.xpu):
        monkeypatch.setattr(backend, "mem_get_info", lambda device: (5 * GB, 8 * GB))
        monkeypatch.setattr(backend, "memory_reserved", lambda device: 2 * GB)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 11 * GB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GB)
    assert NVIDIA.memory() == INTEL.memory() == DeviceMemory(5 * GB, 8 * GB, 2 * GB)
    assert DeviceMemory(5 * GB, 8 * GB, 2 * GB).taken_by_others == GB
    assert APPLE.memory() == DeviceMemory(10 * GB, 11 * GB, GB) and CPU.memory() is None


def test_the_peak_is_counted_where_torch_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[str] = []
    for name in ("cuda", "xpu"):
        backend = getattr(torch, name)
        monkeypatch.setattr(backend, "reset_peak_memory_stats", lambda device, name=name: reset.append(name))
        monkeypatch.setattr(backend, "max_memory_allocated", lambda device: 3 * GB)
    for probe in (NVIDIA, INTEL, APPLE, CPU):
        probe.begin_peak()
    assert reset == ["cuda", "xpu"] and [probe.peak() for probe in (NVIDIA, INTEL, APPLE, CPU)] == [3 * GB, 3 * GB, 0, 0]


def test_each_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    for name in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, name), "synchronize", lambda *device, name=name: waited.append(name))
    for probe in (CPU, NVIDIA, INTEL, APPLE):
        probe.wait()
    assert waited == ["cuda", "xpu", "mps"]


def test_tf32_is_on_within_the_block_alone() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), NVIDIA.tf32():
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        raise ZeroDivisionError
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_how_busy_a_processor_is() -> None:
    assert 0 <= CPU.busy() <= 1
