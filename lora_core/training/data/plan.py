"""What a training will do, computed once from settings and pictures and shown before it starts."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_core.config import TrainConfig
from lora_core.dataset import Dataset, Item, batches, bucket_size
from lora_core.messages import Message

Size = tuple[int, int]  # width, height in pixels
FEWEST_FOR_HOLD_OUT = 8  # with fewer pictures every one is needed for training


@dataclass(frozen=True)
class Plan:
    """Derived numbers of a run. `training` and `validation` share no picture; `buckets` counts pictures per size."""

    training: tuple[Item, ...]
    validation: tuple[Item, ...]
    size_of: dict[Path, Size]
    buckets: dict[Size, int]
    batches_per_epoch: int
    steps: int
    epochs: float
    notices: tuple[Message, ...]
    digest: str  # of which pictures and captions they are, to notice that they changed

    @classmethod
    def of(cls, config: TrainConfig, dataset: Dataset) -> Plan:
        """The plan for these settings on these pictures; pure."""
        training, validation = hold_out(dataset.items, config.validation_split, config.seed)
        size_of = {item.path: picture_size(item, config) for item in dataset.items}
        epoch = batches(
            [size_of[i.path] for i in training], [i.repeats for i in training], config.train_batch_size, 0, 0
        )
        per_step = config.gradient_accumulation_steps
        return cls(
            training=training,
            validation=validation,
            size_of=size_of,
            buckets=dict(Counter(size_of.values())),
            batches_per_epoch=len(epoch),
            steps=config.max_train_steps,
            epochs=config.max_train_steps * per_step / len(epoch),
            notices=tuple(_notices(config, dataset, validation)),
            digest=_digest(dataset),
        )

    def batch(self, config: TrainConfig, number: int) -> list[int]:
        """Indices into `training` of the batch with this number since the start; pure in (seed, number)."""
        epoch, position = divmod(number, self.batches_per_epoch)
        sizes = [self.size_of[item.path] for item in self.training]
        repeats = [item.repeats for item in self.training]
        return batches(sizes, repeats, config.train_batch_size, config.seed, epoch)[position]


def picture_size(item: Item, config: TrainConfig) -> Size:
    """The size in pixels the picture is trained at."""
    if not config.enable_bucket:
        return config.resolution, config.resolution
    return bucket_size(item.width, item.height, config.resolution, config.bucket_step)


def hold_out(items: Sequence[Item], share: float, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Split off validation pictures: the same ones for the same seed and names, none from fewer than 8 pictures."""
    if not share or len(items) < FEWEST_FOR_HOLD_OUT:
        return tuple(items), ()
    count = max(1, round(len(items) * share))
    chosen = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    held = tuple(item for index, item in enumerate(items) if index in chosen)
    return tuple(item for index, item in enumerate(items) if index not in chosen), held


def _digest(dataset: Dataset) -> str:
    lines = (f"{i.path.name}\t{i.width}x{i.height}\t{i.repeats}\t{i.caption}\n" for i in dataset.items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _notices(config: TrainConfig, dataset: Dataset, validation: Sequence[Item]) -> list[Message]:
    notices = []
    count = len(dataset.items)
    if config.validation_split and not validation:
        notices.append(Message("training.none_held_out", count=count))
    if config.save_steps > config.max_train_steps:
        notices.append(Message("training.one_save"))
    lacking = sum(config.trigger_word.lower() not in item.caption.lower() for item in dataset.items)
    if lacking == count:
        notices.append(Message("training.no_trigger", word=config.trigger_word))
    elif lacking:
        notices.append(Message("training.some_lack_trigger", lacking=lacking, count=count, word=config.trigger_word))
    if not config.trigger_word and not _shared_words(dataset.items):
        notices.append(Message("training.no_word_for_it"))
    return notices


def _shared_words(items: Sequence[Item]) -> set[str]:
    """The words of three letters and more that stand in every caption."""
    words = [set(re.findall(r"\w{3,}", item.caption.lower())) for item in items]
    return set.intersection(*words)
