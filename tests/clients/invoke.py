"""InvokeAI (`configs/lora.py`, `lora_conversions/`): what it takes a file for, and where its keys lead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

_PREFIXES = ("lora_te_", "lora_unet_", "lora_te1_", "lora_te2_")
_BASES = {768: "sd1", 1024: "sd2", 1280: "sdxl", 2048: "sdxl"}
_RESNET = {
    "in_layers_2": "conv1", "emb_layers_1": "time_emb_proj", "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}  # fmt: skip


def base(tensors: Mapping[str, Tensor]) -> str | None:
    """The family that `lora_token_vector_length` finds; None when the file is none of its LoRAs, or nothing tells.

    It goes by the keys in their order in the file, to the first that gives a number. Of SDXL's two text encoders it
    wants both, but the last key of each overwrites what those before it gave.
    """
    if not any(key.startswith(_PREFIXES) for key in tensors):
        return None
    parts: dict[str, int | None] = {"lora_te1_": None, "lora_te2_": None}
    for key, tensor in tensors.items():
        module, _, part = key.partition(".")
        width = tensor.shape[1] if part == "lora_down.weight" else None
        found = None
        if module.startswith("lora_unet_"):
            tells = module.endswith(("_attn2_to_k", "_attn2_to_v", "time_emb_proj"))
            found = width if tells else None
        elif "_self_attn_" in module:
            if module.startswith("lora_te_"):
                found = width
            else:
                parts[module[:9]] = width
        if None not in parts.values():
            found = sum(number or 0 for number in parts.values())
        if found is not None:
            return _BASES.get(found)
    return None


def modules(family: str, paths: Iterable[str]) -> dict[str, str]:
    """Name in a file -> diffusers' path of the UNet; SDXL's original names are turned into those first."""
    names = {"lora_unet_" + path.replace(".", "_"): path for path in paths}
    if family == "sdxl":
        names |= {_original(name): path for name, path in names.items()}
    return names


def _original(name: str) -> str:
    """The original name of a diffusers one, counted as `convert_sdxl_unet_keys` counts."""
    _, _, rest = name.partition("lora_unet_")
    words = rest.split("_")
    if words[0] == "mid":
        kind, index, tail = words[2], int(words[3]), "_".join(words[4:])
        slot = 1 if kind == "attentions" else 2 * index
        return f"lora_unet_middle_block_{slot}_{_tail(tail)}"
    side, block, kind, index, tail = words[0], int(words[2]), words[3], int(words[4]), "_".join(words[5:])
    if kind == "downsamplers":
        return f"lora_unet_input_blocks_{3 * (block + 1)}_0_op"
    if kind == "upsamplers":
        return f"lora_unet_output_blocks_{3 * block + 2}_2_conv"
    number = 3 * block + index + (1 if side == "down" else 0)
    head = "input_blocks" if side == "down" else "output_blocks"
    return f"lora_unet_{head}_{number}_{1 if kind == 'attentions' else 0}_{_tail(tail)}"


def _tail(tail: str) -> str:
    return {ours: original for original, ours in _RESNET.items()}.get(tail, tail)
