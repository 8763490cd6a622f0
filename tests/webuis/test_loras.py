"""lora_core.webuis.loras: the LoRAs of runs and of webuis' folders."""

from __future__ import annotations

from pathlib import Path

from lora_core.lora.file import read
from lora_core.runs.run import run_of
from lora_core.webuis import loras
from lora_core.webuis.detect import Places, find
from tests.support import header_lengths
from tests.support.lora_runs import finished_run, write_lora


def test_runs_show_their_end_and_other_steps_with_the_best_marked(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "um gato", {0: 0.9, 100: 0.4, 200: 0.5, 300: 0.6})
    (tmp_path / "not a run").mkdir()
    found = loras.of_runs(tmp_path)
    assert [(f.kind, f.step, f.best) for f in found] == [
        ("finished", 300, False), ("checkpoint", 200, False), ("checkpoint", 100, True),
    ]  # fmt: skip
    assert {f.home for f in found} == {"um gato"} and found[0].name == "zebu"
    assert all(f.path.is_file() for f in found) and found[0].path == run.folder / "zebu.safetensors"


def test_the_newest_run_comes_first_and_old_ones_set_aside_do_not(tmp_path: Path) -> None:
    import os

    older = finished_run(tmp_path / "older", {100: 0.4})
    os.utime(older.config_file, (1, 1))
    finished_run(tmp_path / "newer", {100: 0.4})
    finished_run(tmp_path / "newer" / "previous" / "2026-01-01", {100: 0.4})
    assert [f.home for f in loras.of_runs(tmp_path)] == ["newer", "older"]


def test_damaged_runs_hide_no_lora(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {0: 0.9, 100: 0.4})
    run.config_file.write_text("no [ toml", encoding="utf-8")
    with run.events_file.open("ab") as file:
        file.write(b'{"kind": "Validation", "at": 1.0, "st')
    assert [(f.kind, f.step, f.best) for f in loras.of_runs(tmp_path)] == [("finished", 100, True)]
    run.events_file.unlink()
    assert [(f.kind, f.step) for f in loras.of_runs(tmp_path)] == [("finished", None), ("checkpoint", 100)]


def test_a_lora_knows_its_run(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {100: 0.4, 200: 0.5})
    assert all(run_of(found.path) == run for found in loras.of_run(run))
    assert run_of(write_lora(tmp_path / "elsewhere" / "x.safetensors")) is None


def test_webui_folders_are_looked_through(tmp_path: Path) -> None:
    comfy = tmp_path / "ComfyUI"
    (comfy / "comfy").mkdir(parents=True)
    for name in ("nodes.py", "main.py", "folder_paths.py", "execution.py", "server.py"):
        (comfy / name).touch()
    webuis = find(Places(roots=(tmp_path,)))
    assert [webui.kind for webui in webuis] == ["ComfyUI"]
    write_lora(webuis[0].lora_folder / "style" / "ink.safetensors")
    write_lora(webuis[0].lora_folder / "Ana.safetensors")
    (webuis[0].lora_folder / "notes.txt").touch()
    found = loras.of_webuis(webuis)
    assert [(f.kind, f.home, f.name) for f in found] == [("webui", "ComfyUI", "Ana"), ("webui", "ComfyUI", "style/ink")]


def test_the_hash_is_the_one_in_the_file(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "x.safetensors")
    assert loras.hash_of(path) == read(path)[1]["sshs_model_hash"] != ""
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
    assert loras.hash_of(tmp_path / "broken.safetensors") == loras.hash_of(tmp_path / "none") == ""


def test_the_hash_is_read_from_a_header_of_any_length() -> None:
    for length, path in header_lengths.headers():
        assert loras.hash_of(path) == ("0af1" if length >= header_lengths.SHORTEST else ""), length
