"""Names that every system takes for a LoRA, and every webui in a prompt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from lora_core.errors import UserError
from lora_core.messages import Message

# What may be wrong with a name, by kind; `system.name_...` says it.
PROBLEMS = ("empty", "sign", "ends", "device", "long")
# Devices to Windows, whatever the ending.
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}
_FORBIDDEN = '<>:"/\\|?*'
_MOST_BYTES = 200  # leaves room for endings and for the temporary name within the 255 of most file systems
_MOST_WINDOWS = 259  # MAX_PATH without its ending zero


def check_name(name: str, folder: Path, is_windows: bool = os.name == "nt") -> None:
    """Whether `name` plus an ending may be a file in `folder`, here and where the file may be copied later.

    Raises:
        UserError: it may not; the sentence says why and what would do.
    """
    if problem := problem_of(name):
        kind, value = problem
        raise UserError("system.bad_name", name=name, problem=Message(f"system.name_{kind}", value=value, most=_MOST_BYTES))
    longest = len(str(folder.absolute() / f"{name}.safetensors"))
    if is_windows and longest > _MOST_WINDOWS:
        raise UserError("system.name_too_long_here", path=folder / name, length=longest, most=_MOST_WINDOWS)


def problem_of(name: str) -> tuple[str, str] | None:
    """One of PROBLEMS and the value it speaks of; None when the name will do."""
    if not name.strip(" "):
        return "empty", ""
    if odd := [c for c in name if not _is_allowed(c)]:
        return "sign", odd[0]
    if name != name.strip() or name.endswith("."):
        return "ends", ""
    if name.split(".")[0].rstrip().upper() in RESERVED:
        return "device", name.split(".")[0]
    return ("long", str(len(name.encode()))) if len(name.encode()) > _MOST_BYTES else None


def _is_allowed(character: str) -> bool:
    return character not in _FORBIDDEN and character.isprintable()


def plain(text: str) -> str:
    """A text made into a name that passes: other signs become _, ends are trimmed; "" when nothing is left."""
    kept = "".join(c if _is_allowed(c) else "_" for c in text).strip(" ._")
    while len(kept.encode()) > _MOST_BYTES:
        kept = kept[:-1].rstrip(" .")
    return f"{kept}_" if kept.split(".")[0].rstrip().upper() in RESERVED else kept


def numbered(stem: str, ending: str = "", joint: str = " ") -> Iterator[str]:
    """The name, then the name with 2, 3, ... behind its stem."""
    yield f"{stem}{ending}"
    yield from (f"{stem}{joint}{number}{ending}" for number in count(2))


def next_free(stem: str, is_taken: Callable[[str], bool], ending: str = "", joint: str = " ") -> str:
    """The name, with the first number behind its stem with which it is not taken where it is."""
    return next(name for name in numbered(stem, ending, joint) if not is_taken(name))
