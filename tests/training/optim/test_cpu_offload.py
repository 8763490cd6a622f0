"""An optimizer in the computer's memory does to the adapters what it does on the device, to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_core.config import TrainConfig
from lora_core.events import Event, Step
from lora_core.training import checkpoint
from lora_core.training.optim.build import OPTIMIZERS, build_optimizer, set_learning_rates
from lora_core.training.optim.cpu_offload import CPUOffloadOptimizer, cpu_buffers, fetch
from tests.reliability.test_gone_wrong import Poisoned
from tests.support.training import adapters_after, config_for, equal, run

RATES = {"adamw": 1e-2, "adafactor": 1e-2, "prodigy": 1.0}


def config(**values: object) -> TrainConfig:
    return TrainConfig.of({"max_train_steps": 100, "learning_rate": 1.0, **values})


def fresh(name: str, offloaded: bool) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    rng = torch.Generator().manual_seed(7)
    weights = [torch.nn.Parameter(torch.randn(*shape, generator=rng)) for shape in ((4, 6), (5,), (3, 2))]
    groups = [{"params": part, "lr": RATES[name], "base_lr": RATES[name]} for part in (weights[:2], weights[2:])]
    return weights, build_optimizer(groups, config(optimizer=name, optimizer_on_host=offloaded))


def steps(numbers: range, weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, asked: TrainConfig) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=8.0, growth_interval=3)
    for number in numbers:
        set_learning_rates(optimizer, asked, number)
        rng = torch.Generator().manual_seed(number)
        used = weights if number % 3 else weights[:2]  # a parameter without a gradient now and then
        loss = sum((w * torch.randn(w.shape, generator=rng) - 3).square().sum() for w in used)
        scaler.scale(loss * float("inf") if number == 4 else loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)


def flat(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [part for key in sorted(state, key=str) for part in (key, *flat(state[key]))]
    return [part for each in state for part in flat(each)] if isinstance(state, list | tuple) else [state]


def same(one: Any, other: Any) -> bool:
    pairs = list(zip(flat(one), flat(other), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_steps_states_and_rates_are_those_of_the_plain_one_and_each_goes_on_from_the_others(name: str) -> None:
    asked = config(optimizer=name, learning_rate=RATES[name], lr_warmup_steps=3, lr_scheduler="cosine")
    found = {offloaded: fresh(name, offloaded) for offloaded in (False, True)}
    assert isinstance(found[True][1], CPUOffloadOptimizer)
    for weights, optimizer in found.values():
        steps(range(6), weights, optimizer, asked)
    assert all(map(torch.equal, found[False][0], found[True][0]))
    states = {offloaded: copy.deepcopy(optimizer.state_dict()) for offloaded, (_, optimizer) in found.items()}
    assert same(states[False], states[True])
    exchanged = {offloaded: fresh(name, offloaded) for offloaded in (False, True)}
    for offloaded, (weights, optimizer) in exchanged.items():
        with torch.no_grad():
            for weight, value in zip(weights, found[False][0], strict=True):
                weight.copy_(value)
        optimizer.load_state_dict(copy.deepcopy(states[not offloaded]))
    for weights, optimizer in (*found.values(), *exchanged.values()):
        steps(range(6, 12), weights, optimizer, asked)
    ends = [weights for weights, _ in (*found.values(), *exchanged.values())]
    assert all(torch.equal(a, b) for other in ends[1:] for a, b in zip(ends[0], other, strict=True))


def test_values_that_others_give_the_parameters_are_taken() -> None:
    weights, optimizer = fresh("adamw", True)
    twins, plain = fresh("adamw", False)
    for given in (1.0, -2.0):
        for each in (weights, twins):
            with torch.no_grad():
                each[0].fill_(given)
                each[2].detach().copy_(torch.full((3, 2), given))  # as ProcessGroup.align does
        steps(range(2), weights, optimizer, config())
        steps(range(2), twins, plain, config())
        assert all(map(torch.equal, weights, twins))


def test_a_step_without_gradients_changes_nothing() -> None:
    weights, optimizer = fresh("adamw", True)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert all(map(torch.equal, weights, before))


def test_what_is_fetched_is_there_after_the_wait() -> None:
    tensors = [torch.randn(3), torch.randn(2, 2)]
    places = cpu_buffers(tensors)
    fetch(tensors, places)()
    assert all(map(torch.equal, tensors, places)) and fetch([], [])() is None


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


def test_a_whole_training_leaves_the_same_file_and_checkpoints_go_both_ways(
    tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    values: dict[str, object] = {"train_text_encoder": True, "lr_scheduler": "cosine"}
    told = {}
    for offloaded in (False, True):
        asked = config_for(tiny_sd1, pictures, tmp_path / str(offloaded), optimizer_on_host=offloaded, **values)
        job, told[offloaded] = run(asked)
        assert job.error is None
    assert losses(told[False]) == losses(told[True])
    plain, hosted = (load_file(tmp_path / str(h) / "pytorch_lora_weights.safetensors") for h in (False, True))
    assert equal(plain, hosted)
    states = [checkpoint.load(tmp_path / str(h) / "checkpoints" / "step_0000010") for h in (False, True)]
    assert same(states[0].optimizer, states[1].optimizer)
    for offloaded in (False, True):  # from the middle, in the other one's folder
        folder = tmp_path / str(not offloaded)
        asked = config_for(tiny_sd1, pictures, folder, optimizer_on_host=offloaded, **values)
        job, _ = run(asked, resume=str(folder / "checkpoints" / "step_0000008"))
        assert job.error is None and equal(adapters_after(folder, 10), states[0].adapters)


def test_it_goes_back_when_numbers_go_wrong(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    ends = []
    for offloaded in (False, True):
        config = config_for(tiny_sd1, pictures, tmp_path / str(offloaded), optimizer_on_host=offloaded)
        job = Poisoned(config, "gradient", 6, 1)
        job.start()
        assert job.wait(600) and job.error is None
        ends.append(adapters_after(tmp_path / str(offloaded), 10))
    assert equal(*ends)
