"""Base models that are on this computer already: in webuis' folders, and in the cache of the hub.

Told by their headers alone, so a folder of a hundred checkpoints takes seconds, and no time when it is looked at again:
what was found is remembered by path, size and time of change. Does not need torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core import __version__
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models import identify
from lora_core.models.hub.layout import HALF, INDEX, PARTS, choose
from lora_core.models.identify import Identity
from lora_core.system import paths, windows
from lora_core.system.files import JsonMemo
from lora_core.webuis import detect, search
from lora_core.webuis.detect import Places

REMEMBERED = "models.json"
ENDINGS = (".safetensors", ".ckpt")
DEEPEST = 4  # folders below a webui's folder of models
MOST = 5_000  # files looked at in one folder


@dataclass(frozen=True)
class FoundModel:
    """A model on this computer. value: what to give as pretrained_model_name_or_path; place: whose folder it is in."""

    value: str
    name: str
    place: str
    bytes: int
    identity: Identity

    @property
    def family(self) -> str:
        return self.identity.family

    @property
    def can_train(self) -> bool:
        """Whether it can be trained on alone; its identity says why not."""
        return not self.identity.problem and not self.identity.lacking


def list_models(places: Places | None = None, hub_cache: Path | None = None, home: Path | None = None) -> list[FoundModel]:
    """Every model found, those that can be trained on first, by name.

    places: where to look for webuis; hub_cache: the hub's cache; home: the folder that remembers. Each by default this
    computer's own. What cannot be read is listed with its problem.
    """
    home = home or paths.config_folder()
    known = _Known(home / REMEMBERED)
    found: dict[str, FoundModel] = {}
    for webui in detect.find(places or search.here()):
        for folder in detect.checkpoint_folders(webui):
            for path in _models_in(folder):
                key = os.path.normcase(os.path.realpath(path))
                found.setdefault(key, _found(path, path.relative_to(folder).as_posix(), webui.kind, known))
    for repo, snapshot, size in _in_hub(hub_cache or _hub_cache()):
        with contextlib.suppress(UserError):
            found[repo] = FoundModel(repo, repo, "hub cache", size, identify.of_path(snapshot))
    known.write()
    return sorted(found.values(), key=lambda model: (not model.can_train, model.name.lower()))


def _found(path: Path, name: str, place: str, known: _Known) -> FoundModel:
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
        return FoundModel(str(path), name, place, size, _identity(path))
    about = path.stat()
    return FoundModel(str(path), name, place, about.st_size, known.identity(path, about.st_size, about.st_mtime_ns))


def _identity(path: Path) -> Identity:
    try:
        return identify.of_path(path)
    except UserError as problem:
        return Identity(Message("models.kind_unreadable"), problem=problem.message)


def _models_in(folder: Path) -> Iterator[Path]:
    """Checkpoints, and diffusers folders, at most DEEPEST folders down; links are followed, circles are not."""
    seen: set[str] = set()
    count = 0
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        depth = len(Path(place).relative_to(folder).parts)
        if real in seen or depth >= DEEPEST:
            folders.clear()
        if real in seen:
            continue
        seen.add(real)
        folders.sort()
        if INDEX in names:
            folders.clear()
            yield Path(place)
            continue
        for name in sorted(names):
            count += 1
            if count > MOST:
                return
            if name.lower().endswith(ENDINGS) and not name.startswith(".") and os.path.isfile(os.path.join(place, name)):
                yield Path(place, name)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _in_hub(cache: Path) -> Iterator[tuple[str, Path, int]]:
    """(id, snapshot, bytes) of the complete Stable Diffusion models in the cache."""
    for folder in sorted(cache.glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/")
        with contextlib.suppress(OSError, ValueError):  # never finished, or no such model: it is not there
            snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="utf-8").strip()
            index: Any = json.loads((snapshot / INDEX).read_text(encoding="utf-8"))
            there = [f"{part}/{file.name}" for part in PARTS for file in (snapshot / part).glob("*") if file.is_file()]
            files = choose(repo, there, index, (None, HALF)).files
            yield repo, snapshot, sum((snapshot / file).stat().st_size for file in files)


class _Known:
    """What files were, by path, size and time of change; kept in a file. Only this run's files are kept."""

    def __init__(self, file: Path):
        self._file = file
        self._now: dict[str, Any] = {}
        self._before: dict[str, Any] = JsonMemo(file).read(dict)

    def identity(self, path: Path, size: int, changed_ns: int) -> Identity:
        stamp = [__version__, size, changed_ns, _yaml_ns(path), windows.is_in_cloud(path)]
        entry = self._before.get(str(path))
        if not (isinstance(entry, dict) and entry.get("stamp") == stamp and (identity := _restored(entry))):
            identity = _identity(path)
        self._now[str(path)] = {"stamp": stamp, **identity.to_json()}
        return identity

    def write(self) -> None:
        if self._now != self._before:
            JsonMemo(self._file).write(self._now)


def _restored(entry: dict[str, Any]) -> Identity | None:
    try:
        return Identity.from_json({name: value for name, value in entry.items() if name != "stamp"})
    except ValueError:  # of another version
        return None


def _yaml_ns(path: Path) -> int:
    try:
        return path.with_suffix(".yaml").stat().st_mtime_ns
    except OSError:
        return 0
