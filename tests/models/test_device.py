"""Graphics cards are mocked: torch answers as it would with them, and the choice is ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_core.models import device as precision
from lora_core.models.computer import Computer, Identity, keep
from lora_core.models.device import Device, smallest_for
from lora_core.settings import ConfigError
from lora_core.system.distributed import ProcessGroup

GB = 2**30
ARCHS = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120"]


def card(
    name: str,
    gigabytes: int,
    capability: tuple[int, int] = (8, 6),
    gcn: str = "",
    bf16: bool = True,
    built_in: bool = False,
) -> SimpleNamespace:
    major, minor = capability
    return SimpleNamespace(
        name=name, total_memory=gigabytes * GB, major=major, minor=minor, gcnArchName=gcn, has_bfloat16_conversions=bf16,
        is_integrated=int(built_in), is_integrated_gpu=built_in, driver_version="1.15",
    )  # fmt: skip


def plug_in(
    monkeypatch: pytest.MonkeyPatch, *cards: SimpleNamespace, archs: list[str] = ARCHS, hip: str | None = None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: cards[number])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: (cards[device.index].major, cards[device.index].minor)
    )
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


def test_fp16_on_a_cpu_computes_in_fp32_and_says_so() -> None:
    compute = precision.choose("cpu", "fp16")
    assert compute.dtype == torch.float32 and not compute.scale_loss and "fp32" in str(compute.notices[0])
    assert precision.choose("cpu", "no").notices == () and compute.title == "the CPU"


@pytest.mark.parametrize("native", [True, False])
def test_bf16_on_a_cpu_needs_native_units(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: native)
    compute = precision.choose("cpu", "bf16")
    assert compute.dtype == (torch.bfloat16 if native else torch.float32) and bool(compute.notices) != native


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 6), torch.bfloat16)])
def test_bf16_on_an_old_card_becomes_fp16(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, card("card", 8, capability))
    compute = precision.choose("cuda", "bf16")
    assert compute.dtype == dtype and compute.scale_loss == (dtype == torch.float16)


@pytest.mark.parametrize("name", ["cuda:7", "toaster", "mps:1"])
def test_a_device_that_is_not_there_is_named_beside_those_that_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, card("NVIDIA GeForce RTX 3060", 12))
    with pytest.raises(ConfigError, match=f"device: '{name}' is not available here.*cuda:0.*RTX 3060.*the CPU"):
        precision.choose(name, "no")


def test_of_several_cards_the_one_with_most_memory_is_taken_and_any_can_be_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plug_in(monkeypatch, card("GeForce GTX 1660", 6, (7, 5)), card("GeForce RTX 4090", 24, (8, 9)))
    for name in ("auto", "cuda", "cuda:1"):
        compute = precision.choose(name, "fp16")
        assert compute.device == torch.device("cuda:1") and compute.title == "GeForce RTX 4090, 24 GB (cuda:1)"
    assert precision.choose("cuda:0", "fp16").title == "GeForce GTX 1660, 6 GB (cuda:0)"
    assert precision.choose("cpu", "no").device.type == "cpu"
    assert [device.name for device in precision.devices()] == ["cuda:1", "cuda:0", "cpu"]


def test_a_card_the_build_has_no_code_for_is_left_alone_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, card("GeForce GTX 780", 3, (3, 5)))
    compute = precision.choose("auto", "no")
    assert compute.device.type == "cpu" and "no code for GeForce GTX 780" in str(compute.notices[0])
    with pytest.raises(ConfigError, match="no code for GeForce GTX 780"):
        precision.choose("cuda", "no")
    plug_in(monkeypatch, card("GeForce GTX 780", 99, (3, 5)), card("GeForce RTX 2060", 6, (7, 5)))
    assert precision.choose("auto", "no").device == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("code", "capability", "runs"),
    [
        ("sm_86", (8, 6), True), ("sm_80", (8, 9), True), ("sm_86", (8, 0), False), ("sm_80", (9, 0), False),
        ("compute_80", (9, 0), True), ("compute_90", (8, 9), False), ("sm_90a", (9, 0), True), ("sm_120", (12, 0), True),
        ("gfx1100", (11, 0), False),
    ],
)  # fmt: skip
def test_code_runs_on_cards_of_its_generation_and_ptx_on_later_ones(
    code: str, capability: tuple[int, int], runs: bool
) -> None:
    assert precision._runs(code, *capability) == runs


def test_amd_cards_go_by_rocm_and_the_graphics_inside_a_processor_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside = card("AMD Radeon Graphics", 30, (10, 3), "gfx1036")
    plug_in(
        monkeypatch, inside, card("AMD Radeon RX 7900 XTX", 24, (11, 0), "gfx1100:sramecc-:xnack-"),
        archs=["gfx1030", "gfx1100"], hip="7.1",
    )  # fmt: skip
    compute = precision.choose("auto", "bf16")
    assert compute.title == "AMD Radeon RX 7900 XTX, ROCm, 24 GB (cuda:1)" and compute.dtype == torch.bfloat16


def test_intel_and_apple_are_taken_where_torch_offers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: True)
    assert precision.choose("auto", "fp16").title == "Apple graphics"
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda number: card("Intel Arc A770", 16))
    assert precision.choose("auto", "bf16").title == "Intel Arc A770, 16 GB (xpu:0)"
    assert precision.choose("mps", "fp16").device.type == "mps"


def test_a_card_is_taken_before_what_is_built_into_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which counts most of the computer's memory as its own, and is taken where there is nothing else."""
    inside, arc = card("Intel(R) UHD Graphics 770", 28, built_in=True), card("Intel(R) Arc(TM) A770 Graphics", 16)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda number: (inside, arc)[number])
    for count, taken in ((2, "xpu:1"), (1, "xpu:0")):
        monkeypatch.setattr(torch.xpu, "device_count", lambda count=count: count)
        assert str(precision.choose("auto", "fp16").device) == taken
    halo, radeon = card("AMD Radeon 8060S", 64, gcn="gfx1151", built_in=True), card("AMD Radeon", 24, gcn="gfx1100")
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    plug_in(monkeypatch, halo, radeon, archs=["gfx1100", "gfx1151"], hip="7.2")
    assert str(precision.choose("auto", "fp16").device) == "cuda:1"


