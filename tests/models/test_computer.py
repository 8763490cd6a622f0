"""lora_core.models.computer: what was proven on this computer is kept for that device, driver, torch and Treino alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lora_core.models import computer
from lora_core.models.computer import EIGHT_BIT, GRAPH, Computer, Identity, keep, known, step_key
from lora_core.models.device import Device
from lora_core.system import files, hardware
from tests import ROOT

GB = 2**30
CARD = Device("cuda:0", "NVIDIA GeForce RTX 3060", 12 * GB)
OTHER = Device("cuda:1", "NVIDIA GeForce GTX 1650", 4 * GB)
CPU = Device("cpu", "the CPU")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hardware, "driver", lambda: "NVIDIA 580.97")
    monkeypatch.setattr(hardware, "processor", lambda: 'a "quick" CPU, 8 threads, 16 GB')
    return tmp_path


def found(device: Device = CARD) -> Computer:
    return Computer(
        Identity.of(device), formats={"fp16": True, "bf16": False}, native_bf16=False, graphs=True, eight_bit=True,
        host_bound=True, step_seconds={step_key("fp16"): 0.21, step_key("fp16", GRAPH): 0.125}, free_bytes=11 * GB,
        taken_by_others=GB, memory_ratio=1.02, disk_bytes_per_second=4.5e8, checked_at=1.7e9,
    )  # fmt: skip


def test_what_is_kept_is_known() -> None:
    assert known(CARD) is None
    assert keep(found())
    assert known(CARD) == found()
    assert found().seconds("fp16") == 0.21 and found().seconds("fp16", GRAPH) == 0.125
    assert found().seconds("bf16") is None and found().seconds("fp16", EIGHT_BIT) is None


def test_two_devices_stand_side_by_side_and_a_new_check_takes_the_place_of_the_old() -> None:
    for each in (found(), found(OTHER), Computer(Identity.of(CPU), threads=4, vae_threads=8)):
        keep(each)
    keep(replace(found(OTHER), graphs=False))
    assert known(CARD) == found()
    assert known(OTHER) == replace(found(OTHER), graphs=False)
    assert known(CPU) == Computer(Identity.of(CPU), threads=4, vae_threads=8)


def test_nothing_is_known_with_another_driver_torch_treino_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(found())
    assert known(replace(CARD, bytes=8 * GB)) is None
    for name, value in (("_torch", lambda: "2.14.0"), ("__version__", "99.0")):
        with monkeypatch.context() as changed:
            changed.setattr(computer, name, value)
            assert known(CARD) is None
    monkeypatch.setattr(hardware, "driver", lambda: "NVIDIA 590.01")
    assert known(CARD) is None


def test_the_driver_that_torch_tells_of_a_card_counts_before_the_computers() -> None:
    """Intel's: beside a card of NVIDIA, whose driver's change proves nothing anew."""
    arc = Device("xpu:0", "Intel Arc B580", 12 * GB, driver="1.15.38308")
    assert keep(Computer(Identity.of(arc), recomputed=True)) and Identity.of(arc).driver == "1.15.38308"
    assert known(arc) and known(replace(arc, driver="1.15.40000")) is None


def test_a_driver_does_not_matter_to_the_cpu_and_does_to_apples_graphics(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = Device("mps", "Apple graphics")
    for device in (CPU, apple):
        keep(Computer(Identity.of(device)))
    monkeypatch.setattr(hardware, "driver", lambda: "macOS 27.0")
    assert known(CPU) and known(apple) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "\0", "checked = 3", "[checked]\nidentity = 1", "[[checked]]\ngraphs = true", "[[checked]]\nidentity = 3",
        "x = " + "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_file_is_as_if_never_checked_and_is_written_anew(text: str) -> None:
    path = computer.computer_file()
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert known(CARD) is None
    assert keep(found()) and known(CARD) == found()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("graphs = true", "graphs = 1"), ("graphs = true", 'graphs = "yes"'), ("free_bytes = ", "free_bytes = true #"),
        ('"bf16" = false', '"bf16" = 0.5'), ("graphs = true", "of_tomorrow = true"), ('"treino"', '"version"'),
        ("memory_ratio = 1.02", "memory_ratio = false"),
    ],
)  # fmt: skip
def test_a_table_that_means_something_else_is_left_out_and_the_others_are_read(line: str, wrong: str) -> None:
    keep(found(OTHER))
    keep(found())
    path = computer.computer_file()
    text = path.read_text(encoding="utf-8")
    assert line in text
    files.write_text_whole(path, text.replace(line, wrong, 1))
    assert known(CARD) is None and known(OTHER) == found(OTHER)


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "file" / "cache"))
    assert not keep(found()) and known(CARD) is None


def test_old_tables_go_and_the_last_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [replace(CARD, title=f"card {number}") for number in range(computer.MOST_KEPT + 2)]
    for card in cards:
        keep(found(card))
    assert [known(card) is not None for card in cards] == [False, False, *[True] * computer.MOST_KEPT]


def test_it_is_read_without_torch() -> None:
    script = "import sys, lora_core.models.computer as c; print('torch' in sys.modules, bool(c._torch()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True"
