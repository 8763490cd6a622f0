"""Choose a path: the system's own dialog where there is a screen, and completion of what is typed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MOST = 30  # suggestions
_WAIT_S = 600.0  # a person may look for a while
# A process of its own: tkinter wants the main thread, which here is the server's.
_SCRIPT = """
import sys, tkinter
from tkinter import filedialog
root = tkinter.Tk()
root.withdraw()
root.attributes("-topmost", True)
title, start, kind = sys.argv[1:4]
if kind == "folder":
    path = filedialog.askdirectory(title=title, initialdir=start, mustexist=True)
else:
    path = filedialog.askopenfilename(title=title, initialdir=start, filetypes=[(kind, kind)])
sys.stdout.buffer.write((path or "").encode("utf-8"))
"""


def has_dialogs(platform: str = sys.platform, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a screen for the system's dialog, and something to show it with."""
    has_screen = platform in ("win32", "darwin") or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    return has_screen and importlib.util.find_spec("_tkinter") is not None


def choose(title: str, start: str, kind: str, command: tuple[str, ...] = (sys.executable, "-c", _SCRIPT)) -> str | None:
    """The path a person chooses; "" when they close the dialog, None where there can be none.

    kind: "folder", or such as "*.png". start: the folder to show first.
    """
    folder = start if os.path.isdir(start) else str(Path.home())
    try:
        done = subprocess.run(
            [*command, title, folder, kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_WAIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    except OSError:
        return None
    if done.returncode:
        return None
    chosen = done.stdout.decode("utf-8", "replace").strip()
    return os.path.normpath(chosen) if chosen else ""


def complete(typed: str, ending: str = "") -> list[str]:
    """Paths that begin with what was typed: folders, and files of one ending where one is given."""
    text = os.path.expanduser(typed.strip().strip('"'))
    if not text:
        return []
    folder, start = os.path.split(text)
    try:
        names = sorted(os.scandir(folder or "."), key=lambda entry: entry.name.casefold())
    except (OSError, ValueError):
        return []
    found = []
    for entry in names:
        if not entry.name.casefold().startswith(start.casefold()) or (entry.name.startswith(".") and not start):
            continue
        if _is_folder(entry) or (ending and entry.name.casefold().endswith(ending)):
            found.append(os.path.join(folder, entry.name))
        if len(found) == MOST:
            break
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
