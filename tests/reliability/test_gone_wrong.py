"""Numbers that stop being numbers: nothing of them is saved, and the training goes back and on, or ends with a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Event, Failed, Finished, Step, Validation, Warned
from lora_core.models.device import choose
from lora_core.training import checkpoint, prepare
from lora_core.training.data import latent_cache
from lora_core.training.job import ROLL_BACKS, Job
from lora_core.training.progress import Diverged, DivergenceDetector
from lora_core.training.session import Session
from tests.support.training import adapters_after, before_steps, config_for, equal, run


class Poisoned(Job):
    """A job that something goes wrong in at a step: as often as `times` says, at `kind`."""

    def __init__(self, config: TrainConfig, kind: str, at: int, times: int):
        super().__init__(config)
        self.kind, self.at, self.times = kind, at, times
        before_steps(self, self.poison)

    def poison(self, session: Session) -> None:
        if session.step == self.at and self.times:
            self.times -= 1
            first = next(iter(session.parameters.values()))
            if self.kind == "weight":
                first.data.view(-1)[0] = float("inf")
            elif self.kind == "optimizer":
                session.optimizer.state[first]["exp_avg"].view(-1)[0] = float("nan")
            elif self.kind == "gradient":
                handle = first.register_hook(lambda gradient: (handle.remove(), gradient * float("nan"))[1])
            else:
                for parameter in session.parameters.values():  # numbers still, but no loss comes of them
                    parameter.data.fill_(1e30)


def finite(folder: Path) -> bool:
    files = list(folder.rglob("*.safetensors"))
    states = [checkpoint.load(path.parent).adapters for path in folder.rglob("state.pt")]
    tensors = [t for held in (*map(load_file, files), *states) for t in held.values()]
    return bool(files) and all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@pytest.mark.parametrize("kind", ["weight", "optimizer", "gradient", "huge"])
@pytest.mark.parametrize("at", [2, 6])
def test_it_goes_back_to_the_last_good_save_and_ends_well(
    kind: str, at: int, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    job = Poisoned(config_for(tiny_sd1, pictures, tmp_path), kind, at, 1)
    job.start()
    assert job.wait(600) and job.error is None
    told = [event for event, _ in job.run.read()[0]]
    (notice,) = [str(e.message) for e in told if isinstance(e, Warned) and "went wrong" in str(e.message)]
    assert f"step {4 if at == 6 else 0} and on with 30%" in notice
    assert [e.step for e in told if isinstance(e, Step)] == list(range(1, 11))
    assert [e.step for e in told if isinstance(e, Validation)] == [0, 4, 8, 10]
    assert isinstance(told[-1], Finished) and finite(tmp_path)
    rates = [e.learning_rate for e in told if isinstance(e, Step)]
    assert rates[-1] == pytest.approx(0.3 * job.config.learning_rate)


@pytest.mark.parametrize(("overflows", "goes_back"), [(1, False), (3, False), (4, True)])
def test_with_loss_scaling_an_overflow_of_the_forward_pass_costs_a_step_and_no_roll_back(
    overflows: int, goes_back: bool, tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fp16 has it: no number comes out of the UNet, so none goes back, and the scaler skips the step."""
    monkeypatch.setattr(prepare, "choose", lambda *asked: dataclasses.replace(choose(*asked), scale_loss=True))
    left, seen = [overflows], dict[int, dict[str, torch.Tensor]]()

    def overflow(session: Session) -> None:
        seen[session.step] = {name: tensor.detach().clone() for name, tensor in session.parameters.items()}
        if session.step >= 4 and left[0]:
            left[0] -= 1
            predict = session.predict

            def once(*asked: Any) -> torch.Tensor:
                session.predict = predict
                return predict(*asked) * torch.inf

            session.predict = once

    job = Job(config_for(tiny_sd1, pictures, tmp_path))
    before_steps(job, overflow)
    job.start()
    assert job.wait(600) and job.error is None and not left[0]
    told = [event for event, _ in job.run.read()[0]]
    assert any(isinstance(e, Warned) and "went wrong" in str(e.message) for e in told) == goes_back
    steps = [e.step for e in told if isinstance(e, Step)]
    skipped = [] if goes_back else list(range(5, 5 + overflows))
    assert steps == [step for step in range(1, 11) if step not in skipped]
    for step in skipped:
        assert equal(seen[step - 1], seen[step]), "the step was not taken"
    assert "NaN" not in job.run.events_file.read_text(encoding="utf-8") and finite(tmp_path)


