"""Checkpoints: a folder per save, whole or absent, from which training goes on exactly.

    checkpoints/step_0000500/lora.safetensors   the LoRA, as a webui loads it
    checkpoints/step_0000500/state.pt           fp32 adapters, average, optimizer, scaler, step (newest `keep_states` only)

Noise, timesteps and data order are functions of (seed, step), so there is no random state to keep.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from lora_core.config import TrainConfig, migrated, settings
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.runs.run import LORA_FILE, STATE_FILE, UNFINISHED, resumable
from lora_core.system.files import fsync_folder, replace_with_retry, write_bytes_whole

_IN_FILE = {"lr_scale": "calm", "ema": "averages"}  # what state.pt calls them, so that every version reads every file
# Settings a checkpoint cannot be continued without: its tensors or its numbers would mean something else.
_FIXED = (
    "pretrained_model_name_or_path", "lora_rank", "lora_alpha", "target_modules", "target_blocks", "train_text_encoder",
    "optimizer", "seed", "train_batch_size", "gradient_accumulation_steps", "vae",
    "prediction_type", "zero_terminal_snr", "clip_skip", "max_token_length",
    "conv_rank", "conv_alpha", "block_ranks", "adapter", "init_lora",
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """All that a training needs to go on. `identity` must be that of the settings it goes on with."""

    step: int
    identity: dict[str, str]
    adapters: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    best_step: int
    best_loss: float
    lr_scale: float = 1.0  # what the learning rates are multiplied by since numbers went wrong
    ema: dict[str, torch.Tensor] = field(default_factory=dict)  # of the adapters; empty where none is kept


def identity(config: TrainConfig, dataset_digest: str) -> dict[str, str]:
    """What a checkpoint belongs to."""
    return {**{name: repr(getattr(config, name)) for name in _FIXED}, "dataset": dataset_digest}


def compare(saved: dict[str, str], now: dict[str, str]) -> Message | None:
    """What to say when the dataset changed since the checkpoint; None when it is the same.

    Raises:
        UserError: a setting changed that the checkpoint depends on; all of them are named.
    """
    younger = {name: repr(settings()[name].default) for name in _FIXED}
    renamed = {name: repr(value) for name, value in migrated(saved).items() if saved.get(name) != value}
    then = younger | saved | renamed
    changed = [
        Message("training.setting_changed", name=name, old=then[name], new=now[name])
        for name in _FIXED
        if then[name] != now[name]
    ]
    if changed:
        all_of_them = reduce(lambda one, other: Message("training.and_another", one=one, other=other), changed)
        raise UserError("training.other_settings", settings=all_of_them)
    if saved.get("dataset") != now["dataset"]:
        return Message("training.dataset_changed")
    return None


def folder_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step_{step:07d}"


def save(checkpoints: Path, state: State, write_lora: Callable[[Path], None], keep_states: int) -> Path:
    """Write a checkpoint under another name, then move it into place; trim the states of old ones.

    Raises:
        WriteError: it could not be written; nothing is left of it and the older ones stand.
    """
    final = folder_of(checkpoints, state.step)
    if final.exists():  # saved at this step before, by "save now" or before a resume
        return final
    draft = final.with_name(final.name + UNFINISHED)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        buffer = io.BytesIO()
        torch.save({_IN_FILE.get(name, name): value for name, value in vars(state).items()}, buffer)
        write_bytes_whole(draft / STATE_FILE, buffer.getvalue())
        write_lora(draft / LORA_FILE)
        replace_with_retry(draft, final)
        fsync_folder(checkpoints)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for older in resumable(checkpoints)[:-keep_states]:
        (older / STATE_FILE).unlink(missing_ok=True)
    return final


def clean(checkpoints: Path) -> None:
    """Remove what a killed save left behind."""
    for draft in checkpoints.glob(f"*{UNFINISHED}"):
        shutil.rmtree(draft, ignore_errors=True)


def load(folder: Path) -> State:
    """Read a checkpoint.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        held = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        return State(**{name: held.pop(_IN_FILE[name]) for name in _IN_FILE if _IN_FILE[name] in held}, **held)
    except FileNotFoundError:
        raise UserError("training.not_a_checkpoint", folder=folder, file=STATE_FILE) from None
    except Exception as cause:  # torch.load raises whatever the damaged bytes lead it to
        raise UserError("training.checkpoint_damaged", folder=folder) from cause


def latest(checkpoints: Path) -> State:
    """The newest checkpoint that reads back whole.

    Raises:
        UserError: there is none.
    """
    for folder in reversed(resumable(checkpoints)):
        try:
            return load(folder)
        except UserError:
            continue
    raise UserError("training.no_checkpoint", folder=checkpoints)
