"""lora_core.training.engine.parallel: parts side by side sum up as one after the other, to the same last bit each time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from lora_core.events import Step
from lora_core.models import device as precision
from lora_core.models.parallel import LEAST
from lora_core.system.distributed import ProcessGroup
from lora_core.training.engine.parallel import ThreadedStepper, threads_for
from lora_core.training.engine.stepper import MicroBatch, PlainStepper, Stepper
from tests.support.training import adapters_after, config_for, equal, run

ALONE = torch.amp.GradScaler("cpu", enabled=False)
VALUES: dict[str, object] = {
    "train_batch_size": 2 * LEAST, "enable_bucket": False, "validation_split": 0.0, "train_text_encoder": True,
    "max_train_steps": 4, "prior_prompts": ["a cow"], "prior_pictures": 2, "prior_every": 2,
    "gradient_accumulation_steps": 2,
}  # fmt: skip


def micro_batch(first: int, count: int, side: int = 8) -> MicroBatch:
    """Pictures that are told apart by their captions and timesteps."""
    numbers = torch.arange(first, first + count)
    latents = torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(first))
    text_inputs = {"caption": numbers.clone(), "frames": numbers[:, None].expand(count, 6).clone()}
    return MicroBatch(latents, numbers, text_inputs, -latents, torch.full((count,), 1 / count))


def captions(parts: list[MicroBatch]) -> list[list[int]]:
    return [part.text_inputs["caption"].tolist() for part in parts]


def test_one_after_the_other_micro_batches_stay_apart() -> None:
    seen: list[MicroBatch] = []
    weight = torch.nn.Parameter(torch.ones(()))

    def loss_of(batch: MicroBatch) -> torch.Tensor:
        seen.append(batch)
        return weight * batch.weight_B

    losses_B = PlainStepper().backward(loss_of, [micro_batch(0, 9), micro_batch(9, 9)], [weight], ALONE)
    assert captions(seen) == [[*range(9)], [*range(9, 18)]] and len(losses_B) == 18


def test_side_by_side_micro_batches_of_one_size_are_joined_and_dealt_out() -> None:
    parts = ThreadedStepper(3).parts([micro_batch(0, 5), micro_batch(5, 8)])
    assert [len(part) for part in parts] == [4, 4, 5]
    joined = [caption for part in captions(parts) for caption in part]
    assert joined == [*range(13)]
    for part in parts:
        assert torch.equal(part.timesteps_B, part.text_inputs["caption"])
        assert torch.equal(part.timesteps_B, part.text_inputs["frames"][:, 0])
        assert torch.equal(part.target_BCHW, -part.noisy_latents_BCHW) and len(part.weight_B) == len(part)


def test_what_does_not_fit_or_pay_is_not_joined_or_divided() -> None:
    parts = ThreadedStepper(2).parts([micro_batch(0, 2 * LEAST), micro_batch(8, 3, side=16), micro_batch(11, 2)])
    assert [len(part) for part in parts] == [LEAST, LEAST, 3, 2]


def test_gradients_are_those_of_the_whole_and_the_same_every_time() -> None:
    layer, untouched = torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Parameter(torch.ones(1))
    trained = [*layer.parameters(), untouched]

    def loss_of(part: MicroBatch) -> torch.Tensor:
        missed = layer(part.noisy_latents_BCHW) - part.target_BCHW
        return part.weight_B * missed.square().mean(dim=(1, 2, 3))

    def learned(stepper: Stepper) -> tuple[torch.Tensor, list[torch.Tensor]]:
        for parameter in trained:
            parameter.grad = None
        for _ in range(2):  # as with accumulated batches
            losses_B = stepper.backward(loss_of, [micro_batch(0, 9), micro_batch(9, 6)], trained, ALONE)
        assert untouched.grad is None
        return losses_B, [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]

    alone, beside = learned(PlainStepper()), learned(ThreadedStepper(3))
    torch.testing.assert_close(beside, alone)
    for _ in range(20):
        again = learned(ThreadedStepper(3))
        assert torch.equal(again[0], beside[0]) and all(map(torch.equal, again[1], beside[1]))


def test_they_do_run_at_the_same_time_and_an_error_is_heard() -> None:
    meeting = threading.Barrier(2)
    parts = ThreadedStepper(2).parts([micro_batch(0, 2 * LEAST)])
    assert ThreadedStepper(2).map(lambda part: meeting.wait(60) >= 0, parts) == [True, True]
    with pytest.raises(ZeroDivisionError):
        ThreadedStepper(2).map(lambda part: 1 // part.timesteps_B[0].item(), parts)


def test_a_training_on_three_cores_ends_where_one_on_a_single_core_does_and_resumes_bit_equal(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    for name, cores, resume in (("one", 1, ""), ("three", 3, ""), ("again", 3, "latest")):
        monkeypatch.setattr(precision, "_CORES", cores)
        config = config_for(tiny_sd1, pictures, tmp_path / name, **VALUES)
        if resume:
            run(config.replace(max_train_steps=3))
        job, events = run(config, resume)
        assert job.error is None
        losses[name] = [event.loss for event in events if isinstance(event, Step)]
    one, three, again = (adapters_after(tmp_path / name, 4) for name in ("one", "three", "again"))
    assert losses["three"] == pytest.approx(losses["one"], rel=1e-4) and equal(three, again)
    for name, tensor in one.items():
        torch.testing.assert_close(three[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("values", [{"lora_dropout": 0.1}, {}], ids=["dropout", "large model"])
def test_who_stays_alone(
    values: dict[str, object], monkeypatch: pytest.MonkeyPatch, tiny_sd1: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision, "_CORES", 4)
    config = config_for(tiny_sd1, tmp_path, tmp_path, **values)
    cpu = torch.device("cpu")
    with torch.device("meta"):
        unet = torch.nn.Linear(8, 8) if values else torch.nn.Linear(8000, 8000)
    assert threads_for(unet, config, cpu, ProcessGroup()) == 1
    with torch.device("meta"):
        small = torch.nn.Linear(8, 8)
    assert threads_for(small, config.replace(lora_dropout=0.0), cpu, ProcessGroup()) == 4
    assert threads_for(small, config.replace(lora_dropout=0.0), cpu, ProcessGroup(2, 1)) == 1
    assert precision.free_cores(small, torch.device("meta")) == 1
