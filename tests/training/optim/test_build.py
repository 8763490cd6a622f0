"""lora_core.training.optim.build: learning rates by schedule, and every optimizer goes downhill and restores."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.optimization import get_scheduler

from lora_core.config import TrainConfig
from lora_core.training.optim.build import OPTIMIZERS, SCHEDULES, can_be_fused, lr_factor, set_learning_rates


def config(**values: object) -> TrainConfig:
    return TrainConfig.of({"max_train_steps": 100, "learning_rate": 1.0, **values})


@pytest.mark.parametrize("cycles", [1, 3])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"constant"}))
def test_schedules_are_those_of_diffusers(name: str, power: float, cycles: int) -> None:
    """After the warm-up, which begins at the first part of the rate here and at zero there."""
    steps, warmup = 100, 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=steps, num_cycles=cycles if "restarts" in name else 1,
        power=power,
    )  # fmt: skip
    asked = config(lr_scheduler=name, lr_warmup_steps=warmup, lr_scheduler_num_cycles=cycles, lr_scheduler_power=power)
    if name == "cosine":  # num_cycles counts waves there, and the usual is half a one
        theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    factor = theirs.lr_lambdas[0]
    for step in range(warmup, steps):
        assert lr_factor(asked, step) == pytest.approx(factor(step), abs=1e-6)


def test_a_warm_up_below_one_is_a_share_of_the_steps() -> None:
    share, steps = config(lr_warmup_steps=0.05), config(lr_warmup_steps=5)
    assert share.warmup_steps == steps.warmup_steps == 5
    assert [lr_factor(share, n) for n in range(8)] == [lr_factor(steps, n) for n in range(8)]
    assert TrainConfig.of({"lr_warmup_steps": 3}).warmup_steps == 3 and TrainConfig().warmup_steps == 0


def test_rates_warm_up_then_follow_the_schedule() -> None:
    linear = config(lr_scheduler="linear", lr_warmup_steps=10)
    assert [round(lr_factor(linear, step), 3) for step in (0, 4, 9, 10, 55, 99)] == [
        0.1,
        0.5,
        1.0,
        1.0,
        0.5,
        0.011,
    ]
    cosine = config(lr_scheduler="cosine")
    assert lr_factor(cosine, 0) == 1 and lr_factor(cosine, 50) == pytest.approx(0.5)
    assert lr_factor(config(), 99) == 1


def test_each_group_keeps_its_own_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": r, "base_lr": r} for r in (1e-3, 1e-4)]
    settings = config(lr_warmup_steps=2)
    optimizer = OPTIMIZERS["adamw"](groups, settings)
    assert set_learning_rates(optimizer, settings, 0) == pytest.approx(5e-4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-5])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_downhill_and_restores_exactly(name: str) -> None:
    def steps(count: int, weights: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (weights - 3).square().sum().backward()
            optimizer.step()

    def fresh() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weights, rate = torch.nn.Parameter(torch.zeros(4, 4)), 1.0 if name == "prodigy" else 0.1
        return weights, OPTIMIZERS[name]([{"params": [weights], "lr": rate, "base_lr": rate}], config())

    weights, optimizer = fresh()
    steps(100 if name == "prodigy" else 10, weights, optimizer)
    assert float((weights.detach() - 3).abs().mean()) < 2.5
    again, restored = fresh()
    again.data.copy_(weights.data)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(5, weights, optimizer)
    steps(5, again, restored)
    assert torch.equal(weights, again)


def test_adamw_is_one_kernel_where_a_scaled_overflow_is_heeded_by_it() -> None:
    for mixed_precision in ("no", "fp16", "bf16"):
        assert all(can_be_fused(device, mixed_precision) for device in ("cpu", "cuda", "xpu"))
        assert can_be_fused("mps", mixed_precision) == (mixed_precision == "no")
    assert not can_be_fused("privateuseone", "no")
