"""What is recorded of a model gives the same numbers as the model, to the last bit, and its adapters learn by it."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.events import Event, Step, Warned
from lora_core.models import device as precision
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel, Conditioning
from lora_core.training.engine import adapters, torchscript
from tests.support.training import adapters_after, config_for, equal, run
from tests.support.twins import save_twin

CONFIG = TrainConfig.of({
    "lora_rank": 4, "target_modules": ["to_q", "to_v", "conv1", "ff.net.2"], "train_text_encoder": True,
    "lean_activations": False,
})  # fmt: skip


def adapted(folder: Path | str, **values: object) -> BaseModel:
    """With adapters that change something."""
    model = base_models.load(str(folder), torch.float32, lambda event: None)
    adapters.attach(model, CONFIG.replace(**values))
    for name, parameter in adapters.named_parameters(model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def question(model: BaseModel, count: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(count)
    latents = torch.randn(count, 4, side, side, generator=rng)
    return latents, torch.randint(1000, (count,), generator=rng), model.family.tokenize(model, ["a cow", "two"] * count)


def answer_of(
    model: BaseModel, ask: tuple[torchscript.Function, torchscript.Predict], count: int, side: int = 8
) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """The prediction, and the gradients of every adapter."""
    encode_text, predict = ask
    latents, timesteps, tokens = question(model, count, side)
    conditioning = encode_text({name: rows[:count] for name, rows in tokens.items()})
    prediction = predict(latents, timesteps, {**conditioning, "frames": torch.full((count, 6), 8 * side)})
    trained = adapters.named_parameters(model)
    loss = prediction.square().mean()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True) if loss.requires_grad else []
    return prediction.detach(), dict(zip(trained, found, strict=False))


def plain(model: BaseModel) -> tuple[torchscript.Function, torchscript.Predict]:
    def encode_text(tokens: dict[str, torch.Tensor]) -> Conditioning:
        return model.family.encode_text(model, tokens)

    return encode_text, model.predict


def record(model: BaseModel, told: list[Event]) -> tuple[torchscript.Function, torchscript.Predict]:
    return torchscript.encode_text(model, told.append), torchscript.predict(model, told.append)


def assert_the_same(
    one: tuple[torch.Tensor, dict[str, torch.Tensor | None]], other: tuple[torch.Tensor, dict[str, torch.Tensor | None]]
) -> None:
    assert torch.equal(one[0], other[0]) and one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        twin = other[1][name]
        assert (gradient is None and twin is None) or (
            gradient is not None and twin is not None and torch.equal(gradient, twin)
        ), name


@pytest.mark.parametrize(
    ("family", "values"),
    [("sd1", {}), ("sd1", {"use_dora": True}), ("sd1", {"lora_alpha": 1.0}), ("sd2", {}), ("sdxl", {})],
    ids=["sd1", "dora", "scaled", "sd2", "sdxl"],
)
def test_answers_and_gradients_are_the_models_own(
    family: str, values: dict[str, object], tiny_sd1: Path, tmp_path: Path
) -> None:
    model = adapted(tiny_sd1 if family == "sd1" else save_twin(family, tmp_path), **values)
    told: list[Event] = []
    records = record(model, told)
    for count, side in ((3, 8), (2, 8), (5, 8), (2, 16), (1, 8)):
        assert_the_same(answer_of(model, records, count, side), answer_of(model, plain(model), count, side))
    with adapters.disabled(model):
        without = answer_of(model, records, 3)
        assert_the_same(without, answer_of(model, plain(model), 3))
    with_adapters = answer_of(model, records, 3)
    assert not torch.equal(without[0], with_adapters[0]), "whether adapters are on is no constant of the record"
    for parameter in adapters.named_parameters(model).values():
        parameter.data.mul_(0.5)
    learned = answer_of(model, records, 3)
    assert not torch.equal(learned[0], with_adapters[0]), "nor are the adapters"
    assert_the_same(learned, answer_of(model, plain(model), 3))
    assert told == [] and all(isinstance(p, torch.nn.Parameter) for p in model.unet.parameters())


def test_threads_that_come_at_once_wait_for_the_one_that_records(tiny_sd1: Path) -> None:
    model = adapted(tiny_sd1)
    sides = {count: 8 + 8 * (count % 4) for count in range(1, 9)}  # one size is played while the next is recorded
    wanted = {count: answer_of(model, plain(model), count, side) for count, side in sides.items()}
    records, found = record(model, []), {}
    start = threading.Barrier(8)

    def ask(count: int) -> None:
        start.wait(60)
        for _ in range(3):
            found[count] = answer_of(model, records, count, sides[count])

    threads = [threading.Thread(target=ask, args=(count,)) for count in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for count, answer in wanted.items():
        assert_the_same(found[count], answer)


@pytest.mark.parametrize("how", ["tracer", "answer"])
def test_where_it_fails_the_model_answers_and_it_is_told_once(
    how: str, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tiny_sd1)
    wanted = answer_of(model, plain(model), 3)
    if how == "tracer":
        monkeypatch.setattr(torch._C, "_create_graph_by_tracing", lambda *a: 1 // 0)
    else:  # a branch of Python's that depends on the numbers, which no tracer sees
        asked, whole = [0], model.unet.forward

        def forward(*values: object, **named: object) -> object:
            asked[0] += 1
            (output,) = whole(*values, **named)
            return (output + asked[0],)

        monkeypatch.setattr(model.unet, "forward", forward)
    told: list[Event] = []
    records = plain(model)[0], torchscript.predict(model, told.append)
    for count in (3, 3, 2):
        prediction, gradients = answer_of(model, records, count)
        assert prediction.shape[0] == count and all(g is not None for g in gradients.values())
    assert [type(event) for event in told] == [Warned]
    if how == "tracer":
        assert_the_same(answer_of(model, records, 3), wanted)


def test_a_record_ends_with_its_training(tiny_sd1: Path) -> None:
    """What `torch.jit.trace` makes lives as long as the program: 40 MB for each training in the window."""
    model = adapted(tiny_sd1)
    records = record(model, [])
    answer_of(model, records, 2)
    unet, parameter = weakref.ref(model.unet), weakref.ref(next(model.unet.parameters()))
    del model, records
    gc.collect()
    assert unet() is None and parameter() is None


@pytest.mark.parametrize(
    "values",
    [{"lean_activations": True}, {"gradient_checkpointing": True}, {"eight_bit_base": True}, {"lora_dropout": 0.1}],
    ids=str,
)
def test_what_is_not_recorded(values: dict[str, object]) -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    small, large = torch.nn.Linear(8, 8), torch.nn.Linear(8000, 8000, device=meta)
    assert torchscript.can_record(small, CONFIG, cpu)
    assert not torchscript.can_record(large, CONFIG, cpu) and not torchscript.can_record(small, CONFIG, meta)
    assert not torchscript.can_record(small, CONFIG.replace(**values), cpu)


def test_a_training_ends_the_same_recorded_or_not(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_CORES", 2)
    values: dict[str, object] = {
        "train_batch_size": 8, "enable_bucket": False, "validation_split": 0.0, "train_text_encoder": True,
        "max_train_steps": 4, "save_steps": 2, "prior_prompts": ["a cow"], "prior_pictures": 2, "prior_every": 2,
        "lean_activations": False,
    }  # fmt: skip
    losses = {}
    for name in ("recorded", "plain"):
        if name == "plain":
            monkeypatch.setattr(torchscript, "can_record", lambda *a: False)
        job, events = run(config_for(tiny_sd1, pictures, tmp_path / name, **values))
        assert job.error is None and not [e for e in events if isinstance(e, Warned) and "recording" in str(e.message)]
        losses[name] = [event.loss for event in events if isinstance(event, Step)]
    assert losses["recorded"] == losses["plain"]
    assert equal(*(adapters_after(tmp_path / name, 4) for name in ("recorded", "plain")))