def test_where_it_comes_again_and_again_it_ends_with_a_sentence_and_the_last_save_stands(
    tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path)
    job = Poisoned(config, "weight", 6, 99)
    job.start()
    assert job.wait(600) and isinstance(job.error, Diverged) and job.state == "failed"
    told: list[Event] = [event for event, _ in job.run.read()[0]]
    assert job.times == 99 - ROLL_BACKS - 1
    assert isinstance(told[-1], Failed) and "lower learning_rate" in str(told[-1].message)
    assert checkpoint.latest(job.run.checkpoints).step == 4 and finite(tmp_path)
    resumed, _ = run(config, resume="latest")
    assert resumed.error is None and finite(tmp_path)
    unharmed, _ = run(config.replace(output_dir=str(tmp_path / "unharmed")))
    assert unharmed.error is None and equal(adapters_after(tmp_path, 10), adapters_after(tmp_path / "unharmed", 10))


def test_a_lower_learning_rate_counts_when_a_run_goes_on(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=4)
    run(config)
    _, events = run(config.replace(max_train_steps=6, learning_rate=1e-5), resume="latest")
    assert [e.learning_rate for e in events if isinstance(e, Step)] == pytest.approx([1e-5, 1e-5])


def test_a_loss_that_stays_far_above_its_start_is_told_once() -> None:
    quiet, loud = DivergenceDetector(), DivergenceDetector()
    noise = [0.02, 0.5, 0.1, 0.3, 0.05, 0.9, 0.15]  # one step's loss says little
    assert not any(quiet.add(step, noise[step % 7]) for step in range(2000))
    told = [loud.add(step, noise[step % 7] * (1 if step < 100 else 8)) for step in range(2000)]
    (notice,) = [message for message in told if message]
    assert "diverging" in str(notice) and "lower learning_rate" in str(notice)


def test_a_vae_that_overflows_in_fp16_computes_in_fp32_and_says_so(
    tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: Path
) -> None:
    from lora_core.models import load as base_models
    from lora_core.training.data.plan import Plan
    from lora_core.training.prepare import read_dataset

    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    told: list[Event] = []
    config = config_for(tiny_sd1, pictures, tmp_path)
    plan = Plan.of(config, read_dataset(config))
    model = base_models.load(str(tiny_sd1), torch.float32, told.append)
    conv = model.vae.encoder.conv_out
    conv.weight.data *= 1e5
    model.vae.quant_conv.weight.data *= 1e-5
    expected = latent_cache.encode_pictures(model, plan, plan.training[:2], config, torch.device("cpu"), told.append)
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache 2"))
    model.vae.half()
    conv.weight.data = conv.weight.data.clamp(-6e4, 6e4)
    rescued = latent_cache.encode_pictures(model, plan, plan.training[:2], config, torch.device("cpu"), told.append)
    assert any(isinstance(e, Warned) and "fp32 from here on" in str(e.message) for e in told)
    assert all(torch.isfinite(mean).all() for example in rescued for mean, _ in example.views)
    assert len(expected) == len(rescued)
    conv.weight.data[:] = float("nan")
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache 3"))
    with pytest.raises(UserError, match="--vae"):
        latent_cache.encode_pictures(model, plan, plan.training[:1], config, torch.device("cpu"), told.append)
    assert not list((tmp_path / "cache 3").rglob("*.safetensors"))
