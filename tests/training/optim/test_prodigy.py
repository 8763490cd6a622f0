"""Prodigy against algorithm 4 of the paper, written out; that it finds a rate; and that it goes on exactly."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from lora_core.training.optim import prodigy
from lora_core.training.optim.prodigy import Prodigy


def plainly(
    start: list[float], targets: list[float], rates: list[float], decay: float, gammas: list[float]
) -> tuple[list[float], float]:
    """Algorithm 4 of the paper in Python's own numbers, on sum(c * (x - target)^2); the rates are the groups'.

    gammas: of the steps. With decoupled decay, Adam's correction of gamma, and s without gamma (safeguard_warmup).
    """
    x, beta1, beta2, eps = list(start), 0.9, 0.999, 1e-8
    d, r = 1e-6, 0.0
    m, v, s = ([0.0] * len(x) for _ in range(3))
    for k, asked in enumerate(gammas, 1):
        gamma = asked * math.sqrt(1 - beta2**k) / (1 - beta1**k)
        g = [2 * (n + 1) * (a - b) for n, (a, b) in enumerate(zip(x, targets, strict=True))]
        m = [beta1 * a + (1 - beta1) * d * b for a, b in zip(m, g, strict=True)]
        v = [beta2 * a + (1 - beta2) * d**2 * b**2 for a, b in zip(v, g, strict=True)]
        ways = sum(gamma * rate * a * (b - c) for rate, a, b, c in zip(rates, g, start, x, strict=True))
        r = math.sqrt(beta2) * r + (1 - math.sqrt(beta2)) * d**2 * ways
        s = [math.sqrt(beta2) * a + (1 - math.sqrt(beta2)) * d**2 * b for a, b in zip(s, g, strict=True)]
        found = max(d, r / sum(map(abs, s)))
        for n, rate in enumerate(rates):
            step = gamma * rate * d
            x[n] = x[n] * (1 - decay * step) - step * m[n] / (math.sqrt(v[n]) + d * eps)
        d = found
    return x, d


@pytest.mark.parametrize("at_once", [1, 64])
@pytest.mark.parametrize("rates", [(1.0, 1.0), (1.0, 0.3)])
def test_it_is_the_algorithm_of_the_paper(
    rates: tuple[float, float], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prodigy, "AT_ONCE", at_once)
    start, targets = [1.0, -2.0, 0.5, 3.0], [0.7, 1.0, 0.0, -1.0]
    weights = [torch.nn.Parameter(torch.tensor(start[n : n + 2], dtype=torch.float64)) for n in (0, 2)]
    optimizer = Prodigy([{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)], weight_decay=0.02)
    factors = torch.arange(1, 5, dtype=torch.float64)
    gammas = [min(1.0, (n + 1) / 5) * (1 - n / 60) for n in range(60)]
    for gamma in gammas:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = gamma * rate
        optimizer.zero_grad()
        (factors * (torch.cat(weights) - torch.tensor(targets, dtype=torch.float64)).square()).sum().backward()
        optimizer.step()
    wanted, d = plainly(start, targets, [rates[0]] * 2 + [rates[1]] * 2, 0.02, gammas)
    assert torch.cat(weights).tolist() == pytest.approx(wanted, rel=1e-9)
    assert float(optimizer.state[weights[0]]["d"]) == pytest.approx(d, rel=1e-9)


def regression(scale: float, steps: int) -> tuple[float, float]:
    """Share of the first loss that is left of a linear regression, and d; `scale`: of the solution."""
    rng = torch.Generator().manual_seed(3)
    inputs, wanted = torch.randn(256, 32, generator=rng), scale * torch.randn(32, generator=rng)
    weights = torch.nn.Parameter(torch.zeros(32))
    optimizer = Prodigy([{"params": [weights], "lr": 1.0}])
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (inputs @ (weights - wanted)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] / losses[0], float(optimizer.state[weights]["d"])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_from_a_millionth_it_finds_the_rate_on_its_own(scale: float) -> None:
    left, d = regression(scale, 150)
    assert left < 0.02 and 0.01 * scale < d < scale


def steps(count: int, weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        sum((weight - 3).square().sum() for weight in weights).backward()  # type: ignore[union-attr]
        optimizer.step()


def test_it_goes_on_exactly(tmp_path_factory: pytest.TempPathFactory) -> None:
    def fresh() -> tuple[list[torch.nn.Parameter], Prodigy]:
        weights = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.zeros(4))]
        return weights, Prodigy([{"params": [w], "lr": 1.0} for w in weights], weight_decay=0.01)

    for begun in (0, 1, 20):
        (weights, optimizer), (again, restored) = fresh(), fresh()
        steps(begun, weights, optimizer)
        file = tmp_path_factory.getbasetemp() / f"prodigy {begun}.pt"
        torch.save(optimizer.state_dict(), file)
        for weight, other in zip(weights, again, strict=True):
            other.data.copy_(weight.data)
        restored.load_state_dict(copy.deepcopy(torch.load(file, weights_only=True)))
        steps(9, weights, optimizer)
        steps(9, again, restored)
        assert all(map(torch.equal, weights, again))
        assert torch.equal(optimizer.state[weights[0]]["d"], restored.state[again[0]]["d"])


def test_without_a_slope_nothing_moves_and_numbers_gone_wrong_are_seen() -> None:
    weights = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))]
    optimizer = Prodigy([{"params": weights, "lr": 1.0}])
    optimizer.step()
    weights[1].grad = torch.zeros(3)  # the first, which d is kept at, has none
    optimizer.step()
    assert float(optimizer.state[weights[0]]["d"]) == pytest.approx(1e-6)
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in weights)
    weights[0].grad = torch.tensor([1.0, float("nan")])
    optimizer.step()
    assert not torch.isfinite(optimizer.state[weights[0]]["m"]).all()
