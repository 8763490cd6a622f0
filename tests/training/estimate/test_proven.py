"""lora_core.training.estimate.proven: what a check lets expect of steps, and where graphs are on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.models.architecture import of_family, shapes_of
from lora_core.models.computer import GRAPH, Computer, Identity, keep, step_key
from lora_core.models.device import Compute, Device
from lora_core.training import prepare
from lora_core.training.engine.stepper import PlainStepper
from lora_core.training.estimate import fit, speed
from lora_core.training.estimate.fit import fits, fitted
from lora_core.training.estimate.memory import memory
from lora_core.training.estimate.proven import Seconds, seconds, with_graphs_settled

GIB = 2**30
FAST = Device("cuda:0", "RTX 5090", 32 * GIB)


def settings(**values: object) -> TrainConfig:
    return TrainConfig.of({"resolution": 512, **values})


def checked(device: Device = FAST, **found: Any) -> Computer:
    """A check of a fast card, whose host takes 80 ms for what the card computes in 30; kept."""
    given: dict[str, Any] = {
        "graphs": True, "host_bound": True, "step_seconds": {step_key("fp16"): 0.08, step_key("fp16", GRAPH): 0.03},
    }  # fmt: skip
    computer = Computer(Identity.of(device), **{**given, **found})
    assert keep(computer)
    return computer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))


def graphs_of(config: TrainConfig, family: str = "sd1", device: Device = FAST) -> str:
    return with_graphs_settled(config, of_family(family), device, 2).cuda_graphs


def test_what_was_never_checked_goes_the_plain_way_and_what_was_asked_for_is_done() -> None:
    assert graphs_of(settings()) == "off"
    assert graphs_of(settings(cuda_graphs="on")) == "on" and graphs_of(settings(cuda_graphs="off")) == "off"


@pytest.mark.parametrize("found", [{"graphs": False}, {"graphs": None}, {"host_bound": False}, {"host_bound": None}])
def test_graphs_that_were_not_proven_or_not_worth_it_are_off(found: dict[str, object]) -> None:
    checked(**found)
    assert graphs_of(settings()) == "off"


def test_proven_graphs_are_on_only_where_the_host_is_the_slower_one() -> None:
    checked()
    assert graphs_of(settings()) == "on"
    assert graphs_of(settings(train_batch_size=8)) == "off", "the card is the slower one"
    assert graphs_of(settings(resolution=1024, train_batch_size=2), "sdxl") == "off"
    assert graphs_of(settings(lora_dropout=0.1)) == "off"
    assert graphs_of(settings(), device=Device("cuda:0", "another", 32 * GIB)) == "off"


def test_the_plan_counts_the_memory_of_graphs_only_where_there_will_be_some() -> None:
    shapes = of_family("sd1")
    before, plain = fits(settings(), shapes, FAST), memory(settings(cuda_graphs="off"), shapes)
    checked()
    now = fits(settings(), shapes, FAST)
    assert before and now and plain
    assert now.needed - before.needed == plain.adapters, "their place for gradients"


def test_the_training_takes_what_was_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "devices", lambda: [FAST])
    compute, shapes, steppers = Compute(torch.device("cuda:0"), torch.float16, True), of_family("sd1"), []
    model: Any = SimpleNamespace(unet=None)
    monkeypatch.setattr(prepare.cuda_graphs, "CudaGraphStepper", lambda *given: "graphs")
    for _ in range(2):
        config = fitted(settings(), shapes, compute)
        steppers.append(prepare.fastest_stepper(model, config, compute.device, print))
        checked()
    assert isinstance(steppers[0], PlainStepper) and steppers[1] == "graphs"


def test_the_steps_of_other_settings_follow_from_the_measured_one() -> None:
    found, shapes = checked(), of_family("sd1")
    own = seconds(settings(), shapes, found, 2)
    assert own == Seconds(pytest.approx(0.08), pytest.approx(0.03))
    twice = seconds(settings(gradient_accumulation_steps=2), shapes, found, 2)
    assert twice == Seconds(pytest.approx(0.16), pytest.approx(0.06))
    larger = seconds(settings(train_batch_size=4), shapes, found, 2)
    assert larger and larger.host == pytest.approx(0.08) and larger.device == pytest.approx(0.12, rel=0.05)
    assert seconds(settings(), shapes, found, 4) is None, "never measured in fp32"


def test_a_checks_seconds_are_the_first_pace_until_a_run_on_that_model_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "devices", lambda: [FAST])
    compute, shapes = Compute(torch.device("cuda:0"), torch.float16, True, (), str(FAST)), of_family("sd1")
    assert speed.step_seconds(settings(), shapes, compute) is None
    checked()
    plain, replayed = (speed.step_seconds(settings(cuda_graphs=on), shapes, compute) for on in ("off", "on"))
    assert plain and replayed and not plain.rough and not plain.measured
    assert plain.seconds == pytest.approx(0.08) and replayed.seconds == pytest.approx(0.03)
    speed.remember(settings(), shapes_of("starter"), compute, (), 100.0)
    assert speed.step_seconds(settings(cuda_graphs="off"), shapes, compute) == plain, "a toy tells less than the check"
    speed.remember(settings(lora_rank=8), shapes, compute, (), 10.0)
    ran = speed.step_seconds(settings(), shapes, compute)
    assert ran and ran.seconds == pytest.approx(0.1, rel=0.02)
