"""The device to train on, the number formats it has, and CUDA graphs, which on a processor are played."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lora_core.models.device import DTYPES, choose
from lora_core.settings import ConfigError
from lora_core.training import prepare
from lora_core.training.engine import cuda_graphs
from tests.support.played_graphs import play


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a card's libraries warn of is for reading; it says nothing of Treino."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """By name, as the setting has it."""
    name = str(request.config.getoption("--device"))
    try:
        return str(choose(name, "no").device)
    except ConfigError as missing:
        pytest.exit(str(missing), returncode=2)


@pytest.fixture
def mixed_precision(request: pytest.FixtureRequest, device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A number format that this device computes in; a processor is made to, where it would rather not."""
    asked = str(request.param)
    compute = choose(device, asked)
    if compute.dtype == DTYPES[asked]:
        return asked
    if compute.device.type != "cpu":
        pytest.skip(f"{asked} is not computed here: {' '.join(map(str, compute.notices))}")
    forced = dataclasses.replace(compute, dtype=DTYPES[asked], scale_loss=asked == "fp16")
    monkeypatch.setattr(prepare, "choose", lambda name, wish, *rest: forced if wish == asked else choose(name, wish, *rest))
    return asked


@pytest.fixture
def replays(device: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many graphs have been replayed so far."""
    if device == "cpu":
        monkeypatch.setattr(cuda_graphs, "can_capture", lambda config, _: config.cuda_graphs == "on")
        played = play(monkeypatch)
        return lambda: sum(played.replays)
    if not device.startswith("cuda"):
        pytest.skip(f"CUDA graphs are of NVIDIA's and AMD's cards; {device} has none")
    counted: list[None] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: (counted.append(None), replay(self))[1])
    return lambda: len(counted)
