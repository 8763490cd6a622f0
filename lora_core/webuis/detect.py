"""Webuis on this computer: what their folders look like, and where each keeps its LoRAs.

Pure functions over the folders they are given; `search.py` knows which folders this computer has.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.errors import UserError

PLAIN = "Folder"


@dataclass(frozen=True)
class Kind:
    """A kind of webui. `api`: whether it can be asked to refresh its list; `hint`: the key of what to do next there."""

    name: str
    matches: Callable[[Path], bool]
    lora_folder: Callable[[Path], Path]
    hint: str
    api: bool = False


@dataclass(frozen=True)
class WebUI:
    """A webui found on disk. The LoRA folder need not exist yet; `hint` takes `name` of a LoRA and `folder`."""

    kind: str
    folder: Path
    lora_folder: Path
    hint: str
    api: bool = False
    port: int | None = None  # the one it is started with, where its start script names one


@dataclass(frozen=True)
class Places:
    """Where to look: folders whose children may be webuis, the app's own folder, and choices of before."""

    roots: tuple[Path, ...] = ()
    near: Path | None = None
    remembered: tuple[Path, ...] = ()


def find(places: Places) -> list[WebUI]:
    """Every webui there, remembered ones first; those that share a LoRA folder are listed once."""
    found: dict[str, WebUI] = {}
    for folder in _candidates(places):
        webui = recognise(folder)
        if webui is not None:
            found.setdefault(os.path.normcase(os.path.realpath(webui.lora_folder)), webui)
    return list(found.values())


def recognise(folder: Path) -> WebUI | None:
    """The webui in exactly this folder, told by its own files; None when it is none."""
    for kind in KINDS:
        if kind.matches(folder):
            loras = kind.lora_folder(folder)
            return WebUI(kind.name, folder, loras, kind.hint, kind.api, _port(folder))
    return None


def at(folder: Path) -> WebUI:
    """The webui a person means by a folder: the webui itself, what it was unpacked into, or its LoRA folder.

    Raises:
        UserError: it is neither; what would be is named.
    """
    if not folder.is_dir():
        raise UserError("webuis.no_folder", folder=folder)
    for candidate in (folder, *(folder / name for name in _INNER)):
        if (webui := recognise(candidate)) is not None:
            return webui
    if re.fullmatch(r"loras?|lycoris", folder.name, re.IGNORECASE):
        return WebUI("LoRA folder", folder, folder, "webuis.hint_lorafolder", api=True)
    raise UserError("webuis.no_webui", folder=folder, kinds=[kind.name for kind in KINDS])


def folder_of_loras(folder: Path) -> WebUI:
    """Any folder as a place for LoRAs, for people whose webui Treino does not know."""
    return WebUI(PLAIN, folder, folder, "webuis.hint_folder")


_INNER = ("webui", "ComfyUI", "Fooocus", "app", "Data")
# Folders people put programs into: their children are looked at too. Compared without case, spaces and signs.
_SHELVES = {
    "ai", "sd", "ml", "art", "aiart", "stablediffusion", "diffusion", "apps", "programs", "tools", "git", "github",
    "repos", "src", "code", "projects", "downloads", "documents", "desktop", "opt", "portable", "games", "workspace",
}  # fmt: skip


def _candidates(places: Places) -> Iterator[Path]:
    yield from places.remembered
    if places.near:
        yield from places.near.parents
        for folder in (*places.near.parents,)[:2]:
            yield from _children_and_inner(folder)
    for root in places.roots:
        yield root
        for child in _folders(root):
            yield from _with_inner(child)
            if re.sub(r"[^a-z]", "", child.name.lower()) in _SHELVES:
                yield from _children_and_inner(child)


def _children_and_inner(folder: Path) -> Iterator[Path]:
    for child in _folders(folder):
        yield from _with_inner(child)


def _with_inner(folder: Path) -> Iterator[Path]:
    """A folder, what a portable package holds, and the packages of Stability Matrix and Pinokio."""
    yield folder
    for inner in (folder / name for name in _INNER):
        if inner.is_dir():
            yield inner
    for packages in (folder / "Packages", folder / "Data" / "Packages"):
        yield from _folders(packages)
    for repository in _folders(folder / "api"):  # Pinokio: api/<repository>.git/app
        yield repository
        yield repository / "app"


