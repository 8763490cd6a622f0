"""lora_core.training.callbacks: what stands between Start and the first step, and losses that stay comparable in a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_core.config import TrainConfig
from lora_core.events import Event, Step, Validation
from lora_core.training import checkpoint, prepare
from lora_core.training.data.validation import Measure
from tests.support.training import adapters_after, config_for, equal, run

VALUES: dict[str, object] = {"max_train_steps": 6, "save_steps": 3, "train_text_encoder": True}


def choose(monkeypatch: pytest.MonkeyPatch, measure: Measure, is_late: bool) -> None:
    monkeypatch.setattr(prepare.beside, "measure", lambda *given: (measure, is_late))


def validations(events: list[Event]) -> list[tuple[int, float, float]]:
    return [(event.step, event.loss, event.train_loss) for event in events if isinstance(event, Validation)]


@pytest.mark.parametrize("values", [{}, {"ema_decay": 0.9}, {"adapter": "dora"}], ids=["plain", "average", "dora"])
def test_a_long_validation_of_the_base_model_waits_for_the_first_save(
    values: dict[str, object], tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve begins at the same loss, and the training is the same to the last bit."""
    told = {}
    for name, is_late in (("at once", False), ("late", True)):
        choose(monkeypatch, Measure(2, 1, 2), is_late)
        job, events = run(config_for(tiny_sd1, pictures, tmp_path / name, **{**VALUES, **values}))
        assert job.error is None
        told[name] = [event for event in events if isinstance(event, Validation | Step)]
    assert isinstance(told["at once"][0], Validation) and isinstance(told["late"][0], Step)
    mine, plain = validations(told["late"]), validations(told["at once"])
    assert [row[0] for row in mine] == [0, 3, 6]
    for one, other in zip(mine, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert equal(adapters_after(tmp_path / "late", 6), adapters_after(tmp_path / "at once", 6))


def test_who_stops_before_the_first_save_has_the_base_models_loss_too(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, Measure(2, 1, 2), True)
    config = config_for(tiny_sd1, pictures, tmp_path / "run", max_train_steps=1000, save_steps=1000)
    _, events = run(config, on_event=lambda job, event: job.controls.stop() if isinstance(event, Step) else None)
    assert [step > 0 for step, *_ in validations(events)] == [False, True]


def test_a_resumed_run_goes_on_with_the_pictures_it_began_with(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, Measure(2, 1, 2), True)
    whole = config_for(tiny_sd1, pictures, tmp_path / "whole", **VALUES)
    expected = validations(run(whole)[1])
    config: TrainConfig = config_for(tiny_sd1, pictures, tmp_path / "two", **{**VALUES, "max_train_steps": 3})
    run(config)
    choose(monkeypatch, Measure(8, 16, 16), True)
    job, events = run(config.replace(max_train_steps=6), "latest")
    assert job.error is None and validations(events) == expected[2:], "the base model's was told before"
    state = checkpoint.latest(tmp_path / "two" / "checkpoints")
    assert state.identity["measure"] == "2,1,2"
