"""Which folders of this computer may hold webuis, and which webuis were chosen before."""

from __future__ import annotations

import os
import string
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_core.install.bootstrap import ROOT
from lora_core.system import paths
from lora_core.system.files import JsonMemo
from lora_core.webuis.detect import Places

_REMEMBERED = "webuis.json"
_MOST_REMEMBERED = 8


def here(near: Path | None = None) -> Places:
    """The places of this computer; `near` is the app's folder when it is not the one this file is in."""
    home = Path.home()
    roots = places_of(sys.platform, home, os.environ, _drives() if sys.platform == "win32" else ())
    return Places(tuple(dict.fromkeys(roots)), near or ROOT, tuple(remembered(paths.config_folder())))


def places_of(platform: str, home: Path, environment: Mapping[str, str], drives: tuple[Path, ...]) -> Iterator[Path]:
    """Folders whose children may be webuis; what other installers say of themselves comes first."""
    roaming = Path(environment.get("APPDATA") or paths.config_home(platform, home, environment))
    yield from _stability_matrix(roaming)
    yield from _named_folder(roaming / "Pinokio" / "config.json", "home")
    yield from _comfy_desktop(roaming)
    yield from (home, home / "Documents", home / "Desktop", home / "Downloads", home / "pinokio")
    if platform == "win32":
        local = Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
        yield from (roaming, local, local / "Programs", *drives)
    elif platform == "darwin":
        yield from (Path("/Applications"), *_children(Path("/Volumes")))
    else:
        yield from (Path("/opt"), Path("/srv"), Path("/data"), Path("/workspace"))
        for mounts in (Path("/mnt"), Path("/media") / home.name, Path("/run/media") / home.name):
            yield from _children(mounts)


def remembered(config: Path) -> list[Path]:
    """Webui folders chosen before, the last one first."""
    return [Path(folder) for folder in JsonMemo(config / _REMEMBERED).read(list) if isinstance(folder, str)]


def remember(config: Path, folder: Path) -> None:
    """Put a webui folder first among those chosen before; being a convenience, it fails in silence."""
    chosen = [folder, *(other for other in remembered(config) if other != folder)][:_MOST_REMEMBERED]
    JsonMemo(config / _REMEMBERED).write([str(path) for path in chosen])


def _stability_matrix(roaming: Path) -> Iterator[Path]:
    """Its data folder: the one it was told to use, or its own beside its settings."""
    for folder in _named_folder(roaming / "StabilityMatrix" / "library.json", "LibraryPath"):
        yield folder
        yield folder / "Packages"
    yield roaming / "StabilityMatrix" / "Packages"


def _comfy_desktop(roaming: Path) -> Iterator[Path]:
    """The desktop app writes down where its models are."""
    import yaml  # type: ignore[import-untyped]  # comes with gradio and huggingface_hub

    try:
        sections = yaml.safe_load((roaming / "ComfyUI" / "extra_models_config.yaml").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    for section in sections.values() if isinstance(sections, dict) else ():
        if isinstance(section, dict) and isinstance(section.get("base_path"), str):
            yield Path(section["base_path"])


def _named_folder(file: Path, key: str) -> Iterator[Path]:
    table = JsonMemo(file).read(dict)
    if isinstance(table.get(key), str):
        yield Path(table[key])


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _drives() -> tuple[Path, ...]:
    """Windows' own disks; network drives and empty card readers can block for half a minute each."""
    if sys.platform != "win32":
        return ()
    import ctypes

    removable, fixed = 2, 3
    letters = [f"{letter}:\\" for letter in string.ascii_uppercase[2:]]
    kinds = {letter: ctypes.windll.kernel32.GetDriveTypeW(letter) for letter in letters}
    return tuple(Path(letter) for letter, kind in kinds.items() if kind in (removable, fixed))
