"""The average of the adapters: the plain formula, what it is for, and that training does not notice it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_core.events import Event, Sample, Step, Validation, Warned
from lora_core.training import checkpoint
from lora_core.training.job import Job
from lora_core.training.optim import ema
from lora_core.training.optim.ema import EMA
from lora_core.training.session import Session
from tests.reliability.test_gone_wrong import Poisoned
from tests.support.training import adapters_after, before_steps, config_for, equal, run

SETTINGS: dict[str, object] = {"ema_decay": 0.9, "max_train_steps": 10, "save_steps": 4, "learning_rate": 3e-3}


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


def state(folder: Path, step: int) -> checkpoint.State:
    return checkpoint.load(checkpoint.folder_of(folder / "checkpoints", step))


def file(folder: Path) -> bytes:
    """The tensors of the finished LoRA, without the metadata, which has the time in it."""
    return b"".join(t.numpy().tobytes() for _, t in sorted(load_file(folder / "pytorch_lora_weights.safetensors").items()))


@pytest.fixture(params=["at once", "late"])
def arrival(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Late: as from a card, whose copies arrive while the next step is under way."""
    if request.param == "late":
        honest = EMA.__init__

        def begin(self: EMA, *given: Any) -> None:
            honest(self, *given)
            self._arriving = [torch.empty_like(p) for p in self._parameters]

        monkeypatch.setattr(EMA, "__init__", begin)

        def fetch(tensors: list[torch.Tensor], into: list[torch.Tensor]) -> Any:
            copies = [tensor.detach().clone() for tensor in tensors]
            return lambda: ema.put(copies, into)

        monkeypatch.setattr(ema, "fetch", fetch)
    return str(request.param)


def test_it_is_the_formula(arrival: str) -> None:
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    kept = EMA({"w": weights}, 0.8)
    expected = weights.detach().clone()
    for step in range(1, 60):
        weights.data = weights.data + torch.tensor([0.1, 0.3 * (-1) ** step])
        kept.update(step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights.detach()
    torch.testing.assert_close(kept.tensors()["w"], expected)


def test_the_parameters_come_back_bit_by_bit_in_their_place(arrival: str) -> None:
    weights = torch.nn.Parameter(torch.randn(5, 7))
    kept = EMA({"w": weights}, 0.5)
    with torch.no_grad():
        weights.add_(1)
    kept.update(1)
    own, place = weights.detach().clone(), weights.data_ptr()
    with pytest.raises(KeyError), kept.applied():
        assert torch.equal(weights, kept.tensors()["w"]) and not torch.equal(weights, own)
        raise KeyError
    assert torch.equal(weights, own) and weights.data_ptr() == place and weights.requires_grad


def test_without_a_decay_there_is_none() -> None:
    weights = torch.nn.Parameter(torch.ones(2))
    kept = EMA({"w": weights}, 0.0)
    kept.update(1)
    with kept.applied():
        assert kept.tensors() == {}


def test_training_goes_on_with_the_raw_weights_and_what_is_shown_is_the_average(
    arrival: str, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    asked = {**SETTINGS, "sample_count": 1, "sample_inference_steps": 2}
    _, plain = run(config_for(tiny_sd1, pictures, tmp_path / "plain", **{**asked, "ema_decay": 0.0}))
    job, events = run(config_for(tiny_sd1, pictures, tmp_path / "ema", **asked))
    assert job.error is None and losses(events) == losses(plain)
    assert equal(adapters_after(tmp_path / "plain", 10), adapters_after(tmp_path / "ema", 10))
    scores, raw_scores = ([e.loss for e in told if isinstance(e, Validation)] for told in (events, plain))
    assert scores[0] == raw_scores[0] and scores[1:] != raw_scores[1:]
    assert file(tmp_path / "ema") != file(tmp_path / "plain")
    last = state(tmp_path / "ema", 10)
    saved = load_file(tmp_path / "ema" / "pytorch_lora_weights.safetensors")
    ups = sorted(float(t.double().norm()) for name, t in last.ema.items() if "lora_B" in name)
    assert sorted(float(t.double().norm()) for n, t in saved.items() if "lora_up" in n) == pytest.approx(ups, rel=1e-2)
    drawn = [[tmp_path / name / e.path for e in events if isinstance(e, Sample)][-1] for name in ("plain", "ema")]
    assert drawn[0].read_bytes() != drawn[1].read_bytes()


@pytest.mark.parametrize("stop_after", [3, 4])
def test_a_resumed_run_ends_bit_equal(
    arrival: str, stop_after: int, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    def stop(session: Session) -> None:
        if session.step == stop_after:
            job.controls.stop()

    run(config_for(tiny_sd1, pictures, tmp_path / "whole", **SETTINGS))
    config = config_for(tiny_sd1, pictures, tmp_path / "broken", **SETTINGS)
    job = Job(config)
    before_steps(job, stop)
    job.start()
    assert job.wait(600) and job.error is None
    resumed, _ = run(config, resume="latest")
    whole, broken = state(tmp_path / "whole", 10), state(tmp_path / "broken", 10)
    assert resumed.error is None and whole.ema
    assert equal(whole.ema, broken.ema) and equal(whole.adapters, broken.adapters)
    assert file(tmp_path / "whole") == file(tmp_path / "broken")


def test_it_goes_back_with_the_training(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    job = Poisoned(config_for(tiny_sd1, pictures, tmp_path, **SETTINGS), "weight", 6, 1)
    job.start()
    assert job.wait(600) and job.error is None
    assert any("went wrong" in str(e.message) for e, _ in job.run.read()[0] if isinstance(e, Warned))
    assert all(torch.isfinite(tensor).all() for tensor in state(tmp_path, 10).ema.values())


def test_an_average_that_is_no_number_is_not_saved(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    def poison(session: Session) -> None:
        if session.step == 6 and session.lr_scale == 1:
            next(iter(session.ema.tensors().values())).view(-1)[0] = float("nan")

    job = Job(config_for(tiny_sd1, pictures, tmp_path, **SETTINGS))
    before_steps(job, poison)
    job.start()
    assert job.wait(600) and job.error is None
    assert all(torch.isfinite(tensor).all() for tensor in state(tmp_path, 10).ema.values())


def test_it_can_begin_and_end_between_two_parts_of_a_run(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    """A state without one is what Treino wrote before there was any."""
    path = checkpoint.folder_of(tmp_path / "checkpoints", 4) / checkpoint.STATE_FILE
    run(config_for(tiny_sd1, pictures, tmp_path, **{**SETTINGS, "ema_decay": 0.0, "max_train_steps": 4}))
    old = torch.load(path, weights_only=True)
    assert old.pop("averages") == {}
    torch.save(old, path)
    job, _ = run(config_for(tiny_sd1, pictures, tmp_path, **{**SETTINGS, "max_train_steps": 8}), resume="latest")
    assert job.error is None and state(tmp_path, 8).ema.keys() == state(tmp_path, 8).adapters.keys()
    job, _ = run(config_for(tiny_sd1, pictures, tmp_path, **{**SETTINGS, "ema_decay": 0.0}), resume="latest")
    assert job.error is None and state(tmp_path, 10).ema == {}