def _folders(folder: Path) -> list[Path]:
    """Visible subfolders by name; none where reading is not allowed or nothing is there."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[:1] not in ".$" and path.is_dir())
    except OSError:
        return []


def _has(folder: Path, *names: str) -> bool:
    try:
        return all((folder / name).exists() for name in names)
    except OSError:
        return False


def _a1111_loras(folder: Path) -> Path:
    """models/Lora, unless the start script says --lora-dir or --data-dir."""
    arguments = _start_arguments(folder)
    if named := _argument(arguments, "lora-dirs?"):
        return _under(folder, named)
    data = _argument(arguments, "data-dir")
    return (_under(folder, data) if data else folder) / "models" / "Lora"


def _sdnext_loras(folder: Path) -> Path:
    """SD.Next keeps the choice in config.json."""
    named = _json(folder / "config.json").get("lora_dir")
    return _under(folder, named) if isinstance(named, str) and named else _a1111_loras(folder)


def _start_arguments(folder: Path) -> str:
    """The uncommented lines of the script that a user edits to start A1111 or Forge with options."""
    lines: list[str] = []
    for name in ("webui-user.bat", "webui-user.sh", "webui-macos-env.sh"):
        text = _text(folder / name)
        lines += [line for line in text.splitlines() if not re.match(r"\s*(#|::|@?rem\b)", line, re.IGNORECASE)]
    return "\n".join(lines)


def _argument(text: str, flag: str) -> str:
    match = re.search(rf"--{flag}[ =]+(?:\\?\"([^\"]+?)\\?\"|'([^']+)'|([^\s\"']+))", text)
    return next((part for part in match.groups() if part), "") if match else ""


def _port(folder: Path) -> int | None:
    port = _argument(_start_arguments(folder), "port")
    return int(port) if port.isdecimal() else None


def _comfy_loras(folder: Path) -> Path:
    """models/loras, unless extra_model_paths.yaml makes another folder the default, or that is the only one there."""
    own = folder / "models" / "loras"
    extra = [(is_default, path) for is_default, path in _extra_paths(folder, "loras") if path.is_dir()]
    defaults = [path for is_default, path in extra if is_default]
    return (defaults or [own] if own.is_dir() or not extra else [path for _, path in extra])[0]


def _extra_paths(folder: Path, key: str) -> Iterator[tuple[bool, Path]]:
    """(is_default, folder) of every `key` entry ("loras", "checkpoints") of ComfyUI's extra_model_paths.yaml."""
    import yaml  # type: ignore[import-untyped]  # comes with gradio and huggingface_hub

    file = folder / "extra_model_paths.yaml"
    try:
        sections = yaml.safe_load(_text(file))
    except yaml.YAMLError:  # ComfyUI does not start with it either; its own folder is then the best answer
        return
    for section in sections.values() if isinstance(sections, dict) else ():
        if isinstance(section, dict) and isinstance(section.get(key), str):
            base = _under(folder, os.path.expandvars(os.path.expanduser(str(section.get("base_path") or "."))))
            for line in section[key].splitlines():
                if line.strip():
                    yield bool(section.get("is_default")), _under(base, line.strip())


def _fooocus_loras(folder: Path) -> Path:
    """models/loras, unless config.txt (JSON) says path_loras, one folder or several."""
    named = _json(folder / "config.txt").get("path_loras")
    first = named[0] if isinstance(named, list) and named else named
    return _under(folder, first) if isinstance(first, str) and first else folder / "models" / "loras"


def _swarm_loras(folder: Path) -> Path:
    """Models/Lora, unless Data/Settings.fds says ModelRoot or SDLoraFolder; each may list several."""
    text = _text(folder / "Data" / "Settings.fds")
    found = dict(re.findall(r"^\s*(ModelRoot|SDLoraFolder):[ \t]*(.+?)\s*$", text, re.MULTILINE))
    root = _under(folder, found.get("ModelRoot", "Models").split(";")[0])
    return _under(root, found.get("SDLoraFolder", "Lora").split(";")[0])


