"""What the shapes of a LoRA tell: the family of its base model, and the layout each layer must have in the file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from lora_core.lora.adapter import Adapter, LayerChange, Lora, LoraError
from lora_core.lora.dialects.modules import CONV_1X1, CONV_3X3, leaf
from lora_core.models.families.specs import FAMILIES, FamilySpec, by_width

_HIDDEN = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1")  # layers that take in a text encoder's states
_SECOND_WIDTH = 1280  # of SDXL's second text encoder, and of no family's first


class UnknownFamilyError(LoraError):
    """A LoRA that may be for several families; a person has to say for which."""


def family_of(lora: Mapping[str, LayerChange], metadata: Mapping[str, str] | None = None) -> str:
    """The name of the family, by the widths, then by the blocks, then by what the metadata claim.

    Raises:
        UnknownFamilyError: nothing in it tells which.
        LoraError: it belongs to none.
    """
    widths = {a.inputs for m, a in lora.items() if re.search(r"\.attn2\.to_[kv]$", m)}
    found = [by_width(width) for width in widths]
    if len(found) > 1 or None in found:
        raise LoraError("lora.no_family", widths=str(widths))
    possible = [spec for spec in found if spec] or _by_layers(lora)
    claimed = [spec for spec in possible if spec.is_claimed_by(metadata or {})]
    for left in (possible, claimed, _with_lone_text_encoder(possible, lora)):
        if len(left) == 1:
            return left[0].name
    raise UnknownFamilyError("lora.family_unknown")


def _by_layers(lora: Mapping[str, LayerChange]) -> list[FamilySpec]:
    """The families that a LoRA without cross attention may be for. SDXL's first text encoder is SD1's.

    Each sign narrows what the one before it left, but never to nothing: 1x1 convolutions come in both ways.
    """
    encoders = {module.partition(".")[0] for module in lora} - {"unet"}
    widths = {a.inputs for m, a in lora.items() if m.startswith("text_encoder.") and m.endswith(_HIDDEN)}
    ends = re.compile(r"\.proj_(?:in|out)$")
    projections = {a.down.dim() for m, a in lora.items() if isinstance(a, Adapter) and ends.search(m)}

    def has_any(modules: str) -> bool:
        return any(re.match(modules, module) for module in lora)

    possible = list(FAMILIES.values())
    for fits in (
        lambda spec: encoders <= set(spec.text_encoders),
        lambda spec: not any(has_any(other.own_modules) for other in FAMILIES.values() if other is not spec),
        lambda spec: widths <= set(spec.text_widths),
        lambda spec: not has_any(spec.foreign_modules),
        lambda spec: not projections or (4 in projections) == spec.conv_projections,
    ):
        possible = [spec for spec in possible if fits(spec)] or possible
    return possible


def _with_lone_text_encoder(possible: Sequence[FamilySpec], lora: Mapping[str, LayerChange]) -> list[FamilySpec]:
    """Trainers of a model with two text encoders adapt both or none, so the first one alone is of a model with one."""
    is_alone = all(module.startswith("text_encoder.") for module in lora)
    return [spec for spec in possible if is_alone and len(spec.text_encoders) == 1]


def with_second_text_encoder(lora: Lora) -> Lora:
    """SDXL's second text encoder under its name: PEFT's folder of one does not say which of the two it is for."""
    if any(module.startswith("text_encoder_2.") for module in lora):
        return lora
    return {
        module.replace("text_encoder.", "text_encoder_2.", 1)
        if module.startswith("text_encoder.") and _SECOND_WIDTH in (adapter.inputs, adapter.outputs)
        else module: adapter
        for module, adapter in lora.items()
    }


def is_toy(lora: Lora) -> bool:
    """Whether it was made for the bundled starter or another toy: real layers are all multiples of 64 wide."""
    return any(a.outputs % 64 for a in lora.values())


def fit(lora: Mapping[str, LayerChange], family: str) -> Lora:
    """The same LoRA with every layer 2-D or 4-D as that family's model has it; 1x1 convolutions come in both ways.

    LoHa and LoKr stay as they are: whoever reads them lays the change out as the weight is.

    Raises:
        LoraError: a layer that can be neither, or whose matrices do not fit each other.
    """
    return {module: _fit(module, adapter, family) for module, adapter in lora.items()}


def is_convolution(module: str, family: str) -> bool:
    kind = leaf(module)
    return kind in (*CONV_1X1, *CONV_3X3, "conv_in", "conv_out") or (
        kind in ("proj_in", "proj_out") and FAMILIES[family].conv_projections
    )


def _fit(module: str, adapter: LayerChange, family: str) -> LayerChange:
    if not isinstance(adapter, Adapter):
        return adapter
    wanted = 4 if is_convolution(module, family) else 2
    down, up, scale = adapter.down, adapter.up, adapter.dora_scale
    if down.shape[0] != up.shape[1] or not down.shape[0]:
        raise LoraError("lora.no_pair", module=module, down=str(list(down.shape)), up=str(list(up.shape)))
    if any(side != 1 for side in (*down.shape[2:], *up.shape[2:])) and wanted == 2:
        raise LoraError("lora.is_linear", module=module, family=family)
    if leaf(module) in CONV_3X3 and down.dim() != 4:
        raise LoraError("lora.is_convolution", module=module)
    if scale is not None:
        if scale.numel() not in (up.shape[0], down.shape[1]):
            raise LoraError("lora.dora_scale", module=module)
        scale = _as(scale, wanted)
    return replace(adapter, down=_as(down, wanted), up=_as(up, wanted), dora_scale=scale)


def _as(tensor: Tensor, dimensions: int) -> Tensor:
    if tensor.dim() == dimensions:
        return tensor
    return tensor[..., None, None] if dimensions == 4 else tensor.flatten(1)


def check_fits(lora: Mapping[str, LayerChange], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare with the base model's weights, given by module name ("unet.<path>").

    Raises:
        LoraError: a module the model has not, or a layer of another size.
    """
    for module, adapter in lora.items():
        if module not in shapes:
            raise LoraError("lora.no_module", module=module)
        shape = shapes[module]
        mine: tuple[int, ...]
        if isinstance(adapter, Adapter):
            mine = (adapter.outputs, *adapter.down.shape[1:])
            fits = mine == tuple(shape)
        else:  # a convolution may be flattened
            mine = adapter.shape
            fits = mine[0] == shape[0] and math.prod(mine) == math.prod(shape)
        if not fits:
            raise LoraError("lora.other_size", module=module, shape=str(list(shape)), mine=str(list(mine)))
