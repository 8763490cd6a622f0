"""What to change when memory is short: one ladder, from what costs nothing but time to what costs the LoRA most.

`fit` takes the first step that is enough, before a training and after one that failed; the levels of memory in the window
are the steps down to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lora_core.config import TrainConfig


@dataclass(frozen=True)
class Step:
    """Settings to change, beside those of the steps before it.

    same: the LoRA is the same to the last digit, and time is all it costs. fine: too little to ask a person for.
    """

    changes: dict[str, object]
    same: bool = False
    fine: bool = False


def ladder(config: TrainConfig, without: Collection[str] = ()) -> Iterator[Step]:
    """What is left to change, least harm first; no step that changes a setting of `without`."""
    return (step for step in _whole_ladder(config) if step.changes.keys().isdisjoint(without))


def _whole_ladder(config: TrainConfig) -> Iterator[Step]:
    """What is cheap is computed again, then quarters of the blocks, then all; no CUDA graphs (little memory, and for few
    kernels on a fast card the longest time); smaller batches added up (the same gradient); the optimizer in the
    computer's memory (the same steps, slower by two transfers); the base model in 8 bits (nearly the same); no samples
    (they can be drawn later, from the finished file); smaller pictures (detail); smaller rank.
    """
    lean: dict[str, object] = {} if config.lean_activations else {"lean_activations": True}
    if config.is_compiled:
        lean["torch_compile"] = False
    if lean:
        yield Step(lean, same=True)
    if not config.gradient_checkpointing:
        for quarters in range(config.checkpointed_quarters + 1, 4):
            yield Step({"checkpointed_quarters": quarters}, same=True, fine=True)
        yield Step({"checkpointed_quarters": 0, "gradient_checkpointing": True}, same=True)
    if config.cuda_graphs == "on":
        yield Step({"cuda_graphs": "off"}, same=True, fine=True)
    batch, added = config.train_batch_size, config.gradient_accumulation_steps
    while batch > 1:
        smaller = math.ceil(batch / 2)
        added, batch = added * math.ceil(batch / smaller), smaller
        yield Step({"train_batch_size": batch, "gradient_accumulation_steps": added})
    if not config.optimizer_on_host:
        yield Step({"optimizer_on_host": True})
    if not config.eight_bit_base:
        yield Step({"eight_bit_base": True})
    if config.sample_count:
        yield Step({"sample_count": 0})
    for share in (3 / 4, 1 / 2):
        resolution = int(config.resolution * share) // 64 * 64
        if resolution >= max(256, config.bucket_step):
            yield Step({"resolution": resolution})
    rank = config.lora_rank if not config.block_ranks else 0
    while rank > 4:
        rank = max(4, rank // 2)
        yield Step({"lora_rank": rank})


def together(config: TrainConfig, steps: Iterable[Step]) -> Iterator[dict[str, object]]:
    """The changes of each step with those before it."""
    changes: dict[str, object] = {}
    for step in steps:
        changes = changes_to(config, {**changes, **step.changes})
        yield changes


def changes_to(config: TrainConfig, values: Mapping[str, object]) -> dict[str, object]:
    """Of the values those that are not the settings' own."""
    return {name: value for name, value in values.items() if getattr(config, name) != value}
