"""lora_core.training.outputs: the base model is drawn once for all runs; any number format goes on from any other's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_core.events import Sample
from lora_core.models.device import Compute, choose
from lora_core.runs.run import SHEET
from lora_core.sampling import sample
from lora_core.sampling.params import GenerationParams
from lora_core.training import checkpoint, outputs, prepare
from lora_core.training.data.tensor_store import stored
from lora_core.training.job import Job
from tests.support.training import before_steps, config_for, run


def test_the_base_models_pictures_are_drawn_once_for_all_runs(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    draw = sample.draw

    def counted(model: Any, wanted: list[GenerationParams], *others: Any) -> Any:
        drawn.append([params.prompt for params in wanted])
        return draw(model, wanted, *others)

    kept: list[str] = []

    def looked_up(key: str, *others: Any) -> Any:
        kept.append(key)
        return stored(key, *others)

    monkeypatch.setattr(outputs, "stored", looked_up)
    monkeypatch.setattr(sample, "draw", counted)
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    asked = {"max_train_steps": 1, "sample_count": 1, "sample_inference_steps": 1}
    for name, prompt in (("first", "a zebu"), ("second", "a zebu"), ("third", "a gnu")):
        job, _ = run(config_for(tiny_sd1, pictures, tmp_path / name, sample_prompts=(prompt,), **asked))
        assert job.error is None
    assert drawn == [["a zebu"], ["a zebu"], ["a zebu"], ["a gnu"], ["a gnu"]]  # the second run draws only its last one
    one, other = (tmp_path / name / "samples" / "step_0000000_0.png" for name in ("first", "second"))
    assert one.read_bytes() == other.read_bytes()
    wish = "Wish(prompt='a zebu', seed=42, width=64, height=64, negative_prompt='', steps=1, guidance=7.5, sampler='DDIM')"
    assert kept[0].endswith(f", False, [{wish}])"), "as version 3075548 called them, so that what it drew is found"


def test_flags_of_sample_prompts_reach_the_pictures_their_texts_and_the_sheet(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    prompts = ("a zebu --w 96 --h 64 --s 2 --l 3 --d 7 --n blurred", "a cow")
    asked: dict[str, object] = {"max_train_steps": 1, "sample_count": 2, "sample_inference_steps": 1}
    for name in ("first", "second"):  # the second finds the base model's in the cache
        job, told = run(config_for(tiny_sd1, pictures, tmp_path / name, sample_prompts=prompts, **asked))
        assert job.error is None
        drawn = [(event.prompt, event.seed) for event in told if isinstance(event, Sample)]
        assert drawn == 2 * [("a zebu", 7), ("a cow", 43)]
        for step in (0, 1):
            with Image.open(tmp_path / name / "samples" / f"step_{step:07d}_0.png") as picture:
                assert picture.size == (96, 64)
                text = str(picture.info["parameters"])
            assert text.startswith("a zebu\nNegative prompt: blurred\nSteps: 2, ") and "CFG scale: 3, Seed: 7, " in text
            with Image.open(tmp_path / name / "samples" / f"step_{step:07d}_1.png") as picture:
                assert picture.size == (64, 64)
        assert (tmp_path / name / SHEET).is_file()


@pytest.mark.parametrize("scaled_first", [False, True])
def test_a_run_goes_on_with_and_without_the_loss_scaling_it_had(
    scaled_first: bool, tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun on a processor and resumed in fp16 on a card, or the other way round."""
    scales: list[float] = []

    def train(scaled: bool, steps: int, resume: str = "") -> None:
        computed = partial(choose_with, scaled)
        monkeypatch.setattr(prepare, "choose", computed)
        config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=steps, save_steps=steps)
        job = Job(config, resume)
        before_steps(job, lambda session: scales.append(session.scaler.get_scale()))
        job.start()
        assert job.wait(600) and job.error is None
        assert bool(checkpoint.latest(job.run.checkpoints).scaler) == scaled

    train(scaled_first, 2)
    train(not scaled_first, 4, "latest")
    assert scales == [65536.0 if scaled else 1.0 for scaled in [scaled_first] * 2 + [not scaled_first] * 2]


def choose_with(scaled: bool, *asked: Any) -> Compute:
    return replace(choose(*asked), scale_loss=scaled)
