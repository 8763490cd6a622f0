"""The runs tab's logic: rows of whole and damaged runs, deleting and bringing back, comparing, opening folders."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_core import events
from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Event, Failed, Finished, Phase, Sample, Saved, State, Step, Validation
from lora_core.messages import plain
from lora_core.runs import actions
from lora_core.runs import index as runs_shelf
from lora_core.runs import summary as runs_summary
from lora_core.runs.index import RunIndex
from lora_core.runs.run import SHEET, Run, list_runs
from lora_core.system import trash
from lora_core.ui.shared.file_manager import open_folder


def make_run(folder: Path, *told: Event, at: float = 1_700_000_000.0, lora: bool = True, **settings: Any) -> Run:
    """A run folder with real files; its events are a second apart, its pictures where the events say."""
    run = Run(folder)
    config = TrainConfig.of({"output_dir": str(folder), "output_name": "zebu", **settings})
    run.begin(config)
    lines = [events.to_line(event, at + second) for second, event in enumerate(told)]
    run.events_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for event in told:
        if isinstance(event, Sample):
            Image.new("RGB", (8, 8), (200, 90, 30)).save(folder / event.path)
        if isinstance(event, Saved):
            (folder / event.path).mkdir(parents=True)
            (folder / event.path / "lora.safetensors").write_bytes(b"lora")
        if isinstance(event, Finished) and lora:
            (folder / event.path).write_bytes(b"finished")
            Image.new("RGB", (16, 8)).save(folder / SHEET)
    return run


WELL: tuple[Event, ...] = (
    State("running"), Phase("cache", 0, 12, "001.png"), Phase("cache", 12, 12), Phase("cache", 1, 30, "captions"),
    Validation(0, 0.9, 0.9, best=True), Sample(0, "samples/step_0000000_0.png", "a zebu", 1),
    Step(1, 4, 0.8, 1e-4), Step(2, 4, 0.7, 1e-4), Validation(2, 0.3, 0.3, best=True), Saved(2, "checkpoints/step_0000002"),
    Sample(2, "samples/step_0000002_0.png", "a zebu", 1), Step(4, 4, 0.6, 1e-4), Validation(4, 0.4, 0.2, best=False),
    Saved(4, "checkpoints/step_0000004"), Sample(4, "samples/step_0000004_0.png", "a zebu", 1),
    Sample(4, "samples/step_0000004_1.png", "a cat, to see what stays", 2),
    Finished(4, "zebu.safetensors", 2),
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lora_out"


@pytest.fixture
def index(root: Path, tmp_path: Path) -> RunIndex:
    return RunIndex(root, tmp_path / "home" / "runs.json")


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_run_that_went_well(root: Path, index: RunIndex) -> None:
    run = make_run(root / "férias", *WELL, pretrained_model_name_or_path="org/sd-tiny")
    (row,) = index.rows()
    assert (row.key, row.name, row.model, row.at, row.wrong) == ("férias", "férias", "sd-tiny", 1_700_000_000.0, ())
    told = row.summary
    assert (told.step, told.total, told.pictures, told.best_step, told.best_loss) == (4, 4, 12, 2, 0.3)
    assert (told.end, told.damaged) == ("finished", 0)
    assert row.picture == run.samples / "step_0000004_0.png"
    assert row.lora == run.folder / "zebu.safetensors"


def test_the_summary_is_what_all_the_events_say(root: Path) -> None:
    """The quick pass over the bytes against the slow one over the events."""
    run = make_run(root / "a", *WELL)
    slow = runs_summary.Summary()
    for event, at in run.read()[0]:
        slow = slow.with_event(event, at)
        if isinstance(event, Step):
            slow = runs_summary.replace(slow, step=event.step, total=event.total)
    assert runs_summary.summarise(run.events_file) == slow


@pytest.mark.parametrize(
    ("last", "end"),
    [
        ((), ""), ((Failed(plain("No memory; lower it.")),), "failed"),
        ((Finished(2, "zebu.safetensors", 2, stopped=True),), "stopped"),
        ((Failed(plain("x")), State("running")), ""),
    ],
    ids=["cut", "failed", "stopped", "gone on"],
)  # fmt: skip
def test_how_a_run_ended(root: Path, index: RunIndex, last: tuple[Event, ...], end: str) -> None:
    make_run(root / "a", State("running"), Step(2, 4, 0.5, 1e-4), *last)
    (row,) = index.rows()
    assert (row.summary.end, row.summary.step, row.wrong) == (end, 2, ())


def test_all_places_of_runs_are_looked_at_and_the_newest_comes_first(root: Path, index: RunIndex) -> None:
    make_run(root, *WELL, at=100.0)
    make_run(root / "b", *WELL, at=300.0)
    make_run(root / "b" / "previous" / "2026-01-02_10-00-00", *WELL, at=200.0)
    (root / ".trash" / "old" / "samples").mkdir(parents=True)
    (root / "notes").mkdir()
    rows = index.rows()
    assert [row.key for row in rows] == ["b", "b/previous/2026-01-02_10-00-00", "."]
    assert [row.name for row in rows] == ["b", "b · 2026-01-02_10-00-00", "lora_out"]
    assert {row.run.folder.resolve() for row in rows} == {run.folder.resolve() for run in list_runs(root)}
    assert index.key_of(root / "b") == "b"
    assert index.key_of(root / "notes") is None
    with pytest.raises(UserError, match="not there any more"):
        index.row("../secret")


def test_damaged_and_half_deleted_runs_are_rows_that_say_so(root: Path, index: RunIndex) -> None:
    make_run(root / "config", *WELL).config_file.write_text("resolution = [", encoding="utf-8")
    make_run(root / "no-config", *WELL).config_file.unlink()
    make_run(root / "newer", *WELL).config_file.write_text("schema = 99", encoding="utf-8")
    make_run(root / "no-events", *WELL).events_file.unlink()
    with make_run(root / "lines", *WELL).events_file.open("ab") as file:
        file.write(b'{"kind": "Step", "at": 1, "st\n\xff\xfe{}\n{"kind": "Nonsense", "at": 1}\n{"kind": "Sta')
    make_run(root / "no-lora", *WELL, lora=False)
    (root / "only-samples" / "samples").mkdir(parents=True)
    (root / "folder" / "config.toml").mkdir(parents=True)
    rows = {row.key: row for row in index.rows()}
    assert {key: row.wrong for key, row in rows.items()} == {
        "config": ("config",), "no-config": ("config",), "newer": ("config",), "no-events": ("events",),
        "lines": ("lines",), "no-lora": ("lora",), "only-samples": ("config", "events"), "folder": ("config", "events"),
    }  # fmt: skip
    assert "not valid TOML" in str(rows["config"].why)
    assert rows["lines"].summary.damaged == 2
    assert rows["lines"].summary.step == 4
    assert rows["no-events"].picture is not None


def test_a_picture_outside_of_the_run_is_not_shown(root: Path, index: RunIndex, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    run = make_run(root / "a", State("running"))
    run.append(Sample(3, "../../secret.png", "", 1))
    (row,) = index.rows()
    assert row.picture is None


def test_events_are_read_once_and_again_when_they_changed(
    root: Path, index: RunIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(root / "a", *WELL)
    make_run(root / "b", *WELL)
    read: list[Path] = []
    real = runs_summary.summarise
    monkeypatch.setattr(runs_shelf, "summarise", lambda path: read.append(path) or real(path))
    assert len(index.rows()) == 2
    again = RunIndex(root, index.cache_file)
    assert [row.summary for row in again.rows()] == [row.summary for row in index.rows()]
    assert len(read) == 2
    run.append(Failed(plain("late")))
    assert {row.summary.end for row in again.rows()} == {"failed", "finished"}
    assert len(read) == 3
    assert sorted(json.loads(index.cache_file.read_text(encoding="utf-8"))) == [str(root / "a"), str(root / "b")]
    index.cache_file.write_text('{"x": [1]}', encoding="utf-8")
    assert len(RunIndex(root, index.cache_file).rows()) == 2


# --- delete, bring back, rename --------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path) -> trash.System:
    """A trash within the test's own folder."""
    return trash.System("linux" if os.name != "nt" else "win32", tmp_path / "home", {})


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_run_of_its_own_is_deleted_whole_and_brought_back(root: Path, index: RunIndex, system: trash.System) -> None:
    make_run(root / "a", *WELL)
    before = names(root)
    row = index.row("a")
    found = actions.contents(row)
    assert (found.files, found.checkpoints, found.samples, found.stays) == (len(before), 2, 4, ())
    assert found.size == sum((root / name).stat().st_size for name in before)
    removal = actions.delete(row, root, system)
    assert (index.rows(), (root / "a").exists()) == ([], False)
    assert actions.restore(removal, system) == root / "a"
    assert names(root) == before


