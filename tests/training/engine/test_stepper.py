"""lora_core.training.engine.stepper: micro-batches one after the other, and the plain way to compute their gradients."""

from __future__ import annotations

import torch

from lora_core.training.engine.stepper import MicroBatch, PlainStepper

ALONE = torch.amp.GradScaler("cpu", enabled=False)


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
