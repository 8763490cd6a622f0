"""lora_core.training.train: the golden losses to the digit, and what is stopped and resumed ends bit-equal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lora_core.errors import UserError
from lora_core.events import Event, Finished, Sample, Step, Validation, Warned
from lora_core.training import diffusion, train
from lora_core.training.job import Job
from lora_core.training.session import Session
from tests import ROOT
from tests.support.tiny import tiny_model
from tests.support.training import adapters_after, before_steps, config_for, equal, run

GOLDEN = ROOT / "tests" / "golden" / "sd1.json"
# Everything that draws random numbers is on, so that a golden curve and a resumed run cover it.
EVERYTHING: dict[str, object] = {
    "gradient_accumulation_steps": 2, "random_flip": True, "caption_dropout": 0.2, "noise_offset": 0.05,
    "snr_gamma": 5.0, "lr_scheduler": "cosine", "lr_warmup_steps": 3, "lora_dropout": 0.1, "train_text_encoder": True,
    "shuffle_tags": True, "keep_tags": 1, "prior_prompts": ["a cow"], "prior_pictures": 2,
    "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1"],
}  # fmt: skip

OBJECTIVES: dict[str, object] = {
    "loss_type": "huber", "debiased_estimation_loss": True, "multires_noise_discount": 0.3, "ip_noise_gamma": 0.1,
    "min_timestep": 100, "max_timestep": 900, "train_batch_size": 2,
}  # fmt: skip
CURVES: dict[str, dict[str, object]] = {"defaults": {}, "everything": EVERYTHING, "objectives": OBJECTIVES}


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


@pytest.mark.parametrize("name", CURVES)
def test_the_loss_curve_is_the_golden_one(name: str, tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    """To renew after a change that is meant to move it: python -m tests.golden"""
    _, events = run(config_for(tiny_sd1, pictures, tmp_path, **CURVES[name]))
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    assert losses(events) == pytest.approx(golden["loss"], rel=1e-5)
    validation = [event.loss for event in events if isinstance(event, Validation)]
    assert validation == pytest.approx(golden["validation"], rel=1e-5)


@pytest.mark.parametrize("values", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("stop_after", [3, 4, 7])
def test_a_stopped_and_resumed_run_ends_bit_equal(
    values: dict[str, object], stop_after: int, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    whole, _ = run(config_for(tiny_sd1, pictures, tmp_path / "whole", **values))
    config = config_for(tiny_sd1, pictures, tmp_path / "broken", **values)

    def stop(session: Session) -> None:
        if session.step == stop_after:
            job.controls.stop()

    job = Job(config)
    before_steps(job, stop)  # steps are told late
    job.start()
    assert job.wait(600) and job.error is None
    ended = job.run.finished()
    assert ended is not None and ended.stopped and ended.step == stop_after
    resumed, _ = run(config, resume="latest")
    assert whole.error is None and resumed.error is None
    assert equal(adapters_after(tmp_path / "whole", 10), adapters_after(tmp_path / "broken", 10))
    steps = [event.step for event, _ in resumed.run.read()[0] if isinstance(event, Step)]
    assert steps == list(range(1, 11))


def test_a_run_falls_back_to_an_older_checkpoint_when_the_newest_is_damaged(
    tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path)
    run(config)
    expected = adapters_after(tmp_path, 10)
    newest = tmp_path / "checkpoints" / "step_0000010" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    job, events = run(config, resume="latest")
    assert job.error is None
    assert [event.step for event in events if isinstance(event, Step)] == [9, 10]
    assert equal(expected, adapters_after(tmp_path, 10))


def test_going_back_to_an_older_checkpoint_keeps_the_newer_ones(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path)
    run(config)
    expected = adapters_after(tmp_path, 10)
    job, _ = run(config, resume=str(tmp_path / "checkpoints" / "step_0000008"))
    assert job.error is None and equal(expected, adapters_after(tmp_path, 10))
    (previous,) = (tmp_path / "previous").iterdir()
    assert (previous / "step_0000010" / "state.pt").is_file()


def test_settings_a_checkpoint_depends_on_cannot_change(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    run(config_for(tiny_sd1, pictures, tmp_path, max_train_steps=4))
    job, _ = run(config_for(tiny_sd1, pictures, tmp_path, lora_rank=8, seed=1), resume="latest")
    assert isinstance(job.error, UserError)
    assert "lora_rank was 4, now 8" in str(job.error) and "seed was 42, now 1" in str(job.error)


def test_a_longer_run_goes_on_from_a_finished_one(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    run(config_for(tiny_sd1, pictures, tmp_path, max_train_steps=4))
    job, events = run(config_for(tiny_sd1, pictures, tmp_path, max_train_steps=6), resume="latest")
    assert [event.step for event in events if isinstance(event, Step)] == [5, 6]
    assert isinstance(events[-1], Finished) and job.run.finished() == events[-1]


def test_training_lowers_the_validation_loss_and_names_the_best(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    _, events = run(config_for(tiny_sd1, pictures, tmp_path, max_train_steps=60, save_steps=20, learning_rate=3e-3))
    scores = [event for event in events if isinstance(event, Validation)]
    assert [score.step for score in scores] == [0, 20, 40, 60]
    assert scores[-1].train_loss < 0.97 * scores[0].train_loss
    best = min(scores, key=lambda score: score.loss)
    assert isinstance(events[-1], Finished) and events[-1].best_step == best.step


@pytest.fixture(scope="module")
def tiny_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("v"), prediction_type="v_prediction")


def test_a_velocity_model_trains_on_velocity(tiny_sd1: Path, tiny_v: Path, tmp_path: Path, pictures: Path) -> None:
    _, events = run(config_for(tiny_v, pictures, tmp_path / "out", max_train_steps=3))
    _, plain = run(config_for(tiny_sd1, pictures, tmp_path / "out2", max_train_steps=3))
    assert len(losses(events)) == 3 and losses(events) != pytest.approx(losses(plain))


def test_zero_terminal_snr_is_trained_drawn_written_and_kept(tiny_v: Path, pictures: Path, tmp_path: Path) -> None:
    asked: dict[str, object] = {"max_train_steps": 2, "sample_count": 1, "sample_prompts": ["a zebu"]}
    job, events = run(config_for(tiny_v, pictures, tmp_path / "on", zero_terminal_snr="on", **asked))
    _, plain = run(config_for(tiny_v, pictures, tmp_path / "auto", **asked))
    assert all(math.isfinite(loss) for loss in losses(events)) and losses(events) != pytest.approx(losses(plain))
    validated, before = ([e.loss for e in told if isinstance(e, Validation)] for told in (events, plain))
    assert validated != pytest.approx(before)
    drawn, before = (picture(tmp_path / name, told) for name, told in (("on", events), ("auto", plain)))
    assert (drawn != before).any()
    for name, written in (("on", "True"), ("auto", "False")):
        with safe_open(tmp_path / name / "pytorch_lora_weights.safetensors", "pt") as file:
            assert file.metadata()["ss_zero_terminal_snr"] == written
    for other in ("auto", "off"):
        job, _ = run(config_for(tiny_v, pictures, tmp_path / "on", **asked, zero_terminal_snr=other), resume="latest")
        assert isinstance(job.error, UserError) and f"zero_terminal_snr was 'on', now '{other}'" in str(job.error)


def picture(folder: Path, events: list[Event]) -> np.ndarray[Any, Any]:
    """The first sample that was drawn."""
    return np.asarray(Image.open(folder / next(event.path for event in events if isinstance(event, Sample))))


def test_no_timestep_is_trained_out_of_bounds(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    drawn: list[int] = []

    def note(session: Session) -> None:
        rng = diffusion.generator(7, session.step)
        drawn.extend(train.draw_timesteps(session, 50, rng)[0].tolist())

    for values in ({}, {"timestep_sampling": "weighted", "snr_gamma": 5.0}):
        job = Job(config_for(tiny_sd1, pictures, tmp_path / str(len(values)), min_timestep=300, max_timestep=310, **values))
        before_steps(job, note)
        job.start()
        assert job.wait(600) and job.error is None
    assert set(drawn) == set(range(300, 310))


def test_fp16_on_this_cpu_is_told_and_computed_in_fp32(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=2, mixed_precision="fp16", device="cpu")
    _, events = run(config)
    assert any(isinstance(e, Warned) and "fp32 instead" in str(e.message) for e in events)
    assert all(t.dtype == torch.float32 for t in adapters_after(tmp_path, 2).values())
