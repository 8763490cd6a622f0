"""Steps that are compiled teach what plain ones teach, and where that fails the plain way goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.events import Event, Phase, Step, Validation, Warned
from lora_core.models import load as base_models
from lora_core.models.architecture import of_family
from lora_core.models.families.base import BaseModel
from lora_core.training.engine import adapters, compile
from lora_core.training.estimate.counts import Graph
from tests.support.training import adapters_after, config_for, run

VALUES: dict[str, object] = {"max_train_steps": 4, "save_steps": 2, "torch_compile": True, "lora_dropout": 0.0}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of the compiler but the kernels, which take minutes."""
    monkeypatch.setattr(compile, "BACKEND", "aot_eager")


def compiling(events: list[Event]) -> list[str]:
    return [event.detail for event in events if isinstance(event, Phase) and event.name == "compile"]


def told(events: list[Event]) -> list[str]:
    return [str(event.message) for event in events if isinstance(event, Warned) and "compiling" in str(event.message)]


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step | Validation)]


@pytest.mark.parametrize(
    "values",
    [{"train_text_encoder": True}, {"gradient_checkpointing": True, "prior_prompts": ["a cow"], "prior_pictures": 2}],
    ids=["text encoder", "recomputed, with a prior"],
)
def test_a_training_ends_where_the_plain_one_does(
    values: dict[str, object], tiny_sd1: Path, pictures: Path, tmp_path: Path, quick: None
) -> None:
    found = {}
    for name, torch_compile in (("plain", False), ("compiled", True)):
        asked = {**VALUES, **values, "enable_bucket": False, "torch_compile": torch_compile}
        job, events = run(config_for(tiny_sd1, pictures, tmp_path / name, **asked))
        assert job.error is None and told(events) == []
        assert set(compiling(events)) == ({"8×8"} if torch_compile else set())
        found[name] = losses(events)
    assert found["compiled"] == pytest.approx(found["plain"], rel=1e-5)
    plain, other = (adapters_after(tmp_path / name, 4) for name in ("plain", "compiled"))
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, atol=2e-5, rtol=1e-4)


def model_of(folder: Path, **values: object) -> tuple[BaseModel, TrainConfig]:
    model, config = base_models.load(str(folder), torch.float32, lambda event: None), TrainConfig.of({**VALUES, **values})
    adapters.attach(model, config)
    model.unet.train()
    return model, config


def ask(predict: Any, side: int = 8) -> torch.Tensor:
    rng = torch.Generator().manual_seed(side)
    latents, states = torch.randn(1, 4, 8, side, generator=rng), torch.randn(1, 7, 96, generator=rng)
    answer: torch.Tensor = predict(latents, torch.tensor([30]), {"encoder_hidden_states": states})
    return answer


@pytest.mark.parametrize("how", ["no compiler", "another answer"])
def test_where_it_fails_the_plain_way_goes_on_and_it_is_told_once(
    how: str, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(program: Any, inputs: Any) -> Any:
        if how == "no compiler":
            raise RuntimeError("Cannot find a working triton installation.\nMore")
        return lambda *values: [2 * each for each in program(*values)]

    monkeypatch.setattr(compile, "BACKEND", backend)
    model, config = model_of(tiny_sd1)
    assert "forward" not in vars(model.unet.down_blocks[0].resnets[0])
    events: list[Event] = []
    predict = compile.predict(model, config, events.append)
    for side in (8, 8, 16):
        assert torch.equal(ask(predict, side), ask(model.predict, side))
    (sentence,) = told(events)
    assert ("triton" in sentence and "More" not in sentence) if how == "no compiler" else "differ" in sentence
    assert "forward" in vars(model.unet.down_blocks[0].resnets[0]), "what is not compiled keeps less, as asked"


def test_drawing_and_what_is_asked_of_the_base_model_is_not_compiled(tiny_sd1: Path, quick: None) -> None:
    model, config = model_of(tiny_sd1)
    events: list[Event] = []
    predict = compile.predict(model, config, events.append)
    with torch.no_grad():
        ask(predict)
    with adapters.disabled(model):
        ask(predict)
    assert events == []


def test_of_many_sizes_the_first_are_compiled(tiny_sd1: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "MOST", 1)
    model, config = model_of(tiny_sd1)
    events: list[Event] = []
    predict = compile.predict(model, config, events.append)
    for side in (8, 16, 8):
        torch.testing.assert_close(ask(predict, side), ask(model.predict, side))
    assert compiling(events) == ["8×8"] and told(events) == []


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler here, which torch.compile needs on a CPU")
@pytest.mark.timeout(600)
def test_the_real_compiler_teaches_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of a model instead of a model, which takes minutes."""
    torch.manual_seed(0)
    unet = torch.nn.Sequential(torch.nn.GroupNorm(2, 4), torch.nn.SiLU(), torch.nn.Conv2d(4, 4, 3, padding=1))
    model: Any = type("Model", (), {"unet": unet, "predict": lambda self, latents, times, words: self.unet(latents)})()
    monkeypatch.setattr(adapters, "layers", lambda model: [type("Layer", (), {"disable_adapters": False})()])
    events: list[Event] = []
    predict = compile.predict(model, TrainConfig.of(VALUES), events.append)
    latents = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(predict(latents, torch.zeros(2), {}), unet(latents))
    assert told(events) == [] and compiling(events) == ["8×8"]


@pytest.mark.parametrize(
    ("values", "is_compiled"), [({}, True), ({"eight_bit_base": True}, False), ({"lora_dropout": 0.1}, False)], ids=str
)
def test_what_is_compiled_counts_as_keeping_all(values: dict[str, object], is_compiled: bool) -> None:
    config = TrainConfig.of({**VALUES, **values})
    assert (config.is_compiled, config.is_lean) == (is_compiled, not is_compiled)
    assert Graph.of(of_family("sd1"), config, 2).lean is not is_compiled
