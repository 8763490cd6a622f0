"""What a recipe looks at: the base model, the pictures, the computer. Values, gathered here, so that recipes are pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from lora_core.dataset import Dataset
from lora_core.dataset.tokens import count_tokens
from lora_core.models import identify
from lora_core.models.architecture import Shapes, shapes_of
from lora_core.models.catalog import known
from lora_core.models.device import DTYPES, choose
from lora_core.models.families.specs import FAMILIES, FamilySpec
from lora_core.training.data.plan import hold_out
from lora_core.training.estimate.budget import Budget
from lora_core.training.estimate.fit import device_of, found_wrong

FEW_COMMAS, LONG_PART = 3, 3.5  # a list of tags has more commas, and between them fewer words
Captions = Literal["tags", "sentences", "none"]


@dataclass(frozen=True)
class BaseFacts:
    """A base model. prediction_type: epsilon or v_prediction; zero_snr: its last timestep is nothing but noise."""

    shapes: Shapes
    prediction_type: str = "epsilon"
    zero_snr: bool = False

    @classmethod
    def of(cls, name: str, prediction_type: str = "auto", zero_terminal_snr: str = "auto") -> BaseFacts:
        """Of the base model called `name`, as --pretrained_model_name_or_path takes it; nothing is downloaded.

        Raises:
            UserError: no such file, or no model that can be trained.
        """
        shapes, path = shapes_of(name), Path(name).expanduser()
        predicted, zero_snr = FAMILIES[shapes.family].default_prediction or "epsilon", False
        if name and path.exists():
            found = identify.of_path(path)
            predicted, zero_snr = found.prediction_type or predicted, found.zero_snr
        elif base := known(name):
            predicted, zero_snr = base.prediction_type, base.zero_snr
        elif re.search(r"v-?pred", name.lower()):  # of the hub: its settings come with the download
            predicted, zero_snr = "v_prediction", True
        predicted = predicted if prediction_type == "auto" else prediction_type
        zero_snr = zero_snr if zero_terminal_snr == "auto" else zero_terminal_snr == "on"
        return cls(shapes, predicted, zero_snr)

    @property
    def spec(self) -> FamilySpec:
        return FAMILIES[self.shapes.family]

    @property
    def is_v(self) -> bool:
        return self.prediction_type == "v_prediction"

    @property
    def is_toy(self) -> bool:
        """Much smaller than its family, as the starter, which takes far higher rates."""
        return bool(self.shapes.unet["cross_attention_dim"] != self.spec.widths[0])

    @property
    def resolution(self) -> int:
        """Side in pixels of the square pictures that it was trained on."""
        return int(self.shapes.unet["sample_size"]) * self.shapes.pixels_per_latent


@dataclass(frozen=True)
class DatasetFacts:
    """The pictures of a folder.

    pictures: to train on, without those held out. (Repeats say how often one is seen beside another, and are no number of
    pictures.)
    side: of squares as large as the pictures, in pixels: the median; longest: tokens of the longest caption. is_known:
    not assumed.
    """

    pictures: int
    captions: Captions = "sentences"
    side: int = 1024
    longest: int = 0
    is_known: bool = True

    @classmethod
    def usual(cls) -> DatasetFacts:
        """Of pictures that nobody has named yet: as many as people have."""
        return cls(20, is_known=False)

    @classmethod
    def of(cls, dataset: Dataset, validation_split: float, seed: int) -> DatasetFacts:
        """Of a dataset as it was read; what is held out depends on two settings."""
        training, _ = hold_out(dataset.items, validation_split, seed)
        captions = [item.caption for item in dataset.items]
        return cls(
            len(training), kind_of(captions),
            round(median((item.width * item.height) ** 0.5 for item in dataset.items)),
            max(map(count_tokens, captions)),
        )  # fmt: skip


def kind_of(captions: Iterable[str]) -> Captions:
    """Tags, where most captions are lists of short parts between commas; none, where most are empty."""
    written = [caption for caption in captions if caption.strip()]
    tagged = sum(_is_tags(caption) for caption in written)
    if not written:
        return "none"
    return "tags" if 2 * tagged > len(written) else "sentences"


def _is_tags(caption: str) -> bool:
    parts = [part.split() for part in caption.split(",") if part.strip()]
    return len(parts) > FEW_COMMAS and sum(map(len, parts)) / len(parts) <= LONG_PART


@dataclass(frozen=True)
class MachineFacts:
    """The device that trains.

    mixed_precision: the quickest format it is right in, as the setting calls it. number_bytes: of a number of the frozen
    model. budget: of its memory, as it is now; None: unknown. wrong: settings that the check of this computer found wrong
    on it.
    """

    title: str
    mixed_precision: str = "fp16"
    number_bytes: int = 2
    budget: Budget | None = None
    has_own_memory: bool = True
    wrong: frozenset[str] = frozenset()

    @classmethod
    def of(cls, device: str) -> MachineFacts:
        """Of the device that --device names.

        Raises:
            UserError: there is no such device.
        """
        compute = choose(device, "fp16")
        if compute.device.type == "cpu":
            compute = choose(device, "bf16")
        name = next(name for name, dtype in DTYPES.items() if dtype == compute.dtype)
        found = device_of(compute)
        return cls(
            compute.title, name, compute.dtype.itemsize, Budget.of(found) if found else None, bool(found and found.bytes),
            found_wrong(found) if found else frozenset(),
        )  # fmt: skip
