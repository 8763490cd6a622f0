"""Which files the data of a page may name: those that were uploaded, and no others."""

from __future__ import annotations

import os
from pathlib import Path


def lies_below(name: str, folder: Path) -> bool:
    """Whether `name` leads to something below a folder; links that lead out of it do not."""
    real = folder.resolve()
    # First by the letters alone: on Windows, resolving \\\\host\\share would greet that host with a password hash.
    if "\0" in name or not any(Path(os.path.abspath(name)).is_relative_to(place) for place in (folder.absolute(), real)):
        return False
    return Path(name).resolve().is_relative_to(real)


def refuse_strange_files(data: object, uploads: Path) -> None:
    """Raise ValueError where the data of an event name a file that was not uploaded.

    Gradio looks for files at any depth of them, copies what it finds to its uploads or fetches it from the address that
    is given, and would hand the copy out; its own check is only made in programs that it has launched itself.
    """
    left = [data]
    while left:  # not recursive: data may be nested as deep as they like
        now = left.pop()
        if isinstance(now, dict):
            if "path" in now and not (isinstance(now["path"], str) and lies_below(now["path"], uploads)):
                raise ValueError("A file was named that nobody uploaded.")
            left += now.values()
        elif isinstance(now, list | tuple):
            left += now