def test_each_process_on_a_computer_gets_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, card("small", 8), card("large", 24))
    for rank in (0, 1):
        group = ProcessGroup(size=2, rank=rank, local_rank=rank)
        assert precision.choose("auto", "fp16", group).device == torch.device("cuda", rank)
        with pytest.raises(ConfigError, match=f"process {rank + 1} of 2 has no graphics card of its own"):
            precision.choose("cuda:0", "fp16", group)
        assert precision.choose("cpu", "no", group).device.type == "cpu"
    with pytest.raises(ConfigError, match="process 3 of 3 has no graphics card"):
        precision.choose("auto", "fp16", ProcessGroup(size=3, rank=2, local_rank=2))


def test_the_smallest_card_with_enough_memory() -> None:
    found = [Device("cuda:1", "large", 24 * GB), Device("cuda:0", "small", 8 * GB), Device("cpu", "the CPU")]
    assert smallest_for(6 * GB, found) == found[1]
    assert smallest_for(9 * GB, found) == found[0]
    assert smallest_for(40 * GB, found) is None
    broken = [Device("cuda:0", "old", 8 * GB, works=False)]
    assert smallest_for(GB, broken) is None


def test_what_graphs_keep_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what is in use, nor another card's; of what torch keeps besides, everybody may take."""

    def segment(device: int, pool: tuple[int, int], total: int, used: int) -> dict[str, object]:
        return {"device": device, "segment_pool_id": pool, "total_size": total * GB, "allocated_size": used * GB}

    kept = [segment(1, (0, 0), 4, 1), segment(1, (0, 7), 6, 2), segment(0, (0, 0), 5, 0), segment(1, (0, 0), 2, 2)]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: kept)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 17 * GB)
    assert [precision.free_bytes(torch.device(name)) for name in ("cuda:1", "cuda", "cuda:0")] == [4 * GB, 4 * GB, 6 * GB]
    assert precision.free_bytes(torch.device("cpu")) == float("inf")


