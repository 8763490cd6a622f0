"""`treino.py info`: what a model is, by whatever a person calls it, and what can be done with it here."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models import identify
from lora_core.models.catalog import STARTER, STARTER_FOLDER, known
from lora_core.models.families.specs import FAMILIES
from lora_core.models.hub.layout import INDEX
from lora_core.models.identify import Identity
from lora_core.settings import suggest

_ENDINGS = (".safetensors", ".ckpt")
_MOST = 30  # models of a folder that are told one by one


def describe(name: str) -> list[Message]:
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
        return _lora(path, found) if found.is_lora else _model(str(path), found, str(path))
    return _of_hub(name, path)


def _model(name: str | Message, found: Identity, value: str) -> list[Message]:
    """value: what to give as the base model."""
    told = [Message("cli.info_title", name=name, title=found.title)]
    if found.family:
        told.append(Message("cli.info_predicts", what=_prediction(found)))
    if found.parts:
        told.append(Message("cli.info_parts", parts=found.parts))
    told += [Message("cli.info_note", what=note) for note in found.notes]
    if found.problem:
        return [*told, Message("cli.info_no", why=found.problem)]
    if found.lacking == ("vae",):
        return [*told, Message("cli.info_needs_vae")]
    if found.lacking:
        return [*told, Message("cli.info_lacks", parts=found.lacking)]
    told.append(Message("cli.info_yes", model=quoted(value)))
    return [*told, *(_here(found.family) if value != STARTER else [])]


def _here(family: str) -> list[Message]:
    """What a training of the family takes on this computer, as the check of it tells it too."""
    from lora_core.check import machine  # brings torch

    return machine.of_family_here(family) if family else []


def _prediction(found: Identity) -> Message:
    if not found.prediction_type:
        return Message("cli.info_either")
    what = Message("cli.info_noise" if found.prediction_type == "epsilon" else "cli.info_velocity")
    return Message("cli.info_zero_snr", what=what) if found.zero_snr else what


def _lora(path: Path, found: Identity) -> list[Message]:
    from lora_core.lora.summary import LoraSummary  # brings torch

    told = [Message("cli.info_title", name=path, title=found.title)]
    try:
        summary = LoraSummary.read(path)
    except UserError as problem:
        return [*told, Message("cli.info_note", what=problem), Message("cli.info_no", why=found.problem)]
    if summary.family:
        told.append(Message("cli.info_for", family=FAMILIES[summary.family].title))
    if summary.title:
        told.append(Message("cli.info_named", title=summary.title))
    if summary.base_model:
        told.append(Message("cli.info_base", model=summary.base_model))
    where = Message("cli.info_both") if summary.has_text_encoder else "UNet"
    rank = ", ".join(map(str, summary.ranks))
    kinds = "".join(f", {kind}" for kind in summary.kinds)
    told.append(Message("cli.info_layers", count=summary.modules, where=where, rank=rank, kinds=kinds))
    if summary.left_out:
        told.append(Message("cli.info_odd_layers", count=len(summary.left_out)))
    told.append(Message("cli.info_export", path=quoted(path)))
    return [*told, Message("cli.info_no", why=found.problem)]


def _folder(folder: Path) -> list[Message]:
    """A folder that is no model itself: the models in it, a line each."""
    if (folder.parent / INDEX).is_file():
        raise UserError("cli.info_part_of_model", folder=folder, model=folder.parent)
    try:
        inside = sorted(folder.iterdir())
    except OSError as cause:
        raise UserError("cli.info_folder_closed", folder=folder, why=cause.strerror or cause) from cause
    models = [path for path in inside if path.suffix.lower() in _ENDINGS or (path / INDEX).is_file()]
    if not models:
        raise UserError("cli.info_no_model", folder=folder, index=INDEX)
    key = "cli.info_folder" if len(models) > 1 else "cli.info_folder_one"
    told = [Message(key, folder=folder, count=len(models))]
    for path in models[:_MOST]:
        try:
            title = Message("cli.info_title", name=path.name, title=identify.of_path(path).title)
            told.append(Message("cli.info_inside", what=title))
        except UserError as problem:
            short = problem.message.mapped(functools.partial(_named, path))
            told.append(Message("cli.info_inside", what=short))
    return [*told, *([Message("cli.info_more", count=len(models) - _MOST)] if len(models) > _MOST else [])]


def _of_hub(name: str, path: Path) -> list[Message]:
    from lora_core.models.hub import client

    repo, note = client.canonical(name)
    if not client.is_repo_id(repo) or path.is_absolute() or name.startswith(("./", "../", "~")):
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        raise UserError("cli.info_nothing", path=path, suggestion=suggest(path.name, beside))
    cached, base = client.cached_folder(repo), known(repo)
    if cached and (cached / INDEX).is_file():
        found = identify.of_path(cached)
        if base:
            found = replace(found, prediction_type=base.prediction_type, zero_snr=base.zero_snr)
        told = _model(Message("cli.info_cached", repo=repo), found, repo)
        told += [Message("cli.info_note", what=base.label)] if base else []
        return [*told, *([Message("cli.info_note", what=note)] if note else [])]
    if base:
        return [
            Message("cli.info_title", name=repo, title=base.label),
            Message(
                "cli.info_predicts",
                what=_prediction(Identity(identify.BASE, base.family.name, base.prediction_type, base.zero_snr)),
            ),
            Message("cli.info_to_come", repo=repo),
        ]
    raise UserError("cli.info_not_here", name=name, repo=repo)


def _named(path: Path, text: str) -> str:
    """A text that calls a file by its name alone."""
    return text.replace(str(path), path.name)


def quoted(path: Path | str) -> str:
    """A path as it is typed in a shell."""
    return f'"{path}"' if " " in str(path) else str(path)
