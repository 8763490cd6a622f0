"""Which files of a folder are pictures: the same list, in the same order, on every system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.system import windows

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Pictures by name, but of kinds that webuis and trainers do not read: told, never passed over in silence.
OTHER_SUFFIXES = (".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".svg", ".jfif", ".psd", ".jxl", ".raw", ".dng")
MOST_FILES = 100_000  # whoever opens C:\ or / by mistake is told before an hour has passed


@dataclass(frozen=True)
class Listing:
    """What lies in a dataset folder and below it; hidden files and folders and links to folders are passed over."""

    pictures: tuple[Path, ...]
    others: tuple[Path, ...]  # files with OTHER_SUFFIXES
    folders: tuple[Path, ...]  # folders named like a picture
    closed: tuple[tuple[Path, str], ...]  # folders that cannot be listed, and why


def list_folder(folder: Path) -> Listing:
    """List `folder` and its sub-folders. Raises UserError when it is missing, a file, unreadable or far too large."""
    root = windows.reachable(folder, room=windows.LONGEST_PATH)  # what lies deeper may be longer
    if not root.exists():
        raise UserError("dataset.folder_missing", folder=folder)
    if not root.is_dir():
        raise UserError("dataset.folder_is_file", folder=folder)
    found: dict[str, list[Path]] = {"pictures": [], "others": [], "folders": []}
    closed: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        closed.append((folder / Path(error.filename).relative_to(root), error.strerror or str(error)))

    seen = 0
    for found_at, folders, files in os.walk(root, onerror=note):
        here = folder / Path(found_at).relative_to(root)
        seen += len(files) + len(folders)
        if seen > MOST_FILES:
            raise UserError("dataset.folder_large", folder=folder, most=MOST_FILES)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        found["folders"] += [Path(here, name) for name in folders if name.lower().endswith(PICTURE_SUFFIXES)]
        for name in files:
            # A leading dot also marks what macOS leaves beside each picture on foreign disks ("._000.png").
            if name.startswith("."):
                continue
            if name.lower().endswith(PICTURE_SUFFIXES):
                found["pictures"].append(Path(here, name))
            elif name.lower().endswith(OTHER_SUFFIXES):
                found["others"].append(Path(here, name))
    if any(path == folder for path, _ in closed):
        raise UserError("dataset.folder_closed", folder=folder, why=closed[0][1])
    ordered = {key: tuple(sorted(paths, key=lambda p: _order(p, folder))) for key, paths in found.items()}
    return Listing(ordered["pictures"], ordered["others"], ordered["folders"], tuple(sorted(closed)))


def _order(path: Path, folder: Path) -> tuple[str, str]:
    name = path.relative_to(folder).as_posix()
    return name.casefold(), name