def test_memory_in_use_is_read_from_where_torch_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * GB + device.index)
    monkeypatch.setattr(torch.xpu, "max_memory_allocated", lambda device: 2 * GB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GB)
    used = [precision.used_bytes(torch.device(name)) for name in ("cuda:1", "xpu:0", "mps", "cpu")]
    assert used == [3 * GB + 1, 2 * GB, GB, 0]


@pytest.mark.parametrize("name", ["cuda:1", "xpu:1", "mps", "cpu"])
def test_the_end_of_a_devices_work_is_marked_on_its_own_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Event:
        def record(self, *stream: object) -> None:
            calls.extend(stream or ["the only stream"])

        def synchronize(self) -> None:
            calls.append("waited")

    backend = SimpleNamespace(Event=Event, current_stream=lambda device: f"stream of {device}")
    monkeypatch.setattr(torch, "get_device_module", lambda device: backend)
    wait = precision.end_of_work(torch.device(name))
    marked = list(calls)
    wait()
    stream = {"cpu": [], "mps": ["the only stream"]}.get(name, [f"stream of {name}"])
    assert marked == stream and calls == [*stream, *(["waited"] if stream else [])]


def test_the_peak_of_a_training_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(getattr(torch, kind), "reset_peak_memory_stats", lambda device: begun.append(str(device)))
    for name in ("cuda:1", "xpu:0", "mps", "cpu"):
        precision.begin_peak(torch.device(name))
    assert begun == ["cuda:1", "xpu:0"]


def test_a_small_model_computes_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(precision, "_CORES", 3)
    try:
        for width, threads in ((100, 1), (8000, 3), (100, 1)):
            with torch.device("meta"):
                precision.use_cores(torch.nn.Linear(width, 8000))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


GTX = card("NVIDIA GeForce GTX 1650", 4, (7, 5))


def check_found(device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **values: Any) -> None:
    """As if the check of this computer had found that of a device."""
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path))
    about = next(each for each in precision.devices() if each.name == device)
    assert keep(Computer(Identity.of(about), **values))


