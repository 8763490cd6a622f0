"""lora_core.check.disk: a file is written until it is on the disk, read from there, and gone."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from lora_core.check import disk
from lora_core.check.bench import Bench
from lora_core.check.disk import Speed
from lora_core.check.findings import FAILED, GOOD, SLOWER
from lora_core.models.computer import Computer, Identity
from lora_core.models.device import Device
from lora_core.system import files
from tests.support.played_cards import Played, tiny_sizes

CPU = Device("cpu", "the CPU")


@pytest.fixture
def bench(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    return Bench(
        Played(CPU), Computer(Identity.of(CPU)), time.monotonic() + 60, tiny_sizes(tiny_sd1), tmp_path / "runs" / "mine"
    )


def play(monkeypatch: pytest.MonkeyPatch, free: float, written: float = 400e6) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda path: int(free))
    monkeypatch.setattr(disk, "speed", lambda folder, size: Speed(written, None))


def test_a_disk_is_written_and_read_and_left_as_it_was(tmp_path: Path) -> None:
    found = disk.speed(tmp_path, 9 * 2**20)
    assert found.written > 0 and (found.read or 1) > 0 and list(tmp_path.iterdir()) == []
    assert sys.platform != "linux" or found.read


def test_what_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        disk.speed(tmp_path, 2**20)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_forgotten_reading_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.sys, "platform", "win32")
    assert disk.speed(tmp_path, 2**20).read is None


@pytest.mark.parametrize(
    ("free", "written", "verdict", "decision"),
    [
        (100e9, 400e6, GOOD, ""), (100e9, 20e6, SLOWER, "another disk"), (5e9, 400e6, FAILED, "free some space"),
        (1e6, 400e6, FAILED, "free some space"),
    ],
)  # fmt: skip
def test_what_follows_from_speed_and_space(
    free: float, written: float, verdict: str, decision: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, free, written)
    disk.measure(bench)
    (finding,) = bench.findings
    assert finding.verdict == verdict and decision in str(finding.decision or "")
    assert bench.computer.disk_bytes_per_second == (written if free > 1e6 else None)


def test_two_disks_are_two_findings(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, 100e9)
    bench.run_folder.mkdir(parents=True)
    monkeypatch.setattr(disk, "_disk_of", lambda folder: int(folder == bench.run_folder))
    disk.measure(bench)
    assert [finding.message.key for finding in bench.findings] == ["check.disk_cache", "check.disk_run"]


def test_folders_that_are_not_there_yet_are_asked_above(tmp_path: Path) -> None:
    assert disk._there(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").touch()
    assert disk._there(tmp_path / "file") == tmp_path