def test_what_else_lies_in_the_folder_stays(root: Path, index: RunIndex, system: trash.System) -> None:
    """The root may be a run itself, with all other runs below it."""
    make_run(root, *WELL)
    make_run(root / "previous" / "2026-01-02_10-00-00", *WELL)
    make_run(root / "b", *WELL)
    (root / "my notes.txt").write_text("mine", encoding="utf-8")
    before = names(root)
    row = index.row(".")
    assert actions.contents(row).stays == ("b", "my notes.txt", "previous")
    removal = actions.delete(row, root, system)
    assert sorted(path.name for path in root.iterdir() if path.name != ".trash") == ["b", "my notes.txt", "previous"]
    assert {row.key for row in index.rows()} == {"b", "previous/2026-01-02_10-00-00"}
    actions.restore(removal, system)
    assert names(root) == before


def test_a_newer_run_in_its_place_is_not_mixed_with_the_deleted(root: Path, index: RunIndex, system: trash.System) -> None:
    make_run(root / "a", *WELL)
    (root / "a" / "mine.txt").touch()
    removal = actions.delete(index.row("a"), root, system)
    make_run(root / "a", State("running"))
    with pytest.raises(UserError, match="exists again"):
        actions.restore(removal, system)
    assert (index.row("a").summary.end, index.row("a").summary.step) == ("", 0)


