"""What is predicted against what a real step really takes, and against what was counted by hand for the real models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lora_core import base_models, estimate, estimate_book, estimate_graph, train
from lora_core.config import PRESETS, TrainConfig, presets, read_preset
from lora_core.errors import UserError
from lora_core.estimate import Memory
from lora_core.estimate_poly import At, Poly, top, worst
from lora_core.estimate_shapes import Shapes, of_family, shapes_of
from lora_core.precision import Device

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settings(**values: object) -> TrainConfig:
    return TrainConfig.of({"target_modules": ATTENTION, "mixed_precision": "no", **values})


def measured_peak(work: Any) -> int:
    """The most bytes above what was there before that the CPU's allocator had given out while `work` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


# --- against a real step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "width", "height", "values"),
    [
        (3, 16, 16, {"lora_rank": 4}),
        (2, 24, 16, {"lora_rank": 8, "gradient_checkpointing": True}),
        (2, 16, 16, {"lora_rank": 4, "train_text_encoder": True, "prior_pictures": 1, "prior_prompts": ("x",)}),
    ],
)
def test_a_real_step_takes_what_was_counted(
    own_cache: Path, batch: int, width: int, height: int, values: dict[str, object]
) -> None:
    shapes = shapes_of("starter")
    config = settings(train_batch_size=batch, **values)
    model = base_models.load("starter", torch.float32, lambda event: None)
    session = estimate_graph.session_of(model, shapes, config, torch.float32, (width, height), CPU)
    train.optimizer_step(session)  # Adam's moments are there from now on
    session.step = 0
    real = measured_peak(lambda: train.optimizer_step(session))
    estimate_book.learn(shapes, config, 4)
    scale = shapes.pixels_per_latent
    found = estimate.memory(config, shapes, [(width * scale, height * scale)])
    assert found and found.exact
    assert found.activations == pytest.approx(real, rel=0.1)
    assert found.adapters == sum(p.numel() * 4 for p in session.parameters.values())
    assert found.weights == sum(
        p.numel() * 4
        for module in ([model.unet, *model.text_encoders.values()] if config.train_text_encoder else [model.unet])
        for p in module.parameters()
        if not p.requires_grad
    )
