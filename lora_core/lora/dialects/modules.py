"""Which modules a Stable Diffusion model has, and their names with dots and with underscores."""

from __future__ import annotations

import re

# Names that hold an underscore of their own; all else is cut at underscores.
_WORDS = (
    "down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in",
    "proj_out", "conv_shortcut", "time_emb_proj", "conv_in", "conv_out", "time_embedding", "add_embedding", "linear_1",
    "linear_2", "text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "text_projection",
    "input_blocks", "middle_block", "output_blocks", "in_layers", "out_layers", "emb_layers", "skip_connection",
    "time_embed", "label_emb",
)  # fmt: skip
_TOKEN = re.compile(rf"(?:^|_)({'|'.join(_WORDS)}|[A-Za-z0-9]+)(?=_|$)")

_PLACE = r"(?:(?:down|up)_blocks\.\d+|mid_block)"
_ATTENTION = r"(?:proj_in|proj_out|transformer_blocks\.\d+\.(?:attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.net\.(?:0\.proj|2)))"
_UNET = re.compile(
    rf"{_PLACE}\.attentions\.\d+\.{_ATTENTION}"
    rf"|{_PLACE}\.resnets\.\d+\.(?:conv1|conv2|conv_shortcut|time_emb_proj)"
    r"|down_blocks\.\d+\.downsamplers\.0\.conv|up_blocks\.\d+\.upsamplers\.0\.conv"
)
_TEXT = re.compile(r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])")
# Real layers that some webuis load, and others drop without a word or stumble over (field.md, part 7).
_ODD_UNET = re.compile(r"conv_in|conv_out|(?:time|add)_embedding\.linear_[12]")
_ODD_TEXT = re.compile(r"text_projection")

CONV_1X1 = ("conv_shortcut",)
CONV_3X3 = ("conv1", "conv2", "conv")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def dotted(name: str) -> str:
    """A path from its name with underscores: "down_blocks_0_attn1_to_q" -> "down_blocks.0.attn1.to_q"."""
    return ".".join(_TOKEN.findall(name))


def leaf(module: str) -> str:
    """The kind of layer: "to_q", "conv1", "net.2"; a trailing number belongs to the name before it."""
    parts = module.split(".")
    return parts[-1] if not parts[-1].isdigit() else ".".join(parts[-2:])


def loads_everywhere(module: str) -> bool:
    """Whether every webui has this module ("unet.mid_block....") under the name we give it."""
    component, _, path = module.partition(".")
    pattern = _UNET if component == "unet" else _TEXT
    return (component == "unet" or component in TEXT_ENCODERS) and pattern.fullmatch(path) is not None


def exists(module: str) -> bool:
    """Whether it is a module of a Stable Diffusion model at all."""
    component, _, path = module.partition(".")
    odd = _ODD_UNET if component == "unet" else _ODD_TEXT
    return loads_everywhere(module) or (component in ("unet", *TEXT_ENCODERS) and odd.fullmatch(path) is not None)


def with_text_model(path: str) -> str:
    """A text encoder's path with the "text_model." that transformers 5 leaves out and every webui expects."""
    return path if path.startswith(("text_model.", "text_projection")) else f"text_model.{path}"
