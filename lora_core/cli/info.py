"""`treino.py info`: what a model is, by whatever a person calls it, and what can be done with it here."""

from __future__ import annotations

import os
from pathlib import Path

from lora_core.errors import UserError
from lora_core.models import identify
from lora_core.models.catalog import STARTER, STARTER_FOLDER
from lora_core.models.families.specs import FAMILIES
from lora_core.models.hub.layout import INDEX
from lora_core.models.identify import Identity
from lora_core.settings import suggest

_ENDINGS = (".safetensors", ".ckpt")
_MOST = 30  # models of a folder that are told one by one


def describe(name: str) -> list[str]:
    """What there is to know of a file, a folder, an id of the hub, or the starter.

    Raises:
        UserError: there is no such thing, or it is no model, or it cannot be read; with what to do.
    """
    path = Path(name).expanduser()
    if name == STARTER and not path.exists():
        return _model(name, identify.of_path(STARTER_FOLDER), name)
    if path.is_dir() and not (path / INDEX).is_file():
        return _folder(path)
    if name and path.exists():
        found = identify.of_path(path)
        return _lora(path, found) if found.kind == "LoRA" else _model(str(path), found, str(path))
    return _of_hub(name, path)


def _model(name: str, found: Identity, value: str) -> list[str]:
    """value: what to give as the base model."""
    told = [f"{name}: {found.title}"]
    if found.family:
        told.append(f"Predicts: {_prediction(found)}")
    if found.parts:
        told.append(f"Holds: {', '.join(found.parts)}")
    told += [f"Note: {note}" for note in found.notes]
    if found.problem:
        return [*told, f"Cannot be trained on. {found.problem}"]
    if found.lacking == ("vae",):
        return [*told, "Can be trained on with a VAE of its kind beside it: --vae PATH."]
    if found.lacking:
        return [*told, f"Cannot be trained on alone: it lacks {', '.join(found.lacking)}. Take the whole checkpoint."]
    return [*told, f"Can be trained on: --pretrained_model_name_or_path {quoted(value)}"]


def _prediction(found: Identity) -> str:
    if not found.prediction_type:
        return "noise or velocity, the file does not say; the weights will tell, or --prediction_type does"
    what = "noise (epsilon)" if found.prediction_type == "epsilon" else "velocity (v_prediction)"
    return f"{what}, with zero terminal SNR" if found.zero_snr else what


def _lora(path: Path, found: Identity) -> list[str]:
    from lora_core.lora.summary import LoraSummary  # brings torch

    told = [f"{path}: {found.title}"]
    try:
        summary = LoraSummary.read(path)
    except UserError as problem:
        return [*told, f"Note: {problem}", f"Cannot be trained on. {found.problem}"]
    if summary.family:
        told.append(f"For: {FAMILIES[summary.family].title}")
    if summary.title:
        told.append(f"Title: {summary.title}")
    if summary.base_model:
        told.append(f"Trained on: {summary.base_model}")
    where = "UNet and text encoder" if summary.has_text_encoder else "UNet"
    rank = ", ".join(map(str, summary.ranks))
    told.append(f"Holds: {summary.modules} layers of the {where}, rank {rank}{', DoRA' if summary.is_dora else ''}")
    if summary.left_out:
        told.append(f"Note: not every webui loads {len(summary.left_out)} of its layers; `treino.py convert` tells which.")
    told.append(f"Put it into a webui: python treino.py export {quoted(path)}")
    return [*told, f"Cannot be trained on. {found.problem}"]


def _folder(folder: Path) -> list[str]:
    """A folder that is no model itself: the models in it, a line each."""
    if (folder.parent / INDEX).is_file():
        raise UserError(f"{folder} is a part of the model in {folder.parent}: give that folder.")
    try:
        inside = sorted(folder.iterdir())
    except OSError as cause:
        raise UserError(
            f"The folder {folder} cannot be read ({cause.strerror or cause}): check its permissions."
        ) from cause
    models = [path for path in inside if path.suffix.lower() in _ENDINGS or (path / INDEX).is_file()]
    if not models:
        raise UserError(
            f"{folder} is no base model: it has no {INDEX}, and there is no model in it. Give a model's file, or the "
            f"folder that holds its {INDEX}."
        )
    told = [f"{folder}: a folder with {len(models)} model{'s' * (len(models) > 1)} in it; give one of them for more."]
    for path in models[:_MOST]:
        try:
            told.append(f"  {path.name}: {identify.of_path(path).title}")
        except UserError as problem:
            told.append(f"  {str(problem).replace(str(path), path.name, 1)}")
    return [*told, *([f"  and {len(models) - _MOST} more"] if len(models) > _MOST else [])]


def _of_hub(name: str, path: Path) -> list[str]:
    from lora_core.models.hub import client as hub

    repo, note = hub.canonical(name)
    if not hub.is_repo_id(repo) or path.is_absolute() or name.startswith(("./", "../", "~")):
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        raise UserError(f"There is no file or folder {path}: check its spelling.{suggest(path.name, beside)}")
    cached = hub.cached_folder(repo)
    if cached and (cached / INDEX).is_file():
        told = _model(f"{repo} (in the cache of the hub)", identify.of_path(cached), repo)
        return [*told, *([f"Note: {note}"] if note else [])]
    raise UserError(
        f"There is no file or folder {name}, and as an id of the hub it was not downloaded yet. Check its spelling, or let "
        f"a training download it: --pretrained_model_name_or_path {repo}"
    )


def quoted(path: Path | str) -> str:
    """A path as it is typed in a shell."""
    return f'"{path}"' if " " in str(path) else str(path)
