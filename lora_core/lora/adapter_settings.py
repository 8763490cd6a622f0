"""The settings of a training whose adapters are those of a LoRA file: to go on from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lora_core.config import BLOCKS, TARGETS
from lora_core.lora.adapter import Adapter, LoraError, PlainLora
from lora_core.lora.convert import file_in
from lora_core.lora.dialects.modules import CONV_3X3, leaf, loads_everywhere
from lora_core.lora.file import read
from lora_core.lora.lycoris import TITLES
from lora_core.messages import Message
from lora_core.settings import Value


def read_to_go_on(path: Path) -> tuple[PlainLora, dict[str, str]]:
    """The LoRA of a file, or of a folder with one, that a training can begin with, and its metadata.

    Raises:
        UserError: not a LoRA, another kind of adapter, a DoRA over outputs, or a layer that no adapter is trained on.
    """
    file = file_in(path.expanduser())
    try:
        found, metadata = read(file)
    except LoraError as cause:
        what = dict(cause.message.params).get("what")
        if isinstance(what, Message) and what.key == "lora.other_kind":
            raise LoraError("lora.init_other_kind", file=file.name, kind=dict(what.params)["kind"]) from None
        raise
    lora: PlainLora = {module: value for module, value in found.items() if isinstance(value, Adapter)}
    if others := sorted({TITLES[found[module].kind] for module in found.keys() - lora.keys()}):
        raise LoraError("lora.init_other_kind", file=file.name, kind=others[0])
    if odd := [module for module in lora if not loads_everywhere(module)]:
        raise LoraError("lora.init_odd_layer", file=file.name, layer=odd[0].partition(".")[2])
    if any(value.is_over_outputs for value in lora.values()):
        raise LoraError("lora.init_over_outputs", file=file.name)
    if not any(value.alpha and value.up.any() for value in lora.values()):
        raise LoraError("lora.init_no_effect", file=file.name)
    return lora, metadata


def adapter_settings(lora: PlainLora) -> dict[str, Value]:
    """Kind, ranks, alphas and layers by the names of the settings. Of ranks that differ the largest: it holds all."""
    unet = [module for module in lora if module.startswith("unet.")]
    convolutions = [value for module, value in lora.items() if leaf(module) in CONV_3X3]
    others = [value for module, value in lora.items() if leaf(module) not in CONV_3X3]
    rank, alpha = _strength(others or convolutions)
    conv = _strength(convolutions) if convolutions and others else (rank, alpha)
    conv_rank, conv_alpha = (0, 0.0) if conv == (rank, alpha) else conv
    found: dict[str, Value] = {
        "adapter": "dora" if any(value.dora_scale is not None for value in lora.values()) else "lora",
        "lora_rank": rank, "lora_alpha": alpha, "conv_rank": conv_rank, "conv_alpha": conv_alpha,
        "target_modules": tuple(t for t in TARGETS if any(module.endswith(f".{t}") for module in unet)),
        "train_text_encoder": len(unet) < len(lora),
    }  # fmt: skip
    blocks = tuple(block for block in BLOCKS if any(module.startswith(f"unet.{block}_block") for module in unet))
    return found | ({"target_blocks": blocks} if blocks else {})


def settings_to_go_on(path: Path) -> dict[str, Value]:
    """`adapter_settings` of the LoRA in a file. Raises UserError like `read_to_go_on`."""
    return adapter_settings(read_to_go_on(path)[0])


def _strength(values: Iterable[Adapter]) -> tuple[int, float]:
    """The largest rank, and the alpha that most of that rank have."""
    found = Counter((value.rank, value.alpha) for value in values)
    (rank, alpha), _ = max(found.items(), key=lambda entry: (entry[0][0], entry[1]))
    return rank, alpha if alpha > 0 else float(rank)