def checkpoint_folders(webui: WebUI) -> list[Path]:
    """The folders in which a webui keeps whole models, those that are there."""
    find: dict[str, Callable[[Path], list[Path]]] = {
        "ComfyUI": _comfy_checkpoints, "SwarmUI": _swarm_checkpoints, "Fooocus": _fooocus_checkpoints,
        "InvokeAI": lambda folder: [folder / "models"],
        "Stability Matrix": lambda folder: [folder / "Models" / "StableDiffusion"],
    }  # fmt: skip
    return [path for path in dict.fromkeys(find.get(webui.kind, _a1111_checkpoints)(webui.folder)) if path.is_dir()]


def _a1111_checkpoints(folder: Path) -> list[Path]:
    """models/Stable-diffusion, also of --data-dir, and --ckpt-dir; SD.Next names it in config.json."""
    arguments = _start_arguments(folder)
    named = [_argument(arguments, "ckpt-dirs?"), _json(folder / "config.json").get("ckpt_dir")]
    data = _argument(arguments, "data-dir")
    homes = [folder, *([_under(folder, data)] if data else [])]
    given = [_under(folder, name) for name in named if isinstance(name, str) and name]
    return [*given, *(home / "models" / "Stable-diffusion" for home in homes)]


def _comfy_checkpoints(folder: Path) -> list[Path]:
    return [folder / "models" / "checkpoints", *(path for _, path in _extra_paths(folder, "checkpoints"))]


def _fooocus_checkpoints(folder: Path) -> list[Path]:
    named = _json(folder / "config.txt").get("path_checkpoints")
    given = named if isinstance(named, list) else [named]
    own = folder / "models" / "checkpoints"
    return [*(_under(folder, name) for name in given if isinstance(name, str) and name), own]


def _swarm_checkpoints(folder: Path) -> list[Path]:
    """Models/Stable-Diffusion, or as Data/Settings.fds says; roots and folders may be several."""
    text = _text(folder / "Data" / "Settings.fds")
    found = dict(re.findall(r"^\s*(ModelRoot|SDModelFolder):[ \t]*(.+?)\s*$", text, re.MULTILINE))
    roots = [_under(folder, root) for root in found.get("ModelRoot", "Models").split(";")]
    return [_under(root, name) for root in roots for name in found.get("SDModelFolder", "Stable-Diffusion").split(";")]


def _under(folder: Path, name: str) -> Path:
    """A path written in a file of the folder: as it is when absolute, else below the folder."""
    return folder / Path(name.replace("\\", "/") if os.name != "nt" else name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(_text(path) or "{}")
    except ValueError:  # the webui rewrites a damaged file with its defaults, which are then right here too
        return {}
    return table if isinstance(table, dict) else {}


def _is_a1111(folder: Path) -> bool:
    return _has(folder, "webui.py", "modules", "extensions-builtin")


def _is_comfy(folder: Path) -> bool:
    """The code, or the folder the desktop app keeps its models in."""
    return _has(folder, "main.py", "nodes.py", "comfy") or _has(folder, "models/loras", "custom_nodes", "user", "input")


KINDS = (
    Kind(
        "SwarmUI", lambda f: _has(f, "SwarmUI.sln") or _has(f, "src/SwarmUI.csproj"), _swarm_loras,
        "webuis.hint_swarmui",
    ),
    Kind("Forge", lambda f: _has(f, "webui.py", "modules_forge"), _a1111_loras, "webuis.hint_forge", api=True),
    Kind(
        "SD.Next", lambda f: _has(f, "webui.py", "installer.py", "modules"), _sdnext_loras, "webuis.hint_sdnext", api=True,
    ),
    Kind("AUTOMATIC1111", _is_a1111, _a1111_loras, "webuis.hint_automatic1111", api=True),
    Kind(
        "Fooocus", lambda f: _has(f, "fooocus_version.py"), _fooocus_loras,
        "webuis.hint_fooocus",
    ),
    Kind("ComfyUI", _is_comfy, _comfy_loras, "webuis.hint_comfyui"),
    Kind(
        # Its models folder is managed: what is put there by hand is not seen. `autoimport` was read at start until 3.7.
        "InvokeAI", lambda f: _has(f, "invokeai.yaml") or _has(f, "databases/invokeai.db"),
        lambda f: f / "autoimport" / "lora",
        "webuis.hint_invokeai",
    ),
    Kind(
        "Stability Matrix", lambda f: _has(f, "Packages", "Models", "settings.json"), lambda f: f / "Models" / "Lora",
        "webuis.hint_stabilitymatrix", api=True,
    ),
)  # fmt: skip