def test_a_delete_that_is_refused_leaves_everything(
    root: Path, index: RunIndex, system: trash.System, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(root / "a", *WELL)
    (root / "a" / "mine.txt").touch()
    before = names(root)

    def refuse(path: Path, system: trash.System | None) -> None:
        raise UserError("It is in use.")

    monkeypatch.setattr(trash, "discard", refuse)
    with pytest.raises(UserError, match="in use"):
        actions.delete(index.row("a"), root, system)
    assert names(root) == before


def test_renamed_runs_keep_their_settings(root: Path, index: RunIndex) -> None:
    make_run(root / "a", *WELL)
    make_run(root / "b", *WELL)
    assert actions.rename(index.row("a"), "Élan", root) == root / "Élan"
    row = index.row("Élan")
    assert row.config is not None
    assert row.config.output_dir == str(root / "Élan")
    assert row.summary.step == 4
    for name, sentence in {
        "b": "already", "previous": "meaning of its own", "CON": "device", "x/y": "not allowed", "": "empty",
        ".x": "meaning",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            actions.rename(row, name, root)
    make_run(root, *WELL)
    with pytest.raises(UserError, match="holds all runs"):
        actions.rename(index.row("."), "x", root)
    assert actions.rename(row, "Élan", root) == root / "Élan"


# --- folders ---------------------------------------------------------------------------------------------------------


def test_only_our_folders_are_opened(tmp_path: Path, root: Path) -> None:
    make_run(root / "a", *WELL)
    (tmp_path / "secret").mkdir()
    opened: list[Path] = []
    open_folder(root / "a", [root], opened.append)
    assert opened == [Path(os.path.realpath(root / "a"))]
    for folder in (tmp_path / "secret", root / "a" / ".." / ".." / "secret", tmp_path):
        with pytest.raises(UserError, match="no folder of a run"):
            open_folder(folder, [root], opened.append)
    if os.name != "nt":
        (root / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(UserError, match="no folder of a run"):
            open_folder(root / "link", [root], opened.append)
    with pytest.raises(UserError, match="not there any more"):
        open_folder(root / "gone", [root], opened.append)
    assert len(opened) == 1

    def none_there(folder: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(UserError, match="No file manager could be started"):
        open_folder(root / "a", [root], none_there)


@pytest.mark.skipif(os.name == "nt", reason="Windows has a call for it")
def test_the_systems_file_manager_gets_the_folder(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(root / "a b", *WELL)
    told = tmp_path / "told"
    for name in ("open", "xdg-open"):
        (tmp_path / name).write_text(
            f'#!/bin/sh\nprintf %s "$1" > "{told}.part"\nmv "{told}.part" "{told}"\n', encoding="utf-8"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    open_folder(root / "a b", [root])
    deadline = time.monotonic() + 30
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert told.read_text(encoding="utf-8") == os.path.realpath(root / "a b")
