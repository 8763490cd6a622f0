from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.errors import UserError
from lora_core.lora import file as lora_file
from lora_core.models import load as base_models
from lora_core.sampling import grid
from lora_core.sampling.gallery import Album, Settings
from lora_core.sampling.infotext import parameters_of
from lora_core.training.engine import adapters
from lora_core.ui.state import drawing as stages
from lora_core.ui.state.drawing import Bench, View
from lora_core.ui.state.training import Training
from tests.support.training import config_for


@pytest.fixture(scope="module")
def loras(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRAs of random values that change every picture of the tiny model."""
    folder, paths = tmp_path_factory.mktemp("loras"), []
    for number in (1, 2):
        model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
        adapters.attach(model, config_for(tiny_sd1, folder, folder))
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in adapters.named_parameters(model).values():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        paths.append(folder / f"lora {number}.safetensors")
        lora_file.write(paths[-1], adapters.extract(model), "sd1", {}, "fp32")
    return paths


@pytest.fixture
def crashes() -> list[BaseException]:
    return []


@pytest.fixture
def bench(tmp_path: Path, crashes: list[BaseException]) -> Iterator[Bench]:
    made = Bench(Album(tmp_path / "tests"), Training(), lambda folder: None, lambda what, error: crashes.append(error))
    yield made
    made.cancel()
    assert made.wait(60)


@pytest.fixture
def settings(tiny_sd1: Path, loras: list[Path]) -> Settings:
    return Settings(str(tiny_sd1), "a zebu", 7, 64, 64, steps=4, guidance=3.0, lora=str(loras[0]), name="one", weight=1.0)


def watch(bench: Bench, until: Callable[[View], bool]) -> View:
    """Wait for a view; looks as a page does, again and again."""
    deadline = time.monotonic() + 120
    while not until(bench.view):
        assert time.monotonic() < deadline and bench.view.phase != stages.FAILED, bench.view
        time.sleep(0.002)
    return bench.view


def pixels(view: View, number: int) -> np.ndarray:
    drawn = view.cells[number].drawn
    assert drawn is not None
    with Image.open(drawn.path) as opened:
        return np.asarray(opened.convert("RGB"), float)


def test_a_picture_is_drawn_without_and_with_the_lora_and_the_base_is_drawn_once(bench: Bench, settings: Settings) -> None:
    bench.compare(settings)
    with pytest.raises(UserError, match="already"):
        bench.compare(settings)
    with pytest.raises(UserError, match="being drawn"):
        bench.free()
    assert bench.wait(120)
    first = bench.view
    assert (first.phase, first.done, first.fraction, first.loaded) == (stages.DONE, 2, 1.0, settings.base)
    assert [cell.settings.has_lora for cell in first.cells] == [False, True]
    assert np.abs(pixels(first, 0) - pixels(first, 1)).max() > 5
    bench.compare(dataclasses.replace(settings, weight=0.5))
    assert bench.wait(120)
    second = bench.view
    assert second.cells[0].drawn == first.cells[0].drawn, "the base model's picture is the same at any weight"
    assert len(bench.recent()) == 3 and second.serial > first.serial and second.pictures == 4
    bench.compare(dataclasses.replace(settings, weight=0.0))
    assert bench.wait(120) and len(bench.view.cells) == 1, "at weight 0 there is nothing to compare"
    bench.free()
    assert bench.view.loaded == ""
    bench.compare(settings.without_lora())
    assert bench.wait(120) and bench.view.cells[0].drawn == first.cells[0].drawn


def test_a_grid_fills_cell_by_cell_and_becomes_one_picture(bench: Bench, settings: Settings, loras: list[Path]) -> None:
    down = grid.checkpoints([(path.stem, {"lora": str(path), "name": path.stem}) for path in loras])
    made = grid.Grid(settings, grid.weights("0, 1"), down)
    seen = set()
    bench.fill(made)
    while bench.view.is_busy:
        seen.add(bench.view.done)
        time.sleep(0.002)
    assert {1, 3} <= seen, "pages see the cells come"
    assert bench.view.phase == stages.DONE and bench.view.done == 4
    view = bench.view
    assert view.cells[0].drawn == view.cells[2].drawn, "weight 0 is the base model for every LoRA"
    assert np.abs(pixels(view, 1) - pixels(view, 3)).max() > 5
    assert view.sheet is not None and "X Type: Weight" in parameters_of(view.sheet.path)
    with Image.open(view.sheet.path) as sheet:
        assert sheet.width > 2 * 64 and sheet.height > 2 * 64
    assert bench.recent()[0] == view.sheet


def test_cancel_works_in_the_middle_of_a_picture(bench: Bench, settings: Settings) -> None:
    bench.compare(dataclasses.replace(settings, steps=500))
    watch(bench, lambda view: view.phase == stages.DRAWING and view.step > 2)
    assert bench.view.seconds_left > 0 and 0 < bench.view.fraction < 0.5
    bench.cancel()
    assert bench.wait(30)
    assert bench.view.phase == stages.CANCELLED and bench.view.done == 0 and bench.recent() == []
    bench.compare(settings)
    assert bench.wait(120) and bench.view.phase == stages.DONE


def test_what_is_wrong_is_told_in_a_sentence(bench: Bench, settings: Settings, crashes: list[BaseException]) -> None:
    bench.compare(dataclasses.replace(settings, lora=settings.lora + ".gone"))
    assert bench.wait(120) and bench.view.phase == stages.FAILED and "There is no file" in bench.view.error
    bench.compare(dataclasses.replace(settings, base="no such model"))
    assert bench.wait(120) and "no such model" in bench.view.error
    assert crashes == [], "these are a person's to mend"
    bench.compare(dataclasses.replace(settings, sampler="no such sampler"))
    assert bench.wait(120) and "unforeseen" in bench.view.error and isinstance(crashes[0], KeyError)


def test_a_training_stands_still_while_a_picture_is_drawn_and_goes_on(
    bench: Bench, settings: Settings, pictures: Path, tmp_path: Path
) -> None:
    training = bench.training
    run = training.start(config_for(settings.base, pictures, tmp_path / "run", max_train_steps=100_000, save_steps=90_000))
    try:
        phases: list[tuple[str, str]] = []
        done = threading.Event()

        def note() -> None:
            while not done.is_set():
                phases.append((bench.view.phase, training.state(run)))

        noting = threading.Thread(target=note, daemon=True)
        bench.compare(settings, pause_training=True)
        noting.start()
        assert bench.wait(300)
        done.set()
        noting.join()
        drawing = [state for phase, state in phases if phase == stages.DRAWING]
        assert drawing and set(drawing) <= {"paused", "running"} and drawing[0] == "paused"
        assert bench.view.phase == stages.DONE and not bench.view.holds_training
        assert training.busy() and training.state(run) == "running"
        bench.compare(dataclasses.replace(settings, steps=500), pause_training=True)
        watch(bench, lambda view: view.phase == stages.DRAWING and view.step > 1)
        bench.cancel()
        assert bench.wait(60) and training.state(run) == "running", "also after a cancelled picture"
    finally:
        training.stop()
        assert training.job is not None and training.job.wait(120)
