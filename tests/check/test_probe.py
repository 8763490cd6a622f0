"""lora_core.check.probe: what torch is asked of each kind of device, with a torch that is played."""

from __future__ import annotations

import time
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from lora_core.check import probe
from lora_core.check import probe as probes
from lora_core.check.probe import Probe
from lora_core.models.device import Device, DeviceMemory

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
    assert [each.build() for each in (CPU, INTEL, APPLE)] == ["", "XPU", "MPS"]
    for each in (CPU, INTEL, APPLE):
        assert each.capability() == "" and each.built_for() == []
        assert not each.has_tf32() and not each.has_graphs()
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


def test_a_driver_of_intels_that_does_not_tell_its_memory_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(device: object) -> tuple[int, int]:
        raise RuntimeError("The device (Intel(R) Arc(TM) A380) doesn't support querying the available free memory")

    monkeypatch.setattr(torch.xpu, "mem_get_info", refuses)
    assert INTEL.memory() is None


def test_units_for_bf16_are_those_that_trainings_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_them in (True, False):
        about = SimpleNamespace(has_bfloat16_conversions=has_them)
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda number, about=about: about)
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor, told=has_them: told)
        plug_in(monkeypatch, (8, 6) if has_them else (7, 5))
        assert [each.native_bf16() for each in (INTEL, APPLE, NVIDIA)] == [has_them] * 3
    plug_in(monkeypatch, (11, 0), "7.2")
    assert NVIDIA.native_bf16(), "ROCm"


def test_codes_of_an_xpu_build_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "get_arch_list", lambda: ["dg2", "bmg-g21"])
    assert INTEL.built_for() == ["dg2", "bmg-g21"]


def test_the_peak_is_counted_where_torch_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[str] = []
    for name in ("cuda", "xpu"):
        backend = getattr(torch, name)
        monkeypatch.setattr(backend, "reset_peak_memory_stats", lambda device, name=name: reset.append(name))
        monkeypatch.setattr(backend, "max_memory_allocated", lambda device: 3 * GB)
    for each in (NVIDIA, INTEL, APPLE, CPU):
        each.begin_peak()
    assert reset == ["cuda", "xpu"] and [each.peak() for each in (NVIDIA, INTEL, APPLE, CPU)] == [3 * GB, 3 * GB, 0, 0]


def test_each_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    for name in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, name), "synchronize", lambda *device, name=name: waited.append(name))
    for each in (CPU, NVIDIA, INTEL, APPLE):
        each.wait()
    assert waited == ["cuda", "xpu", "mps"]


def test_tf32_is_on_within_the_block_alone() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), NVIDIA.tf32():
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        raise ZeroDivisionError
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    with NVIDIA.tf32(False):  # torch's own default rounds convolutions, and fp32 would not be what it is compared with
        assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_what_others_have_of_the_processor_is_without_what_this_program_has(monkeypatch: pytest.MonkeyPatch) -> None:
    times = namedtuple("scputimes", "user system idle iowait steal guest")
    monkeypatch.setattr(probe.psutil, "cpu_times", lambda: times(50.0, 10.0, 400.0, 5.0, 2.0, 7.0))
    monkeypatch.setattr(probe.time, "process_time", lambda: 12.0)
    assert CPU.others_seconds() == 50.0


def test_time_of_this_computers_processor_goes_on() -> None:
    before = CPU.others_seconds()
    time.sleep(0.05)
    assert CPU.others_seconds() >= before - 0.05


def test_torch_is_set_up_as_a_training_sets_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GTX 16xx is tried with the kernels that it will train with."""
    seen: list[object] = []
    monkeypatch.setattr(probes, "choose", lambda device, mixed_precision: (device, mixed_precision))
    monkeypatch.setattr(probes, "set_up", seen.append)
    NVIDIA.set_up()
    assert seen == [(NVIDIA.about.name, "fp16")]
