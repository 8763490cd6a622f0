"""lora_core.runs.run: a run is a folder, and nothing that is not the run's own is touched in it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Event, Failed, Finished, Saved, Step, Validation, Warned, to_line
from lora_core.messages import plain
from lora_core.runs.run import Run, list_runs, make_folder


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def finished_run(folder: Path, **values: object) -> tuple[Run, TrainConfig]:
    config = TrainConfig.of({"output_dir": str(folder), **values})
    run = Run(folder)
    run.begin(config)
    run.append(Step(1, 1, 0.5, 1e-4))
    run.append(Finished(1, f"{config.output_name}.safetensors", 1))
    run.lora_file(config).write_bytes(b"lora of the old run")
    (folder / "before_after.png").write_bytes(b"sheet")
    (run.checkpoints / "step_0000001").mkdir()
    (run.checkpoints / "step_0000001" / "state.pt").write_bytes(b"state")
    (run.samples / "step_0000001_0.png").write_bytes(b"sample")
    return run, config


def test_begin_makes_the_folder_and_writes_the_settings(tmp_path: Path) -> None:
    run, config = Run(tmp_path / "ação" / "run 画像"), TrainConfig(trigger_word="ampulheta")
    run.begin(config)
    assert run.config() == config
    assert run.checkpoints.is_dir() and run.samples.is_dir()
    assert run.lora_file(config) == run.folder / "pytorch_lora_weights.safetensors"
    assert run.read() == ([], 0)
    assert run.finished() is None


def test_an_old_run_moves_whole_to_previous(tmp_path: Path) -> None:
    finished_run(tmp_path, output_name="old")
    before = tree(tmp_path)
    for count in (1, 2, 3):  # within a second, so the time alone does not tell them apart
        Run(tmp_path).begin(TrainConfig(output_name="new"))
        assert len(list((tmp_path / "previous").iterdir())) == count
    oldest = min((tmp_path / "previous").iterdir(), key=lambda p: p.name)
    assert tree(oldest) == before
    assert (oldest / "old.safetensors").read_bytes() == b"lora of the old run"
    assert Run(oldest).config().output_name == "old"


def test_what_is_not_the_runs_own_stays(tmp_path: Path) -> None:
    for name in ("other.safetensors", "photo.png", "notes.json", "checkpoints/sd15.safetensors", "samples/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    before = tree(tmp_path)
    Run(tmp_path).begin(TrainConfig(output_name="new"))
    assert tree(tmp_path) == before | {"config.toml"}
    finished_run(tmp_path / "b", output_name="old")
    (tmp_path / "b" / "other.safetensors").write_bytes(b"mine")
    (tmp_path / "b" / "photo.png").write_bytes(b"mine")
    Run(tmp_path / "b").begin(TrainConfig(output_name="new"))
    assert {"other.safetensors", "photo.png"} <= tree(tmp_path / "b")


def test_a_file_of_the_same_name_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "new.safetensors").write_bytes(b"from elsewhere")
    Run(tmp_path).begin(TrainConfig(output_name="new"))
    (aside,) = (tmp_path / "previous").iterdir()
    assert (aside / "new.safetensors").read_bytes() == b"from elsewhere"
    assert not (tmp_path / "new.safetensors").exists()


def test_what_was_exported_beside_the_old_lora_goes_with_it(tmp_path: Path) -> None:
    finished_run(tmp_path, output_name="old")
    (tmp_path / "old.json").write_bytes(b"{}")
    (tmp_path / "old.preview.png").write_bytes(b"p")
    (tmp_path / "older.json").write_bytes(b"{}")
    Run(tmp_path).begin(TrainConfig(output_name="new"))
    (aside,) = (tmp_path / "previous").iterdir()
    assert {"old.json", "old.preview.png"} <= tree(aside)
    assert (tmp_path / "older.json").exists()


def test_a_move_cut_in_the_middle_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = finished_run(tmp_path, output_name="old")
    before, real, moved = tree(tmp_path), os.replace, []

    def cut(source: Path, target: Path) -> None:
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(source)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            run.begin(TrainConfig(output_name="new"))
    assert run.config_file.exists()
    run.begin(TrainConfig(output_name="new"))
    kept = {name.split("/", 1)[1] for name in tree(tmp_path / "previous")}
    assert kept == before
    assert tree(tmp_path) - {f"previous/{name}" for name in tree(tmp_path / "previous")} == {"config.toml"}


def test_an_old_run_with_damaged_settings_moves_too(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    run.config_file.write_bytes(b"= broken")
    run.begin(TrainConfig())
    (aside,) = (tmp_path / "previous").iterdir()
    assert {"config.toml", "events.jsonl", "pytorch_lora_weights.safetensors"} <= tree(aside)


def test_events_come_back_in_order_and_from_an_offset(tmp_path: Path) -> None:
    run = Run(tmp_path)
    events: list[Event] = [Warned(plain("ação")), Step(1, 9, 0.5, 1e-4), Saved(1, "checkpoints/step_0000001")]
    offset = 0
    for event in events:
        run.append(event)
        new, offset = run.read(offset)
        assert [e for e, _ in new] == [event]
    assert [e for e, _ in run.read()[0]] == events
    assert run.read(offset) == ([], offset)


def test_a_line_still_being_written_waits(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append(Warned(plain("a")))
    line = to_line(Warned(plain("b")), 1.0).encode()
    with run.events_file.open("ab") as file:
        file.write(line[:10])
    first, offset = run.read()
    assert [e for e, _ in first] == [Warned(plain("a"))]
    with run.events_file.open("ab") as file:
        file.write(line[10:] + b"\n")
    assert [e for e, _ in run.read(offset)[0]] == [Warned(plain("b"))]


@pytest.mark.parametrize("cut", [b'{"kind": "Step", "at": 1', b'{"kind": "Warned", "message": "\xc3', b"\x00\x00\x00"])
def test_a_line_cut_by_a_crash_spoils_no_other(tmp_path: Path, cut: bytes) -> None:
    run = Run(tmp_path)
    run.append(Warned(plain("before")))
    with run.events_file.open("ab") as file:
        file.write(cut)
    run.append(Warned(plain("after")))
    assert [e for e, _ in run.read()[0]] == [Warned(plain("before")), Warned(plain("after"))]


def test_a_file_name_that_is_no_text_is_still_told(tmp_path: Path) -> None:
    event = Warned(plain("caf\udce9.png: not readable"))
    Run(tmp_path).append(event)
    assert [e for e, _ in Run(tmp_path).read()[0]] == [event]


def test_a_run_started_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for _ in range(5):
        run.append(Warned(plain("a long message of the old run")))
    _, offset = run.read()
    run.events_file.write_bytes(to_line(Warned(plain("new")), 1.0).encode() + b"\n")
    assert [e for e, _ in run.read(offset)[0]] == [Warned(plain("new"))]


def test_going_on_drops_what_later_steps_told(tmp_path: Path) -> None:
    run, config = Run(tmp_path), TrainConfig()
    run.begin(config)
    early: list[Event] = [Validation(0, 0.5, 0.5, True), Step(1, 4, 0.5, 1e-4), Saved(2, "checkpoints/step_0000002")]
    late: list[Event] = [Step(3, 4, 0.5, 1e-4), Finished(4, "a.safetensors", 4), Failed(plain("x"))]
    for event in early + late:
        run.append(event)
    for step in (2, 4):
        (run.checkpoints / f"step_{step:07d}").mkdir()
    run.go_on(config.replace(max_train_steps=6), 2)
    assert [e for e, _ in run.read()[0]] == early
    assert [p.name for p in run.checkpoints.iterdir()] == ["step_0000002"]
    assert run.config().max_train_steps == 6


def test_finished_is_the_last_good_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append(Finished(5, "a.safetensors", 5, stopped=True))
    run.append(Warned(plain("more")))
    run.append(Finished(9, "a.safetensors", 5))
    assert run.finished() == Finished(9, "a.safetensors", 5)


def test_readers_never_see_half_an_event(tmp_path: Path) -> None:
    run, seen, done = Run(tmp_path), [], threading.Event()

    def watch() -> None:
        offset = 0
        while not done.is_set() or run.read(offset)[0]:
            new, offset = run.read(offset)
            seen.extend(event for event, _ in new)

    reader = threading.Thread(target=watch)
    reader.start()
    told = [Warned(plain(f"ação {n}" * 50)) for n in range(200)]
    for event in told:
        run.append(event)
    done.set()
    reader.join()
    assert seen == told


def test_runs_are_listed_newest_first_with_previous_ones(tmp_path: Path) -> None:
    places = ["a", "b/previous/2020-01-01_00-00-00", "b", "."]
    for number, place in enumerate(places):
        run = Run(tmp_path / place)
        run.begin(TrainConfig())
        os.utime(run.config_file, (1000 + number, 1000 + number))
    (tmp_path / "no run").mkdir()
    assert [run.folder.resolve() for run in list_runs(tmp_path)] == [(tmp_path / p).resolve() for p in reversed(places)]
    assert list_runs(tmp_path / "missing") == []


def test_a_folder_that_cannot_be_made_or_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written to .* choose another --output_dir"):
        make_folder(tmp_path / "file" / "run")
    make_folder(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written to"):
            make_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)