@pytest.fixture
def flags() -> Iterator[None]:
    """What a test sets of torch's own is as before after it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize(
    ("about", "asked", "formats", "bf16", "taken"),
    [
        (GTX, "fp16", {"fp16": False}, False, "no"), (GTX, "bf16", {"fp16": False}, False, "no"),
        (GTX, "fp16", {"fp16": True}, False, "fp16"), (GTX, "bf16", {"fp16": True}, False, "fp16"),
        (GTX, "no", {"fp16": False}, False, "no"),
        (card("RTX 3060", 12), "fp16", {"fp16": False, "bf16": True}, True, "bf16"),
        (card("RTX 3060", 12), "bf16", {"fp16": True, "bf16": False}, True, "fp16"),
        (card("RTX 3060", 12), "bf16", {"fp16": False, "bf16": False}, True, "no"),
        (card("RTX 3060", 12), "bf16", {"fp16": True, "bf16": True}, False, "fp16"),  # emulated, by its speed
    ],
)  # fmt: skip
def test_the_nearest_format_that_was_not_found_wrong_is_taken_and_told_once(
    about: SimpleNamespace, asked: str, formats: dict[str, bool], bf16: bool, taken: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    plug_in(monkeypatch, about)
    check_found("cuda:0", monkeypatch, tmp_path, formats=formats, native_bf16=bf16)
    compute = precision.choose("auto", asked)
    assert compute.dtype == precision.DTYPES[taken] and compute.scale_loss == (taken == "fp16")
    assert len(compute.notices) == (taken != asked)
    for notice in compute.notices:
        assert ("fp32" if taken == "no" else taken) in str(notice).partition("computing in")[2]


def test_a_card_without_tensor_cores_searches_its_kernels_until_a_check_knows_better(
    flags: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path))
    plug_in(monkeypatch, GTX)
    compute = precision.choose("auto", "fp16")
    assert compute.dtype == torch.float16 and [notice.key for notice in compute.notices] == ["models.may_be_nan"]
    assert "GTX 1650" in str(compute.notices[0]) and precision.choose("auto", "no").notices == ()
    precision.set_up(compute)
    assert torch.backends.cudnn.benchmark
    check_found("cuda:0", monkeypatch, tmp_path, formats={"fp16": True}, native_bf16=False)
    compute = precision.choose("auto", "fp16")
    assert compute.notices == () and compute.searches_kernels, "it was proven so"
    for other in (card("NVIDIA GeForce RTX 2060", 6, (7, 5)), card("NVIDIA GeForce RTX 3060", 12)):
        plug_in(monkeypatch, other)
        compute = precision.choose("auto", "fp16")
        assert compute.notices == () and not compute.searches_kernels
        precision.set_up(compute)
        assert not torch.backends.cudnn.benchmark


def test_a_second_card_opens_nothing_on_the_first(flags: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, card("large", 24), card("small", 8))
    taken: list[torch.device] = []
    for backend in (torch.cuda, torch.xpu):
        monkeypatch.setattr(backend, "set_device", taken.append)
    precision.set_up(precision.choose("cuda:1", "fp16"))
    precision.set_up(precision.choose("cpu", "no"))
    assert taken == [torch.device("cuda:1")]


@pytest.mark.parametrize("right", [True, False])
def test_products_in_fp32_stay_so_and_convolutions_take_tf32_unless_it_was_found_wrong(
    right: bool, flags: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug_in(monkeypatch, card("NVIDIA GeForce RTX 3060", 12))
    check_found("cuda:0", monkeypatch, tmp_path, formats={"tf32": right})
    torch.backends.cuda.matmul.allow_tf32 = True
    precision.set_up(precision.choose("auto", "no"))
    assert not torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32 == right


def test_only_formats_that_reach_further_on_this_device_are_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.wider_formats("cpu", "fp16") == [] == precision.wider_formats("cuda:9", "fp16")
    for about, advised in ((GTX, ["no"]), (card("NVIDIA GeForce RTX 3060", 12), ["bf16", "no"])):
        plug_in(monkeypatch, about)
        assert precision.wider_formats("auto", "fp16") == advised
        assert precision.wider_formats("auto", "no") == []
    assert precision.wider_formats("auto", "bf16") == ["no"]


def test_bf16_is_taken_where_torch_tells_that_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    for has_bf16 in (True, False):
        arc = card("Intel Arc A770", 16, bf16=has_bf16)
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda number, arc=arc: arc)
        assert precision.choose("xpu", "bf16").dtype == (torch.bfloat16 if has_bf16 else torch.float16)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for is_new in (True, False):
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor, is_new=is_new: is_new)
        assert precision.choose("mps", "bf16").dtype == (torch.bfloat16 if is_new else torch.float16)


def test_free_memory_of_intels_and_apples_is_told_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda device: (6 * GB, 12 * GB))
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda device: 3 * GB)
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda device: 2 * GB)
    assert precision.free_bytes(torch.device("xpu")) == 7 * GB

    def unknown(device: torch.device) -> tuple[int, int]:
        raise RuntimeError("The device doesn't support querying the available free memory")

    monkeypatch.setattr(torch.xpu, "mem_get_info", unknown)
    assert precision.free_bytes(torch.device("xpu")) == float("inf")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * GB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 6 * GB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 5 * GB)
    assert precision.free_bytes(torch.device("mps")) == 7 * GB
    assert precision.free_bytes(torch.device("cpu")) == float("inf")
