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
from pathlib import Path
from typing import Any

import torch

from lora_core.errors import UserError
from lora_core.runs.run import LORA_FILE
from lora_core.system.files import fsync_folder, replace_with_retry, write_bytes_whole

STATE = "state.pt"
_UNFINISHED = ".treino.tmp"


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
    calm: float = 1.0  # what the learning rates are multiplied by since numbers went wrong
    averages: dict[str, torch.Tensor] = field(default_factory=dict)  # of the adapters; empty where none is kept


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
    draft = final.with_name(final.name + _UNFINISHED)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        buffer = io.BytesIO()
        torch.save(vars(state), buffer)
        write_bytes_whole(draft / STATE, buffer.getvalue())
        write_lora(draft / LORA_FILE)
        replace_with_retry(draft, final)
        fsync_folder(checkpoints)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for older in whole(checkpoints)[:-keep_states]:
        (older / STATE).unlink(missing_ok=True)
    return final


def whole(checkpoints: Path) -> list[Path]:
    """Checkpoints with a state to resume from, oldest first."""
    return sorted(path.parent for path in checkpoints.glob(f"step_*/{STATE}") if not path.parent.name.endswith(_UNFINISHED))


def clean(checkpoints: Path) -> None:
    """Remove what a killed save left behind."""
    for draft in checkpoints.glob(f"*{_UNFINISHED}"):
        shutil.rmtree(draft, ignore_errors=True)


def load(folder: Path) -> State:
    """Read a checkpoint.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        return State(**torch.load(folder / STATE, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise UserError(f"{folder} is no checkpoint to resume from: it has no {STATE}.") from None
    except Exception as cause:  # torch.load raises whatever the damaged bytes lead it to
        raise UserError(f"The checkpoint {folder} is damaged; resume from an older one beside it.") from cause


def latest(checkpoints: Path) -> State:
    """The newest checkpoint that reads back whole.

    Raises:
        UserError: there is none.
    """
    for folder in reversed(whole(checkpoints)):
        try:
            return load(folder)
        except UserError:
            continue
    raise UserError(f"There is no checkpoint to resume from in {checkpoints}; start without --resume.")
