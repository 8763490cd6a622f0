"""lora_core.ui.state.drawing: the preview worker, its views, and a training beside it."""

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
from lora_core.sampling.gallery import Gallery
from lora_core.sampling.params import GenerationParams
from lora_core.training.engine import adapters
from lora_core.ui.state import drawing as stages
from lora_core.ui.state.drawing import PreviewWorker, View
from lora_core.ui.state.training import Training
from tests.support.pictures import png_text
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
def worker(tmp_path: Path, crashes: list[BaseException]) -> Iterator[PreviewWorker]:
    made = PreviewWorker(
        Gallery(tmp_path / "tests"), Training(), lambda folder: None, lambda what, error: crashes.append(error)
    )
    yield made
    made.cancel()
    assert made.wait(60)


@pytest.fixture
def params(tiny_sd1: Path, loras: list[Path]) -> GenerationParams:
    return GenerationParams(
        "a zebu", 7, 64, 64, steps=4, guidance=3.0, lora=str(loras[0]), name="one", weight=1.0, base=str(tiny_sd1)
    )


def watch(worker: PreviewWorker, until: Callable[[View], bool]) -> View:
    """Wait for a view; looks as a page does, again and again."""
    deadline = time.monotonic() + 120
    while not until(worker.view):
        assert time.monotonic() < deadline and worker.view.phase != stages.FAILED, worker.view
        time.sleep(0.002)
    return worker.view


def pixels(view: View, number: int) -> np.ndarray:
    drawn = view.cells[number].drawn
    assert drawn is not None
    with Image.open(drawn.path) as opened:
        return np.asarray(opened.convert("RGB"), float)


def test_a_picture_is_drawn_without_and_with_the_lora_and_the_base_is_drawn_once(
    worker: PreviewWorker, params: GenerationParams
) -> None:
    worker.compare(params)
    with pytest.raises(UserError, match="already"):
        worker.compare(params)
    with pytest.raises(UserError, match="being drawn"):
        worker.free()
    assert worker.wait(120)
    first = worker.view
    assert (first.phase, first.done, first.fraction, first.loaded) == (stages.DONE, 2, 1.0, params.base)
    assert [cell.params.has_lora for cell in first.cells] == [False, True]
    assert np.abs(pixels(first, 0) - pixels(first, 1)).max() > 5
    worker.compare(dataclasses.replace(params, weight=0.5))
    assert worker.wait(120)
    second = worker.view
    assert second.cells[0].drawn == first.cells[0].drawn, "the base model's picture is the same at any weight"
    assert len(worker.recent()) == 3 and second.serial > first.serial and second.pictures == 4
    worker.compare(dataclasses.replace(params, weight=0.0))
    assert worker.wait(120) and len(worker.view.cells) == 1, "at weight 0 there is nothing to compare"
    worker.free()
    assert worker.view.loaded == ""
    worker.compare(params.without_lora())
    assert worker.wait(120) and worker.view.cells[0].drawn == first.cells[0].drawn


def test_a_grid_fills_cell_by_cell_and_becomes_one_picture(
    worker: PreviewWorker, params: GenerationParams, loras: list[Path]
) -> None:
    down = grid.checkpoints([(path.stem, {"lora": str(path), "name": path.stem}) for path in loras])
    made = grid.Grid(params, grid.weights("0, 1"), down)
    seen = set()
    worker.fill(made)
    while worker.view.is_busy:
        seen.add(worker.view.done)
        time.sleep(0.002)
    assert {1, 3} <= seen, "pages see the cells come"
    assert worker.view.phase == stages.DONE and worker.view.done == 4
    view = worker.view
    assert view.cells[0].drawn == view.cells[2].drawn, "weight 0 is the base model for every LoRA"
    assert np.abs(pixels(view, 1) - pixels(view, 3)).max() > 5
    assert view.sheet is not None and "X Type: Weight" in png_text(view.sheet.path)
    with Image.open(view.sheet.path) as sheet:
        assert sheet.width > 2 * 64 and sheet.height > 2 * 64
    assert worker.recent()[0] == view.sheet


def test_cancel_works_in_the_middle_of_a_picture(worker: PreviewWorker, params: GenerationParams) -> None:
    worker.compare(dataclasses.replace(params, steps=500))
    watch(worker, lambda view: view.phase == stages.DRAWING and view.step > 2)
    assert worker.view.seconds_left > 0 and 0 < worker.view.fraction < 0.5
    worker.cancel()
    assert worker.wait(30)
    assert worker.view.phase == stages.CANCELLED and worker.view.done == 0 and worker.recent() == []
    worker.compare(params)
    assert worker.wait(120) and worker.view.phase == stages.DONE


def test_what_is_wrong_is_told_in_a_sentence(
    worker: PreviewWorker, params: GenerationParams, crashes: list[BaseException]
) -> None:
    worker.compare(dataclasses.replace(params, lora=params.lora + ".gone"))
    assert worker.wait(120) and worker.view.phase == stages.FAILED and "There is no file" in str(worker.view.error)
    worker.compare(dataclasses.replace(params, base="no such model"))
    assert worker.wait(120) and "no such model" in str(worker.view.error)
    assert crashes == [], "these are a person's to mend"
    worker.compare(dataclasses.replace(params, sampler="no such sampler"))
    assert worker.wait(120) and "unforeseen" in str(worker.view.error) and isinstance(crashes[0], KeyError)


def test_a_full_card_and_a_lost_one_are_told_apart() -> None:
    full, lost = (torch.AcceleratorError(f"CUDA error: {what}") for what in ("out of memory", "unspecified launch failure"))
    assert stages._explain(full).key == "sampling.card_full"
    assert stages._explain(lost).key == "sampling.card_lost" and "restart Treino" in str(stages._explain(lost))


def test_a_training_stands_still_while_a_picture_is_drawn_and_goes_on(
    worker: PreviewWorker, params: GenerationParams, pictures: Path, tmp_path: Path
) -> None:
    training = worker.training
    run = training.start(config_for(params.base, pictures, tmp_path / "run", max_train_steps=100_000, save_steps=90_000))
    try:
        phases: list[tuple[str, str]] = []
        done = threading.Event()

        def note() -> None:
            while not done.is_set():
                phases.append((worker.view.phase, training.state(run)))

        noting = threading.Thread(target=note, daemon=True)
        worker.compare(params, pause_training=True)
        noting.start()
        assert worker.wait(300)
        done.set()
        noting.join()
        drawing = [state for phase, state in phases if phase == stages.DRAWING]
        assert drawing and set(drawing) <= {"paused", "running"} and drawing[0] == "paused"
        assert worker.view.phase == stages.DONE and not worker.view.holds_training
        assert training.busy() and training.state(run) == "running"
        worker.compare(dataclasses.replace(params, steps=500), pause_training=True)
        watch(worker, lambda view: view.phase == stages.DRAWING and view.step > 1)
        worker.cancel()
        assert worker.wait(60) and training.state(run) == "running", "also after a cancelled picture"
    finally:
        training.stop()
        assert training.job is not None and training.job.wait(120)
