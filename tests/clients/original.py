"""The UNet in Stability's original code (ldm and sgm `openaimodel.py`): its modules, walked as it builds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESNETS = 2  # per level, in SD1, SD2 and SDXL alike


@dataclass(frozen=True)
class Module:
    """`owner` is the class of the block around it in sd-scripts' and diffusers' words."""

    path: str
    shape: tuple[int, ...]
    owner: str


def unet_modules(config: Mapping[str, Any]) -> list[Module]:
    """Every module that takes an adapter, in the order it is run."""
    return list(_walk(config))


def _walk(config: Mapping[str, Any]) -> Iterator[Module]:
    channels: Sequence[int] = config["block_out_channels"]
    depths = _depths(config)
    width, number, skipped = channels[0], 1, [channels[0]]
    for level, out in enumerate(channels):
        for _ in range(RESNETS):
            yield from _resnet(f"input_blocks.{number}.0", width, out, channels[0])
            yield from _transformer(f"input_blocks.{number}.1", out, depths[level], config)
            width, number = out, number + 1
            skipped.append(width)
        if level != len(channels) - 1:
            yield Module(f"input_blocks.{number}.0.op", (width, width, 3, 3), "Downsample2D")
            skipped.append(width)
            number += 1
    yield from _resnet("middle_block.0", width, width, channels[0])
    yield from _transformer("middle_block.1", width, depths[-1] or 1, config)
    yield from _resnet("middle_block.2", width, width, channels[0])
    number = 0
    for level in reversed(range(len(channels))):
        for layer in range(RESNETS + 1):
            slots = 1
            yield from _resnet(f"output_blocks.{number}.0", width + skipped.pop(), channels[level], channels[0])
            width = channels[level]
            if depths[level]:
                yield from _transformer(f"output_blocks.{number}.1", width, depths[level], config)
                slots = 2
            if level and layer == RESNETS:
                yield Module(f"output_blocks.{number}.{slots}.conv", (width, width, 3, 3), "Upsample2D")
            number += 1


def _depths(config: Mapping[str, Any]) -> list[int]:
    """Transformer blocks per level; 0 where a level has no attention."""
    kinds = config["down_block_types"]
    layers = config.get("transformer_layers_per_block", 1)
    layers = layers if isinstance(layers, tuple) else (layers,) * len(kinds)
    return [count if kind.startswith("CrossAttn") else 0 for kind, count in zip(kinds, layers, strict=True)]


def _resnet(place: str, wide: int, out: int, base: int) -> Iterator[Module]:
    owner = "ResnetBlock2D"
    yield Module(f"{place}.in_layers.2", (out, wide, 3, 3), owner)
    yield Module(f"{place}.emb_layers.1", (out, 4 * base), owner)
    yield Module(f"{place}.out_layers.3", (out, out, 3, 3), owner)
    if wide != out:
        yield Module(f"{place}.skip_connection", (out, wide, 1, 1), owner)


def _transformer(place: str, width: int, depth: int, config: Mapping[str, Any]) -> Iterator[Module]:
    if not depth:
        return
    owner, states = "Transformer2DModel", config["cross_attention_dim"]
    projection = (width, width) if config.get("use_linear_projection") else (width, width, 1, 1)
    yield Module(f"{place}.proj_in", projection, owner)
    for number in range(depth):
        block = f"{place}.transformer_blocks.{number}"
        for attention, source in (("attn1", width), ("attn2", states)):
            yield Module(f"{block}.{attention}.to_q", (width, width), owner)
            yield Module(f"{block}.{attention}.to_k", (width, source), owner)
            yield Module(f"{block}.{attention}.to_v", (width, source), owner)
            yield Module(f"{block}.{attention}.to_out.0", (width, width), owner)
        yield Module(f"{block}.ff.net.0.proj", (8 * width, width), owner)
        yield Module(f"{block}.ff.net.2", (width, 4 * width), owner)
    yield Module(f"{place}.proj_out", projection, owner)
