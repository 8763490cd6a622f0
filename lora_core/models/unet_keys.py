"""UNet block names of Stability's original code and of diffusers, turned into each other by rule.

Original (ldm/sgm `openaimodel.py`): input_blocks.N is one resnet with its attention, or a downsampler; with two
resnets per level that is three entries per level after entry 0 (conv_in). output_blocks.N counts three resnets per
level, the upsampler comes last in the third. SD1, SD2 and SDXL all have two resnets per level.
"""

from __future__ import annotations

import re

_LEAVES = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection", "norm1": "in_layers.0", "norm2": "out_layers.0",
}  # fmt: skip
_TOPS = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
}  # fmt: skip
_KINDS = {"resnets": 0, "attentions": 1}
_PATH = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_ORIGINAL = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)|middle_block\.(\d+)\.(.+)")


def to_original(path: str) -> str:
    """diffusers' path -> the original one. "down_blocks.1.attentions.0.proj_in" -> "input_blocks.4.1.proj_in"."""
    if path in _TOPS:
        return _TOPS[path]
    match = _PATH.fullmatch(path)
    assert match, f"not a module of a UNet: {path}"
    side, block, kind, index, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if kind == "resnets":
        rest = _LEAVES[rest]
    if side is None:
        return f"middle_block.{2 * index if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0.op"
    if kind == "upsamplers":
        # Behind the resnet and, where the level has one, the attention: only SD1's and SD2's first level has none.
        return f"output_blocks.{3 * block + 2}.2.conv"
    if side == "down":
        return f"input_blocks.{3 * block + index + 1}.{_KINDS[kind]}.{rest}"
    return f"output_blocks.{3 * block + index}.{_KINDS[kind]}.{rest}"


def from_original(path: str) -> str | None:
    """The original path -> diffusers'; None when it is no original path."""
    tops = {original: ours for ours, original in _TOPS.items()}
    if path in tops:
        return tops[path]
    match = _ORIGINAL.fullmatch(path)
    if not match:
        return None
    if match[5] is not None:
        place, number, rest = "mid_block", int(match[5]), match[6]
        return f"{place}.attentions.0.{rest}" if number == 1 else f"{place}.resnets.{number // 2}.{_resnet(rest)}"
    side, number, slot, rest = match[1], int(match[2]), int(match[3]), match[4]
    if side == "input":
        number -= 1
    block, layer = divmod(number, 3)
    place = f"{'down' if side == 'input' else 'up'}_blocks.{block}"
    if side == "input" and rest == "op":
        return f"{place}.downsamplers.0.conv"
    if side == "output" and rest == "conv":
        return f"{place}.upsamplers.0.conv"
    return f"{place}.attentions.{layer}.{rest}" if slot else f"{place}.resnets.{layer}.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    return {original: ours for ours, original in _LEAVES.items()}.get(rest, rest)
