"""Trainings on a device come to the golden losses, in every number format, as graphs, and after a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_core.events import Event, Finished, Step, Validation, Warned
from lora_core.training import checkpoint
from lora_core.training.job import Job
from lora_core.training.session import Session
from tests.support.training import before_steps, config_for, run
from tests.support.twins import TWIN_RUN, save_twin
from tests.training.test_train import GOLDEN

# Of a loss. TF32 and 16 bit keep 10 and 7 bits of a product, and steps of a high rate carry that on.
NEAR = {"no": 5e-3, "fp16": 2e-2, "bf16": 5e-2}
FORMATS = pytest.mark.parametrize("mixed_precision", list(NEAR), indirect=True)
FP16 = pytest.mark.parametrize("mixed_precision", ["fp16"], indirect=True)


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


def validation(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Validation)]


@FORMATS
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_loss_curve_is_near_the_golden_one(
    family: str, mixed_precision: str, device: str, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    if family != "sd1" and device == "cpu":
        pytest.skip(f"{family} on a processor is held to the last digit by tests/models/families")
    base = tiny_sd1 if family == "sd1" else save_twin(family, tmp_path / "base")
    golden = json.loads(GOLDEN.with_name(f"{family}.json").read_text(encoding="utf-8"))
    golden, values = (golden["defaults"], {}) if family == "sd1" else (golden, TWIN_RUN)
    asked = {**values, "device": device, "mixed_precision": mixed_precision}
    job, events = run(config_for(base, pictures, tmp_path / "out", **asked))
    assert job.error is None
    assert losses(events) == pytest.approx(golden["loss"], rel=NEAR[mixed_precision])
    assert validation(events) == pytest.approx(golden["validation"], rel=NEAR[mixed_precision])


@FORMATS
def test_replayed_steps_come_to_the_losses_of_plain_ones(
    mixed_precision: str, device: str, replays: Callable[[], int], tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    found = {}
    for cuda_graphs in ("off", "on"):
        config = config_for(
            tiny_sd1, pictures, tmp_path / cuda_graphs, device=device, mixed_precision=mixed_precision,
            cuda_graphs=cuda_graphs, max_train_steps=12, save_steps=6, gradient_accumulation_steps=2, lora_dropout=0.0,
            prior_prompts=["a cow"], prior_pictures=2, prior_every=2,
        )  # fmt: skip
        job, events = run(config)
        told = [str(event.message) for event in events if isinstance(event, Warned) and "graph" in str(event.message)]
        assert job.error is None and told == []
        assert bool(replays()) == (cuda_graphs == "on")
        found[cuda_graphs] = losses(events)
    assert found["on"] == pytest.approx(found["off"], rel=NEAR[mixed_precision] / 2)


@FP16
def test_a_run_that_is_resumed_under_fp16_goes_on_with_its_loss_scale(
    mixed_precision: str, device: str, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    values: dict[str, object] = {"device": device, "mixed_precision": mixed_precision, "max_train_steps": 12}
    whole, events = run(config_for(tiny_sd1, pictures, tmp_path / "whole", **values))
    config = config_for(tiny_sd1, pictures, tmp_path / "broken", **values)
    job = Job(config)

    def stop(session: Session) -> None:
        if session.step == 6:
            job.controls.stop()

    before_steps(job, stop)
    job.start()
    assert job.wait(120) and job.error is None
    resumed, later = run(config, resume="latest")
    assert whole.error is None and resumed.error is None and isinstance(later[-1], Finished)
    assert [event.step for event in later if isinstance(event, Step)] == list(range(7, 13))
    assert losses(later) == pytest.approx(losses(events)[6:], rel=NEAR["fp16"])
    scales = [checkpoint.latest(tmp_path / name / "checkpoints").scaler["scale"] for name in ("whole", "broken")]
    assert scales[0] == scales[1] > 1


@FP16
def test_a_run_that_began_without_a_loss_scale_is_resumed_with_one(
    mixed_precision: str, device: str, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    """Who begins on the CPU, installs the build for the card and goes on."""
    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=4)
    begun, _ = run(config)
    resumed, events = run(
        config.replace(device=device, mixed_precision=mixed_precision, max_train_steps=6), resume="latest"
    )
    assert begun.error is None and resumed.error is None
    assert [event.step for event in events if isinstance(event, Step)] == [5, 6]
