"""lora_core.runs with a run of the version before the rooms: listed, read, resumed, its LoRA opened, its cache found.

tests/fixtures/run_before was made by that version from Training/ with the starter model, in four steps; of its checkpoints
the first is kept, of its cache the latents and one caption. cache_names.txt lists all that was in the cache.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lora_core.events import Finished, Saved, Step, Validation, Warned
from lora_core.lora.file import read
from lora_core.messages import say
from lora_core.runs.history import History
from lora_core.runs.index import RunIndex
from lora_core.runs.run import Run, list_runs, run_of
from tests import ROOT
from tests.support.training import run

BEFORE = ROOT / "tests" / "fixtures" / "run_before"
WARNING = "mixed_precision fp16 is slow or unsupported on this CPU; computing in fp32 instead."


@pytest.fixture
def older(tmp_path: Path) -> Run:
    shutil.copytree(BEFORE / "run", tmp_path / "runs" / "before")
    return Run(tmp_path / "runs" / "before")


def test_it_is_listed_with_what_became_of_it(older: Run) -> None:
    root = older.folder.parent
    assert [found.folder.name for found in list_runs(root)] == ["before"]
    (row,) = RunIndex(root, root.parent / "runs.json").rows()
    assert row.wrong == () and row.config is not None and row.config.lora_rank == 4
    told = row.summary
    assert (told.step, told.total, told.pictures, told.best_step, told.end) == (4, 4, 12, 4, "finished")
    assert row.lora == older.folder / "before.safetensors" and row.picture == older.folder / "samples/step_0000004_0.png"


def test_its_events_say_what_they_said(older: Run) -> None:
    events = [event for event, _ in older.read()[0]]
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert [say(message, language) for message in warned for language in ("en", "pt-BR")] == [WARNING, WARNING]
    assert older.finished() == Finished(4, "before.safetensors", 4)
    history = History(older)
    history.update()
    assert (history.step, history.total, history.ended) == (4, 4, "finished")
    assert history.best is not None and history.best.step == 4
    assert [saved.step for saved in history.saved] == [2, 4] and set(history.samples) == {0, 2, 4}


def test_its_lora_is_read(older: Run) -> None:
    for path in (older.folder / "before.safetensors", *older.checkpoint_loras()):
        adapters, metadata = read(path)
        assert {adapter.down.shape[0] for adapter in adapters.values()} == {4}
        assert metadata["ss_network_dim"] == "4" and run_of(path) == older


def test_it_goes_on_from_its_checkpoint_and_finds_its_cache(
    older: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(BEFORE / "cache", cache)
    monkeypatch.setenv("TREINO_CACHE", str(cache))
    config = older.config().replace(train_data_dir=str(ROOT / "Training"), output_dir=str(older.folder))
    job, events = run(config, resume="latest")
    assert job.error is None
    assert [event.step for event in events if isinstance(event, Step)] == [3, 4]
    assert [event.step for event in events if isinstance(event, Saved)] == [4]
    assert older.finished() == Finished(4, "before.safetensors", 4)
    # Each step as the version before took it.
    losses = {event.step: event.loss for event, _ in Run(BEFORE / "run").read()[0] if isinstance(event, Step)}
    assert [event.loss for event in events if isinstance(event, Step)] == pytest.approx([losses[3], losses[4]], rel=1e-4)
    validated = {event.step: event.loss for event, _ in Run(BEFORE / "run").read()[0] if isinstance(event, Validation)}
    assert [e.loss for e in events if isinstance(e, Validation) and e.step == 4] == pytest.approx([validated[4]], rel=1e-4)
    # Every entry is called what it was called: what was there was found, and what was not is made under its old name.
    names = {path.relative_to(cache).as_posix() for path in cache.rglob("*.safetensors")}
    assert names <= set((BEFORE / "cache_names.txt").read_text(encoding="utf-8").split()) and len(names) >= 24
