"""lora_core.training.outputs: the base model is drawn once for all runs; any number format goes on from any other's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lora_core.models.device import Compute, choose
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
