"""lora_core.training.optim.adafactor: the numbers of transformers' class, in a few kernels, and its checkpoints go on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from lora_core.training.optim import adafactor
from lora_core.training.optim.adafactor import Adafactor

SHAPES = [(4, 12), (12, 4), (4, 12), (7,), (4, 6, 3, 3), (12, 4), (1,), (4, 6, 3, 3), (5, 4, 1, 1)]


def groups(weights: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": weights[:5], "lr": 3e-2}, {"params": weights[5:], "lr": 1e-2}]


def ours(weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return Adafactor(groups(weights), weight_decay=0.1)


def theirs(weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = transformers.Adafactor(
        groups(weights), weight_decay=0.1, scale_parameter=False, relative_step=False
    )
    return made


def fresh() -> list[torch.nn.Parameter]:
    rng = torch.Generator().manual_seed(7)
    return [torch.nn.Parameter(torch.randn(*shape, generator=rng)) for shape in SHAPES]


def step(number: int, weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    rng = torch.Generator().manual_seed(number)
    optimizer.zero_grad(set_to_none=True)
    for place, weight in enumerate(weights):
        gradient = torch.randn(weight.shape, generator=rng) * 10 ** (number % 3 - 2)
        if (place + number) % 4:  # one without a gradient now and then: some are steps behind
            weight.grad = gradient if place + number != 6 else torch.zeros_like(gradient)
    optimizer.step()


@pytest.mark.parametrize("at_once", [1, 64])
def test_steps_are_those_of_transformers(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adafactor, "AT_ONCE", at_once)
    mine, other = fresh(), fresh()
    optimizer, reference = ours(mine), theirs(other)
    for number in range(12):
        step(number, mine, optimizer)
        step(number, other, reference)
        for one, wanted in zip(mine, other, strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_transformers_goes_on() -> None:
    other = fresh()
    reference = theirs(other)
    for number in range(5):
        step(number, other, reference)
    mine = [torch.nn.Parameter(weight.detach().clone()) for weight in other]
    optimizer = ours(mine)
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    for number in range(5, 9):
        step(number, mine, optimizer)
        step(number, other, reference)
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_many_parameters_of_few_shapes_are_few_kernels() -> None:
    class Counted(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += not op.is_view
            return op(*args, **(kwargs or {}))

    counts = []
    for make in (ours, theirs):
        weights = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((4, 12), (12, 4)) for _ in range(60)]
        optimizer = make(weights)
        step(1, weights, optimizer)
        step(2, weights, optimizer)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        with Counted() as counted:
            optimizer.step()
        counts.append(counted.count)
    assert counts[0] < 200 < 2000 < counts[1]
