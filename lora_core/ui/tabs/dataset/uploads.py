"""Choosing a dataset: the system's folder dialog, completion of a typed path, and pictures that are dropped."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from lora_core.dataset import fixes
from lora_core.dataset.listing import OTHER_SUFFIXES, PICTURE_SUFFIXES
from lora_core.errors import UserError
from lora_core.system.file_names import plain
from lora_core.system.files import WriteError, explain, write_bytes_whole

LARGEST_FILE = 64 * 2**20  # bytes of one dropped file
MOST_FILES = 2000  # of one drop
MOST_BYTES = 8 * 2**30  # of one drop
MOST_COMPLETIONS = 30
ENDINGS = (*PICTURE_SUFFIXES, *OTHER_SUFFIXES, ".txt")
_DIALOG = """
import sys, tkinter
from tkinter import filedialog
root = tkinter.Tk(); root.withdraw(); root.attributes("-topmost", True)
sys.stdout.buffer.write((filedialog.askdirectory(initialdir=sys.argv[1], title=sys.argv[2]) or "").encode("utf-8"))
"""


def can_browse() -> bool:
    """Whether there is a screen for the system's folder dialog, and something to show it with."""
    has_screen = sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_screen and importlib.util.find_spec("_tkinter") is not None


def browse(start: Path, title: str) -> str | None:
    """The folder chosen in the system's own dialog; "" when it was closed, None when there can be none.

    In a process of its own, for tkinter wants the main thread.
    """
    command = [sys.executable, "-c", _DIALOG, str(start), title]
    done = subprocess.run(command, capture_output=True, check=False)
    return None if done.returncode else done.stdout.decode("utf-8").strip()


def completions(typed: str) -> list[str]:
    """Folders whose path begins with what was typed, in any case."""
    parent, _, start = os.path.expanduser(typed).replace(os.sep, "/").rpartition("/")
    if not parent and not typed.startswith("/"):
        return []
    try:
        with os.scandir(f"{parent}/") as entries:
            found = [entry.path for entry in entries if _suits(entry, start)]
    except OSError:  # half-typed
        return []
    return [os.path.normpath(path) for path in sorted(found, key=str.casefold)[:MOST_COMPLETIONS]]


def _suits(entry: os.DirEntry[str], start: str) -> bool:
    is_hidden = entry.name.startswith(".") and not start.startswith(".")
    return entry.name.casefold().startswith(start.casefold()) and not is_hidden and entry.is_dir()


def new_folder(name: str) -> Path:
    """Where a dataset of that name lies: below the user's own Treino folder. Raises UserError for no name."""
    if not plain(name):
        raise UserError("The new dataset has no name: type one.")
    return Path.home() / "Treino" / plain(name)


def stage(folder: Path, batch: str, name: str, content: bytes) -> None:
    """Keep a dropped file below `folder`, not yet among its pictures.

    Raises:
        UserError: it is neither a picture nor a caption, or there are too many of them.
        WriteError: it cannot be kept.
    """
    path = Path(name.replace("\\", "/"))
    stem, ending = plain(path.stem), path.suffix.lower()
    if not stem or ending not in ENDINGS:
        raise UserError(f"{name} is neither a picture nor a caption.")
    place = _place(folder, batch)
    try:
        place.mkdir(parents=True, exist_ok=True)
        kept = [file.stat().st_size for file in place.iterdir()]
    except OSError as error:
        raise WriteError(explain(error, place)) from error
    if len(kept) >= MOST_FILES or sum(kept) + len(content) > MOST_BYTES:
        raise UserError(f"{MOST_FILES} files or {MOST_BYTES >> 30} GB are the most at once: drop the rest after these.")
    write_bytes_whole(place / f"{stem}{ending}", content)


def staged(folder: Path, batch: str) -> list[Path]:
    """What was kept by `stage`."""
    place = _place(folder, batch)
    return sorted(place.iterdir()) if place.is_dir() else []


def _place(folder: Path, batch: str) -> Path:
    if not re.fullmatch(r"[0-9a-f]{8,32}", batch):
        raise ValueError(batch)
    return folder / fixes.ADDED / batch
