"""lora_core.training.optim.build: learning rates by schedule, and every optimizer goes downhill and restores."""

from __future__ import annotations

import copy

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.training.optim.build import OPTIMIZERS, can_be_fused, lr_factor, set_learning_rates


def config(**values: object) -> TrainConfig:
    return TrainConfig.of({"max_train_steps": 100, "learning_rate": 1.0, **values})


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
