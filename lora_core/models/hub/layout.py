"""Which files of a hub model Treino needs: pure, from the list of names and model_index.json alone.

A Stable Diffusion model on the hub is a folder per component with the same weights many times over: full and half
precision, safetensors and pickle, flax, ONNX, OpenVINO, and single-file checkpoints in the root. Needed are the small
settings of each component and its weights once, as safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_core.errors import UserError
from lora_core.messages import joined

INDEX = "model_index.json"
PARTS = ("scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "vae", "unet")
REQUIRED_PARTS = ("scheduler", "tokenizer", "text_encoder", "vae", "unet")
WEIGHTS = {  # the stem of the weight files, as diffusers and transformers name them
    "text_encoder": "model",
    "text_encoder_2": "model",
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
}
SETTINGS = (
    "config.json", "scheduler_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.json",
)  # fmt: skip
HALF = "fp16"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
CONVERTER = "https://huggingface.co/spaces/safetensors/convert"

Variant = str | None  # the part of a weight file's name before ".safetensors": "fp16", or None for full precision


@dataclass(frozen=True)
class Choice:
    """Files of a model, paths relative to its root with "/", the small ones first.

    `variant` loads every component. When a model has one component in half precision only and another in full only,
    it is "fp16", and `aliases` gives (file, name) for each full file that has to be found under an fp16 name too.
    """

    files: tuple[str, ...]
    variant: Variant
    aliases: tuple[tuple[str, str], ...] = ()


def choose(repo: str, paths: Collection[str], index: Mapping[str, Any], order: Sequence[Variant]) -> Choice:
    """The files of `repo` to load, with the first variant of `order` that every component has.

    Raises:
        UserError: not a Stable Diffusion model, incomplete, or with weights that are not safetensors.
    """
    parts = _parts(repo, index)
    settings = [path for part in parts for path in _settings(repo, part, paths)]
    weights = {part: _variants(repo, part, paths, order) for part in parts if part in WEIGHTS}
    for variant in order:
        if all(variant in there for there in weights.values()):
            return Choice((INDEX, *settings, *(path for there in weights.values() for path in there[variant])), variant)
    files: list[str] = []
    aliases: list[tuple[str, str]] = []
    for part, there in weights.items():
        variant = next(variant for variant in order if variant in there)
        files += there[variant]
        if variant is None:
            # Shards are found through their index, so the first file (the index, or the only one) is enough.
            aliases.append((there[variant][0], f"{part}/{_entry(part, HALF, '-of-' in there[variant][-1])}"))
    return Choice((INDEX, *settings, *files), HALF, tuple(aliases))


def single_files(paths: Collection[str]) -> list[str]:
    """Checkpoints of a whole model in the root of a repository."""
    return sorted(path for path in paths if "/" not in path and path.endswith((".safetensors", ".ckpt")))


def _parts(repo: str, index: Mapping[str, Any]) -> list[str]:
    """The needed components that model_index.json names, in the order of PARTS."""

    def named(part: str) -> bool:
        entry = index.get(part)  # ["diffusers", "UNet2DConditionModel"]; [null, null] where the model has none
        return isinstance(entry, list) and len(entry) == 2 and None not in entry

    missing = [part for part in REQUIRED_PARTS if not named(part)]
    if missing:
        kind = str(index.get("_class_name", "no class"))
        raise UserError("models.hub_not_sd", repo=repo, kind=kind, parts=joined(missing, "models.and"))
    return [part for part in PARTS if named(part)]


def _settings(repo: str, part: str, paths: Collection[str]) -> list[str]:
    there = [name for name in SETTINGS if f"{part}/{name}" in paths]
    if part.startswith("tokenizer"):
        whole = "tokenizer.json" in there or {"vocab.json", "merges.txt"} <= set(there)
        wanted = "vocab.json and merges.txt"
    else:
        wanted = "scheduler_config.json" if part == "scheduler" else "config.json"
        whole = wanted in there
    if not whole:
        raise UserError("models.hub_incomplete", repo=repo, part=part, wanted=wanted)
    return [f"{part}/{name}" for name in there]


def _variants(repo: str, part: str, paths: Collection[str], order: Sequence[Variant]) -> dict[Variant, list[str]]:
    """The weight files of a component by variant, complete ones only, never empty."""
    there = {variant: files for variant in order if (files := _weights(part, variant, paths))}
    if there:
        return there
    pickles = sorted(path for path in paths if path.startswith(f"{part}/") and path.endswith(PICKLES))
    if pickles:
        raise UserError("models.hub_pickle", repo=repo, part=part, file=pickles[0], page=CONVERTER)
    raise UserError("models.hub_incomplete", repo=repo, part=part, wanted=_entry(part, None, False))


def _weights(part: str, variant: Variant, paths: Collection[str]) -> list[str]:
    """One file; or the index of the shards and then the shards; or nothing when any of them is missing."""
    single = f"{part}/{_entry(part, variant, False)}"
    if single in paths:
        return [single]
    index = f"{part}/{_entry(part, variant, True)}"
    shards = sorted(path for path in paths if _shard(part, variant).fullmatch(path))
    if index not in paths or not shards:
        return []
    count = int(re.findall(r"-of-(\d{5})", shards[0])[0])
    return [index, *shards] if len(shards) == count else []


def _entry(part: str, variant: Variant, sharded: bool) -> str:
    """The file name that from_pretrained(variant=...) opens first."""
    dotted = f".{variant}" if variant else ""
    stem = WEIGHTS[part]
    return f"{stem}.safetensors.index{dotted}.json" if sharded else f"{stem}{dotted}.safetensors"


def _shard(part: str, variant: Variant) -> re.Pattern[str]:
    number = r"-\d{5}-of-\d{5}"
    stem = re.escape(f"{part}/{WEIGHTS[part]}")
    # transformers writes model.fp16-00001-of-00002.safetensors, diffusers once wrote the variant at the end.
    tail = f"(\\.{variant}{number}|{number}\\.{variant})" if variant else number
    return re.compile(f"{stem}{tail}\\.safetensors")
