"""Show a folder in the system's file manager."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from lora_core.errors import UserError

Opener = Callable[[Path], None]


def open_folder(folder: Path, allowed: Iterable[Path], opener: Opener | None = None) -> None:
    """Open a folder that is one of `allowed` or lies below one.

    Raises:
        UserError: it is no folder of ours, not there, or the system has no file manager.
    """
    real = Path(os.path.realpath(folder))
    if not any(real.is_relative_to(os.path.realpath(place)) for place in allowed):
        raise UserError("ui.not_our_folder", folder=folder)
    if not real.is_dir():
        raise UserError("ui.folder_gone", folder=folder)
    try:
        (opener or _system_opener)(real)
    except OSError as cause:
        raise UserError("ui.no_file_manager", why=cause.strerror or cause, folder=folder) from cause


def _system_opener(folder: Path) -> None:
    if sys.platform == "win32":
        os.startfile(folder)
    else:
        command = "open" if sys.platform == "darwin" else "xdg-open"
        process = subprocess.Popen([command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        threading.Thread(target=process.wait, daemon=True).start()  # someone has to hear that it ended
