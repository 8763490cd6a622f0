"""A LoRA as a value: one adapter per module, whatever the file it came from called them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lora_core.errors import UserError
from lora_core.lora.lycoris import Lycoris


class LoraError(UserError):
    """A LoRA that cannot be read, written or used, told in a sentence."""


class NoEffectError(LoraError):
    """A LoRA that would leave every picture as it is."""


@dataclass(frozen=True)
class Adapter:
    """The change of one layer: weight + (alpha / rank) * up @ down (Hu et al. 2021).

    down: [rank, in] or [rank, in, kh, kw]. up: [out, rank] or [out, rank, 1, 1].
    dora_scale: magnitudes (DoRA, Liu et al. 2024) over the input axis, [1, in] or [1, in, 1, 1], as LyCORIS defines
        them and every webui reads them; or over the output axis, [out, 1] or [out, 1, 1, 1], as PEFT does,
        which none computes.
    """

    down: Tensor
    up: Tensor
    alpha: float
    dora_scale: Tensor | None = None

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def kind(self) -> str:
        """ "lora" or "dora"."""
        return "lora" if self.dora_scale is None else "dora"

    @property
    def outputs(self) -> int:
        return int(self.up.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.down.shape[1])

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        return self.down, self.up

    @property
    def is_over_outputs(self) -> bool:
        """Whether it is a DoRA with magnitudes over the output axis."""
        return self.dora_scale is not None and self.dora_scale.shape[0] > 1


LayerChange = Adapter | Lycoris
PlainLora = dict[str, Adapter]
Lora = dict[str, LayerChange]
"""Adapters by module: "unet.<path>", "text_encoder.<path>", "text_encoder_2.<path>" with the path in diffusers'
names; in text encoders it begins with "text_model."."""


def is_lycoris(lora: Mapping[str, LayerChange]) -> bool:
    """Whether it is a LoHa or LoKr, in part at least."""
    return any(isinstance(value, Lycoris) for value in lora.values())
